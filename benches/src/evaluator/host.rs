//! The host in virtual time: what calls cost, how late threads wake, how much processor time a container has.
//!
//! In real time none of this is modelled: the host is real.

use gpu_sim::model::random::Random;
use std::ops::RangeInclusive;

gpu_sim::parameters! {
    /// How long things take on the host. All times are in nanoseconds.
    pub struct HostTiming {
        /// A call that launches a kernel or a graph, or submits a copy.
        launch_ns: u64 = 4_000, 2_000..=8_000, "4 to 5 µs, 4.9 µs, 3 µs [iss]";
        /// Recording an event that keeps the time.
        event_record_timed_ns: u64 = 2_500, 1_250..=5_000, "400 000 a second on a V100 with CUDA 10.2 [iss]";
        /// Recording an event that keeps no time.
        event_record_untimed_ns: u64 = 250, 125..=500, "a tenth of one that keeps the time [iss]";
        /// A look of the helper thread, beside its queries.
        look_ns: u64 = 2_000, 500..=10_000, "[est]";
        /// Asking whether an event was reached.
        event_query_ns: u64 = 250, 100..=2_000, "[est]";
        /// Submitting a host function.
        host_call_ns: u64 = 6_000, 3_000..=12_000, "6 µs in HIP [iss]";
        /// From a completion to the return of a call that spins for it.
        sync_spin_ns: u64 = 8_000, 1_000..=20_000, "[est]";
        /// From a completion to the return of a call that sleeps for it, at least.
        sync_blocking_ns_min: u64 = 30_000, 5_000..=100_000, "[est]";
        /// From a completion to the return of a call that sleeps for it, at most.
        sync_blocking_ns_max: u64 = 60_000, 5_000..=200_000, "[est]";
        /// From the end of a sleep to the moment when its thread runs, at least.
        wake_ns_min: u64 = 5_000, 0..=60_000, "[est]";
        /// From the end of a sleep to the moment when its thread runs, at most.
        wake_ns_max: u64 = 60_000, 5_000..=1_000_000, "[est]";
        /// How much later than asked for a sleep may end.
        timer_slack_ns: u64 = 50_000, 0..=100_000, "prctl(2), PR_SET_TIMERSLACK: 50 µs [pub]";
        /// Asking NVML for the utilization of processes, at least.
        nvml_query_ns_min: u64 = 1_000_000, 100_000..=5_000_000, "[est]";
        /// Asking NVML for the utilization of processes, at most.
        nvml_query_ns_max: u64 = 5_000_000, 1_000_000..=20_000_000, "[est]";
        /// Period of a container's quota of processor time.
        cpu_period_ns: u64 = 100_000_000, 1_000_000..=1_000_000_000, "cpu.max of cgroup v2: 100 ms [pub]";
    }
}

/// How a call that waits for the device waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncWait {
    /// On the processor.
    #[default]
    Spin,
    /// Asleep.
    Blocking,
}

/// Draws what the host does to threads.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) timing: HostTiming,
    pub(super) random: Random,
}

impl Host {
    pub(super) fn new(timing: HostTiming, seed: u64) -> Self {
        Self {
            timing,
            random: Random::new(seed),
        }
    }

    /// When a thread runs that is woken at `at_ns`.
    pub(super) fn woken_ns(&mut self, at_ns: u64) -> u64 {
        at_ns.saturating_add(self.draw(self.timing.wake_ns_min..=self.timing.wake_ns_max))
    }

    /// When a thread runs that asked to sleep until `at_ns`.
    pub(super) fn slept_ns(&mut self, at_ns: u64) -> u64 {
        let late_ns = self.draw(0..=self.timing.timer_slack_ns);
        self.woken_ns(at_ns.saturating_add(late_ns))
    }

    /// When a call returns that waits for what completes at `at_ns`.
    pub(super) fn synchronized_ns(&mut self, at_ns: u64, wait: SyncWait) -> u64 {
        let timing = &self.timing;
        match wait {
            SyncWait::Spin => at_ns + timing.sync_spin_ns,
            SyncWait::Blocking => {
                at_ns + self.draw(timing.sync_blocking_ns_min..=timing.sync_blocking_ns_max)
            }
        }
    }

    /// What one query of NVML takes.
    pub(super) fn nvml_query_ns(&mut self) -> u64 {
        self.draw(self.timing.nvml_query_ns_min..=self.timing.nvml_query_ns_max)
    }

    fn draw(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (least, most) = range.into_inner();
        least + (self.random.unit() * most.saturating_sub(least) as f64) as u64
    }
}

/// A container's processor time: a quota in every period, as cgroups give it.
#[derive(Clone, Debug)]
pub(super) struct Processor {
    /// Per period; `None`: as much as it wants.
    quota_ns: Option<u64>,
    period_ns: u64,
    /// Number of the period that `used_ns` is of.
    period: u64,
    used_ns: u64,
}

impl Processor {
    pub(super) fn new(quota_cpus: Option<f64>, period_ns: u64) -> Self {
        Self {
            quota_ns: quota_cpus.map(|cpus| (cpus * period_ns as f64).max(1.0) as u64),
            period_ns,
            period: 0,
            used_ns: 0,
        }
    }

    /// When work of `cost_ns` is done that begins at `now_ns`: out of quota, it goes on in the next period.
    pub(super) fn run(&mut self, now_ns: u64, cost_ns: u64) -> u64 {
        let Some(quota_ns) = self.quota_ns else {
            return now_ns + cost_ns;
        };
        let (mut at_ns, mut left_ns) = (now_ns, cost_ns);
        loop {
            let period = at_ns / self.period_ns;
            if period > self.period {
                (self.period, self.used_ns) = (period, 0);
            }
            let runs_ns = left_ns.min(quota_ns.saturating_sub(self.used_ns));
            self.used_ns += runs_ns;
            (at_ns, left_ns) = (at_ns + runs_ns, left_ns - runs_ns);
            if left_ns == 0 {
                return at_ns;
            }
            at_ns = at_ns.max((self.period + 1) * self.period_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn every_default_lies_in_its_range() {
        assert_eq!(HostTiming::default().check(), Ok(()));
    }

    #[test]
    fn a_sleep_ends_late_and_never_early() {
        let mut host = Host::new(HostTiming::default(), 1);
        for _ in 0..1_000 {
            let late_ns = host.slept_ns(MS) - MS;
            assert!((5_000..=110_000).contains(&late_ns), "{late_ns}");
        }
    }

    #[test]
    fn work_beyond_the_quota_goes_on_in_the_next_period() {
        let mut processor = Processor::new(Some(0.1), 100 * MS);
        assert_eq!(processor.run(0, 4 * MS), 4 * MS);
        assert_eq!(processor.run(50 * MS, 8 * MS), 102 * MS);
        assert_eq!(processor.run(102 * MS, 8 * MS), 110 * MS);
        assert_eq!(processor.run(110 * MS, 21 * MS), 401 * MS);
        assert_eq!(
            Processor::new(None, 100 * MS).run(5, 900 * MS),
            900 * MS + 5
        );
    }
}
