/* What tenant.c does with memory that the driver keeps or shares: pools, graphs that allocate, descriptors.
 *
 *     keep BYTES                              release threshold of the current device's default pool
 *     pool NAME device|host|node|managed|default   makes a pool (of a node: to be shared), or takes the driver's own of managed memory; `alloc NAME cuMemAllocFromPoolAsync` allocates from it
 *     pool-keep NAME BYTES                    release threshold of that pool
 *     pool-use NAME                           makes it the one that cuMemAllocAsync takes from
 *     pool-trim [NAME]                        gives back what it keeps; without a name the default pool
 *     pool-destroy NAME
 *     retire NAME                             frees in stream order and waits for nothing
 *     submit                                  launches the kernel of `kernel` and does not wait for it
 *     free-now NAME                           frees a block of a pool by cuMemFree
 *     pool-threads COUNT ROUNDS BYTES         each allocates from the current pool, and frees; status, or a bad one
 *     wait                                    for everything
 *     graph NAME HOW BYTES                    an executable graph that allocates and frees, made by
 *                                             nodes|managed|capture|uploaded; status
 *     graph-launch NAME | graph-upload NAME | graph-end NAME | graph-trim
 *     export NAME | close NAME                gives physical memory a descriptor | closes that
 *     import NAME FROM                        makes the descriptor of FROM a handle
 *     retain NAME FROM                        one more handle of what is mapped in FROM's window */
#ifndef RESERVES_H
#define RESERVES_H

#include "allocators.h"
#include <pthread.h>
#include <stdint.h>
#include <unistd.h>

enum { POOL_RELEASE_THRESHOLD = 4, LOCATION_NONE = 0, LOCATION_HOST = 2, LOCATION_HOST_NUMA = 3, ALLOCATION_MANAGED = 2, HANDLE_FILE_DESCRIPTOR = 1, GRAPH_UPLOAD = 2 };

static struct block *find_block(const char *name, int make);
static CUresult launch_plain(CUstream where);

/* The block of the first word, and the second word. */
static struct block *named(char *rest, const char **second)
{
    char *word = rest + strcspn(rest, " ");
    word += *word ? (*word = 0, 1) : 0;
    *second = word;
    return find_block(rest, 1);
}

static CUresult set_threshold(CUmemoryPool pool, const char *bytes)
{
    unsigned long long threshold = strtoull(bytes, NULL, 10);
    return CU(cuMemPoolSetAttribute)(pool, POOL_RELEASE_THRESHOLD, &threshold);
}

static CUresult do_keep(char *rest)
{
    CUmemoryPool pool = NULL;
    CUresult status = CU(cuDeviceGetDefaultMemPool)(&pool, device);
    return status ? status : set_threshold(pool, rest);
}

static CUresult do_pool(char *rest)
{
    const char *where;
    struct block *block = named(rest, &where);
    CUmemPoolProps props = { .type = ALLOCATION_PINNED, .handle_types = HANDLE_FILE_DESCRIPTOR, .location = { LOCATION_DEVICE, device } };
    CUmemLocation nowhere = { LOCATION_NONE, 0 };
    if (!strcmp(where, "default")) {
        /* Of CUDA 13.0: older drivers have none. */
        CUresult (*default_pool)(CUmemoryPool *, CUmemLocation *, int) = dlsym(RTLD_DEFAULT, "cuMemGetDefaultMemPool");
        return default_pool ? default_pool(&block->pool, &nowhere, ALLOCATION_MANAGED) : CUDA_ERROR_NOT_SUPPORTED;
    }
    if (!strcmp(where, "managed"))
        props = (CUmemPoolProps){ .type = ALLOCATION_MANAGED, .location = nowhere };
    if (!strcmp(where, "host"))
        props = (CUmemPoolProps){ .type = ALLOCATION_PINNED, .location = { LOCATION_HOST, 0 } };
    if (!strcmp(where, "node"))
        props.location = (CUmemLocation){ LOCATION_HOST_NUMA, 0 };
    return CU(cuMemPoolCreate)(&block->pool, &props);
}

static CUresult do_pool_keep(char *rest)
{
    const char *bytes;
    struct block *block = named(rest, &bytes);
    return set_threshold(block->pool, bytes);
}

static CUresult do_pool_use(char *rest)
{
    return CU(cuDeviceSetMemPool)(device, find_block(rest, 0)->pool);
}

static CUresult do_pool_trim(char *rest)
{
    CUmemoryPool pool = NULL;
    CUresult status = CUDA_SUCCESS;
    if (*rest)
        pool = find_block(rest, 0)->pool;
    else
        status = CU(cuDeviceGetDefaultMemPool)(&pool, device);
    return status ? status : CU(cuMemPoolTrimTo)(pool, 0);
}

static CUresult do_pool_destroy(char *rest)
{
    return CU(cuMemPoolDestroy)(find_block(rest, 0)->pool);
}

static CUresult do_retire(char *rest)
{
    return CU(cuMemFreeAsync)(find_block(rest, 0)->address, stream);
}

static CUresult do_submit(char *rest)
{
    (void)rest;
    return launch_plain(stream);
}

static CUresult do_free_now(char *rest)
{
    return CU(cuMemFree_v2)(find_block(rest, 0)->address);
}

struct pool_user {
    pthread_t thread;
    CUcontext context;
    unsigned long rounds;
    size_t bytes;
    CUresult status;
};

static void *use_pool(void *argument)
{
    struct pool_user *user = argument;
    CUstream own = NULL;
    CUresult status = CU(cuCtxSetCurrent)(user->context);
    status = status ? status : CU(cuStreamCreate)(&own, 0);
    for (unsigned long round = 0; !status && round < user->rounds; round++) {
        CUdeviceptr address = 0;
        status = CU(cuMemAllocAsync)(&address, user->bytes, own);
        status = status ? status : CU(cuMemFreeAsync)(address, own);
        status = status ? status : CU(cuStreamSynchronize)(own);
    }
    user->status = status;
    return NULL;
}

static CUresult do_pool_threads(char *rest)
{
    struct pool_user users[16] = { 0 };
    unsigned count = 0;
    CUresult status = CUDA_SUCCESS;
    if (sscanf(rest, "%u %lu %zu", &count, &users[0].rounds, &users[0].bytes) != 3 || count > 16)
        fail("pool-threads COUNT ROUNDS BYTES, not %s", rest);
    status = CU(cuCtxGetCurrent)(&users[0].context);
    for (unsigned at = 0; at < count; at++) {
        users[at] = users[0];
        if (pthread_create(&users[at].thread, NULL, use_pool, &users[at]))
            fail("no thread");
    }
    for (unsigned at = 0; at < count; at++) {
        pthread_join(users[at].thread, NULL);
        status = status ? status : users[at].status;
    }
    return status;
}

static CUresult do_wait(char *rest)
{
    (void)rest;
    return CU(cuCtxSynchronize)();
}

/* Graphs that allocate. */

static CUresult graph_of_nodes(CUgraph *graph, size_t bytes, int is_managed)
{
    CUDA_MEM_ALLOC_NODE_PARAMS params = { .pool = { .type = ALLOCATION_PINNED, .location = { LOCATION_DEVICE, device } }, .bytes = bytes };
    if (is_managed)
        params.pool = (CUmemPoolProps){ .type = ALLOCATION_MANAGED, .location = { LOCATION_NONE, 0 } };
    CUgraphNode allocated = NULL, freed = NULL;
    CUresult status = CU(cuGraphCreate)(graph, 0);
    status = status ? status : CU(cuGraphAddMemAllocNode)(&allocated, *graph, NULL, 0, &params);
    return status ? status : CU(cuGraphAddMemFreeNode)(&freed, *graph, &allocated, 1, params.address);
}

static CUresult graph_of_capture(CUgraph *graph, size_t bytes)
{
    CUdeviceptr address = 0;
    CUresult status = CU(cuStreamBeginCapture_v2)(stream, CAPTURE_GLOBAL);
    status = status ? status : CU(cuMemAllocAsync)(&address, bytes, stream);
    status = status ? status : CU(cuMemFreeAsync)(address, stream);
    return status ? status : CU(cuStreamEndCapture)(stream, graph);
}

static CUresult do_graph(char *rest)
{
    char name[32], how[32];
    size_t bytes = 0;
    CUresult status;
    if (sscanf(rest, "%31s %31s %zu", name, how, &bytes) != 3)
        fail("graph NAME HOW BYTES, not %s", rest);
    struct block *block = find_block(name, 1);
    if (!strcmp(how, "capture"))
        status = graph_of_capture(&block->graph, bytes);
    else
        status = graph_of_nodes(&block->graph, bytes, !strcmp(how, "managed"));
    unsigned long long flags = strcmp(how, "uploaded") ? 0 : GRAPH_UPLOAD;
    return status ? status : CU(cuGraphInstantiateWithFlags)(&block->exec, block->graph, flags);
}

static CUresult do_graph_launch(char *rest)
{
    CUresult status = CU(cuGraphLaunch)(find_block(rest, 0)->exec, stream);
    return status ? status : CU(cuStreamSynchronize)(stream);
}

static CUresult do_graph_upload(char *rest)
{
    return CU(cuGraphUpload)(find_block(rest, 0)->exec, stream);
}

static CUresult do_graph_end(char *rest)
{
    struct block *block = find_block(rest, 0);
    CUresult status = CU(cuGraphExecDestroy)(block->exec);
    return status ? status : CU(cuGraphDestroy)(block->graph);
}

static CUresult do_graph_trim(char *rest)
{
    (void)rest;
    return CU(cuDeviceGraphMemTrim)(device);
}

/* Physical memory that is shared. */

static CUresult do_export(char *rest)
{
    struct block *block = find_block(rest, 0);
    return CU(cuMemExportToShareableHandle)(&block->descriptor, block->address, HANDLE_FILE_DESCRIPTOR, 0);
}

static CUresult do_close(char *rest)
{
    return close(find_block(rest, 0)->descriptor) ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

static CUresult do_import(char *rest)
{
    const char *from;
    struct block *block = named(rest, &from), *original = find_block(from, 0);
    void *descriptor = (void *)(intptr_t)original->descriptor;
    block->kind = original->kind;
    return CU(cuMemImportFromShareableHandle)(&block->address, descriptor, HANDLE_FILE_DESCRIPTOR);
}

static CUresult do_retain(char *rest)
{
    const char *from;
    struct block *block = named(rest, &from), *original = find_block(from, 0);
    block->kind = original->kind;
    return CU(cuMemRetainAllocationHandle)(&block->address, (void *)(uintptr_t)original->window);
}

static const struct {
    const char *name;
    CUresult (*run)(char *rest);
} RESERVE_COMMANDS[] = {
    { "keep", do_keep },
    { "pool", do_pool },
    { "pool-keep", do_pool_keep },
    { "pool-use", do_pool_use },
    { "pool-trim", do_pool_trim },
    { "pool-destroy", do_pool_destroy },
    { "retire", do_retire },
    { "submit", do_submit },
    { "free-now", do_free_now },
    { "pool-threads", do_pool_threads },
    { "wait", do_wait },
    { "graph", do_graph },
    { "graph-launch", do_graph_launch },
    { "graph-upload", do_graph_upload },
    { "graph-end", do_graph_end },
    { "graph-trim", do_graph_trim },
    { "export", do_export },
    { "close", do_close },
    { "import", do_import },
    { "retain", do_retain },
};

/* Whether there is such a command; then its status is written. */
static int obey_reserves(const char *name, char *rest, CUresult *status)
{
    for (size_t at = 0; at < sizeof RESERVE_COMMANDS / sizeof *RESERVE_COMMANDS; at++)
        if (!strcmp(RESERVE_COMMANDS[at].name, name)) {
            *status = RESERVE_COMMANDS[at].run(rest);
            return 1;
        }
    return 0;
}

#endif
