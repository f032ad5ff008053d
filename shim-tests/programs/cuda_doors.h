/* What the test programs use of the CUDA driver API and NVML, and the doors through which they get at it.
 *
 * Names, numbers and layouts are the driver's (cuda.h 12.4, nvml.h 12.9: facts, retold); the words are ours.
 * A program is compiled twice: with LINKED it calls the libraries as any linked program does; without, it calls
 * through a table that `open_doors` fills by the door that is named on its command line. */
#ifndef CUDA_DOORS_H
#define CUDA_DOORS_H

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef unsigned int CUdeviceptr_v1;
typedef unsigned long long CUmemGenericAllocationHandle;
typedef struct opaque_context *CUcontext;
typedef struct opaque_module *CUmodule;
typedef struct opaque_function *CUfunction;
typedef struct opaque_stream *CUstream;
typedef struct opaque_event *CUevent;
typedef struct opaque_array *CUarray;
typedef struct opaque_mipmap *CUmipmappedArray;
typedef struct opaque_pool *CUmemoryPool;
typedef struct opaque_graph *CUgraph;
typedef struct opaque_node *CUgraphNode;
typedef struct opaque_exec *CUgraphExec;
typedef struct { unsigned char bytes[16]; } CUuuid;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_SUPPORTED = 801,
};
enum { ATTRIBUTE_MULTIPROCESSOR_COUNT = 16, FORMAT_UNSIGNED_INT8 = 1, MEM_ATTACH_GLOBAL = 1 };
enum { ALLOCATION_PINNED = 1, LOCATION_DEVICE = 1, ACCESS_READ_WRITE = 3, CAPTURE_GLOBAL = 0 };

typedef struct { size_t width, height; int format; unsigned channels; } CUDA_ARRAY_DESCRIPTOR;
typedef struct { unsigned width, height; int format; unsigned channels; } CUDA_ARRAY_DESCRIPTOR_v1;
typedef struct { size_t width, height, depth; int format; unsigned channels, flags; } CUDA_ARRAY3D_DESCRIPTOR;
typedef struct { unsigned width, height, depth; int format; unsigned channels, flags; } CUDA_ARRAY3D_DESCRIPTOR_v1;
typedef struct { int type, id; } CUmemLocation;
typedef struct {
    int type, handle_types;
    CUmemLocation location;
    void *win32;
    unsigned char compression, gpu_direct;
    unsigned short usage;
    unsigned char reserved[4];
} CUmemAllocationProp;
typedef struct { CUmemLocation location; int flags; } CUmemAccessDesc;
typedef struct {
    int type, handle_types;
    CUmemLocation location;
    void *win32;
    size_t bytes_max;
    unsigned char reserved[56];
} CUmemPoolProps;
typedef struct {
    unsigned grid[3], block[3], shared_bytes;
    CUstream stream;
    void *attributes;
    unsigned attribute_count;
} CUlaunchConfig;
typedef struct {
    CUfunction function;
    unsigned grid[3], block[3], shared_bytes;
    void **params, **extra;
    void *kernel;
    CUcontext context;
} CUDA_KERNEL_NODE_PARAMS;
typedef struct {
    CUdeviceptr dst;
    size_t pitch;
    unsigned value, element_bytes;
    size_t width, height;
} CUDA_MEMSET_NODE_PARAMS;
typedef struct {
    CUmemPoolProps pool;
    const CUmemAccessDesc *access;
    size_t access_count, bytes;
    CUdeviceptr address;
} CUDA_MEM_ALLOC_NODE_PARAMS;
typedef struct { int result; CUgraphNode node, from; } CUgraphExecUpdateResultInfo;

/* The driver functions that the programs use: symbol, the name and CUDA version that `cuGetProcAddress` knows it by, arguments. */
#define LAUNCH_ARGUMENTS \
    CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **
#define DRIVER_FUNCTIONS(X) \
    X(cuInit, "cuInit", 2000, (unsigned)) \
    X(cuDriverGetVersion, "cuDriverGetVersion", 2020, (int *)) \
    X(cuGetErrorName, "cuGetErrorName", 6000, (CUresult, const char **)) \
    X(cuDeviceGetCount, "cuDeviceGetCount", 2000, (int *)) \
    X(cuDeviceGet, "cuDeviceGet", 2000, (CUdevice *, int)) \
    X(cuDeviceGetName, "cuDeviceGetName", 2000, (char *, int, CUdevice)) \
    X(cuDeviceGetUuid, "cuDeviceGetUuid", 9020, (CUuuid *, CUdevice)) \
    X(cuDeviceGetAttribute, "cuDeviceGetAttribute", 2000, (int *, int, CUdevice)) \
    X(cuDeviceTotalMem, "cuDeviceTotalMem", 2000, (unsigned *, CUdevice)) \
    X(cuDeviceTotalMem_v2, "cuDeviceTotalMem", 3020, (size_t *, CUdevice)) \
    X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", 7000, (CUcontext *, CUdevice)) \
    X(cuDevicePrimaryCtxRelease_v2, "cuDevicePrimaryCtxRelease", 11000, (CUdevice)) \
    X(cuCtxCreate_v2, "cuCtxCreate", 3020, (CUcontext *, unsigned, CUdevice)) \
    X(cuCtxDestroy_v2, "cuCtxDestroy", 4000, (CUcontext)) \
    X(cuCtxAttach, "cuCtxAttach", 2000, (CUcontext *, unsigned)) \
    X(cuCtxDetach, "cuCtxDetach", 2000, (CUcontext)) \
    X(cuCtxGetCurrent, "cuCtxGetCurrent", 4000, (CUcontext *)) \
    X(cuCtxSetCurrent, "cuCtxSetCurrent", 4000, (CUcontext)) \
    X(cuCtxGetDevice, "cuCtxGetDevice", 2000, (CUdevice *)) \
    X(cuCtxSynchronize, "cuCtxSynchronize", 2000, (void)) \
    X(cuMemGetInfo, "cuMemGetInfo", 2000, (unsigned *, unsigned *)) \
    X(cuMemGetInfo_v2, "cuMemGetInfo", 3020, (size_t *, size_t *)) \
    X(cuMemAlloc, "cuMemAlloc", 2000, (CUdeviceptr_v1 *, unsigned)) \
    X(cuMemAlloc_v2, "cuMemAlloc", 3020, (CUdeviceptr *, size_t)) \
    X(cuMemAllocPitch_v2, "cuMemAllocPitch", 3020, (CUdeviceptr *, size_t *, size_t, size_t, unsigned)) \
    X(cuMemAllocManaged, "cuMemAllocManaged", 6000, (CUdeviceptr *, size_t, unsigned)) \
    X(cuMemFree, "cuMemFree", 2000, (CUdeviceptr_v1)) \
    X(cuMemFree_v2, "cuMemFree", 3020, (CUdeviceptr)) \
    X(cuMemAllocHost_v2, "cuMemAllocHost", 3020, (void **, size_t)) \
    X(cuMemHostAlloc, "cuMemHostAlloc", 2020, (void **, size_t, unsigned)) \
    X(cuMemFreeHost, "cuMemFreeHost", 2000, (void *)) \
    X(cuArrayCreate_v2, "cuArrayCreate", 3020, (CUarray *, const CUDA_ARRAY_DESCRIPTOR *)) \
    X(cuArray3DCreate_v2, "cuArray3DCreate", 3020, (CUarray *, const CUDA_ARRAY3D_DESCRIPTOR *)) \
    X(cuArrayDestroy, "cuArrayDestroy", 2000, (CUarray)) \
    X(cuMipmappedArrayCreate, "cuMipmappedArrayCreate", 5000, (CUmipmappedArray *, const CUDA_ARRAY3D_DESCRIPTOR *, unsigned)) \
    X(cuMipmappedArrayDestroy, "cuMipmappedArrayDestroy", 5000, (CUmipmappedArray)) \
    X(cuMemGetAllocationGranularity, "cuMemGetAllocationGranularity", 10020, (size_t *, const CUmemAllocationProp *, int)) \
    X(cuMemCreate, "cuMemCreate", 10020, (CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *, unsigned long long)) \
    X(cuMemRelease, "cuMemRelease", 10020, (CUmemGenericAllocationHandle)) \
    X(cuMemAddressReserve, "cuMemAddressReserve", 10020, (CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long)) \
    X(cuMemAddressFree, "cuMemAddressFree", 10020, (CUdeviceptr, size_t)) \
    X(cuMemMap, "cuMemMap", 10020, (CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long)) \
    X(cuMemUnmap, "cuMemUnmap", 10020, (CUdeviceptr, size_t)) \
    X(cuMemSetAccess, "cuMemSetAccess", 10020, (CUdeviceptr, size_t, const CUmemAccessDesc *, size_t)) \
    X(cuMemPoolCreate, "cuMemPoolCreate", 11020, (CUmemoryPool *, const CUmemPoolProps *)) \
    X(cuMemRetainAllocationHandle, "cuMemRetainAllocationHandle", 11000, (CUmemGenericAllocationHandle *, void *)) \
    X(cuMemExportToShareableHandle, "cuMemExportToShareableHandle", 10020, (void *, CUmemGenericAllocationHandle, int, unsigned long long)) \
    X(cuMemImportFromShareableHandle, "cuMemImportFromShareableHandle", 10020, (CUmemGenericAllocationHandle *, void *, int)) \
    X(cuDeviceGetDefaultMemPool, "cuDeviceGetDefaultMemPool", 11020, (CUmemoryPool *, CUdevice)) \
    X(cuDeviceSetMemPool, "cuDeviceSetMemPool", 11020, (CUdevice, CUmemoryPool)) \
    X(cuMemPoolSetAttribute, "cuMemPoolSetAttribute", 11020, (CUmemoryPool, int, void *)) \
    X(cuMemPoolTrimTo, "cuMemPoolTrimTo", 11020, (CUmemoryPool, size_t)) \
    X(cuMemPoolDestroy, "cuMemPoolDestroy", 11020, (CUmemoryPool)) \
    X(cuMemAllocAsync, "cuMemAllocAsync", 11020, (CUdeviceptr *, size_t, CUstream)) \
    X(cuMemAllocFromPoolAsync, "cuMemAllocFromPoolAsync", 11020, (CUdeviceptr *, size_t, CUmemoryPool, CUstream)) \
    X(cuMemFreeAsync, "cuMemFreeAsync", 11020, (CUdeviceptr, CUstream)) \
    X(cuMemcpyHtoD_v2, "cuMemcpyHtoD", 3020, (CUdeviceptr, const void *, size_t)) \
    X(cuMemcpyDtoH_v2, "cuMemcpyDtoH", 3020, (void *, CUdeviceptr, size_t)) \
    X(cuMemcpyDtoD_v2, "cuMemcpyDtoD", 3020, (CUdeviceptr, CUdeviceptr, size_t)) \
    X(cuMemcpyHtoDAsync_v2, "cuMemcpyHtoDAsync", 3020, (CUdeviceptr, const void *, size_t, CUstream)) \
    X(cuMemcpyDtoHAsync_v2, "cuMemcpyDtoHAsync", 3020, (void *, CUdeviceptr, size_t, CUstream)) \
    X(cuMemcpyDtoDAsync_v2, "cuMemcpyDtoDAsync", 3020, (CUdeviceptr, CUdeviceptr, size_t, CUstream)) \
    X(cuMemsetD8_v2, "cuMemsetD8", 3020, (CUdeviceptr, unsigned char, size_t)) \
    X(cuMemsetD8Async, "cuMemsetD8Async", 3020, (CUdeviceptr, unsigned char, size_t, CUstream)) \
    X(cuStreamCreate, "cuStreamCreate", 2000, (CUstream *, unsigned)) \
    X(cuStreamQuery, "cuStreamQuery", 2000, (CUstream)) \
    X(cuStreamSynchronize, "cuStreamSynchronize", 2000, (CUstream)) \
    X(cuStreamWaitEvent, "cuStreamWaitEvent", 3020, (CUstream, CUevent, unsigned)) \
    X(cuStreamDestroy_v2, "cuStreamDestroy", 4000, (CUstream)) \
    X(cuStreamBeginCapture_v2, "cuStreamBeginCapture", 10010, (CUstream, int)) \
    X(cuStreamEndCapture, "cuStreamEndCapture", 10000, (CUstream, CUgraph *)) \
    X(cuEventCreate, "cuEventCreate", 2000, (CUevent *, unsigned)) \
    X(cuEventRecord, "cuEventRecord", 2000, (CUevent, CUstream)) \
    X(cuEventQuery, "cuEventQuery", 2000, (CUevent)) \
    X(cuEventSynchronize, "cuEventSynchronize", 2000, (CUevent)) \
    X(cuEventElapsedTime, "cuEventElapsedTime", 2000, (float *, CUevent, CUevent)) \
    X(cuEventDestroy_v2, "cuEventDestroy", 4000, (CUevent)) \
    X(cuModuleLoadData, "cuModuleLoadData", 2000, (CUmodule *, const void *)) \
    X(cuModuleGetFunction, "cuModuleGetFunction", 2000, (CUfunction *, CUmodule, const char *)) \
    X(cuModuleUnload, "cuModuleUnload", 2000, (CUmodule)) \
    X(cuFuncGetAttribute, "cuFuncGetAttribute", 2020, (int *, int, CUfunction)) \
    X(cuLaunchKernel, "cuLaunchKernel", 4000, (LAUNCH_ARGUMENTS, void **)) \
    X(cuLaunchKernelEx, "cuLaunchKernelEx", 11060, (const CUlaunchConfig *, CUfunction, void **, void **)) \
    X(cuLaunchCooperativeKernel, "cuLaunchCooperativeKernel", 9000, (LAUNCH_ARGUMENTS)) \
    X(cuGraphCreate, "cuGraphCreate", 10000, (CUgraph *, unsigned)) \
    X(cuGraphAddKernelNode_v2, "cuGraphAddKernelNode", 12000, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, const CUDA_KERNEL_NODE_PARAMS *)) \
    X(cuGraphAddMemsetNode, "cuGraphAddMemsetNode", 10000, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, const CUDA_MEMSET_NODE_PARAMS *, CUcontext)) \
    X(cuGraphAddEmptyNode, "cuGraphAddEmptyNode", 10000, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t)) \
    X(cuGraphAddMemAllocNode, "cuGraphAddMemAllocNode", 11040, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, CUDA_MEM_ALLOC_NODE_PARAMS *)) \
    X(cuGraphAddMemFreeNode, "cuGraphAddMemFreeNode", 11040, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, CUdeviceptr)) \
    X(cuDeviceGraphMemTrim, "cuDeviceGraphMemTrim", 11040, (CUdevice)) \
    X(cuGraphUpload, "cuGraphUpload", 11010, (CUgraphExec, CUstream)) \
    X(cuGraphGetNodes, "cuGraphGetNodes", 10000, (CUgraph, CUgraphNode *, size_t *)) \
    X(cuGraphInstantiateWithFlags, "cuGraphInstantiateWithFlags", 11040, (CUgraphExec *, CUgraph, unsigned long long)) \
    X(cuGraphExecKernelNodeSetParams_v2, "cuGraphExecKernelNodeSetParams", 12000, (CUgraphExec, CUgraphNode, const CUDA_KERNEL_NODE_PARAMS *)) \
    X(cuGraphExecUpdate_v2, "cuGraphExecUpdate", 12000, (CUgraphExec, CUgraph, CUgraphExecUpdateResultInfo *)) \
    X(cuGraphLaunch, "cuGraphLaunch", 10000, (CUgraphExec, CUstream)) \
    X(cuGraphExecDestroy, "cuGraphExecDestroy", 10000, (CUgraphExec)) \
    X(cuGraphDestroy, "cuGraphDestroy", 10000, (CUgraph))

typedef struct opaque_nvml_device *nvmlDevice_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } nvmlProcessInfo_t;
enum { NVML_MEMORY_V2 = sizeof(nvmlMemory_v2_t) | 2 << 24 };

#define NVML_FUNCTIONS(X) \
    X(nvmlInit_v2, (void)) \
    X(nvmlShutdown, (void)) \
    X(nvmlDeviceGetCount_v2, (unsigned *)) \
    X(nvmlDeviceGetHandleByIndex_v2, (unsigned, nvmlDevice_t *)) \
    X(nvmlDeviceGetName, (nvmlDevice_t, char *, unsigned)) \
    X(nvmlDeviceGetUUID, (nvmlDevice_t, char *, unsigned)) \
    X(nvmlDeviceGetMemoryInfo, (nvmlDevice_t, nvmlMemory_t *)) \
    X(nvmlDeviceGetMemoryInfo_v2, (nvmlDevice_t, nvmlMemory_v2_t *)) \
    X(nvmlDeviceGetComputeRunningProcesses_v3, (nvmlDevice_t, unsigned *, nvmlProcessInfo_t *))

static void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2), unused));
static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(70);
}

#ifdef LINKED

#define DECLARE_DRIVER(symbol, base, version, arguments) extern CUresult symbol arguments;
#define DECLARE_NVML(symbol, arguments) extern CUresult symbol arguments;
DRIVER_FUNCTIONS(DECLARE_DRIVER)
NVML_FUNCTIONS(DECLARE_NVML)
#define CU(symbol) symbol
#define NVML(symbol) symbol
static void __attribute__((unused)) open_doors(const char *door)
{
    if (strcmp(door, "linked"))
        fail("a linked program has one door, not %s", door);
}

#else

#define DRIVER_SLOT(symbol, base, version, arguments) CUresult(*symbol) arguments;
#define NVML_SLOT(symbol, arguments) CUresult(*symbol) arguments;
static struct { DRIVER_FUNCTIONS(DRIVER_SLOT) NVML_FUNCTIONS(NVML_SLOT) } doors;
#define CU(symbol) doors.symbol
#define NVML(symbol) doors.symbol

typedef void *find_next(const char *symbol);
typedef CUresult get_proc_address_v1(const char *, void **, int, unsigned long long);
typedef CUresult get_proc_address_v2(const char *, void **, int, unsigned long long, int *);

static void *open_library(const char *soname, int scope)
{
    void *library = dlopen(soname, RTLD_NOW | scope);
    if (!library)
        fail("%s", dlerror());
    return library;
}

/* `gpa1-0` … `gpa2-2`: version 1 or 2 of cuGetProcAddress with flags 0, 1 or 2. */
static void *ask_driver(const char *door, void *library, const char *base, int version)
{
    unsigned long long flags = (unsigned long long)(door[5] - '0');
    void *found = NULL;
    CUresult status;
    if (door[3] == '1') {
        get_proc_address_v1 *ask = (get_proc_address_v1 *)dlsym(library, "cuGetProcAddress");
        status = ask(base, &found, version, flags);
    } else {
        int answer = -1;
        get_proc_address_v2 *ask = (get_proc_address_v2 *)dlsym(library, "cuGetProcAddress_v2");
        status = ask(base, &found, version, flags, &answer);
    }
    return status == CUDA_SUCCESS ? found : NULL;
}

static void *find(const char *door, void *library, const char *symbol, const char *base, int version)
{
    if (!strcmp(door, "dlopen"))
        return dlsym(library, symbol);
    if (!strcmp(door, "default"))
        return dlsym(RTLD_DEFAULT, symbol);
    if (!strcmp(door, "next")) {
        find_next *next = (find_next *)dlsym(RTLD_DEFAULT, "find_next");
        if (!next)
            fail("the program is not linked with next_door.c");
        return next(symbol);
    }
    if (!strncmp(door, "gpa", 3) && base) {
        void *found = ask_driver(door, library, base, version);
        /* Names with a per-thread twin begin at 7.0 under flags 2, whatever the plain one's version. */
        return found || version >= 7000 ? found : ask_driver(door, library, base, 7000);
    }
    if (!strncmp(door, "gpa", 3))
        return dlsym(library, symbol);
    fail("no door is called %s", door);
}

#define FILL_DRIVER(symbol, base, version, arguments) \
    if (!(doors.symbol = (CUresult(*) arguments)find(door, driver, #symbol, base, version))) \
        fail("%s does not lead to %s", door, #symbol);
#define FILL_NVML(symbol, arguments) \
    if (!(doors.symbol = (CUresult(*) arguments)find(door, nvml, #symbol, NULL, 0))) \
        fail("%s does not lead to %s", door, #symbol);

/* Doors: `dlopen`, `default` (RTLD_DEFAULT), `next` (RTLD_NEXT), `gpa1-0` … `gpa2-2`. */
static void __attribute__((unused)) open_doors(const char *door)
{
    int scope = strcmp(door, "default") ? RTLD_LOCAL : RTLD_GLOBAL;
    void *driver = open_library("libcuda.so.1", scope), *nvml = open_library("libnvidia-ml.so.1", scope);
    DRIVER_FUNCTIONS(FILL_DRIVER)
    NVML_FUNCTIONS(FILL_NVML)
}

#endif

/* One kernel in PTX: a counted loop, so that it costs time and touches no memory. */
static const char SPIN_PTX[] __attribute__((unused)) =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry spin(.param .u32 rounds)\n{\n"
    "    .reg .pred %p<2>;\n    .reg .b32 %r<3>;\n"
    "    ld.param.u32 %r1, [rounds];\n    mov.u32 %r2, 0;\n"
    "again:\n    add.u32 %r2, %r2, 1;\n    setp.lt.u32 %p1, %r2, %r1;\n    @%p1 bra again;\n"
    "    ret;\n}\n";

#endif
