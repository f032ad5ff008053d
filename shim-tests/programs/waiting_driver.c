/* A driver that a thread does not come back from: the smallest allocation ends the thread, every other waits for good. */
#include <pthread.h>
#include <unistd.h>

unsigned cuInit(unsigned flags)
{
    (void)flags;
    return 0;
}

unsigned cuMemAlloc_v2(unsigned long long *address, unsigned long bytes)
{
    (void)address;
    if (bytes == 1)
        pthread_exit((void *)7);
    for (;;)
        pause();
}

unsigned cuMemFree_v2(unsigned long long address)
{
    (void)address;
    return 0;
}
