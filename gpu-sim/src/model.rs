//! The machine in virtual time: a deterministic discrete-event model. It knows no clock and does no
//! input or output; who drives it says what time it is and carries out what it says.
//!
//! Commands wait in streams. The head of a stream is *dispatched*: to an engine, to a semaphore's
//! waiters, to the process (host calls), or it is done at once. Whatever completes is an `Origin`:
//! the head of a stream, or a node of a graph launch, which then goes on.

mod compute;
mod containers;
mod copy;
mod duration;
mod fault;
mod flow;
mod graph;
mod memory;
mod multicast;
pub mod random;
mod report;
mod sharing;
#[cfg(test)]
mod tests;
mod utilization;

pub use duration::kernel_ns;
pub use utilization::Sample;

use crate::command::{
    AllocKind, Block, BlockId, Command, ContextId, CopiedBytes, GraphId, SemaphoreId, Sequence,
    StreamId,
};
use crate::profile::{MachineProfile, Profile};
use crate::wire::Refusal;
use compute::Compute;
use containers::Containers;
use copy::CopyEngine;
use duration::Kernels;
use graph::{Executable, Run};
use memory::Memory;
use multicast::Multicasts;
use random::Random;
use sharing::SharedSemaphores;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use utilization::Ring;

/// Any odd number but 1: the noise of one seed is then not the kernels' spread of the same.
const NOISE_SEED: u64 = 0xd134_2543_de82_ef95;

/// A time that does not come.
const NEVER: u64 = u64::MAX;

/// Rows of dead processes that the usage table keeps.
const DEAD_PROCESSES_MAX: usize = 1024;

/// A process that uses the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Process id as the device process sees it; 0 = not visible.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_time_ticks: u64,
    /// Its container's label.
    pub container: String,
}

/// What the model wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write a semaphore.
    Raise {
        /// Whose.
        process: ProcessId,
        /// Which.
        semaphore: SemaphoreId,
        /// Its new payload.
        payload: u64,
        /// When it got it.
        at_ns: u64,
    },
    /// Append to a process's completion log.
    Log {
        /// Whose.
        process: ProcessId,
        /// What.
        token: u64,
    },
}

/// Pages that nobody holds any more. Their contents are to be forgotten before any reply is sent: it
/// may tell of their next owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// On which device.
    pub device: u32,
    /// Where they start, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// What completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The head of a stream.
    Stream(StreamId),
    /// A node of a graph launch.
    Node { run: u64, node: u32 },
}

/// What is due at a known time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The head of a stream becomes visible to the device.
    Visible(StreamId),
    /// A graph launch begins.
    RunStart(u64),
    /// A node's dependencies have completed, and the gap after them is over.
    NodeReady { run: u64, node: u32 },
    /// A process is told to call a function.
    HostCall(ProcessId, u64),
    /// What a dead process leaves goes.
    Teardown(ProcessId),
}

struct Process {
    info: ProcessInfo,
    alive: bool,
    /// By device.
    counts: Vec<Counts>,
}

/// What a process did on a device, as far as no engine counts it.
#[derive(Clone, Copy, Default)]
struct Counts {
    contexts: u32,
    /// When the first of all was made.
    context_begun_ns: u64,
    /// Since when there has been one without a break.
    context_since_ns: u64,
    /// Of the times before that.
    context_ns_total: u64,
    kernels_total: u64,
    copied: CopiedBytes,
    seen: bool,
}

impl Counts {
    fn add_context(&mut self, now_ns: u64) {
        if self.context_begun_ns == 0 {
            self.context_begun_ns = now_ns;
        }
        if self.contexts == 0 {
            self.context_since_ns = now_ns;
        }
        self.contexts += 1;
    }

    fn remove_context(&mut self, now_ns: u64) {
        self.context_ns_total = self.context_ns(now_ns);
        self.context_since_ns = now_ns;
        self.contexts -= 1;
    }

    /// Time for which there was a context, in ns.
    fn context_ns(&self, now_ns: u64) -> u64 {
        match self.contexts {
            0 => self.context_ns_total,
            _ => self.context_ns_total + now_ns - self.context_since_ns,
        }
    }
}

struct Context {
    process: ProcessId,
    device: u32,
    block: BlockId,
    /// A kernel of its own has made it unusable.
    is_faulted: bool,
}

/// Where a stream's commands run.
#[derive(Clone, Copy)]
struct Place {
    process: ProcessId,
    context: ContextId,
    device: u32,
    priority: i32,
    /// SMs that its kernels may use.
    sm_count_max: u32,
}

struct Queued {
    command: Command,
    sequence: Sequence,
    visible_ns: u64,
    token: u64,
    /// Of a graph launch: the graph as it was when submitted, and the nodes that are logged.
    graph: Option<(Arc<Executable>, Vec<u32>)>,
}

struct Stream {
    place: Place,
    progress: SemaphoreId,
    base: u64,
    queue: VecDeque<Queued>,
    last: Sequence,
    /// The head was dispatched and has not completed.
    busy: bool,
    /// The process has let go of it.
    closing: bool,
}

struct Device {
    memory: Memory,
    compute: Compute,
    /// Host to device, device to host.
    copies: [CopyEngine; 2],
    ring: Ring,
    copied: CopiedBytes,
    /// Speed of the SM clock, as a part of the nominal one.
    clock_factor: f64,
    kernels: Kernels,
}

/// The machine.
pub struct Model {
    profile: MachineProfile,
    now_ns: u64,
    next_id: u64,
    next_sample_ns: u64,
    /// End of the period that the next sample is of.
    sample_period_end_ns: u64,
    /// `None`: the clocks are steady.
    next_clock_step_ns: Option<u64>,
    /// Draws kernels' durations.
    random: Random,
    /// Draws what happens beside kernels, so that it does not change them.
    noise: Random,
    devices: Vec<Device>,
    processes: BTreeMap<ProcessId, Process>,
    containers: Containers,
    contexts: BTreeMap<ContextId, Context>,
    streams: BTreeMap<StreamId, Stream>,
    graphs: BTreeMap<(ProcessId, GraphId), Arc<Executable>>,
    runs: BTreeMap<u64, Run>,
    /// Payloads.
    semaphores: BTreeMap<(ProcessId, SemaphoreId), u64>,
    shared: SharedSemaphores,
    multicasts: Multicasts,
    waiters: BTreeMap<(ProcessId, SemaphoreId), Vec<(u64, Origin)>>,
    host_calls: BTreeMap<(ProcessId, u64), Origin>,
    /// When an engine has something done next. Engines change in [`Model::settle`] at the last.
    engines_next_ns: u64,
    /// By time, then in the order of planning.
    agenda: BinaryHeap<Reverse<(u64, u64, Due)>>,
    /// Completed, not yet told to their streams and launches.
    done: VecDeque<Origin>,
    /// Streams whose head may be dispatched.
    ready: VecDeque<StreamId>,
    outputs: VecDeque<Output>,
    released: Vec<Released>,
}

impl Model {
    /// A machine whose timeline starts at `now_ns`.
    pub fn new(profile: MachineProfile, now_ns: u64) -> Self {
        let device = |device: &Profile| {
            let mut device = Device {
                memory: Memory::new(device.memory_bytes),
                compute: Compute::new(),
                copies: Default::default(),
                ring: Ring::new(now_ns),
                copied: CopiedBytes::default(),
                clock_factor: 1.0,
                kernels: Kernels::default(),
            };
            device.account(now_ns);
            device
        };
        Self {
            now_ns,
            next_id: 1,
            next_sample_ns: now_ns + profile.timing.sample_period_ns,
            sample_period_end_ns: now_ns + profile.timing.sample_period_ns,
            next_clock_step_ns: flow::first_clock_step_ns(&profile.timing, now_ns),
            random: Random::new(profile.timing.seed),
            noise: Random::new(profile.timing.seed.wrapping_mul(NOISE_SEED)),
            devices: profile.devices.iter().map(device).collect(),
            profile,
            processes: BTreeMap::new(),
            containers: Containers::default(),
            contexts: BTreeMap::new(),
            streams: BTreeMap::new(),
            graphs: BTreeMap::new(),
            runs: BTreeMap::new(),
            semaphores: BTreeMap::new(),
            shared: SharedSemaphores::default(),
            multicasts: Multicasts::default(),
            waiters: BTreeMap::new(),
            host_calls: BTreeMap::new(),
            engines_next_ns: NEVER,
            agenda: BinaryHeap::new(),
            done: VecDeque::new(),
            ready: VecDeque::new(),
            outputs: VecDeque::new(),
            released: Vec::new(),
        }
    }

    /// Where the timeline stands.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// What is to be done next; takes it off the list.
    pub fn take_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What is to be forgotten; empties the list.
    pub fn take_released(&mut self) -> Vec<Released> {
        std::mem::take(&mut self.released)
    }

    /// A new process.
    pub fn join(&mut self, info: ProcessInfo) -> ProcessId {
        let id = ProcessId(self.id());
        let container = self.containers.of_name(&info.container);
        for device in &mut self.devices {
            device.memory.enrol(id, container);
        }
        let counts = vec![Counts::default(); self.devices.len()];
        let process = Process {
            info,
            alive: true,
            counts,
        };
        self.processes.insert(id, process);
        id
    }

    /// A process died: after a delay what it held goes (`Timing::teardown_ns`).
    pub fn kill(&mut self, process: ProcessId) {
        if let Some(killed) = self.processes.get_mut(&process)
            && std::mem::replace(&mut killed.alive, false)
        {
            self.plan(
                self.now_ns + self.profile.timing.teardown_ns,
                Due::Teardown(process),
            );
        }
    }

    /// Takes device memory for a process.
    pub fn alloc(
        &mut self,
        process: ProcessId,
        device: u32,
        bytes: u64,
        kind: AllocKind,
    ) -> Result<Block, Refusal> {
        let id = BlockId(self.id());
        let memory = &mut self
            .devices
            .get_mut(device as usize)
            .ok_or(Refusal::Unknown)?
            .memory;
        let offset = memory
            .alloc(process, id, bytes, kind)
            .ok_or(Refusal::OutOfMemory)?;
        self.see(process, device);
        Ok(Block {
            id,
            device,
            offset,
            bytes,
        })
    }

    /// Gives a block back.
    pub fn free(&mut self, process: ProcessId, block: BlockId) -> Result<(), Refusal> {
        for (device, state) in (0..).zip(&mut self.devices) {
            if let Some(released) = state.memory.free(process, block) {
                self.release(device, released);
                return Ok(());
            }
        }
        Err(Refusal::Unknown)
    }

    /// Makes a context.
    pub fn create_context(
        &mut self,
        process: ProcessId,
        device: u32,
    ) -> Result<ContextId, Refusal> {
        let bytes = self
            .profile
            .devices
            .get(device as usize)
            .ok_or(Refusal::Unknown)?
            .context_bytes;
        let block = self.alloc(process, device, bytes, AllocKind::Physical)?.id;
        let id = ContextId(self.id());
        self.contexts.insert(
            id,
            Context {
                process,
                device,
                block,
                is_faulted: false,
            },
        );
        let now_ns = self.now_ns;
        if let Some(counts) = self.counts(process, device) {
            counts.add_context(now_ns);
        }
        Ok(id)
    }

    /// Ends a context and what is pending in it.
    pub fn destroy_context(&mut self, process: ProcessId, id: ContextId) -> Result<(), Refusal> {
        if self
            .contexts
            .get(&id)
            .is_none_or(|context| context.process != process)
        {
            return Err(Refusal::Unknown);
        }
        self.account();
        let Some(context) = self.contexts.remove(&id) else {
            return Err(Refusal::Unknown);
        };
        self.streams.retain(|_, stream| stream.place.context != id);
        self.runs
            .retain(|_, run| self.streams.contains_key(&run.stream));
        let device = &mut self.devices[context.device as usize];
        device.compute.remove(id);
        device
            .copies
            .iter_mut()
            .for_each(|engine| engine.remove(id));
        let now_ns = self.now_ns;
        if let Some(counts) = self.counts(process, context.device) {
            counts.remove_context(now_ns);
        }
        let freed = self.free(process, context.block);
        self.settle();
        freed
    }

    /// Makes a stream; completed sequence numbers are added to `base` and raise `progress`.
    pub fn create_stream(
        &mut self,
        process: ProcessId,
        context: ContextId,
        priority: i32,
        progress: SemaphoreId,
        base: u64,
    ) -> Result<StreamId, Refusal> {
        let owner = self
            .contexts
            .get(&context)
            .filter(|owner| owner.process == process);
        let device = owner.ok_or(Refusal::Unknown)?.device;
        let place = Place {
            process,
            context,
            device,
            priority,
            sm_count_max: u32::MAX,
        };
        let queue = VecDeque::new();
        let id = StreamId(self.id());
        let stream = Stream {
            place,
            progress,
            base,
            queue,
            last: 0,
            busy: false,
            closing: false,
        };
        self.streams.insert(id, stream);
        Ok(id)
    }

    /// Ends a stream when what it holds has completed. One that its context took along is gone already.
    pub fn destroy_stream(&mut self, process: ProcessId, id: StreamId) -> Result<(), Refusal> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        if stream.place.process != process {
            return Err(Refusal::Unknown);
        }
        stream.closing = true;
        if stream.queue.is_empty() {
            self.streams.remove(&id);
        }
        Ok(())
    }

    /// A host call has returned.
    pub fn host_call_done(&mut self, process: ProcessId, token: u64) -> Result<(), Refusal> {
        let origin = self
            .host_calls
            .remove(&(process, token))
            .ok_or(Refusal::Unknown)?;
        self.done.push_back(origin);
        self.settle();
        Ok(())
    }

    /// Raises a semaphore from the host.
    pub fn signal(&mut self, process: ProcessId, semaphore: SemaphoreId, payload: u64) {
        self.raise(process, semaphore, payload);
        self.settle();
    }

    /// When the model has to be advanced next; `None` = not before something new comes.
    pub fn next_event_ns(&self) -> Option<u64> {
        let planned_ns = self
            .agenda
            .peek()
            .map_or(NEVER, |Reverse((at_ns, _, _))| *at_ns);
        Some(planned_ns.min(self.engines_next_ns)).filter(|&next_ns| next_ns < NEVER)
    }

    /// Lets everything happen that is due up to `now_ns`; an earlier time than before changes nothing.
    pub fn advance_to(&mut self, now_ns: u64) {
        loop {
            let next_ns = self
                .next_event_ns()
                .unwrap_or(NEVER)
                .min(self.next_clock_step_ns.unwrap_or(NEVER))
                .min(self.next_sample_ns);
            if next_ns > now_ns {
                break;
            }
            self.step(next_ns.max(self.now_ns));
        }
        self.now_ns = self.now_ns.max(now_ns);
    }
}

impl Device {
    fn account(&mut self, now_ns: u64) {
        self.compute.account(now_ns);
        for engine in &mut self.copies {
            engine.account(now_ns);
        }
    }

    fn next_ns(&self) -> u64 {
        let [h2d, d2h] = &self.copies;
        let copies_ns = h2d.next_ns().min(d2h.next_ns());
        self.compute.next_ns().min(copies_ns)
    }
}
