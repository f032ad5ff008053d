//! Graphs that a device may launch.

mod support;

use cuda_sys_stubs::abi::*;
use support::{alloc, context, cu, free_stream, launch, ok, read, spin};

const FOR_DEVICE: u64 = CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH as u64;

/// What a stream is given meanwhile, as a graph.
fn captured(gives: impl FnOnce(CUstream)) -> CUgraph {
    let (stream, mut graph) = (free_stream(), std::ptr::null_mut());
    let mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    ok!(cuStreamBeginCapture_v2(stream, mode));
    gives(stream);
    ok!(cuStreamEndCapture(stream, &mut graph));
    graph
}

/// Status, result, and the node that is named, of an instantiation for a device.
fn instantiated(graph: CUgraph) -> (CUresult, CUgraphInstantiateResult, CUgraphNode, CUgraphExec) {
    let mut exec = std::ptr::null_mut();
    let mut params = CUDA_GRAPH_INSTANTIATE_PARAMS {
        flags: FOR_DEVICE,
        hUploadStream: std::ptr::null_mut(),
        hErrNode_out: std::ptr::without_provenance_mut(1),
        result_out: 99,
    };
    let status = cu!(cuGraphInstantiateWithParams(&mut exec, graph, &mut params));
    (status, params.result_out, params.hErrNode_out, exec)
}

fn first_node(graph: CUgraph) -> CUgraphNode {
    let (mut nodes, mut count) = ([std::ptr::null_mut(); 1], 1);
    ok!(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
    nodes[0]
}

#[test]
fn a_graph_for_a_device_is_launched_by_the_host_too() {
    context();
    let (kernel, block, stream) = (spin(1000), alloc(8), free_stream());
    let inner = captured(|stream| ok!(cuMemsetD8Async(block, 5, 4, stream)));
    let graph = captured(|stream| {
        assert_eq!(launch(kernel, stream), 0);
        ok!(cuMemcpyDtoDAsync_v2(block + 4, block, 4, stream));
    });
    let mut child = std::ptr::null_mut();
    ok!(cuGraphAddChildGraphNode(
        &mut child,
        graph,
        std::ptr::null(),
        0,
        inner
    ));
    let (status, result, node, exec) = instantiated(graph);
    assert_eq!((status, result), (0, CUDA_GRAPH_INSTANTIATE_SUCCESS));
    assert!(node.is_null());
    let mut flags = 0;
    ok!(cuGraphExecGetFlags(exec, &mut flags));
    assert_eq!(flags, FOR_DEVICE);
    for _ in 0..2 {
        ok!(cuGraphLaunch(exec, stream));
        ok!(cuStreamSynchronize(stream));
    }
    assert_eq!(read(block + 4, 4), [5; 4]);
    ok!(cuGraphExecDestroy(exec));
}

#[test]
fn what_a_device_cannot_launch_is_named() {
    context();
    unsafe extern "C" fn nothing(_: *mut std::ffi::c_void) {}
    let host = captured(|stream| {
        ok!(cuLaunchHostFunc(
            stream,
            Some(nothing),
            std::ptr::null_mut()
        ));
    });
    let (block, mut bytes) = (alloc(8), [0u8; 8]);
    let to = bytes.as_mut_ptr().cast();
    let pageable = captured(|stream| ok!(cuMemcpyDtoHAsync_v2(to, block, 8, stream)));
    for graph in [host, pageable] {
        let (status, result, node, _) = instantiated(graph);
        assert_eq!(status, CUDA_ERROR_INVALID_VALUE);
        assert_eq!(result, CUDA_GRAPH_INSTANTIATE_NODE_OPERATION_NOT_SUPPORTED);
        assert_eq!(node, first_node(graph));
    }
    let first = spin(1000);
    context();
    let second = spin(1000);
    let both = captured(|_| ());
    assert_eq!(instantiated(both).1, CUDA_GRAPH_INSTANTIATE_ERROR, "empty");
    for function in [first, second] {
        // SAFETY: a record of plain numbers and pointers; zero is a value of each.
        let mut params: CUDA_KERNEL_NODE_PARAMS = unsafe { std::mem::zeroed() };
        params.func = function;
        (params.gridDimX, params.gridDimY, params.gridDimZ) = (1, 1, 1);
        (params.blockDimX, params.blockDimY, params.blockDimZ) = (32, 1, 1);
        let (mut out, mut n) = (0u64, 0u32);
        let mut arguments = [(&raw mut out).cast(), (&raw mut n).cast()];
        params.kernelParams = arguments.as_mut_ptr();
        let mut node = std::ptr::null_mut();
        ok!(cuGraphAddKernelNode_v2(
            &mut node,
            both,
            std::ptr::null(),
            0,
            &params
        ));
    }
    let (status, result, node, _) = instantiated(both);
    assert_eq!(status, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(result, CUDA_GRAPH_INSTANTIATE_MULTIPLE_CTXS_NOT_SUPPORTED);
    assert!(!node.is_null() && node != first_node(both));
}
