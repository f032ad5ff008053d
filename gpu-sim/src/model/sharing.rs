//! What processes and streams share: blocks that more than one process holds, semaphores of the machine, SMs.

use super::{Model, ProcessId, Queued};
use crate::command::{Block, BlockId, Command, SemaphoreId, StreamId};
use crate::shared::SHARED_SEMAPHORES_MAX;
use crate::wire::Refusal;
use std::collections::BTreeMap;

impl ProcessId {
    /// Nobody in particular: holds the machine's semaphores, and what descriptors under way keep. No process has this name.
    pub const MACHINE: Self = Self(0);
}

impl SemaphoreId {
    /// Whose semaphore this name means when `process` says it.
    pub(super) fn home(self, process: ProcessId) -> ProcessId {
        if self.is_shared() {
            ProcessId::MACHINE
        } else {
            process
        }
    }
}

/// Who holds the machine's semaphores. One that nobody holds is given out again; its payload only grows.
#[derive(Default)]
pub(super) struct SharedSemaphores {
    holders: BTreeMap<SemaphoreId, Vec<ProcessId>>,
    unused: Vec<SemaphoreId>,
    given_out: u32,
}

impl SharedSemaphores {
    fn take(&mut self, process: ProcessId) -> Option<SemaphoreId> {
        let fresh = || {
            let index = (self.given_out < SHARED_SEMAPHORES_MAX).then_some(self.given_out)?;
            self.given_out += 1;
            Some(SemaphoreId::shared(index))
        };
        let semaphore = self.unused.pop().or_else(fresh)?;
        self.holders.insert(semaphore, vec![process]);
        Some(semaphore)
    }

    fn let_go(&mut self, process: ProcessId, semaphore: SemaphoreId) -> Option<()> {
        let holders = self.holders.get_mut(&semaphore)?;
        let at = holders.iter().position(|holder| *holder == process)?;
        holders.swap_remove(at);
        if holders.is_empty() {
            self.holders.remove(&semaphore);
            self.unused.push(semaphore);
        }
        Some(())
    }

    fn of(&self, process: ProcessId) -> Vec<SemaphoreId> {
        let times = |(&semaphore, holders): (&SemaphoreId, &Vec<ProcessId>)| {
            let held = holders.iter().filter(|holder| **holder == process);
            std::iter::repeat_n(semaphore, held.count())
        };
        self.holders.iter().flat_map(times).collect()
    }
}

impl Model {
    /// Has a process hold a block of another one, until it frees it. It stays in its owner's books.
    pub fn open(&mut self, process: ProcessId, id: BlockId) -> Result<Block, Refusal> {
        let mut devices = (0..).zip(&mut self.devices);
        let opened = devices.find_map(|(device, state)| {
            let (offset, bytes) = state.memory.open(process, id)?;
            Some(Block {
                id,
                device,
                offset,
                bytes,
            })
        });
        opened.ok_or(Refusal::Unknown)
    }

    /// Whether a process holds a block, its own or another's.
    pub fn holds(&self, process: ProcessId, id: BlockId) -> bool {
        let mut devices = self.devices.iter();
        devices.any(|device| device.memory.holds(process, id))
    }

    /// Has a stream's kernels, from now on, run on no more SMs than these.
    pub fn limit_sms(
        &mut self,
        process: ProcessId,
        stream: StreamId,
        sm_count_max: u32,
    ) -> Result<(), Refusal> {
        let streams = self.streams.get_mut(&stream);
        let stream = streams.filter(|stream| stream.place.process == process);
        stream.ok_or(Refusal::Unknown)?.place.sm_count_max = sm_count_max;
        Ok(())
    }

    /// A semaphore of the machine.
    pub fn create_shared_semaphore(&mut self, process: ProcessId) -> Result<SemaphoreId, Refusal> {
        self.shared.take(process).ok_or(Refusal::OutOfMemory)
    }

    /// Has a process hold a semaphore of the machine that another one holds.
    pub fn open_shared_semaphore(
        &mut self,
        process: ProcessId,
        semaphore: SemaphoreId,
    ) -> Result<(), Refusal> {
        let holders = self.shared.holders.get_mut(&semaphore);
        holders.ok_or(Refusal::Unknown)?.push(process);
        Ok(())
    }

    /// Lets a semaphore of the machine go.
    pub fn drop_shared_semaphore(
        &mut self,
        process: ProcessId,
        semaphore: SemaphoreId,
    ) -> Result<(), Refusal> {
        let let_go = self.shared.let_go(process, semaphore);
        let_go.ok_or(Refusal::Unknown)
    }

    /// Raises of the machine's semaphores that a process has submitted and that have not happened.
    pub(super) fn promised(&self, process: ProcessId) -> Vec<(SemaphoreId, u64)> {
        let own = self
            .streams
            .values()
            .filter(|stream| stream.place.process == process);
        let of_nodes = |queued: &Queued| {
            let graph = queued.graph.as_ref().map(|(graph, _)| graph.nodes.clone());
            graph.unwrap_or_default()
        };
        let commands = own
            .flat_map(|stream| stream.queue.iter())
            .flat_map(|queued| {
                let nodes = of_nodes(queued).into_iter().map(|node| node.command);
                nodes.chain([queued.command])
            });
        let raise = |command| match command {
            Command::Signal { semaphore, payload } if semaphore.is_shared() => {
                Some((semaphore, payload))
            }
            _ => None,
        };
        commands.filter_map(raise).collect()
    }

    /// A dead process leaves the machine's semaphores. Its work is over, so nobody has to wait for it any more.
    pub(super) fn leave_shared(&mut self, process: ProcessId, promised: Vec<(SemaphoreId, u64)>) {
        for (semaphore, payload) in promised {
            self.raise(process, semaphore, payload);
        }
        for semaphore in self.shared.of(process) {
            // It was just found to hold it.
            let _ = self.shared.let_go(process, semaphore);
        }
        let mut waiters = std::mem::take(&mut self.waiters);
        for waiting in waiters.values_mut() {
            waiting.retain(|(_, origin)| self.place(*origin).is_some());
        }
        waiters.retain(|_, waiting| !waiting.is_empty());
        self.waiters = waiters;
        self.settle();
    }
}
