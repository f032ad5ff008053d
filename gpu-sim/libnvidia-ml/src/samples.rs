//! What NVML keeps of the recent past: the ring, one value a sample.

use std::ffi::{c_uint, c_ulonglong};

use cuda_sys_stubs::nvml_abi::*;
use gpu_sim::command::UtilizationSample;

use crate::door::{Answer, exports, give, give_array, take};
use crate::session::{Device, lost};

exports! {
    // Without an array, the count is what an array has to hold.
    fn nvmlDeviceGetSamples(
        device: nvmlDevice_t, type_: nvmlSamplingType_t, lastSeenTimeStamp: c_ulonglong, sampleValType: *mut nvmlValueType_t,
        sampleCount: *mut c_uint, samples: *mut nvmlSample_t,
    ) {
        let device = Device::of(device)?;
        let value = value_of(&device, type_)?;
        give(sampleValType, NVML_VALUE_TYPE_UNSIGNED_INT)?;
        if samples.is_null() {
            let kept = device.machine.profile().timing.samples_kept;
            return give(sampleCount, c_uint::try_from(kept).unwrap_or(c_uint::MAX));
        }
        let ring = device.machine.utilization(device.index).map_err(lost)?;
        let new = ring.iter().filter(|sample| sample.timestamp_us > lastSeenTimeStamp);
        let sample = |sample: &UtilizationSample| nvmlSample_t {
            timeStamp: sample.timestamp_us,
            sampleValue: nvmlValue_t { uiVal: value(sample) },
        };
        let mut new: Vec<_> = new.map(sample).collect();
        if new.is_empty() {
            return Err(NVML_ERROR_NOT_FOUND);
        }
        new.truncate(take(sampleCount)? as usize);
        give_array(samples, sampleCount, &new)
    }
}

/// How a sample is read for a kind of value.
fn value_of(
    device: &Device,
    kind: nvmlSamplingType_t,
) -> Answer<impl Fn(&UtilizationSample) -> c_uint> {
    let profile = device.profile()?;
    let (idle_mw, limit_mw) = (profile.power_idle_mw, profile.power_limit_mw);
    let (sm_mhz, memory_mhz) = (profile.sm_clock_mhz, profile.memory_clock_mhz);
    if kind > NVML_MEMORY_CLK_SAMPLES {
        return Err(NVML_ERROR_NOT_SUPPORTED);
    }
    Ok(move |sample: &UtilizationSample| match kind {
        NVML_TOTAL_POWER_SAMPLES => {
            let range = limit_mw.saturating_sub(idle_mw);
            idle_mw.saturating_add(range / 100 * sample.gpu_percent)
        }
        NVML_GPU_UTILIZATION_SAMPLES => sample.gpu_percent,
        NVML_MEMORY_UTILIZATION_SAMPLES => sample.memory_percent,
        NVML_PROCESSOR_CLK_SAMPLES => sm_mhz,
        NVML_MEMORY_CLK_SAMPLES => memory_mhz,
        _ => 0, // there is no video engine
    })
}
