//! The PCIe link: as wide and as fast as the profile says, always.

use std::ffi::c_uint;

use cuda_sys_stubs::nvml_abi::nvmlDevice_t;

use crate::door::{exports, give};
use crate::session::Device;

exports! {
    fn nvmlDeviceGetMaxPcieLinkGeneration / nvmlDeviceGetCurrPcieLinkGeneration(device: nvmlDevice_t, generation: *mut c_uint) {
        give(generation, Device::of(device)?.profile()?.pcie_generation)
    }
    fn nvmlDeviceGetMaxPcieLinkWidth / nvmlDeviceGetCurrPcieLinkWidth(device: nvmlDevice_t, width: *mut c_uint) {
        give(width, Device::of(device)?.profile()?.pcie_lanes)
    }
    fn nvmlDeviceGetPcieReplayCounter(device: nvmlDevice_t, value: *mut c_uint) {
        Device::of(device)?;
        give(value, 0)
    }
}
