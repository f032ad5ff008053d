//! The system calls behind `shm`, each in a safe dress.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};

use crate::units::MonotonicNs;

/// The same file under a high descriptor number, closed on exec; where there is none, as it is.
pub(super) fn above_programs_numbers(file: File) -> File {
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

/// Device and inode of an open file.
pub(super) fn identity(descriptor: RawFd) -> io::Result<(u64, u64)> {
    // SAFETY: all-zero bytes are a valid `stat`, a struct of integers.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is writable; a bad descriptor is an error, not undefined.
    if unsafe { libc::fstat(descriptor, &raw mut status) } == 0 {
        return Ok((status.st_dev, status.st_ino));
    }
    Err(io::Error::last_os_error())
}

/// Put storage behind a range of a file, extending it where needed.
pub(super) fn fallocate(descriptor: RawFd, offset: usize, length: usize) -> io::Result<()> {
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

/// A new shared mapping of the file's first `size_of::<T>()` bytes.
pub(super) fn map<T>(file: &File) -> io::Result<NonNull<T>> {
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
pub(super) fn record_lock(
    descriptor: RawFd,
    command: i32,
    kind: i32,
    byte: usize,
) -> io::Result<libc::flock> {
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

/// Which clock (clock_gettime(2)).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    Monotonic,
    MonotonicCoarse,
    Realtime,
}

/// `CLOCK_MONOTONIC`.
pub(crate) fn clock(clock: Clock) -> MonotonicNs {
    let id = match clock {
        Clock::Monotonic => libc::CLOCK_MONOTONIC,
        Clock::MonotonicCoarse => libc::CLOCK_MONOTONIC_COARSE,
        Clock::Realtime => libc::CLOCK_REALTIME,
    };
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is writable. The call cannot fail for these clocks (clock_gettime(2)).
    unsafe { libc::clock_gettime(id, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    MonotonicNs::new(seconds.saturating_mul(NS_PER_S).saturating_add(nanoseconds))
}

/// Nanoseconds in a second.
pub(super) const NS_PER_S: u64 = 1_000_000_000;

/// The user that this process acts as.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: always succeeds (geteuid(2)).
    unsafe { libc::geteuid() }
}

/// Whether this process may make files in the folder `path`.
pub(crate) fn is_writable(path: &Path) -> bool {
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
