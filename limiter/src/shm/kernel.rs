//! What the kernel does to a shared file: space behind it, memory, locks. Each system call in a safe dress.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::ptr::{self, NonNull};

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

/// Whether an open file has a name still: one that has none is nobody's but of those who have it open.
pub(super) fn has_name(metadata: &Metadata) -> bool {
    metadata.nlink() > 0
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

/// Ends a mapping.
///
/// # Safety
/// It was made by [`map`], and no reference into it is used any more.
pub(super) unsafe fn unmap<T>(content: NonNull<T>) {
    // SAFETY: mapped with this size, and nobody uses it any more: the caller's promise.
    unsafe { libc::munmap(content.as_ptr().cast(), size_of::<T>()) };
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
