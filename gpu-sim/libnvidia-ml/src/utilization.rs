//! How busy a device is: the last sample of its ring.

use std::ffi::c_uint;

use cuda_sys_stubs::nvml_abi::{
    NVML_MAX_GPU_UTILIZATIONS, anonymous_utilization, nvmlDevice_t, nvmlGpuDynamicPstatesInfo_t,
    nvmlUtilization_t,
};

use crate::door::{Answer, exports, give};
use crate::session::{Device, lost};

exports! {
    fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, utilization: *mut nvmlUtilization_t) {
        give(utilization, last(&Device::of(device)?)?)
    }
    // The GPU, its memory and the video engine, which there is not; nothing is known of the bus, nor of when clocks would change.
    fn nvmlDeviceGetDynamicPstatesInfo(device: nvmlDevice_t, pDynamicPstatesInfo: *mut nvmlGpuDynamicPstatesInfo_t) {
        let nvmlUtilization_t { gpu, memory } = last(&Device::of(device)?)?;
        let domain = |percentage| anonymous_utilization { bIsPresent: 1, percentage, incThreshold: 0, decThreshold: 0 };
        let absent = anonymous_utilization { bIsPresent: 0, ..domain(0) };
        let mut utilization = [absent; NVML_MAX_GPU_UTILIZATIONS];
        utilization[..3].copy_from_slice(&[gpu, memory, 0].map(domain));
        give(pDynamicPstatesInfo, nvmlGpuDynamicPstatesInfo_t { flags: 0, utilization })
    }
    // There is no video engine.
    fn nvmlDeviceGetEncoderUtilization / nvmlDeviceGetDecoderUtilization(
        device: nvmlDevice_t, utilization: *mut c_uint, samplingPeriodUs: *mut c_uint,
    ) {
        let period_ns = Device::of(device)?.machine.profile().timing.sample_period_ns;
        give(utilization, 0)?;
        give(samplingPeriodUs, (period_ns / 1_000) as c_uint)
    }
    fn nvmlDeviceGetEncoderStats(
        device: nvmlDevice_t, sessionCount: *mut c_uint, averageFps: *mut c_uint, averageLatency: *mut c_uint,
    ) {
        Device::of(device)?;
        give(sessionCount, 0)?;
        give(averageFps, 0)?;
        give(averageLatency, 0)
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
