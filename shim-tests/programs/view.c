/* What NVML says of who uses the first GPU, through every call that tells it: a line each.
 *
 *     CALL STATUS COUNT PID:FIGURE …     FIGURE: bytes; percent of the SMs for utilization
 *     rates STATUS GPU                   in percent; `domains` and `samples` likewise, of samples the highest
 *     accounts-PID STATUS BYTES          the most that it held, for each PID among the arguments; `accounts_v2-PID` likewise
 *
 * `CALL-room-N` is a call whose array has room for N. It makes no context. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct opaque_nvml_device *nvmlDevice_t;
typedef struct { unsigned pid; unsigned long long bytes; } info_v1;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } info_v2;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; unsigned long long protected_bytes; } detail;
typedef struct { unsigned version, mode, count; detail *array; } detail_list;
typedef struct { unsigned pid; unsigned long long time; unsigned sm, memory, encoder, decoder; } sample;
typedef struct { unsigned long long time; unsigned pid, sm, memory, encoder, decoder, jpeg, optical_flow; } utilization;
typedef struct { unsigned version, count; unsigned long long last_seen; utilization *array; } utilization_list;
typedef struct { unsigned gpu, memory; } rates;
typedef struct { unsigned flags; struct { unsigned present, percent, rises_at, falls_at; } domain[8]; } domains;
typedef struct { unsigned long long time; union { unsigned whole; unsigned long long room; } value; } value_sample;
typedef struct { unsigned gpu, memory; unsigned long long bytes_max, time, begun; unsigned running, reserved[5]; } account;
typedef struct {
    unsigned pid, running, gpu, memory;
    unsigned long long bytes_max;
    unsigned samples;
    unsigned long long gpu_sum, memory_sum, time, begun;
} account_v2;
enum { ROOM = 64, SAMPLES_ROOM = 256, GPU_SAMPLES = 1, MODE_COMPUTE = 0, MODE_GRAPHICS = 1, MODE_ALL = 3 };

extern unsigned nvmlInit_v2(void);
extern unsigned nvmlDeviceGetHandleByIndex_v2(unsigned, nvmlDevice_t *);
#define LISTS_V1(X) X(nvmlDeviceGetComputeRunningProcesses) X(nvmlDeviceGetGraphicsRunningProcesses) X(nvmlDeviceGetMPSComputeRunningProcesses)
#define LISTS_V2(X) \
    X(nvmlDeviceGetComputeRunningProcesses_v2) X(nvmlDeviceGetGraphicsRunningProcesses_v2) X(nvmlDeviceGetMPSComputeRunningProcesses_v2) \
    X(nvmlDeviceGetComputeRunningProcesses_v3) X(nvmlDeviceGetGraphicsRunningProcesses_v3) X(nvmlDeviceGetMPSComputeRunningProcesses_v3)
#define DECLARE_V1(name) extern unsigned name(nvmlDevice_t, unsigned *, info_v1 *);
#define DECLARE_V2(name) extern unsigned name(nvmlDevice_t, unsigned *, info_v2 *);
LISTS_V1(DECLARE_V1)
LISTS_V2(DECLARE_V2)
extern unsigned nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t, detail_list *);
extern unsigned nvmlDeviceGetProcessUtilization(nvmlDevice_t, sample *, unsigned *, unsigned long long);
extern unsigned nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t, utilization_list *);
extern unsigned nvmlDeviceGetUtilizationRates(nvmlDevice_t, rates *);
extern unsigned nvmlDeviceGetDynamicPstatesInfo(nvmlDevice_t, domains *);
extern unsigned nvmlDeviceGetSamples(nvmlDevice_t, unsigned, unsigned long long, unsigned *, unsigned *, value_sample *);
extern unsigned nvmlDeviceGetAccountingPids(nvmlDevice_t, unsigned *, unsigned *);
extern unsigned nvmlDeviceGetAccountingStats(nvmlDevice_t, unsigned, account *);
extern unsigned nvmlDeviceGetAccountingStats_v2(nvmlDevice_t, account_v2 *);

static nvmlDevice_t board;

#define SAY(name, status, count, rows, figure) \
    do { \
        printf("%s %u %u", name, status, count); \
        for (unsigned at = 0; !(status) && at < (count); at++) \
            printf(" %u:%llu", (rows)[at].pid, (unsigned long long)(rows)[at].figure); \
        printf("\n"); \
    } while (0)

#define LIST(type, name, room, array) \
    do { \
        static type rows[ROOM]; \
        unsigned count = room, status; \
        memset(rows, 0, sizeof rows); \
        status = name(board, &count, array); \
        SAY(room == ROOM ? #name : #name "-room-" #room, status, count, rows, bytes); \
    } while (0);

#define LIST_V1(name) LIST(info_v1, name, ROOM, rows)
#define LIST_V2(name) LIST(info_v2, name, ROOM, rows)

static void say_details(const char *name, unsigned mode)
{
    detail rows[ROOM] = { 0 };
    detail_list list = { .version = sizeof list | 1 << 24, .mode = mode, .count = ROOM, .array = rows };
    unsigned status = nvmlDeviceGetRunningProcessDetailList(board, &list);
    SAY(name, status, list.count, rows, bytes);
}

static void say_utilization(void)
{
    sample samples[ROOM] = { 0 };
    utilization rows[ROOM] = { 0 };
    utilization_list list = { .version = sizeof list | 1 << 24, .count = ROOM, .array = rows };
    rates board_rates = { 0 };
    unsigned count = ROOM, status = nvmlDeviceGetProcessUtilization(board, samples, &count, 0);
    SAY("nvmlDeviceGetProcessUtilization", status, status ? 0 : count, samples, sm);
    status = nvmlDeviceGetProcessesUtilizationInfo(board, &list);
    SAY("nvmlDeviceGetProcessesUtilizationInfo", status, status ? 0 : list.count, rows, sm);
    status = nvmlDeviceGetUtilizationRates(board, &board_rates);
    printf("rates %u %u\n", status, board_rates.gpu);
}

static void say_board(void)
{
    domains board_domains = { 0 };
    value_sample samples[SAMPLES_ROOM];
    unsigned type = 99, count = SAMPLES_ROOM, highest = 0, status = nvmlDeviceGetDynamicPstatesInfo(board, &board_domains);
    printf("domains %u %u\n", status, board_domains.domain[0].percent);
    status = nvmlDeviceGetSamples(board, GPU_SAMPLES, 0, &type, &count, samples);
    for (unsigned at = 0; !status && at < count; at++)
        if (samples[at].value.whole > highest)
            highest = samples[at].value.whole;
    printf("samples %u %u\n", status, highest);
}

static void say_accounts(unsigned pid)
{
    account stats = { 0 };
    account_v2 stats_v2 = { .pid = pid };
    unsigned status = nvmlDeviceGetAccountingStats(board, pid, &stats);
    printf("accounts-%u %u %llu\n", pid, status, stats.bytes_max);
    status = nvmlDeviceGetAccountingStats_v2(board, &stats_v2);
    printf("accounts_v2-%u %u %llu\n", pid, status, stats_v2.bytes_max);
}

int main(int count_of_words, char **words)
{
    unsigned pids[ROOM], count = ROOM, status;
    if (nvmlInit_v2() || nvmlDeviceGetHandleByIndex_v2(0, &board))
        return 70;
    LISTS_V1(LIST_V1)
    LISTS_V2(LIST_V2)
    LIST(info_v2, nvmlDeviceGetComputeRunningProcesses_v3, 0, NULL)
    LIST(info_v2, nvmlDeviceGetComputeRunningProcesses_v3, 1, rows)
    LIST(info_v2, nvmlDeviceGetComputeRunningProcesses_v3, 2, rows)
    say_details("details-compute", MODE_COMPUTE);
    say_details("details-graphics", MODE_GRAPHICS);
    say_details("details-all", MODE_ALL);
    say_utilization();
    say_board();
    status = nvmlDeviceGetAccountingPids(board, &count, pids);
    printf("nvmlDeviceGetAccountingPids %u %u", status, status ? 0 : count);
    for (unsigned at = 0; !status && at < count; at++)
        printf(" %u:0", pids[at]);
    printf("\n");
    for (int word = 1; word < count_of_words; word++)
        say_accounts((unsigned)atoi(words[word]));
    return 0;
}
