//! What a process gives to others, and takes from them: blocks, descriptors, semaphores of the machine; what a stream gets of the SMs.

use super::{Lost, Machine, Multicast, RequestError, SemaphoreHandle, Stream};
use crate::command::{Block, BlockId, Exported, SemaphoreId};
use crate::wire::{Reply, Request};
use rustix::fs::{FileType, fstat};
use std::os::fd::{AsFd, OwnedFd};

/// What came out of another process's descriptor.
#[derive(Debug, PartialEq, Eq)]
pub enum Imported {
    /// Device memory, which this process holds until it frees it.
    Block(Block),
    /// A memory pool of this device.
    Pool {
        /// Which device.
        device: u32,
    },
    /// A multicast object.
    Multicast(Multicast),
}

impl Machine {
    /// Has a stream's kernels, submitted from now on, run on no more SMs than these.
    pub fn limit_sms(&self, stream: &Stream, sm_count_max: u32) -> Result<(), Lost> {
        let stream = stream.id();
        self.inner.connection.send(&Request::LimitSms {
            stream,
            sm_count_max,
        })
    }

    /// Opens a block of another process. It lives until every process that holds it has freed it, and stays its owner's in the
    /// device's books.
    pub fn open(&self, block: BlockId) -> Result<Block, RequestError> {
        match self.request(&Request::Open { block })? {
            Reply::Block(block) => Ok(block),
            _ => Err(self.inner.connection.abandon().into()),
        }
    }

    /// Makes a descriptor that another process can [`Machine::import`]; memory lives as long as any copy of it is open.
    pub fn export(&self, what: Exported) -> Result<OwnedFd, RequestError> {
        let connection = &self.inner.connection;
        match connection.request_descriptors(&Request::Export { what })? {
            (Reply::Refused(refusal), _) => Err(refusal.into()),
            (_, mut descriptors) => Ok(descriptors.pop().ok_or_else(|| connection.abandon())?),
        }
    }

    /// Takes what a descriptor stands for, which stays open. `Unknown`: it is none of [`Machine::export`].
    pub fn import(&self, descriptor: impl AsFd) -> Result<Imported, RequestError> {
        let stat = fstat(&descriptor).map_err(|_| RequestError::Unknown)?;
        if !FileType::from_raw_mode(stat.st_mode).is_fifo() {
            return Err(RequestError::Unknown);
        }
        let (file_device, inode) = (stat.st_dev, stat.st_ino);
        match self.request(&Request::Import { file_device, inode })? {
            Reply::Block(block) => Ok(Imported::Block(block)),
            Reply::Pool { device } => Ok(Imported::Pool { device }),
            Reply::Multicast { object, team } => {
                Multicast::opened(&self.inner, object, team).map(Imported::Multicast)
            }
            _ => Err(self.inner.connection.abandon().into()),
        }
    }

    /// Makes a semaphore of the machine: other processes can open it. Dropping the handle lets it go.
    pub fn create_shared_semaphore(&self) -> Result<SemaphoreHandle, RequestError> {
        let Reply::SharedSemaphore(id) = self.request(&Request::CreateSharedSemaphore)? else {
            return Err(self.inner.connection.abandon().into());
        };
        let semaphore = SemaphoreHandle::shared(&self.inner, id);
        let semaphore = semaphore.ok_or_else(|| self.inner.connection.abandon())?;
        semaphore.begin();
        Ok(semaphore)
    }

    /// Opens a semaphore of the machine that some process holds.
    pub fn open_shared_semaphore(&self, id: SemaphoreId) -> Result<SemaphoreHandle, RequestError> {
        self.request(&Request::OpenSharedSemaphore { semaphore: id })?;
        SemaphoreHandle::shared(&self.inner, id).ok_or(RequestError::Unknown)
    }
}
