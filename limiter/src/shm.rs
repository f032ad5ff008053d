//! Shared memory: files mapped by several processes, the locks on them, and futexes in them.
//!
//! The only file of this crate with `unsafe`: it turns system calls and bytes that other processes write into
//! `&T` of atomics. Everything above it is safe code.
//!
//! Locks are POSIX record locks (fcntl(2), "Advisory record locking"): the kernel drops them when their process dies,
//! whatever the pid namespace, and a fork does not inherit them. Their price: closing *any* descriptor of the file
//! drops all locks that the process has on it. So a process opens such a file once and keeps the descriptor, above the
//! numbers that programs deal with.
//!
//! Folders are made with mode 0700 and files with 0600: they belong to the user who runs the container. Who lends one
//! folder to processes of several users makes it beforehand, with the mode that is wanted.
#![expect(
    unsafe_code,
    reason = "maps memory, and calls what std has no safe form of"
)]

pub(crate) mod layout;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};

use crate::sync::{AtomicU32, AtomicU64, Ordering, ProcessGuard, ProcessLock};
use crate::units::MonotonicNs;

/// Why shared state cannot be used. Displays as one line that names the file.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A call to the operating system failed: folder not writable, no space left, …
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// What was being opened.
        path: PathBuf,
        /// What was being done, as a verb: "create", "map".
        action: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file is not ours, or of a version whose layout differs.
    #[error("{path}: {what}", path = path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// How it differs.
        what: String,
    },
    /// Every place for a process or for a GPU is taken.
    #[error("{path}: no place left for another {what}", path = path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// Places of which kind.
        what: &'static str,
    },
}

/// What every file begins with.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Preamble {
    magic: AtomicU64,
    layout_version: AtomicU32,
    /// Entries at and above this number were never used.
    pub(crate) entries_high: AtomicU32,
}

/// The content of a shared file.
///
/// # Safety
/// `repr(C)`, begins with a [`Preamble`], holds nothing but atomics and arrays and structs of them: every bit pattern is
/// valid, zero bytes are the empty state, and other processes may write at any time.
pub(crate) unsafe trait Shared: Sync + Sized {
    /// The file's first eight bytes.
    const MAGIC: u64;
    /// Raised with every change of the layout.
    const LAYOUT_VERSION: u32;
    /// Bytes at the beginning that must have storage behind them as soon as the file exists.
    const HEADER_BYTES: usize;

    /// The beginning.
    fn preamble(&self) -> &Preamble;
}

/// A shared file, mapped, and the descriptor that its locks belong to.
#[derive(Debug)]
pub(crate) struct Mapping<T: Shared> {
    content: NonNull<T>,
    descriptor: RawFd,
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
    _threads: ProcessGuard<'static>,
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
    /// Open `path`, made with its folder where missing, and check that it is a `T`.
    pub(crate) fn open(path: &Path) -> Result<Self, AttachError> {
        let failed = |action| {
            move |source| AttachError::Io {
                path: path.to_owned(),
                action,
                source,
            }
        };
        if let Some(folder) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(failed("create the folder"))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed("open"))?;
        let file = above_programs_numbers(file);
        let metadata = file.metadata().map_err(failed("read the size"))?;
        if !metadata.is_file() {
            return Err(AttachError::Layout {
                path: path.to_owned(),
                what: "is not a file".to_owned(),
            });
        }
        let threads = THREADS.lock();
        record_lock(
            file.as_raw_fd(),
            libc::F_SETLKW,
            libc::F_WRLCK,
            EXCLUSIVE_BYTE,
        )
        .map_err(failed("lock"))?;
        // The size again, now that nobody else is making the file.
        let length = file.metadata().map_err(failed("read the size"))?.len();
        if length == 0 {
            reserve(&file, 0, T::HEADER_BYTES).map_err(failed("reserve space"))?;
            file.set_len(size_in_file::<T>())
                .map_err(failed("set the size"))?;
        } else if length < size_in_file::<T>() && length != header_in_file::<T>() {
            return Err(wrong_layout(
                path,
                "is too short for this version of cuda-hook",
            ));
        }
        if length == header_in_file::<T>() {
            // Its maker died between the two steps above.
            file.set_len(size_in_file::<T>())
                .map_err(failed("set the size"))?;
        }
        let content = map::<T>(&file).map_err(failed("map"))?;
        let mapping = Self {
            content,
            identity: (metadata.dev(), metadata.ino()),
            descriptor: file.into_raw_fd(),
            path: path.to_owned(),
        };
        let exclusive = Exclusive {
            mapping: &mapping,
            _threads: threads,
        };
        mapping.check_preamble()?;
        drop(exclusive);
        Ok(mapping)
    }

    /// Under the exclusive lock: the file is new, or of this very layout.
    fn check_preamble(&self) -> Result<(), AttachError> {
        let preamble = self.preamble();
        let found = (
            preamble.magic.load(Ordering::Acquire),
            preamble.layout_version.load(Ordering::Acquire),
        );
        if found.0 == 0 {
            preamble
                .layout_version
                .store(T::LAYOUT_VERSION, Ordering::Release);
            preamble.magic.store(T::MAGIC, Ordering::Release);
            return Ok(());
        }
        if found.0 != T::MAGIC {
            return Err(wrong_layout(&self.path, "is not a file of cuda-hook"));
        }
        if found.1 != T::LAYOUT_VERSION {
            let what = format!(
                "has layout {}, this version of cuda-hook has {}",
                found.1,
                T::LAYOUT_VERSION
            );
            return Err(wrong_layout(&self.path, &what));
        }
        Ok(())
    }

    /// That something could not be done with this file.
    pub(crate) fn error(&self, action: &'static str, source: io::Error) -> AttachError {
        AttachError::Io {
            path: self.path.clone(),
            action,
            source,
        }
    }

    /// Make sure that storage stands behind these bytes, so that touching them cannot kill the process (SIGBUS).
    pub(crate) fn reserve(&self, offset: usize, length: usize) -> Result<(), AttachError> {
        let reserved = if self.owns_descriptor() {
            fallocate(self.descriptor, offset, length)
        } else {
            Err(io::Error::from_raw_os_error(libc::EBADF))
        };
        reserved.map_err(|source| self.error("reserve space", source))
    }

    /// Exclude every other process and every other thread that does the same.
    pub(crate) fn exclusive(&self) -> io::Result<Exclusive<'_, T>> {
        let threads = THREADS.lock();
        record_lock(
            self.descriptor_checked()?,
            libc::F_SETLKW,
            libc::F_WRLCK,
            EXCLUSIVE_BYTE,
        )?;
        Ok(Exclusive {
            mapping: self,
            _threads: threads,
        })
    }

    /// Take the lock of entry `index` for this process, for as long as it lives. Taking it twice is no error.
    pub(crate) fn lock_entry(&self, index: usize) -> io::Result<()> {
        record_lock(
            self.descriptor_checked()?,
            libc::F_SETLK,
            libc::F_WRLCK,
            entry_byte(index),
        )
        .map(drop)
    }

    /// Let go of the lock of entry `index`.
    pub(crate) fn unlock_entry(&self, index: usize) -> io::Result<()> {
        record_lock(
            self.descriptor_checked()?,
            libc::F_SETLK,
            libc::F_UNLCK,
            entry_byte(index),
        )
        .map(drop)
    }

    /// Whether another process has the lock of entry `index`.
    pub(crate) fn is_entry_locked_elsewhere(&self, index: usize) -> io::Result<bool> {
        let found = record_lock(
            self.descriptor_checked()?,
            libc::F_GETLK,
            libc::F_WRLCK,
            entry_byte(index),
        )?;
        Ok(i32::from(found.l_type) != libc::F_UNLCK)
    }

    fn descriptor_checked(&self) -> io::Result<RawFd> {
        if self.owns_descriptor() {
            return Ok(self.descriptor);
        }
        Err(io::Error::from_raw_os_error(libc::EBADF))
    }

    /// Whether the descriptor is still ours: programs exist that close every number they find.
    fn owns_descriptor(&self) -> bool {
        // SAFETY: all-zero bytes are a valid `stat`, a struct of integers.
        let mut status: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `status` is writable; a bad descriptor is an error, not undefined.
        let answer = unsafe { libc::fstat(self.descriptor, &raw mut status) };
        answer == 0 && (status.st_dev, status.st_ino) == self.identity
    }
}

impl<T: Shared> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: ours: mapped in `map` with this size, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.content.as_ptr().cast(), size_of::<T>()) };
        if self.owns_descriptor() {
            // SAFETY: the number still means the file that we opened, so nobody else uses it.
            unsafe { libc::close(self.descriptor) };
        }
    }
}

impl<T: Shared> Drop for Exclusive<'_, T> {
    fn drop(&mut self) {
        if let Ok(descriptor) = self.mapping.descriptor_checked() {
            // Where this fails the descriptor is gone, and the lock went with it.
            let _ = record_lock(descriptor, libc::F_SETLK, libc::F_UNLCK, EXCLUSIVE_BYTE);
        }
    }
}

fn wrong_layout(path: &Path, what: &str) -> AttachError {
    AttachError::Layout {
        path: path.to_owned(),
        what: what.to_owned(),
    }
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

/// The same file under a high descriptor number, closed on exec; where there is none, as it is.
fn above_programs_numbers(file: File) -> File {
    use std::os::fd::FromRawFd;
    for lowest in [900, 200] {
        // SAFETY: duplicates a descriptor that `file` keeps open.
        let copy = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) };
        if copy >= 0 {
            // SAFETY: the kernel has just made this descriptor for us.
            return unsafe { File::from_raw_fd(copy) };
        }
    }
    file
}

fn reserve(file: &File, offset: usize, length: usize) -> io::Result<()> {
    fallocate(file.as_raw_fd(), offset, length)
}

fn fallocate(descriptor: RawFd, offset: usize, length: usize) -> io::Result<()> {
    let too_large = |_| io::Error::from_raw_os_error(libc::EFBIG);
    let (offset, length) = (
        offset.try_into().map_err(too_large)?,
        length.try_into().map_err(too_large)?,
    );
    // SAFETY: plain integers; the descriptor was checked or is borrowed from a `File`.
    match unsafe { libc::posix_fallocate(descriptor, offset, length) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn map<T: Shared>(file: &File) -> io::Result<NonNull<T>> {
    // SAFETY: a new shared mapping over no address of ours; the file has at least this size.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<T>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

/// One fcntl(2) on one byte of a file.
fn record_lock(descriptor: RawFd, command: i32, kind: i32, byte: usize) -> io::Result<libc::flock> {
    // SAFETY: all-zero bytes are a valid `flock`, a struct of integers.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    lock.l_type = kind.try_into().map_err(invalid)?;
    lock.l_whence = libc::SEEK_SET.try_into().map_err(invalid)?;
    lock.l_start = byte
        .try_into()
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    lock.l_len = 1;
    loop {
        // SAFETY: `lock` is a valid `flock` that outlives the call; a bad descriptor is an error.
        if unsafe { libc::fcntl(descriptor, command, &raw mut lock) } != -1 {
            return Ok(lock);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Wait while `word` is `expected`, until somebody wakes or `deadline` has come. May return early.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, deadline: MonotonicNs) {
    let deadline = timespec(deadline);
    // FUTEX_WAIT_BITSET takes an absolute time on CLOCK_MONOTONIC (futex(2)).
    // SAFETY: `word` and `deadline` are readable for the whole call. Every outcome (value changed, timeout, signal) is a
    // return to the caller, who looks again.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET,
            expected,
            &raw const deadline,
            ptr::null::<u32>(),
            libc::FUTEX_BITSET_MATCH_ANY,
        )
    };
}

/// Wake one that waits on `word`.
pub(crate) fn futex_wake_one(word: &AtomicU32) {
    futex_wake(word, 1);
}

/// Wake all that wait on `word`.
pub(crate) fn futex_wake_all(word: &AtomicU32) {
    futex_wake(word, i32::MAX);
}

fn futex_wake(word: &AtomicU32, count: i32) {
    // SAFETY: the kernel uses the address as a key only.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
}

/// `CLOCK_MONOTONIC`.
pub(crate) fn clock_monotonic() -> MonotonicNs {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is writable. The call cannot fail for this clock (clock_gettime(2)).
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    MonotonicNs::new(seconds.saturating_mul(NS_PER_S).saturating_add(nanoseconds))
}

const NS_PER_S: u64 = 1_000_000_000;

fn timespec(point: MonotonicNs) -> libc::timespec {
    libc::timespec {
        tv_sec: (point.get() / NS_PER_S)
            .try_into()
            .unwrap_or(libc::time_t::MAX),
        tv_nsec: (point.get() % NS_PER_S).try_into().unwrap_or(0),
    }
}

/// The user that this process acts as.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: always succeeds (geteuid(2)).
    unsafe { libc::geteuid() }
}

/// Whether this process may make files in the folder `path`.
pub(crate) fn is_writable(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(text) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: `text` is a C string that outlives the call.
    let answer = unsafe {
        libc::faccessat(
            libc::AT_FDCWD,
            text.as_ptr(),
            libc::W_OK | libc::X_OK,
            libc::AT_EACCESS,
        )
    };
    answer == 0 && path.is_dir()
}
