//! A copy engine: one direction between host and device, one copy at a time, first come first served.

use super::{NEVER, Origin, ProcessId};
use crate::command::ContextId;
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Copy, Debug)]
struct Copy {
    process: ProcessId,
    context: ContextId,
    origin: Origin,
    left_ns: u64,
}

/// The engine. The first of the queue is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct CopyEngine {
    queue: VecDeque<Copy>,
    accounted_ns: u64,
    busy_ns: BTreeMap<ProcessId, u64>,
    busy_ns_total: u64,
}

impl CopyEngine {
    pub(super) fn push(
        &mut self,
        context: ContextId,
        process: ProcessId,
        origin: Origin,
        duration_ns: u64,
    ) {
        self.queue.push_back(Copy {
            process,
            context,
            origin,
            left_ns: duration_ns,
        });
    }

    /// Drops a context's copies, the one under way included.
    pub(super) fn remove(&mut self, context: ContextId) {
        self.queue.retain(|copy| copy.context != context);
    }

    /// When a copy is done; [`NEVER`]: there is none.
    pub(super) fn next_ns(&self) -> u64 {
        let first = self.queue.front();
        first.map_or(NEVER, |copy| self.accounted_ns + copy.left_ns)
    }

    /// Accounts the time up to `now_ns`, which must not lie behind the next event.
    pub(super) fn account(&mut self, now_ns: u64) {
        let elapsed_ns = now_ns - self.accounted_ns;
        self.accounted_ns = now_ns;
        if let Some(copy) = self.queue.front_mut() {
            copy.left_ns -= elapsed_ns;
            self.busy_ns_total += elapsed_ns;
            *self.busy_ns.entry(copy.process).or_default() += elapsed_ns;
        }
    }

    /// Takes off the copy that is done, if it is.
    pub(super) fn take_done(&mut self) -> Option<Origin> {
        let done = self.queue.pop_front_if(|copy| copy.left_ns == 0)?;
        Some(done.origin)
    }

    pub(super) fn busy_ns(&self, process: ProcessId) -> u64 {
        self.busy_ns.get(&process).copied().unwrap_or(0)
    }

    /// Strikes a process that has nothing under way from the books.
    pub(super) fn forget(&mut self, process: ProcessId) {
        self.busy_ns.remove(&process);
    }

    pub(super) fn busy_ns_total(&self) -> u64 {
        self.busy_ns_total
    }
}
