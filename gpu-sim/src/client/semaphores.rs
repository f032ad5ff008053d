//! The process's semaphores: given out and taken back without asking the device.

use super::Inner;
use crate::command::SemaphoreId;
use crate::shared::{SEMAPHORES_MAX, Semaphore, SharedMapping, SharedSemaphore};
use crate::wire::Request;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// All semaphores of the process.
pub(super) struct Semaphores {
    shared: Arc<SharedMapping>,
    unused: Mutex<Unused>,
}

struct Unused {
    /// The first index that was never given out.
    fresh: u32,
    /// Given back, with the highest payload that the device may still write.
    returned: VecDeque<(u32, u64)>,
}

/// Returned semaphores that are looked at for one that the device is done with.
const RETURNED_TRIES: usize = 16;

impl Semaphores {
    pub(super) fn new(shared: Arc<SharedMapping>) -> Self {
        Self {
            shared,
            unused: Mutex::new(Unused {
                fresh: 0,
                returned: VecDeque::new(),
            }),
        }
    }

    pub(super) fn create(this: &Arc<Self>) -> Option<SemaphoreHandle> {
        let index = this.take()?;
        let reserved = this.shared.semaphore(index)?.read().payload;
        Some(SemaphoreHandle(Home::Process {
            index,
            reserved: AtomicU64::new(reserved),
            all: Arc::clone(this),
        }))
    }

    fn take(&self) -> Option<u32> {
        let mut unused = self.unused.lock();
        for _ in 0..RETURNED_TRIES.min(unused.returned.len()) {
            let (index, reserved) = unused.returned.pop_front()?;
            if self.shared.semaphore(index)?.read().payload >= reserved {
                return Some(index);
            }
            unused.returned.push_back((index, reserved));
        }
        if unused.fresh == SEMAPHORES_MAX {
            return None;
        }
        unused.fresh += 1;
        Some(unused.fresh - 1)
    }
}

/// A semaphore. Its payload starts wherever its last owner left it and only grows.
pub struct SemaphoreHandle(Home);

/// Where a semaphore lies.
enum Home {
    Process {
        index: u32,
        /// Highest payload that was given out.
        reserved: AtomicU64,
        all: Arc<Semaphores>,
    },
    Machine {
        index: u32,
        machine: Arc<Inner>,
    },
}

impl SemaphoreHandle {
    /// A semaphore of the machine that this process holds; dropping the handle lets it go.
    pub(super) fn shared(machine: &Arc<Inner>, semaphore: SemaphoreId) -> Option<Self> {
        let index = semaphore.index();
        machine.commons.semaphore(index)?;
        let machine = Arc::clone(machine);
        Some(Self(Home::Machine { index, machine }))
    }

    /// Its name in [`crate::command::Command::Wait`] and [`crate::command::Command::Signal`].
    pub fn id(&self) -> SemaphoreId {
        match &self.0 {
            Home::Process { index, .. } => SemaphoreId(*index),
            Home::Machine { index, .. } => SemaphoreId::shared(*index),
        }
    }

    /// A payload higher than any before: what the next signal raises it to.
    pub fn next_payload(&self) -> u64 {
        self.reserved().fetch_add(1, SeqCst) + 1
    }

    /// The last payload that [`SemaphoreHandle::next_payload`] gave out – of a semaphore of the machine, in any process –
    /// or the payload it started with.
    pub fn last_payload(&self) -> u64 {
        self.reserved().load(SeqCst)
    }

    /// Of a semaphore of the machine: the payload that it started with. 0 of any other.
    pub fn first_payload(&self) -> u64 {
        self.commons().map_or(0, |shared| shared.base.load(SeqCst))
    }

    /// Marks a semaphore of the machine as one that begins now.
    pub(super) fn begin(&self) {
        if let Some(shared) = self.commons() {
            let reserved = shared.reserved.load(SeqCst);
            shared.base.store(reserved, SeqCst);
        }
    }

    fn commons(&self) -> Option<&SharedSemaphore> {
        match &self.0 {
            Home::Process { .. } => None,
            Home::Machine { index, machine } => machine.commons.semaphore(*index),
        }
    }

    fn reserved(&self) -> &AtomicU64 {
        match &self.0 {
            Home::Process { reserved, .. } => reserved,
            Home::Machine { index, machine } => &machine.commons[*index].reserved,
        }
    }

    pub(super) fn reserve(&self, payload: u64) {
        self.reserved().fetch_max(payload, SeqCst);
    }

    pub(super) fn get(&self) -> &Semaphore {
        match &self.0 {
            Home::Process { index, all, .. } => &all.shared.semaphores()[*index as usize],
            Home::Machine { index, machine } => &machine.commons[*index].semaphore,
        }
    }
}

impl Drop for SemaphoreHandle {
    fn drop(&mut self) {
        let semaphore = self.id();
        match &self.0 {
            Home::Process {
                index,
                reserved,
                all,
            } => {
                let returned = (*index, reserved.load(SeqCst));
                all.unused.lock().returned.push_back(returned);
            }
            Home::Machine { machine, .. } => {
                // With the device gone there is no semaphore either.
                let _ = machine
                    .connection
                    .send(&Request::DropSharedSemaphore { semaphore });
            }
        }
    }
}
