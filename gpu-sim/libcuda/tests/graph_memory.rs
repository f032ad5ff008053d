//! Memory that graphs allocate, and conditional nodes.

mod support;

use cuda_sys_stubs::abi::*;
use support::{alloc, context, cu, free_stream, measuring, ok, read};

const MIB: usize = 1 << 20;

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    free
}

fn attribute(which: CUgraphMem_attribute) -> usize {
    let mut value = 0u64;
    ok!(cuDeviceGetGraphMemAttribute(
        0,
        which,
        (&raw mut value).cast()
    ));
    value as usize
}

fn graph() -> CUgraph {
    let mut graph = std::ptr::null_mut();
    ok!(cuGraphCreate(&mut graph, 0));
    graph
}

fn alloc_params(bytes: usize) -> CUDA_MEM_ALLOC_NODE_PARAMS {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut params: CUDA_MEM_ALLOC_NODE_PARAMS = unsafe { std::mem::zeroed() };
    params.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    params.poolProps.location.type_ = CU_MEM_LOCATION_TYPE_DEVICE;
    params.bytesize = bytes;
    params
}

fn add_alloc(graph: CUgraph, bytes: usize) -> (CUgraphNode, CUdeviceptr) {
    let (mut node, mut params) = (std::ptr::null_mut(), alloc_params(bytes));
    ok!(cuGraphAddMemAllocNode(
        &mut node,
        graph,
        std::ptr::null(),
        0,
        &mut params
    ));
    (node, params.dptr)
}

fn add_free(graph: CUgraph, after: CUgraphNode, address: CUdeviceptr) -> (CUresult, CUgraphNode) {
    let mut node = std::ptr::null_mut();
    let status = cu!(cuGraphAddMemFreeNode(&mut node, graph, &after, 1, address));
    (status, node)
}

fn add_fill(graph: CUgraph, after: CUgraphNode, address: CUdeviceptr, value: u32) -> CUgraphNode {
    let params = CUDA_MEMSET_NODE_PARAMS {
        dst: address,
        pitch: 0,
        value,
        elementSize: 1,
        width: 8,
        height: 1,
    };
    let (mut node, count) = (std::ptr::null_mut(), usize::from(!after.is_null()));
    ok!(cuGraphAddMemsetNode(
        &mut node,
        graph,
        &after,
        count,
        &params,
        std::ptr::null_mut()
    ));
    node
}

fn instantiate(graph: CUgraph, flags: u64) -> CUgraphExec {
    let mut exec = std::ptr::null_mut();
    ok!(cuGraphInstantiateWithFlags(&mut exec, graph, flags));
    exec
}

fn launch(exec: CUgraphExec, stream: CUstream) {
    ok!(cuGraphLaunch(exec, stream));
    ok!(cuStreamSynchronize(stream));
}

fn trim() {
    ok!(cuDeviceGraphMemTrim(0));
}

#[test]
fn a_graph_takes_its_memory_when_it_is_launched_and_gives_it_back_to_a_trim_when_it_is_gone() {
    let _measuring = measuring();
    context();
    trim();
    let (before, stream, graph) = (free_bytes(), free_stream(), graph());
    let (node, address) = add_alloc(graph, 64 * MIB - 5);
    let fill = add_fill(graph, node, address, 3);
    assert_eq!(add_free(graph, fill, address).0, 0);
    let exec = instantiate(graph, 0);
    assert_eq!(
        (free_bytes(), attribute(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT)),
        (before, 0)
    );
    launch(exec, stream);
    assert_eq!(free_bytes(), before - 64 * MIB);
    assert_eq!(attribute(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT), 64 * MIB);
    launch(exec, stream);
    trim();
    assert_eq!(
        free_bytes(),
        before - 64 * MIB,
        "the executable graph needs it"
    );
    ok!(cuGraphExecDestroy(exec));
    assert_eq!(attribute(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT), 0);
    assert_eq!(attribute(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), 64 * MIB);
    assert_eq!(attribute(CU_GRAPH_MEM_ATTR_USED_MEM_HIGH), 64 * MIB);
    let exec = instantiate(graph, 0);
    launch(exec, stream);
    assert_eq!(attribute(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), 64 * MIB);
    ok!(cuGraphExecDestroy(exec));
    ok!(cuGraphDestroy(graph));
    trim();
    assert_eq!(free_bytes(), before);
    let mut zero = 0u64;
    let to = (&raw mut zero).cast();
    ok!(cuDeviceSetGraphMemAttribute(
        0,
        CU_GRAPH_MEM_ATTR_USED_MEM_HIGH,
        to
    ));
    assert_eq!(attribute(CU_GRAPH_MEM_ATTR_USED_MEM_HIGH), 0);
}

#[test]
fn uploading_takes_the_memory_already_and_too_much_of_it_is_refused() {
    let _measuring = measuring();
    context();
    trim();
    let (before, stream, graph) = (free_bytes(), free_stream(), graph());
    add_alloc(graph, 32 * MIB);
    let exec = instantiate(graph, 0);
    ok!(cuGraphUpload(exec, stream));
    assert_eq!(free_bytes(), before - 32 * MIB);
    ok!(cuGraphExecDestroy(exec));
    trim();
    let exec = instantiate(graph, 2);
    assert_eq!(free_bytes(), before - 32 * MIB);
    ok!(cuGraphExecDestroy(exec));
    ok!(cuGraphDestroy(graph));
    trim();
    let huge = self::graph();
    add_alloc(huge, before);
    let exec = instantiate(huge, 0);
    assert_eq!(cu!(cuGraphLaunch(exec, stream)), CUDA_ERROR_OUT_OF_MEMORY);
    ok!(cuGraphExecDestroy(exec));
    ok!(cuGraphDestroy(huge));
    assert_eq!(free_bytes(), before);
}

#[test]
fn what_a_launch_leaves_allocated_is_the_programs_until_it_frees_it() {
    let _measuring = measuring();
    context();
    let (stream, graph) = (free_stream(), graph());
    let (node, address) = add_alloc(graph, 100);
    add_fill(graph, node, address + 10, 9);
    let exec = instantiate(graph, 0);
    let early = cu!(cuMemsetD8Async(address, 1, 1, stream));
    assert_eq!(early, CUDA_ERROR_INVALID_VALUE, "nothing is there yet");
    assert_eq!(cu!(cuMemFree_v2(address)), CUDA_ERROR_INVALID_VALUE);
    launch(exec, stream);
    assert_eq!(read(address + 9, 2)[1], 9);
    let again = cu!(cuGraphLaunch(exec, stream));
    assert_eq!(again, CUDA_ERROR_INVALID_VALUE, "it is still allocated");
    ok!(cuMemFreeAsync(address, stream));
    let late = cu!(cuMemsetD8Async(address, 1, 1, stream));
    assert_eq!(late, CUDA_ERROR_INVALID_VALUE);
    launch(exec, stream);
    ok!(cuMemFree_v2(address));
    assert_eq!(cu!(cuMemFree_v2(address)), CUDA_ERROR_INVALID_VALUE);
    let frees = self::graph();
    let (status, free) = add_free(frees, node, address);
    assert_eq!(status, CUDA_ERROR_INVALID_VALUE, "a node of another graph");
    assert!(free.is_null());
    let mut node = std::ptr::null_mut();
    ok!(cuGraphAddMemFreeNode(
        &mut node,
        frees,
        std::ptr::null(),
        0,
        address
    ));
    let freeing = instantiate(frees, 0);
    assert_eq!(
        cu!(cuGraphLaunch(freeing, stream)),
        CUDA_ERROR_INVALID_VALUE
    );
    launch(exec, stream);
    launch(freeing, stream);
    launch(exec, stream);
    ok!(cuGraphExecDestroy(exec));
    ok!(cuGraphDestroy(graph));
    assert_eq!(read(address + 10, 1), [9], "it outlives its graph");
    ok!(cuMemFree_v2(address));
    assert_eq!(cu!(cuMemFree_v2(address)), CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn a_graph_that_frees_on_launch_can_be_launched_again() {
    let _measuring = measuring();
    context();
    let (stream, graph) = (free_stream(), graph());
    let (_, address) = add_alloc(graph, 100);
    let exec = instantiate(graph, 1);
    launch(exec, stream);
    launch(exec, stream);
    ok!(cuMemFree_v2(address));
    ok!(cuGraphExecDestroy(exec));
    ok!(cuGraphDestroy(graph));
}

#[test]
fn graphs_with_memory_nodes_are_neither_copied_nor_taken_apart_nor_instantiated_twice() {
    let _measuring = measuring();
    context();
    let (graph, other) = (graph(), graph());
    let (node, address) = add_alloc(graph, 100);
    let (_, free) = add_free(graph, node, address);
    assert_eq!(add_free(graph, node, address).0, CUDA_ERROR_INVALID_VALUE);
    let mut copy = std::ptr::null_mut();
    assert_eq!(
        cu!(cuGraphClone(&mut copy, graph)),
        CUDA_ERROR_NOT_SUPPORTED
    );
    let mut child = std::ptr::null_mut();
    assert_eq!(
        cu!(cuGraphAddChildGraphNode(
            &mut child,
            other,
            std::ptr::null(),
            0,
            graph
        )),
        CUDA_ERROR_NOT_SUPPORTED
    );
    assert_eq!(cu!(cuGraphDestroyNode(free)), CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(
        cu!(cuGraphRemoveDependencies(graph, &node, &free, 1)),
        CUDA_ERROR_NOT_SUPPORTED
    );
    let exec = instantiate(graph, 0);
    let mut second = std::ptr::null_mut();
    assert_eq!(
        cu!(cuGraphInstantiateWithFlags(&mut second, graph, 0)),
        CUDA_ERROR_NOT_SUPPORTED
    );
    ok!(cuGraphExecDestroy(exec));
    let exec = instantiate(graph, 0);
    let mut params = alloc_params(0);
    ok!(cuGraphMemAllocNodeGetParams(node, &mut params));
    assert_eq!((params.bytesize, params.dptr), (100, address));
    let mut freed = 0;
    ok!(cuGraphMemFreeNodeGetParams(free, &mut freed));
    assert_eq!(freed, address);
    let mut kind = 0;
    ok!(cuGraphNodeGetType(node, &mut kind));
    assert_eq!(kind, CU_GRAPH_NODE_TYPE_MEM_ALLOC);
    ok!(cuGraphExecDestroy(exec));
}

#[test]
fn stream_ordered_allocation_is_captured_as_memory_nodes() {
    let _measuring = measuring();
    context();
    let (stream, kept) = (free_stream(), alloc(8));
    let (mut address, mut graph) = (0, std::ptr::null_mut());
    ok!(cuStreamBeginCapture_v2(
        stream,
        CU_STREAM_CAPTURE_MODE_GLOBAL
    ));
    ok!(cuMemAllocAsync(&mut address, 1000, stream));
    ok!(cuMemsetD8Async(address, 6, 1000, stream));
    ok!(cuMemcpyDtoDAsync_v2(kept, address + 990, 8, stream));
    ok!(cuMemFreeAsync(address, stream));
    ok!(cuStreamEndCapture(stream, &mut graph));
    let (mut nodes, mut count) = ([std::ptr::null_mut(); 4], 4);
    ok!(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
    let kinds = nodes.map(|node| {
        let mut kind = 0;
        ok!(cuGraphNodeGetType(node, &mut kind));
        kind
    });
    assert_eq!((count, kinds[0], kinds[3]), (4, 10, 11));
    let exec = instantiate(graph, 0);
    ok!(cuMemsetD8_v2(kept, 0, 8));
    launch(exec, stream);
    assert_eq!(read(kept, 8), [6; 8]);
    ok!(cuGraphExecDestroy(exec));
    ok!(cuGraphDestroy(graph));
}

/// A graph in which a conditional node's bodies write 1, 2, … to `memory`; the graph sets it to 0 before.
fn conditional(
    memory: CUdeviceptr,
    kind: CUgraphConditionalNodeType,
    default: Option<u32>,
    bodies: u32,
) -> CUgraph {
    let graph = graph();
    let before = add_fill(graph, std::ptr::null_mut(), memory, 0);
    let (mut handle, mut node) = (0, std::ptr::null_mut());
    let flags = u32::from(default.is_some());
    ok!(cuGraphConditionalHandleCreate(
        &mut handle,
        graph,
        std::ptr::null_mut(),
        default.unwrap_or(7),
        flags
    ));
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut params: CUgraphNodeParams = unsafe { std::mem::zeroed() };
    params.type_ = CU_GRAPH_NODE_TYPE_CONDITIONAL;
    params.anonymous.conditional = CUDA_CONDITIONAL_NODE_PARAMS {
        handle,
        type_: kind,
        size: bodies,
        phGraph_out: std::ptr::null_mut(),
        ctx: std::ptr::null_mut(),
    };
    ok!(cuGraphAddNode_v2(
        &mut node,
        graph,
        &before,
        std::ptr::null(),
        1,
        &mut params
    ));
    for index in 0..bodies {
        // SAFETY: the driver's own list of as many graphs, which lives as long as the node.
        let body = unsafe { *params.anonymous.conditional.phGraph_out.add(index as usize) };
        add_fill(body, std::ptr::null_mut(), memory, index + 1);
    }
    graph
}

#[test]
fn the_body_of_a_conditional_node_that_the_default_value_chooses_runs_once() {
    let _measuring = measuring();
    context();
    let (memory, stream) = (alloc(8), free_stream());
    for (kind, default, bodies, written) in [
        (CU_GRAPH_COND_TYPE_IF, Some(1), 1, 1),
        (CU_GRAPH_COND_TYPE_IF, Some(0), 1, 0),
        (CU_GRAPH_COND_TYPE_IF, Some(0), 2, 2),
        (CU_GRAPH_COND_TYPE_IF, None, 1, 0),
        (CU_GRAPH_COND_TYPE_WHILE, Some(1), 1, 1),
        (CU_GRAPH_COND_TYPE_WHILE, Some(0), 1, 0),
        (CU_GRAPH_COND_TYPE_SWITCH, Some(2), 3, 3),
        (CU_GRAPH_COND_TYPE_SWITCH, Some(3), 3, 0),
    ] {
        let graph = conditional(memory, kind, default, bodies);
        let mut clone = std::ptr::null_mut();
        ok!(cuGraphClone(&mut clone, graph));
        for graph in [graph, clone] {
            let exec = instantiate(graph, 0);
            ok!(cuMemsetD8_v2(memory, 99, 8));
            launch(exec, stream);
            assert_eq!(read(memory, 1), [written], "{kind} {default:?} {bodies}");
            ok!(cuGraphExecDestroy(exec));
            ok!(cuGraphDestroy(graph));
        }
    }
}
