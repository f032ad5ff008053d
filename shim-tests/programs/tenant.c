/* A program that does as it is told: one line in, one line out.
 *
 *     tenant DOOR
 *
 * Every answer begins with a driver status, unless the command says otherwise. It ends with its standard input.
 *
 *     init                                    start
 *     context [ORDINAL]                       start, make the primary context of a device current
 *     leave                                   give the primary context back
 *     on ORDINAL                              let cuMemCreate allocate on this device
 *     alloc NAME KIND BYTES                   status, bytes as the program can know them
 *     free NAME                               status; the name stays known, so that it can be freed again
 *     map NAME BYTES | unmap NAME             maps memory of cuMemCreate and fills it | ends that; status
 *     free-address NUMBER
 *     info | total | nvml                     status, then free and total | total | NVML's total, free, used by v1 and by v2
 *     kernel TRIPS                            loads the kernel that `launch` launches: a loop of so many trips, in a grid that
 *                                             the device holds at once
 *     doomed trap|assertion                   the same, but the kernel faults
 *     measure                                 status, nanoseconds that the kernel takes on an idle device
 *     launch HOW COUNT                        COUNT times kernel|ex|cooperative|graph|capture|beside; status, or the first that failed.
 *                                             beside: on several streams in turn, in a grid that leaves room for the others
 *     capture COUNT                           captures COUNT launches and drops the graph; status
 *     churn SEED ROUNDS UNIT UNITS_MAX        allocates 1 to UNITS_MAX units of bytes, and frees, at random, then frees all;
 *                                             counts: granted, refused, other
 *     stir SEED ROUNDS UNIT UNITS_MAX         the same, but keeps what it has until the next `stir`
 *     threads COUNT ROUNDS BYTES              each allocates, launches, frees; counts: fine, refused, other
 *     free-twice KIND ROUNDS BYTES            two threads free each block; counts of rounds in which neither did, one, both
 *     end-contexts ROUNDS                     a thread allocates in each context until another ends it; status
 *     init-threads COUNT                      calls cuInit from COUNT threads at once; each one's status
 *     fork COMMAND[; COMMAND …]               a child does them; its answers, with `; ` between, without a status
 *     orphan                                  a child that does nothing until standard input ends; its pid
 *     become                                  starts anew by exec; 0, from its successor
 *     pid
 *
 * and what reserves.h names.                */
#include "races.h"
#include "reserves.h"
#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCKS_MAX 64
#define ANSWER_MAX 4096
#define KERNEL_MULTIPLICATIONS 16
#define KERNEL_BLOCKS_PER_SM 4
#define STREAMS_BESIDE 4
#define STREAM_NON_BLOCKING 1 /* cuda.h */

static struct block blocks[BLOCKS_MAX];
#define SUCCESSOR "TENANT_IS_A_SUCCESSOR"

static char **arguments;
static CUcontext context;
static CUfunction work_kernel;
static unsigned grid = 1, seed = 3;
static void *work_params[] = { &seed };

static struct block *find_block(const char *name, int make)
{
    for (struct block *block = blocks; block < blocks + BLOCKS_MAX; block++) {
        if (!strcmp(block->name, name))
            return block;
        if (!*block->name && make) {
            snprintf(block->name, sizeof block->name, "%s", name);
            return block;
        }
    }
    fail("no block is called %s, or there are too many", name);
}

static const struct kind *find_kind(const char *name)
{
    for (size_t at = 0; at < sizeof KINDS / sizeof *KINDS; at++)
        if (!strcmp(KINDS[at].name, name))
            return &KINDS[at];
    fail("no allocator is called %s", name);
}

/* Commands. Each writes its answer. */

static void answer_status(char *answer, CUresult status)
{
    snprintf(answer, ANSWER_MAX, "%u", status);
}

static void do_init(char *answer, char *rest)
{
    (void)rest;
    answer_status(answer, CU(cuInit)(0));
}

static CUresult make_context(int ordinal)
{
    CUresult status = CU(cuInit)(0);
    status = status ? status : CU(cuDeviceGet)(&device, ordinal);
    status = status ? status : CU(cuDevicePrimaryCtxRetain)(&context, device);
    status = status ? status : CU(cuCtxSetCurrent)(context);
    return status ? status : CU(cuStreamCreate)(&stream, 0);
}

static void do_context(char *answer, char *rest)
{
    answer_status(answer, make_context(atoi(rest)));
}

static void do_leave(char *answer, char *rest)
{
    (void)rest;
    answer_status(answer, CU(cuDevicePrimaryCtxRelease_v2)(device));
}

static void do_on(char *answer, char *rest)
{
    answer_status(answer, CU(cuDeviceGet)(&device, atoi(rest)));
}

static void do_alloc(char *answer, char *rest)
{
    char name[32], kind[64];
    size_t bytes = 0, charged = 0;
    if (sscanf(rest, "%31s %63s %zu", name, kind, &bytes) != 3)
        fail("alloc NAME KIND BYTES, not %s", rest);
    struct block *block = find_block(name, 1);
    block->kind = find_kind(kind);
    CUresult status = block->kind->allocate(block, bytes, &charged);
    snprintf(answer, ANSWER_MAX, "%u %zu", status, status ? 0 : charged);
}

static void do_free(char *answer, char *rest)
{
    struct block *block = find_block(rest, 0);
    answer_status(answer, block->kind->release(block));
}

static void do_map(char *answer, char *rest)
{
    char name[32];
    size_t bytes = 0;
    if (sscanf(rest, "%31s %zu", name, &bytes) != 2)
        fail("map NAME BYTES, not %s", rest);
    answer_status(answer, map_window(find_block(name, 0), bytes));
}

static void do_unmap(char *answer, char *rest)
{
    answer_status(answer, unmap_window(find_block(rest, 0)));
}

static void do_free_address(char *answer, char *rest)
{
    answer_status(answer, CU(cuMemFree_v2)(strtoull(rest, NULL, 0)));
}

static void do_info(char *answer, char *rest)
{
    size_t free_bytes = 0, total_bytes = 0;
    (void)rest;
    CUresult status = CU(cuMemGetInfo_v2)(&free_bytes, &total_bytes);
    snprintf(answer, ANSWER_MAX, "%u %zu %zu", status, free_bytes, total_bytes);
}

static void do_total(char *answer, char *rest)
{
    size_t total_bytes = 0;
    (void)rest;
    CUresult status = CU(cuDeviceTotalMem_v2)(&total_bytes, device);
    snprintf(answer, ANSWER_MAX, "%u %zu", status, total_bytes);
}

static void do_nvml(char *answer, char *rest)
{
    nvmlDevice_t board = NULL;
    nvmlMemory_t v1 = { 0 };
    nvmlMemory_v2_t v2 = { .version = NVML_MEMORY_V2 };
    (void)rest;
    CUresult status = NVML(nvmlInit_v2)();
    status = status ? status : NVML(nvmlDeviceGetHandleByIndex_v2)(0, &board);
    status = status ? status : NVML(nvmlDeviceGetMemoryInfo)(board, &v1);
    status = status ? status : NVML(nvmlDeviceGetMemoryInfo_v2)(board, &v2);
    snprintf(answer, ANSWER_MAX, "%u %llu %llu %llu %llu %llu %llu", status, v1.total, v1.free, v1.used, v2.total, v2.free, v2.used);
}

static CUresult load_text(const char *text)
{
    CUmodule module = NULL;
    CUresult status = CU(cuModuleLoadData)(&module, text);
    return status ? status : CU(cuModuleGetFunction)(&work_kernel, module, "work");
}

/* A counted loop: its trips are its cost, on hardware as in the simulation. */
static CUresult load_kernel(unsigned long trips)
{
    char text[2048];
    char *end = text + sprintf(text, ".version 7.0\n.target sm_70\n.address_size 64\n"
                                     ".visible .entry work(.param .u32 seed)\n{\n.reg .pred %%p<2>;\n.reg .b32 %%r<3>;\n"
                                     "ld.param.u32 %%r1, [seed];\nmov.u32 %%r2, 0;\nagain:\n");
    for (int at = 0; at < KERNEL_MULTIPLICATIONS; at++)
        end += sprintf(end, "mul.lo.u32 %%r1, %%r1, %%r1;\n");
    sprintf(end, "add.u32 %%r2, %%r2, 1;\nsetp.lt.u32 %%p1, %%r2, %lu;\n@%%p1 bra again;\nret;\n}\n", trips);
    return load_text(text);
}

/* What every thread does first is an error. */
static void do_doomed(char *answer, char *rest)
{
    char text[1024];
    const char *fault = !strcmp(rest, "trap") ? "trap;\n"
        : "{\n.param .b64 text;\n.param .b32 line;\ncall.uni __assertfail, (text, text, line, text, text);\n}\n";
    sprintf(text, ".version 7.0\n.target sm_70\n.address_size 64\n"
                  ".extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);\n"
                  ".visible .entry work(.param .u32 seed)\n{\n%sret;\n}\n", fault);
    answer_status(answer, load_text(text));
}

static CUresult launch_plain(CUstream where)
{
    return CU(cuLaunchKernel)(work_kernel, grid, 1, 1, 256, 1, 1, 0, where, work_params, NULL);
}

static CUresult launch_ex(CUstream where)
{
    CUlaunchConfig config = { .grid = { grid, 1, 1 }, .block = { 256, 1, 1 }, .stream = where };
    return CU(cuLaunchKernelEx)(&config, work_kernel, work_params, NULL);
}

static CUresult launch_cooperative(CUstream where)
{
    return CU(cuLaunchCooperativeKernel)(work_kernel, grid, 1, 1, 256, 1, 1, 0, where, work_params);
}

static CUresult measure_once(float *elapsed_ms)
{
    CUevent begin = NULL, end = NULL;
    CUresult status = CU(cuEventCreate)(&begin, 0);
    status = status ? status : CU(cuEventCreate)(&end, 0);
    status = status ? status : launch_plain(stream); /* keeps the device busy while the rest is queued */
    status = status ? status : CU(cuEventRecord)(begin, stream);
    status = status ? status : launch_plain(stream);
    status = status ? status : CU(cuEventRecord)(end, stream);
    status = status ? status : CU(cuEventSynchronize)(end);
    return status ? status : CU(cuEventElapsedTime)(elapsed_ms, begin, end);
}

static void do_measure(char *answer, char *rest)
{
    float least_ms = 1e9, elapsed_ms = 0;
    CUresult status = CUDA_SUCCESS;
    (void)rest;
    for (int round = 0; !status && round < 5; round++) {
        status = measure_once(&elapsed_ms);
        least_ms = elapsed_ms < least_ms ? elapsed_ms : least_ms; /* what disturbs only adds */
    }
    snprintf(answer, ANSWER_MAX, "%u %.0f", status, least_ms * 1e6);
}

static void do_kernel(char *answer, char *rest)
{
    int sm_count = 0;
    CUresult status = CU(cuDeviceGetAttribute)(&sm_count, ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
    grid = (unsigned)sm_count * KERNEL_BLOCKS_PER_SM;
    answer_status(answer, status ? status : load_kernel(strtoul(rest, NULL, 10)));
}

static CUresult capture_one(CUgraph *graph)
{
    CUresult status = CU(cuStreamBeginCapture_v2)(stream, CAPTURE_GLOBAL);
    status = status ? status : launch_plain(stream);
    return status ? status : CU(cuStreamEndCapture)(stream, graph);
}

static CUresult build_one(CUgraph *graph)
{
    CUDA_KERNEL_NODE_PARAMS kernel = { .function = work_kernel, .grid = { grid, 1, 1 }, .block = { 256, 1, 1 }, .params = work_params };
    CUgraphNode node = NULL;
    CUresult status = CU(cuGraphCreate)(graph, 0);
    return status ? status : CU(cuGraphAddKernelNode_v2)(&node, *graph, NULL, 0, &kernel);
}

static CUresult launch_graphs(CUresult (*make)(CUgraph *), unsigned long count)
{
    CUgraph graph = NULL;
    CUgraphExec exec = NULL;
    CUresult status = make(&graph);
    status = status ? status : CU(cuGraphInstantiateWithFlags)(&exec, graph, 0);
    while (!status && count--)
        status = CU(cuGraphLaunch)(exec, stream);
    status = status ? status : CU(cuStreamSynchronize)(stream);
    status = status ? status : CU(cuGraphExecDestroy)(exec);
    return status ? status : CU(cuGraphDestroy)(graph);
}

static CUresult launch_kernels(CUresult (*launch)(CUstream), unsigned long count)
{
    CUresult status = CUDA_SUCCESS;
    while (!status && count--)
        status = launch(stream);
    return status ? status : CU(cuStreamSynchronize)(stream);
}

static CUresult launch_beside(unsigned long count)
{
    CUstream beside[STREAMS_BESIDE] = { NULL };
    CUresult status = CUDA_SUCCESS;
    for (unsigned index = 0; !status && index < STREAMS_BESIDE; index++)
        status = CU(cuStreamCreate)(&beside[index], STREAM_NON_BLOCKING);
    for (unsigned long index = 0; !status && index < count; index++)
        status = CU(cuLaunchKernel)(work_kernel, 1, 1, 1, 256, 1, 1, 0, beside[index % STREAMS_BESIDE], work_params, NULL);
    for (unsigned index = 0; !status && index < STREAMS_BESIDE; index++)
        status = CU(cuStreamSynchronize)(beside[index]);
    for (unsigned index = 0; !status && index < STREAMS_BESIDE; index++)
        status = CU(cuStreamDestroy_v2)(beside[index]);
    return status;
}

static void do_launch(char *answer, char *rest)
{
    char how[32];
    unsigned long count = 0;
    CUresult status = CUDA_ERROR_INVALID_VALUE;
    if (sscanf(rest, "%31s %lu", how, &count) != 2)
        fail("launch HOW COUNT, not %s", rest);
    if (!strcmp(how, "kernel"))
        status = launch_kernels(launch_plain, count);
    else if (!strcmp(how, "ex"))
        status = launch_kernels(launch_ex, count);
    else if (!strcmp(how, "cooperative"))
        status = launch_kernels(launch_cooperative, count);
    else if (!strcmp(how, "graph"))
        status = launch_graphs(build_one, count);
    else if (!strcmp(how, "capture"))
        status = launch_graphs(capture_one, count);
    else if (!strcmp(how, "beside"))
        status = launch_beside(count);
    else
        fail("no launch is called %s", how);
    answer_status(answer, status);
}

static void do_capture(char *answer, char *rest)
{
    CUgraph graph = NULL;
    unsigned long count = strtoul(rest, NULL, 10);
    CUresult status = CU(cuStreamBeginCapture_v2)(stream, CAPTURE_GLOBAL);
    while (!status && count--)
        status = launch_plain(stream);
    status = status ? status : CU(cuStreamEndCapture)(stream, &graph);
    answer_status(answer, status ? status : CU(cuGraphDestroy)(graph));
}

/* Between launches that a graph records, launches on a stream that does not record. */
static void do_capture_beside(char *answer, char *rest)
{
    CUstream beside = NULL;
    CUgraph graph = NULL;
    unsigned long count = strtoul(rest, NULL, 10);
    CUresult status = CU(cuStreamCreate)(&beside, STREAM_NON_BLOCKING);
    status = status ? status : CU(cuStreamBeginCapture_v2)(stream, CAPTURE_GLOBAL);
    while (!status && count--) {
        status = launch_plain(stream);
        status = status ? status : launch_plain(beside);
    }
    status = status ? status : CU(cuStreamEndCapture)(stream, &graph);
    status = status ? status : CU(cuGraphDestroy)(graph);
    status = status ? status : CU(cuStreamSynchronize)(beside);
    answer_status(answer, status ? status : CU(cuStreamDestroy_v2)(beside));
}

static void count_status(unsigned long counts[3], CUresult status)
{
    counts[status == CUDA_SUCCESS ? 0 : status == CUDA_ERROR_OUT_OF_MEMORY ? 1 : 2]++;
}

#define HELD_MAX 8

static CUdeviceptr held[HELD_MAX];

static void free_held(CUdeviceptr *slot, unsigned long counts[3])
{
    if (*slot && CU(cuMemFree_v2)(*slot) != CUDA_SUCCESS)
        counts[2]++;
    *slot = 0;
}

static void stir(const char *command, char *rest, unsigned long counts[3])
{
    unsigned seed = 0;
    unsigned long rounds = 0, unit = 0, units_max = 0;
    if (sscanf(rest, "%u %lu %lu %lu", &seed, &rounds, &unit, &units_max) != 4)
        fail("%s SEED ROUNDS UNIT UNITS_MAX, not %s", command, rest);
    while (rounds--) {
        CUdeviceptr *slot = &held[(unsigned)rand_r(&seed) % HELD_MAX];
        free_held(slot, counts);
        count_status(counts, CU(cuMemAlloc_v2)(slot, unit * (1 + (size_t)rand_r(&seed) % units_max)));
    }
}

static void do_stir(char *answer, char *rest)
{
    unsigned long counts[3] = { 0 };
    stir("stir", rest, counts);
    snprintf(answer, ANSWER_MAX, "%lu %lu %lu", counts[0], counts[1], counts[2]);
}

static void do_churn(char *answer, char *rest)
{
    unsigned long counts[3] = { 0 };
    stir("churn", rest, counts);
    for (CUdeviceptr *slot = held; slot < held + HELD_MAX; slot++)
        free_held(slot, counts);
    snprintf(answer, ANSWER_MAX, "%lu %lu %lu", counts[0], counts[1], counts[2]);
}

struct crew {
    unsigned long rounds, bytes, counts[3];
    pthread_mutex_t mutex;
};

static void *work(void *argument)
{
    struct crew *crew = argument;
    unsigned long counts[3] = { 0 };
    CUresult status = CU(cuCtxSetCurrent)(context);
    for (unsigned long round = 0; round < crew->rounds && !status; round++) {
        CUdeviceptr block = 0;
        CUresult granted = CU(cuMemAlloc_v2)(&block, crew->bytes);
        count_status(counts, granted);
        status = launch_plain(stream);
        if (granted == CUDA_SUCCESS && !status)
            status = CU(cuMemFree_v2)(block);
    }
    counts[2] += status != CUDA_SUCCESS;
    pthread_mutex_lock(&crew->mutex);
    for (int at = 0; at < 3; at++)
        crew->counts[at] += counts[at];
    pthread_mutex_unlock(&crew->mutex);
    return NULL;
}

static void do_threads(char *answer, char *rest)
{
    struct crew crew = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    pthread_t thread[64];
    unsigned count = 0;
    if (sscanf(rest, "%u %lu %lu", &count, &crew.rounds, &crew.bytes) != 3 || count > 64)
        fail("threads COUNT ROUNDS BYTES, not %s", rest);
    for (unsigned at = 0; at < count; at++)
        if (pthread_create(&thread[at], NULL, work, &crew))
            fail("no thread");
    for (unsigned at = 0; at < count; at++)
        pthread_join(thread[at], NULL);
    count_status(crew.counts, CU(cuStreamSynchronize)(stream));
    snprintf(answer, ANSWER_MAX, "%lu %lu %lu", crew.counts[0] - 1, crew.counts[1], crew.counts[2]);
}

static void do_free_twice(char *answer, char *rest)
{
    char kind[64];
    unsigned long rounds = 0, counts[3] = { 0 };
    size_t bytes = 0;
    if (sscanf(rest, "%63s %lu %zu", kind, &rounds, &bytes) != 3)
        fail("free-twice KIND ROUNDS BYTES, not %s", rest);
    free_twice(find_kind(kind), rounds, bytes, context, counts);
    snprintf(answer, ANSWER_MAX, "%lu %lu %lu", counts[0], counts[1], counts[2]);
}

static void do_end_contexts(char *answer, char *rest)
{
    answer_status(answer, end_contexts(strtoul(rest, NULL, 10), device));
}

static pthread_barrier_t together;

static void *init_together(void *status)
{
    pthread_barrier_wait(&together);
    *(CUresult *)status = CU(cuInit)(0);
    return NULL;
}

static void do_init_threads(char *answer, char *rest)
{
    unsigned count = (unsigned)strtoul(rest, NULL, 10);
    pthread_t thread[16];
    CUresult status[16];
    int written = 0;
    if (count < 1 || count > 16 || pthread_barrier_init(&together, NULL, count))
        fail("init-threads COUNT, not %s", rest);
    for (unsigned at = 0; at < count; at++)
        if (pthread_create(&thread[at], NULL, init_together, &status[at]))
            fail("no thread");
    for (unsigned at = 0; at < count; at++) {
        pthread_join(thread[at], NULL);
        written += sprintf(answer + written, at ? " %u" : "%u", status[at]);
    }
}

static void obey(char *answer, char *line);

static void obey_all(char *answer, char *commands)
{
    char *state = NULL, one[ANSWER_MAX];
    size_t written = 0;
    for (char *command = strtok_r(commands, ";", &state); command; command = strtok_r(NULL, ";", &state)) {
        obey(one, command + strspn(command, " "));
        written += (size_t)snprintf(answer + written, ANSWER_MAX - written, written ? "; %s" : "%s", one);
    }
}

static void do_fork(char *answer, char *rest)
{
    int pipes[2], ended = 0;
    if (pipe(pipes))
        fail("no pipe");
    pid_t child = fork();
    if (child == 0) {
        obey_all(answer, rest);
        ssize_t written = write(pipes[1], answer, strlen(answer));
        _exit(written < 0);
    }
    close(pipes[1]);
    ssize_t length = 0, got;
    while ((got = read(pipes[0], answer + length, (size_t)(ANSWER_MAX - 1 - length))) > 0)
        length += got;
    answer[length] = 0;
    close(pipes[0]);
    waitpid(child, &ended, 0);
    if (!WIFEXITED(ended) || WEXITSTATUS(ended))
        snprintf(answer, ANSWER_MAX, "the child ended with wait status %d", ended);
}

static void do_orphan(char *answer, char *rest)
{
    (void)rest;
    pid_t child = fork();
    if (child == 0) {
        struct pollfd input = { .fd = 0 }; /* no events: only a hang-up wakes it, the input is its parent's */
        while (poll(&input, 1, -1) < 0)
            ;
        _exit(0);
    }
    snprintf(answer, ANSWER_MAX, "%d", child);
}

static void do_become(char *answer, char *rest)
{
    (void)answer, (void)rest;
    setenv(SUCCESSOR, "1", 1);
    execv("/proc/self/exe", arguments);
    fail("no exec");
}

static void do_pid(char *answer, char *rest)
{
    (void)rest;
    snprintf(answer, ANSWER_MAX, "%d", getpid());
}

static const struct {
    const char *name;
    void (*run)(char *answer, char *rest);
} COMMANDS[] = {
    { "init", do_init },
    { "context", do_context },
    { "leave", do_leave },
    { "on", do_on },
    { "alloc", do_alloc },
    { "free", do_free },
    { "map", do_map },
    { "unmap", do_unmap },
    { "free-address", do_free_address },
    { "info", do_info },
    { "total", do_total },
    { "nvml", do_nvml },
    { "kernel", do_kernel },
    { "doomed", do_doomed },
    { "measure", do_measure },
    { "launch", do_launch },
    { "capture", do_capture },
    { "capture-beside", do_capture_beside },
    { "churn", do_churn },
    { "stir", do_stir },
    { "threads", do_threads },
    { "free-twice", do_free_twice },
    { "end-contexts", do_end_contexts },
    { "init-threads", do_init_threads },
    { "fork", do_fork },
    { "orphan", do_orphan },
    { "become", do_become },
    { "pid", do_pid },
};

static void obey(char *answer, char *line)
{
    char *rest = line + strcspn(line, " ");
    rest += *rest ? (*rest = 0, 1) : 0;
    for (size_t at = 0; at < sizeof COMMANDS / sizeof *COMMANDS; at++)
        if (!strcmp(COMMANDS[at].name, line)) {
            COMMANDS[at].run(answer, rest);
            return;
        }
    CUresult status = CUDA_SUCCESS;
    if (!obey_reserves(line, rest, &status))
        fail("no command is called %s", line);
    answer_status(answer, status);
}

int main(int argc, char **argv)
{
    char line[ANSWER_MAX], answer[ANSWER_MAX];
    if (argc != 2)
        fail("usage: tenant DOOR");
    arguments = argv;
    if (getenv(SUCCESSOR)) { /* what it is told must come after: its predecessor's buffer is lost */
        unsetenv(SUCCESSOR);
        printf("0\n");
        fflush(stdout);
    }
    open_doors(argv[1]);
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        obey(answer, line);
        printf("%s\n", answer);
        fflush(stdout);
    }
    return 0;
}
