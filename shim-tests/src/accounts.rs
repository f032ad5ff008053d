//! Two accounts of one container: the ledger, as `cuda-hook status` reads it, and the device's own.

use crate::machine::Machine;
use limiter::sample::{self, DeviceSample};

/// A container on one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// In use, as the ledger has it.
    pub charged_bytes: u64,
    /// In use, as the device has it.
    pub held_bytes: u64,
    /// Launches that the ledger has admitted.
    pub launches: u64,
}

impl Accounts {
    /// Whether both say the same of memory.
    pub fn agree(&self) -> bool {
        self.charged_bytes == self.held_bytes
    }
}

/// Whether a call of this function may load an image that cannot be unloaded again: it is charged, whatever the quota says.
/// A launch then goes on; all others answer that memory is out.
pub fn loads_at_first_use(symbol: &str) -> bool {
    let starts = [
        "cuModuleGet",
        "cuLibraryGet",
        "cuKernel",
        "cuFunc",
        "cuLaunch",
        "cuGraph",
    ];
    starts.iter().any(|start| symbol.starts_with(start))
}

/// The accounts of a container, by device.
pub fn of(machine: &Machine, container: &str) -> Vec<Accounts> {
    let sample = sample::read(&machine.hook_dir(), limiter::clock::monotonic())
        .expect("the folder of the ledgers");
    let mut containers = sample.containers.into_iter();
    let ledger = containers.find(|sample| sample.container == container);
    let ledger: Vec<DeviceSample> = ledger.map_or_else(Vec::new, |sample| sample.devices);
    let usage = machine.usage();
    let devices = machine.device_uuids().into_iter().zip(0..);
    devices
        .map(|(uuid, ordinal)| {
            let charged = ledger.iter().find(|row| row.device_uuid == uuid);
            let held = usage
                .iter()
                .filter(|usage| usage.container == container && usage.device == ordinal);
            Accounts {
                charged_bytes: charged.map_or(0, |row| row.memory_bytes_current),
                held_bytes: held.map(|usage| usage.memory_bytes_current).sum(),
                launches: charged.map_or(0, |row| row.launches_total),
            }
        })
        .collect()
}
