/* Takes device memory in blocks of 64 MiB until it is refused, and says how much it got: "granted 1920 MiB, then 2". Then it holds it until its
 * standard input ends. With an argument it says so of one block, and ends. */
#include <dlfcn.h>
#include <stdio.h>

enum { BLOCK_MIB = 64, BLOCKS_MAX = 1024 };

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
    int blocks = 0;
    for (int most = count > 1 ? 1 : BLOCKS_MAX; !status && blocks < most;) {
        unsigned long long block;
        status = allocate(&block, (size_t)BLOCK_MIB << 20);
        blocks += !status;
    }
    printf("granted %d MiB, then %d\n", blocks * BLOCK_MIB, status);
    fflush(stdout);
    while (count < 2 && getchar() != EOF)
        ;
    return 0;
}
