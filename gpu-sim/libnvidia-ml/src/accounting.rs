//! What processes did in their whole lives, where the profile says that accounting mode is on.

use std::ffi::{c_uint, c_ulonglong};

use cuda_sys_stubs::nvml_abi::*;
use gpu_sim::command::ProcessUsage;

use crate::door::{Answer, exports, give, give_array, take};
use crate::session::{Device, lost};

/// Rows that accounting keeps: what `nvidia-smi -q` shows of every board. The device forgets the dead earlier (README).
const ROWS: c_uint = 4000;

exports! {
    fn nvmlDeviceGetAccountingMode(device: nvmlDevice_t, mode: *mut nvmlEnableState_t) {
        let is_on = Device::of(device)?.profile()?.accounting;
        give(mode, if is_on { NVML_FEATURE_ENABLED } else { NVML_FEATURE_DISABLED })
    }
    fn nvmlDeviceGetAccountingBufferSize(device: nvmlDevice_t, bufferSize: *mut c_uint) {
        Device::of(device)?;
        give(bufferSize, ROWS)
    }
    fn nvmlDeviceGetAccountingPids(device: nvmlDevice_t, count: *mut c_uint, pids: *mut c_uint) {
        let mut rows: Vec<_> = kept(device)?.iter().map(|process| process.pid).collect();
        rows.sort_unstable();
        rows.dedup();
        give_array(pids, count, &rows)
    }
    fn nvmlDeviceGetAccountingStats(device: nvmlDevice_t, pid: c_uint, stats: *mut nvmlAccountingStats_t) {
        let process = latest(device, pid)?;
        give(stats, nvmlAccountingStats_t {
            gpuUtilization: percent_of_life(&process, process.gpu_busy_ns_total),
            memoryUtilization: percent_of_life(&process, process.copy_busy_ns_total),
            maxMemoryUsage: process.memory_bytes_peak,
            time: life_when_ended_ms(&process),
            startTime: begun_us(&process),
            isRunning: process.alive.into(),
            reserved: [0; 5],
        })
    }
    // The device's samples are of one length, and so are the means that the sums are made of.
    fn nvmlDeviceGetAccountingStats_v2(device: nvmlDevice_t, stats: *mut nvmlAccountingStats_v2_t) {
        let process = latest(device, take((&raw const (*stats).pid).cast::<c_uint>())?)?;
        let period_ns = Device::of(device)?.machine.profile().timing.sample_period_ns;
        let samples = process.context_ns_total.checked_div(period_ns).unwrap_or(0);
        let (gpu, memory) = (
            percent_of_life(&process, process.gpu_busy_ns_total),
            percent_of_life(&process, process.copy_busy_ns_total),
        );
        let sum = |percent| samples.saturating_mul(u64::from(percent)).saturating_mul(100);
        give(stats, nvmlAccountingStats_v2_t {
            pid: process.pid,
            isRunning: process.alive.into(),
            gpuUtilization: gpu,
            memoryUtilization: memory,
            maxMemoryUsage: process.memory_bytes_peak,
            sampleCount: c_uint::try_from(samples).unwrap_or(c_uint::MAX),
            sumGpuUtil: sum(gpu),
            sumFbUtil: sum(memory),
            time: life_when_ended_ms(&process),
            startTime: begun_us(&process),
        })
    }
}

/// Every process that has or had a context on the device.
fn kept(device: nvmlDevice_t) -> Answer<Vec<ProcessUsage>> {
    let device = Device::of(device)?;
    if !device.profile()?.accounting {
        return Err(NVML_ERROR_NOT_SUPPORTED);
    }
    let mut usage = device.machine.usage().map_err(lost)?;
    usage.retain(|process| process.device == device.index && process.context_begun_ns > 0);
    Ok(usage)
}

/// Of several processes that had the number, the one that came last.
fn latest(device: nvmlDevice_t, pid: c_uint) -> Answer<ProcessUsage> {
    let kept = kept(device)?.into_iter();
    kept.filter(|process| process.pid == pid)
        .max_by_key(|process| process.context_begun_ns)
        .ok_or(NVML_ERROR_NOT_FOUND)
}

fn percent_of_life(process: &ProcessUsage, busy_ns: u64) -> c_uint {
    let percent = busy_ns
        .saturating_mul(100)
        .checked_div(process.context_ns_total);
    percent.unwrap_or(0).min(100) as c_uint
}

/// nvml.h, `nvmlAccountingStats_t`: 0 while it runs.
fn life_when_ended_ms(process: &ProcessUsage) -> c_ulonglong {
    match process.alive {
        true => 0,
        false => process.context_ns_total / 1_000_000,
    }
}

fn begun_us(process: &ProcessUsage) -> c_ulonglong {
    gpu_sim::clock::realtime_of(process.context_begun_ns) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpu_sim::command::CopiedBytes;

    fn process(alive: bool) -> ProcessUsage {
        ProcessUsage {
            pid: 7,
            start_time_ticks: 1,
            container: String::new(),
            device: 0,
            alive,
            contexts: alive.into(),
            context_begun_ns: 1,
            context_ns_total: 40_000_000,
            memory_bytes_current: 0,
            memory_bytes_peak: 0,
            gpu_busy_ns_total: 10_000_000,
            gpu_wait_ns_total: 0,
            copy_busy_ns_total: 80_000_000,
            kernels_total: 0,
            copied: CopiedBytes::default(),
        }
    }

    #[test]
    fn a_life_is_told_when_it_has_ended_and_parts_of_it_before() {
        let (alive, ended) = (process(true), process(false));
        assert_eq!(
            (life_when_ended_ms(&alive), life_when_ended_ms(&ended)),
            (0, 40)
        );
        for process in [alive, ended] {
            assert_eq!(percent_of_life(&process, process.gpu_busy_ns_total), 25);
            let both_engines = percent_of_life(&process, process.copy_busy_ns_total);
            assert_eq!(both_engines, 100, "two copy engines are no more than all");
        }
    }
}
