//! Graphs that a device may launch: what can be part of one (CUDA Driver API, `cuGraphInstantiateWithParams`). Kernels compute nothing
//! here, so no device ever does; the host can launch them as others.

use cuda_sys_stubs::abi::*;

use super::{Graph, Node, Operation, get, node};
use crate::address::HostKind;
use crate::context::Context;
use crate::copy::Copy;
use crate::door::Answer;
use crate::module;
use crate::process::State;
use crate::table::Key;

/// Why a device could not launch a graph, and the node that is the cause; without one, the graph does nothing.
pub(crate) type Obstacle = (CUgraphInstantiateResult, Option<Key<Node>>);

/// What is in the way of a graph's being launched by a device.
pub(crate) fn obstacle(state: &State, graph: Key<Graph>) -> Answer<Option<Obstacle>> {
    let mut context = None;
    let mut does_something = false;
    let mut graphs = vec![graph];
    while let Some(graph) = graphs.pop() {
        for key in &get(state, graph)?.nodes {
            let operation = &node(state, *key)?.operation;
            if let Operation::Child(child) = operation {
                graphs.push(*child);
                continue;
            }
            does_something = true;
            if let Some(result) = objection(state, operation, &mut context)? {
                return Ok(Some((result, Some(*key))));
            }
        }
    }
    let nothing = (CUDA_GRAPH_INSTANTIATE_ERROR, None);
    Ok((!does_something).then_some(nothing))
}

/// What speaks against a node; kernels must be of one context.
fn objection(
    state: &State,
    operation: &Operation,
    context: &mut Option<Key<Context>>,
) -> Answer<Option<CUgraphInstantiateResult>> {
    let is_supported = match operation {
        Operation::Kernel(launch) => {
            let own = module::get_function(state, launch.function)?.context;
            if *context.get_or_insert(own) != own {
                return Ok(Some(CUDA_GRAPH_INSTANTIATE_MULTIPLE_CTXS_NOT_SUPPORTED));
            }
            true
        }
        Operation::Copy(copy) => is_of_device(copy),
        Operation::Fill(_) => true,
        _ => false,
    };
    Ok((!is_supported).then_some(CUDA_GRAPH_INSTANTIATE_NODE_OPERATION_NOT_SUPPORTED))
}

/// Whether neither arrays nor pageable memory are copied.
fn is_of_device(copy: &Copy) -> bool {
    let sides = [copy.params.src, copy.params.dst];
    let is_array = |memory_type| memory_type == CU_MEMORYTYPE_ARRAY;
    let mut places = copy.places().into_iter();
    !sides.iter().any(|side| is_array(side.memory_type))
        && !places.any(|place| place.host_kind() == Some(HostKind::Pageable))
}
