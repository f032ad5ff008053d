/* Another preloaded library, such as a tracer: it stands before `puts` and finds the next one by RTLD_NEXT. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int puts(const char *text)
{
    static int depth;
    int (*next)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "puts");
    if (depth++ || next == puts)
        return fputs("RTLD_NEXT led back to its caller\n", stderr);
    fputs("traced: ", stdout);
    int written = next(text);
    depth--;
    return written;
}
