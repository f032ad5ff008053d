/* Takes device memory until not a page of it is left to it, in blocks of 64 MiB and then of smaller ones, and says how much it got: "granted 1944 MiB,
 * then 2". Then it holds it until its standard input ends. With an argument it says so of one page, and ends. */
#include <dlfcn.h>
#include <stdio.h>

enum { BLOCK_MIB = 64, PAGE_MIB = 2, BLOCKS_MAX = 1024 };

int main(int count, char **arguments)
{
    (void)arguments;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) {
        printf("no driver: %s\n", dlerror());
        return 1;
    }
    int (*init)(unsigned) = (int (*)(unsigned))dlsym(driver, "cuInit");
    int (*retain)(void **, int) = (int (*)(void **, int))dlsym(driver, "cuDevicePrimaryCtxRetain");
    int (*set_current)(void *) = (int (*)(void *))dlsym(driver, "cuCtxSetCurrent");
    int (*allocate)(unsigned long long *, size_t) = (int (*)(unsigned long long *, size_t))dlsym(driver, "cuMemAlloc_v2");
    void *context;
    int status = init(0);
    if (!status)
        status = retain(&context, 0);
    if (!status)
        status = set_current(context);
    int granted_mib = 0, is_one = count > 1;
    int block_mib = is_one || status ? PAGE_MIB : BLOCK_MIB;
    for (int blocks = 0; !status || block_mib > PAGE_MIB;) {
        unsigned long long block;
        if (status)
            block_mib /= 2;
        status = allocate(&block, (size_t)block_mib << 20);
        if (!status)
            granted_mib += block_mib;
        if (is_one || ++blocks == BLOCKS_MAX)
            break;
    }
    printf("granted %d MiB, then %d\n", granted_mib, status);
    fflush(stdout);
    while (!is_one && getchar() != EOF)
        ;
    return 0;
}
