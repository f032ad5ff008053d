//! What a window came to, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cuda::Gpu;
use crate::file::Workload;
use crate::player::{Measured, Player};

/// Version of the JSON form.
const SCHEMA: u32 = 1;

/// One window of one workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    schema: u32,
    workload: String,
    /// What an item is.
    unit: String,
    /// Items of an iteration.
    batch: u32,
    device: String,
    /// Whether the device is the project's simulation.
    simulated: bool,
    seconds: f64,
    /// Whether Ctrl-C ended the window before its time.
    interrupted: bool,
    iterations: u64,
    items: u64,
    items_per_second: f64,
    /// From the arrival of an iteration to its completion; nothing where there was none.
    latency_ms: Option<Latencies>,
    /// Iterations that arrived in the window and were not begun.
    waiting: u64,
    kernels_launched: u64,
    kernels_per_iteration: u64,
    /// GPU time that the kernels of an iteration are to take: by roofline or as the file wants.
    gpu_ms_wanted_per_iteration: f64,
    /// GPU time that they do take on a device of their own, by calibration.
    gpu_ms_calibrated_per_iteration: f64,
}

/// Percentiles by nearest rank, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Latencies {
    p50: f64,
    p95: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

impl Latencies {
    fn of(mut latencies_ns: Vec<u64>) -> Option<Self> {
        latencies_ns.sort_unstable();
        let ms = |permille| percentile(&latencies_ns, permille).map(|ns| ns as f64 / 1e6);
        Some(Self {
            p50: ms(500)?,
            p95: ms(950)?,
            p99: ms(990)?,
            p99_9: ms(999)?,
            max: ms(1000)?,
        })
    }
}

/// The least value that so many thousandths of the values do not exceed; nothing where there is none.
fn percentile(sorted: &[u64], permille: usize) -> Option<u64> {
    let rank = (sorted.len() * permille).div_ceil(1000);
    sorted.get(rank.checked_sub(1)?).copied()
}

impl Report {
    pub(crate) fn new(
        gpu: &Gpu,
        workload: &Workload,
        batch: u32,
        player: &Player<'_>,
        measured: Measured,
    ) -> Self {
        let iterations = measured.latencies_ns.len() as u64;
        let items = iterations * u64::from(batch);
        let seconds = measured.took_ns as f64 / 1e9;
        Self {
            schema: SCHEMA,
            workload: workload.name.clone(),
            unit: workload.file.unit.clone(),
            batch,
            device: gpu.name.clone(),
            simulated: gpu.simulated,
            seconds,
            interrupted: measured.interrupted,
            iterations,
            items,
            items_per_second: if seconds > 0.0 {
                items as f64 / seconds
            } else {
                0.0
            },
            latency_ms: Latencies::of(measured.latencies_ns),
            waiting: measured.waiting,
            kernels_launched: iterations * player.kernels,
            kernels_per_iteration: player.kernels,
            gpu_ms_wanted_per_iteration: player.wanted_ns / 1e6,
            gpu_ms_calibrated_per_iteration: player.calibrated_ns / 1e6,
        }
    }

    /// As indented lines.
    pub(crate) fn text(&self) -> String {
        let simulated = if self.simulated { "simulated " } else { "" };
        let mut text = format!(
            "{} on {simulated}{}, batch {}{}\n",
            self.workload,
            self.device,
            self.batch,
            if self.interrupted {
                ", interrupted"
            } else {
                ""
            }
        );
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {name:<14}{value}");
        };
        line(
            &format!("{}/s", self.unit),
            format!("{:.1}", self.items_per_second),
        );
        line(
            "iterations",
            format!("{} in {:.2} s", self.iterations, self.seconds),
        );
        if let Some(latency) = &self.latency_ms {
            line(
                "latency ms",
                format!(
                    "p50 {:.3}, p95 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3}",
                    latency.p50, latency.p95, latency.p99, latency.p99_9, latency.max
                ),
            );
        }
        if self.waiting > 0 {
            line("waiting", format!("{} at the end", self.waiting));
        }
        line(
            "kernels",
            format!(
                "{} launched, {} an iteration",
                self.kernels_launched, self.kernels_per_iteration
            ),
        );
        line(
            "GPU time",
            format!(
                "{:.3} ms an iteration wanted, {:.3} ms by calibration",
                self.gpu_ms_wanted_per_iteration, self.gpu_ms_calibrated_per_iteration
            ),
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<u64> = (1..=1000).collect();
        let at = |permille| percentile(&values, permille);
        assert_eq!(
            [at(500), at(950), at(990), at(999), at(1000)],
            [Some(500), Some(950), Some(990), Some(999), Some(1000)]
        );
    }

    #[test]
    fn of_few_values_high_percentiles_are_the_largest() {
        assert_eq!(percentile(&[1, 2, 3], 500), Some(2));
        assert_eq!(percentile(&[1, 2, 3], 999), Some(3));
        assert_eq!(percentile(&[7], 500), Some(7));
        assert_eq!(percentile(&[], 500), None);
    }

    #[test]
    fn latencies_are_of_any_order_and_in_ms() {
        let latencies = Latencies::of(vec![3_000_000, 1_000_000, 2_000_000]).unwrap();
        assert_eq!((latencies.p50, latencies.max), (2.0, 3.0));
        assert_eq!(Latencies::of(Vec::new()), None);
    }
}
