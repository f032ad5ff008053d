//! Graphs: built by hand, captured, instantiated, updated, launched.

mod support;

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

use cuda_sys_stubs::abi::*;
use support::{LONG, alloc, context, cu, event, free_stream, launch, ok, read, spin, stream};

const NULL: CUstream = std::ptr::null_mut();

fn graph() -> CUgraph {
    let mut graph = std::ptr::null_mut();
    ok!(cuGraphCreate(&mut graph, 0));
    graph
}

fn fill(dst: CUdeviceptr, value: u32) -> CUDA_MEMSET_NODE_PARAMS {
    CUDA_MEMSET_NODE_PARAMS {
        dst,
        pitch: 0,
        value,
        elementSize: 1,
        width: 4,
        height: 1,
    }
}

fn add_fill(graph: CUgraph, after: &[CUgraphNode], dst: CUdeviceptr, value: u32) -> CUgraphNode {
    let mut node = std::ptr::null_mut();
    let params = fill(dst, value);
    ok!(cuGraphAddMemsetNode(
        &mut node,
        graph,
        after.as_ptr(),
        after.len(),
        &params,
        std::ptr::null_mut()
    ));
    node
}

fn copy(dst: CUdeviceptr, src: CUdeviceptr) -> CUDA_MEMCPY3D {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut copy: CUDA_MEMCPY3D = unsafe { std::mem::zeroed() };
    (
        copy.srcMemoryType,
        copy.srcDevice,
        copy.dstMemoryType,
        copy.dstDevice,
    ) = (CU_MEMORYTYPE_DEVICE, src, CU_MEMORYTYPE_DEVICE, dst);
    (copy.WidthInBytes, copy.Height, copy.Depth) = (4, 1, 1);
    copy
}

fn kernel(function: CUfunction, blocks: u32) -> CUDA_KERNEL_NODE_PARAMS_v1 {
    CUDA_KERNEL_NODE_PARAMS_v1 {
        func: function,
        gridDimX: blocks,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 128,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        kernelParams: std::ptr::null_mut(),
        extra: std::ptr::null_mut(),
    }
}

fn instantiate(graph: CUgraph) -> CUgraphExec {
    let mut exec = std::ptr::null_mut();
    ok!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    exec
}

fn run(exec: CUgraphExec) {
    ok!(cuGraphLaunch(exec, NULL));
    ok!(cuStreamSynchronize(NULL));
}

fn count(graph: CUgraph) -> usize {
    let mut count = 0;
    ok!(cuGraphGetNodes(graph, std::ptr::null_mut(), &mut count));
    count
}

static CALLS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_call(by: *mut c_void) {
    CALLS.fetch_add(by.addr() as u32, Ordering::SeqCst);
}

#[test]
fn nodes_run_in_the_order_of_their_edges_each_time() {
    context();
    let (first, second, graph) = (alloc(4), alloc(4), graph());
    let filled = add_fill(graph, &[], first, 1);
    let (params, mut copied, mut called) = (
        copy(second, first),
        std::ptr::null_mut(),
        std::ptr::null_mut(),
    );
    ok!(cuGraphAddMemcpyNode(
        &mut copied,
        graph,
        &filled,
        1,
        &params,
        std::ptr::null_mut()
    ));
    add_fill(graph, &[copied], first, 2);
    let host = CUDA_HOST_NODE_PARAMS {
        fn_: Some(count_call),
        userData: std::ptr::without_provenance_mut(1),
    };
    ok!(cuGraphAddHostNode(&mut called, graph, &copied, 1, &host));
    let exec = instantiate(graph);
    for _ in 0..3 {
        run(exec);
        assert_eq!((read(first, 4), read(second, 4)), (vec![2; 4], vec![1; 4]));
    }
    assert_eq!(CALLS.load(Ordering::SeqCst), 3);
}

#[test]
fn a_graph_changed_after_it_was_instantiated_does_not_change_what_runs() {
    context();
    let (device, graph) = (alloc(4), graph());
    let node = add_fill(graph, &[], device, 1);
    let exec = instantiate(graph);
    ok!(cuGraphMemsetNodeSetParams(node, &fill(device, 9)));
    ok!(cuGraphDestroy(graph));
    assert_eq!(cu!(cuGraphDestroy(graph)), CUDA_ERROR_INVALID_VALUE);
    run(exec);
    assert_eq!(read(device, 4), [1; 4]);
    ok!(cuGraphExecDestroy(exec));
    assert_eq!(cu!(cuGraphLaunch(exec, NULL)), CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn a_node_of_an_executable_graph_takes_new_parameters() {
    context();
    let (device, other, graph) = (alloc(4), alloc(4), graph());
    let node = add_fill(graph, &[], device, 1);
    let (mut copied, params) = (std::ptr::null_mut(), copy(other, device));
    ok!(cuGraphAddMemcpyNode(
        &mut copied,
        graph,
        &node,
        1,
        &params,
        std::ptr::null_mut()
    ));
    let exec = instantiate(graph);
    ok!(cuGraphExecMemsetNodeSetParams(
        exec,
        node,
        &fill(device, 3),
        std::ptr::null_mut()
    ));
    run(exec);
    assert_eq!(read(other, 4), [3; 4]);
    ok!(cuGraphNodeSetEnabled(exec, node, 0));
    ok!(cuMemsetD8_v2(device, 6, 4));
    run(exec);
    assert_eq!(read(other, 4), [6; 4]);
    assert_eq!(
        cu!(cuGraphExecMemsetNodeSetParams(
            exec,
            copied,
            &fill(device, 3),
            std::ptr::null_mut()
        )),
        CUDA_ERROR_INVALID_VALUE
    );
}

#[test]
fn a_kernel_node_runs_as_long_as_its_new_parameters_say() {
    context();
    let (graph, mut node, start, end) = (graph(), std::ptr::null_mut(), event(0), event(0));
    let short = spin(300);
    ok!(cuGraphAddKernelNode(
        &mut node,
        graph,
        std::ptr::null(),
        0,
        &kernel(short, 1)
    ));
    let exec = instantiate(graph);
    ok!(cuGraphExecKernelNodeSetParams(
        exec,
        node,
        &kernel(spin(LONG), 40)
    ));
    ok!(cuEventRecord(start, NULL));
    ok!(cuGraphLaunch(exec, NULL));
    ok!(cuEventRecord(end, NULL));
    ok!(cuEventSynchronize(end));
    let mut milliseconds = 0f32;
    ok!(cuEventElapsedTime(&mut milliseconds, start, end));
    assert!(
        milliseconds > LONG as f32 / 1_590_000.0 * 0.9,
        "{milliseconds}"
    );
    let mut asked = kernel(std::ptr::null_mut(), 0);
    ok!(cuGraphKernelNodeGetParams(node, &mut asked));
    assert_eq!(
        (asked.func, asked.gridDimX, asked.blockDimX),
        (short, 1, 128)
    );
    let mut zero = kernel(short, 0);
    zero.gridDimY = 0;
    assert_eq!(
        cu!(cuGraphExecKernelNodeSetParams(exec, node, &zero)),
        CUDA_ERROR_INVALID_VALUE
    );
}

#[test]
fn an_update_takes_a_graph_of_the_same_shape_and_refuses_another() {
    context();
    let (device, one, two, three) = (alloc(4), graph(), graph(), graph());
    let (first, second) = (add_fill(one, &[], device, 1), add_fill(two, &[], device, 2));
    add_fill(two, &[second], device, 4);
    add_fill(one, &[first], device, 3);
    let exec = instantiate(one);
    let (mut node, mut result) = (std::ptr::null_mut(), 99);
    ok!(cuGraphExecUpdate(exec, two, &mut node, &mut result));
    assert_eq!(result, CU_GRAPH_EXEC_UPDATE_SUCCESS);
    run(exec);
    assert_eq!(read(device, 4), [4; 4]);
    add_fill(three, &[], device, 5);
    assert_eq!(
        cu!(cuGraphExecUpdate(exec, three, &mut node, &mut result)),
        CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE
    );
    assert_eq!(result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    let (mut empty, after) = (std::ptr::null_mut(), add_fill(graph(), &[], device, 5));
    let mut own = std::ptr::null_mut();
    ok!(cuGraphNodeGetContainingGraph(after, &mut own));
    ok!(cuGraphAddEmptyNode(&mut empty, own, &after, 1));
    assert_eq!(
        cu!(cuGraphExecUpdate(exec, own, &mut node, &mut result)),
        CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE
    );
    assert_eq!(
        (result, node),
        (CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED, empty)
    );
}

#[test]
fn what_follows_a_child_graph_follows_all_of_it() {
    context();
    let (device, child, parent) = (alloc(4), graph(), graph());
    let mut node = std::ptr::null_mut();
    ok!(cuGraphAddKernelNode(
        &mut node,
        child,
        std::ptr::null(),
        0,
        &kernel(spin(LONG), 40)
    ));
    add_fill(child, &[node], device, 1);
    ok!(cuGraphAddChildGraphNode(
        &mut node,
        parent,
        std::ptr::null(),
        0,
        child
    ));
    ok!(cuGraphDestroy(child));
    add_fill(parent, &[node], device, 2);
    run(instantiate(parent));
    assert_eq!(read(device, 4), [2; 4]);
}

#[test]
fn an_event_node_counts_each_launch() {
    context();
    let (recorded, graph, mut node) = (event(0), graph(), std::ptr::null_mut());
    ok!(cuGraphAddKernelNode(
        &mut node,
        graph,
        std::ptr::null(),
        0,
        &kernel(spin(LONG), 40)
    ));
    let before = node;
    ok!(cuGraphAddEventRecordNode(
        &mut node, graph, &before, 1, recorded
    ));
    let exec = instantiate(graph);
    for _ in 0..2 {
        ok!(cuGraphLaunch(exec, NULL));
        assert_eq!(cu!(cuEventQuery(recorded)), CUDA_ERROR_NOT_READY);
        ok!(cuEventSynchronize(recorded));
    }
}

#[test]
fn a_capture_that_forks_and_joins_keeps_the_order() {
    context();
    let (first, second, device, other) = (stream(), stream(), alloc(4), alloc(4));
    let (fork, join, function) = (
        event(CU_EVENT_DISABLE_TIMING),
        event(CU_EVENT_DISABLE_TIMING),
        spin(LONG),
    );
    ok!(cuMemsetD8_v2(device, 0, 4));
    ok!(cuStreamBeginCapture_v2(
        first,
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    ));
    assert_eq!(launch(function, first), 0);
    ok!(cuMemsetD8Async(device, 1, 4, first));
    ok!(cuEventRecord(fork, first));
    ok!(cuStreamWaitEvent(second, fork, 0));
    ok!(cuMemcpyDtoDAsync_v2(other, device, 4, second));
    ok!(cuEventRecord(join, second));
    ok!(cuStreamWaitEvent(first, join, 0));
    ok!(cuMemsetD8Async(device, 2, 4, first));
    let (mut status, mut id) = (0, 0);
    ok!(cuStreamGetCaptureInfo(second, &mut status, &mut id));
    assert_eq!(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    let mut captured = std::ptr::null_mut();
    ok!(cuStreamEndCapture(first, &mut captured));
    ok!(cuStreamIsCapturing(second, &mut status));
    assert_eq!(
        (status, count(captured)),
        (CU_STREAM_CAPTURE_STATUS_NONE, 4)
    );
    assert_eq!(read(device, 4), [0; 4]);
    let exec = instantiate(captured);
    run(exec);
    assert_eq!((read(device, 4), read(other, 4)), (vec![2; 4], vec![1; 4]));
}

#[test]
fn a_fork_that_is_not_joined_makes_the_capture_fail() {
    context();
    let (first, second, device, fork) =
        (stream(), stream(), alloc(4), event(CU_EVENT_DISABLE_TIMING));
    ok!(cuStreamBeginCapture_v2(
        first,
        CU_STREAM_CAPTURE_MODE_RELAXED
    ));
    ok!(cuEventRecord(fork, first));
    ok!(cuStreamWaitEvent(second, fork, 0));
    ok!(cuMemsetD8Async(device, 1, 4, second));
    let mut captured = std::ptr::dangling_mut::<u64>().cast();
    assert_eq!(
        cu!(cuStreamEndCapture(second, &mut captured)),
        CUDA_ERROR_STREAM_CAPTURE_UNMATCHED
    );
    assert_eq!(
        cu!(cuStreamEndCapture(first, &mut captured)),
        CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    );
    assert!(captured.is_null());
    ok!(cuStreamBeginCapture_v2(
        first,
        CU_STREAM_CAPTURE_MODE_RELAXED
    ));
    ok!(cuEventRecord(fork, first));
    ok!(cuStreamWaitEvent(second, fork, 0));
    ok!(cuMemsetD8Async(device, 1, 4, second));
    assert_eq!(
        cu!(cuStreamEndCapture(first, &mut captured)),
        CUDA_ERROR_STREAM_CAPTURE_UNJOINED
    );
}

#[test]
fn what_a_capture_forbids_is_refused_and_voids_it() {
    let refused = |act: &dyn Fn(CUstream) -> CUresult, wanted: CUresult| {
        let (stream, mut captured) = (stream(), std::ptr::null_mut());
        ok!(cuStreamBeginCapture_v2(
            stream,
            CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        ));
        assert_eq!(act(stream), wanted);
        assert_eq!(
            cu!(cuStreamEndCapture(stream, &mut captured)),
            CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        );
        assert_eq!(
            cu!(cuStreamEndCapture(stream, &mut captured)),
            CUDA_ERROR_ILLEGAL_STATE
        );
    };
    context();
    let (device, outside, elsewhere) = (alloc(4), event(0), free_stream());
    ok!(cuEventRecord(outside, elsewhere));
    refused(
        &|_| cu!(cuMemAlloc_v2(&mut 0, 4)),
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
    );
    refused(
        &|_| cu!(cuMemFree_v2(device)),
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
    );
    refused(
        &|_| cu!(cuEventQuery(outside)),
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
    );
    refused(
        &|stream| cu!(cuStreamSynchronize(stream)),
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
    );
    refused(
        &|stream| cu!(cuStreamQuery(stream)),
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
    );
    refused(
        &|_| cu!(cuMemsetD8Async(device, 0, 4, NULL)),
        CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
    );
    refused(
        &|stream| cu!(cuStreamWaitEvent(stream, outside, 0)),
        CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
    );
    refused(
        &|stream| {
            ok!(cuEventRecord(outside, stream));
            cu!(cuEventQuery(outside))
        },
        CUDA_ERROR_CAPTURED_EVENT,
    );
}

#[test]
fn nobody_waits_for_a_record_that_a_capture_refused() {
    context();
    let (capturing, refused) = (stream(), event(0));
    let mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    ok!(cuStreamBeginCapture_v2(capturing, mode));
    assert_eq!(
        cu!(cuEventRecord(refused, NULL)),
        CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
    );
    assert_eq!(cu!(cuEventQuery(refused)), CUDA_SUCCESS);
}

#[test]
fn what_a_capture_refuses_to_free_can_be_freed_afterwards() {
    context();
    let (capturing, device) = (stream(), alloc(4));
    let mut captured = std::ptr::null_mut();
    let mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    ok!(cuStreamBeginCapture_v2(capturing, mode));
    assert_eq!(
        cu!(cuMemFreeAsync(device, NULL)),
        CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
    );
    assert_eq!(
        cu!(cuStreamEndCapture(capturing, &mut captured)),
        CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    );
    ok!(cuMemFreeAsync(device, NULL));
}

#[test]
fn a_relaxed_thread_may_allocate_while_it_captures() {
    context();
    let (stream, mut captured, mut mode) = (
        stream(),
        std::ptr::null_mut(),
        CU_STREAM_CAPTURE_MODE_RELAXED,
    );
    ok!(cuStreamBeginCapture_v2(
        stream,
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    ));
    ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
    assert_eq!(mode, CU_STREAM_CAPTURE_MODE_GLOBAL);
    alloc(4);
    ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
    ok!(cuStreamEndCapture(stream, &mut captured));
}

#[test]
fn the_null_stream_cannot_be_captured() {
    context();
    assert_eq!(
        cu!(cuStreamBeginCapture_v2(NULL, 0)),
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    );
}

#[test]
fn queries_show_nodes_edges_and_roots() {
    context();
    let (device, graph) = (alloc(4), graph());
    let first = add_fill(graph, &[], device, 1);
    let second = add_fill(graph, &[first], device, 2);
    let (mut from, mut to, mut edges) = ([std::ptr::null_mut(); 4], [std::ptr::null_mut(); 4], 4);
    ok!(cuGraphGetEdges(
        graph,
        from.as_mut_ptr(),
        to.as_mut_ptr(),
        &mut edges
    ));
    assert_eq!(
        (edges, from[0], to[0], from[1]),
        (1, first, second, std::ptr::null_mut())
    );
    let (mut roots, mut kind) = (1, 99);
    ok!(cuGraphGetRootNodes(graph, from.as_mut_ptr(), &mut roots));
    ok!(cuGraphNodeGetType(second, &mut kind));
    assert_eq!(
        (roots, from[0], kind),
        (1, first, CU_GRAPH_NODE_TYPE_MEMSET)
    );
    assert_eq!(
        cu!(cuGraphAddDependencies(graph, &second, &first, 1)),
        CUDA_ERROR_INVALID_VALUE
    );
    ok!(cuGraphRemoveDependencies(graph, &first, &second, 1));
    ok!(cuGraphGetEdges(
        graph,
        std::ptr::null_mut(),
        std::ptr::null_mut(),
        &mut edges
    ));
    assert_eq!(edges, 0);
}

static ENDED: AtomicU32 = AtomicU32::new(0);

extern "C" fn end_object(by: *mut c_void) {
    ENDED.fetch_add(by.addr() as u32, Ordering::SeqCst);
}

#[test]
fn a_user_object_lives_as_long_as_the_last_graph_that_refers_to_it() {
    context();
    let (graph, mut object, device) = (graph(), std::ptr::null_mut(), alloc(4));
    add_fill(graph, &[], device, 1);
    let data = std::ptr::without_provenance_mut(1);
    ok!(cuUserObjectCreate(
        &mut object,
        data,
        Some(end_object),
        1,
        CU_USER_OBJECT_NO_DESTRUCTOR_SYNC
    ));
    ok!(cuGraphRetainUserObject(
        graph,
        object,
        1,
        CU_GRAPH_USER_OBJECT_MOVE
    ));
    let exec = instantiate(graph);
    ok!(cuGraphDestroy(graph));
    assert_eq!(ENDED.load(Ordering::SeqCst), 0);
    ok!(cuGraphExecDestroy(exec));
    assert_eq!(ENDED.load(Ordering::SeqCst), 1);
    assert_eq!(
        cu!(cuUserObjectRelease(object, 1)),
        CUDA_ERROR_INVALID_VALUE
    );
}

#[test]
fn a_capture_whose_stream_was_destroyed_stands_in_nobodys_way() {
    context();
    let stream = stream();
    ok!(cuStreamBeginCapture_v2(
        stream,
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    ));
    ok!(cuStreamDestroy_v2(stream));
    alloc(4);
}
