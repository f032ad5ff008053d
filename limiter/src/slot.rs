//! One process's entry in a shared file: claimed, owned by a lock that the kernel drops, reaped.
//!
//! An entry is dead when no other process has its lock **and**, where it was made in the reader's own pid namespace, no
//! process of its pid *and* start time has the file mapped. The second half is for programs that close every descriptor they
//! find and lose their locks with them. What becomes of a process by exec has neither, until it takes an entry of its own: then it
//! frees the one before.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use crate::refusals;
use crate::shm::layout::{ContainerFile, ENTRIES_MAX, Entries, Owner, Slot, UsageRow};
use crate::shm::{AttachError, Exclusive, Mapping, process_id};
use crate::sync::Ordering;
use crate::text;

/// Who a process is, for good: pids come back, together with the start time they do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
    /// Inode of its pid namespace; 0: unknown.
    pub(crate) pid_namespace: u64,
    /// Of the programs that it was, by exec, one after another.
    image: u32,
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

/// What no other program of this process has: exec leaves nothing of its memory.
static IMAGE: OnceLock<u32> = OnceLock::new();

fn some_number() -> u32 {
    let number = RandomState::new().build_hasher().finish();
    u32::try_from(number >> 32).unwrap_or(0)
}

impl Process {
    /// This process. Where `/proc` is not mounted, or shows the numbers of another pid namespace, only its pid is known and its locks alone
    /// speak for it.
    pub(crate) fn current() -> Self {
        let pid = process_id();
        let own = own_stat(pid);
        let namespace = own
            .as_ref()
            .and_then(|_| fs::metadata("/proc/self/ns/pid").ok());
        Self {
            pid,
            start_time: own.as_deref().and_then(start_time_of).unwrap_or(0),
            pid_namespace: namespace.map_or(0, |namespace| namespace.ino()),
            image: *IMAGE.get_or_init(some_number),
        }
    }

    fn of(owner: &Owner) -> Self {
        Self {
            pid: owner.pid.load(Ordering::Relaxed),
            start_time: owner.start_time.load(Ordering::Relaxed),
            pid_namespace: owner.pid_namespace.load(Ordering::Relaxed),
            image: owner.image.load(Ordering::Relaxed),
        }
    }
}

/// Start time of a running process of this pid namespace in clock ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    start_time_of(&read_stat(&format!("/proc/{pid}/stat"))?)
}

/// What such a file tells of a process.
fn read_stat(path: &str) -> Option<String> {
    // All that is wanted stands in the first half of this, whatever the process calls itself.
    let mut stat = [0; 1024];
    let length = fs::File::open(path).ok()?.read(&mut stat).ok()?;
    Some(text::lossy(stat.get(..length)?.to_vec()))
}

/// What `/proc` tells of this process, if it shows it under this number: else it is mounted for another pid namespace.
fn own_stat(pid: u32) -> Option<String> {
    read_stat("/proc/self/stat").filter(|stat| pid_of(stat) == Some(pid))
}

/// The process's number in the pid namespace that `/proc` shows: the first field.
fn pid_of(stat: &str) -> Option<u32> {
    stat.split_ascii_whitespace().next()?.parse().ok()
}

/// The start time that a process's `stat` tells, unless it has ended.
///
/// proc_pid_stat(5): `pid (comm) state ppid …`, field 20 is the number of threads, 22 the start time. `comm` may hold anything,
/// parentheses too. A zombie (`Z`) or dead (`X`) process whose other threads are gone has closed all descriptors, the driver's too;
/// its locks went a little earlier.
pub(crate) fn start_time_of(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?;
    let threads: u32 = fields.nth(16)?.parse().ok()?;
    if matches!(state, "Z" | "X" | "x") && threads <= 1 {
        return None;
    }
    fields.nth(1)?.parse().ok()
}

/// Whether a process of this pid namespace has the file of that number mapped. Where it cannot be told, it has.
///
/// proc_pid_maps(5): `address perms offset dev inode pathname`. Devices are not compared: of some file systems they are others there.
/// Nothing at all is mapped where the first thread has ended: the others may live, or the process is about to end. Then the kernel has
/// taken its memory, and after that its locks, but the driver's descriptors are closed before it is a zombie, not before
/// (Linux, kernel/exit.c, `do_exit`: `exit_mm`, `exit_files`, `exit_task_work`, `exit_notify`).
pub(crate) fn has_mapped(pid: u32, inode: u64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/maps")).map_or(true, |maps| {
        let mut inodes = maps
            .lines()
            .filter_map(|line| line.split_ascii_whitespace().nth(4));
        maps.is_empty() || inodes.any(|mapped| mapped.parse() == Ok(inode))
    })
}

/// The process that took an entry and has not given it back, whether it lives or not.
pub(crate) fn owner_of_entry(owner: &Owner) -> Option<Process> {
    (owner.state.load(Ordering::Acquire) == TAKEN).then(|| Process::of(owner))
}

/// The process that owns an entry of the file of number `inode`, if it is taken and its owner lives.
pub(crate) fn living_owner(
    owner: &Owner,
    is_locked: impl FnOnce() -> io::Result<bool>,
    inode: u64,
    reader: &Process,
) -> Option<Process> {
    let process = owner_of_entry(owner)?;
    // Where the lock cannot be asked for, nobody is declared dead.
    if is_locked().unwrap_or(true) {
        return Some(process);
    }
    let comparable = process.pid_namespace != 0 && process.pid_namespace == reader.pid_namespace;
    let lives = process == *reader
        || comparable
            && process.pid != reader.pid // else it is what the reader was before an exec
            && start_time(process.pid) == Some(process.start_time)
            && has_mapped(process.pid, inode);
    lives.then_some(process)
}

impl<T: Entries> Seat<T> {
    /// Open `path` and take an entry of it for this `process`, a dead one's if there is one. `prepare` runs under the exclusive lock once the
    /// entry is found, and is told whether other processes live in the file, and the entry's number: nobody has it yet.
    pub(crate) fn take<R>(
        path: &Path,
        process: Process,
        prepare: impl FnOnce(&T, Company, usize) -> Result<R, AttachError>,
    ) -> Result<(Self, R), AttachError> {
        let (file, (index, generation, prepared)) =
            Mapping::open(path, |file: &Mapping<T>, exclusive| {
                let had_storage = used(&**file).end;
                let company = reap_some(exclusive, file, &process);
                let index = find_free(exclusive, file, &process)?;
                if index >= had_storage {
                    reserve(file, index)?;
                }
                let prepared = prepare(file, company, index)?;
                Ok((index, settle(exclusive, file, index, &process)?, prepared))
            })?;
        let seat = Self {
            file,
            index,
            generation,
            process,
        };
        Ok((seat, prepared))
    }

    /// Whether the entry is still this process's.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        let owner = self.file.owner(self.index);
        owner.is_some_and(|owner| self.owns(owner))
    }

    /// Whether nobody has had this process's entry since.
    #[inline]
    fn owns(&self, owner: &Owner) -> bool {
        owner.generation.load(Ordering::Acquire) == self.generation
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
            self.file.inode(),
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

/// The numbers of the entries up to the last that is taken.
#[inline]
pub(crate) fn used<T: Entries>(file: &T) -> std::ops::Range<usize> {
    let high = file.preamble().entries_high.load(Ordering::SeqCst);
    0..usize::try_from(high)
        .unwrap_or(ENTRIES_MAX)
        .min(ENTRIES_MAX)
}

/// Write the new owner into a free entry; the state comes last. Returns the new generation.
pub(crate) fn occupy(owner: &Owner, process: &Process) -> u32 {
    owner.pid.store(process.pid, Ordering::Relaxed);
    owner
        .start_time
        .store(process.start_time, Ordering::Relaxed);
    owner
        .pid_namespace
        .store(process.pid_namespace, Ordering::Relaxed);
    owner.image.store(process.image, Ordering::Relaxed);
    let generation = owner
        .generation
        .fetch_add(1, Ordering::AcqRel)
        .wrapping_add(1);
    owner.state.store(TAKEN, Ordering::Release);
    generation
}

/// The lowest number that nobody has. What lies beyond the last that is taken is free, and is not looked at: there need not be storage behind
/// it yet, and where none is left, touching it would kill the process.
fn lowest_free<T: Entries>(file: &T) -> Option<usize> {
    let is_free = |owner: &Owner| owner.state.load(Ordering::Acquire) == FREE;
    let mut used = used(file);
    let next = Some(used.end).filter(|next| *next < ENTRIES_MAX);
    used.find(|index| file.owner(*index).is_some_and(is_free))
        .or(next)
}

/// Puts storage behind an entry. Those up to the last that was taken have it: who took them made it first, and nobody takes it away.
fn reserve<T: Entries>(file: &Mapping<T>, index: usize) -> Result<(), AttachError> {
    let offset = T::HEADER_BYTES.saturating_add(index.saturating_mul(T::ENTRY_BYTES));
    file.reserve(offset, T::ENTRY_BYTES)
}

/// A free entry.
fn find_free<T: Entries>(
    exclusive: &Exclusive<'_, T>,
    file: &Mapping<T>,
    process: &Process,
) -> Result<usize, AttachError> {
    let found = lowest_free(&**file).or_else(|| {
        reap(exclusive, file, process, None);
        lowest_free(&**file)
    });
    found.ok_or_else(|| AttachError::Full {
        path: file.path().to_owned(),
        what: "process",
    })
}

/// Makes a free entry this process's. Returns its generation.
fn settle<T: Entries>(
    _: &Exclusive<'_, T>,
    file: &Mapping<T>,
    index: usize,
    process: &Process,
) -> Result<u32, AttachError> {
    file.lock_entry(index)
        .map_err(|source| file.error("lock", source))?;
    let generation = file.owner(index).map_or(0, |owner| occupy(owner, process));
    let entries = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
    file.preamble()
        .entries_high
        .fetch_max(entries, Ordering::SeqCst);
    Ok(generation)
}

/// Entries that a start looks at for the dead. To look is a system call that searches all locks of the file: were it all entries, each of
/// hundreds that start at once would wait for all before it to ask for all others.
const ENTRIES_PER_START: usize = 16;

/// Free the entries of dead processes among some, other ones at each start; all where none of them lives.
fn reap_some<T: Entries>(_: &Exclusive<'_, T>, file: &Mapping<T>, reader: &Process) -> Company {
    let entries = used(&**file).end;
    let random = usize::try_from(reader.image).unwrap_or(0);
    let from = random.checked_rem(entries).unwrap_or(0);
    let mut company = Company::Alone;
    for (number, index) in (from..entries).chain(0..from).enumerate() {
        let is_looked_at = number < ENTRIES_PER_START
            || company == Company::Alone
            || may_be_of_before_exec(&**file, index, reader);
        if is_looked_at && lives_or_is_freed(file, index, reader) {
            company = Company::Others;
        }
    }
    compact(&**file);
    company
}

/// Whether an entry may be the reader's own, of a program that it was before: nobody else can tell that one from the new one.
fn may_be_of_before_exec<T: Entries>(file: &T, index: usize, reader: &Process) -> bool {
    file.owner(index)
        .is_some_and(|owner| Process::of(owner).pid == reader.pid)
}

/// Free the entries of dead processes, but for the own.
fn reap<T: Entries>(_: &Exclusive<'_, T>, file: &Mapping<T>, reader: &Process, own: Option<usize>) {
    for index in used(&**file).filter(|index| Some(*index) != own) {
        lives_or_is_freed(file, index, reader);
    }
    compact(&**file);
}

/// Free the entries of those that `is_dead` says, and tell how many they were.
pub(crate) fn reap_where<T: Entries>(
    _: &Exclusive<'_, T>,
    file: &Mapping<T>,
    is_dead: impl Fn(usize) -> bool,
) -> usize {
    let mut reaped: usize = 0;
    for index in used(&**file).filter(|index| is_dead(*index)) {
        if let Some(owner) = file.owner(index) {
            vacate(&**file, index, owner);
            reaped = reaped.saturating_add(1);
        }
    }
    compact(&**file);
    reaped
}

/// Whether the entry's owner lives. Frees the entry of one that does not.
fn lives_or_is_freed<T: Entries>(file: &Mapping<T>, index: usize, reader: &Process) -> bool {
    let Some(owner) = file.owner(index) else {
        return false;
    };
    let is_locked = || file.is_entry_locked_elsewhere(index);
    let lives = living_owner(owner, is_locked, file.inode(), reader).is_some();
    if !lives && owner.state.load(Ordering::Acquire) != FREE {
        vacate(&**file, index, owner);
    }
    lives
}

/// Has nobody look further than at the last entry that is taken. Under the exclusive lock, as is whoever takes one beyond.
fn compact<T: Entries>(file: &T) {
    let is_taken = |owner: &Owner| owner.state.load(Ordering::Acquire) != FREE;
    let last = used(file)
        .rev()
        .find(|index| file.owner(*index).is_some_and(is_taken));
    let entries = last.map_or(0, |index| index.saturating_add(1));
    let entries = u32::try_from(entries).unwrap_or(u32::MAX);
    file.preamble()
        .entries_high
        .store(entries, Ordering::SeqCst);
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
        if process_id() != self.process.pid || !self.is_ours() {
            return;
        }
        // Where the lock fails the entry is left to be reaped.
        if let (Ok(exclusive), Some(owner)) = (self.file.exclusive(), self.file.owner(self.index)) {
            vacate(&*self.file, self.index, owner);
            compact(&*self.file);
            // Where this fails, closing the descriptor a moment later does the same.
            let _ = self.file.unlock_entry(self.index);
            drop(exclusive);
        }
    }
}

impl Seat<ContainerFile> {
    /// This process's slot; `None` where it was taken for dead and is another's now.
    #[inline]
    pub(crate) fn slot(&self) -> Option<&Slot> {
        let slot = self.file.slots.get(self.index)?;
        self.owns(&slot.owner).then_some(slot)
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
            device.spilled_bytes.store(0, Ordering::SeqCst);
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
    fn counters(&self) -> [&crate::sync::AtomicU64; 7] {
        [
            &self.charged_ns,
            &self.launches,
            &self.throttled_ns,
            &self.throttled_count,
            &self.throttled_by_cap_ns,
            &self.throttled_by_share_ns,
            &self.throttled_by_window_ns,
        ]
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::Shared;

    fn take(path: &Path) -> Result<Seat<ContainerFile>, AttachError> {
        Seat::take(path, Process::current(), |_, _, _| Ok(())).map(|(seat, ())| seat)
    }

    /// A process's line in `/proc`, where its name is not to be trusted.
    fn stat(state: char, threads: u32, start_time: u64) -> String {
        format!(
            "77 (a) Z (b) {state} 1 77 77 0 -1 4 0 0 0 0 0 0 0 0 20 0 {threads} 0 {start_time} 0 0"
        )
    }

    #[test]
    fn a_process_that_is_shown_under_another_number_is_not_looked_up() {
        let process = Process::current();
        assert_eq!(pid_of(&stat('R', 1, 815)), Some(77));
        let own = own_stat(process.pid).unwrap();
        assert_eq!(start_time_of(&own), Some(process.start_time));
        assert_eq!(own_stat(process.pid + 1), None);
    }

    #[test]
    fn a_process_has_ended_when_all_its_threads_have() {
        for (state, threads, told) in [
            ('R', 1, Some(815)),
            ('T', 3, Some(815)),
            ('Z', 2, Some(815)),
            ('Z', 1, None),
            ('X', 0, None),
        ] {
            let found = start_time_of(&stat(state, threads, 815));
            assert_eq!(found, told, "{state} {threads}");
        }
        assert_eq!(start_time_of("77 (a"), None);
    }

    /// What a charge costs is one look at each place up to the last that is taken, whoever was there before.
    #[test]
    fn places_that_were_left_are_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let stays = take(&path).unwrap();
        let crowd: Vec<_> = (0..40).map(|_| take(&path).unwrap()).collect();
        assert_eq!(used(&*stays.file), 0..41);
        drop(crowd);
        assert_eq!(used(&*stays.file), 0..1);
        for _ in 0..1_000 {
            assert_eq!(take(&path).unwrap().index, 1);
        }
        assert_eq!(used(&*stays.file), 0..1);
    }

    /// In memory a look makes a page, and where there is no room for one it kills (`SIGBUS`).
    #[test]
    fn a_place_that_nobody_had_yet_is_not_looked_at() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("ledger");
        let storage = || fs::metadata(&path).unwrap().blocks();
        let mut seats = Vec::new();
        // Until the next place begins a page of its own.
        while seats.is_empty() || !place_after(&seats).is_multiple_of(4096) {
            seats.push(take(&path).unwrap());
        }
        let before = storage();
        assert_eq!(lowest_free(&*seats[0].file), Some(seats.len()));
        assert_eq!(storage(), before);
    }

    /// Where the place after all of these stands in the file.
    fn place_after(seats: &[Seat<ContainerFile>]) -> usize {
        ContainerFile::HEADER_BYTES + seats.len() * ContainerFile::ENTRY_BYTES
    }

    #[test]
    fn the_dead_are_not_looked_at_once_they_are_reaped() {
        let dir = tempfile::tempdir().unwrap();
        let seat = take(&dir.path().join("ledger")).unwrap();
        let nobody = Process {
            start_time: u64::MAX,
            ..seat.process
        };
        (1..1_000).for_each(|index| {
            occupy(seat.file.owner(index).unwrap(), &nobody);
        });
        seat.file
            .preamble()
            .entries_high
            .store(1_000, Ordering::SeqCst);
        seat.reap(&seat.file.exclusive().unwrap()).unwrap();
        assert_eq!(used(&*seat.file), 0..1);
    }

    /// A file in which all entries are taken: by the living, but for those that `is_dead` says.
    fn full(path: &Path, is_dead: impl Fn(usize) -> bool) -> Seat<ContainerFile> {
        let seat = take(path).unwrap();
        let nobody = Process {
            pid: u32::MAX,
            ..seat.process
        };
        for index in 1..ENTRIES_MAX {
            let process = if is_dead(index) {
                &nobody
            } else {
                &seat.process
            };
            occupy(seat.file.owner(index).unwrap(), process);
        }
        let entries = u32::try_from(ENTRIES_MAX).unwrap();
        seat.file
            .preamble()
            .entries_high
            .store(entries, Ordering::SeqCst);
        seat
    }

    #[test]
    fn a_start_among_many_looks_at_a_few_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let seat = full(&path, |index| index.is_multiple_of(2));
        let _started = take(&path).unwrap();
        let is_free = |index: &usize| {
            seat.file
                .owner(*index)
                .unwrap()
                .state
                .load(Ordering::Acquire)
                == FREE
        };
        let freed = (0..ENTRIES_MAX).filter(is_free).count();
        assert!(freed < ENTRIES_PER_START, "{freed}");
    }

    /// Its number lives on, and has the file mapped again: others could not tell.
    #[test]
    fn a_start_among_many_frees_what_it_had_before_an_exec() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let seat = full(&path, |_| false);
        let before = Process {
            image: !seat.process.image,
            ..seat.process
        };
        occupy(seat.file.owner(700).unwrap(), &before);
        vacate(&*seat.file, 1_000, seat.file.owner(1_000).unwrap());
        assert_eq!(take(&path).unwrap().index, 700);
    }

    #[test]
    fn a_start_that_finds_no_place_looks_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let _seat = full(&path, |index| index == 700);
        assert_eq!(take(&path).unwrap().index, 700);
    }

    #[test]
    fn one_process_too_many_has_no_place_until_another_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let seat = full(&path, |_| false);
        let error = take(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("ledger: no place left for another process"),
            "{error}"
        );
        vacate(&*seat.file, 500, seat.file.owner(500).unwrap());
        assert_eq!(take(&path).unwrap().index, 500);
    }
}
