//! NVML's answer about processes, made of the driver's ring of samples.

use gpu_sim::model::{ProcessId, Sample};

/// How NVML makes one figure of a process's samples. Its source is closed: both are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregation {
    /// Mean of all samples asked for, where one that is another process's counts as 0.
    #[default]
    MeanOfPeriod,
    /// The last sample that is the process's.
    LastSample,
}

impl Aggregation {
    /// A process's utilization in percent since `since_ns`; `None`: no sample is its own (`NVML_ERROR_NOT_FOUND`).
    pub fn utilization(self, samples: &[Sample], process: ProcessId, since_ns: u64) -> Option<u32> {
        let asked = samples.iter().filter(|sample| sample.end_ns > since_ns);
        let count = asked.clone().count() as u32;
        let own = asked.filter(|sample| sample.process == Some(process));
        let last = own.clone().next_back()?;
        Some(match self {
            Self::MeanOfPeriod => own.map(|sample| sample.gpu_percent).sum::<u32>() / count,
            Self::LastSample => last.gpu_percent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(end_ns: u64, gpu_percent: u32, process: u64) -> Sample {
        Sample {
            end_ns,
            gpu_percent,
            copy_percent: 0,
            process: Some(ProcessId(process)),
        }
    }

    #[test]
    fn a_process_is_seen_only_in_samples_that_are_its_own() {
        let samples = [
            sample(1, 90, 1),
            sample(2, 100, 1),
            sample(3, 60, 2),
            sample(4, 80, 1),
        ];
        let seen = |how: Aggregation, process| how.utilization(&samples, ProcessId(process), 1);
        assert_eq!(seen(Aggregation::MeanOfPeriod, 1), Some(60));
        assert_eq!(seen(Aggregation::LastSample, 1), Some(80));
        assert_eq!(seen(Aggregation::MeanOfPeriod, 2), Some(20));
        assert_eq!(seen(Aggregation::LastSample, 2), Some(60));
        assert_eq!(seen(Aggregation::MeanOfPeriod, 3), None);
    }
}
