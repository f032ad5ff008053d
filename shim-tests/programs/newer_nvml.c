/* A libnvidia-ml that is newer than the simulation: one device, whose memory the driver itself limits by control group
 * (CUDA 13.4). It knows nothing else. */
struct limits {
    const char *control_group;
    unsigned long long soft, hard, used; /* bytes */
};

static int board;

unsigned nvmlInit_v2(void) { return 0; }
unsigned nvmlShutdown(void) { return 0; }

unsigned nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = 1;
    return 0;
}

unsigned nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    *device = &board;
    return index ? 2 /* NVML_ERROR_INVALID_ARGUMENT */ : 0;
}

unsigned nvmlDeviceGetUUID(void *device, char *text, unsigned room)
{
    const char *uuid = "GPU-01234567-89ab-cdef-0123-456789abcdef";
    (void)device, (void)room;
    while ((*text++ = *uuid++))
        ;
    return 0;
}

unsigned nvmlDeviceGetMemoryLimits_v1(void *device, struct limits *limits)
{
    (void)device;
    limits->soft = 512ULL << 20;
    limits->hard = 64ULL << 30;
    limits->used = 12345;
    return 0;
}
