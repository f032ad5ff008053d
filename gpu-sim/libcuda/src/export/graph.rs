//! Graphs: structure and queries.

use std::ffi::c_char;

use cuda_sys_stubs::abi::*;

use super::{list, put, put_list, text, wanted};
use crate::door::{Answer, exports};
use crate::graph::{self, Dependency, Edge, Graph, Node, dot};
use crate::process::{State, process};
use crate::table::Key;
use crate::user_object;

pub(super) fn edge_data(edge: Edge) -> CUgraphEdgeData {
    CUgraphEdgeData {
        from_port: edge.from_port,
        to_port: edge.to_port,
        type_: edge.kind,
        reserved: [0; 5],
    }
}

fn edge(data: &CUgraphEdgeData) -> Edge {
    Edge {
        from_port: data.from_port,
        to_port: data.to_port,
        kind: data.type_,
    }
}

/// Nodes that another depends on, with the edges if they are given.
///
/// # Safety
/// Both pointers are null or point to `count` elements.
pub(super) unsafe fn dependencies(
    state: &State,
    nodes: *const CUgraphNode,
    edges: *const CUgraphEdgeData,
    count: usize,
) -> Answer<Vec<Dependency>> {
    // SAFETY: the caller's promise.
    let nodes = unsafe { list(nodes, count)? };
    let count = if edges.is_null() { 0 } else { count };
    // SAFETY: the caller's promise.
    let edges = unsafe { list(edges, count)? };
    let edge = |index: usize| edges.get(index).map(edge).unwrap_or_default();
    nodes
        .iter()
        .enumerate()
        .map(|(index, handle)| Ok((graph::find_node(state, *handle)?, edge(index))))
        .collect()
}

/// Connects or disconnects pairs of nodes of one graph; nothing is done unless all pairs are of that graph.
///
/// # Safety
/// The pointers are null or point to `count` elements.
unsafe fn each_pair(
    handle: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    edges: *const CUgraphEdgeData,
    count: usize,
    act: impl Fn(&mut State, Key<Node>, Key<Node>, Edge) -> Answer,
) -> Answer {
    let process = process()?;
    let mut state = process.lock();
    let graph = graph::find(&state, handle)?;
    // SAFETY: the caller's promise.
    let from = unsafe { dependencies(&state, from, edges, count)? };
    // SAFETY: the caller's promise.
    let to = unsafe { dependencies(&state, to, std::ptr::null(), count)? };
    for (node, _) in from.iter().chain(&to) {
        if graph::node(&state, *node)?.graph != graph {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
    }
    from.into_iter()
        .zip(to)
        .try_for_each(|((from, edge), (to, _))| act(&mut state, from, to, edge))
}

const NO_NODE: CUgraphNode = std::ptr::null_mut();
const NO_EDGE: CUgraphEdgeData = CUgraphEdgeData {
    from_port: 0,
    to_port: 0,
    type_: 0,
    reserved: [0; 5],
};

/// Answers a query for edges. A caller of the first version is not told of edges that mean more than order.
///
/// # Safety
/// As [`put_list`], for each pointer.
unsafe fn put_edges(
    handle: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    data: *mut CUgraphEdgeData,
    count: *mut usize,
) -> Answer {
    let process = process()?;
    let state = process.lock();
    let edges = graph::edges(&state, graph::find(&state, handle)?)?;
    let sources: Vec<CUgraphNode> = edges.iter().map(|(from, _, _)| from.handle()).collect();
    let targets: Vec<CUgraphNode> = edges.iter().map(|(_, to, _)| to.handle()).collect();
    let kinds: Vec<CUgraphEdgeData> = edges.iter().map(|(_, _, edge)| edge_data(*edge)).collect();
    // SAFETY: the caller's promise.
    unsafe {
        put_lists(
            count,
            &mut [(from, &sources), (to, &targets)],
            Some((data, &kinds)),
        )
    }
}

/// Answers with lists of one length; the length is read before the first list changes it.
///
/// # Safety
/// As [`put_list`], for each pointer.
unsafe fn put_lists(
    count: *mut usize,
    lists: &mut [(*mut CUgraphNode, &Vec<CUgraphNode>)],
    data: Option<(*mut CUgraphEdgeData, &Vec<CUgraphEdgeData>)>,
) -> Answer {
    // SAFETY: the caller's promise.
    let room = unsafe { super::get(count)? };
    if let Some((to, found)) = data.filter(|(to, _)| !to.is_null()) {
        let mut own = room;
        // SAFETY: the caller's promise; `own` is ours.
        unsafe { put_list(to, &raw mut own, found, NO_EDGE)? };
    }
    for (to, found) in lists {
        // SAFETY: `count` was just read.
        unsafe { put(count, room)? };
        // SAFETY: the caller's promise.
        unsafe { put_list(*to, count, found, NO_NODE)? };
    }
    Ok(())
}

/// Nodes around a node, with the edges to them.
///
/// # Safety
/// As [`put_list`], for each pointer.
unsafe fn put_around(
    handle: CUgraphNode,
    nodes: *mut CUgraphNode,
    data: *mut CUgraphEdgeData,
    count: *mut usize,
    dependents: bool,
) -> Answer {
    let process = process()?;
    let state = process.lock();
    let key = graph::find_node(&state, handle)?;
    let all = graph::edges(&state, graph::node(&state, key)?.graph)?;
    let around = all
        .iter()
        .filter(|(from, to, _)| *(if dependents { from } else { to }) == key);
    let (handles, edges): (Vec<CUgraphNode>, Vec<CUgraphEdgeData>) = around
        .map(|(from, to, edge)| {
            (
                (if dependents { to } else { from }).handle::<CUgraphNode_st>(),
                edge_data(*edge),
            )
        })
        .unzip();
    // SAFETY: the caller's promise.
    unsafe { put_lists(count, &mut [(nodes, &handles)], Some((data, &edges))) }
}

/// Nodes of a graph that pass.
///
/// # Safety
/// As [`put_list`].
unsafe fn put_nodes(
    handle: CUgraph,
    nodes: *mut CUgraphNode,
    count: *mut usize,
    passes: impl Fn(&Node) -> bool,
) -> Answer {
    let process = process()?;
    let state = process.lock();
    let graph = graph::get(&state, graph::find(&state, handle)?)?;
    let wanted = graph
        .nodes
        .iter()
        .filter(|key| state.nodes.get(**key).is_some_and(&passes));
    let found: Vec<CUgraphNode> = wanted.map(|key| key.handle()).collect();
    // SAFETY: the caller's promise.
    unsafe { put_list(nodes, count, &found, NO_NODE) }
}

/// Ids fit their 32 bits until four thousand million objects were made.
fn short_id(number: u64) -> Answer<u32> {
    u32::try_from(number).map_err(|_| CUDA_ERROR_UNKNOWN)
}

exports! {
    fn cuGraphCreate(phGraph: *mut CUgraph, flags: u32) {
        let process = process()?;
        wanted(phGraph)?;
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        put(phGraph, process.lock().graphs.insert(Graph::default()).handle())
    }
    fn cuGraphDestroy(hGraph: CUgraph) {
        let process = process()?;
        let destroyed = {
            let mut state = process.lock();
            let key = graph::find(&state, hGraph)?;
            graph::destroy(&mut state, key)
        };
        user_object::call_ended(process);
        destroyed
    }
    fn cuGraphClone(phGraphClone: *mut CUgraph, originalGraph: CUgraph) {
        let process = process()?;
        wanted(phGraphClone)?;
        let mut state = process.lock();
        let original = graph::find(&state, originalGraph)?;
        put(phGraphClone, graph::clone(&mut state, original, None)?.handle())
    }
    fn cuGraphDebugDotPrint(hGraph: CUgraph, path: *const c_char, flags: u32) {
        let (process, path) = (process()?, text(path)?);
        let picture = {
            let state = process.lock();
            dot::draw(&state, graph::find(&state, hGraph)?, flags)?
        };
        std::fs::write(path, picture).map_err(|_| CUDA_ERROR_OPERATING_SYSTEM)
    }
    fn cuGraphNodeFindInClone(phNode: *mut CUgraphNode, hOriginalNode: CUgraphNode, hClonedGraph: CUgraph) {
        let process = process()?;
        let state = process.lock();
        let original = Key::of(hOriginalNode).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        put(phNode, graph::find_in_clone(&state, original, graph::find(&state, hClonedGraph)?)?.handle())
    }
    fn cuGraphGetNodes(hGraph: CUgraph, nodes: *mut CUgraphNode, numNodes: *mut usize) {
        put_nodes(hGraph, nodes, numNodes, |_| true)
    }
    fn cuGraphGetRootNodes(hGraph: CUgraph, rootNodes: *mut CUgraphNode, numRootNodes: *mut usize) {
        put_nodes(hGraph, rootNodes, numRootNodes, |node| node.dependencies.is_empty())
    }
    fn cuGraphGetEdges(hGraph: CUgraph, from: *mut CUgraphNode, to: *mut CUgraphNode, numEdges: *mut usize) {
        put_edges(hGraph, from, to, std::ptr::null_mut(), numEdges)
    }
    fn cuGraphGetEdges_v2(hGraph: CUgraph, from: *mut CUgraphNode, to: *mut CUgraphNode, edgeData: *mut CUgraphEdgeData, numEdges: *mut usize) {
        put_edges(hGraph, from, to, edgeData, numEdges)
    }
    fn cuGraphNodeGetDependencies(hNode: CUgraphNode, nodes: *mut CUgraphNode, numDependencies: *mut usize) {
        put_around(hNode, nodes, std::ptr::null_mut(), numDependencies, false)
    }
    fn cuGraphNodeGetDependencies_v2(hNode: CUgraphNode, nodes: *mut CUgraphNode, edgeData: *mut CUgraphEdgeData, numDependencies: *mut usize) {
        put_around(hNode, nodes, edgeData, numDependencies, false)
    }
    fn cuGraphNodeGetDependentNodes(hNode: CUgraphNode, dependentNodes: *mut CUgraphNode, numDependentNodes: *mut usize) {
        put_around(hNode, dependentNodes, std::ptr::null_mut(), numDependentNodes, true)
    }
    fn cuGraphNodeGetDependentNodes_v2(hNode: CUgraphNode, dependentNodes: *mut CUgraphNode, edgeData: *mut CUgraphEdgeData, numDependentNodes: *mut usize) {
        put_around(hNode, dependentNodes, edgeData, numDependentNodes, true)
    }
    fn cuGraphAddDependencies(hGraph: CUgraph, from: *const CUgraphNode, to: *const CUgraphNode, numDependencies: usize) {
        each_pair(hGraph, from, to, std::ptr::null(), numDependencies, graph::connect)
    }
    fn cuGraphAddDependencies_v2(hGraph: CUgraph, from: *const CUgraphNode, to: *const CUgraphNode, edgeData: *const CUgraphEdgeData, numDependencies: usize) {
        each_pair(hGraph, from, to, edgeData, numDependencies, graph::connect)
    }
    fn cuGraphRemoveDependencies(hGraph: CUgraph, from: *const CUgraphNode, to: *const CUgraphNode, numDependencies: usize) {
        each_pair(hGraph, from, to, std::ptr::null(), numDependencies, |state, from, to, _| graph::disconnect(state, from, to))
    }
    fn cuGraphRemoveDependencies_v2(hGraph: CUgraph, from: *const CUgraphNode, to: *const CUgraphNode, edgeData: *const CUgraphEdgeData, numDependencies: usize) {
        each_pair(hGraph, from, to, edgeData, numDependencies, |state, from, to, _| graph::disconnect(state, from, to))
    }
    fn cuGraphDestroyNode(hNode: CUgraphNode) {
        let process = process()?;
        let mut state = process.lock();
        let key = graph::find_node(&state, hNode)?;
        graph::destroy_node(&mut state, key)
    }
    fn cuGraphNodeGetType(hNode: CUgraphNode, r#type: *mut CUgraphNodeType) {
        let process = process()?;
        let state = process.lock();
        put(r#type, graph::node(&state, graph::find_node(&state, hNode)?)?.operation.node_type())
    }
    fn cuGraphNodeGetContainingGraph(hNode: CUgraphNode, phGraph: *mut CUgraph) {
        let process = process()?;
        let state = process.lock();
        put(phGraph, graph::node(&state, graph::find_node(&state, hNode)?)?.graph.handle())
    }
    fn cuGraphNodeGetLocalId(hNode: CUgraphNode, nodeId: *mut u32) {
        let process = process()?;
        let state = process.lock();
        put(nodeId, short_id(graph::find_node(&state, hNode)?.number())?)
    }
    fn cuGraphNodeGetToolsId(hNode: CUgraphNode, toolsNodeId: *mut u64) {
        let process = process()?;
        let state = process.lock();
        put(toolsNodeId, graph::find_node(&state, hNode)?.number())
    }
    fn cuGraphGetId(hGraph: CUgraph, graphId: *mut u32) {
        let process = process()?;
        let state = process.lock();
        put(graphId, short_id(graph::find(&state, hGraph)?.number())?)
    }
}
