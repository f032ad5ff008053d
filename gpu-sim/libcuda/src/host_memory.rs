//! Host memory by handle: an anonymous file, which every process that has a descriptor of it can map.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use cuda_sys_stubs::abi::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_OUT_OF_MEMORY};

use crate::door::Answer;
use crate::location::Location;
use crate::window::{anonymous_file, anonymous_name};

/// What the kernel calls our files: who imports a descriptor knows by it what it is.
const NAME: &std::ffi::CStr = c"gpu-sim-host-memory";

/// Physical memory of the host. The last process that has it mapped or holds a descriptor keeps it alive.
pub(crate) struct HostMemory {
    file: File,
    pub(crate) bytes: u64,
    pub(crate) location: Location,
}

impl HostMemory {
    pub(crate) fn create(bytes: u64, location: Location) -> Answer<Self> {
        let file = File::from(anonymous_file(NAME)?);
        file.set_len(bytes).map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?;
        Ok(Self {
            file,
            bytes,
            location,
        })
    }

    /// A descriptor for another process.
    pub(crate) fn export(&self) -> Answer<OwnedFd> {
        let copy = self.file.try_clone();
        copy.map(OwnedFd::from)
            .map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)
    }

    /// What a descriptor of [`HostMemory::export`] stands for; `None`: it is no such descriptor.
    pub(crate) fn import(descriptor: BorrowedFd) -> Answer<Option<Self>> {
        if anonymous_name(descriptor)?.as_deref() != NAME.to_str().ok() {
            return Ok(None);
        }
        let file = descriptor.try_clone_to_owned().map(File::from);
        let file = file.map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?;
        let metadata = file.metadata().map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
        Ok(Some(Self {
            bytes: metadata.len(),
            location: Location::HostNode,
            file,
        }))
    }

    /// Whether two descriptors are of one memory.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let number = |memory: &Self| {
            let metadata = memory.file.metadata().ok()?;
            Some((metadata.dev(), metadata.ino()))
        };
        number(self).is_some_and(|own| Some(own) == number(other))
    }

    /// What can be mapped.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
