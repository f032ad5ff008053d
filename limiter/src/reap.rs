//! The dead, reaped from outside: by who has no place in the files, and may live in another pid namespace than their programs.
//!
//! Programs reap for themselves where it decides about a charge or a start; what nobody asks for stays as the dead left it until somebody
//! reaps it here. From outside nobody is taken for dead whose lock alone is gone: a program that closes every descriptor loses it,
//! and in another pid namespace its number cannot be looked up. It is searched for among all processes then, and where those cannot be
//! seen, left to the programs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::board;
use crate::config::ContainerName;
use crate::explain::innermost_pid;
use crate::ledger;
use crate::shm::layout::{BoardFile, ContainerFile, Entries};
use crate::shm::{AttachError, Mapping, Snapshot, effective_uid};
use crate::slot::{self, Process, has_mapped, living_owner, used};
use crate::sync::Ordering;

/// The places of a state folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// How many are taken, by the living or by the dead.
    pub taken: usize,
    /// The files in which the dead have some.
    pub with_dead: Vec<PathBuf>,
    /// The containers of which nobody has one.
    pub ended: Vec<Ended>,
}

/// A container of which nobody has a place: all its processes have ended, or none has begun.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ended {
    /// Its name.
    pub container: ContainerName,
    /// Another one whenever a process has been there since.
    pub mark: String,
}

impl Ended {
    /// Whether it has a ledger still, or a folder only.
    pub fn has_ledger(&self) -> bool {
        self.mark != NO_LEDGER
    }
}

/// The mark of a container without a ledger.
const NO_LEDGER: &str = "none";

/// Looks for the dead in every file of the folder `dir`. Writes nothing and takes no lock; files that cannot be read are left out, as
/// [`sample::read`](crate::sample::read) names them.
///
/// # Errors
/// The folder is there and cannot be listed.
pub fn look(dir: &Path) -> io::Result<Places> {
    let mut places = Places::default();
    let reader = Reader::new();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(places),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if board::device_of(&path).is_some() {
            if let Ok(found) = reader.look::<BoardFile>(&path) {
                places.add(path, &found);
            }
        } else if let Some(container) = container_of(&path) {
            let file = ledger::path(dir, &container);
            let found = match reader.look::<ContainerFile>(&file) {
                Ok(found) => found,
                Err(error) if is_absent(&error) && path.is_dir() => Found::nothing(),
                Err(_) => continue,
            };
            places.add(file, &found);
            if found.taken == 0 {
                let mark = found.mark;
                places.ended.push(Ended { container, mark });
            }
        }
    }
    Ok(places)
}

impl Places {
    fn add(&mut self, file: PathBuf, found: &Found) {
        self.taken = self.taken.saturating_add(found.taken);
        if found.dead > 0 {
            self.with_dead.push(file);
        }
    }
}

/// What a look at one file has found.
struct Found {
    taken: usize,
    dead: usize,
    mark: String,
}

impl Found {
    fn nothing() -> Self {
        Self {
            taken: 0,
            dead: 0,
            mark: NO_LEDGER.to_owned(),
        }
    }
}

fn is_absent(error: &AttachError) -> bool {
    matches!(error, AttachError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

/// Removes the ledger of a container that [`look`] has found ended, unless a process has been there since; whether it has none now. Counters
/// go with it. Waits for whoever has the file's lock.
///
/// Who starts meanwhile has the one ledger or a new one, and never one that nobody else finds: it takes its place under the lock under
/// which the file goes, and looks whether it is there still.
///
/// # Errors
/// The file cannot be used, or not be removed.
pub fn remove(dir: &Path, ended: &Ended) -> Result<bool, AttachError> {
    let path = ledger::path(dir, &ended.container);
    let opened = Mapping::<ContainerFile>::open_existing(&path, |file, exclusive| {
        let is_taken = |index: usize| file.owner(index).and_then(slot::owner_of_entry).is_some();
        if used(&**file).any(is_taken) || mark(file.inode(), &**file) != ended.mark {
            return Ok(false);
        }
        file.remove(exclusive).map(|()| true)
    })?;
    Ok(opened.is_none_or(|(_, is_removed)| is_removed))
}

/// Whoever comes where nobody is takes the first entry.
pub(crate) fn mark<T: Entries>(inode: u64, file: &T) -> String {
    let owner = file.owner(0);
    let generation = owner.map_or(0, |owner| owner.generation.load(Ordering::SeqCst));
    format!("{inode}-{generation}")
}

/// Frees the places of the dead in one of the files that [`look`] has named, and says how many they were. Waits for whoever has the
/// file's lock.
///
/// # Errors
/// The file cannot be used.
pub fn reap(file: &Path) -> Result<usize, AttachError> {
    let reader = Reader::new();
    if board::device_of(file).is_some() {
        reader.reap::<BoardFile>(file)
    } else {
        reader.reap::<ContainerFile>(file)
    }
}

fn container_of(path: &Path) -> Option<ContainerName> {
    path.file_name()?.to_str()?.parse().ok()
}

/// Who looks, and how far it sees.
struct Reader {
    process: Process,
    /// Every process of this kernel is in `/proc`, with its mappings.
    sees_all: bool,
}

impl Reader {
    fn new() -> Self {
        let process = Process::current();
        Self {
            sees_all: process.pid_namespace == INITIAL_PID_NAMESPACE && effective_uid() == 0,
            process,
        }
    }

    /// How many places of a file are taken, and how many of those by the dead.
    fn look<T: Entries>(&self, path: &Path) -> Result<Found, AttachError> {
        let mut file = Snapshot::<T>::read(path)?;
        let bytes = used(&*file).len().max(1).saturating_mul(T::ENTRY_BYTES);
        let copied = file.read_entries(bytes);
        copied.map_err(|source| AttachError::Io {
            path: path.to_owned(),
            action: "read",
            source,
        })?;
        let taken: Vec<usize> = used(&*file)
            .filter(|index| self.owner(&*file, *index).is_some())
            .collect();
        let is_dead = |index: &&usize| {
            self.is_dead(
                &*file,
                **index,
                || file.is_entry_locked(**index),
                file.inode(),
            )
        };
        Ok(Found {
            taken: taken.len(),
            dead: taken.iter().filter(is_dead).count(),
            mark: mark(file.inode(), &*file),
        })
    }

    fn reap<T: Entries>(&self, path: &Path) -> Result<usize, AttachError> {
        let Some((file, ())) = Mapping::<T>::open_existing(path, |_, _| Ok(()))? else {
            return Ok(0);
        };
        let locked = file.exclusive();
        let exclusive = locked.map_err(|source| file.error("lock", source))?;
        let is_dead = |index: usize| {
            let is_locked = || file.is_entry_locked_elsewhere(index);
            self.is_dead(&*file, index, is_locked, file.inode())
        };
        Ok(slot::reap_where(&exclusive, &file, is_dead))
    }

    fn owner<T: Entries>(&self, file: &T, index: usize) -> Option<Process> {
        slot::owner_of_entry(file.owner(index)?)
    }

    fn is_dead<T: Entries>(
        &self,
        file: &T,
        index: usize,
        is_locked: impl FnOnce() -> io::Result<bool>,
        inode: u64,
    ) -> bool {
        let Some((owner, process)) = file.owner(index).zip(self.owner(file, index)) else {
            return false;
        };
        living_owner(owner, is_locked, inode, &self.process).is_none()
            && !self.may_live(&process, inode)
    }

    /// Whether a process without its lock may live where the reader's own numbers do not reach.
    fn may_live(&self, process: &Process, inode: u64) -> bool {
        if process.pid_namespace != 0 && process.pid_namespace == self.process.pid_namespace {
            return false; // it was looked up
        }
        if process.pid_namespace == 0 || !self.sees_all {
            return true;
        }
        // Not by its start time: a time namespace shows another one (time_namespaces(7)).
        let is_it = |pid: u32| {
            namespace_of(pid) == Some(process.pid_namespace)
                && own_pid(pid) == Some(process.pid)
                && has_mapped(pid, inode)
        };
        everybody().map_or(true, |mut pids| pids.any(is_it))
    }
}

/// Inode of the host's own pid namespace (Linux, include/linux/proc_ns.h, `PROC_PID_INIT_INO`): nobody is outside it.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

fn everybody() -> io::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

fn namespace_of(pid: u32) -> Option<u64> {
    let namespace = fs::metadata(format!("/proc/{pid}/ns/pid")).ok()?;
    Some(namespace.ino())
}

/// The number of a process in its own pid namespace.
fn own_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    innermost_pid(&status)
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::ledger::Ledger;
    use crate::shm::Shared;
    use crate::slot::occupy;
    use crate::units::{Bytes, DeviceUuid};

    fn attach(dir: &Path) -> Ledger {
        let gpus = [(DeviceUuid::from_bytes([7; 16]), None)];
        let ledger = Ledger::attach(dir, &"a".parse().unwrap(), &gpus).unwrap();
        ledger.try_charge(0, Bytes::new(40)).unwrap().commit();
        ledger
    }

    /// Another place of the ledger, taken by a process without a lock.
    fn without_lock(ledger: &Ledger, process: &Process) {
        let file = &ledger.seat().file;
        occupy(file.owner(1).unwrap(), process);
        file.preamble().entries_high.store(2, Ordering::SeqCst);
    }

    /// `scripts/test` counts these lines; the harness would not show what is printed.
    fn say_skipped() {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or_default();
        let line = format!("NOT CHECKED: test {test}: nobody can be looked up here\n");
        io::stderr().write_all(line.as_bytes()).unwrap();
    }

    /// Of this pid namespace, and ended long ago.
    fn ended(reader: &Reader) -> Process {
        let mut process = reader.process;
        process.start_time = u64::MAX;
        process
    }

    #[test]
    fn an_absent_folder_has_no_places() {
        assert_eq!(
            look(Path::new("/nowhere/at/all")).unwrap(),
            Places::default()
        );
    }

    #[test]
    fn the_dead_are_freed_and_the_living_keep_what_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = attach(dir.path());
        assert!(look(dir.path()).unwrap().with_dead.is_empty());
        let dead = ended(&Reader::new());
        if dead.pid_namespace == 0 {
            return say_skipped();
        }
        without_lock(&ledger, &dead);
        let file = dir.path().join("a/ledger");
        let found = look(dir.path()).unwrap();
        assert_eq!((found.taken, &found.with_dead), (2, &vec![file.clone()]));
        // This process's own: to open the file a second time would drop its lock.
        let reader = Reader::new();
        let exclusive = ledger.seat().file.exclusive().unwrap();
        let mapping = &ledger.seat().file;
        let is_dead = |index: usize| {
            let is_locked = || mapping.is_entry_locked_elsewhere(index);
            reader.is_dead(&**mapping, index, is_locked, mapping.inode())
        };
        assert_eq!(slot::reap_where(&exclusive, mapping, is_dead), 1);
        drop(exclusive);
        assert_eq!(ledger.processes()[0].bytes, [Bytes::new(40)]);
        assert_eq!(look(dir.path()).unwrap().taken, 1);
    }

    /// Its lock is gone, and whether it lives cannot be seen from here.
    #[test]
    fn who_cannot_be_looked_up_is_left_to_others() {
        let reader = |sees_all| Reader {
            process: Process::current(),
            sees_all,
        };
        let mut other = Process::current();
        other.pid_namespace = 1;
        let mut hidden = other;
        hidden.pid_namespace = 0;
        assert!(reader(false).may_live(&other, 0));
        assert!(reader(true).may_live(&hidden, 0));
        assert!(
            !reader(true).may_live(&other, 0),
            "no process is of namespace 1"
        );
    }

    /// As in a container whose program has closed all descriptors, and with them lost its lock.
    #[test]
    fn who_lives_in_another_pid_namespace_without_a_lock_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = attach(dir.path());
        let (inode, inside) = (ledger.seat().file.inode(), Process::current());
        if inside.pid_namespace == 0 {
            return say_skipped();
        }
        let mut outside = Reader {
            process: inside,
            sees_all: true,
        };
        outside.process.pid_namespace = 1;
        assert!(outside.may_live(&inside, inode));
        drop(ledger);
        assert!(
            !outside.may_live(&inside, inode),
            "it has the file no longer"
        );
    }

    fn ended_in(dir: &Path) -> Vec<Ended> {
        look(dir).unwrap().ended
    }

    #[test]
    fn a_container_ends_with_its_last_process_and_its_ledger_can_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = attach(dir.path());
        assert_eq!(ended_in(dir.path()), []);
        drop(ledger);
        let found = ended_in(dir.path());
        assert_eq!(found[0].container.as_str(), "a");
        assert!(remove(dir.path(), &found[0]).unwrap());
        assert!(!dir.path().join("a/ledger").exists());
        let without = ended_in(dir.path());
        assert_ne!(without, found, "it has no ledger");
        assert!(remove(dir.path(), &without[0]).unwrap());
        let _again = attach(dir.path());
        assert_eq!(ended_in(dir.path()), []);
    }

    #[test]
    fn a_ledger_in_which_somebody_is_or_has_been_since_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        drop(attach(dir.path()));
        let found = ended_in(dir.path()).remove(0);
        drop(attach(dir.path()));
        assert!(!remove(dir.path(), &found).unwrap(), "it was used since");
        let latest = ended_in(dir.path()).remove(0);
        assert_ne!(latest, found);
        // Marked as the file is now, and taken.
        let ledger = attach(dir.path());
        let file = &ledger.seat().file;
        let taken = Ended {
            mark: mark(file.inode(), &**file),
            ..latest
        };
        assert!(!remove(dir.path(), &taken).unwrap(), "it is used");
        assert!(dir.path().join("a/ledger").exists());
    }

    #[test]
    fn what_is_no_ledger_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let _ledger = attach(dir.path());
        fs::create_dir(dir.path().join("empty")).unwrap();
        fs::create_dir(dir.path().join("short")).unwrap();
        fs::write(dir.path().join("short/ledger"), "x").unwrap();
        assert_eq!(look(dir.path()).unwrap().taken, 1);
        assert!(reap(&dir.path().join("short/ledger")).is_err());
        assert_eq!(reap(&dir.path().join("empty/ledger")).unwrap(), 0);
    }
}
