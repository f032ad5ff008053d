/* A driver that is newer than the preload: it has an allocator, an ABI of an allocator and a question that nobody here knows. */
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

unsigned cuMemAlloc_v2(unsigned long long *address, unsigned long bytes)
{
    (void)address, (void)bytes;
    return 3; /* CUDA_ERROR_NOT_INITIALIZED */
}

unsigned cuMemAlloc_v3(unsigned long long *address, unsigned long bytes)
{
    return cuMemAlloc_v2(address, bytes);
}

unsigned cuMemAllocNew(unsigned long long *address, unsigned long bytes)
{
    return cuMemAlloc_v2(address, bytes);
}

unsigned cuDeviceGetNews(int *news)
{
    *news = 0;
    return 0;
}

unsigned cuGetProcAddress_v2(const char *symbol, void **function, int version, unsigned long long flags, int *says)
{
    (void)flags;
    *function = equal(symbol, "cuMemAlloc") ? version < 15000 ? (void *)cuMemAlloc_v2 : (void *)cuMemAlloc_v3
        : equal(symbol, "cuMemAllocNew") ? (void *)cuMemAllocNew
        : equal(symbol, "cuDeviceGetNews") ? (void *)cuDeviceGetNews
        : (void *)0;
    if (says)
        *says = !*function; /* CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND */
    return 0;
}

unsigned cuGetProcAddress(const char *symbol, void **function, int version, unsigned long long flags)
{
    void *found;
    cuGetProcAddress_v2(symbol, &found, version, flags, (int *)0);
    if (!found)
        return 500; /* CUDA_ERROR_NOT_FOUND */
    *function = found;
    return 0;
}
