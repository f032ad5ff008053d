/* The allocators that tenant.c offers, by the name of the driver function. */
#ifndef ALLOCATORS_H
#define ALLOCATORS_H

#include "cuda_doors.h"

struct block {
    char name[32];
    const struct kind *kind;
    CUdeviceptr address;
    void *handle;
    CUmemoryPool pool;
    CUdeviceptr window;
    size_t window_bytes;
    CUgraph graph;
    CUgraphExec exec;
    int descriptor;
};

struct kind {
    const char *name;
    CUresult (*allocate)(struct block *, size_t bytes, size_t *charged);
    CUresult (*release)(struct block *);
};

/* Of an array, so that large ones stay within the extents that devices allow. */
#define ROW_BYTES 32768

/* Where cuMemCreate and pools allocate, and in which stream order. */
static CUdevice device;
static CUstream stream;

static CUresult allocate_linear(struct block *block, size_t bytes, size_t *charged)
{
    *charged = bytes;
    return CU(cuMemAlloc_v2)(&block->address, bytes);
}

static CUresult release_linear(struct block *block)
{
    return CU(cuMemFree_v2)(block->address);
}

static CUresult allocate_linear_v1(struct block *block, size_t bytes, size_t *charged)
{
    CUdeviceptr_v1 address = 0;
    CUresult status = CU(cuMemAlloc)(&address, (unsigned)bytes);
    *charged = bytes;
    block->address = address;
    return status;
}

static CUresult release_linear_v1(struct block *block)
{
    return CU(cuMemFree)((CUdeviceptr_v1)block->address);
}

/* A refusal writes nothing. */
static CUresult untouched_if(CUresult status, const void *before, const void *after)
{
    if (status && before != after)
        fail("refused with %u, and %p became %p", status, before, after);
    return status;
}

static CUresult allocate_pitch(struct block *block, size_t bytes, size_t *charged)
{
    size_t pitch = 0, rows = bytes / 1000;
    CUdeviceptr before = block->address;
    CUresult status = CU(cuMemAllocPitch_v2)(&block->address, &pitch, 1000, rows, 4);
    *charged = pitch * rows;
    return untouched_if(status, (void *)before, (void *)block->address);
}

static CUresult allocate_managed(struct block *block, size_t bytes, size_t *charged)
{
    *charged = bytes;
    return CU(cuMemAllocManaged)(&block->address, bytes, MEM_ATTACH_GLOBAL);
}

static CUresult allocate_physical(struct block *block, size_t bytes, size_t *charged)
{
    CUmemAllocationProp prop = { .type = ALLOCATION_PINNED, .handle_types = 1 /* descriptors */, .location = { LOCATION_DEVICE, device } };
    *charged = bytes;
    return CU(cuMemCreate)(&block->address, bytes, &prop, 0);
}

static CUresult release_physical(struct block *block)
{
    return CU(cuMemRelease)(block->address);
}

/* Maps memory of cuMemCreate into a window of its own, where a program can use it. */
static CUresult map_window(struct block *block, size_t bytes)
{
    CUmemAccessDesc access = { { LOCATION_DEVICE, device }, ACCESS_READ_WRITE };
    CUresult status = CU(cuMemAddressReserve)(&block->window, bytes, 0, 0, 0);
    block->window_bytes = bytes;
    status = status ? status : CU(cuMemMap)(block->window, bytes, 0, block->address, 0);
    status = status ? status : CU(cuMemSetAccess)(block->window, bytes, &access, 1);
    return status ? status : CU(cuMemsetD8_v2)(block->window, 7, bytes);
}

static CUresult unmap_window(struct block *block)
{
    CUresult status = CU(cuMemUnmap)(block->window, block->window_bytes);
    return status ? status : CU(cuMemAddressFree)(block->window, block->window_bytes);
}

static CUresult allocate_async(struct block *block, size_t bytes, size_t *charged)
{
    *charged = bytes;
    return CU(cuMemAllocAsync)(&block->address, bytes, stream);
}

static CUresult release_async(struct block *block)
{
    CUresult status = CU(cuMemFreeAsync)(block->address, stream);
    return status ? status : CU(cuStreamSynchronize)(stream);
}

static CUresult allocate_pooled(struct block *block, size_t bytes, size_t *charged)
{
    CUmemPoolProps props = { .type = ALLOCATION_PINNED, .location = { LOCATION_DEVICE, device } };
    CUresult status = block->pool ? CUDA_SUCCESS : CU(cuMemPoolCreate)(&block->pool, &props);
    *charged = bytes;
    return status ? status : CU(cuMemAllocFromPoolAsync)(&block->address, bytes, block->pool, stream);
}

static CUresult allocate_array(struct block *block, size_t bytes, size_t *charged)
{
    CUDA_ARRAY_DESCRIPTOR plane = { ROW_BYTES, bytes / ROW_BYTES, FORMAT_UNSIGNED_INT8, 1 };
    const void *before = block->handle;
    *charged = bytes;
    CUresult status = CU(cuArrayCreate_v2)((CUarray *)&block->handle, &plane);
    return untouched_if(status, before, block->handle);
}

static CUresult allocate_array3d(struct block *block, size_t bytes, size_t *charged)
{
    CUDA_ARRAY3D_DESCRIPTOR volume = { ROW_BYTES / 32, 32, bytes / ROW_BYTES, FORMAT_UNSIGNED_INT8, 1, 0 };
    const void *before = block->handle;
    *charged = bytes;
    CUresult status = CU(cuArray3DCreate_v2)((CUarray *)&block->handle, &volume);
    return untouched_if(status, before, block->handle);
}

static CUresult release_array(struct block *block)
{
    return CU(cuArrayDestroy)(block->handle);
}

static CUresult allocate_mipmap(struct block *block, size_t bytes, size_t *charged)
{
    CUDA_ARRAY3D_DESCRIPTOR plane = { ROW_BYTES, bytes / ROW_BYTES, 0, FORMAT_UNSIGNED_INT8, 1, 0 };
    const void *before = block->handle;
    *charged = bytes;
    CUresult status = CU(cuMipmappedArrayCreate)((CUmipmappedArray *)&block->handle, &plane, 1);
    return untouched_if(status, before, block->handle);
}

/* Slices of 33 rows, which fill no block of any layout of 8, 16, 32 or more rows. */
static CUresult allocate_slices(struct block *block, size_t bytes, size_t *charged)
{
    CUDA_ARRAY3D_DESCRIPTOR volume = { ROW_BYTES / 32, 33, bytes / 33 / (ROW_BYTES / 32), FORMAT_UNSIGNED_INT8, 1, 0 };
    const void *before = block->handle;
    *charged = bytes;
    CUresult status = CU(cuArray3DCreate_v2)((CUarray *)&block->handle, &volume);
    return untouched_if(status, before, block->handle);
}

/* All levels of a plane. */
static CUresult allocate_levels(struct block *block, size_t bytes, size_t *charged)
{
    CUDA_ARRAY3D_DESCRIPTOR plane = { ROW_BYTES, bytes / ROW_BYTES, 0, FORMAT_UNSIGNED_INT8, 1, 0 };
    const void *before = block->handle;
    *charged = bytes;
    CUresult status = CU(cuMipmappedArrayCreate)((CUmipmappedArray *)&block->handle, &plane, 16);
    return untouched_if(status, before, block->handle);
}

static CUresult release_mipmap(struct block *block)
{
    return CU(cuMipmappedArrayDestroy)(block->handle);
}

static CUresult allocate_host(struct block *block, size_t bytes, size_t *charged)
{
    *charged = 0;
    return CU(cuMemAllocHost_v2)(&block->handle, bytes);
}

static CUresult release_host(struct block *block)
{
    return CU(cuMemFreeHost)(block->handle);
}

/* Contexts take memory themselves. The one that was current stays so. */
static CUresult make_other_context(struct block *block)
{
    CUcontext current = NULL;
    CUresult status = CU(cuCtxGetCurrent)(&current);
    status = status ? status : CU(cuCtxCreate_v2)((CUcontext *)&block->handle, 0, device);
    return status ? status : CU(cuCtxSetCurrent)(current);
}

static CUresult allocate_context(struct block *block, size_t bytes, size_t *charged)
{
    (void)bytes;
    *charged = 0;
    return make_other_context(block);
}

static CUresult release_context(struct block *block)
{
    return CU(cuCtxDestroy_v2)(block->handle);
}

/* Its use is counted: it goes with the second release. */
static CUresult allocate_context_twice(struct block *block, size_t bytes, size_t *charged)
{
    CUcontext current = NULL, attached = NULL;
    CUresult status = CU(cuCtxGetCurrent)(&current);
    status = status ? status : allocate_context(block, bytes, charged);
    status = status ? status : CU(cuCtxSetCurrent)(block->handle);
    status = status ? status : CU(cuCtxAttach)(&attached, 0);
    return status ? status : CU(cuCtxSetCurrent)(current);
}

static CUresult detach_context(struct block *block)
{
    return CU(cuCtxDetach)(block->handle);
}

/* What a program adds that includes tenant.c. */
#ifdef MORE_KINDS
#include MORE_KINDS_HEADER
#else
#define MORE_KINDS
#endif

static const struct kind KINDS[] = {
    MORE_KINDS
    { "cuMemAlloc_v2", allocate_linear, release_linear },
    { "cuMemAlloc", allocate_linear_v1, release_linear_v1 },
    { "cuMemAllocPitch_v2", allocate_pitch, release_linear },
    { "cuMemAllocManaged", allocate_managed, release_linear },
    { "cuMemCreate", allocate_physical, release_physical },
    { "cuMemAllocAsync", allocate_async, release_async },
    { "cuMemAllocFromPoolAsync", allocate_pooled, release_async },
    { "cuArrayCreate_v2", allocate_array, release_array },
    { "cuArray3DCreate_v2", allocate_array3d, release_array },
    { "cuArray3DCreate_v2-slices", allocate_slices, release_array },
    { "cuMipmappedArrayCreate", allocate_mipmap, release_mipmap },
    { "cuMipmappedArrayCreate-levels", allocate_levels, release_mipmap },
    { "cuMemAllocHost_v2", allocate_host, release_host },
    { "cuCtxCreate_v2", allocate_context, release_context },
    { "cuCtxAttach", allocate_context_twice, detach_context },
};

#endif
