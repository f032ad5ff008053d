/* Says what the driver API and NVML tell of each device: a line each, its name last. */
#include <stdio.h>

typedef struct { unsigned char bytes[16]; } CUuuid;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef void *nvmlDevice_t;

unsigned cuInit(unsigned flags);
unsigned cuDeviceGetCount(int *count);
unsigned cuDeviceGetAttribute(int *value, int attribute, int device);
unsigned cuDeviceTotalMem_v2(size_t *bytes, int device);
unsigned cuDeviceGetUuid(CUuuid *uuid, int device);
unsigned cuDeviceGetPCIBusId(char *id, int length, int device);
unsigned cuDeviceGetName(char *name, int length, int device);
unsigned nvmlInit_v2(void);
unsigned nvmlDeviceGetCount_v2(unsigned *count);
unsigned nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device);
unsigned nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor);
unsigned nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned *cores);
unsigned nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, int clock, unsigned *mhz);
unsigned nvmlDeviceGetMemoryBusWidth(nvmlDevice_t device, unsigned *bits);
unsigned nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device, unsigned *generation);
unsigned nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned *lanes);
unsigned nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned *mw);
unsigned nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory);
unsigned nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned length);
unsigned nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length);

#define OK(call)                                       \
    do {                                               \
        unsigned status = (call);                      \
        if (status != 0) {                             \
            printf(#call " answered %u\n", status);    \
            return 1;                                  \
        }                                              \
    } while (0)

/* Numbers of CUdevice_attribute (cuda.h), and what they are here called. */
static const struct { const char *name; int attribute; } ATTRIBUTES[] = {
    {"major", 75}, {"minor", 76}, {"sm_count", 16}, {"threads_per_sm_max", 39}, {"blocks_per_sm_max", 106},
    {"registers_per_sm", 82}, {"shared_bytes_per_sm", 81}, {"shared_bytes_per_block_max", 97},
    {"sm_clock_khz", 13}, {"memory_clock_khz", 36}, {"memory_bus_bits", 37}, {"l2_bytes", 38},
};
enum { CLOCK_SM = 1, CLOCK_MEM = 2 };

static int tell_cuda(int device) {
    char text[128];
    CUuuid uuid;
    size_t bytes;
    printf("cuda");
    for (size_t i = 0; i < sizeof ATTRIBUTES / sizeof *ATTRIBUTES; i++) {
        int value;
        OK(cuDeviceGetAttribute(&value, ATTRIBUTES[i].attribute, device));
        printf(" %s=%d", ATTRIBUTES[i].name, value);
    }
    OK(cuDeviceTotalMem_v2(&bytes, device));
    OK(cuDeviceGetPCIBusId(text, sizeof text, device));
    printf(" memory_bytes=%zu pci=%s uuid=GPU-", bytes, text);
    OK(cuDeviceGetUuid(&uuid, device));
    for (int i = 0; i < 16; i++)
        printf(i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid.bytes[i]);
    OK(cuDeviceGetName(text, sizeof text, device));
    printf(" name=%s\n", text);
    return 0;
}

static int tell_nvml(unsigned index) {
    char uuid[96], name[96];
    nvmlDevice_t device;
    nvmlMemory_t memory;
    int major, minor;
    unsigned cores, sm_mhz, memory_mhz, bits, generation, lanes, limit_mw;
    OK(nvmlDeviceGetHandleByIndex_v2(index, &device));
    OK(nvmlDeviceGetCudaComputeCapability(device, &major, &minor));
    OK(nvmlDeviceGetNumGpuCores(device, &cores));
    OK(nvmlDeviceGetMaxClockInfo(device, CLOCK_SM, &sm_mhz));
    OK(nvmlDeviceGetMaxClockInfo(device, CLOCK_MEM, &memory_mhz));
    OK(nvmlDeviceGetMemoryBusWidth(device, &bits));
    OK(nvmlDeviceGetMaxPcieLinkGeneration(device, &generation));
    OK(nvmlDeviceGetMaxPcieLinkWidth(device, &lanes));
    OK(nvmlDeviceGetPowerManagementLimit(device, &limit_mw));
    OK(nvmlDeviceGetMemoryInfo(device, &memory));
    OK(nvmlDeviceGetUUID(device, uuid, sizeof uuid));
    OK(nvmlDeviceGetName(device, name, sizeof name));
    printf("nvml major=%d minor=%d cores=%u sm_clock_mhz=%u memory_clock_mhz=%u memory_bus_bits=%u pcie=%ux%u power_limit_mw=%u"
           " memory_bytes_in_all=%llu uuid=%s name=%s\n",
           major, minor, cores, sm_mhz, memory_mhz, bits, generation, lanes, limit_mw, memory.total, uuid, name);
    return 0;
}

int main(void) {
    int devices;
    unsigned boards;
    OK(cuInit(0));
    OK(cuDeviceGetCount(&devices));
    for (int i = 0; i < devices; i++)
        if (tell_cuda(i) != 0) return 1;
    OK(nvmlInit_v2());
    OK(nvmlDeviceGetCount_v2(&boards));
    for (unsigned i = 0; i < boards; i++)
        if (tell_nvml(i) != 0) return 1;
    return 0;
}
