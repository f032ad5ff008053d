//! The pieces of memory that pools are made of.

use cuda_sys_stubs::abi::*;
use gpu_sim::command::{AllocKind, Block};

use super::{Part, SharedFile, with_reclaim};
use crate::address::Backing;
use crate::door::Answer;
use crate::location::{Home, Location};
use crate::memory;
use crate::process::{Process, State, refused};
use crate::table::Key;
use crate::window::{map_host, unmap_host};

/// A piece of memory that a pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    Device(Block),
    Host {
        start: CUdeviceptr,
        bytes: u64,
        /// What of a shared pool's file it is.
        part: Option<Part>,
    },
    /// The bytes are the host's; the block is what the device counts for them, if it does.
    Managed {
        start: CUdeviceptr,
        bytes: u64,
        block: Option<Block>,
    },
}

/// Bytes of the whole pages that hold so many.
fn pages(bytes: u64) -> Answer<u64> {
    Ok(u64::try_from(memory::length(bytes)?).unwrap_or(u64::MAX))
}

/// Maps host memory of whole pages; gives its address.
fn take_host(bytes: u64) -> Answer<CUdeviceptr> {
    let start = u64::try_from(map_host(memory::length(bytes)?)?);
    start.map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)
}

/// Takes memory that a device counts.
fn take_block(
    process: &Process,
    state: &mut State,
    ordinal: usize,
    bytes: u64,
    kind: AllocKind,
) -> Answer<Block> {
    let device = process.devices.get(ordinal);
    let device = device.ok_or(CUDA_ERROR_INVALID_DEVICE)?.index;
    with_reclaim(process, state, |process| {
        process.machine.alloc(device, bytes, kind)
    })
}

impl Chunk {
    /// Takes memory of a kind; a device's, or counted by it.
    pub(super) fn take(
        process: &Process,
        state: &mut State,
        home: Home,
        ordinal: usize,
        bytes: u64,
    ) -> Answer<Self> {
        match home {
            Home::Pinned(Location::Device(ordinal)) => {
                take_block(process, state, ordinal, bytes, AllocKind::Device).map(Self::Device)
            }
            Home::Pinned(_) => Ok(Self::Host {
                start: take_host(bytes)?,
                bytes: pages(bytes)?,
                part: None,
            }),
            Home::Managed(_) => {
                let block = take_block(process, state, ordinal, bytes, AllocKind::Managed)?;
                Self::managed(process, bytes, Some(block))
            }
        }
    }

    /// Takes memory of a shared pool of the host.
    pub(super) fn take_part(process: &Process, file: Key<SharedFile>, bytes: u64) -> Answer<Self> {
        let bytes = pages(bytes)?;
        let (part, start) = process.shared_files.take(file, bytes)?;
        let part = Some(part);
        Ok(Self::Host { start, bytes, part })
    }

    /// Takes managed memory, which a device counts while it has room for it; what it has no room for has its place on the host (CUDA C++
    /// Programming Guide, "Unified Memory": devices may be oversubscribed).
    pub(crate) fn take_managed(
        process: &Process,
        state: &mut State,
        ordinal: usize,
        bytes: u64,
    ) -> Answer<Self> {
        let block = match take_block(process, state, ordinal, bytes, AllocKind::Managed) {
            Err(CUDA_ERROR_OUT_OF_MEMORY) => None,
            block => Some(block?),
        };
        Self::managed(process, bytes, block)
    }

    fn managed(process: &Process, bytes: u64, block: Option<Block>) -> Answer<Self> {
        let start = take_host(bytes).inspect_err(|_| {
            // Out of address space; that the block goes back as well can only fail with the device gone.
            let _ = block.map(|block| process.machine.free(block.id));
        })?;
        Ok(Self::Managed {
            start,
            bytes,
            block,
        })
    }

    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::Device(block) => block.bytes,
            Self::Managed {
                block: Some(block), ..
            } => block.bytes,
            Self::Host { bytes, .. } | Self::Managed { bytes, .. } => bytes,
        }
    }

    /// Where it is: its address, and what is written down of it.
    pub(crate) fn place(self, process: &Process, ordinal: usize) -> Answer<(CUdeviceptr, Backing)> {
        match self {
            Self::Device(block) => {
                let device = process.devices.get(ordinal);
                let window = device.ok_or(CUDA_ERROR_INVALID_DEVICE)?.window;
                Ok((window.address(block.offset), Backing::Device(block)))
            }
            Self::Host { start, bytes, part } => Ok((start, Backing::HostPooled { bytes, part })),
            Self::Managed { start, block, .. } => Ok((start, Backing::Managed(block))),
        }
    }

    /// Returns it to the device, or to the host.
    pub(crate) fn give_back(self, process: &Process) -> Answer {
        match self {
            Self::Device(block) => process.machine.free(block.id).map_err(refused),
            Self::Host { start, bytes, part } => {
                give_host_back(start, bytes)?;
                part.map_or(Ok(()), |part| process.shared_files.give_back(part, bytes))
            }
            Self::Managed {
                start,
                bytes,
                block,
            } => {
                give_host_back(start, block.map_or(bytes, |block| block.bytes))?;
                block.map_or(Ok(()), |block| {
                    process.machine.free(block.id).map_err(refused)
                })
            }
        }
    }
}

fn give_host_back(start: CUdeviceptr, bytes: u64) -> Answer {
    let start = usize::try_from(start).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    unmap_host(start, memory::length(bytes)?);
    Ok(())
}
