//! Temperature, power, fans: constants of the profile, or what follows from the utilization.

use std::ffi::{c_uint, c_ulonglong};

use cuda_sys_stubs::nvml_abi::*;

use crate::door::{Answer, exports, give, take};
use crate::session::{Device, lost};
use crate::utilization;

/// What an idle board shows in a cooled rack, and how much a busy one adds, in °C: plausible, not modelled.
const IDLE_CELSIUS: c_uint = 36;
const BUSY_CELSIUS_ADDED: c_uint = 30;

/// Thresholds in °C, of all boards those that `nvidia-smi -q` shows of a V100.
const SHUTDOWN_CELSIUS: c_uint = 90;
const SLOWDOWN_CELSIUS: c_uint = 87;
const OPERATING_CELSIUS_MAX: c_uint = 83;

/// What the fans of a board that has some always do, in percent: plausible, not modelled.
const FAN_PERCENT: c_uint = 30;

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
    fn nvmlDeviceGetTemperatureThreshold(device: nvmlDevice_t, thresholdType: nvmlTemperatureThresholds_t, temp: *mut c_uint) {
        Device::of(device)?;
        give(temp, match thresholdType {
            NVML_TEMPERATURE_THRESHOLD_SHUTDOWN => SHUTDOWN_CELSIUS,
            NVML_TEMPERATURE_THRESHOLD_SLOWDOWN => SLOWDOWN_CELSIUS,
            NVML_TEMPERATURE_THRESHOLD_GPU_MAX => OPERATING_CELSIUS_MAX,
            NVML_TEMPERATURE_THRESHOLD_COUNT.. => return Err(NVML_ERROR_INVALID_ARGUMENT),
            _ => return Err(NVML_ERROR_NOT_SUPPORTED),
        })
    }
    fn nvmlDeviceGetFanSpeed(device: nvmlDevice_t, speed: *mut c_uint) {
        fans(device)?;
        give(speed, FAN_PERCENT)
    }
    fn nvmlDeviceGetFanSpeed_v2(device: nvmlDevice_t, fan: c_uint, speed: *mut c_uint) {
        if fan >= fans(device)? {
            return Err(NVML_ERROR_INVALID_ARGUMENT);
        }
        give(speed, FAN_PERCENT)
    }
    fn nvmlDeviceGetNumFans(device: nvmlDevice_t, numFans: *mut c_uint) { give(numFans, fans(device)?) }
    fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, power: *mut c_uint) { give(power, milliwatts(&Device::of(device)?)?) }
    fn nvmlDeviceGetTotalEnergyConsumption(device: nvmlDevice_t, energy: *mut c_ulonglong) { give(energy, millijoules(&Device::of(device)?)?) }
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
    fn nvmlDeviceGetPowerManagementMode(device: nvmlDevice_t, mode: *mut nvmlEnableState_t) {
        Device::of(device)?;
        give(mode, NVML_FEATURE_ENABLED)
    }
    fn nvmlDeviceGetPowerSource(device: nvmlDevice_t, powerSource: *mut nvmlPowerSource_t) {
        Device::of(device)?;
        give(powerSource, NVML_POWER_SOURCE_AC)
    }
}

fn celsius(device: &Device) -> Answer<c_uint> {
    let gpu_percent = utilization::last(device)?.gpu;
    Ok(IDLE_CELSIUS.saturating_add(BUSY_CELSIUS_ADDED.saturating_mul(gpu_percent) / 100))
}

/// How many fans the board has; none is not supported.
fn fans(device: nvmlDevice_t) -> Answer<c_uint> {
    match Device::of(device)?.profile()?.fan_count {
        0 => Err(NVML_ERROR_NOT_SUPPORTED),
        fans => Ok(fans),
    }
}

/// Between what an idle board takes and its limit, as it is busy.
pub(crate) fn milliwatts(device: &Device) -> Answer<c_uint> {
    let profile = device.profile()?;
    let busy =
        busy_range_mw(device)?.saturating_mul(u64::from(utilization::last(device)?.gpu)) / 100;
    let busy = c_uint::try_from(busy).unwrap_or(c_uint::MAX);
    Ok(profile.power_idle_mw.saturating_add(busy))
}

/// Since the host was started, when a driver is loaded: the power of an idle board, and what being busy added.
pub(crate) fn millijoules(device: &Device) -> Answer<u64> {
    /// mW × ns in a mJ.
    const MILLIWATT_NS: u128 = 1_000_000_000;
    let engine = device.machine.engine_usage(device.index).map_err(lost)?;
    let idle =
        u128::from(device.profile()?.power_idle_mw) * u128::from(gpu_sim::clock::monotonic_ns());
    let busy = u128::from(busy_range_mw(device)?) * u128::from(engine.gpu_busy_ns_total);
    Ok(u64::try_from((idle + busy) / MILLIWATT_NS).unwrap_or(u64::MAX))
}

fn busy_range_mw(device: &Device) -> Answer<u64> {
    let profile = device.profile()?;
    Ok(u64::from(
        profile.power_limit_mw.saturating_sub(profile.power_idle_mw),
    ))
}
