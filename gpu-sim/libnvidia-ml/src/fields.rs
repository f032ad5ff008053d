//! Figures that are asked for by number, each with a status of its own.

use std::ffi::{c_int, c_longlong, c_uint};

use cuda_sys_stubs::nvml_abi::*;

use crate::door::{Answer, exports, take};
use crate::ecc::with_ecc;
use crate::sensors;
use crate::session::Device;

exports! {
    fn nvmlDeviceGetFieldValues(device: nvmlDevice_t, valuesCount: c_int, values: *mut nvmlFieldValue_t) {
        Device::of(device)?;
        let count = usize::try_from(valuesCount).map_err(|_| NVML_ERROR_INVALID_ARGUMENT)?;
        for index in 0..count {
            let place = values.wrapping_add(index);
            let asked = take(place)?;
            place.write(answered(device, asked));
        }
        Ok(())
    }
}

/// The record with its value, or with the reason why there is none.
fn answered(device: nvmlDevice_t, asked: nvmlFieldValue_t) -> nvmlFieldValue_t {
    let found = value(device, asked.fieldId);
    let now_us = gpu_sim::clock::realtime_ns() / 1_000;
    let (valueType, value) = found.unwrap_or((asked.valueType, asked.value));
    nvmlFieldValue_t {
        timestamp: c_longlong::try_from(now_us).unwrap_or(c_longlong::MAX),
        latencyUsec: 0,
        valueType,
        nvmlReturn: found.err().unwrap_or(NVML_SUCCESS),
        value,
        ..asked
    }
}

fn value(device: nvmlDevice_t, field: c_uint) -> Answer<(nvmlValueType_t, nvmlValue_t)> {
    let number = |uiVal| Ok((NVML_VALUE_TYPE_UNSIGNED_INT, nvmlValue_t { uiVal }));
    match field {
        NVML_FI_DEV_ECC_CURRENT | NVML_FI_DEV_ECC_PENDING => {
            with_ecc(device).and_then(|_| number(1))
        }
        NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION => {
            let ullVal = sensors::millijoules(&Device::of(device)?)?;
            Ok((NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, nvmlValue_t { ullVal }))
        }
        NVML_FI_DEV_POWER_AVERAGE | NVML_FI_DEV_POWER_INSTANT => {
            number(sensors::milliwatts(&Device::of(device)?)?)
        }
        NVML_FI_DEV_PCIE_REPLAY_COUNTER => number(0),
        _ => Err(NVML_ERROR_NOT_SUPPORTED),
    }
}
