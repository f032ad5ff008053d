//! What is known of a GPU for all containers, and what they have of its memory together.

use std::path::Path;

use serde::Serialize;

use super::ContainerSample;
use crate::context;
use crate::shm::Snapshot;
use crate::shm::layout::BoardFile;
use crate::sync::Ordering;
use crate::units::DeviceUuid;

/// What is known of a GPU, for all containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BoardSample {
    /// `GPU-…`.
    pub device_uuid: String,
    /// What a context takes of its memory: the middle of what was measured.
    pub context_bytes: u64,
    /// Under which driver: the newest CUDA version that it supports, as `1000 × major + 10 × minor`.
    pub cuda_version: u32,
}

/// The memory of a GPU, and what its containers have of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuSample {
    /// `GPU-…`.
    pub device_uuid: String,
    /// All of it, as its driver says.
    pub memory_bytes_total: u64,
    /// What the containers that have processes are guaranteed together. Above the total, no guarantee holds for sure.
    pub memory_bytes_guaranteed: u64,
    /// What they have borrowed.
    pub memory_bytes_borrowed: u64,
    /// What was in use and in no container's ledger when somebody last borrowed: the driver's own, and of programs without limits.
    pub memory_bytes_outside: u64,
}

/// What the board at `path` says; nothing before the first measurement, and of its memory nothing before somebody has asked the driver.
pub(super) fn read_board(
    path: &Path,
    device: DeviceUuid,
) -> Result<(Option<BoardSample>, Option<GpuSample>), String> {
    let file = Snapshot::<BoardFile>::read(path).map_err(|error| error.to_string())?;
    let measured = context::newest(&file.contexts);
    let board = measured.map(|(cuda_version, bytes)| BoardSample {
        device_uuid: device.to_string(),
        context_bytes: bytes.get(),
        cuda_version,
    });
    let total = file.memory.total.load(Ordering::Relaxed);
    let gpu = (total > 0).then(|| GpuSample {
        device_uuid: device.to_string(),
        memory_bytes_total: total,
        memory_bytes_guaranteed: 0,
        memory_bytes_borrowed: 0,
        memory_bytes_outside: file.memory.outside.load(Ordering::Relaxed),
    });
    Ok((board, gpu))
}

impl GpuSample {
    /// Adds what the containers that have processes are guaranteed of it, and have borrowed.
    pub(super) fn add(&mut self, containers: &[ContainerSample]) {
        let living = containers.iter().filter(|one| !one.processes.is_empty());
        let here = living.flat_map(|container| &container.devices);
        for device in here.filter(|device| device.device_uuid == self.device_uuid) {
            let guaranteed = device.memory_limits().guaranteed().get();
            self.memory_bytes_guaranteed = self.memory_bytes_guaranteed.saturating_add(guaranteed);
            self.memory_bytes_borrowed = self
                .memory_bytes_borrowed
                .saturating_add(device.memory_bytes_borrowed);
        }
    }
}
