//! Clocks: they do not change, and are what the profile says.

use std::ffi::{c_uint, c_ulonglong};

use cuda_sys_stubs::nvml_abi::*;
use gpu_sim::profile::Profile;

use crate::door::{Answer, exports, give, give_array};
use crate::session::Device;
use crate::utilization;

/// The video clock as a part of the SM clock, in percent: `nvidia-smi -q` shows 1470 of 1590 MHz on a T4, 1575 of 1695 on an A10.
const VIDEO_PERCENT: c_uint = 92;

exports! {
    fn nvmlDeviceGetClockInfo / nvmlDeviceGetMaxClockInfo / nvmlDeviceGetApplicationsClock / nvmlDeviceGetDefaultApplicationsClock
        / nvmlDeviceGetMaxCustomerBoostClock(
        device: nvmlDevice_t, type_: nvmlClockType_t, clock: *mut c_uint,
    ) {
        give(clock, megahertz(Device::of(device)?.profile()?, type_)?)
    }
    fn nvmlDeviceGetClock(device: nvmlDevice_t, clockType: nvmlClockType_t, clockId: nvmlClockId_t, clockMHz: *mut c_uint) {
        if clockId >= NVML_CLOCK_ID_COUNT {
            return Err(NVML_ERROR_INVALID_ARGUMENT);
        }
        give(clockMHz, megahertz(Device::of(device)?.profile()?, clockType)?)
    }
    fn nvmlDeviceGetSupportedMemoryClocks(device: nvmlDevice_t, count: *mut c_uint, clocksMHz: *mut c_uint) {
        give_array(clocksMHz, count, &[Device::of(device)?.profile()?.memory_clock_mhz])
    }
    fn nvmlDeviceGetSupportedGraphicsClocks(
        device: nvmlDevice_t, memoryClockMHz: c_uint, count: *mut c_uint, clocksMHz: *mut c_uint,
    ) {
        let device = Device::of(device)?;
        let profile = device.profile()?;
        if memoryClockMHz != profile.memory_clock_mhz {
            return Err(NVML_ERROR_NOT_FOUND);
        }
        give_array(clocksMHz, count, &[profile.sm_clock_mhz])
    }
    // Nothing ever slows a simulated board down.
    fn nvmlDeviceGetCurrentClocksEventReasons / nvmlDeviceGetCurrentClocksThrottleReasons(device: nvmlDevice_t, reasons: *mut c_ulonglong) {
        let idle = utilization::last(&Device::of(device)?)?.gpu == 0;
        give(reasons, if idle { nvmlClocksEventReasonGpuIdle } else { nvmlClocksEventReasonNone })
    }
    fn nvmlDeviceGetSupportedClocksEventReasons / nvmlDeviceGetSupportedClocksThrottleReasons(
        device: nvmlDevice_t, reasons: *mut c_ulonglong,
    ) {
        Device::of(device)?;
        give(reasons, nvmlClocksEventReasonGpuIdle)
    }
    fn nvmlDeviceGetViolationStatus(device: nvmlDevice_t, perfPolicyType: nvmlPerfPolicyType_t, violTime: *mut nvmlViolationTime_t) {
        if perfPolicyType >= NVML_PERF_POLICY_COUNT {
            return Err(NVML_ERROR_INVALID_ARGUMENT);
        }
        Device::of(device)?;
        give(violTime, nvmlViolationTime_t { referenceTime: gpu_sim::clock::realtime_ns(), violationTime: 0 })
    }
    fn nvmlDeviceGetPerformanceState / nvmlDeviceGetPowerState(device: nvmlDevice_t, pState: *mut nvmlPstates_t) {
        Device::of(device)?;
        give(pState, NVML_PSTATE_0)
    }
}

fn megahertz(profile: &Profile, clock: nvmlClockType_t) -> Answer<c_uint> {
    match clock {
        NVML_CLOCK_GRAPHICS | NVML_CLOCK_SM => Ok(profile.sm_clock_mhz),
        NVML_CLOCK_MEM => Ok(profile.memory_clock_mhz),
        NVML_CLOCK_VIDEO => Ok(profile.sm_clock_mhz.saturating_mul(VIDEO_PERCENT) / 100),
        _ => Err(NVML_ERROR_INVALID_ARGUMENT),
    }
}
