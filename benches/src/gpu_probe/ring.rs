//! NVML's ring of samples: which process had the device at that instant, and how busy it was.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::gpu::Gpu;
use crate::nvml::{Nvml, Sample};
use crate::statistics::{mean_and_deviation, summary};

/// Between two questions: the documentation tells of samples every sixth to one second, the driver's source of 139 ms.
const POLL: Duration = Duration::from_millis(50);
/// Raw samples that are written down.
const SHOWN: usize = 200;

/// Asks on and on for a while.
pub(crate) fn ask(seconds: f64) -> Result<Value, String> {
    let nvml = Nvml::open(&Gpu::initialised()?.uuid()?)?;
    let began = Instant::now();
    let (mut queries_us, mut lags_ms, mut busy) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen: BTreeMap<(u64, u32), Sample> = BTreeMap::new();
    let mut answered_sizes = BTreeSet::new();
    while began.elapsed().as_secs_f64() < seconds {
        let before = Instant::now();
        let samples = nvml.samples(0)?;
        queries_us.push(before.elapsed().as_secs_f64() * 1e6);
        answered_sizes.insert(samples.len());
        if let Some(newest) = samples.iter().map(|sample| sample.time_us).max() {
            lags_ms.push((now_us() as f64 - newest as f64) / 1e3);
        }
        seen.extend(
            samples
                .iter()
                .map(|sample| ((sample.time_us, sample.pid), *sample)),
        );
        busy.push(f64::from(nvml.gpu_percent()?));
        // There is nothing to wait for but time: NVML tells nobody of a new sample, and who asks without a pause keeps the driver busy
        // that is measured.
        #[expect(
            clippy::disallowed_methods,
            reason = "a period of questions, not a wait for an event"
        )]
        thread::sleep(POLL);
    }
    Ok(told(&queries_us, lags_ms, &busy, &seen, &answered_sizes))
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

fn told(
    queries_us: &[f64],
    lags_ms: Vec<f64>,
    busy: &[f64],
    seen: &BTreeMap<(u64, u32), Sample>,
    answered_sizes: &BTreeSet<usize>,
) -> Value {
    let times: Vec<u64> = seen
        .keys()
        .map(|(time_us, _)| *time_us)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let periods = times
        .windows(2)
        .map(|pair| (pair[1] - pair[0]) as f64 / 1e3);
    let mut processes: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for sample in seen.values() {
        processes
            .entry(sample.pid)
            .or_default()
            .push(f64::from(sample.sm_percent));
    }
    let processes = processes.iter().map(|(pid, percents)| {
        let (mean, deviation) = mean_and_deviation(percents);
        json!({ "pid": pid, "samples": percents.len(), "sm_percent_mean": mean, "sm_percent_deviation": deviation })
    });
    let (busy_mean, busy_deviation) = mean_and_deviation(busy);
    let raw = seen.values().take(SHOWN);
    let raw = raw.map(|sample| json!([sample.time_us, sample.pid, sample.sm_percent]));
    json!({
        "queries": queries_us.len(),
        "query_us": summary(queries_us.to_vec()),
        "samples_in_an_answer": answered_sizes,
        "period_ms": summary(periods.collect()),
        "lag_ms": summary(lags_ms),
        "processes": processes.collect::<Vec<_>>(),
        "device_percent_mean": busy_mean,
        "device_percent_deviation": busy_deviation,
        "samples_time_us_pid_percent": raw.collect::<Vec<_>>(),
    })
}
