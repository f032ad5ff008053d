//! The lock among this process's threads.

use super::futex::{futex_wait, futex_wake_one};
use crate::sync::{AtomicU32, Ordering};
use crate::units::MonotonicNs;

/// A lock among the threads of one process that a fork cannot leave locked in the child: it remembers the process that
/// holds it, and one held by another process (the parent, at the time of the fork) counts as free.
///
/// POSIX record locks do not exclude threads of one process from each other: this does.
#[derive(Debug, Default)]
pub(super) struct ProcessLock {
    holder_pid: AtomicU32,
    /// Threads that sleep, or are about to; in a forked child also those that its parent had.
    waiting: AtomicU32,
}

/// Unlocks when dropped.
pub(super) struct ProcessGuard<'a> {
    lock: &'a ProcessLock,
}

impl ProcessLock {
    pub(super) const fn new() -> Self {
        Self {
            holder_pid: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
        }
    }

    pub(super) fn lock(&self) -> ProcessGuard<'_> {
        let pid = std::process::id();
        loop {
            if let Some(guard) = self.try_lock(pid) {
                return guard;
            }
            self.waiting.fetch_add(1, Ordering::SeqCst);
            // Returns at once where another than this process holds it by now.
            futex_wait(&self.holder_pid, pid, MonotonicNs::new(u64::MAX));
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// `None`: a thread of this process holds it, or was faster.
    fn try_lock(&self, pid: u32) -> Option<ProcessGuard<'_>> {
        let holder = self.holder_pid.load(Ordering::Relaxed);
        if holder == pid {
            return None;
        }
        let taken =
            self.holder_pid
                .compare_exchange(holder, pid, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then(|| ProcessGuard { lock: self })
    }
}

impl Drop for ProcessGuard<'_> {
    fn drop(&mut self) {
        // Whoever is not counted yet after this has not looked yet either, and will see that it is free.
        self.lock.holder_pid.store(0, Ordering::SeqCst);
        if self.lock.waiting.load(Ordering::SeqCst) > 0 {
            futex_wake_one(&self.lock.holder_pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time_is_inside() {
        let (lock, inside, entered) = (ProcessLock::new(), AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let _guard = lock.lock();
                        assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                        std::thread::yield_now(); // lets another try
                        inside.fetch_sub(1, Ordering::Relaxed);
                        entered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(entered.into_inner(), 8_000);
    }

    #[test]
    fn a_lock_that_the_parent_held_at_the_fork_is_free_in_the_child() {
        let (parent, child) = (7, 8);
        let lock = ProcessLock {
            holder_pid: AtomicU32::new(parent),
            waiting: AtomicU32::new(0),
        };
        assert!(lock.try_lock(parent).is_none());
        let _guard = lock.try_lock(child).expect("it is free");
        assert!(lock.try_lock(child).is_none());
    }
}
