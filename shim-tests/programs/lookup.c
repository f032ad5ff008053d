/* Where a name leads.
 *
 *     lookup DOOR:NAME …
 *
 * Doors: handle, default, next, dlvsym (on the handle, with a version that nobody has),
 * gpa1:NAME@VERSION/FLAGS and gpa2:NAME@VERSION/FLAGS, self1:… and self2:… (by the one that it answers for its own name,
 * asked once more), nvml (on the handle of NVML).
 * Prints a line each: the argument, for gpa the status (and v2's answer), then the file that has the code and the symbol
 * there; `null`, or `untouched` where the out-pointer was not written. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *find_next(const char *symbol);
typedef unsigned get_v1(const char *, void **, int, unsigned long long);
typedef unsigned get_v2(const char *, void **, int, unsigned long long, int *);

static char unwritten;

static void print_place(void *address)
{
    Dl_info info = { 0 };
    if (address == &unwritten)
        printf("untouched\n");
    else if (!address || !dladdr(address, &info) || !info.dli_fname)
        printf("%s\n", address ? "nowhere" : "null");
    else {
        const char *slash = strrchr(info.dli_fname, '/');
        printf("%s %s\n", slash ? slash + 1 : info.dli_fname, info.dli_sname ? info.dli_sname : "?");
    }
}

/* The first or second cuGetProcAddress: by dlsym, or by asking that one for itself. */
static void *asker(void *library, int api, int by_itself)
{
    void *found = dlsym(library, api == 1 ? "cuGetProcAddress" : "cuGetProcAddress_v2"), *itself = NULL;
    if (!by_itself)
        return found;
    if (api == 1)
        ((get_v1 *)found)("cuGetProcAddress", &itself, 11030, 0);
    else
        ((get_v2 *)found)("cuGetProcAddress", &itself, 12000, 0, NULL);
    return itself;
}

static void print_asked(void *library, const char *request, int api, int by_itself)
{
    char name[128];
    int version = 0, answer = -1;
    unsigned long long flags = 0;
    void *found = &unwritten;
    const char *at = strchr(request, '@');
    if (!at || sscanf(at, "@%d/%llu", &version, &flags) != 2)
        exit(64);
    snprintf(name, sizeof name, "%.*s", (int)(at - request), request);
    if (api == 1) {
        get_v1 *ask = (get_v1 *)asker(library, 1, by_itself);
        printf("%u ", ask(name, &found, version, flags));
    } else {
        get_v2 *ask = (get_v2 *)asker(library, 2, by_itself);
        unsigned status = ask(name, &found, version, flags, &answer);
        printf("%u %d ", status, answer);
    }
    print_place(found);
}

int main(int argc, char **argv)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL), *nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    find_next *next = (find_next *)dlsym(RTLD_DEFAULT, "find_next");
    if (!driver || !nvml || !next)
        return fprintf(stderr, "%s\n", dlerror()), 70;
    for (int at = 1; at < argc; at++) {
        char *name = strchr(argv[at], ':');
        if (!name++)
            return 64;
        printf("%s ", argv[at]);
        if (!strncmp(argv[at], "handle:", 7))
            print_place(dlsym(driver, name));
        else if (!strncmp(argv[at], "default:", 8))
            print_place(dlsym(RTLD_DEFAULT, name));
        else if (!strncmp(argv[at], "next:", 5))
            print_place(next(name));
        else if (!strncmp(argv[at], "dlvsym:", 7))
            print_place(dlvsym(driver, name, "NO_SUCH_VERSION_1.0"));
        else if (!strncmp(argv[at], "nvml:", 5))
            print_place(dlsym(nvml, name));
        else if (!strncmp(argv[at], "gpa1:", 5) || !strncmp(argv[at], "gpa2:", 5))
            print_asked(driver, name, argv[at][3] - '0', 0);
        else if (!strncmp(argv[at], "self1:", 6) || !strncmp(argv[at], "self2:", 6))
            print_asked(driver, name, argv[at][4] - '0', 1);
        else
            return 64;
    }
    return 0;
}
