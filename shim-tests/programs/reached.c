/* A library that is linked with the driver, for reach.c to open. */
#include "reach.h"

int reach(unsigned long bytes)
{
    struct driver driver = { cuInit, cuDevicePrimaryCtxRetain, cuCtxSetCurrent, cuMemGetInfo_v2, cuMemAlloc_v2 };
    return ask_for_memory(&driver, bytes);
}
