//! Shared memory: files mapped by several processes, the locks on them, and futexes in them.
//!
//! The only module of this crate with `unsafe`: it turns system calls and bytes that other processes write into
//! `&T` of atomics. Everything above it is safe code.
//!
//! Locks are POSIX record locks (fcntl(2), "Advisory record locking"): the kernel drops them when their process dies,
//! whatever the pid namespace, and a fork does not inherit them. Their price: closing *any* descriptor of the file
//! drops all locks that the process has on it. So a process opens such a file once and keeps the descriptor, above the
//! numbers that programs deal with.
//!
//! Folders are made with mode 0700 and files with 0600: they belong to the user who runs the container. Who lends one
//! folder to processes of several users makes it beforehand, with the mode that is wanted: where others may write to a folder, they
//! may to the files in it.
#![expect(
    unsafe_code,
    reason = "maps memory, and calls what std has no safe form of"
)]

#[cfg(not(loom))]
mod futex;
#[cfg(not(loom))]
#[cfg_attr(miri, path = "shm/interpreted.rs")]
mod kernel;
pub(crate) mod layout;
#[cfg_attr(loom, path = "shm/modelled.rs")]
mod mapping;
#[cfg(not(loom))]
mod process_lock;
#[cfg_attr(loom, expect(dead_code, reason = "the model needs no files"))]
mod system;

use std::io;
use std::path::PathBuf;

#[cfg(loom)]
#[cfg(test)]
pub(crate) use self::mapping::become_process;
pub(crate) use self::mapping::{
    Exclusive, Mapping, Snapshot, futex_wait, futex_wake_all, process_id,
};
pub(crate) use self::system::{Clock, clock, effective_uid, is_writable};
use crate::sync::{AtomicU32, AtomicU64};

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
    #[error("{path}: {what}; remove it when no limited program runs", path = path.display())]
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
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct Preamble {
    magic: AtomicU64,
    layout_version: AtomicU32,
    /// Entries at and above this number are free.
    pub(crate) entries_high: AtomicU32,
}

/// The content of a shared file.
///
/// # Safety
/// `repr(C)`, begins with a [`Preamble`], holds nothing but atomics and arrays and structs of them: every bit pattern is
/// valid, zero bytes are the empty state, and other processes may write at any time.
pub(crate) unsafe trait Shared: Send + Sync + Sized + 'static {
    /// The file's first eight bytes.
    #[cfg_attr(loom, expect(dead_code, reason = "the model needs no files"))]
    const MAGIC: u64;
    /// Raised with every change of the layout.
    #[cfg_attr(loom, expect(dead_code, reason = "the model needs no files"))]
    const LAYOUT_VERSION: u32;
    /// Bytes at the beginning that must have storage behind them as soon as the file exists.
    const HEADER_BYTES: usize;

    /// The beginning.
    fn preamble(&self) -> &Preamble;

    /// What zero bytes are: a model's atomics are made one by one.
    #[cfg(loom)]
    fn empty() -> Self;
}
