//! A shared file, mapped; the locks on it; a copy of it for who only looks.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

pub(crate) use super::futex::{futex_wait, futex_wake_all};
use super::kernel::{fallocate, has_name, identity, map, record_lock, unmap};
use super::process_lock::{ProcessGuard, ProcessLock};
use super::system::above_programs_numbers;
use super::{AttachError, Preamble, Shared};
use crate::sync::{AtomicI32, Ordering};

/// A shared file, mapped, and the descriptor that its locks belong to.
#[derive(Debug)]
pub(crate) struct Mapping<T: Shared> {
    content: NonNull<T>,
    descriptor: AtomicI32,
    /// Device and inode: what tells whether `descriptor` is still this file.
    identity: (u64, u64),
    path: PathBuf,
}

// SAFETY: `content` is a shared mapping that lives as long as `self`; `T: Shared` is `Sync` and only given out as `&T`.
unsafe impl<T: Shared> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Mapping<T> {}

/// Byte of the file whose lock excludes all other processes; entry `i` has byte `i + 1`.
const EXCLUSIVE_BYTE: usize = 0;

/// Excludes the threads of this process from each other before the record lock excludes other processes.
static THREADS: ProcessLock = ProcessLock::new();

/// The exclusive lock of a file, until dropped or until this process dies.
pub(crate) struct Exclusive<'a, T: Shared> {
    mapping: &'a Mapping<T>,
    /// `None`: of another file's lock, held as long.
    _threads: Option<ProcessGuard<'static>>,
}

impl<T: Shared> Deref for Mapping<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: mapped with the size of `T` and page alignment in `map`, unmapped only in `drop`; `Shared` promises
        // that any bytes are a valid `T` and that only atomics are behind the reference.
        unsafe { self.content.as_ref() }
    }
}

impl<T: Shared> Mapping<T> {
    /// Open `path`, made with its folder where missing, check that it is a `T`, and do `work` under the same exclusive lock.
    pub(crate) fn open<R>(
        path: &Path,
        work: impl FnOnce(&Self, &Exclusive<'_, T>) -> Result<R, AttachError>,
    ) -> Result<(Self, R), AttachError> {
        loop {
            if let Some(locked) = lock(open_or_create(path)?, path)? {
                return Self::of(locked, path, work);
            }
        }
    }

    /// Open `path`, check that it is a `T`, and do `work` under the same exclusive lock; `None` where there is no file.
    pub(crate) fn open_existing<R>(
        path: &Path,
        work: impl FnOnce(&Self, &Exclusive<'_, T>) -> Result<R, AttachError>,
    ) -> Result<Option<(Self, R)>, AttachError> {
        let file = match options().open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => above_programs_numbers(opened.map_err(io_error(path, "open"))?),
        };
        lock(file, path)?
            .map(|locked| Self::of(locked, path, work))
            .transpose()
    }

    fn of<R>(
        Locked {
            threads,
            file,
            identity,
            length,
        }: Locked,
        path: &Path,
        work: impl FnOnce(&Self, &Exclusive<'_, T>) -> Result<R, AttachError>,
    ) -> Result<(Self, R), AttachError> {
        complete::<T>(&file, path, length)?;
        let mapping = Self {
            content: map::<T>(&file).map_err(io_error(path, "map"))?,
            identity,
            descriptor: AtomicI32::new(file.into_raw_fd()),
            path: path.to_owned(),
        };
        let exclusive = Exclusive {
            mapping: &mapping,
            _threads: Some(threads),
        };
        mapping.sign_or_check()?;
        let done = work(&mapping, &exclusive)?;
        drop(exclusive);
        Ok((mapping, done))
    }

    /// Takes the file's name away: who opens the path from here on makes a new file, and who has opened this one already sees under its
    /// lock that nobody else will find it. For a file in which nobody has an entry.
    pub(crate) fn remove(&self, _: &Exclusive<'_, T>) -> Result<(), AttachError> {
        fs::remove_file(&self.path).map_err(|source| self.error("remove", source))
    }

    /// Under the exclusive lock: the file is new, or of this very layout.
    fn sign_or_check(&self) -> Result<(), AttachError> {
        let preamble = self.preamble();
        if preamble.magic.load(Ordering::Acquire) == 0 {
            preamble
                .layout_version
                .store(T::LAYOUT_VERSION, Ordering::Release);
            preamble.magic.store(T::MAGIC, Ordering::Release);
        }
        check_preamble::<T>(&self.path, preamble)
    }

    /// Where it stands.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// That something could not be done with this file.
    pub(crate) fn error(&self, action: &'static str, source: io::Error) -> AttachError {
        io_error(&self.path, action)(source)
    }

    /// The file's number on its file system.
    pub(crate) fn inode(&self) -> u64 {
        self.identity.1
    }

    /// Make sure that storage stands behind these bytes, so that touching them cannot kill the process (SIGBUS).
    pub(crate) fn reserve(&self, offset: usize, length: usize) -> Result<(), AttachError> {
        let reserved = self
            .descriptor()
            .and_then(|descriptor| fallocate(descriptor, offset, length));
        reserved.map_err(|source| self.error("reserve space", source))
    }

    /// Exclude every other process and every other thread that does the same. Where the program has closed the file, it is
    /// opened again; the locks went with the descriptor.
    pub(crate) fn exclusive(&self) -> io::Result<Exclusive<'_, T>> {
        let threads = THREADS.lock();
        self.lock_out_processes()?;
        Ok(Exclusive {
            mapping: self,
            _threads: Some(threads),
        })
    }

    /// The same by who has `first`'s lock already: a GPU's board comes before a container's file, and nobody takes them the other way
    /// round.
    pub(crate) fn exclusive_beside<'a, B: Shared>(
        &'a self,
        _first: &'a Exclusive<'_, B>,
    ) -> io::Result<Exclusive<'a, T>> {
        self.lock_out_processes()?;
        Ok(Exclusive {
            mapping: self,
            _threads: None,
        })
    }

    /// Under `THREADS`.
    fn lock_out_processes(&self) -> io::Result<()> {
        let descriptor = self.descriptor().or_else(|_| self.open_again())?;
        record_lock(descriptor, libc::F_SETLKW, libc::F_WRLCK, EXCLUSIVE_BYTE).map(drop)
    }

    /// Take the lock of entry `index` for this process, for as long as it lives. Taking it twice is no error.
    pub(crate) fn lock_entry(&self, index: usize) -> io::Result<()> {
        record_lock(
            self.descriptor()?,
            libc::F_SETLK,
            libc::F_WRLCK,
            entry_byte(index),
        )
        .map(drop)
    }

    /// Let go of the lock of entry `index`.
    pub(crate) fn unlock_entry(&self, index: usize) -> io::Result<()> {
        record_lock(
            self.descriptor()?,
            libc::F_SETLK,
            libc::F_UNLCK,
            entry_byte(index),
        )
        .map(drop)
    }

    /// Whether another process has the lock of entry `index`.
    pub(crate) fn is_entry_locked_elsewhere(&self, index: usize) -> io::Result<bool> {
        let descriptor = self.descriptor.load(Ordering::Acquire);
        if is_entry_locked(descriptor, index)? {
            return Ok(true);
        }
        // So much is said of the dead only: they are seldom, and it must be this file that says it.
        self.confirm(descriptor).map(|_| false)
    }

    /// The descriptor, if it is still ours: programs exist that close every number they find.
    fn descriptor(&self) -> io::Result<RawFd> {
        self.confirm(self.descriptor.load(Ordering::Acquire))
    }

    fn confirm(&self, descriptor: RawFd) -> io::Result<RawFd> {
        if identity(descriptor)? == self.identity {
            return Ok(descriptor);
        }
        Err(io::Error::from_raw_os_error(libc::EBADF))
    }

    /// A new descriptor of the same file. Under `THREADS`: a second one, closed, would take all locks with it.
    fn open_again(&self) -> io::Result<RawFd> {
        let file = above_programs_numbers(options().open(&self.path)?);
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) != self.identity {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        let descriptor = file.into_raw_fd();
        self.descriptor.store(descriptor, Ordering::Release);
        Ok(descriptor)
    }
}

/// A private copy of a shared file, for who only looks.
#[derive(Debug)]
pub(crate) struct Snapshot<T: Shared> {
    content: Box<T>,
    file: File,
    inode: u64,
}

impl<T: Shared> Deref for Snapshot<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.content
    }
}

impl<T: Shared> Snapshot<T> {
    /// Copy the first `HEADER_BYTES` of `path`; the rest stays zero until [`Snapshot::read_entries`].
    pub(crate) fn read(path: &Path) -> Result<Self, AttachError> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(io_error(path, "open"))?;
        let metadata = file.metadata().map_err(io_error(path, "read the size"))?;
        if !metadata.is_file() || metadata.len() < size_in_file::<T>() {
            return Err(wrong_layout(path, TOO_SHORT));
        }
        let zeroed = Box::<T>::new_zeroed();
        // SAFETY: `Shared` promises that zero bytes are a valid `T`.
        let content = unsafe { zeroed.assume_init() };
        let mut snapshot = Self {
            content,
            file,
            inode: metadata.ino(),
        };
        snapshot
            .copy(0, T::HEADER_BYTES)
            .map_err(io_error(path, "read"))?;
        check_preamble::<T>(path, snapshot.preamble())?;
        Ok(snapshot)
    }

    /// The file's number on its file system.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// Copy the next `length` bytes too.
    pub(crate) fn read_entries(&mut self, length: usize) -> io::Result<()> {
        self.copy(T::HEADER_BYTES, length)
    }

    fn copy(&mut self, offset: usize, length: usize) -> io::Result<()> {
        let address: *mut T = &raw mut *self.content;
        // SAFETY: the whole of our own box, all of it initialised (zeroed at first), nobody else has a reference to it;
        // `Shared` promises that any bytes written there are a valid `T`.
        let bytes = unsafe { std::slice::from_raw_parts_mut(address.cast::<u8>(), size_of::<T>()) };
        let end = offset.saturating_add(length).min(bytes.len());
        let part = bytes.get_mut(offset..end).unwrap_or_default();
        self.file
            .read_exact_at(part, u64::try_from(offset).unwrap_or(u64::MAX))
    }

    /// Whether a process has the lock of entry `index`; this process's own locks do not show.
    pub(crate) fn is_entry_locked(&self, index: usize) -> io::Result<bool> {
        is_entry_locked(self.file.as_raw_fd(), index)
    }
}

impl<T: Shared> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: ours: made by `map`, and no reference into it outlives `self`.
        unsafe { unmap(self.content) };
        if let Ok(descriptor) = self.descriptor() {
            // SAFETY: the number still means the file that we opened, so nobody else uses it.
            unsafe { libc::close(descriptor) };
        }
    }
}

impl<T: Shared> Drop for Exclusive<'_, T> {
    fn drop(&mut self) {
        if let Ok(descriptor) = self.mapping.descriptor() {
            // Where this fails the descriptor is gone, and the lock went with it.
            let _ = record_lock(descriptor, libc::F_SETLK, libc::F_UNLCK, EXCLUSIVE_BYTE);
        }
    }
}

/// An open file whose exclusive lock this process has.
struct Locked {
    threads: ProcessGuard<'static>,
    file: File,
    identity: (u64, u64),
    /// In bytes; nobody changes it but who has the lock.
    length: u64,
}

/// Waits for the file's exclusive lock. `None`: it was [removed](Mapping::remove) meanwhile, so that at its path is another one, or none.
fn lock(file: File, path: &Path) -> Result<Option<Locked>, AttachError> {
    let threads = THREADS.lock();
    record_lock(
        file.as_raw_fd(),
        libc::F_SETLKW,
        libc::F_WRLCK,
        EXCLUSIVE_BYTE,
    )
    .map_err(io_error(path, "lock"))?;
    // One look tells all, and under the lock it stays true.
    let metadata = file.metadata().map_err(io_error(path, "look at"))?;
    if !metadata.is_file() {
        return Err(wrong_layout(path, "is not a file"));
    }
    Ok(has_name(&metadata).then_some(Locked {
        threads,
        file,
        identity: (metadata.dev(), metadata.ino()),
        length: metadata.len(),
    }))
}

/// The file at `path`, made with its folder where missing, under a high descriptor number.
fn open_or_create(path: &Path) -> Result<File, AttachError> {
    // Nearly always it is there. Whatever is in the way otherwise is met again below, and told there.
    if let Ok(file) = options().open(path) {
        return Ok(above_programs_numbers(file));
    }
    let folder = path.parent().unwrap_or(path);
    for _ in 1..REMOVALS_MAX {
        match try_open_or_create(path, folder) {
            Err(AttachError::Io { source, .. }) if may_have_been_removed(&source) => {}
            opened => return opened,
        }
    }
    try_open_or_create(path, folder)
}

/// So often in a row nobody removes a file under who opens it: what is not found then is something else, as a link that leads nowhere.
const REMOVALS_MAX: u32 = 100;

/// Whether that is what comes of a file or a folder that was there a moment before.
fn may_have_been_removed(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, NotFound};
    matches!(error.kind(), NotFound | AlreadyExists)
}

fn try_open_or_create(path: &Path, folder: &Path) -> Result<File, AttachError> {
    let lent = lent_mode(folder);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(io_error(path, "create the folder"))?;
    // Not to be made where it is: in a folder of all users the kernel lets nobody "make" what is another's (proc_sys_fs(5),
    // protected_regular).
    let opened = match options().open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path, lent),
        opened => opened,
    };
    opened
        .map(above_programs_numbers)
        .map_err(io_error(path, "open"))
}

/// What others than its owner may do in a folder that somebody has made for several users; nothing in one that is not there yet.
fn lent_mode(folder: &Path) -> u32 {
    let found = folder.symlink_metadata();
    found.map_or(0, |found| found.mode() & 0o066)
}

/// A file that others may use as they may use its folder, whatever this process's umask is; or the one that somebody has made meanwhile,
/// which is that one's to lend.
fn create(path: &Path, lent: u32) -> io::Result<File> {
    let file = match options().create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return options().open(path),
        created => created?,
    };
    if lent & 0o022 != 0 {
        file.set_permissions(Permissions::from_mode(0o600 | lent))?;
    }
    Ok(file)
}

/// To read and write, closed on exec, not through a link.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW);
    options
}

/// Under the exclusive lock: give a new file its size; finish what a maker that died has begun.
fn complete<T: Shared>(file: &File, path: &Path, mut length: u64) -> Result<(), AttachError> {
    if length == 0 {
        fallocate(file.as_raw_fd(), 0, T::HEADER_BYTES).map_err(io_error(path, "reserve space"))?;
        length = header_in_file::<T>();
    }
    if length == header_in_file::<T>() {
        return file
            .set_len(size_in_file::<T>())
            .map_err(io_error(path, "set the size"));
    }
    if length < size_in_file::<T>() {
        return Err(wrong_layout(path, TOO_SHORT));
    }
    Ok(())
}

const TOO_SHORT: &str = "is too short for this version of cuda-hook";

/// Whether another process has the lock of entry `index`.
fn is_entry_locked(descriptor: RawFd, index: usize) -> io::Result<bool> {
    let found = record_lock(descriptor, libc::F_GETLK, libc::F_WRLCK, entry_byte(index))?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

fn size_in_file<T: Shared>() -> u64 {
    u64::try_from(size_of::<T>()).unwrap_or(u64::MAX)
}

fn header_in_file<T: Shared>() -> u64 {
    u64::try_from(T::HEADER_BYTES).unwrap_or(u64::MAX)
}

fn entry_byte(index: usize) -> usize {
    index.saturating_add(1)
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> AttachError {
    move |source| AttachError::Io {
        path: path.to_owned(),
        action,
        source,
    }
}

fn check_preamble<T: Shared>(path: &Path, preamble: &Preamble) -> Result<(), AttachError> {
    if preamble.magic.load(Ordering::Acquire) != T::MAGIC {
        return Err(wrong_layout(path, "is not a file of cuda-hook"));
    }
    let found = preamble.layout_version.load(Ordering::Acquire);
    if found == T::LAYOUT_VERSION {
        return Ok(());
    }
    let ours = T::LAYOUT_VERSION;
    let what = format!("has layout {found}, this version of cuda-hook has {ours}");
    Err(wrong_layout(path, &what))
}

fn wrong_layout(path: &Path, what: &str) -> AttachError {
    AttachError::Layout {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}

/// This process, in its own pid namespace.
pub(crate) fn process_id() -> u32 {
    std::process::id()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::layout::BoardFile;

    #[test]
    fn another_file_under_the_number_says_of_nobody_that_he_is_dead() {
        let dir = tempfile::tempdir().unwrap();
        let opened = Mapping::<BoardFile>::open(&dir.path().join("board"), |_, _| Ok(()));
        let (mapping, ()) = opened.unwrap();
        assert!(!mapping.is_entry_locked_elsewhere(0).unwrap());
        let other = tempfile::tempfile().unwrap();
        let descriptor = mapping.descriptor.swap(other.as_raw_fd(), Ordering::AcqRel);
        let answer = mapping.is_entry_locked_elsewhere(0);
        mapping.descriptor.store(descriptor, Ordering::Release);
        assert_eq!(answer.unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
