//! Temperature, power, clocks, errors: constants of the profile, or what follows from the utilization.

use std::ffi::{c_uint, c_ulonglong};

use cuda_sys_stubs::nvml_abi::*;
use gpu_sim::profile::Profile;

use crate::door::{Answer, exports, give, take};
use crate::session::Device;
use crate::utilization;

/// What an idle board shows in a cooled rack, and how much a busy one adds, in °C: plausible, not modelled.
const IDLE_CELSIUS: c_uint = 36;
const BUSY_CELSIUS_ADDED: c_uint = 30;

exports! {
    fn nvmlDeviceGetTemperature(device: nvmlDevice_t, sensorType: nvmlTemperatureSensors_t, temp: *mut c_uint) {
        let device = Device::of(device)?;
        if sensorType != NVML_TEMPERATURE_GPU {
            return Err(NVML_ERROR_INVALID_ARGUMENT);
        }
        give(temp, celsius(&device)?)
    }
    fn nvmlDeviceGetTemperatureV(device: nvmlDevice_t, temperature: *mut nvmlTemperature_t) {
        let device = Device::of(device)?;
        if take((&raw const (*temperature).version).cast::<c_uint>())? != nvmlTemperature_v1 {
            return Err(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        }
        let asked = take(temperature)?;
        if asked.sensorType != NVML_TEMPERATURE_GPU {
            return Err(NVML_ERROR_INVALID_ARGUMENT);
        }
        let celsius = celsius(&device)?.try_into().map_err(|_| NVML_ERROR_UNKNOWN)?;
        give(temperature, nvmlTemperature_t { temperature: celsius, ..asked })
    }
    fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, power: *mut c_uint) {
        let device = Device::of(device)?;
        let profile = device.profile()?;
        let range = u64::from(profile.power_limit_mw.saturating_sub(profile.power_idle_mw));
        let busy = range.saturating_mul(u64::from(utilization::last(&device)?.gpu)) / 100;
        give(power, profile.power_idle_mw.saturating_add(c_uint::try_from(busy).unwrap_or(c_uint::MAX)))
    }
    fn nvmlDeviceGetPowerManagementLimit / nvmlDeviceGetPowerManagementDefaultLimit / nvmlDeviceGetEnforcedPowerLimit(
        device: nvmlDevice_t, limit: *mut c_uint,
    ) {
        give(limit, Device::of(device)?.profile()?.power_limit_mw)
    }
    fn nvmlDeviceGetPowerManagementLimitConstraints(device: nvmlDevice_t, minLimit: *mut c_uint, maxLimit: *mut c_uint) {
        let limit = Device::of(device)?.profile()?.power_limit_mw;
        give(minLimit, limit)?;
        give(maxLimit, limit)
    }
    fn nvmlDeviceGetClockInfo / nvmlDeviceGetMaxClockInfo / nvmlDeviceGetApplicationsClock / nvmlDeviceGetDefaultApplicationsClock(
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
    fn nvmlDeviceGetPerformanceState / nvmlDeviceGetPowerState(device: nvmlDevice_t, pState: *mut nvmlPstates_t) {
        Device::of(device)?;
        give(pState, NVML_PSTATE_0)
    }
    fn nvmlDeviceGetEccMode(device: nvmlDevice_t, current: *mut nvmlEnableState_t, pending: *mut nvmlEnableState_t) {
        let mode = if Device::of(device)?.profile()?.ecc { NVML_FEATURE_ENABLED } else { return Err(NVML_ERROR_NOT_SUPPORTED) };
        give(current, mode)?;
        give(pending, mode)
    }
    fn nvmlDeviceGetTotalEccErrors(
        device: nvmlDevice_t, errorType: nvmlMemoryErrorType_t, counterType: nvmlEccCounterType_t, eccCounts: *mut c_ulonglong,
    ) {
        // Types and counters are numbered 0 and 1.
        if errorType > 1 || counterType > 1 {
            return Err(NVML_ERROR_INVALID_ARGUMENT);
        }
        if !Device::of(device)?.profile()?.ecc {
            return Err(NVML_ERROR_NOT_SUPPORTED);
        }
        give(eccCounts, 0)
    }
}

fn celsius(device: &Device) -> Answer<c_uint> {
    let gpu_percent = utilization::last(device)?.gpu;
    Ok(IDLE_CELSIUS.saturating_add(BUSY_CELSIUS_ADDED.saturating_mul(gpu_percent) / 100))
}

/// Clocks do not change: they are what the profile says.
fn megahertz(profile: &Profile, clock: nvmlClockType_t) -> Answer<c_uint> {
    match clock {
        NVML_CLOCK_GRAPHICS | NVML_CLOCK_SM => Ok(profile.sm_clock_mhz),
        NVML_CLOCK_MEM => Ok(profile.memory_clock_mhz),
        NVML_CLOCK_VIDEO => Err(NVML_ERROR_NOT_SUPPORTED),
        _ => Err(NVML_ERROR_INVALID_ARGUMENT),
    }
}
