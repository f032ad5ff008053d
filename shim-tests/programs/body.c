/* One of everything that the simulation simulates, through one door.
 *
 *     body DOOR
 *
 * Prints a line per call: its name and the status that the program saw, and what it was told where that is the same in
 * every run. No addresses, times or process ids. */
#include "cuda_doors.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MIB (1ull << 20)

/* Calls a driver function and prints what it answered. */
#define DO(symbol, ...) answered(#symbol, CU(symbol)(__VA_ARGS__))
#define DO_NVML(symbol, ...) answered(#symbol, NVML(symbol)(__VA_ARGS__))

static CUdevice device;
static CUcontext context;
static CUstream stream;
static CUfunction spin;
static unsigned spin_rounds = 64;
static void *spin_params[] = { &spin_rounds };

static CUresult answered(const char *symbol, CUresult status)
{
    printf("%s %u\n", symbol, status);
    return status;
}

static void print_same(const char *what, const void *left, const void *right, size_t bytes)
{
    printf("%s %s\n", what, memcmp(left, right, bytes) ? "differs" : "same");
}

static void ask_devices(void)
{
    int version = 0, count = 0, sm_count = 0;
    char name[256] = "";
    CUuuid uuid;
    unsigned total_v1 = 0;
    size_t total = 0;
    const char *text = NULL;
    DO(cuDriverGetVersion, &version);
    DO(cuInit, 0);
    DO(cuDeviceGetCount, &count);
    DO(cuDeviceGet, &device, 0);
    DO(cuDeviceGet, &device, count);
    DO(cuDeviceGet, &device, 0);
    DO(cuDeviceGetName, name, sizeof name, device);
    DO(cuDeviceGetUuid, &uuid, device);
    DO(cuDeviceGetAttribute, &sm_count, ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
    DO(cuDeviceTotalMem_v2, &total, device);
    DO(cuDeviceTotalMem, &total_v1, device);
    DO(cuGetErrorName, CUDA_ERROR_OUT_OF_MEMORY, &text);
    printf("version %d, %d devices, %s, %d SMs, %zu bytes, %s\n", version, count, name, sm_count, total, text);
}

static void make_context(void)
{
    CUcontext other = NULL, current = NULL;
    size_t unused;
    DO(cuMemGetInfo_v2, &unused, &unused);
    DO(cuDevicePrimaryCtxRetain, &context, device);
    DO(cuCtxCreate_v2, &other, 0, device);
    DO(cuCtxGetCurrent, &current);
    print_same("current context", &current, &other, sizeof current);
    DO(cuCtxDestroy_v2, other);
    DO(cuCtxSetCurrent, context);
    DO(cuCtxGetDevice, &device);
    DO(cuStreamCreate, &stream, 0);
}

static void allocate_linear(void)
{
    CUdeviceptr block = 0, pitched = 0, managed = 0;
    size_t pitch = 0, free_bytes = 0, total_bytes = 0;
    void *host = NULL, *pinned = NULL;
    DO(cuMemAlloc_v2, &block, 3 * MIB + 1);
    DO(cuMemAllocPitch_v2, &pitched, &pitch, 1001, 300, 4);
    DO(cuMemAllocManaged, &managed, MIB, MEM_ATTACH_GLOBAL);
    DO(cuMemAllocHost_v2, &host, 4096);
    DO(cuMemHostAlloc, &pinned, 4096, 0);
    DO(cuMemAlloc_v2, &block, 0);
    DO(cuMemAlloc_v2, NULL, 4096);
    DO(cuMemGetInfo_v2, &free_bytes, &total_bytes);
    printf("pitch %zu, %s\n", pitch, free_bytes < total_bytes ? "something is used" : "nothing is used");
    DO(cuMemFreeHost, pinned);
    DO(cuMemFreeHost, host);
    DO(cuMemFree_v2, managed);
    DO(cuMemFree_v2, pitched);
    DO(cuMemFree_v2, pitched);
    DO(cuMemFree_v2, block);
    DO(cuMemFree_v2, 0x1234);
    DO(cuMemFree_v2, 0);
}

static void allocate_small_addresses(void)
{
    CUdeviceptr_v1 block = 0;
    unsigned free_bytes = 0, total_bytes = 0;
    if (DO(cuMemAlloc, &block, 4096) == CUDA_SUCCESS)
        DO(cuMemFree, block);
    DO(cuMemGetInfo, &free_bytes, &total_bytes);
}

static void allocate_arrays(void)
{
    CUDA_ARRAY_DESCRIPTOR plane = { 640, 480, FORMAT_UNSIGNED_INT8, 4 };
    CUDA_ARRAY3D_DESCRIPTOR volume = { 64, 64, 64, FORMAT_UNSIGNED_INT8, 1, 0 };
    CUarray flat = NULL, deep = NULL;
    CUmipmappedArray pyramid = NULL;
    if (DO(cuArrayCreate_v2, &flat, &plane) == CUDA_SUCCESS)
        DO(cuArrayDestroy, flat);
    if (DO(cuArray3DCreate_v2, &deep, &volume) == CUDA_SUCCESS)
        DO(cuArrayDestroy, deep);
    if (DO(cuMipmappedArrayCreate, &pyramid, &volume, 3) == CUDA_SUCCESS)
        DO(cuMipmappedArrayDestroy, pyramid);
}

static void map_memory(void)
{
    CUmemAllocationProp prop = { .type = ALLOCATION_PINNED, .location = { LOCATION_DEVICE, device } };
    CUmemAccessDesc access = { prop.location, ACCESS_READ_WRITE };
    CUmemGenericAllocationHandle handle = 0;
    CUdeviceptr window = 0;
    size_t granularity = 0;
    if (DO(cuMemGetAllocationGranularity, &granularity, &prop, 0) != CUDA_SUCCESS)
        return;
    printf("granularity %zu\n", granularity);
    DO(cuMemCreate, &handle, granularity, &prop, 0);
    DO(cuMemAddressReserve, &window, granularity, 0, 0, 0);
    DO(cuMemMap, window, granularity, 0, handle, 0);
    DO(cuMemSetAccess, window, granularity, &access, 1);
    DO(cuMemsetD8_v2, window, 7, granularity);
    DO(cuMemUnmap, window, granularity);
    DO(cuMemAddressFree, window, granularity);
    DO(cuMemRelease, handle);
    DO(cuMemRelease, handle);
}

static void allocate_in_stream_order(void)
{
    CUmemPoolProps props = { .type = ALLOCATION_PINNED, .location = { LOCATION_DEVICE, device } };
    CUmemoryPool pool = NULL;
    CUdeviceptr block = 0, pooled = 0;
    if (DO(cuMemAllocAsync, &block, MIB, stream) == CUDA_SUCCESS)
        DO(cuMemFreeAsync, block, stream);
    if (DO(cuMemPoolCreate, &pool, &props) == CUDA_SUCCESS) {
        DO(cuMemAllocFromPoolAsync, &pooled, MIB, pool, stream);
        DO(cuMemFreeAsync, pooled, stream);
        DO(cuStreamSynchronize, stream);
        DO(cuMemPoolDestroy, pool);
    }
    DO(cuStreamSynchronize, stream);
}

static void copy(void)
{
    static unsigned char sent[100001], received[100001];
    CUdeviceptr first = 0, second = 0;
    for (size_t at = 0; at < COUNT(sent); at++)
        sent[at] = (unsigned char)(at * 31 + at / 251);
    DO(cuMemAlloc_v2, &first, sizeof sent);
    DO(cuMemAlloc_v2, &second, sizeof sent);
    DO(cuMemcpyHtoD_v2, first, sent, sizeof sent);
    DO(cuMemcpyDtoD_v2, second, first, sizeof sent);
    DO(cuMemcpyDtoH_v2, received, second, sizeof sent);
    print_same("copied", sent, received, sizeof sent);
    DO(cuMemsetD8Async, first, 0x5a, sizeof sent, stream);
    DO(cuMemcpyHtoDAsync_v2, first, sent, sizeof sent / 2, stream);
    DO(cuMemcpyDtoDAsync_v2, second, first, sizeof sent, stream);
    DO(cuMemcpyDtoHAsync_v2, received, second, sizeof sent, stream);
    DO(cuStreamSynchronize, stream);
    memset(sent + sizeof sent / 2, 0x5a, sizeof sent - sizeof sent / 2);
    print_same("copied in order", sent, received, sizeof sent);
    DO(cuMemcpyDtoH_v2, received, 0x10, sizeof received);
    DO(cuMemFree_v2, first);
    DO(cuMemFree_v2, second);
}

static CUresult launch(CUfunction function, CUstream where)
{
    return DO(cuLaunchKernel, function, 4, 1, 1, 64, 1, 1, 0, where, spin_params, NULL);
}

static void launch_kernels(CUmodule *module)
{
    CUlaunchConfig config = { .grid = { 4, 1, 1 }, .block = { 64, 1, 1 }, .stream = stream };
    CUevent begin = NULL, end = NULL;
    CUfunction none = NULL;
    float elapsed_ms = 0;
    DO(cuModuleLoadData, module, SPIN_PTX);
    DO(cuModuleGetFunction, &none, *module, "no such kernel");
    DO(cuModuleGetFunction, &spin, *module, "spin");
    DO(cuEventCreate, &begin, 0);
    DO(cuEventCreate, &end, 0);
    DO(cuEventRecord, begin, stream);
    launch(spin, stream);
    DO(cuLaunchKernelEx, &config, spin, spin_params, NULL);
    DO(cuLaunchCooperativeKernel, spin, 4, 1, 1, 64, 1, 1, 0, stream, spin_params);
    DO(cuEventRecord, end, stream);
    DO(cuStreamWaitEvent, NULL, end, 0);
    launch(spin, NULL);
    DO(cuEventSynchronize, end);
    DO(cuEventQuery, end);
    DO(cuEventElapsedTime, &elapsed_ms, begin, end);
    printf("three kernels took %s\n", elapsed_ms > 0 ? "time" : "no time");
    DO(cuStreamSynchronize, stream);
    DO(cuStreamQuery, stream);
    DO(cuCtxSynchronize, );
    launch(NULL, stream);
    DO(cuLaunchKernel, spin, 4, 1, 1, 4096, 1, 1, 0, stream, spin_params, NULL);
    DO(cuEventDestroy_v2, begin);
    DO(cuEventDestroy_v2, end);
}

static void graph_by_hand(void)
{
    CUDA_KERNEL_NODE_PARAMS kernel = { .function = spin, .grid = { 2, 1, 1 }, .block = { 32, 1, 1 }, .params = spin_params };
    CUDA_MEMSET_NODE_PARAMS fill = { .value = 0x42, .element_bytes = 1, .width = 4096, .height = 1 };
    unsigned char received[4096], expected[4096];
    CUgraph graph = NULL;
    CUgraphNode node[3];
    CUgraphExec exec = NULL;
    size_t nodes = 0;
    memset(expected, 0x42, sizeof expected);
    DO(cuMemAlloc_v2, &fill.dst, sizeof received);
    DO(cuGraphCreate, &graph, 0);
    DO(cuGraphAddEmptyNode, &node[0], graph, NULL, 0);
    DO(cuGraphAddKernelNode_v2, &node[1], graph, &node[0], 1, &kernel);
    DO(cuGraphAddMemsetNode, &node[2], graph, &node[1], 1, &fill, context);
    DO(cuGraphGetNodes, graph, NULL, &nodes);
    printf("%zu nodes\n", nodes);
    DO(cuGraphInstantiateWithFlags, &exec, graph, 0);
    DO(cuGraphLaunch, exec, stream);
    kernel.grid[0] = 8;
    DO(cuGraphExecKernelNodeSetParams_v2, exec, node[1], &kernel);
    DO(cuGraphLaunch, exec, stream);
    DO(cuStreamSynchronize, stream);
    DO(cuMemcpyDtoH_v2, received, fill.dst, sizeof received);
    print_same("set by the graph", received, expected, sizeof received);
    DO(cuGraphExecDestroy, exec);
    DO(cuGraphDestroy, graph);
    DO(cuMemFree_v2, fill.dst);
}

static CUgraph capture(unsigned kernels)
{
    CUgraph graph = NULL;
    DO(cuStreamBeginCapture_v2, stream, CAPTURE_GLOBAL);
    for (unsigned i = 0; i < kernels; i++)
        launch(spin, stream);
    DO(cuStreamEndCapture, stream, &graph);
    return graph;
}

static void graph_by_capture(void)
{
    CUgraph graph = capture(3), same_shape = capture(3), longer = capture(4);
    CUgraphExec exec = NULL;
    CUgraphExecUpdateResultInfo info = { 0 };
    DO(cuGraphInstantiateWithFlags, &exec, graph, 0);
    DO(cuGraphLaunch, exec, stream);
    DO(cuGraphExecUpdate_v2, exec, same_shape, &info);
    DO(cuGraphLaunch, exec, stream);
    DO(cuGraphExecUpdate_v2, exec, longer, &info);
    DO(cuStreamSynchronize, stream);
    DO(cuGraphExecDestroy, exec);
    DO(cuGraphDestroy, graph);
    DO(cuGraphDestroy, same_shape);
    DO(cuGraphDestroy, longer);
}

static void ask_nvml(void)
{
    unsigned count = 0, processes = 8;
    nvmlDevice_t board = NULL;
    nvmlMemory_t memory = { 0 };
    nvmlMemory_v2_t memory_v2 = { .version = NVML_MEMORY_V2 }, wrong_version = { .version = 77 };
    nvmlProcessInfo_t process[8];
    char name[96] = "", uuid[96] = "";
    DO_NVML(nvmlInit_v2, );
    DO_NVML(nvmlDeviceGetCount_v2, &count);
    DO_NVML(nvmlDeviceGetHandleByIndex_v2, 0, &board);
    DO_NVML(nvmlDeviceGetHandleByIndex_v2, 99, &board);
    DO_NVML(nvmlDeviceGetName, board, name, sizeof name);
    DO_NVML(nvmlDeviceGetUUID, board, uuid, sizeof uuid);
    DO_NVML(nvmlDeviceGetMemoryInfo, board, &memory);
    DO_NVML(nvmlDeviceGetMemoryInfo_v2, board, &memory_v2);
    DO_NVML(nvmlDeviceGetMemoryInfo_v2, board, &wrong_version);
    DO_NVML(nvmlDeviceGetComputeRunningProcesses_v3, board, &processes, process);
    printf("%u boards, %s, total %llu and %llu, %u processes\n", count, name, memory.total, memory_v2.total, processes);
    DO_NVML(nvmlShutdown, );
}

int main(int argc, char **argv)
{
    CUmodule module = NULL;
    if (argc != 2)
        fail("usage: body DOOR");
    open_doors(argv[1]);
    ask_devices();
    make_context();
    allocate_linear();
    allocate_small_addresses();
    allocate_arrays();
    map_memory();
    allocate_in_stream_order();
    copy();
    launch_kernels(&module);
    graph_by_hand();
    graph_by_capture();
    ask_nvml();
    DO(cuModuleUnload, module);
    DO(cuStreamDestroy_v2, stream);
    DO(cuDevicePrimaryCtxRelease_v2, device);
    DO(cuDevicePrimaryCtxRelease_v2, device);
    return 0;
}
