//! A scenario and what is asked of it.

use super::row::Row;
use crate::evaluator::{Change, Container, ProcessPlan, Scenario};
use gpu_sim::profile::MachineProfile;

/// What a scenario is varied in; a table of the details for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Axis {
    /// Length of kernels, and number of tenants.
    Length,
    /// Blocks of kernels' grids.
    Grid,
    /// Kernels longer than a slice.
    Long,
    /// Graphs.
    Graphs,
    /// Kernels of different lengths.
    Mixed,
    /// Kernels of one process side by side.
    Streams,
    /// Neighbours that work and rest.
    OnOff,
    /// Joins, leaves, changes.
    Changes,
    /// How programs wait, and what their hosts allow; several processes of a container.
    Programs,
    /// Stops, kills, unmanaged processes.
    Faults,
    /// Latency of short requests.
    Latency,
    /// One tenant alone; one that is capped beside one that is not.
    Idle,
}

impl Axis {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 12] = [
        Self::Length,
        Self::Grid,
        Self::Long,
        Self::Graphs,
        Self::Mixed,
        Self::Streams,
        Self::OnOff,
        Self::Changes,
        Self::Programs,
        Self::Faults,
        Self::Latency,
        Self::Idle,
    ];

    /// As tables say it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Length => "Lengths of kernels and numbers of tenants",
            Self::Grid => "Grids",
            Self::Long => "Kernels longer than a slice",
            Self::Graphs => "Graphs",
            Self::Mixed => "Mixed lengths",
            Self::Streams => "Kernels of one process side by side",
            Self::OnOff => "Neighbours that work and rest",
            Self::Changes => "Joins, leaves and changes",
            Self::Programs => "Programs, hosts and processes",
            Self::Faults => "Stops, kills and unmanaged processes",
            Self::Latency => "A 2 ms inference beside saturating neighbours",
            Self::Idle => "Alone, and beside a capped tenant",
        }
    }
}

/// What a container is to get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// This part of the time.
    Time(f64),
    /// This part of what all containers use.
    Part(f64),
    /// Whatever it gets.
    Anything,
}

/// A question to a scenario.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// Which row the error of the mean counts in.
    Mean(Row),
    /// Standard deviation from 100 ms to 100 ms.
    Sigma,
    /// Weighted Jain index of each second.
    Jain,
    /// The longest stall of a launch.
    Stall,
    /// How long after `at_ns`, until `until_ns`, shares of the time are this far from what they are to be; `None`: any.
    Settle {
        /// Which row it counts in.
        row: Row,
        /// When something changes, in ns.
        at_ns: u64,
        /// When something else does, in ns.
        until_ns: u64,
        /// Shares by container.
        shares: Vec<Option<f64>>,
    },
    /// GPU time used, of what is used without a controller.
    IdleUsed,
    /// What is added to the 99th percentile of the first process's latencies, to those without neighbours and controller.
    AddedP99,
    /// Kernels completed, of those without a controller.
    LostAlone,
    /// GPU time used, of what is used without a controller.
    LostContended,
    /// Processor time of the busiest process's helper.
    Watching,
}

/// A scenario and what is asked of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is varied in.
    pub axis: Axis,
    /// What it is, as tables say it; no other of its axis is called so.
    pub name: String,
    /// How long it is run, in ns.
    pub duration_ns: u64,
    /// Its containers.
    pub containers: Vec<Container>,
    /// What each is to get.
    pub wanted: Vec<Wanted>,
    /// Their processes.
    pub processes: Vec<ProcessPlan>,
    /// Changes of what containers are promised.
    pub changes: Vec<Change>,
    /// What is asked.
    pub judged: Vec<Judgement>,
    /// Whether the sweep over the model's parameters, the ablations and the baselines have it.
    pub is_representative: bool,
    /// Whether the quick evaluation has it.
    pub is_quick: bool,
}

impl Case {
    /// What is run on this machine, with windows of 10 ms.
    pub fn scenario(&self, machine: MachineProfile) -> Scenario {
        Scenario {
            containers: self.containers.clone(),
            processes: self.processes.clone(),
            changes: self.changes.clone(),
            window_ns: 10_000_000,
            ..Scenario::new(machine, self.duration_ns)
        }
    }
}
