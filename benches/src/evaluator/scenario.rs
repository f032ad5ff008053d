//! What is run: a machine, a host, containers and their processes.

use super::host::HostTiming;
pub use super::host::SyncWait;
use super::nvml::Aggregation;
use super::program::Program;
use gpu_sim::profile::MachineProfile;
use std::ops::Range;

/// A container and what it was promised.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Its name in reports.
    pub name: String,
    /// Its share of the GPU, in percent.
    pub share_percent: f64,
    /// What it may use at most, in percent; `None`: what nobody else wants.
    pub cap_percent: Option<f64>,
    /// Whether it goes before those that are not urgent.
    pub urgent: bool,
    /// Whether its processes have a controller.
    pub is_managed: bool,
}

impl Container {
    /// A share that is also the cap.
    pub fn capped(name: &str, percent: f64) -> Self {
        Self {
            cap_percent: Some(percent),
            ..Self::sharing(name, percent)
        }
    }

    /// A share without a cap.
    pub fn sharing(name: &str, percent: f64) -> Self {
        Self {
            name: name.to_owned(),
            share_percent: percent,
            cap_percent: None,
            urgent: false,
            is_managed: true,
        }
    }

    /// Processes that no controller knows of.
    pub fn unmanaged(name: &str) -> Self {
        Self {
            is_managed: false,
            ..Self::sharing(name, 100.0)
        }
    }
}

/// What a container is promised from some time on.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// When, in ns.
    pub at_ns: u64,
    /// Index of the container.
    pub container: usize,
    /// Its new share, in percent.
    pub share_percent: f64,
    /// Its new cap, in percent; a cap neither comes nor goes.
    pub cap_percent: Option<f64>,
}

/// One process and its fate.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessPlan {
    /// Index of its container.
    pub container: usize,
    /// What it does.
    pub program: Program,
    /// When it comes, in ns.
    pub joins_ns: u64,
    /// When it submits nothing more, waits for what is in flight and ends, in ns.
    pub leaves_ns: Option<u64>,
    /// When it is killed, in ns.
    pub killed_ns: Option<u64>,
    /// From SIGSTOP to SIGCONT, in ns.
    pub stopped_ns: Option<Range<u64>>,
    /// How its calls wait.
    pub sync_wait: SyncWait,
    /// Processors' worth of time that its calls into the driver may take; `None`: no limit.
    pub cpus: Option<f64>,
    /// Whether its launches are listed in the report.
    pub trace: bool,
}

impl ProcessPlan {
    /// A process that is there from the beginning to the end.
    pub fn new(container: usize, program: Program) -> Self {
        Self {
            container,
            program,
            joins_ns: 0,
            leaves_ns: None,
            killed_ns: None,
            stopped_ns: None,
            sync_wait: SyncWait::default(),
            cpus: None,
            trace: false,
        }
    }
}

/// Everything that a run depends on, beside the policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// The machine; its first device is used. `machine.timing.seed` is replaced by `seed`.
    pub machine: MachineProfile,
    /// The host.
    pub host: HostTiming,
    /// How NVML answers.
    pub aggregation: Aggregation,
    /// The containers.
    pub containers: Vec<Container>,
    /// Their processes.
    pub processes: Vec<ProcessPlan>,
    /// Changes of what containers are promised.
    pub changes: Vec<Change>,
    /// How long it runs, in ns.
    pub duration_ns: u64,
    /// Busy time is read this often, in ns.
    pub window_ns: u64,
    /// Of everything random.
    pub seed: u64,
}

impl Scenario {
    /// An empty machine for this long, with windows of 100 ms.
    pub fn new(machine: MachineProfile, duration_ns: u64) -> Self {
        Self {
            machine,
            host: HostTiming::default(),
            aggregation: Aggregation::default(),
            containers: Vec::new(),
            processes: Vec::new(),
            changes: Vec::new(),
            duration_ns,
            window_ns: 100_000_000,
            seed: 1,
        }
    }

    /// Adds a container with one process that runs this program.
    #[must_use]
    pub fn with(mut self, container: Container, program: Program) -> Self {
        let plan = ProcessPlan::new(self.containers.len(), program);
        self.containers.push(container);
        self.processes.push(plan);
        self
    }
}
