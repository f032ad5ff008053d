//! Where a controller stands: between a process and the driver.
//!
//! ```text
//! thread:  admit(launch) ─ Granted(watch) ─▶ [event] launch [event] ─▶ launched
//!                        └ NotBefore, After ─▶ waits, then admit again
//! helper:  every `look_every_ns` while watched launches are outstanding: ended(…) for each that has, then looked
//!          tick, whenever the last tick asked for it
//! ```
//!
//! Time is always an argument. What a controller knows is the clock, its own launches, their ends as its events
//! show them, and NVML: never what the model knows.

use super::host::Host;
use super::nvml::Aggregation;
use super::scenario::{Change, Container};
use gpu_sim::model::{ProcessId, Sample};

/// One launch of a process; they count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaunchId(pub u64);

/// What an interposer sees of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Which one.
    pub id: LaunchId,
    /// The same for the same function and shape, and for the same graph.
    pub key: u64,
    /// Blocks of its grid; 0 of a graph.
    pub blocks: u64,
    /// Whether it is a graph.
    pub is_graph: bool,
    /// Index of its stream in the process.
    pub stream: usize,
}

/// What the controller wants to see of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Nothing.
    No,
    /// Its end: an event behind it that keeps no time.
    End,
    /// How long it took: an event before and one behind it, which keep the time.
    Timed,
}

/// The answer to a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It goes to the driver.
    Granted(Watch),
    /// Ask again at this time, or when woken ([`View::wake`]), whichever comes first; `u64::MAX`: only when woken.
    NotBefore(u64),
    /// Ask again when this watched launch has ended: the thread waits for its event.
    After(LaunchId),
}

/// What two events say about the launch between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTiming {
    /// When the second was reached, by the device's clock, in ns.
    pub ended_ns: u64,
    /// What of the launch's time is its own where every moment is divided among the timed launches of the process that ran, in ns.
    pub part_ns: u64,
    /// Between the two, in ns, in steps of the events' resolution: own time, and that of whoever had the engine meanwhile.
    pub elapsed_ns: u64,
    /// Whether an earlier watched launch of the stream had not ended when this one was made.
    pub stood_behind: bool,
    /// How far ahead of the launch the first event was on its way to the device, in ns.
    pub lead_ns: u64,
}

/// A watched launch that was seen to have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which one.
    pub launch: LaunchId,
    /// What it took, if it was timed.
    pub timing: Option<EventTiming>,
}

/// When a controller is ticked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// At this time.
    At(u64),
    /// When everything that is in flight now has completed: the helper records events and waits for them.
    Drained,
    /// When woken ([`View::wake`]).
    Woken,
}

/// The controller of one process. It is dropped when the process ends.
pub trait Controller {
    /// The process was killed: nothing of its own ran at its end.
    fn killed(self: Box<Self>) {}

    /// The program is about to launch, or has waited and asks again.
    fn admit(&mut self, launch: &Launch, view: &mut View) -> Admission;

    /// The driver has taken the launch.
    fn launched(&mut self, _launch: &Launch, _view: &mut View) {}

    /// A watched launch was seen to have ended.
    fn ended(&mut self, _ended: &Ended, _view: &mut View) {}

    /// How long the helper sleeps between two looks at watched launches; `None`: it never looks.
    fn look_every_ns(&self) -> Option<u64> {
        None
    }

    /// The helper has looked; whether it is to look again though no watched launch is outstanding.
    fn looked(&mut self, _view: &mut View) -> bool {
        false
    }

    /// A launch that waits has looked; the ends that it saw were told.
    fn looked_while_waiting(&mut self, _view: &mut View) {}

    /// The program waited for the device, and that wait is over.
    fn synchronized(&mut self, _view: &mut View) {}

    /// The helper's turn. The first comes when the process joins.
    fn tick(&mut self, _view: &mut View) -> Tick {
        Tick::Woken
    }
}

/// Which process a controller is for.
#[derive(Clone, Copy, Debug)]
pub struct Seat<'a> {
    /// Index of the process in the scenario.
    pub process: usize,
    /// Index of its container in the scenario.
    pub container: usize,
    /// What the container was promised.
    pub limits: &'a Container,
    /// Streaming multiprocessors of the device.
    pub sm_count: u32,
    /// Threads that one of them holds.
    pub threads_per_sm: u32,
}

/// Makes the controllers of a run. What they share, as through shared memory or a server, is the policy's.
pub trait Policy {
    /// A name for tables.
    fn name(&self) -> String;

    /// A process has joined.
    fn attach(&mut self, seat: &Seat, now_ns: u64) -> Box<dyn Controller>;

    /// A container is promised something else from now on. Its processes, where they wait to be woken, are woken.
    fn change(&mut self, _limits: &Container, _change: &Change, _now_ns: u64) {}
}

/// What a controller can see and do at one moment.
pub struct View<'a> {
    pub(super) now_ns: u64,
    pub(super) host: &'a mut Host,
    pub(super) aggregation: Aggregation,
    pub(super) samples: &'a dyn Fn() -> Vec<Sample>,
    /// The model's names of the scenario's processes, as far as they have joined.
    pub(super) processes: &'a [Option<ProcessId>],
    pub(super) wakes: &'a mut Vec<usize>,
}

impl View<'_> {
    /// CLOCK_MONOTONIC of the host, in ns.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Wakes the thread and the helper of a process, where they wait to be woken.
    pub fn wake(&mut self, process: usize) {
        self.wakes.push(process);
    }

    /// `nvmlDeviceGetProcessUtilization` for one process: percent since `since_ns`; `None` where NVML has seen none of it.
    /// The query takes its time: `now_ns` is later afterwards.
    pub fn nvml_utilization(&mut self, processes: &[usize], since_ns: u64) -> Vec<Option<u32>> {
        self.now_ns += self.host.nvml_query_ns();
        let samples = (self.samples)();
        let utilization = |&process: &usize| {
            let id = self.processes.get(process).copied().flatten()?;
            self.aggregation.utilization(&samples, id, since_ns)
        };
        processes.iter().map(utilization).collect()
    }

    /// A random number in (0, 1], of the run's seed.
    pub fn random_unit(&mut self) -> f64 {
        self.host.random.unit()
    }
}
