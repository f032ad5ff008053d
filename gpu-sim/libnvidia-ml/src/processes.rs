//! Who uses a device. A process counts as soon as it has a context, as on hardware: asking NVML makes none.

use std::collections::BTreeMap;
use std::ffi::{c_uint, c_ulonglong};

use cuda_sys_stubs::nvml_abi::*;
use gpu_sim::command::UtilizationSample;

use crate::door::{Answer, exports, give_array, take};
use crate::session::{Device, lost};

/// Instance ids of a process on a device without MIG.
const NO_INSTANCE: c_uint = c_uint::MAX;

exports! {
    fn nvmlDeviceGetComputeRunningProcesses(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t) {
        let rows: Vec<_> = compute(device)?.into_iter().map(|(pid, usedGpuMemory)| nvmlProcessInfo_v1_t { pid, usedGpuMemory }).collect();
        give_array(infos, infoCount, &rows)
    }
    fn nvmlDeviceGetComputeRunningProcesses_v2 / nvmlDeviceGetComputeRunningProcesses_v3(
        device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_t,
    ) {
        let row = |(pid, usedGpuMemory)| nvmlProcessInfo_t { pid, usedGpuMemory, gpuInstanceId: NO_INSTANCE, computeInstanceId: NO_INSTANCE };
        let rows: Vec<_> = compute(device)?.into_iter().map(row).collect();
        give_array(infos, infoCount, &rows)
    }
    // Nothing draws on a simulated device, and MPS is not simulated.
    fn nvmlDeviceGetGraphicsRunningProcesses(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t) {
        Device::of(device)?;
        give_array(infos, infoCount, &[])
    }
    fn nvmlDeviceGetGraphicsRunningProcesses_v2 / nvmlDeviceGetGraphicsRunningProcesses_v3
        / nvmlDeviceGetMPSComputeRunningProcesses_v2 / nvmlDeviceGetMPSComputeRunningProcesses_v3(
        device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_t,
    ) {
        Device::of(device)?;
        give_array(infos, infoCount, &[])
    }
    fn nvmlDeviceGetMPSComputeRunningProcesses(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t) {
        Device::of(device)?;
        give_array(infos, infoCount, &[])
    }
    fn nvmlDeviceGetProcessUtilization(
        device: nvmlDevice_t, utilization: *mut nvmlProcessUtilizationSample_t, processSamplesCount: *mut c_uint, lastSeenTimeStamp: c_ulonglong,
    ) {
        let device = Device::of(device)?;
        let samples = device.machine.utilization(device.index).map_err(lost)?;
        let rows = by_process(&samples, lastSeenTimeStamp);
        if rows.is_empty() {
            return Err(NVML_ERROR_NOT_FOUND);
        }
        give_array(utilization, processSamplesCount, &rows)
    }
    fn nvmlDeviceGetProcessesUtilizationInfo(device: nvmlDevice_t, procesesUtilInfo: *mut nvmlProcessesUtilizationInfo_t) {
        let device = Device::of(device)?;
        if take((&raw const (*procesesUtilInfo).version).cast::<c_uint>())? != nvmlProcessesUtilizationInfo_v1 {
            return Err(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        }
        let asked = take(procesesUtilInfo)?;
        let samples = device.machine.utilization(device.index).map_err(lost)?;
        let rows: Vec<_> = by_process(&samples, asked.lastSeenTimeStamp).iter().map(with_more_engines).collect();
        if rows.is_empty() {
            return Err(NVML_ERROR_NOT_FOUND);
        }
        give_array(asked.procUtilArray, &raw mut (*procesesUtilInfo).processSamplesCount, &rows)
    }
    fn nvmlDeviceGetRunningProcessDetailList(device: nvmlDevice_t, plist: *mut nvmlProcessDetailList_t) {
        if take((&raw const (*plist).version).cast::<c_uint>())? != nvmlProcessDetailList_v1 {
            return Err(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        }
        let asked = take(plist)?;
        let processes = match asked.mode {
            NVML_PROCESS_MODE_COMPUTE | NVML_PROCESS_MODE_ALL => compute(device)?,
            NVML_PROCESS_MODE_GRAPHICS | NVML_PROCESS_MODE_MPS => Vec::new(),
            _ => return Err(NVML_ERROR_INVALID_ARGUMENT),
        };
        let rows: Vec<_> = processes.into_iter().map(detail).collect();
        give_array(asked.procArray, &raw mut (*plist).numProcArrayEntries, &rows)
    }
}

/// Process id and bytes of every process that has a context on the device.
fn compute(device: nvmlDevice_t) -> Answer<Vec<(c_uint, c_ulonglong)>> {
    let device = Device::of(device)?;
    let usage = device.machine.usage().map_err(lost)?;
    Ok(usage
        .iter()
        .filter(|process| process.device == device.index && process.alive && process.contexts > 0)
        .map(|process| (process.pid, process.memory_bytes_current))
        .collect())
}

fn detail((pid, usedGpuMemory): (c_uint, c_ulonglong)) -> nvmlProcessDetail_v1_t {
    nvmlProcessDetail_v1_t {
        pid,
        usedGpuMemory,
        gpuInstanceId: NO_INSTANCE,
        computeInstanceId: NO_INSTANCE,
        usedGpuCcProtectedMemory: 0,
    }
}

/// The newer record; the engines that it adds are not there.
fn with_more_engines(sample: &nvmlProcessUtilizationSample_t) -> nvmlProcessUtilizationInfo_v1_t {
    nvmlProcessUtilizationInfo_v1_t {
        timeStamp: sample.timeStamp,
        pid: sample.pid,
        smUtil: sample.smUtil,
        memUtil: sample.memUtil,
        encUtil: sample.encUtil,
        decUtil: sample.decUtil,
        jpgUtil: 0,
        ofaUtil: 0,
    }
}

/// What the ring says of each process since `last_seen_us`: the mean over *all* samples of that time, each of which names
/// the one process that it caught. How the real library averages is not public; this is one of the two candidates.
fn by_process(
    samples: &[UtilizationSample],
    last_seen_us: u64,
) -> Vec<nvmlProcessUtilizationSample_t> {
    let window: Vec<_> = samples
        .iter()
        .filter(|sample| sample.timestamp_us > last_seen_us)
        .collect();
    let count = u32::try_from(window.len()).unwrap_or(u32::MAX).max(1);
    let mut processes: BTreeMap<u32, (u64, u32, u32)> = BTreeMap::new();
    for sample in window {
        if let Some(pid) = sample.pid {
            let (time, gpu, memory) = processes.entry(pid).or_default();
            *time = sample.timestamp_us.max(*time);
            *gpu = gpu.saturating_add(sample.gpu_percent);
            *memory = memory.saturating_add(sample.memory_percent);
        }
    }
    let row = |(pid, (timeStamp, gpu, memory))| nvmlProcessUtilizationSample_t {
        pid,
        timeStamp,
        smUtil: gpu / count,
        memUtil: memory / count,
        encUtil: 0,
        decUtil: 0,
    };
    processes.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(timestamp_us: u64, pid: u32) -> UtilizationSample {
        UtilizationSample {
            timestamp_us,
            gpu_percent: 100,
            memory_percent: 0,
            pid: Some(pid),
        }
    }

    #[test]
    fn a_process_gets_its_part_of_the_samples_since_it_was_asked_last() {
        let samples = [
            sample(1, 7),
            sample(2, 8),
            sample(3, 7),
            sample(4, 7),
            sample(5, 7),
        ];
        let rows = by_process(&samples, 1);
        let seen: Vec<_> = rows
            .iter()
            .map(|row| (row.pid, row.smUtil, row.timeStamp))
            .collect();
        assert_eq!(seen, [(7, 75, 5), (8, 25, 2)]);
    }
}
