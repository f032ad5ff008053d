//! How busy a GPU is, as NVML tells it: with what the container's own processes did, and nobody else.
//!
//! What NVML does not tell by process, or knows under other numbers than the container's, stays the board's.
#![expect(
    unsafe_code,
    reason = "rewrites what NVML has written to the caller's out-pointers"
)]

use std::ffi::{c_uint, c_ulonglong};
use std::slice;

use cuda_sys_stubs::nvml_abi::*;
use limiter::units::Bytes;

use crate::entry::{Bare, Management};
use crate::hooks::processes::{Row, View, give, in_record, own_rows};
use crate::runtime::ProcessUse;
use crate::table::NvmlRows;

/// The container's rows. Where it has none: what NVML says where nobody at all did anything.
fn own_or_not_found<R: Row>(rows: &[R], view: &View) -> Result<Vec<R>, nvmlReturn_t> {
    let rows = own_rows(rows, &view.own);
    if rows.is_empty() {
        Err(NVML_ERROR_NOT_FOUND)
    } else {
        Ok(rows)
    }
}

/// `nvmlDeviceGetProcessUtilization`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn by_process(
    cx: Bare<Management>,
    call: impl FnOnce() -> nvmlReturn_t,
    device: nvmlDevice_t,
    array: *mut nvmlProcessUtilizationSample_t,
    count: *mut c_uint,
    last_seen_us: c_ulonglong,
) -> nvmlReturn_t {
    let Some(view) = View::of(&cx, device).filter(|_| !count.is_null()) else {
        return call();
    };
    let rows = view.nvml.process_utilization(device, last_seen_us);
    match rows.and_then(|rows| own_or_not_found(&rows, &view)) {
        // SAFETY: not null, and the caller's promise.
        Ok(rows) => unsafe { give(&rows, count, array) },
        Err(status) => status,
    }
}

/// `nvmlDeviceGetProcessesUtilizationInfo`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn by_process_in_record(
    cx: Bare<Management>,
    call: impl FnOnce() -> nvmlReturn_t,
    device: nvmlDevice_t,
    asked: *mut nvmlProcessesUtilizationInfo_t,
) -> nvmlReturn_t {
    let list = |real: &NvmlRows| real.nvmlDeviceGetProcessesUtilizationInfo;
    // SAFETY: the caller's promise.
    unsafe {
        in_record(&cx, call, list, device, asked, |view, _, rows| {
            own_or_not_found(rows, view)
        })
    }
}

/// `nvmlDeviceGetUtilizationRates`: of the last second.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn rates(
    cx: Bare<Management>,
    call: impl FnOnce() -> nvmlReturn_t,
    device: nvmlDevice_t,
    rates: *mut nvmlUtilization_t,
) -> nvmlReturn_t {
    let status = call();
    if status == NVML_SUCCESS
        && let Some(own) = own_rates(&cx, device, None)
    {
        // SAFETY: NVML's promise: after success it has written there.
        unsafe { rates.write(own) };
    }
    status
}

/// `nvmlDeviceGetDynamicPstatesInfo`: the same by domain. Of the video engine and the bus nothing is known by process.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn domains(
    cx: Bare<Management>,
    call: impl FnOnce() -> nvmlReturn_t,
    device: nvmlDevice_t,
    info: *mut nvmlGpuDynamicPstatesInfo_t,
) -> nvmlReturn_t {
    let status = call();
    if status == NVML_SUCCESS
        && let Some(own) = own_rates(&cx, device, None)
    {
        // SAFETY: NVML's promise: after success it has written there.
        show(own, unsafe { &mut *info });
    }
    status
}

fn show(own: nvmlUtilization_t, info: &mut nvmlGpuDynamicPstatesInfo_t) {
    let domains = [
        (NVML_GPU_UTILIZATION_DOMAIN_GPU, own.gpu),
        (NVML_GPU_UTILIZATION_DOMAIN_FB, own.memory),
    ];
    for (domain, percent) in domains {
        let place = usize::try_from(domain).ok();
        let place = place.and_then(|place| info.utilization.get_mut(place));
        if let Some(place) = place.filter(|place| place.bIsPresent != 0) {
            place.percentage = percent;
        }
    }
}

/// `nvmlDeviceGetSamples`: where the samples are of utilization, each says the container's mean of the time since `last_seen_us`.
/// NVML does not tell which sample was whose, but it tells the mean of each process.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn samples(
    cx: Bare<Management>,
    call: impl FnOnce() -> nvmlReturn_t,
    device: nvmlDevice_t,
    kind: nvmlSamplingType_t,
    last_seen_us: c_ulonglong,
    value_type: *const nvmlValueType_t,
    count: *const c_uint,
    array: *mut nvmlSample_t,
) -> nvmlReturn_t {
    let status = call();
    let percent: fn(nvmlUtilization_t) -> c_uint = match kind {
        NVML_GPU_UTILIZATION_SAMPLES => |own| own.gpu,
        NVML_MEMORY_UTILIZATION_SAMPLES => |own| own.memory,
        _ => return status,
    };
    if status != NVML_SUCCESS || array.is_null() {
        return status;
    }
    // SAFETY: NVML's promise: after success it has said there of what type the values are.
    let is_whole = unsafe { value_type.read() } == NVML_VALUE_TYPE_UNSIGNED_INT;
    if is_whole && let Some(own) = own_rates(&cx, device, Some(last_seen_us)) {
        // SAFETY: as above: how many samples it has written.
        let length = usize::try_from(unsafe { count.read() }).unwrap_or(0);
        // SAFETY: as above: they stand in the caller's array.
        let samples = unsafe { slice::from_raw_parts_mut(array, length) };
        for sample in samples {
            sample.sampleValue.uiVal = percent(own);
        }
    }
    status
}

/// What the container's processes had of a device: since a time, or in the last second. `None`: the board's figure stays.
fn own_rates(
    cx: &Bare<Management>,
    device: nvmlDevice_t,
    since_us: Option<u64>,
) -> Option<nvmlUtilization_t> {
    let view = View::of(cx, device)?;
    let compute = view.nvml.compute_processes(device)?;
    let holds = |process: &&ProcessUse| process.memory > Bytes::default();
    let is_known = |process: &ProcessUse| compute.iter().any(|row| row.pid == process.pid);
    if !view.own.iter().filter(holds).all(is_known) {
        return None;
    }
    let rows = match since_us {
        Some(since_us) => view.nvml.process_utilization(device, since_us),
        None => view.nvml.recent_process_utilization(device),
    };
    match rows {
        Ok(rows) => Some(sum(&own_rows(&rows, &view.own))),
        Err(NVML_ERROR_NOT_FOUND) => Some(sum(&[])), // nobody did anything
        Err(_) => None,
    }
}

fn sum(rows: &[nvmlProcessUtilizationSample_t]) -> nvmlUtilization_t {
    let percent = |of: fn(&nvmlProcessUtilizationSample_t) -> c_uint| {
        let total = rows.iter().map(of).fold(0, c_uint::saturating_add);
        total.min(100)
    };
    nvmlUtilization_t {
        gpu: percent(|row| row.smUtil),
        memory: percent(|row| row.memUtil),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilization_is_that_of_all_processes_together() {
        let row = |percent| nvmlProcessUtilizationSample_t {
            smUtil: percent,
            memUtil: 1,
            ..Row::EMPTY
        };
        let rates = sum(&[row(30), row(50)]);
        assert_eq!((rates.gpu, rates.memory), (80, 2));
        assert_eq!(sum(&[row(70), row(50)]).gpu, 100);
    }

    #[test]
    fn a_domain_that_a_board_lacks_stays_lacking() {
        let domain = |is_present| anonymous_utilization {
            bIsPresent: is_present,
            percentage: 90,
            incThreshold: 0,
            decThreshold: 0,
        };
        let mut info = nvmlGpuDynamicPstatesInfo_t {
            flags: 0,
            utilization: [1, 0, 1, 1, 0, 0, 0, 0].map(domain),
        };
        show(
            nvmlUtilization_t {
                gpu: 30,
                memory: 20,
            },
            &mut info,
        );
        let told = info.utilization.map(|domain| domain.percentage);
        assert_eq!(told, [30, 90, 90, 90, 90, 90, 90, 90]);
    }
}
