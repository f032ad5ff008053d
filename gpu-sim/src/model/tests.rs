//! The model in virtual time: no clock, no process, the same every time.

mod books;
mod engines;
mod faults;
mod graphs;
mod histories;

use super::*;
use crate::command::Command::Kernel;
use crate::command::{GraphNode, KernelCost};
use crate::wire::Submission;

const MS: u64 = 1_000_000;
const US: u64 = 1_000;

/// A T4 without spread, so that times can be told exactly.
fn exact() -> MachineProfile {
    let mut profile = MachineProfile::load("t4").unwrap();
    profile.timing.kernel_sigma = 0.0;
    profile.timing.kernel_fixed_ns = 0;
    profile.timing.event_resolution_ns = 1;
    profile
}

/// A kernel of `blocks` blocks of a T4's 160 that fit, for this long.
fn part_kernel(ns: u64, blocks: u32) -> KernelCost {
    KernelCost {
        grid: [blocks, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        registers_per_thread: 32,
        instructions_per_thread: ns * 1_590 / 8 / 1_000,
    }
}

fn kernel(ns: u64) -> Command {
    Kernel(part_kernel(ns, 160))
}

/// A model, one context a process, and what has been put out.
struct Bench {
    model: Model,
    outputs: Vec<Output>,
    semaphores: u32,
}

#[derive(Clone, Copy)]
struct Tenant {
    process: ProcessId,
    context: ContextId,
    stream: StreamId,
    progress: SemaphoreId,
}

impl Bench {
    fn new(profile: MachineProfile) -> Self {
        Self {
            model: Model::new(profile, 0),
            outputs: Vec::new(),
            semaphores: 0,
        }
    }

    fn semaphore(&mut self) -> SemaphoreId {
        self.semaphores += 1;
        SemaphoreId(self.semaphores)
    }

    fn tenant(&mut self) -> Tenant {
        let process = self.model.join(ProcessInfo::default());
        let context = self.model.create_context(process, 0).unwrap();
        self.stream(Tenant {
            process,
            context,
            stream: StreamId(0),
            progress: SemaphoreId(0),
        })
    }

    /// The same tenant with another stream.
    fn stream(&mut self, tenant: Tenant) -> Tenant {
        self.stream_of_priority(tenant, 0)
    }

    fn stream_of_priority(&mut self, tenant: Tenant, priority: i32) -> Tenant {
        let progress = self.semaphore();
        let Tenant {
            process, context, ..
        } = tenant;
        let stream = self
            .model
            .create_stream(process, context, priority, progress, 0)
            .unwrap();
        Tenant {
            stream,
            progress,
            ..tenant
        }
    }

    fn submit(&mut self, tenant: Tenant, command: Command) {
        self.submit_logged(tenant, command, 0, &[]);
    }

    fn submit_logged(&mut self, tenant: Tenant, command: Command, token: u64, nodes: &[u32]) {
        let sequence = self.model.streams[&tenant.stream].last + 1;
        let submission = Submission {
            stream: tenant.stream,
            sequence,
            submitted_ns: self.model.now_ns(),
            token,
            logged_nodes: nodes.to_vec(),
            command,
        };
        self.model.submit(tenant.process, submission).unwrap();
    }

    fn take_outputs(&mut self) {
        self.outputs
            .extend(std::iter::from_fn(|| self.model.take_output()));
    }

    fn advance(&mut self, now_ns: u64) {
        self.model.advance_to(now_ns);
        self.model.account();
        self.take_outputs();
    }

    /// Lets everything happen that will happen by itself.
    fn finish(&mut self) {
        while let Some(next_ns) = self.model.next_event_ns() {
            self.advance(next_ns);
        }
        self.take_outputs();
    }

    /// When a semaphore got this payload.
    fn at(&self, wanted: SemaphoreId, at_least: u64) -> Option<u64> {
        self.outputs.iter().find_map(|output| match *output {
            Output::Raise {
                semaphore,
                payload,
                at_ns,
                ..
            } if semaphore == wanted && payload >= at_least => Some(at_ns),
            _ => None,
        })
    }

    fn tokens(&self) -> Vec<u64> {
        let token = |output: &Output| match *output {
            Output::Log { token, .. } => Some(token),
            _ => None,
        };
        self.outputs.iter().filter_map(token).collect()
    }

    fn busy_ns(&self, tenant: Tenant) -> u64 {
        self.model.devices[0].compute.busy_ns(tenant.process)
    }

    fn graph(&mut self, tenant: Tenant, nodes: &[(Command, &[u32])]) -> Command {
        let graph = GraphId(self.model.graphs.len() as u64);
        let node = |&(command, dependencies): &(Command, &[u32])| GraphNode {
            command,
            dependencies: dependencies.to_vec(),
            enabled: true,
        };
        let nodes = nodes.iter().map(node).collect();
        self.model
            .append_to_graph(tenant.process, graph, nodes)
            .unwrap();
        Command::Graph { graph }
    }
}
