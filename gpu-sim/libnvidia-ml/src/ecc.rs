//! Memory errors: a simulated board with ECC has it switched on and has never had one.

use std::ffi::{c_uint, c_ulonglong};

use cuda_sys_stubs::nvml_abi::*;

use crate::door::{Answer, exports, give, give_array};
use crate::session::Device;

exports! {
    fn nvmlDeviceGetEccMode(device: nvmlDevice_t, current: *mut nvmlEnableState_t, pending: *mut nvmlEnableState_t) {
        with_ecc(device)?;
        give(current, NVML_FEATURE_ENABLED)?;
        give(pending, NVML_FEATURE_ENABLED)
    }
    fn nvmlDeviceGetDefaultEccMode(device: nvmlDevice_t, defaultMode: *mut nvmlEnableState_t) {
        with_ecc(device)?;
        give(defaultMode, NVML_FEATURE_ENABLED)
    }
    fn nvmlDeviceGetTotalEccErrors(
        device: nvmlDevice_t, errorType: nvmlMemoryErrorType_t, counterType: nvmlEccCounterType_t, eccCounts: *mut c_ulonglong,
    ) {
        check_kind(errorType, counterType)?;
        with_ecc(device)?;
        give(eccCounts, 0)
    }
    fn nvmlDeviceGetMemoryErrorCounter(
        device: nvmlDevice_t, errorType: nvmlMemoryErrorType_t, counterType: nvmlEccCounterType_t, locationType: nvmlMemoryLocation_t,
        count: *mut c_ulonglong,
    ) {
        check_kind(errorType, counterType)?;
        if locationType >= NVML_MEMORY_LOCATION_COUNT {
            return Err(NVML_ERROR_INVALID_ARGUMENT);
        }
        with_ecc(device)?;
        give(count, 0)
    }
    // Pages are retired up to Turing; from Ampere on, rows are remapped (NVIDIA, "GPU Memory Error Management").
    fn nvmlDeviceGetRetiredPages(
        device: nvmlDevice_t, cause: nvmlPageRetirementCause_t, pageCount: *mut c_uint, addresses: *mut c_ulonglong,
    ) {
        if cause >= NVML_PAGE_RETIREMENT_CAUSE_COUNT {
            return Err(NVML_ERROR_INVALID_ARGUMENT);
        }
        generation(device, |major| major < 8)?;
        give_array(addresses, pageCount, &[])
    }
    fn nvmlDeviceGetRetiredPagesPendingStatus(device: nvmlDevice_t, isPending: *mut nvmlEnableState_t) {
        generation(device, |major| major < 8)?;
        give(isPending, NVML_FEATURE_DISABLED)
    }
    fn nvmlDeviceGetRemappedRows(
        device: nvmlDevice_t, corrRows: *mut c_uint, uncRows: *mut c_uint, isPending: *mut c_uint, failureOccurred: *mut c_uint,
    ) {
        generation(device, |major| major >= 8)?;
        give(corrRows, 0)?;
        give(uncRows, 0)?;
        give(isPending, 0)?;
        give(failureOccurred, 0)
    }
}

fn check_kind(error: nvmlMemoryErrorType_t, counter: nvmlEccCounterType_t) -> Answer {
    if error >= NVML_MEMORY_ERROR_TYPE_COUNT || counter >= NVML_ECC_COUNTER_TYPE_COUNT {
        return Err(NVML_ERROR_INVALID_ARGUMENT);
    }
    Ok(())
}

/// The device, if it has ECC memory.
pub(crate) fn with_ecc(device: nvmlDevice_t) -> Answer<Device> {
    let device = Device::of(device)?;
    if device.profile()?.ecc {
        Ok(device)
    } else {
        Err(NVML_ERROR_NOT_SUPPORTED)
    }
}

/// Whether the device has ECC memory and is of a generation, by its major compute capability, that does this.
fn generation(device: nvmlDevice_t, does: impl Fn(u32) -> bool) -> Answer {
    let device = with_ecc(device)?;
    if does(device.profile()?.compute_capability.0) {
        Ok(())
    } else {
        Err(NVML_ERROR_NOT_SUPPORTED)
    }
}
