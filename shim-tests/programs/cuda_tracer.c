/* Another preloaded library that stands before two of the driver's functions, one that a quota depends on and one that
 * it does not, finds the next ones by RTLD_NEXT, and counts on standard error. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

unsigned cuMemAlloc_v2(unsigned long long *address, unsigned long bytes)
{
    unsigned (*next)(unsigned long long *, unsigned long) =
        (unsigned (*)(unsigned long long *, unsigned long))dlsym(RTLD_NEXT, "cuMemAlloc_v2");
    if (write(2, "A", 1) != 1 || next == cuMemAlloc_v2)
        return 999;
    return next(address, bytes);
}

unsigned cuCtxSetCurrent(void *context)
{
    unsigned (*next)(void *) = (unsigned (*)(void *))dlsym(RTLD_NEXT, "cuCtxSetCurrent");
    if (write(2, "S", 1) != 1 || next == cuCtxSetCurrent)
        return 999;
    return next(context);
}
