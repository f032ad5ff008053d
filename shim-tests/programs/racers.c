/* Processes that all want the last block of a quota at the same moment.
 *
 *     racers DOOR PROCESSES ROUNDS
 *
 * The block is two thirds of what is left when all of them have a context, in whole pages: one fits, two do not. One line is printed:
 * in how many rounds nobody, one process, and more than one was granted it; calls that answered something else; bytes of the block. */
#include "cuda_doors.h"
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE_BYTES ((size_t)2 << 20)

struct race {
    pthread_barrier_t together;
    size_t block_bytes;
    unsigned granted; /* in this round */
    unsigned long none, one, several, other;
};

static void start(int is_first, struct race *race)
{
    CUdevice device = 0;
    CUcontext context = NULL;
    size_t free_bytes = 0, total_bytes = 0;
    CUresult status = CU(cuInit)(0);
    status = status ? status : CU(cuDeviceGet)(&device, 0);
    status = status ? status : CU(cuDevicePrimaryCtxRetain)(&context, device);
    status = status ? status : CU(cuCtxSetCurrent)(context);
    pthread_barrier_wait(&race->together);
    status = status ? status : CU(cuMemGetInfo_v2)(&free_bytes, &total_bytes);
    if (status)
        fail("a racer cannot start: %u", status);
    if (is_first)
        race->block_bytes = free_bytes / 3 * 2 / PAGE_BYTES * PAGE_BYTES;
    pthread_barrier_wait(&race->together);
}

static void tally(struct race *race)
{
    race->none += race->granted == 0;
    race->one += race->granted == 1;
    race->several += race->granted > 1;
    race->granted = 0;
}

static void run(int is_first, struct race *race, unsigned long rounds)
{
    while (rounds--) {
        CUdeviceptr block = 0;
        pthread_barrier_wait(&race->together);
        CUresult status = CU(cuMemAlloc_v2)(&block, race->block_bytes);
        if (status == CUDA_SUCCESS)
            __atomic_add_fetch(&race->granted, 1, __ATOMIC_SEQ_CST);
        else if (status != CUDA_ERROR_OUT_OF_MEMORY)
            __atomic_add_fetch(&race->other, 1, __ATOMIC_SEQ_CST);
        pthread_barrier_wait(&race->together);
        if (is_first)
            tally(race);
        if (status == CUDA_SUCCESS && CU(cuMemFree_v2)(block))
            __atomic_add_fetch(&race->other, 1, __ATOMIC_SEQ_CST);
    }
}

int main(int argc, char **argv)
{
    if (argc != 4)
        fail("usage: racers DOOR PROCESSES ROUNDS");
    open_doors(argv[1]);
    int processes = atoi(argv[2]), ended = 0, failed = 0;
    struct race *race = mmap(NULL, sizeof *race, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_barrierattr_t shared;
    pthread_barrierattr_init(&shared);
    pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    if (race == MAP_FAILED || pthread_barrier_init(&race->together, &shared, (unsigned)processes))
        fail("no memory to share");
    for (int at = 0; at < processes; at++)
        if (fork() == 0) {
            start(at == 0, race);
            run(at == 0, race, strtoul(argv[3], NULL, 10));
            _exit(0);
        }
    for (int at = 0; at < processes; at++) {
        wait(&ended);
        failed |= ended;
    }
    printf("%lu %lu %lu %lu %zu\n", race->none, race->one, race->several, race->other, race->block_bytes);
    return failed != 0;
}
