//! The machine's own semaphores, in memory that every process maps.

use crate::command::SemaphoreId;
use crate::shared::{CommonsMapping, memory_file};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The semaphores, and the file that they lie in.
pub(super) struct Commons {
    file: OwnedFd,
    mapping: CommonsMapping,
}

impl Commons {
    pub(super) fn new() -> Result<Self, Errno> {
        let file = memory_file("gpu-sim-commons", CommonsMapping::BYTES as u64)?;
        let mapping = CommonsMapping::new(&file)?;
        Ok(Self { file, mapping })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Raises a semaphore; the model names none that was not given out.
    pub(super) fn raise(&self, semaphore: SemaphoreId, payload: u64, at_ns: u64) {
        if let Some(shared) = self.mapping.semaphore(semaphore.index()) {
            shared.semaphore.raise(payload, at_ns);
        }
    }
}
