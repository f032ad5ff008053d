/* A tenant that also loads images, raises limits and makes green contexts: memory that no allocator is asked for.
 *
 * As tenant.c, with more kinds for `alloc`. Their BYTES are a module's variable, or a limit. It is linked with the driver: the doors
 * of every other program know nothing of these functions. */
#define MORE_KINDS \
    { "cuModuleLoadData", load_module, unload_module }, \
    { "cuLibraryLoadData", load_library, unload_library }, \
    { "cuLibraryGetModule", load_library_module, unload_library }, \
    { "cuLibraryGetGlobal", load_library_global, unload_library }, \
    { "cuKernelGetFunction", load_library_function, unload_library }, \
    { "cuFuncGetAttribute", load_library_attribute, unload_library }, \
    { "cuKernelGetAttribute", load_kernel_attribute, unload_library }, \
    { "cuFuncLoad", load_library_by_load, unload_library }, \
    { "cuLaunchKernel", load_library_launch, unload_library }, \
    { "cuGraphAddKernelNode_v2", load_library_node, unload_library }, \
    { "cuGraphAddNode", load_library_any_node, unload_library }, \
    { "cuGraphNodeSetParams", load_library_other_node, unload_library }, \
    { "cuLaunchKernelEx", load_library_launch_ex, unload_library }, \
    { "cuLaunchHostFunc", hold_stream, let_go }, \
    { "cuMemFree_v2-behind", free_behind, join_free }, \
    { "nvmlDeviceGetComputeRunningProcesses_v3", look_at_oneself, NULL }, \
    { "cuCtxSetLimit-heap", raise_heap, lower_heap }, \
    { "cuCtxSetLimit-stack", raise_stack, lower_stack }, \
    { "cuCtxFromGreenCtx", enter_green_context, end_green_context }, \
    { "cuGreenCtxCreate", make_green_context, end_green_context },
#define MORE_KINDS_HEADER "images.h"
#include "tenant.c"
