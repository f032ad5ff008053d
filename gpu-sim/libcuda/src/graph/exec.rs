//! Executable graphs: a graph frozen, flattened and uploaded; updates of single nodes and of the whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::Graph as GpuGraph;
use gpu_sim::command::{GraphNode, Sequence};

use super::{Dependency, Edge, Graph, Node, Operation, device_launch, get, memory, node, sorted};
use crate::door::{Answer, NullStream};
use crate::event::{self, Event};
use crate::process::{Process, State, lost, refused};
use crate::stream::{self, Stream};
use crate::table::Key;
use crate::user_object::{self, References};
use crate::{capture, context};

const FLAGS_ALL: u64 = 15;
const FLAG_AUTO_FREE_ON_LAUNCH: u64 = 1;
const FLAG_UPLOAD: u64 = 2;
pub(crate) const FLAG_DEVICE_LAUNCH: u64 = 4;

/// An executable graph.
pub(crate) struct GraphExec {
    pub(crate) flags: u64,
    steps: Vec<Step>,
    /// Node of the graph that it was made from (and of its child graphs) → index of its step.
    indices: BTreeMap<Key<Node>, usize>,
    /// Shape of the graph that it was made from: nodes of the top level and of each child, sorted.
    shape: Vec<Shape>,
    gpu: Arc<GpuGraph>,
    /// The same as the graph held: the objects stay as long as launches may use them.
    user_objects: References,
}

/// One node of the flattened graph.
#[derive(Clone, Debug)]
struct Step {
    operation: Operation,
    dependencies: Vec<u32>,
    enabled: bool,
    /// Steps right before this one that are what a graph inside the node does.
    inner_steps: usize,
}

/// What must stay the same in an update: a node's kind, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    node_type: CUgraphNodeType,
    dependencies: usize,
}

/// The exec behind a handle.
pub(crate) fn find(state: &State, handle: CUgraphExec) -> Answer<Key<GraphExec>> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    state
        .execs
        .get(key)
        .map(|_| key)
        .ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// Freezes a graph. Changes of the graph do not reach it any more.
pub(crate) fn instantiate(process: &Process, graph: CUgraph, flags: u64) -> Answer<Key<GraphExec>> {
    let mut state = process.lock();
    context::current(&state)?;
    let graph = super::find(&state, graph)?;
    if flags & !FLAGS_ALL != 0
        || flags & (FLAG_AUTO_FREE_ON_LAUNCH | FLAG_DEVICE_LAUNCH)
            == (FLAG_AUTO_FREE_ON_LAUNCH | FLAG_DEVICE_LAUNCH)
    {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if flags & FLAG_DEVICE_LAUNCH != 0 && device_launch::obstacle(&state, graph)?.is_some() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let mut flat = Flat::default();
    flat.append(&state, graph, &[])?;
    flat.give_semaphores(process)?;
    let nodes = flat
        .steps
        .iter()
        .map(|step| gpu_node(&mut state, step))
        .collect::<Answer<Vec<_>>>()?;
    let gpu = Arc::new(process.machine.create_graph(&nodes).map_err(refused)?);
    let user_objects = get(&state, graph)?.user_objects.clone();
    let operations = flat.operations();
    let Flat {
        steps,
        indices,
        shape,
    } = flat;
    let exec = state.execs.insert(GraphExec {
        flags: flags & !FLAG_UPLOAD,
        steps,
        indices,
        shape,
        gpu,
        user_objects: References::new(),
    });
    let claimed = memory::claim(&mut state, exec, operations.iter()).and_then(|()| {
        if flags & FLAG_UPLOAD == 0 {
            return Ok(());
        }
        memory::back(process, &mut state, operations.iter())
    });
    if let Err(error) = claimed {
        state.execs.remove(exec);
        memory::let_go(process, &mut state, exec)?;
        return Err(error);
    }
    user_object::retain_all(&mut state, &user_objects)?;
    let made = state.execs.get_mut(exec).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    made.user_objects = user_objects;
    Ok(exec)
}

/// `cuGraphUpload`: memory that the graph allocates is backed; nodes were uploaded when it was instantiated.
pub(crate) fn upload_memory(
    process: &Process,
    handle: CUgraphExec,
    stream: CUstream,
    null: NullStream,
) -> Answer {
    let mut state = process.lock();
    let exec = find(&state, handle)?;
    stream::resolve(process, &mut state, stream, null)?;
    let operations = operations(&state, exec)?;
    memory::back(process, &mut state, operations.iter())
}

/// What the nodes of an executable graph do.
fn operations(state: &State, exec: Key<GraphExec>) -> Answer<Vec<Operation>> {
    let exec = state.execs.get(exec).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let enabled = exec.steps.iter().filter(|step| step.enabled);
    Ok(enabled.map(|step| step.operation.clone()).collect())
}

/// Commands of event nodes, and waits for words, are written at each launch, because each launch counts up; until then they do nothing.
fn gpu_node(state: &mut State, step: &Step) -> Answer<GraphNode> {
    let command = match step.operation {
        Operation::RecordEvent(_) | Operation::WaitEvent(_) | Operation::Words(_) => {
            gpu_sim::command::Command::Marker
        }
        ref operation => operation.command(state)?,
    };
    Ok(GraphNode {
        command,
        dependencies: step.dependencies.clone(),
        enabled: step.enabled,
    })
}

#[derive(Default)]
struct Flat {
    steps: Vec<Step>,
    indices: BTreeMap<Key<Node>, usize>,
    shape: Vec<Shape>,
}

impl Step {
    /// Takes over what another does. A batch keeps its semaphore: launches count on. What the program has switched stays as it is.
    fn replace(&mut self, mut new: Self) {
        match (&self.operation, &mut new.operation) {
            (Operation::Words(old), Operation::Words(new))
            | (Operation::BeginWords(old), Operation::BeginWords(new)) => {
                *new = new.in_place_of(old);
            }
            (Operation::Moved, Operation::Moved) => self.enabled = new.enabled,
            _ => {}
        }
        self.operation = new.operation;
    }

    /// Whether it is there for the step behind it, and is no node of the program's.
    fn is_prelude(&self) -> bool {
        matches!(self.operation, Operation::Moved | Operation::BeginWords(_))
    }
}

/// The step that an operation needs right before it. Where an event of several processes is recorded, this process has to have moved
/// what is before it, as in a stream; as a node may be given such an event later, the step is there, switched off, for any.
fn prelude(state: &State, operation: &Operation, behind: Vec<u32>) -> Option<Step> {
    let (operation, enabled) = match operation {
        Operation::Words(words) => (Operation::BeginWords(words.clone()), true),
        Operation::RecordEvent(event) => {
            let is_interprocess = event::get(state, *event).is_ok_and(Event::is_interprocess);
            (Operation::Moved, is_interprocess)
        }
        _ => return None,
    };
    Some(Step {
        operation,
        dependencies: behind,
        enabled,
        inner_steps: 0,
    })
}

impl Flat {
    /// Gives each batch of words a semaphore, which its two steps have in common.
    fn give_semaphores(&mut self, process: &Process) -> Answer {
        let mut begun = None;
        for step in &mut self.steps {
            match &mut step.operation {
                Operation::BeginWords(words) => {
                    *words = words.with_semaphore(process)?;
                    begun = Some(words.clone());
                }
                Operation::Words(words) => *words = begun.take().ok_or(CUDA_ERROR_UNKNOWN)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn operations(&self) -> Vec<Operation> {
        let steps = self.steps.iter();
        steps.map(|step| step.operation.clone()).collect()
    }

    /// Appends the nodes of a graph behind `before`; gives the steps that end it. A child graph's node, and a conditional one
    /// with a body that runs, becomes a step behind the last nodes in it, so that what depends on it depends on all of them.
    fn append(&mut self, state: &State, graph: Key<Graph>, before: &[u32]) -> Answer<Vec<u32>> {
        let mut ends: Vec<u32> = Vec::new();
        for key in sorted(state, graph)? {
            let Node {
                operation,
                dependencies,
                ..
            } = node(state, key)?;
            let own = dependencies
                .iter()
                .filter_map(|(dependency, _)| u32::try_from(*self.indices.get(dependency)?).ok());
            let mut behind: Vec<u32> = own.collect();
            ends.retain(|end| !behind.contains(end));
            if behind.is_empty() {
                behind.extend_from_slice(before);
            }
            self.shape.push(Shape {
                node_type: operation.node_type(),
                dependencies: dependencies.len(),
            });
            let inner = match operation {
                Operation::Child(child) => Some(*child),
                Operation::Conditional(conditional) => conditional.chosen(),
                _ => None,
            };
            let first = self.steps.len();
            if let Some(inner) = inner {
                let last = self.append(state, inner, &behind)?;
                behind = if last.is_empty() { behind } else { last };
            }
            if let Some(prelude) = prelude(state, operation, behind.clone()) {
                behind = vec![self.push(prelude)?];
            }
            let index = self.steps.len();
            ends.push(self.push(Step {
                operation: operation.clone(),
                dependencies: behind,
                enabled: true,
                inner_steps: index - first,
            })?);
            self.indices.insert(key, index);
        }
        Ok(ends)
    }

    fn push(&mut self, step: Step) -> Answer<u32> {
        let index = self.steps.len();
        self.steps.push(step);
        u32::try_from(index).map_err(|_| CUDA_ERROR_INVALID_VALUE)
    }
}

/// Runs an executable graph on a stream, or records it as a child graph if the stream is capturing.
pub(crate) fn launch(
    process: &'static Process,
    exec: CUgraphExec,
    handle: CUstream,
    null: NullStream,
) -> Answer {
    let mut state = process.lock();
    let key = find(&state, exec)?;
    let stream = stream::resolve(process, &mut state, handle, null)?;
    if capture::place(&mut state, stream)?.is_some() {
        return capture_launch(&mut state, key, stream);
    }
    let operations = operations(&state, key)?;
    let exec = state.execs.get(key).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let frees_first = exec.flags & FLAG_AUTO_FREE_ON_LAUNCH != 0;
    memory::begin_launch(process, &mut state, &operations, frees_first)?;
    let gpu = Arc::clone(&stream::get(&state, stream)?.gpu);
    let sequence = submit(process, &mut state, key, stream)?;
    memory::end_launch(&mut state, &operations, (&gpu, sequence))
}

fn submit(
    process: &'static Process,
    state: &mut State,
    exec: Key<GraphExec>,
    stream: Key<Stream>,
) -> Answer<Sequence> {
    stream::order(process, state, stream)?;
    update_events(process, state, exec)?;
    let exec = state.execs.get(exec).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let enabled = exec
        .steps
        .iter()
        .enumerate()
        .filter(|(_, step)| step.enabled);
    let effects = enabled.filter_map(|(index, step)| {
        Some((
            u32::try_from(index).ok()?,
            step.operation.effect(&process.machine)?,
        ))
    });
    let gpu = &stream::get(state, stream)?.gpu;
    process
        .machine
        .submit_graph(gpu, &exec.gpu, effects.collect())
        .map_err(lost)
}

/// Writes the commands of event nodes, and of waits for words, for the next launch.
fn update_events(process: &Process, state: &mut State, key: Key<GraphExec>) -> Answer {
    let exec = state.execs.get(key).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let gpu = Arc::clone(&exec.gpu);
    let is_event = |step: &Step| {
        matches!(
            step.operation,
            Operation::RecordEvent(_) | Operation::WaitEvent(_) | Operation::Words(_)
        )
    };
    let steps: Vec<_> = exec
        .steps
        .iter()
        .cloned()
        .enumerate()
        .filter(|(_, step)| is_event(step))
        .collect();
    for (index, step) in steps {
        let command = step.operation.command(state)?;
        let index = u32::try_from(index).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
        process
            .machine
            .update_graph(&gpu, index, command, step.enabled)
            .map_err(refused)?;
    }
    Ok(())
}

fn capture_launch(state: &mut State, exec: Key<GraphExec>, stream: Key<Stream>) -> Answer {
    let steps = state
        .execs
        .get(exec)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?
        .steps
        .clone();
    let child = state.graphs.insert(Graph::default());
    // Of each step, the nodes that stand for it.
    let mut nodes: Vec<Vec<Dependency>> = Vec::new();
    for step in steps {
        let behind = step.dependencies.iter();
        let behind = behind.filter_map(|index| nodes.get(usize::try_from(*index).ok()?));
        let behind: Vec<_> = behind.flatten().copied().collect();
        if step.is_prelude() {
            nodes.push(behind);
            continue;
        }
        let operation = match step.operation {
            Operation::Child(_) | Operation::Conditional(_) => Operation::Empty,
            operation => operation,
        };
        let node = super::add(state, child, operation, behind)?;
        nodes.push(vec![(node, Edge::default())]);
    }
    let recorded = capture::append(state, stream, Operation::Child(child));
    super::destroy(state, child)?;
    recorded
}

/// Changes what one node does in launches from now on. It has to stay of its kind.
pub(crate) fn set_operation(
    process: &Process,
    state: &mut State,
    exec: Key<GraphExec>,
    original: Key<Node>,
    operation: Operation,
) -> Answer {
    if let Operation::Child(child) = operation {
        return update_child(process, state, exec, original, child);
    }
    let index = index_of(state, exec, original)?;
    let prelude = prelude(state, &operation, Vec::new());
    let GraphExec { steps, gpu, .. } = state.execs.get_mut(exec).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let step = steps.get(index).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    if step.operation.node_type() != operation.node_type() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let step = Step {
        operation,
        ..step.clone()
    };
    let first = index.checked_sub(usize::from(prelude.is_some()));
    let first = first.ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let changed = steps.get_mut(first..=index);
    let changed = changed.ok_or(CUDA_ERROR_INVALID_VALUE)?;
    for (old, new) in changed.iter_mut().zip(prelude.into_iter().chain([step])) {
        old.replace(new);
    }
    let (changed, gpu) = (changed.to_vec(), Arc::clone(gpu));
    upload_all(process, state, &gpu, first, &changed)
}

/// Uploads steps of which the first has this index.
fn upload_all(
    process: &Process,
    state: &mut State,
    gpu: &GpuGraph,
    first: usize,
    steps: &[Step],
) -> Answer {
    let mut steps = (first..).zip(steps);
    steps.try_for_each(|(index, step)| upload(process, state, gpu, index, step))
}

fn upload(
    process: &Process,
    state: &mut State,
    gpu: &GpuGraph,
    index: usize,
    step: &Step,
) -> Answer {
    let command = gpu_node(state, step)?.command;
    let index = u32::try_from(index).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    process
        .machine
        .update_graph(gpu, index, command, step.enabled)
        .map_err(refused)
}

fn index_of(state: &State, exec: Key<GraphExec>, original: Key<Node>) -> Answer<usize> {
    let exec = state.execs.get(exec).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    exec.indices
        .get(&original)
        .copied()
        .ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// Whether a node does anything.
pub(crate) fn is_enabled(state: &State, exec: Key<GraphExec>, original: Key<Node>) -> Answer<bool> {
    let index = index_of(state, exec, original)?;
    let exec = state.execs.get(exec).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    exec.steps
        .get(index)
        .map(|step| step.enabled)
        .ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// Switches a kernel, memset or memcpy node on or off.
pub(crate) fn enable(
    process: &Process,
    state: &mut State,
    exec: Key<GraphExec>,
    original: Key<Node>,
    enabled: bool,
) -> Answer {
    let index = index_of(state, exec, original)?;
    let exec = state.execs.get_mut(exec).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let step = exec.steps.get_mut(index).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    if !matches!(
        step.operation,
        Operation::Kernel(_) | Operation::Copy(_) | Operation::Fill(_)
    ) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    step.enabled = enabled;
    let (step, gpu) = (step.clone(), Arc::clone(&exec.gpu));
    upload(process, state, &gpu, index, &step)
}

/// Why an update was refused, and at which node of the new graph.
pub(crate) type UpdateRefusal = (CUgraphExecUpdateResult, Option<Key<Node>>);

/// Takes over what the nodes of a graph of the same shape do.
pub(crate) fn update(
    process: &Process,
    state: &mut State,
    exec: Key<GraphExec>,
    graph: Key<Graph>,
) -> Answer<Result<(), UpdateRefusal>> {
    let mut flat = Flat::default();
    flat.append(state, graph, &[])?;
    let old = state.execs.get(exec).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    if let Err(refusal) = compare(old, &flat, get(state, graph)?) {
        return Ok(Err(refusal));
    }
    let gpu = Arc::clone(&old.gpu);
    let mut steps = old.steps.clone();
    for (step, new) in steps.iter_mut().zip(flat.steps) {
        step.inner_steps = new.inner_steps;
        step.replace(new);
    }
    upload_all(process, state, &gpu, 0, &steps)?;
    let exec = state.execs.get_mut(exec).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    exec.steps = steps;
    // Nodes of the graph that it was made from keep their meaning, nodes of this one get the same.
    exec.indices.extend(flat.indices);
    Ok(Ok(()))
}

/// `cuGraphExecChildGraphNodeSetParams`: takes over what the nodes of a graph do that has the shape of a node's own.
/// `CUDA_ERROR_INVALID_VALUE`: it has another, or the node is none with a child graph.
fn update_child(
    process: &Process,
    state: &mut State,
    exec: Key<GraphExec>,
    original: Key<Node>,
    graph: Key<Graph>,
) -> Answer {
    let mut flat = Flat::default();
    flat.append(state, graph, &[])?;
    let end = index_of(state, exec, original)?;
    let exec = state.execs.get_mut(exec).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let node = exec.steps.get(end).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    if !matches!(node.operation, Operation::Child(_)) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let first = end - node.inner_steps;
    let inner = exec.steps.get_mut(first..end);
    let inner = inner.ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let is_alike = |(old, new): (&Step, &Step)| {
        old.operation.node_type() == new.operation.node_type()
            && within(&old.dependencies, first) == new.dependencies
    };
    if inner.len() != flat.steps.len() || !inner.iter().zip(&flat.steps).all(is_alike) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    for (old, new) in inner.iter_mut().zip(flat.steps) {
        old.replace(new);
    }
    let (steps, gpu) = (inner.to_vec(), Arc::clone(&exec.gpu));
    upload_all(process, state, &gpu, first, &steps)
}

/// Dependencies on steps from `first` on, counted from there.
fn within(dependencies: &[u32], first: usize) -> Vec<u32> {
    let first = u32::try_from(first).unwrap_or(u32::MAX);
    let inner = dependencies.iter();
    inner.filter_map(|step| step.checked_sub(first)).collect()
}

fn compare(old: &GraphExec, new: &Flat, graph: &Graph) -> Result<(), UpdateRefusal> {
    let node_at = |index: usize| {
        new.indices
            .iter()
            .find(|(key, at)| **at == index && graph.nodes.contains(key))
            .map(|(key, _)| *key)
    };
    if old.steps.len() != new.steps.len() || old.shape.len() != new.shape.len() {
        return Err((CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, None));
    }
    for (index, (before, after)) in old.steps.iter().zip(&new.steps).enumerate() {
        if after.operation.is_of_memory() {
            return Err((CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED, node_at(index)));
        }
        if before.operation.node_type() != after.operation.node_type() {
            return Err((CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED, node_at(index)));
        }
        if before.dependencies != after.dependencies {
            return Err((CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, node_at(index)));
        }
    }
    Ok(())
}

/// Ends an executable graph; launches that were submitted still run.
pub(crate) fn destroy(process: &Process, handle: CUgraphExec) -> Answer {
    let mut state = process.lock();
    let key = find(&state, handle)?;
    let exec = state.execs.remove(key).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    memory::let_go(process, &mut state, key)?;
    user_object::release_all(&mut state, &exec.user_objects)
}
