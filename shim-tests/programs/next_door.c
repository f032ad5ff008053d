/* The RTLD_NEXT door: what comes after this object in the search order. */
#define _GNU_SOURCE
#include <dlfcn.h>

void *find_next(const char *symbol)
{
    return dlsym(RTLD_NEXT, symbol);
}
