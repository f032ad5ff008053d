//! Device memory as bytes: one sparse file a device, which processes map and move bytes in.

use super::{Level, Log};
use crate::model::Released;
use crate::profile::MachineProfile;
use crate::shared::memory_file;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The memory of all devices.
pub(super) struct Vram {
    files: Vec<OwnedFd>,
    log: Log,
}

impl Vram {
    pub(super) fn new(profile: &MachineProfile, log: Log) -> Result<Self, Errno> {
        let file = |(index, bytes)| memory_file(&format!("gpu-sim-vram-{index}"), bytes);
        let bytes = profile.devices.iter().map(|device| device.memory_bytes);
        let files = bytes.enumerate().map(file).collect::<Result<_, _>>()?;
        Ok(Self { files, log })
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.files.iter().map(AsFd::as_fd)
    }

    /// Gives the host's memory behind these pages back; who gets them next reads zeros.
    pub(super) fn forget(&self, released: Vec<Released>) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for Released {
            device,
            offset,
            bytes,
        } in released
        {
            if let Err(error) = fallocate(&self.files[device as usize], flags, offset, bytes) {
                self.log
                    .say(Level::Error, format_args!("fallocate: {error}"));
            }
        }
    }
}
