/* The kinds that images.c adds to tenant.c's. */
#ifndef IMAGES_H
#define IMAGES_H

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

typedef struct opaque_library *CUlibrary;
typedef struct opaque_kernel *CUkernel;
typedef struct opaque_green *CUgreenCtx;
typedef struct opaque_descriptor *CUdevResourceDesc;
typedef struct { int type; unsigned char rest[140]; } __attribute__((aligned(8))) CUdevResource;

enum { LIMIT_STACK_SIZE = 0, LIMIT_MALLOC_HEAP_SIZE = 2, RESOURCE_SM = 1, GREEN_DEFAULT_STREAM = 1 };
enum { FUNC_ATTRIBUTE_NUM_REGS = 4 };

extern CUresult cuLibraryLoadData(CUlibrary *, const void *, void *, void **, unsigned, void *, void **, unsigned);
extern CUresult cuLibraryUnload(CUlibrary);
extern CUresult cuLibraryGetModule(CUmodule *, CUlibrary);
extern CUresult cuLibraryGetKernel(CUkernel *, CUlibrary, const char *);
extern CUresult cuLibraryGetGlobal(CUdeviceptr *, size_t *, CUlibrary, const char *);
extern CUresult cuKernelGetFunction(CUfunction *, CUkernel);
extern CUresult cuKernelGetAttribute(int *, int, CUkernel, CUdevice);
extern CUresult cuFuncLoad(CUfunction);
extern CUresult cuCtxGetLimit(size_t *, int);
extern CUresult cuCtxSetLimit(int, size_t);
extern CUresult cuDeviceGetDevResource(CUdevice, CUdevResource *, int);
extern CUresult cuDevResourceGenerateDesc(CUdevResourceDesc *, CUdevResource *, unsigned);
extern CUresult cuGreenCtxCreate(CUgreenCtx *, CUdevResourceDesc, CUdevice, unsigned);
extern CUresult cuGreenCtxDestroy(CUgreenCtx);
typedef struct { int type, reserved[3]; CUDA_KERNEL_NODE_PARAMS kernel; char rest[160]; long long last; } CUgraphNodeParams;
extern CUresult cuGraphAddNode(CUgraphNode *, CUgraph, const CUgraphNode *, size_t, CUgraphNodeParams *);
extern CUresult cuGraphNodeSetParams(CUgraphNode, CUgraphNodeParams *);
extern CUresult cuLaunchHostFunc(CUstream, void (*)(void *), void *);
extern CUresult cuCtxFromGreenCtx(CUcontext *, CUgreenCtx);

/* A kernel that does nothing, and a variable of so many bytes. */
static const char *image_of(size_t bytes)
{
    static char text[512];
    snprintf(text, sizeof text,
             ".version 7.0\n.target sm_70\n.address_size 64\n.global .align 8 .b8 data[%zu];\n"
             ".visible .entry nothing()\n{\nret;\n}\n",
             bytes);
    return text;
}

static CUresult load_module(struct block *block, size_t bytes, size_t *charged)
{
    *charged = bytes;
    return CU(cuModuleLoadData)((CUmodule *)&block->handle, image_of(bytes));
}

static CUresult unload_module(struct block *block)
{
    return CU(cuModuleUnload)(block->handle);
}

static CUresult load_library(struct block *block, size_t bytes, size_t *charged)
{
    *charged = bytes;
    return cuLibraryLoadData((CUlibrary *)&block->handle, image_of(bytes), NULL, NULL, 0, NULL, NULL, 0);
}

static CUresult unload_library(struct block *block)
{
    return cuLibraryUnload(block->handle);
}

static CUresult load_library_module(struct block *block, size_t bytes, size_t *charged)
{
    CUmodule module = NULL;
    CUresult status = load_library(block, bytes, charged);
    return status ? status : cuLibraryGetModule(&module, block->handle);
}

static CUresult load_library_global(struct block *block, size_t bytes, size_t *charged)
{
    CUdeviceptr address = 0;
    size_t size = 0;
    CUresult status = load_library(block, bytes, charged);
    return status ? status : cuLibraryGetGlobal(&address, &size, block->handle, "data");
}

static CUresult load_library_kernel(struct block *block, size_t bytes, size_t *charged, CUkernel *kernel)
{
    CUresult status = load_library(block, bytes, charged);
    return status ? status : cuLibraryGetKernel(kernel, block->handle, "nothing");
}

static CUresult load_library_function(struct block *block, size_t bytes, size_t *charged)
{
    CUkernel kernel = NULL;
    CUfunction function = NULL;
    CUresult status = load_library_kernel(block, bytes, charged, &kernel);
    return status ? status : cuKernelGetFunction(&function, kernel);
}

static CUresult load_library_attribute(struct block *block, size_t bytes, size_t *charged)
{
    CUkernel kernel = NULL;
    int registers = 0;
    CUresult status = load_library_kernel(block, bytes, charged, &kernel);
    return status ? status : CU(cuFuncGetAttribute)(&registers, FUNC_ATTRIBUTE_NUM_REGS, (CUfunction)kernel);
}

static CUresult load_kernel_attribute(struct block *block, size_t bytes, size_t *charged)
{
    CUkernel kernel = NULL;
    int registers = 0;
    CUresult status = load_library_kernel(block, bytes, charged, &kernel);
    return status ? status : cuKernelGetAttribute(&registers, FUNC_ATTRIBUTE_NUM_REGS, kernel, device);
}

static CUresult load_library_by_load(struct block *block, size_t bytes, size_t *charged)
{
    CUkernel kernel = NULL;
    CUresult status = load_library_kernel(block, bytes, charged, &kernel);
    return status ? status : cuFuncLoad((CUfunction)kernel);
}

static CUresult load_library_launch(struct block *block, size_t bytes, size_t *charged)
{
    CUkernel kernel = NULL;
    CUresult status = load_library_kernel(block, bytes, charged, &kernel);
    return status ? status : CU(cuLaunchKernel)((CUfunction)kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
}

static CUresult load_library_launch_ex(struct block *block, size_t bytes, size_t *charged)
{
    CUkernel kernel = NULL;
    CUlaunchConfig config = { .grid = { 1, 1, 1 }, .block = { 1, 1, 1 }, .stream = stream };
    CUresult status = load_library_kernel(block, bytes, charged, &kernel);
    return status ? status : CU(cuLaunchKernelEx)(&config, (CUfunction)kernel, NULL, NULL);
}

static CUresult load_library_node(struct block *block, size_t bytes, size_t *charged)
{
    CUkernel kernel = NULL;
    CUgraph graph = NULL;
    CUgraphNode node = NULL;
    CUresult status = load_library_kernel(block, bytes, charged, &kernel);
    CUDA_KERNEL_NODE_PARAMS params = { .function = (CUfunction)kernel, .grid = { 1, 1, 1 }, .block = { 1, 1, 1 } };
    status = status ? status : CU(cuGraphCreate)(&graph, 0);
    status = status ? status : CU(cuGraphAddKernelNode_v2)(&node, graph, NULL, 0, &params);
    return status ? status : CU(cuGraphDestroy)(graph);
}

/* Nodes of any kind: one of a kernel that is there already, if `first`, which is then made another's. */
static CUresult add_any_node(struct block *block, size_t bytes, size_t *charged, CUfunction first)
{
    CUkernel kernel = NULL;
    CUgraph graph = NULL;
    CUgraphNode node = NULL;
    CUresult status = load_library_kernel(block, bytes, charged, &kernel);
    CUgraphNodeParams params = { .kernel = { .function = first ? first : (CUfunction)kernel, .grid = { 1, 1, 1 }, .block = { 1, 1, 1 } } };
    status = status ? status : CU(cuGraphCreate)(&graph, 0);
    status = status ? status : cuGraphAddNode(&node, graph, NULL, 0, &params);
    params.kernel.function = (CUfunction)kernel;
    if (first)
        status = status ? status : cuGraphNodeSetParams(node, &params);
    return status ? status : CU(cuGraphDestroy)(graph);
}

static CUresult load_library_any_node(struct block *block, size_t bytes, size_t *charged)
{
    return add_any_node(block, bytes, charged, NULL);
}

static CUresult load_library_other_node(struct block *block, size_t bytes, size_t *charged)
{
    static CUfunction first;
    CUmodule module = NULL;
    CUresult status = CUDA_SUCCESS;
    if (!first) {
        status = CU(cuModuleLoadData)(&module, image_of(8));
        status = status ? status : CU(cuModuleGetFunction)(&first, module, "nothing");
    }
    return status ? status : add_any_node(block, bytes, charged, first);
}

/* Not an allocator: what NVML says that this process holds, by itself. */
static CUresult look_at_oneself(struct block *block, size_t bytes, size_t *charged)
{
    nvmlDevice_t board = NULL;
    nvmlProcessInfo_t processes[8];
    unsigned count = 8;
    (void)block, (void)bytes;
    CUresult status = NVML(nvmlInit_v2)();
    status = status ? status : NVML(nvmlDeviceGetHandleByIndex_v2)(0, &board);
    status = status ? status : NVML(nvmlDeviceGetComputeRunningProcesses_v3)(board, &count, processes);
    if (!status && (count != 1 || processes[0].pid != (unsigned)getpid()))
        fail("it is not alone: %u processes, the first is %u", count, processes[0].pid);
    *charged = status ? 0 : processes[0].bytes;
    return status;
}

/* Not allocators: work that does not end before it is let go, and a block that another thread is freeing, behind that work. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_t freeing;
static volatile int is_freeing;

static void wait_at_gate(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
}

static CUresult hold_stream(struct block *block, size_t bytes, size_t *charged)
{
    (void)block, (void)bytes;
    *charged = 0;
    pthread_mutex_lock(&gate);
    return cuLaunchHostFunc(stream, wait_at_gate, NULL);
}

static CUresult let_go(struct block *block)
{
    (void)block;
    pthread_mutex_unlock(&gate);
    return CU(cuStreamSynchronize)(stream);
}

static void *free_block(void *argument)
{
    struct block *block = argument;
    CUresult status = CU(cuCtxSetCurrent)(block->handle);
    is_freeing = 1;
    return (void *)(size_t)(status ? status : CU(cuMemFree_v2)(block->address));
}

static CUresult free_behind(struct block *block, size_t bytes, size_t *charged)
{
    CUresult status = CU(cuCtxGetCurrent)((CUcontext *)&block->handle);
    status = status ? status : CU(cuMemAlloc_v2)(&block->address, bytes);
    *charged = bytes;
    is_freeing = 0;
    if (!status && pthread_create(&freeing, NULL, free_block, block))
        fail("no thread");
    for (int at = 0; !status && (!is_freeing || at < 1000); at++)
        sched_yield();
    return status;
}

static CUresult join_free(struct block *block)
{
    void *status = NULL;
    (void)block;
    pthread_join(freeing, &status);
    return (CUresult)(size_t)status;
}

/* A limit, and the value to go back to, which stands in the block's address. */
static CUresult raise_limit(struct block *block, int limit, size_t value)
{
    size_t before = 0;
    CUresult status = cuCtxGetLimit(&before, limit);
    block->address = before;
    return status ? status : cuCtxSetLimit(limit, value);
}

static CUresult raise_heap(struct block *block, size_t bytes, size_t *charged)
{
    *charged = bytes;
    return raise_limit(block, LIMIT_MALLOC_HEAP_SIZE, bytes);
}

static CUresult lower_heap(struct block *block)
{
    return cuCtxSetLimit(LIMIT_MALLOC_HEAP_SIZE, block->address);
}

/* BYTES of a thread's stack. */
static CUresult raise_stack(struct block *block, size_t bytes, size_t *charged)
{
    *charged = bytes;
    return raise_limit(block, LIMIT_STACK_SIZE, bytes);
}

static CUresult lower_stack(struct block *block)
{
    return cuCtxSetLimit(LIMIT_STACK_SIZE, block->address);
}

/* With all SMs. It needs no context. */
static CUresult make_green_context(struct block *block, size_t bytes, size_t *charged)
{
    CUdevResource sms;
    CUdevResourceDesc descriptor = NULL;
    (void)bytes;
    *charged = 0;
    CUresult status = CU(cuInit)(0);
    status = status ? status : CU(cuDeviceGet)(&device, 0);
    status = status ? status : cuDeviceGetDevResource(device, &sms, RESOURCE_SM);
    status = status ? status : cuDevResourceGenerateDesc(&descriptor, &sms, 1);
    return status ? status : cuGreenCtxCreate((CUgreenCtx *)&block->handle, descriptor, device, GREEN_DEFAULT_STREAM);
}

/* The same, and current. */
static CUresult enter_green_context(struct block *block, size_t bytes, size_t *charged)
{
    CUcontext current = NULL;
    CUresult status = make_green_context(block, bytes, charged);
    status = status ? status : cuCtxFromGreenCtx(&current, block->handle);
    return status ? status : CU(cuCtxSetCurrent)(current);
}

static CUresult end_green_context(struct block *block)
{
    return cuGreenCtxDestroy(block->handle);
}

#endif
