//! What `kernel` does, for Miri, which interprets a program and knows neither shared mappings of files nor record locks.
//!
//! A file is memory under its number, and there is one process: nobody else has a lock. Everything above, the unsafe parts of
//! `mapping` among it, is the real thing.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Addresses of the files' memory, by device and inode. Like a file it stays.
static FILES: Mutex<BTreeMap<(u64, u64), usize>> = Mutex::new(BTreeMap::new());

fn files() -> MutexGuard<'static, BTreeMap<(u64, u64), usize>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Device and inode of an open file.
pub(super) fn identity(descriptor: RawFd) -> io::Result<(u64, u64)> {
    // SAFETY: only looked at, never closed: `into_raw_fd` below. Miri stops at a number that is no descriptor.
    let file = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Miri counts no names, and nobody else takes one away.
pub(super) fn has_name(_metadata: &Metadata) -> bool {
    true
}

/// Extends a file to this range. One that was empty is new, whichever file had its number before.
pub(super) fn fallocate(descriptor: RawFd, offset: usize, length: usize) -> io::Result<()> {
    // SAFETY: as above.
    let file = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
    let end = u64::try_from(offset.saturating_add(length)).unwrap_or(u64::MAX);
    let metadata = file.metadata()?;
    if metadata.len() == 0 {
        files().remove(&(metadata.dev(), metadata.ino()));
    }
    if metadata.len() < end {
        file.set_len(end)?;
    }
    Ok(())
}

/// The memory of a file; zeros at first.
pub(super) fn map<T>(file: &File) -> io::Result<NonNull<T>> {
    let identity = identity(file.as_raw_fd())?;
    let address = *files().entry(identity).or_insert_with(|| {
        let layout = Layout::new::<T>();
        // SAFETY: no shared file is empty.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        memory.expose_provenance()
    });
    let content = std::ptr::with_exposed_provenance_mut(address);
    NonNull::new(content).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
}

/// The memory stays the file's.
///
/// # Safety
/// As of the real one.
pub(super) unsafe fn unmap<T>(_content: NonNull<T>) {}

/// Nobody else has a lock.
pub(super) fn record_lock(
    _descriptor: RawFd,
    _command: i32,
    _kind: i32,
    _byte: usize,
) -> io::Result<libc::flock> {
    // SAFETY: all-zero bytes are a valid `flock`, a struct of integers.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_UNLCK as i16;
    Ok(lock)
}
