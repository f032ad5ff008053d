//! The compute engine of one device: one context at a time, in slices, round robin.
//!
//! Contexts never overlap on the engine (no MPS). Kernels of the context that has it run together
//! while their shares fit; what is interrupted keeps what it has done: each context has a clock of its own, which goes while it has
//! the engine, and its work ends at a time of that clock.

use super::duration::{Load, WHOLE};
use super::{NEVER, Origin, ProcessId};
use crate::command::{ContextId, EngineUsage};
use crate::parameters::Timing;
use std::collections::{BTreeMap, VecDeque};

/// A kernel, memset or copy inside the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Whom to tell when it is done.
    pub(super) origin: Origin,
    pub(super) load: Load,
    /// Of its stream; lower goes first.
    pub(super) priority: i32,
}

/// Work that has begun.
#[derive(Clone, Copy, Debug)]
struct Resident {
    origin: Origin,
    share: u32,
    /// When it ends, of its context's own time.
    end_ns: u64,
}

/// What one context has for the engine.
#[derive(Clone, Debug)]
struct Queue {
    process: ProcessId,
    /// Where the process's time is accounted.
    account: usize,
    /// The context's own time: for how long its work has had the engine.
    own_ns: u64,
    waiting: VecDeque<Work>,
    resident: Vec<Resident>,
    /// Graph launches between two nodes: the context keeps the engine, as the channel is not empty.
    holds: u32,
}

impl Queue {
    fn has_work(&self) -> bool {
        !self.waiting.is_empty() || !self.resident.is_empty()
    }

    /// Starts what fits, in order.
    fn admit(&mut self, resident_max: usize) {
        let mut used: u32 = self.resident.iter().map(|work| work.share).sum();
        while let Some(&Work { origin, load, .. }) = self.waiting.front() {
            let fits = used + load.share <= WHOLE && self.resident.len() < resident_max;
            if !fits && !self.resident.is_empty() {
                return;
            }
            used += load.share;
            self.resident.push(Resident {
                origin,
                share: load.share,
                end_ns: self.own_ns.saturating_add(load.duration_ns),
            });
            self.waiting.pop_front();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The current context has nothing to run.
    Empty,
    Running {
        slice_end_ns: u64,
    },
    Switching {
        until_ns: u64,
        to: ContextId,
    },
}

/// What a process had of the engine.
#[derive(Clone, Debug, Default)]
struct Account {
    busy_ns: u64,
    wait_ns: u64,
    /// Up to when it was last accounted.
    accounted_ns: u64,
}

/// An account for each process.
#[derive(Clone, Debug, Default)]
struct Accounts {
    all: Vec<Account>,
    indices: BTreeMap<ProcessId, usize>,
    /// Of processes that were forgotten.
    unused: Vec<usize>,
}

impl Accounts {
    fn of(&self, process: ProcessId) -> Option<&Account> {
        let index = self.indices.get(&process);
        index.map(|&index| &self.all[index])
    }

    /// Where a process's time is accounted.
    fn open(&mut self, process: ProcessId) -> usize {
        *self.indices.entry(process).or_insert_with(|| {
            self.unused.pop().unwrap_or_else(|| {
                self.all.push(Account::default());
                self.all.len() - 1
            })
        })
    }

    fn close(&mut self, process: ProcessId) {
        if let Some(index) = self.indices.remove(&process) {
            self.all[index] = Account::default();
            self.unused.push(index);
        }
    }
}

/// The engine.
#[derive(Clone, Debug)]
pub(super) struct Compute {
    phase: Phase,
    /// Whose state is loaded.
    current: Option<ContextId>,
    queues: BTreeMap<ContextId, Queue>,
    /// Contexts with work that neither have the engine nor are being switched to.
    turns: VecDeque<ContextId>,
    /// Up to when time is accounted.
    accounted_ns: u64,
    usage: EngineUsage,
    accounts: Accounts,
}

impl Compute {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Empty,
            current: None,
            queues: BTreeMap::new(),
            turns: VecDeque::new(),
            accounted_ns: 0,
            usage: EngineUsage::default(),
            accounts: Accounts::default(),
        }
    }

    pub(super) fn usage(&self) -> EngineUsage {
        self.usage
    }

    /// Time for which a process's work occupied the engine, in ns.
    pub(super) fn busy_ns(&self, process: ProcessId) -> u64 {
        self.accounts
            .of(process)
            .map_or(0, |account| account.busy_ns)
    }

    /// Time for which a process had work while the engine was another's or on its way to it, in ns.
    pub(super) fn wait_ns(&self, process: ProcessId) -> u64 {
        self.accounts
            .of(process)
            .map_or(0, |account| account.wait_ns)
    }

    /// Strikes a process that has no context from the books.
    pub(super) fn forget(&mut self, process: ProcessId) {
        self.accounts.close(process);
    }

    /// The process whose work is on the engine.
    pub(super) fn running(&self) -> Option<ProcessId> {
        let queue = self.running_queue()?;
        (!queue.resident.is_empty()).then_some(queue.process)
    }

    fn running_queue(&self) -> Option<&Queue> {
        match self.phase {
            Phase::Running { .. } => self.queues.get(&self.current?),
            _ => None,
        }
    }

    pub(super) fn push(&mut self, context: ContextId, process: ProcessId, work: Work) {
        let queue = self.queue(context, process);
        let mut waiting = queue.waiting.iter();
        match waiting.position(|other| other.priority > work.priority) {
            Some(behind) => queue.waiting.insert(behind, work),
            None => queue.waiting.push_back(work),
        }
        let switching_to = matches!(self.phase, Phase::Switching { to, .. } if to == context);
        let has_turn = switching_to
            || (self.current == Some(context) && !matches!(self.phase, Phase::Switching { .. }));
        if !has_turn && !self.turns.contains(&context) {
            self.turns.push_back(context);
        }
    }

    /// Keeps the engine for a context that will have more work in a moment.
    pub(super) fn hold(&mut self, context: ContextId, process: ProcessId) {
        self.queue(context, process).holds += 1;
    }

    pub(super) fn release(&mut self, context: ContextId) {
        if let Some(queue) = self.queues.get_mut(&context) {
            queue.holds = queue.holds.saturating_sub(1);
        }
    }

    fn queue(&mut self, context: ContextId, process: ProcessId) -> &mut Queue {
        self.queues.entry(context).or_insert_with(|| Queue {
            process,
            account: self.accounts.open(process),
            own_ns: 0,
            waiting: VecDeque::new(),
            resident: Vec::new(),
            holds: 0,
        })
    }

    /// Drops a context and all its work.
    pub(super) fn remove(&mut self, context: ContextId) {
        self.queues.remove(&context);
        self.turns.retain(|&turn| turn != context);
    }

    /// Accounts the time up to `now_ns`, which must not lie behind the next event.
    pub(super) fn account(&mut self, now_ns: u64) {
        let elapsed_ns = now_ns - self.accounted_ns;
        if elapsed_ns == 0 {
            return;
        }
        self.accounted_ns = now_ns;
        let mut coming = None;
        match self.phase {
            Phase::Empty => {}
            Phase::Switching { to, .. } => {
                self.usage.switch_ns_total += elapsed_ns;
                coming = Some(to);
            }
            Phase::Running { .. } => {
                let queue = self
                    .current
                    .and_then(|current| self.queues.get_mut(&current));
                if let Some(queue) = queue.filter(|queue| !queue.resident.is_empty()) {
                    queue.own_ns += elapsed_ns;
                    self.usage.gpu_busy_ns_total += elapsed_ns;
                    let account = &mut self.accounts.all[queue.account];
                    account.busy_ns += elapsed_ns;
                    account.accounted_ns = now_ns;
                }
            }
        }
        // A process waits once, with however many contexts, and not while another of its contexts runs.
        for context in self.turns.iter().chain(&coming) {
            let Some(queue) = self.queues.get(context) else {
                continue;
            };
            let account = &mut self.accounts.all[queue.account];
            if account.accounted_ns < now_ns {
                account.accounted_ns = now_ns;
                account.wait_ns += elapsed_ns;
            }
        }
    }

    /// When something happens next, if nothing new comes; [`NEVER`]: then nothing does.
    pub(super) fn next_ns(&self) -> u64 {
        match self.phase {
            Phase::Empty => NEVER,
            Phase::Switching { until_ns, .. } => until_ns,
            Phase::Running { slice_end_ns } => {
                let first_ns = self.running_queue().and_then(|queue| {
                    let first_ns = queue.resident.iter().map(|work| work.end_ns).min()?;
                    Some(self.accounted_ns + (first_ns - queue.own_ns))
                });
                let slice_end_ns = match self.turns.is_empty() {
                    true => NEVER,
                    false => slice_end_ns.max(self.accounted_ns),
                };
                first_ns.unwrap_or(NEVER).min(slice_end_ns)
            }
        }
    }

    /// Takes off the engine what is done.
    pub(super) fn take_done(&mut self, done: &mut VecDeque<Origin>) {
        let Phase::Running { .. } = self.phase else {
            return;
        };
        let queue = self
            .current
            .and_then(|current| self.queues.get_mut(&current));
        if let Some(queue) = queue {
            queue.resident.retain(|work| {
                let goes_on = work.end_ns > queue.own_ns;
                if !goes_on {
                    done.push_back(work.origin);
                }
                goes_on
            });
        }
    }

    /// Decides who runs from `now_ns` on. To be called after anything has changed.
    pub(super) fn schedule(&mut self, now_ns: u64, timing: &Timing) {
        if let Phase::Switching { until_ns, to } = self.phase {
            if until_ns > now_ns {
                return;
            }
            self.current = Some(to);
            self.phase = Phase::Running {
                slice_end_ns: now_ns + timing.slice_ns,
            };
        }
        let queue = self
            .current
            .and_then(|context| self.queues.get_mut(&context));
        let (interrupts, wants) = match &queue {
            Some(queue) => (
                !queue.resident.is_empty(),
                queue.has_work() || queue.holds > 0,
            ),
            None => (false, false),
        };
        if !wants {
            self.phase = Phase::Empty;
            return self.switch(now_ns, interrupts, timing);
        }
        let slice_end_ns = match self.phase {
            Phase::Running { slice_end_ns } => slice_end_ns,
            _ => now_ns + timing.slice_ns,
        };
        if slice_end_ns <= now_ns && !self.turns.is_empty() {
            return self.switch(now_ns, interrupts, timing);
        }
        self.phase = Phase::Running {
            slice_end_ns: renewed(slice_end_ns, now_ns, timing.slice_ns),
        };
        if let Some(queue) = queue {
            queue.admit(timing.kernels_resident_max as usize);
        }
    }

    /// Gives the engine to the next context, if one waits for it.
    fn switch(&mut self, now_ns: u64, interrupts: bool, timing: &Timing) {
        let Some(to) = self.turns.pop_front() else {
            return;
        };
        let left = self
            .current
            .filter(|left| self.queues.get(left).is_some_and(Queue::has_work));
        self.turns.extend(left);
        let cost_ns = match (self.current, interrupts) {
            (None, _) => 0, // nothing is loaded yet
            (Some(_), true) => timing.switch_preemptive_ns,
            (Some(_), false) => timing.switch_voluntary_ns,
        };
        if self.current.is_some() {
            let counter = match interrupts {
                true => &mut self.usage.switches_preemptive_total,
                false => &mut self.usage.switches_voluntary_total,
            };
            *counter += 1;
        }
        self.phase = Phase::Switching {
            until_ns: now_ns + cost_ns,
            to,
        };
        if cost_ns == 0 {
            self.schedule(now_ns, timing);
        }
    }
}

/// The end of the slice that `now_ns` lies in, when slices follow one another without a gap.
fn renewed(slice_end_ns: u64, now_ns: u64, slice_ns: u64) -> u64 {
    if slice_end_ns > now_ns {
        return slice_end_ns;
    }
    let over_ns = now_ns - slice_end_ns;
    now_ns + slice_ns - over_ns % slice_ns
}
