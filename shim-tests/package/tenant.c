/* A program under a quota of 8 MiB and half of a GPU, in whatever C library it is started: two blocks of 6 MiB, one after the other but not
 * both, and launches. Says what failed and ends with 1, or with 0. The driver is looked up, as the hook must be found by every door. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, OUT_OF_MEMORY = 2, LAUNCHES = 100 };

static void *driver;

static void *find(const char *name) {
    void *function = dlsym(driver, name);
    if (function == NULL) {
        fprintf(stderr, "no %s: %s\n", name, dlerror());
        exit(1);
    }
    return function;
}

static void want(const char *what, int status, int wanted) {
    if (status != wanted) {
        fprintf(stderr, "%s: %d, not %d\n", what, status, wanted);
        exit(1);
    }
}

int main(void) {
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (driver == NULL) {
        fprintf(stderr, "no driver: %s\n", dlerror());
        return 1;
    }
    int (*init)(unsigned) = find("cuInit");
    int (*retain)(void **, int) = find("cuDevicePrimaryCtxRetain");
    int (*set_current)(void *) = find("cuCtxSetCurrent");
    int (*allocate)(unsigned long long *, size_t) = find("cuMemAlloc_v2");
    int (*release)(unsigned long long) = find("cuMemFree_v2");
    int (*load)(void **, const void *) = find("cuModuleLoadData");
    int (*function_of)(void **, void *, const char *) = find("cuModuleGetFunction");
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **) = find("cuLaunchKernel");
    void *context, *module, *kernel;
    want("cuInit", init(0), SUCCESS);
    want("cuDevicePrimaryCtxRetain", retain(&context, 0), SUCCESS);
    want("cuCtxSetCurrent", set_current(context), SUCCESS);
    unsigned long long first, second;
    want("the first block", allocate(&first, 6 << 20), SUCCESS);
    want("a block too many", allocate(&second, 6 << 20), OUT_OF_MEMORY);
    want("giving the first back", release(first), SUCCESS);
    want("the second block", allocate(&second, 6 << 20), SUCCESS);
    want("cuModuleLoadData", load(&module, ""), SUCCESS);
    want("cuModuleGetFunction", function_of(&kernel, module, "kernel"), SUCCESS);
    for (int launches = 0; launches < LAUNCHES; launches++) {
        want("cuLaunchKernel", launch(kernel, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL), SUCCESS);
    }
    return 0;
}
