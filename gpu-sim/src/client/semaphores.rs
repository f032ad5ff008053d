//! The process's semaphores: given out and taken back without asking the device.

use crate::command::SemaphoreId;
use crate::shared::{SEMAPHORES_MAX, Semaphore, SharedMapping};
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
        Some(SemaphoreHandle {
            index,
            reserved: AtomicU64::new(reserved),
            all: Arc::clone(this),
        })
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

/// A semaphore of this process. Its payload starts wherever its last owner left it and only grows.
pub struct SemaphoreHandle {
    index: u32,
    /// Highest payload that was given out.
    reserved: AtomicU64,
    all: Arc<Semaphores>,
}

impl SemaphoreHandle {
    /// Its name in [`crate::command::Command::Wait`] and [`crate::command::Command::Signal`].
    pub fn id(&self) -> SemaphoreId {
        SemaphoreId(self.index)
    }

    /// A payload higher than any before: what the next signal raises it to.
    pub fn next_payload(&self) -> u64 {
        self.reserved.fetch_add(1, SeqCst) + 1
    }

    /// The last payload that [`SemaphoreHandle::next_payload`] gave out, or the payload it started with.
    pub fn last_payload(&self) -> u64 {
        self.reserved.load(SeqCst)
    }

    pub(super) fn reserve(&self, payload: u64) {
        self.reserved.fetch_max(payload, SeqCst);
    }

    pub(super) fn get(&self) -> &Semaphore {
        &self.all.shared.semaphores()[self.index as usize]
    }
}

impl Drop for SemaphoreHandle {
    fn drop(&mut self) {
        let reserved = *self.reserved.get_mut();
        self.all
            .unused
            .lock()
            .returned
            .push_back((self.index, reserved));
    }
}
