//! How busy a device is: the last sample of its ring.

use std::ffi::c_uint;

use cuda_sys_stubs::nvml_abi::{nvmlDevice_t, nvmlUtilization_t};

use crate::door::{Answer, exports, give};
use crate::session::{Device, lost};

/// Period of the ring: 72 samples in 10 s (NVIDIA's open kernel modules, as sampled by `nvmlDeviceGetProcessUtilization`).
const PERIOD_US: c_uint = 10_000_000 / 72;

exports! {
    fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, utilization: *mut nvmlUtilization_t) {
        give(utilization, last(&Device::of(device)?)?)
    }
    // There is no video engine.
    fn nvmlDeviceGetEncoderUtilization / nvmlDeviceGetDecoderUtilization(
        device: nvmlDevice_t, utilization: *mut c_uint, samplingPeriodUs: *mut c_uint,
    ) {
        Device::of(device)?;
        give(utilization, 0)?;
        give(samplingPeriodUs, PERIOD_US)
    }
}

/// The last sample; an idle device before the first.
pub(crate) fn last(device: &Device) -> Answer<nvmlUtilization_t> {
    let samples = device.machine.utilization(device.index).map_err(lost)?;
    Ok(samples
        .last()
        .map_or(nvmlUtilization_t { gpu: 0, memory: 0 }, |sample| {
            nvmlUtilization_t {
                gpu: sample.gpu_percent,
                memory: sample.memory_percent,
            }
        }))
}
