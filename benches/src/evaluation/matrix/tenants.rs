//! Tenants of a scenario, and what they run.

use super::{Axis, Case, Judgement, MS, S, US, Wanted};
use crate::evaluation::row::Row;
use crate::evaluator::{Container, Kernel, Operation, Pace, ProcessPlan, Program, Work};

/// How the containers of a scenario are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// `sm` = `sm_max`.
    Cap,
    /// `sm`, and no cap.
    Guarantee,
}

impl Promise {
    pub(super) const BOTH: [Self; 2] = [Self::Cap, Self::Guarantee];

    /// As names say it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Cap => "caps",
            Self::Guarantee => "guarantees",
        }
    }

    pub(super) fn container(self, index: usize, percent: f64) -> Container {
        let name = format!("tenant-{index}");
        match self {
            Self::Cap => Container::capped(&name, percent),
            Self::Guarantee => Container::sharing(&name, percent),
        }
    }

    /// Shares for so many tenants, in percent: caps that leave a tenth of the GPU, guarantees that leave nothing.
    pub(super) fn shares(self, tenants: usize) -> Vec<f64> {
        let shares: &[f64] = match (self, tenants) {
            (_, 1) => &[30.0],
            (Self::Cap, 2) => &[30.0, 60.0],
            (Self::Cap, 4) => &[10.0, 20.0, 25.0, 35.0],
            (Self::Cap, 8) => &[20.0, 15.0, 15.0, 10.0, 10.0, 10.0, 5.0, 5.0],
            (Self::Cap, 16) => &[8.0, 3.25],
            (Self::Cap, _) => &[4.0, 1.6],
            (Self::Guarantee, 2) => &[30.0, 70.0],
            (Self::Guarantee, 4) => &[10.0, 20.0, 30.0, 40.0],
            (Self::Guarantee, 8) => &[20.0, 20.0, 15.0, 15.0, 10.0, 10.0, 5.0, 5.0],
            (Self::Guarantee, 16) => &[9.0, 3.5],
            (Self::Guarantee, _) => &[4.5, 1.75],
        };
        shares.iter().copied().cycle().take(tenants).collect()
    }
}

/// Containers of one process each.
#[derive(Clone, Debug)]
pub(super) struct Tenants {
    promise: Promise,
    /// Shares in percent, and what they run.
    programs: Vec<(f64, Program)>,
}

impl Tenants {
    /// These.
    pub(super) fn new(promise: Promise, programs: &[(f64, Program)]) -> Self {
        Self {
            promise,
            programs: programs.to_vec(),
        }
    }

    /// So many, with the usual shares, which all run the same.
    pub(super) fn alike(promise: Promise, tenants: usize, program: &Program) -> Self {
        let shares = promise.shares(tenants).into_iter();
        Self {
            promise,
            programs: shares.map(|share| (share, program.clone())).collect(),
        }
    }

    /// A scenario of 12 s in which all of them always want more, asked what each such one is asked; `row` is that of the mean.
    pub(super) fn saturating(self, axis: Axis, name: &str, row: Row) -> Case {
        let lengths_ns = self
            .programs
            .iter()
            .map(|(_, program)| program.work.longest_ns());
        let is_short = lengths_ns.max() <= Some(2 * MS);
        let is_shared = self.programs.len() > 1;
        let judged = [
            (true, Judgement::Mean(row)),
            (true, Judgement::Stall),
            (is_short, Judgement::Sigma),
            (is_shared, Judgement::Jain),
            (
                is_shared && self.promise == Promise::Guarantee,
                Judgement::LostContended,
            ),
        ];
        let judged = judged.into_iter().filter(|(is_asked, _)| *is_asked);
        self.asked(axis, name, judged.map(|(_, judgement)| judgement).collect())
    }

    /// A scenario of 12 s with these questions.
    pub(super) fn asked(self, axis: Axis, name: &str, mut judged: Vec<Judgement>) -> Case {
        judged.push(Judgement::Watching);
        let sum: f64 = self.programs.iter().map(|(share, _)| share).sum();
        let mut case = Case {
            axis,
            name: name.to_owned(),
            duration_ns: 12 * S,
            containers: Vec::new(),
            wanted: Vec::new(),
            processes: Vec::new(),
            changes: Vec::new(),
            judged,
            is_representative: false,
            is_quick: false,
        };
        for (index, (share, program)) in self.programs.into_iter().enumerate() {
            case = case.with(self.promise.container(index, share), program);
            case.wanted[index] = match self.promise {
                // Switching takes its part first where caps leave nothing.
                Promise::Cap if sum < 99.0 => Wanted::Time(share / 100.0),
                Promise::Cap | Promise::Guarantee => Wanted::Part(share / sum),
            };
        }
        case
    }
}

impl Case {
    /// Swept, ablated and compared, too.
    pub(super) fn representative(mut self) -> Self {
        self.is_representative = true;
        self
    }

    /// Part of the quick evaluation, too.
    pub(super) fn quick(mut self) -> Self {
        self.is_quick = true;
        self
    }

    /// Adds a container of one process, which gets what it gets.
    pub(super) fn with(mut self, container: Container, program: Program) -> Self {
        let plan = ProcessPlan::new(self.containers.len(), program);
        self.containers.push(container);
        self.wanted.push(Wanted::Anything);
        self.processes.push(plan);
        self
    }

    /// Adds processes to a container.
    pub(super) fn and_processes(
        mut self,
        container: usize,
        count: usize,
        program: &Program,
    ) -> Self {
        let plans = (0..count).map(|_| ProcessPlan::new(container, program.clone()));
        self.processes.extend(plans);
        self
    }

    /// Changes the plan of a process.
    pub(super) fn process(mut self, index: usize, change: impl FnOnce(&mut ProcessPlan)) -> Self {
        change(&mut self.processes[index]);
        self
    }
}

/// Kernels without end, at most 64 of them in flight; of those that are long, 8.
pub(super) fn kernels(duration_ns: u64) -> Program {
    kernels_of(duration_ns, 1_024)
}

/// The same of so many blocks.
pub(super) fn kernels_of(duration_ns: u64, blocks: u32) -> Program {
    let kernel = Kernel {
        duration_ns,
        blocks,
    };
    let in_flight = if duration_ns > 20 * MS { 8 } else { 64 };
    Program::new(Work::kernel(kernel), Pace::Window(in_flight))
}

/// Graphs of 20 kernels without end, at most two in flight.
pub(super) fn graphs(duration_ns: u64) -> Program {
    let nodes = (0..20).map(|_| Kernel::of_ns(duration_ns / 20)).collect();
    let work = Work::Sequence(vec![Operation::Graph(nodes)]);
    Program::new(work, Pace::Window(2))
}

/// Kernels of 12 lengths from 8 µs to 2.5 ms without end.
pub(super) fn mixture(seed: u64) -> Program {
    let work = Work::lognormal(12, 200 * US, 1.2, 8 * US..=2_500 * US, seed);
    Program::new(work, Pace::Window(64))
}

/// A length as names say it.
pub(super) fn length(ns: u64) -> String {
    match ns {
        ns if ns < MS => format!("{} µs", ns / US),
        ns => format!("{} ms", ns as f64 / MS as f64),
    }
}
