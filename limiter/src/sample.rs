//! The read side: what every container of a state folder has, holds and waits for.
//!
//! For other processes than the limited ones: reading closes the files again, which would drop this process's own locks on them.

use std::path::Path;

use serde::Serialize;

/// Version of the serialised form.
pub const SCHEMA: u32 = 1;

/// Every container of one state folder, at one time.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The containers, by name.
    pub containers: Vec<ContainerSample>,
    /// Entries of the folder that are no state of ours, and why: `path: reason`.
    pub skipped: Vec<String>,
}

/// One container.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerSample {
    /// Its name.
    pub container: String,
    /// Its GPUs.
    pub devices: Vec<DeviceSample>,
    /// Its live processes.
    pub processes: Vec<ProcessSample>,
}

/// A container on one GPU.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceSample {
    /// `GPU-…`.
    pub device_uuid: String,
    /// In use by live processes.
    pub memory_bytes_current: u64,
    /// The most that was in use.
    pub memory_bytes_peak: u64,
    /// The quota; `None`: no limit.
    pub memory_bytes_max: Option<u64>,
    /// Guaranteed share.
    pub sm_percent: Option<f64>,
    /// Cap.
    pub sm_percent_max: Option<f64>,
    /// GPU time charged since the container's ledger was made, dead processes included.
    pub charged_ns_total: u64,
    /// Launches admitted.
    pub launches_total: u64,
    /// Time for which launches waited.
    pub throttled_ns_total: u64,
    /// Launches that waited.
    pub throttled_count_total: u64,
}

/// A process of a container.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessSample {
    /// Process id in the process's own pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start_time_ticks: u64,
    /// What it uses of each GPU.
    pub devices: Vec<ProcessDeviceSample>,
}

/// What a process uses of one GPU.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessDeviceSample {
    /// `GPU-…`.
    pub device_uuid: String,
    /// In use.
    pub memory_bytes_current: u64,
    /// GPU time charged.
    pub charged_ns_total: u64,
    /// Launches admitted.
    pub launches_total: u64,
    /// Time for which launches waited.
    pub throttled_ns_total: u64,
    /// Launches that waited.
    pub throttled_count_total: u64,
}

/// Everything in the state folder `dir`. An absent folder is an empty sample.
pub fn read(_dir: &Path) -> Result<Sample, std::io::Error> {
    unimplemented!()
}
