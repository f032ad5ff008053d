//! Partitioned and virtual boards: none is simulated, so those that could be partitioned are not.

use std::ffi::c_uint;

use cuda_sys_stubs::nvml_abi::*;

use crate::door::{Answer, exports, give};
use crate::session::Device;

/// Instances that a board which can be partitioned has at most (NVIDIA, "Multi-Instance GPU User Guide").
const INSTANCES_MAX: c_uint = 7;

exports! {
    fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, isMigDevice: *mut c_uint) {
        Device::of(device)?;
        give(isMigDevice, 0)
    }
    fn nvmlDeviceGetMigMode(device: nvmlDevice_t, currentMode: *mut c_uint, pendingMode: *mut c_uint) {
        if !can_be_partitioned(device)? {
            return Err(NVML_ERROR_NOT_SUPPORTED);
        }
        give(currentMode, NVML_DEVICE_MIG_DISABLE)?;
        give(pendingMode, NVML_DEVICE_MIG_DISABLE)
    }
    fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) {
        give(count, if can_be_partitioned(device)? { INSTANCES_MAX } else { 0 })
    }
    fn nvmlDeviceGetMigDeviceHandleByIndex(device: nvmlDevice_t, _index: c_uint, _migDevice: *mut nvmlDevice_t) {
        Err(if can_be_partitioned(device)? { NVML_ERROR_NOT_FOUND } else { NVML_ERROR_NOT_SUPPORTED })
    }
    fn nvmlDeviceGetVirtualizationMode(device: nvmlDevice_t, pVirtualMode: *mut nvmlGpuVirtualizationMode_t) {
        Device::of(device)?;
        give(pVirtualMode, NVML_GPU_VIRTUALIZATION_MODE_NONE)
    }
}

/// GA100 and GH100 can, the others that are simulated cannot ("Multi-Instance GPU User Guide", "Supported GPUs").
fn can_be_partitioned(device: nvmlDevice_t) -> Answer<bool> {
    let compute_capability = Device::of(device)?.profile()?.compute_capability;
    Ok(matches!(compute_capability, (8 | 9, 0)))
}
