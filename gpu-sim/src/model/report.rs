//! What the model says of itself.

use super::copy::CopyEngine;
use super::{Counts, Device, Model, ProcessId, Sample};
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
    pub fn usage(&mut self) -> Vec<ProcessUsage> {
        self.account();
        let ids = self.processes.keys();
        ids.flat_map(|&id| self.usage_of(id)).collect()
    }

    /// What one process did on every device that it touched.
    pub(super) fn usage_of(&self, id: ProcessId) -> Vec<ProcessUsage> {
        let Some(process) = self.processes.get(&id) else {
            return Vec::new();
        };
        let touched = (0..).zip(&process.counts).zip(&self.devices);
        let touched = touched.filter(|((_, counts), _)| counts.seen);
        let row = |((index, counts), device): ((u32, &Counts), &Device)| {
            let (memory_bytes_current, memory_bytes_peak) = device.memory.usage(id);
            ProcessUsage {
                pid: process.info.pid,
                start_time_ticks: process.info.start_time_ticks,
                container: process.info.container.clone(),
                device: index,
                alive: process.alive,
                contexts: counts.contexts,
                context_begun_ns: counts.context_begun_ns,
                context_ns_total: counts.context_ns(self.now_ns),
                memory_bytes_current,
                memory_bytes_peak,
                gpu_busy_ns_total: device.compute.busy_ns(id),
                gpu_wait_ns_total: device.compute.wait_ns(id),
                copy_busy_ns_total: device.copies.iter().map(|engine| engine.busy_ns(id)).sum(),
                kernels_total: counts.kernels_total,
                copied: counts.copied,
            }
        };
        touched.map(row).collect()
    }

    /// What a device's engines did.
    pub fn engine_usage(&mut self, device: u32) -> Result<EngineUsage, Refusal> {
        self.account();
        let device = self.devices.get(device as usize).ok_or(Refusal::Unknown)?;
        let [h2d, d2h] = device.copies.each_ref().map(CopyEngine::busy_ns_total);
        Ok(EngineUsage {
            h2d_busy_ns_total: h2d,
            d2h_busy_ns_total: d2h,
            copied: device.copied,
            ..device.compute.usage()
        })
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
