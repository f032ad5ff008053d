/* Calls what an older driver lacks, though it could be linked: prints the statuses of cuDriverGetVersion, cuInit,
 * cuStreamCreate and cuMemAllocAsync, and whether dlsym finds the last two. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

unsigned cuInit(unsigned), cuDriverGetVersion(int *), cuStreamCreate(void **, unsigned);
unsigned cuMemAllocAsync(unsigned long long *, unsigned long, void *);

int main(void)
{
    int version = 0;
    void *stream = NULL, *driver = dlopen("libcuda.so.1", RTLD_NOW);
    unsigned long long address = 0;
    unsigned told = cuDriverGetVersion(&version), started = cuInit(0);
    printf("%u %u %u %u\n", told, started, cuStreamCreate(&stream, 0), cuMemAllocAsync(&address, 1, stream));
    printf("%d %d\n", dlsym(driver, "cuStreamCreate") != NULL, dlsym(RTLD_DEFAULT, "cuMemAllocAsync") != NULL);
    return 0;
}
