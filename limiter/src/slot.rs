//! One process's entry in a shared file: claimed, owned by a lock that the kernel drops, reaped.
//!
//! An entry is dead when no other process has its lock **and**, where it was made in the reader's own pid namespace, no
//! process of its pid *and* start time runs. The second half is for programs that close every descriptor they find and
//! lose their locks with them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::refusals;
use crate::shm::layout::{ContainerFile, ENTRIES_MAX, Entries, Owner, Slot, UsageRow};
use crate::shm::{AttachError, Exclusive, Mapping};
use crate::sync::Ordering;

/// Who a process is, for good: pids come back, together with the start time they do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
    /// Inode of its pid namespace; 0: unknown.
    pub(crate) pid_namespace: u64,
}

/// This process's entry in a file.
#[derive(Debug)]
pub(crate) struct Seat<T: Entries> {
    pub(crate) file: Mapping<T>,
    pub(crate) index: usize,
    generation: u32,
    pub(crate) process: Process,
}

const FREE: u32 = 0;
const TAKEN: u32 = 1;

impl Process {
    /// This process. Where `/proc` is not mounted, only its pid is known and its locks alone speak for it.
    pub(crate) fn current() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start_time: start_time(pid).unwrap_or(0),
            pid_namespace: fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino()),
        }
    }

    fn of(owner: &Owner) -> Self {
        Self {
            pid: owner.pid.load(Ordering::Relaxed),
            start_time: owner.start_time.load(Ordering::Relaxed),
            pid_namespace: owner.pid_namespace.load(Ordering::Relaxed),
        }
    }
}

/// Start time of a running process of this pid namespace in clock ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    start_time_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The same from the text of its `/proc/<pid>/stat`.
///
/// proc_pid_stat(5): `pid (comm) state ppid …`, field 22 is the start time. `comm` may hold anything, parentheses too.
/// A zombie (`Z`) or dead (`X`) process has given back all it had.
pub(crate) fn start_time_of(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The process that owns an entry, if it is taken and its owner lives.
pub(crate) fn living_owner(
    owner: &Owner,
    is_locked: impl FnOnce() -> io::Result<bool>,
    reader: &Process,
) -> Option<Process> {
    if owner.state.load(Ordering::Acquire) != TAKEN {
        return None;
    }
    let process = Process::of(owner);
    // Where the lock cannot be asked for, nobody is declared dead.
    if is_locked().unwrap_or(true) {
        return Some(process);
    }
    let comparable = process.pid_namespace != 0 && process.pid_namespace == reader.pid_namespace;
    (comparable && start_time(process.pid) == Some(process.start_time)).then_some(process)
}

impl<T: Entries> Seat<T> {
    /// Open `path` and take an entry of it, a dead process's if there is one. `prepare` runs under the exclusive lock
    /// once the entry is taken, and is told whether other processes live in the file.
    pub(crate) fn take<R>(
        path: &Path,
        prepare: impl FnOnce(&T, Company) -> Result<R, AttachError>,
    ) -> Result<(Self, R), AttachError> {
        let file: Mapping<T> = Mapping::open(path)?;
        let process = Process::current();
        let exclusive = file
            .exclusive()
            .map_err(|source| file.error("lock", source))?;
        let living = reap(&exclusive, &file, &process, None);
        let index = (0..ENTRIES_MAX)
            .find(|index| {
                file.owner(*index)
                    .is_some_and(|owner| owner.state.load(Ordering::Acquire) == FREE)
            })
            .ok_or_else(|| AttachError::Full {
                path: path.to_owned(),
                what: "process",
            })?;
        let offset = T::HEADER_BYTES.saturating_add(index.saturating_mul(T::ENTRY_BYTES));
        file.reserve(offset, T::ENTRY_BYTES)?;
        let company = if living == 0 {
            Company::Alone
        } else {
            Company::Others
        };
        let prepared = prepare(&file, company)?;
        file.lock_entry(index)
            .map_err(|source| file.error("lock", source))?;
        let generation = file.owner(index).map_or(0, |owner| occupy(owner, &process));
        let entries = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
        file.preamble()
            .entries_high
            .fetch_max(entries, Ordering::SeqCst);
        drop(exclusive);
        Ok((
            Self {
                file,
                index,
                generation,
                process,
            },
            prepared,
        ))
    }

    /// Whether the entry is still this process's.
    pub(crate) fn is_ours(&self) -> bool {
        self.file
            .owner(self.index)
            .is_some_and(|owner| owner.generation.load(Ordering::Acquire) == self.generation)
    }

    /// Free the entries of dead processes. Takes this process's own lock again, should it have been lost.
    pub(crate) fn reap(&self, exclusive: &Exclusive<'_, T>) -> io::Result<()> {
        if self.is_ours() {
            self.file.lock_entry(self.index)?;
        }
        reap(exclusive, &self.file, &self.process, Some(self.index));
        Ok(())
    }

    /// The living owners, this process among them, with the numbers of their entries.
    pub(crate) fn living(&self) -> impl Iterator<Item = (usize, Process)> {
        used(&*self.file).filter_map(|index| Some((index, self.owner_of(index)?)))
    }

    /// The owner of entry `index`, if it lives.
    pub(crate) fn owner_of(&self, index: usize) -> Option<Process> {
        if index == self.index {
            return self.is_ours().then_some(self.process);
        }
        living_owner(
            self.file.owner(index)?,
            || self.file.is_entry_locked_elsewhere(index),
            &self.process,
        )
    }
}

/// Whether other processes live in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Company {
    /// None does: what they left may be set anew.
    Alone,
    /// Some do.
    Others,
}

/// The numbers of the entries that were ever used.
pub(crate) fn used<T: Entries>(file: &T) -> std::ops::Range<usize> {
    let high = file.preamble().entries_high.load(Ordering::SeqCst);
    0..usize::try_from(high)
        .unwrap_or(ENTRIES_MAX)
        .min(ENTRIES_MAX)
}

/// Write the new owner into a free entry; the state comes last. Returns the new generation.
fn occupy(owner: &Owner, process: &Process) -> u32 {
    owner.pid.store(process.pid, Ordering::Relaxed);
    owner
        .start_time
        .store(process.start_time, Ordering::Relaxed);
    owner
        .pid_namespace
        .store(process.pid_namespace, Ordering::Relaxed);
    let generation = owner
        .generation
        .fetch_add(1, Ordering::AcqRel)
        .wrapping_add(1);
    owner.state.store(TAKEN, Ordering::Release);
    generation
}

/// Free the entries of dead processes; returns how many others live.
fn reap<T: Entries>(
    _: &Exclusive<'_, T>,
    file: &Mapping<T>,
    reader: &Process,
    own: Option<usize>,
) -> usize {
    let mut living: usize = 0;
    for index in used(&**file).filter(|index| Some(*index) != own) {
        let Some(owner) = file.owner(index) else {
            continue;
        };
        if living_owner(owner, || file.is_entry_locked_elsewhere(index), reader).is_some() {
            living = living.saturating_add(1);
        } else if owner.state.load(Ordering::Acquire) != FREE {
            vacate(&**file, index, owner);
        }
    }
    living
}

/// The generation changes first: whoever still believes to own the entry stops writing to it.
fn vacate<T: Entries>(file: &T, index: usize, owner: &Owner) {
    owner.generation.fetch_add(1, Ordering::AcqRel);
    file.retire(index);
    owner.state.store(FREE, Ordering::Release);
}

impl<T: Entries> Drop for Seat<T> {
    /// Give the entry back, but not in a forked child: there it is the parent's.
    fn drop(&mut self) {
        if std::process::id() != self.process.pid || !self.is_ours() {
            return;
        }
        // Where the lock fails the entry is left to be reaped.
        if let (Ok(exclusive), Some(owner)) = (self.file.exclusive(), self.file.owner(self.index)) {
            vacate(&*self.file, self.index, owner);
            // Where this fails, closing the descriptor a moment later does the same.
            let _ = self.file.unlock_entry(self.index);
            drop(exclusive);
        }
    }
}

impl Entries for ContainerFile {
    const ENTRY_BYTES: usize = size_of::<Slot>();

    fn owner(&self, index: usize) -> Option<&Owner> {
        self.slots.get(index).map(|slot| &slot.owner)
    }

    /// Its bytes are free; its use of GPU time and what it was refused stay counted. Read and emptied in one step, so that a death in between
    /// loses a count and never doubles one.
    fn retire(&self, index: usize) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        for (device, row) in slot.devices.iter().zip(&self.devices) {
            device.pending_bytes.store(0, Ordering::SeqCst);
            device.bytes.store(0, Ordering::SeqCst);
            device.peak_bytes.store(0, Ordering::Relaxed);
            for (from, to) in device
                .usage
                .counters()
                .into_iter()
                .zip(row.retired.counters())
            {
                to.fetch_add(from.swap(0, Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        refusals::retire(self, slot);
    }
}

impl UsageRow {
    fn counters(&self) -> [&crate::sync::AtomicU64; 4] {
        [
            &self.charged_ns,
            &self.launches,
            &self.throttled_ns,
            &self.throttled_count,
        ]
    }
}
