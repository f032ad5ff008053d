/* Which libcuda.so.1 the loader finds, what its cuInit answers, and how many devices it has: a line each. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int main(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY);
    unsigned (*init)(unsigned) = driver ? dlsym(driver, "cuInit") : NULL;
    unsigned (*count)(int *) = driver ? dlsym(driver, "cuDeviceGetCount") : NULL;
    int devices = 0;
    Dl_info found;
    if (!init || !dladdr(init, &found)) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    unsigned status = init(0);
    if (!status && count)
        status = count(&devices);
    printf("%s\n%u\n%d\n", found.dli_fname, status, devices);
    return 0;
}
