//! Device memory.

use std::ffi::c_uint;

use cuda_sys_stubs::nvml_abi::*;

use crate::door::{exports, give, take};
use crate::session::{Device, lost};

exports! {
    fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) {
        let device = Device::of(device)?;
        let info = device.machine.memory(device.index).map_err(lost)?;
        // Version 1 has no field for what the driver keeps: it counts that as used.
        give(memory, nvmlMemory_t {
            total: info.total_bytes.saturating_add(info.reserved_bytes),
            free: info.free_bytes,
            used: info.used_bytes.saturating_add(info.reserved_bytes),
        })
    }
    fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) {
        let device = Device::of(device)?;
        if take((&raw const (*memory).version).cast::<c_uint>())? != nvmlMemory_v2 {
            return Err(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        }
        let info = device.machine.memory(device.index).map_err(lost)?;
        give(memory, nvmlMemory_v2_t {
            version: nvmlMemory_v2,
            total: info.total_bytes.saturating_add(info.reserved_bytes),
            reserved: info.reserved_bytes,
            free: info.free_bytes,
            used: info.used_bytes,
        })
    }
    // What the host maps of it is not simulated.
    fn nvmlDeviceGetBAR1MemoryInfo(device: nvmlDevice_t, bar1Memory: *mut nvmlBAR1Memory_t) {
        let total = Device::of(device)?.profile()?.bar1_bytes;
        give(bar1Memory, nvmlBAR1Memory_t { bar1Total: total, bar1Free: total, bar1Used: 0 })
    }
    fn nvmlDeviceGetMemoryBusWidth(device: nvmlDevice_t, busWidth: *mut c_uint) {
        give(busWidth, Device::of(device)?.profile()?.memory_bus_bits)
    }
}
