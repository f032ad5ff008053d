//! Graphs: nodes, the order between them, and what a node does.

pub(crate) mod conditional;
pub(crate) mod device_launch;
pub(crate) mod dot;
pub(crate) mod exec;
pub(crate) mod memory;
mod order;
pub(crate) mod words;

pub(crate) use order::{depends_on, edges, sorted};

use std::collections::BTreeMap;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::{Effect, Machine};
use gpu_sim::command::Command;

use conditional::Conditional;
use memory::GraphAlloc;
use words::Words;

use crate::address::Place;
use crate::capture;
use crate::copy::Copy;
use crate::door::Answer;
use crate::event::{self, Event};
use crate::fill::Fill;
use crate::host_call::HostCall;
use crate::launch::Launch;
use crate::process::{Process, State};
use crate::stream::{self, Stream};
use crate::table::Key;
use crate::user_object::{self, References, UserObject};

/// What a node does; what a stream does, too.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Kernel(Launch),
    Copy(Copy),
    Fill(Fill),
    Host(HostCall),
    Child(Key<Graph>),
    Empty,
    WaitEvent(Key<Event>),
    RecordEvent(Key<Event>),
    Alloc(Key<GraphAlloc>),
    Free(Key<GraphAlloc>),
    Conditional(Conditional),
    /// In an executable graph, before the step that records an event of several processes.
    Moved,
    /// In an executable graph, before the step that waits for its end.
    BeginWords(Words),
    Words(Words),
}

impl Operation {
    pub(crate) fn node_type(&self) -> CUgraphNodeType {
        match self {
            Self::Kernel(_) => CU_GRAPH_NODE_TYPE_KERNEL,
            Self::Copy(_) => CU_GRAPH_NODE_TYPE_MEMCPY,
            Self::Fill(_) => CU_GRAPH_NODE_TYPE_MEMSET,
            Self::Host(_) => CU_GRAPH_NODE_TYPE_HOST,
            Self::Child(_) => CU_GRAPH_NODE_TYPE_GRAPH,
            Self::Empty => CU_GRAPH_NODE_TYPE_EMPTY,
            Self::WaitEvent(_) => CU_GRAPH_NODE_TYPE_WAIT_EVENT,
            Self::RecordEvent(_) | Self::Moved => CU_GRAPH_NODE_TYPE_EVENT_RECORD,
            Self::Alloc(_) => CU_GRAPH_NODE_TYPE_MEM_ALLOC,
            Self::Free(_) => CU_GRAPH_NODE_TYPE_MEM_FREE,
            Self::Conditional(_) => CU_GRAPH_NODE_TYPE_CONDITIONAL,
            Self::BeginWords(_) | Self::Words(_) => CU_GRAPH_NODE_TYPE_BATCH_MEM_OP,
        }
    }

    /// Graphs that are part of it.
    pub(crate) fn inner(&self) -> &[Key<Graph>] {
        match self {
            Self::Child(child) => std::slice::from_ref(child),
            Self::Conditional(conditional) => &conditional.bodies,
            _ => &[],
        }
    }

    /// Whether it allocates or frees; a graph with such a node cannot be copied or taken apart.
    fn is_of_memory(&self) -> bool {
        matches!(self, Self::Alloc(_) | Self::Free(_))
    }

    /// Where it reads and writes.
    fn places(&self) -> Vec<Place> {
        match self {
            Self::Copy(copy) => copy.places(),
            Self::Fill(fill) => vec![fill.place],
            _ => Vec::new(),
        }
    }

    /// The device's command for it. A record counts up: each call is one more.
    fn command(&self, state: &mut State) -> Answer<Command> {
        Ok(match self {
            Self::Kernel(launch) => launch.command(),
            Self::Copy(copy) => copy.command(),
            Self::Fill(fill) => fill.command(),
            Self::Host(_) | Self::Moved => Command::HostCall,
            Self::Child(_)
            | Self::Empty
            | Self::Alloc(_)
            | Self::Free(_)
            | Self::Conditional(_)
            | Self::BeginWords(_) => Command::Marker,
            Self::Words(words) => words.next_wait(),
            Self::WaitEvent(event) => event::wait_command(state, *event)?,
            Self::RecordEvent(event) => event::next_signal(state, *event)?,
        })
    }

    /// What happens in this process when it completes.
    fn effect(&self, machine: &'static Machine) -> Option<Effect> {
        match self {
            Self::Kernel(launch) => launch.effect(),
            Self::Copy(copy) => Some(copy.clone().effect(machine)),
            Self::Fill(fill) => Some(fill.effect(machine)),
            &Self::Host(call) => Some(Effect::HostCall(Box::new(move || call.run()))),
            Self::Moved => Some(event::moved()),
            Self::BeginWords(words) => words.begin(machine),
            _ => None,
        }
    }
}

/// Has a stream do something, or records it if the stream is capturing.
pub(crate) fn perform(
    process: &'static Process,
    state: &mut State,
    stream: Key<Stream>,
    operation: Operation,
) -> Answer {
    if capture::place(state, stream)?.is_some() {
        return capture::append(state, stream, operation);
    }
    memory::check_live(state, operation.places())?;
    let command = operation.command(state)?;
    stream::submit(
        process,
        state,
        stream,
        command,
        operation.effect(&process.machine),
    )
    .map(drop)
}

/// Which output of the node before starts this one, and how much it waits for; as `CUgraphEdgeData` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) from_port: u8,
    pub(crate) to_port: u8,
    pub(crate) kind: u8,
}

/// A node that comes before, and the edge from it.
pub(crate) type Dependency = (Key<Node>, Edge);

/// An edge with its ends: from, to.
pub(crate) type Connection = (Key<Node>, Key<Node>, Edge);

/// A graph. Its nodes stand in the order in which they were added.
#[derive(Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Key<Node>>,
    /// The graph that it is a child or a body of: it goes with that one.
    parent: Option<Key<Graph>>,
    /// For a clone: original node → its copy.
    origins: BTreeMap<Key<Node>, Key<Node>>,
    pub(super) user_objects: References,
}

/// A node.
pub(crate) struct Node {
    pub(crate) graph: Key<Graph>,
    pub(crate) operation: Operation,
    pub(crate) dependencies: Vec<Dependency>,
}

/// The graph behind a handle.
pub(crate) fn find(state: &State, handle: CUgraph) -> Answer<Key<Graph>> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    state
        .graphs
        .get(key)
        .map(|_| key)
        .ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// The node behind a handle.
pub(crate) fn find_node(state: &State, handle: CUgraphNode) -> Answer<Key<Node>> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    state
        .nodes
        .get(key)
        .map(|_| key)
        .ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// A graph that must exist, because its handle was looked up.
pub(crate) fn get(state: &State, key: Key<Graph>) -> Answer<&Graph> {
    state.graphs.get(key).ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// A node that must exist, because its handle was looked up.
pub(crate) fn node(state: &State, key: Key<Node>) -> Answer<&Node> {
    state.nodes.get(key).ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// Adds a node behind others of the same graph. A child graph is copied: the node owns its own.
pub(crate) fn add(
    state: &mut State,
    graph: Key<Graph>,
    operation: Operation,
    dependencies: Vec<Dependency>,
) -> Answer<Key<Node>> {
    get(state, graph)?;
    for (index, (dependency, _)) in dependencies.iter().enumerate() {
        let repeated = dependencies
            .iter()
            .take(index)
            .any(|(other, _)| other == dependency);
        if repeated || node(state, *dependency)?.graph != graph {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
    }
    let operation = match operation {
        Operation::Child(child) => {
            if child == graph {
                return Err(CUDA_ERROR_INVALID_VALUE);
            }
            Operation::Child(clone(state, child, Some(graph))?)
        }
        other => other,
    };
    if let Operation::Free(alloc) = operation {
        check_freed_once(state, graph, alloc)?;
    }
    memory::keep(state, &operation, true);
    let key = state.nodes.insert(Node {
        graph,
        operation,
        dependencies,
    });
    state
        .graphs
        .get_mut(graph)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?
        .nodes
        .push(key);
    Ok(key)
}

/// Has a node do something else, of the same kind. A child graph is copied.
pub(crate) fn replace(
    state: &mut State,
    key: Key<Node>,
    graph: Key<Graph>,
    operation: Operation,
) -> Answer {
    let operation = match operation {
        Operation::Child(child) => Operation::Child(clone(state, child, Some(graph))?),
        other => other,
    };
    let node = state.nodes.get_mut(key).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let before = std::mem::replace(&mut node.operation, operation);
    forget(state, &before)
}

fn check_freed_once(state: &State, graph: Key<Graph>, alloc: Key<GraphAlloc>) -> Answer {
    let mut nodes = operations(state, graph)?;
    if nodes.any(|operation| matches!(operation, Operation::Free(other) if *other == alloc)) {
        Err(CUDA_ERROR_INVALID_VALUE)
    } else {
        Ok(())
    }
}

/// What a graph's nodes do.
fn operations(state: &State, graph: Key<Graph>) -> Answer<impl Iterator<Item = &Operation>> {
    let nodes = get(state, graph)?.nodes.iter();
    Ok(nodes.filter_map(|key| Some(&state.nodes.get(*key)?.operation)))
}

/// Refuses what a graph with memory nodes does not allow (CUDA Driver API, `cuGraphAddMemAllocNode`).
fn forbid_memory(state: &State, graph: Key<Graph>) -> Answer {
    if operations(state, graph)?.any(Operation::is_of_memory) {
        Err(CUDA_ERROR_NOT_SUPPORTED)
    } else {
        Ok(())
    }
}

/// Copies a graph with its child graphs.
pub(crate) fn clone(
    state: &mut State,
    original: Key<Graph>,
    parent: Option<Key<Graph>>,
) -> Answer<Key<Graph>> {
    forbid_memory(state, original)?;
    let Graph {
        nodes,
        user_objects,
        ..
    } = get(state, original)?;
    let (nodes, user_objects) = (nodes.clone(), user_objects.clone());
    user_object::retain_all(state, &user_objects)?;
    let copy = state.graphs.insert(Graph {
        parent,
        ..Graph::default()
    });
    let mut origins = BTreeMap::new();
    for original in nodes {
        let Node {
            operation,
            dependencies,
            ..
        } = node(state, original)?;
        // Dependencies may point forward: edges can be added later than nodes.
        let (mut operation, dependencies) = (operation.clone(), dependencies.clone());
        match &mut operation {
            Operation::Child(child) => *child = clone(state, *child, Some(copy))?,
            Operation::Conditional(conditional) => {
                let bodies = conditional.bodies.iter();
                let copies = bodies.map(|body| clone(state, *body, Some(copy)));
                *conditional = conditional.with_bodies(copies.collect::<Answer<_>>()?);
            }
            _ => {}
        }
        let key = state.nodes.insert(Node {
            graph: copy,
            operation,
            dependencies,
        });
        origins.insert(original, key);
    }
    for key in origins.values() {
        let node = state.nodes.get_mut(*key).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        for (dependency, _) in &mut node.dependencies {
            *dependency = origins.get(dependency).copied().unwrap_or(*dependency);
        }
    }
    let graph = state.graphs.get_mut(copy).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    graph.nodes = origins.values().copied().collect();
    graph.origins = origins;
    graph.user_objects = user_objects;
    Ok(copy)
}

/// The copy of a node in a clone of its graph.
pub(crate) fn find_in_clone(
    state: &State,
    original: Key<Node>,
    clone: Key<Graph>,
) -> Answer<Key<Node>> {
    get(state, clone)?
        .origins
        .get(&original)
        .copied()
        .ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// Ends a graph with its nodes and child graphs. A child graph cannot be ended by itself.
pub(crate) fn destroy(state: &mut State, key: Key<Graph>) -> Answer {
    if get(state, key)?.parent.is_some() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    remove(state, key)
}

/// Has a graph hold references to an object.
pub(crate) fn hold(
    state: &mut State,
    graph: Key<Graph>,
    object: Key<UserObject>,
    count: u32,
) -> Answer {
    let graph = state
        .graphs
        .get_mut(graph)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let held = graph.user_objects.entry(object).or_default();
    *held = held.checked_add(count).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    Ok(())
}

/// Has a graph let go of references to an object.
pub(crate) fn let_go(
    state: &mut State,
    graph: Key<Graph>,
    object: Key<UserObject>,
    count: u32,
) -> Answer {
    let held = &mut state
        .graphs
        .get_mut(graph)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?
        .user_objects;
    let left = held.get(&object).and_then(|held| held.checked_sub(count));
    match left.ok_or(CUDA_ERROR_INVALID_VALUE)? {
        0 => held.remove(&object),
        left => held.insert(object, left),
    };
    user_object::release(state, object, count)
}

fn remove(state: &mut State, key: Key<Graph>) -> Answer {
    let graph = state.graphs.remove(key).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    for node in graph.nodes {
        if let Some(node) = state.nodes.remove(node) {
            forget(state, &node.operation)?;
        }
    }
    state.conditions.extract(|condition| condition.is_of(key));
    user_object::release_all(state, &graph.user_objects)
}

/// Ends what belonged to a node that is gone.
fn forget(state: &mut State, operation: &Operation) -> Answer {
    memory::keep(state, operation, false);
    let mut inner = operation.inner().iter();
    inner.try_for_each(|graph| remove(state, *graph))
}

/// Ends a node and the edges at it.
pub(crate) fn destroy_node(state: &mut State, key: Key<Node>) -> Answer {
    forbid_memory(state, node(state, key)?.graph)?;
    let gone = state.nodes.remove(key).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    forget(state, &gone.operation)?;
    let graph = state
        .graphs
        .get_mut(gone.graph)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    graph.nodes.retain(|other| *other != key);
    let others = graph.nodes.clone();
    for other in others {
        if let Some(node) = state.nodes.get_mut(other) {
            node.dependencies
                .retain(|(dependency, _)| *dependency != key);
        }
    }
    Ok(())
}

/// Adds an edge. `CUDA_ERROR_INVALID_VALUE`: nodes of different graphs, an edge that is there, or a circle.
pub(crate) fn connect(state: &mut State, from: Key<Node>, to: Key<Node>, edge: Edge) -> Answer {
    let target = node(state, to)?;
    let is_there = target
        .dependencies
        .iter()
        .any(|(dependency, _)| *dependency == from);
    if node(state, from)?.graph != target.graph || is_there || depends_on(state, from, to) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    state
        .nodes
        .get_mut(to)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?
        .dependencies
        .push((from, edge));
    Ok(())
}

/// Takes an edge away.
pub(crate) fn disconnect(state: &mut State, from: Key<Node>, to: Key<Node>) -> Answer {
    forbid_memory(state, node(state, to)?.graph)?;
    let dependencies = &mut state
        .nodes
        .get_mut(to)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?
        .dependencies;
    let at = dependencies
        .iter()
        .position(|(dependency, _)| *dependency == from)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    dependencies.remove(at);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(state: &mut State) -> (Key<Graph>, [Key<Node>; 3]) {
        let graph = state.graphs.insert(Graph::default());
        let first = add(state, graph, Operation::Empty, vec![]).unwrap();
        let second = add(
            state,
            graph,
            Operation::Empty,
            vec![(first, Edge::default())],
        )
        .unwrap();
        let third = add(
            state,
            graph,
            Operation::Empty,
            vec![(second, Edge::default())],
        )
        .unwrap();
        (graph, [first, second, third])
    }

    #[test]
    fn an_edge_that_closes_a_circle_is_refused() {
        let mut state = State::default();
        let (_, [first, _, third]) = chain(&mut state);
        assert_eq!(
            connect(&mut state, third, first, Edge::default()),
            Err(CUDA_ERROR_INVALID_VALUE)
        );
        assert_eq!(connect(&mut state, first, third, Edge::default()), Ok(()));
    }

    #[test]
    fn edges_added_later_change_the_order() {
        let mut state = State::default();
        let graph = state.graphs.insert(Graph::default());
        let early = add(&mut state, graph, Operation::Empty, vec![]).unwrap();
        let late = add(&mut state, graph, Operation::Empty, vec![]).unwrap();
        connect(&mut state, late, early, Edge::default()).unwrap();
        assert_eq!(sorted(&state, graph), Ok(vec![late, early]));
    }

    #[test]
    fn a_clone_has_its_own_nodes_and_edges() {
        let mut state = State::default();
        let (graph, [first, second, _]) = chain(&mut state);
        let copy = clone(&mut state, graph, None).unwrap();
        let (copied_first, copied_second) = (
            find_in_clone(&state, first, copy).unwrap(),
            find_in_clone(&state, second, copy).unwrap(),
        );
        destroy(&mut state, graph).unwrap();
        assert!(depends_on(&state, copied_second, copied_first));
        assert_eq!(edges(&state, copy).unwrap().len(), 2);
    }

    #[test]
    fn destroying_a_node_takes_its_edges_along() {
        let mut state = State::default();
        let (graph, [_, second, _]) = chain(&mut state);
        destroy_node(&mut state, second).unwrap();
        assert_eq!(edges(&state, graph), Ok(vec![]));
    }
}
