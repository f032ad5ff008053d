//! The memory quota of a container: who holds how many bytes of which GPU.
//!
//! `device_index` is always an index into the list that [`Ledger::attach`] was given.

use std::path::Path;

use crate::config::ContainerName;
use crate::shm::AttachError;
use crate::units::{Bytes, DeviceUuid};

/// This process's place in its container's ledger. All methods are thread-safe.
#[derive(Debug)]
pub struct Ledger {}

/// Bytes that are charged but not yet allocated: dropped, they are given back.
#[derive(Debug)]
#[must_use = "dropping a charge gives it back"]
pub struct Charge<'a> {
    _ledger: &'a Ledger,
}

/// The container has less than that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked} asked, {current} of {max} in use")]
pub struct OverQuota {
    /// What was asked for.
    pub asked: Bytes,
    /// What the container held.
    pub current: Bytes,
    /// What it may hold.
    pub max: Bytes,
}

/// A process of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// Process id in the process's own pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot, `/proc/<pid>/stat` field 22.
    pub start_time: u64,
    /// Bytes held on each GPU, by `device_index`.
    pub bytes: Vec<Bytes>,
}

impl Ledger {
    /// Take a place in `<dir>/<container>/ledger`, which is created where missing.
    /// Each GPU comes with its quota; `None` is no limit.
    pub fn attach(
        _dir: &Path,
        _container: &ContainerName,
        _devices: &[(DeviceUuid, Option<Bytes>)],
    ) -> Result<Self, AttachError> {
        unimplemented!()
    }
    /// Charge `bytes` before allocating them. A refusal leaves nothing charged.
    pub fn try_charge(&self, _device_index: usize, _bytes: Bytes) -> Result<Charge<'_>, OverQuota> {
        unimplemented!()
    }
    /// Charge what is in use already, whatever the quota says (contexts, modules).
    pub fn charge(&self, _device_index: usize, _bytes: Bytes) {
        unimplemented!()
    }
    /// Give back `bytes` that this process had charged.
    pub fn uncharge(&self, _device_index: usize, _bytes: Bytes) {
        unimplemented!()
    }
    /// What the container holds.
    pub fn current(&self, _device_index: usize) -> Bytes {
        unimplemented!()
    }
    /// What this process holds.
    pub fn own(&self, _device_index: usize) -> Bytes {
        unimplemented!()
    }
    /// What the container may hold; `None`: no limit.
    pub fn max(&self, _device_index: usize) -> Option<Bytes> {
        unimplemented!()
    }
    /// The most the container has held.
    pub fn peak(&self, _device_index: usize) -> Bytes {
        unimplemented!()
    }
    /// Change the quota while programs run. Below what is in use it refuses new charges and frees nothing.
    pub fn set_max(&self, _device_index: usize, _max: Option<Bytes>) {
        unimplemented!()
    }
    /// The live processes of the container.
    pub fn processes(&self) -> Vec<SlotInfo> {
        unimplemented!()
    }
    /// In a forked child: let go of the parent's place without touching what it holds.
    pub fn forget_after_fork(self) {
        unimplemented!()
    }
}

impl Charge<'_> {
    /// The allocation succeeded: keep the charge. Returns what to `uncharge` at the free.
    pub fn commit(self) -> Bytes {
        unimplemented!()
    }
}
