/* Reaches the driver in one way, with functions that it looks up there, and asks for memory.
 *
 *     reach WAY FILE BYTES
 *
 * Ways: lazy, now, global, deepbind, noload (open FILE so and look up on the handle), elsewhere (dlmopen: in a namespace of
 * its own), main (RTLD_GLOBAL, then on the handle of the whole program), again (FILE is started, then libcuda.so.1 opened by name);
 * called (FILE has a function `reach` that is linked with the driver: opened now, deepbind or elsewhere as `called-now` …).
 * Prints: the total that cuMemGetInfo_v2 tells, and the statuses of an allocation of BYTES and of one byte. */
#define _GNU_SOURCE
#include "reach.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static void *open_by(const char *way, const char *file)
{
    if (!strcmp(way, "elsewhere"))
        return dlmopen(LM_ID_NEWLM, file, RTLD_NOW);
    if (!strcmp(way, "noload") && !dlopen(file, RTLD_NOW))
        return NULL;
    int flags = !strcmp(way, "lazy") ? RTLD_LAZY
        : !strcmp(way, "global") || !strcmp(way, "main") ? RTLD_NOW | RTLD_GLOBAL
        : !strcmp(way, "deepbind") ? RTLD_NOW | RTLD_DEEPBIND
        : !strcmp(way, "noload") ? RTLD_LAZY | RTLD_NOLOAD
        : RTLD_NOW;
    void *library = dlopen(file, flags);
    if (library && !strcmp(way, "again")) {
        __typeof__(&cuInit) start = (__typeof__(&cuInit))dlsym(library, "cuInit");
        return start && !start(0) ? dlopen("libcuda.so.1", RTLD_NOW) : NULL;
    }
    return library && !strcmp(way, "main") ? dlopen(NULL, RTLD_LAZY) : library;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 64;
    const char *way = argv[1];
    int called = !strncmp(way, "called-", 7);
    void *library = open_by(called ? way + 7 : way, argv[2]);
    if (!library)
        return fprintf(stderr, "%s\n", dlerror()), 70;
    unsigned long bytes = strtoul(argv[3], NULL, 10);
    if (called) {
        int (*reach)(unsigned long) = (int (*)(unsigned long))dlsym(library, "reach");
        return reach ? reach(bytes) : 70;
    }
#define FIND(name) (__typeof__(&name)) dlsym(library, #name)
    struct driver driver = { FIND(cuInit), FIND(cuDevicePrimaryCtxRetain), FIND(cuCtxSetCurrent), FIND(cuMemGetInfo_v2),
                             FIND(cuMemAlloc_v2) };
    return ask_for_memory(&driver, bytes);
}
