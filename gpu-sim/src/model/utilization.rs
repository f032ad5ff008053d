//! The ring of samples that NVML reads: each the busy part of its period and the one process that was on the engine
//! at its end, as read in NVIDIA's open kernel modules (`Timing::sample_period_ns`, `Timing::samples_kept`).

use super::ProcessId;
use crate::parameters::Timing;
use std::collections::VecDeque;

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// End of its period on the model's timeline.
    pub end_ns: u64,
    /// Compute engine busy, in percent of the period.
    pub gpu_percent: u32,
    /// The busier copy engine, in percent of the period.
    pub copy_percent: u32,
    /// Who was on the compute engine at the end.
    pub process: Option<ProcessId>,
}

/// The ring of one device.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    samples: VecDeque<Sample>,
    /// Up to when its samples reach.
    end_ns: u64,
    gpu_busy_ns: u64,
    copy_busy_ns: [u64; 2],
}

impl Ring {
    /// A ring whose first sample begins at `now_ns`.
    pub(super) fn new(now_ns: u64) -> Self {
        Self {
            samples: VecDeque::new(),
            end_ns: now_ns,
            gpu_busy_ns: 0,
            copy_busy_ns: [0; 2],
        }
    }

    /// Adds a sample; the busy figures are totals since the start.
    pub(super) fn push(
        &mut self,
        end_ns: u64,
        gpu_busy_ns: u64,
        copy_busy_ns: [u64; 2],
        process: Option<ProcessId>,
        timing: &Timing,
    ) {
        let period_ns = (end_ns - self.end_ns).max(1);
        let percent = |now: u64, before: u64| ((now - before) * 100 / period_ns).min(100) as u32;
        let gpu_percent = percent(gpu_busy_ns, self.gpu_busy_ns);
        let copies = std::iter::zip(copy_busy_ns, self.copy_busy_ns);
        let copy_percent = copies
            .map(|(now, before)| percent(now, before))
            .max()
            .unwrap_or(0);
        if self.samples.len() as u64 >= timing.samples_kept {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            end_ns,
            gpu_percent,
            copy_percent,
            process,
        });
        self.end_ns = end_ns;
        self.gpu_busy_ns = gpu_busy_ns;
        self.copy_busy_ns = copy_busy_ns;
    }

    pub(super) fn samples(&self) -> impl Iterator<Item = Sample> {
        self.samples.iter().copied()
    }
}
