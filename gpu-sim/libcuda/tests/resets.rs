//! What ends with a context, and what with the primary one: a device that is reset.

mod support;

use cuda_sys_stubs::abi::*;
use support::{cu, free_stream, measuring, ok};

const MIB: usize = 1 << 20;

/// Does something in the primary context, retained once more.
fn with_primary<T>(act: impl FnOnce() -> T) -> T {
    let mut primary = std::ptr::null_mut();
    ok!(cuDevicePrimaryCtxRetain(&mut primary, 0));
    ok!(cuCtxSetCurrent(primary));
    act()
}

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    free
}

fn alloc_async(stream: CUstream, bytes: usize) -> CUdeviceptr {
    let mut address = 0;
    ok!(cuMemAllocAsync(&mut address, bytes, stream));
    address
}

/// An executable graph that allocates and does not free, and was launched.
fn launched_graph() -> CUgraphExec {
    let (stream, mut graph, mut exec) = (free_stream(), std::ptr::null_mut(), std::ptr::null_mut());
    ok!(cuStreamBeginCapture_v2(
        stream,
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    ));
    alloc_async(stream, 28 * MIB);
    ok!(cuStreamEndCapture(stream, &mut graph));
    ok!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    ok!(cuGraphLaunch(exec, stream));
    ok!(cuStreamSynchronize(stream));
    exec
}

/// Takes memory of a graph, of a pool, and what a pool keeps.
fn take_what_is_of_no_context() {
    let stream = free_stream();
    let (mut pool, mut threshold) = (std::ptr::null_mut(), u64::MAX);
    ok!(cuDeviceGetDefaultMemPool(&mut pool, 0));
    ok!(cuMemPoolSetAttribute(
        pool,
        CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
        (&raw mut threshold).cast()
    ));
    let kept = alloc_async(stream, 32 * MIB);
    alloc_async(stream, 8 * MIB);
    ok!(cuMemFreeAsync(kept, stream));
    ok!(cuStreamSynchronize(stream));
    launched_graph();
}

#[test]
fn a_reset_and_the_last_release_give_back_what_graphs_and_pools_have() {
    let _measuring = measuring();
    ok!(cuInit(0));
    let before = with_primary(free_bytes);
    take_what_is_of_no_context();
    assert_eq!(before - free_bytes(), 68 * MIB);
    ok!(cuDevicePrimaryCtxReset_v2(0));
    assert_eq!(with_primary(free_bytes), before);
    take_what_is_of_no_context();
    for _ in 0..2 {
        ok!(cuDevicePrimaryCtxRelease_v2(0));
    }
    let no_more = cu!(cuDevicePrimaryCtxRelease_v2(0));
    assert_eq!(
        no_more, CUDA_ERROR_INVALID_CONTEXT,
        "a reset releases nothing"
    );
    assert_eq!(with_primary(free_bytes), before);
    ok!(cuDevicePrimaryCtxRelease_v2(0));
}

#[test]
fn what_came_from_a_pool_outlives_the_context_it_was_allocated_in() {
    let _measuring = measuring();
    let first = support::context();
    let stream = free_stream();
    let address = alloc_async(stream, 16);
    ok!(cuStreamSynchronize(stream));
    let mut owner = std::ptr::dangling_mut::<u8>();
    ok!(cuPointerGetAttribute(
        (&raw mut owner).cast(),
        CU_POINTER_ATTRIBUTE_CONTEXT,
        address
    ));
    assert!(owner.is_null());
    ok!(cuMemsetD8_v2(address, 7, 16));
    ok!(cuCtxSynchronize());
    ok!(cuCtxDestroy_v2(first));
    support::context();
    assert_eq!(support::read(address, 16), [7; 16]);
    ok!(cuMemFree_v2(address));
}
