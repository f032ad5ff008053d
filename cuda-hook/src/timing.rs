//! What a pair of events says about the launch between them.
//!
//! On a stream that is busy with an earlier launch the first event is reached with this launch already behind it: the time
//! between the two is the launch's own. On an idle stream it is reached at once, and the launch's way from the host, and
//! other tenants' turns before its first, are in that time too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use limiter::price::KernelKey;
use limiter::share::Timing;
use limiter::units::{GpuNs, MonotonicNs};

use crate::completion::Event;
use crate::driver::Driver;

/// The beginning of a timed launch.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    /// The event before the launch.
    pub(crate) event: Event,
    /// What the launch met.
    pub(crate) stood: Stood,
}

/// What a launch met on its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stood {
    /// An earlier launch that had not ended.
    Behind,
    /// Nothing: the first event waited for the launch to come from the host.
    Alone {
        /// For how long, in ns. Both calls take about as long to reach the device, so this is the time between their
        /// beginnings. What a call does after that (on the simulation, its thread is often put off the processor by the
        /// device that it woke) does not count.
        lead_ns: u64,
    },
}

/// For how long the timing of a launch that stood behind another one makes those of launches that stood alone unwelcome. A
/// kernel that often stands behind others is timed so many times in this time.
const FAIR_NS: u64 = 200_000_000;

/// Kernels that are told apart. Two that are not make each other's timings rarer, not wrong.
const KERNELS: usize = 1024;

/// When each kernel last had a timing that was its own.
pub(crate) struct FairTimings {
    fair_at: Box<[AtomicU64]>,
}

impl Default for FairTimings {
    fn default() -> Self {
        Self {
            fair_at: (0..KERNELS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl FairTimings {
    /// The timing of a launch of `key` between two reached events, unless better ones of its kind are to be had.
    pub(crate) fn timing(
        &self,
        driver: &Driver,
        key: KernelKey,
        start: Start,
        end: Event,
        now: MonotonicNs,
    ) -> Option<Timing> {
        let between_ms = driver.elapsed_ms(start.event.raw(), end.raw()).ok()?;
        let between = Duration::try_from_secs_f64(f64::from(between_ms) / 1e3).ok()?;
        let between_ns = u64::try_from(between.as_nanos()).ok()?;
        tracing::trace!(between_ns, stood = ?start.stood, "timed a launch");
        let elapsed_ns = self.fair_ns(key, start.stood, between_ns, now)?;
        Some(Timing {
            elapsed: GpuNs::new(elapsed_ns),
            ended_at: now,
        })
    }

    fn fair_ns(
        &self,
        key: KernelKey,
        stood: Stood,
        between_ns: u64,
        now: MonotonicNs,
    ) -> Option<u64> {
        let index = usize::try_from(key.0).ok()?.checked_rem(KERNELS)?;
        let fair_at = self.fair_at.get(index)?;
        match stood {
            Stood::Behind => {
                fair_at.store(now.get(), Ordering::Relaxed);
                Some(between_ns)
            }
            Stood::Alone { lead_ns } => {
                let last = fair_at.load(Ordering::Relaxed);
                let is_stale = last == 0 || now.get().saturating_sub(last) > FAIR_NS;
                is_stale.then(|| between_ns.saturating_sub(lead_ns))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: KernelKey = KernelKey(7);
    const ALONE: Stood = Stood::Alone { lead_ns: 10 };

    fn at(ns: u64) -> MonotonicNs {
        MonotonicNs::new(ns)
    }

    #[test]
    fn a_launch_alone_is_timed_without_its_way_from_the_host() {
        let timings = FairTimings::default();
        assert_eq!(timings.fair_ns(KEY, ALONE, 100, at(1)), Some(90));
        assert_eq!(timings.fair_ns(KEY, ALONE, 5, at(1)), Some(0));
    }

    #[test]
    fn a_launch_behind_another_is_the_better_timing_for_a_while() {
        let timings = FairTimings::default();
        assert_eq!(timings.fair_ns(KEY, Stood::Behind, 100, at(1)), Some(100));
        assert_eq!(timings.fair_ns(KEY, ALONE, 100, at(2)), None);
        assert_eq!(
            timings.fair_ns(KernelKey(8), ALONE, 100, at(2)),
            Some(90),
            "another kernel"
        );
        assert_eq!(
            timings.fair_ns(KEY, ALONE, 100, at(2 + FAIR_NS)),
            Some(90),
            "stale"
        );
    }
}
