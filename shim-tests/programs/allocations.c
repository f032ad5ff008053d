/* Counts the allocations that one thread makes in batches of calls: all, and those that the hook asks for.
 *
 * Its own malloc, calloc and realloc stand before glibc's for every library of the process. Prints a line for each batch:
 * its name and both counts. */
#include "cuda_doors.h"
#include <stdint.h>

enum { WARM_UP = 2000, CALLS = 10000 };

void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
/* Volatile: dlfcn.h tells the compiler that dlsym calls nothing of this file. */
static __thread volatile uint64_t all, hooks;

static void count(void *caller)
{
    Dl_info asking;
    all++;
    if (dladdr(caller, &asking) && strstr(asking.dli_fname, "libcuda_hook.so"))
        hooks++;
}

void *malloc(size_t bytes)
{
    count(__builtin_return_address(0));
    return __libc_malloc(bytes);
}

void *calloc(size_t number, size_t bytes)
{
    count(__builtin_return_address(0));
    return __libc_calloc(number, bytes);
}

void *realloc(void *old, size_t bytes)
{
    count(__builtin_return_address(0));
    return __libc_realloc(old, bytes);
}

#define BATCH(name, call)                                                                                          \
    do {                                                                                                           \
        for (int at = 0; at < WARM_UP; at++)                                                                       \
            call;                                                                                                  \
        uint64_t all_before = all, hooks_before = hooks;                                                           \
        for (int at = 0; at < CALLS; at++)                                                                         \
            call;                                                                                                  \
        printf("%s %llu %llu\n", name, (unsigned long long)(all - all_before), (unsigned long long)(hooks - hooks_before)); \
    } while (0)

int main(void)
{
    CUdevice device = 0;
    CUcontext context = NULL;
    CUmodule module = NULL;
    CUfunction function = NULL;
    CUdeviceptr block = 0;
    size_t free_bytes = 0, total = 0;
    unsigned rounds = 1;
    void *params[] = { &rounds };
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (cuInit(0) || cuDevicePrimaryCtxRetain(&context, device) || cuCtxSetCurrent(context) || cuModuleLoadData(&module, SPIN_PTX) ||
        cuModuleGetFunction(&function, module, "spin"))
        fail("the driver does not start");
    setvbuf(stdout, NULL, _IONBF, 0);
    BATCH("dlsym-of-another", dlsym(RTLD_DEFAULT, "getpid"));
    BATCH("dlsym-next-of-another", dlsym(RTLD_NEXT, "malloc"));
    BATCH("dlsym-of-a-hooked", dlsym(driver, "cuMemAlloc_v2"));
    BATCH("dlsym-of-an-unhooked", dlsym(driver, "cuCtxGetCurrent"));
    BATCH("dlsym-default-of-a-hooked", dlsym(RTLD_DEFAULT, "cuMemAlloc_v2"));
    BATCH("launch", cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
    cuCtxSynchronize();
    BATCH("info", cuMemGetInfo_v2(&free_bytes, &total));
    BATCH("alloc-and-free", (cuMemAlloc_v2(&block, 4096), cuMemFree_v2(block)));
    return 0;
}
