//! A config file that is rewritten while programs run: who notices, and what becomes of the container's limits.
//!
//! There is no daemon and no thread for it. The programs themselves look, at what they do anyway: at most every
//! [`Follower::LOOK_EVERY_NS`] one of a process's calls asks the file system when the file was written, and reads it if it was. Of several
//! processes the first one that notices sets the container's limits anew; the others, whose environment may say less, can only lower
//! them then, as at their start.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::{GpuLimits, Limits, Refusal, Source, Stamp};
use crate::ledger::Ledger;
use crate::limit::{self, Rewritten};
use crate::sync::{AtomicU64, Ordering};
use crate::units::MonotonicNs;

/// A file that was written so recently may not be whole yet.
const SETTLE_NS: u64 = 20_000_000;

/// A process's eye on its config file. All methods are thread-safe.
#[derive(Debug)]
pub struct Follower {
    source: Source,
    /// The file that was read last.
    known: Mutex<Stamp>,
    next_look_ns: AtomicU64,
}

impl Follower {
    /// Time between two looks at the file.
    pub const LOOK_EVERY_NS: u64 = 25_000_000;

    /// Follows the file that limits were read from.
    pub fn new(source: Source) -> Self {
        Self {
            known: Mutex::new(source.stamp()),
            source,
            next_look_ns: AtomicU64::new(0),
        }
    }

    /// Whether it is time to look. No system call.
    #[inline]
    pub fn is_time(&self, now: MonotonicNs) -> bool {
        now.get() >= self.next_look_ns.load(Ordering::Relaxed)
    }

    /// Whether it is time to look, and this thread's turn. No system call.
    pub fn is_due(&self, now: MonotonicNs) -> bool {
        let due = self.next_look_ns.load(Ordering::Relaxed);
        let next = now.get().saturating_add(Self::LOOK_EVERY_NS);
        now.get() >= due
            && self
                .next_look_ns
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// The limits of the file, if it was rewritten since it was last read. `wall_ns`: now, in ns since 1970.
    ///
    /// # Errors
    /// The file cannot be obeyed: told once for each time that it was written. The limits stay.
    pub fn rewritten(&self, wall_ns: u64) -> Option<Result<Version, Refusal>> {
        let stamp = self.source.stamp_now()?;
        let mut known = self.known();
        let is_settling = wall_ns
            .checked_sub(stamp.mtime_ns)
            .is_some_and(|age_ns| age_ns < SETTLE_NS);
        if *known == stamp || is_settling {
            return None;
        }
        *known = stamp;
        Some(self.source.read().map(|limits| Version { limits, stamp }))
    }

    /// Makes `limits`, by device index, those of the container, if nobody has read this version of the file before; otherwise lowers
    /// the container's to them where they are less.
    ///
    /// # Errors
    /// The container's file cannot be locked.
    pub fn obey(
        ledger: &Ledger,
        limits: &[GpuLimits],
        stamp: Stamp,
        moment: Moment,
        now: MonotonicNs,
    ) -> io::Result<()> {
        let file = &ledger.seat().file;
        let _exclusive = file.exclusive()?;
        let stamp_ns = stamp.mtime_ns;
        let known_ns = file.config.stamp_ns.load(Ordering::SeqCst);
        let is_news = match moment {
            Moment::Start => stamp_ns > known_ns,
            Moment::Rewritten => stamp_ns != known_ns,
        };
        let rewritten = if is_news {
            file.config.stamp_ns.store(stamp_ns, Ordering::SeqCst);
            Rewritten::Anew
        } else {
            Rewritten::Known
        };
        for (&row, limits) in ledger.rows().iter().zip(limits) {
            let Some(device) = file.devices.get(row) else {
                continue;
            };
            let before = device.limits();
            device.configure(*limits, rewritten);
            if device.limits() != before {
                limit::share_changed(file, row, before.sm_max, now);
            }
        }
        Ok(())
    }

    /// The file that was read last.
    pub fn stamp(&self) -> Stamp {
        *self.known()
    }

    fn known(&self) -> MutexGuard<'_, Stamp> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A config file as it was read.
#[derive(Clone, Debug)]
pub struct Version {
    /// What it and the environment set.
    pub limits: Limits,
    /// Which it was.
    pub stamp: Stamp,
}

/// Whose limits a rewritten file changes, as far as one process sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The process has just started: it obeys what is newer than what the others know.
    Start,
    /// It has seen the file change: whatever is there now counts.
    Rewritten,
}

#[cfg(test)]
mod tests;
