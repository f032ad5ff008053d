//! What the model says of itself.

use super::{Model, ProcessId, Sample};
use crate::command::{EngineUsage, MemoryInfo, ProcessUsage};
use crate::wire::Refusal;

impl Model {
    /// Memory of a device.
    pub fn memory(&self, device: u32) -> Result<MemoryInfo, Refusal> {
        let (total_bytes, free_bytes) = self
            .devices
            .get(device as usize)
            .map(|device| (device.memory.total_bytes(), device.memory.free_bytes()))
            .ok_or(Refusal::Unknown)?;
        let reserved_bytes = self.profile.devices[device as usize].memory_reserved_bytes;
        Ok(MemoryInfo {
            total_bytes,
            free_bytes,
            used_bytes: total_bytes - free_bytes,
            reserved_bytes,
        })
    }

    /// What every process did on every device that it touched.
    pub fn usage(&self) -> Vec<ProcessUsage> {
        let mut rows = Vec::new();
        for (&id, process) in &self.processes {
            for (index, counts) in process
                .counts
                .iter()
                .enumerate()
                .filter(|(_, counts)| counts.seen)
            {
                let device = &self.devices[index];
                let (memory_bytes_current, memory_bytes_peak) = device.memory.usage(id);
                rows.push(ProcessUsage {
                    pid: process.info.pid,
                    start_time_ticks: process.info.start_time_ticks,
                    container: process.info.container.clone(),
                    device: index as u32,
                    alive: process.alive,
                    contexts: counts.contexts,
                    memory_bytes_current,
                    memory_bytes_peak,
                    gpu_busy_ns_total: device.compute.busy_ns(id),
                    copy_busy_ns_total: device.copies.iter().map(|engine| engine.busy_ns(id)).sum(),
                    kernels_total: counts.kernels_total,
                    copied_bytes_total: counts.copied_bytes_total,
                });
            }
        }
        rows
    }

    /// What a device's compute engine did.
    pub fn engine_usage(&self, device: u32) -> Result<EngineUsage, Refusal> {
        self.devices
            .get(device as usize)
            .map(|device| device.compute.usage())
            .ok_or(Refusal::Unknown)
    }

    /// The ring of utilization samples, oldest first.
    pub fn samples(&self, device: u32) -> Result<Vec<Sample>, Refusal> {
        self.devices
            .get(device as usize)
            .map(|device| device.ring.samples().collect())
            .ok_or(Refusal::Unknown)
    }

    /// Process id of a process, if it is known and visible.
    pub fn pid(&self, process: ProcessId) -> Option<u32> {
        self.processes
            .get(&process)
            .map(|process| process.info.pid)
            .filter(|&pid| pid != 0)
    }
}
