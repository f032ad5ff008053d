//! Captures over an earlier one: each node that is recorded takes the place of the one that the graph has there.
//!
//! cuda.h 13.5, `cuStreamBeginRecaptureToGraph`: nodes come in the order of before, of the same type and behind the same ones, and
//! memory nodes are the same; anything else ends the recapture. Of other nodes that do something else the program is told. It may call
//! the driver then, so it is told when the call that recorded the node is over, and no lock is held. Every such change can be made in
//! an executable graph, too, as long as `cuGraphExecUpdate` here asks for types and order only.

use std::cell::RefCell;

use cuda_sys_stubs::abi::*;

use super::{Capture, invalidate};
use crate::door::Answer;
use crate::graph::memory::{self, GraphAlloc};
use crate::graph::{self, Dependency, Graph, Node, Operation};
use crate::host_call::HostCall;
use crate::location::Home;
use crate::process::State;
use crate::stream::{self, Stream};
use crate::table::Key;
use crate::user_object;

/// Whom to tell of nodes that do something else than before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observer {
    pub(crate) callback: CUgraphRecaptureCallback,
    pub(crate) data: usize,
}

/// How far a recapture has come.
pub(super) struct Recapture {
    observer: Observer,
    recaptured: usize,
}

/// A node that does something else than before.
pub(crate) struct Change {
    pub(crate) capture: Key<Capture>,
    pub(crate) observer: Observer,
    pub(crate) node: Key<Node>,
    pub(crate) before: Operation,
    pub(crate) after: Operation,
}

thread_local! {
    /// What the call that this thread makes has changed.
    static CHANGES: RefCell<Vec<Change>> = const { RefCell::new(Vec::new()) };
}

/// What the last call has changed, to be told now.
pub(crate) fn take_changes() -> Vec<Change> {
    CHANGES.take()
}

impl Recapture {
    pub(super) fn new(observer: Observer) -> Self {
        let recaptured = 0;
        Self {
            observer,
            recaptured,
        }
    }

    /// Whether every node of the graph has come again.
    pub(super) fn is_whole(&self, graph: &Graph) -> bool {
        self.recaptured == graph.nodes.len()
    }
}

/// Lets go of the program's objects that a graph holds.
pub(super) fn release_objects(state: &mut State, graph: Key<Graph>) -> Answer {
    let graph = state.graphs.get_mut(graph);
    let held = std::mem::take(&mut graph.ok_or(CUDA_ERROR_INVALID_VALUE)?.user_objects);
    user_object::release_all(state, &held)
}

/// The node that comes next in a recapture; `None`: the capture is none.
fn next(state: &State, key: Key<Capture>) -> Answer<Option<Key<Node>>> {
    let capture = state.captures.get(key);
    let capture = capture.ok_or(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)?;
    let Some(recapture) = &capture.recapture else {
        return Ok(None);
    };
    let nodes = &graph::get(state, capture.graph)?.nodes;
    let next = nodes.get(recapture.recaptured).copied();
    next.map(Some).ok_or(CUDA_ERROR_GRAPH_RECAPTURE_FAILURE)
}

/// Records an operation as the node that comes next; `None`: the capture is no recapture. `CUDA_ERROR_GRAPH_RECAPTURE_FAILURE`: it
/// is none that could; the capture is void.
pub(super) fn replace(
    state: &mut State,
    key: Key<Capture>,
    operation: &Operation,
    tips: &[Dependency],
) -> Answer<Option<Key<Node>>> {
    let replaced = try_replace(state, key, operation, tips);
    if replaced.is_err() {
        invalidate(state, key);
    }
    replaced
}

fn try_replace(
    state: &mut State,
    key: Key<Capture>,
    operation: &Operation,
    tips: &[Dependency],
) -> Answer<Option<Key<Node>>> {
    let Some(node) = next(state, key)? else {
        return Ok(None);
    };
    let Node {
        operation: before,
        dependencies,
        graph,
    } = graph::node(state, node)?;
    let is_behind_the_same = dependencies.len() == tips.len()
        && dependencies
            .iter()
            .all(|dependency| tips.contains(dependency));
    let (before, graph) = (before.clone(), *graph);
    if !is_behind_the_same || !is_of_same_kind(state, &before, operation) {
        return Err(CUDA_ERROR_GRAPH_RECAPTURE_FAILURE);
    }
    let is_alike = is_alike(state, &before, operation);
    if !is_alike {
        graph::replace(state, node, graph, operation.clone())?;
    }
    let after = graph::node(state, node)?.operation.clone();
    let capture = state.captures.get_mut(key);
    let recapture = capture.and_then(|capture| capture.recapture.as_mut());
    let recapture = recapture.ok_or(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)?;
    recapture.recaptured += 1;
    let observer = recapture.observer;
    if !is_alike && observer.callback.is_some() {
        let change = Change {
            capture: key,
            observer,
            node,
            before,
            after,
        };
        CHANGES.with_borrow_mut(|changes| changes.push(change));
    }
    Ok(Some(node))
}

/// Recaptures an allocation, whose addresses stay; `None`: the stream's capture is no recapture.
pub(crate) fn alloc(
    state: &mut State,
    stream: Key<Stream>,
    wanted: ((Home, usize), u64),
) -> Answer<Option<Key<GraphAlloc>>> {
    let capturing = stream::get(state, stream)?.capture.as_ref();
    let key = capturing.ok_or(CUDA_ERROR_ILLEGAL_STATE)?.capture;
    let known = match next(state, key) {
        Ok(None) => return Ok(None),
        Ok(Some(node)) => match graph::node(state, node)?.operation {
            Operation::Alloc(alloc) if memory::is_for(state, alloc, wanted) => Ok(alloc),
            _ => Err(CUDA_ERROR_GRAPH_RECAPTURE_FAILURE),
        },
        Err(error) => Err(error),
    };
    if known.is_err() {
        invalidate(state, key);
    }
    known.map(Some)
}

/// Whether a node may do the one where it did the other. Child graphs have the same nodes in the same order.
fn is_of_same_kind(state: &State, before: &Operation, after: &Operation) -> bool {
    match (before, after) {
        (Operation::Alloc(before), Operation::Alloc(after))
        | (Operation::Free(before), Operation::Free(after)) => before == after,
        (Operation::Child(before), Operation::Child(after)) => pairs(state, *before, *after)
            .is_some_and(|pairs| {
                pairs
                    .iter()
                    .all(|(before, after)| is_of_same_kind(state, before, after))
            }),
        _ => before.node_type() == after.node_type(),
    }
}

/// What the nodes of two graphs do that have the same edges, one by one; `None`: they have not.
fn pairs(
    state: &State,
    before: Key<Graph>,
    after: Key<Graph>,
) -> Option<Vec<(&Operation, &Operation)>> {
    let of = |graph| Some(&graph::get(state, graph).ok()?.nodes);
    let (before, after) = (of(before)?, of(after)?);
    let behind = |nodes: &[Key<Node>], node: Key<Node>| {
        let dependencies = &graph::node(state, node).ok()?.dependencies;
        let places = dependencies.iter();
        let mut places: Vec<_> = places
            .map(|(dependency, _)| nodes.iter().position(|node| node == dependency))
            .collect();
        places.sort_unstable();
        Some(places)
    };
    if before.len() != after.len() {
        return None;
    }
    let pairs = before.iter().zip(after);
    pairs
        .map(|(one, other)| {
            if behind(before, *one)? != behind(after, *other)? {
                return None;
            }
            let operation = |node| Some(&graph::node(state, node).ok()?.operation);
            Some((operation(*one)?, operation(*other)?))
        })
        .collect()
}

/// Whether two operations of one kind are the same, parameter by parameter.
fn is_alike(state: &State, before: &Operation, after: &Operation) -> bool {
    match (before, after) {
        (Operation::Kernel(before), Operation::Kernel(after)) => {
            (before.function, before.shape) == (after.function, after.shape)
                && before.arguments.values() == after.arguments.values()
        }
        (Operation::Copy(before), Operation::Copy(after)) => before.params == after.params,
        (Operation::Fill(before), Operation::Fill(after)) => before == after,
        (
            Operation::Host(HostCall::Function { function, data }),
            Operation::Host(HostCall::Function {
                function: other_function,
                data: other_data,
            }),
        ) => std::ptr::fn_addr_eq(*function, *other_function) && data == other_data,
        (Operation::WaitEvent(before), Operation::WaitEvent(after))
        | (Operation::RecordEvent(before), Operation::RecordEvent(after)) => before == after,
        (Operation::Words(before), Operation::Words(after)) => {
            before.operations == after.operations
        }
        (Operation::Child(before), Operation::Child(after)) => pairs(state, *before, *after)
            .is_some_and(|pairs| {
                pairs
                    .iter()
                    .all(|(before, after)| is_alike(state, before, after))
            }),
        (Operation::Empty, Operation::Empty)
        | (Operation::Alloc(_), Operation::Alloc(_))
        | (Operation::Free(_), Operation::Free(_)) => true,
        _ => false,
    }
}
