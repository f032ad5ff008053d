/* What reach.c and reached.c do once they have the driver. */
#ifndef REACH_H
#define REACH_H

#include <stdio.h>

unsigned cuInit(unsigned), cuDevicePrimaryCtxRetain(void **, int), cuCtxSetCurrent(void *);
unsigned cuMemGetInfo_v2(unsigned long *, unsigned long *), cuMemAlloc_v2(unsigned long long *, unsigned long);

struct driver {
    __typeof__(&cuInit) init;
    __typeof__(&cuDevicePrimaryCtxRetain) retain;
    __typeof__(&cuCtxSetCurrent) set_current;
    __typeof__(&cuMemGetInfo_v2) info;
    __typeof__(&cuMemAlloc_v2) alloc;
};

static int ask_for_memory(const struct driver *driver, unsigned long bytes)
{
    unsigned long free_bytes = 0, total = 0;
    unsigned long long address = 0;
    void *context = NULL;
    unsigned status = 0;
    if ((status = driver->init(0)) || (status = driver->retain(&context, 0)) || (status = driver->set_current(context)) ||
        (status = driver->info(&free_bytes, &total)))
        return dprintf(1, "not started: %u\n", status), 0;
    unsigned all = driver->alloc(&address, bytes);
    dprintf(1, "%lu %u %u\n", total, all, driver->alloc(&address, 1));
    return 0;
}

#endif
