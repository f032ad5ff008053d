/* Captures a launch, and then over it one with another argument, of which the driver tells a function of ours inside of that launch. The
 * function allocates as many bytes as the argument says, twice: prints what the driver answered. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#define CAPTURE_MODE_RELAXED 2

static const char KERNEL[] = ".version 7.0\n.target sm_70\n.address_size 64\n"
                             ".visible .entry nothing(.param .u32 number) { ret; }\n";

static void *driver;
static unsigned (*alloc)(unsigned long long *, unsigned long);
static unsigned long wanted;

static void *function(const char *name)
{
    void *address = dlsym(driver, name);
    if (!address) {
        fprintf(stderr, "no %s\n", name);
        exit(70);
    }
    return address;
}

static unsigned told(void *data, void *node, const void *before, const void *after, unsigned status)
{
    unsigned long long block;
    (void)data, (void)node, (void)before, (void)after;
    for (int time = 0; time < 2; time++)
        printf("alloc: %u\n", alloc(&block, wanted));
    return status;
}

static unsigned launch(void *kernel, void *stream, unsigned number)
{
    void *arguments[] = {&number};
    unsigned (*launch_kernel)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                              void **) = function("cuLaunchKernel");
    return launch_kernel(kernel, 1, 1, 1, 32, 1, 1, 0, stream, arguments, NULL);
}

int main(int count, char **words)
{
    void *context, *module, *kernel, *stream, *graph;
    unsigned status = 0;
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver || count < 2)
        return 70;
    wanted = strtoul(words[1], NULL, 10);
    alloc = function("cuMemAlloc_v2");
    unsigned (*init)(unsigned) = function("cuInit");
    unsigned (*retain)(void **, int) = function("cuDevicePrimaryCtxRetain");
    unsigned (*set_current)(void *) = function("cuCtxSetCurrent");
    unsigned (*load)(void **, const void *) = function("cuModuleLoadData");
    unsigned (*get_function)(void **, void *, const char *) = function("cuModuleGetFunction");
    unsigned (*create)(void **, unsigned) = function("cuStreamCreate");
    unsigned (*begin)(void *, unsigned) = function("cuStreamBeginCapture_v2");
    unsigned (*begin_again)(void *, unsigned, void *, void *, void *) = function("cuStreamBeginRecaptureToGraph");
    unsigned (*end)(void *, void **) = function("cuStreamEndCapture");
    status |= init(0) | retain(&context, 0) | set_current(context);
    status |= load(&module, KERNEL) | get_function(&kernel, module, "nothing") | create(&stream, 1);
    status |= begin(stream, CAPTURE_MODE_RELAXED) | launch(kernel, stream, 1) | end(stream, &graph);
    status |= begin_again(stream, CAPTURE_MODE_RELAXED, graph, (void *)told, NULL);
    status |= launch(kernel, stream, 2) | end(stream, &graph);
    printf("all else: %u\n", status);
    return 0;
}
