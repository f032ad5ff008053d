//! Graphs inside of graphs: changed in an executable graph, and drawn.
#![expect(clippy::expect_used, reason = "what goes wrong fails the test")]

mod support;

use cuda_sys_stubs::abi::*;
use support::{alloc, context, cu, ok, read, spin};

const NULL: CUstream = std::ptr::null_mut();
const CHANGED: CUresult = CUDA_ERROR_INVALID_VALUE;

fn graph() -> CUgraph {
    let mut graph = std::ptr::null_mut();
    ok!(cuGraphCreate(&mut graph, 0));
    graph
}

fn add_fill(graph: CUgraph, after: &[CUgraphNode], dst: CUdeviceptr, value: u32) -> CUgraphNode {
    let params = CUDA_MEMSET_NODE_PARAMS {
        dst,
        pitch: 0,
        value,
        elementSize: 1,
        width: 4,
        height: 1,
    };
    let (mut node, context) = (std::ptr::null_mut(), std::ptr::null_mut());
    let (before, count) = (after.as_ptr(), after.len());
    ok!(cuGraphAddMemsetNode(
        &mut node, graph, before, count, &params, context
    ));
    node
}

fn add_child(graph: CUgraph, after: &[CUgraphNode], child: CUgraph) -> CUgraphNode {
    let mut node = std::ptr::null_mut();
    let (before, count) = (after.as_ptr(), after.len());
    ok!(cuGraphAddChildGraphNode(
        &mut node, graph, before, count, child
    ));
    node
}

/// A graph that fills two places, one after the other.
fn fills(first: (CUdeviceptr, u32), second: (CUdeviceptr, u32)) -> CUgraph {
    let graph = graph();
    let node = add_fill(graph, &[], first.0, first.1);
    add_fill(graph, &[node], second.0, second.1);
    graph
}

#[test]
fn a_child_graph_in_an_executable_graph_takes_what_another_of_its_shape_does() {
    context();
    let (one, two, parent) = (alloc(4), alloc(4), graph());
    let before = add_fill(parent, &[], one, 1);
    let node = add_child(parent, &[before], fills((one, 2), (two, 3)));
    let (mut exec, flat) = (std::ptr::null_mut(), graph());
    ok!(cuGraphInstantiateWithFlags(&mut exec, parent, 0));
    let other = fills((two, 7), (two, 8));
    ok!(cuGraphExecChildGraphNodeSetParams(exec, node, other));
    ok!(cuGraphLaunch(exec, NULL));
    ok!(cuStreamSynchronize(NULL));
    assert_eq!((read(one, 4), read(two, 4)), (vec![1; 4], vec![8; 4]));
    for _ in 0..2 {
        add_fill(flat, &[], one, 9);
    }
    let set = |node, child| cu!(cuGraphExecChildGraphNodeSetParams(exec, node, child));
    assert_eq!(set(node, flat), CHANGED);
    assert_eq!(set(node, graph()), CHANGED);
    assert_eq!(set(before, other), CHANGED);
    ok!(cuGraphLaunch(exec, NULL));
    ok!(cuStreamSynchronize(NULL));
    assert_eq!((read(one, 4), read(two, 4)), (vec![1; 4], vec![8; 4]));
}

/// What `cuGraphDebugDotPrint` writes.
fn picture(graph: CUgraph, flags: u32) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("graph.dot");
    let name = std::ffi::CString::new(path.to_str().expect("text")).expect("no NUL");
    ok!(cuGraphDebugDotPrint(graph, name.as_ptr(), flags));
    std::fs::read_to_string(path).expect("it was written")
}

#[test]
fn a_picture_of_a_graph_has_its_nodes_its_edges_and_the_graphs_in_it() {
    context();
    let (memory, parent, child) = (alloc(4), graph(), graph());
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut params: CUDA_KERNEL_NODE_PARAMS_v1 = unsafe { std::mem::zeroed() };
    params.func = spin(1000);
    (params.gridDimX, params.gridDimY, params.gridDimZ) = (2, 1, 1);
    (params.blockDimX, params.blockDimY, params.blockDimZ) = (32, 1, 1);
    let (mut kernel, nothing) = (std::ptr::null_mut(), std::ptr::null());
    ok!(cuGraphAddKernelNode(
        &mut kernel,
        child,
        nothing,
        0,
        &params
    ));
    let first = add_fill(parent, &[], memory, 1);
    let second = add_child(parent, &[first], child);
    let id = |node| {
        let mut id = 0;
        ok!(cuGraphNodeGetToolsId(node, &mut id));
        id
    };
    let plain = picture(parent, 0);
    let edge = format!("\"node_{}\" -> \"node_{}\";", id(first), id(second));
    let fill = format!("\"node_{}\" [label=\"MEMSET\"];", id(first));
    for part in [&edge, &fill, "[label=\"KERNEL\\nspin\"];"] {
        assert_eq!(plain.matches(part).count(), 1, "{part}: {plain}");
    }
    assert!(plain.starts_with("digraph dot {\n") && plain.ends_with("}\n}\n"));
    assert_eq!(plain.matches("subgraph cluster_").count(), 2);
    assert_eq!(plain.matches('{').count(), plain.matches('}').count());
    let verbose = picture(parent, CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE);
    assert!(verbose.contains("grid [2, 1, 1] block [32, 1, 1] shared 0"));
    assert!(verbose.contains(&format!("{memory:#x} = 0x1, 4 x 1")));
    let nowhere = c"/nowhere/graph.dot".as_ptr();
    assert_eq!(
        cu!(cuGraphDebugDotPrint(parent, nowhere, 0)),
        CUDA_ERROR_OPERATING_SYSTEM
    );
    assert_eq!(
        cu!(cuGraphDebugDotPrint(parent, nowhere, 1 << 18)),
        CUDA_ERROR_INVALID_VALUE
    );
}
