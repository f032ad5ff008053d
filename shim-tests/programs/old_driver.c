/* A driver that is older than the preload: a handful of symbols, and only the first cuGetProcAddress. It needs nothing of
 * another library, so that it has no symbol versions at all and glibc gives its symbols by any (dlvsym). */
static int equal(const char *one, const char *other)
{
    while (*one && *one == *other)
        one++, other++;
    return *one == *other;
}

unsigned cuInit(unsigned flags)
{
    (void)flags;
    return 100; /* CUDA_ERROR_NO_DEVICE */
}

unsigned cuDriverGetVersion(int *version)
{
    *version = 11030;
    return 0;
}

unsigned cuMemAlloc_v2(unsigned long long *address, unsigned long bytes)
{
    (void)address, (void)bytes;
    return 3; /* CUDA_ERROR_NOT_INITIALIZED */
}

unsigned cuGetProcAddress(const char *symbol, void **function, int version, unsigned long long flags)
{
    (void)flags;
    if (!equal(symbol, "cuMemAlloc") || version < 3020)
        return 500; /* CUDA_ERROR_NOT_FOUND */
    *function = (void *)cuMemAlloc_v2;
    return 0;
}
