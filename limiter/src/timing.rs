//! What a pair of events says about the launch between them.
//!
//! On a stream that is busy with an earlier launch the first event is reached with this launch already behind it: the time
//! between the two is the launch's own. On an idle stream it is reached at once, and the launch's way from the host, and
//! other tenants' turns before its first, are in that time too.

use crate::price::KernelKey;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::units::{GpuNs, MonotonicNs};

/// What a pair of timing events around one launch said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time between the two events.
    pub between: GpuNs,
    /// What the launch met.
    pub stood: Stood,
    /// When the second was reached, as nearly as the host knows.
    pub ended_at: MonotonicNs,
    /// What of the launch's time is its own where others of its context ran beside it ([`Spans::part_ns`](crate::overlap::Spans::part_ns)); `None`: not known.
    pub part: Option<GpuNs>,
}

/// What a launch met on its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stood {
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

/// How a device's clock, by which events tell, stands to the host's. An end is seen some time after it; the one that was seen soonest says most
/// nearly when the device's clock began to count. Clocks drift: it is to be made anew every second or so.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceClock {
    /// From the device's time to the host's, in ns, at the most.
    lag_ns: Option<i128>,
}

impl DeviceClock {
    /// When the host's clock showed what the device's did at `device_ns`, which the host saw at `seen_at`: then at the latest.
    pub fn host_time(&mut self, device_ns: i64, seen_at: MonotonicNs) -> MonotonicNs {
        let seen_after_ns = i128::from(seen_at.get()).saturating_sub(i128::from(device_ns));
        let lag_ns = self
            .lag_ns
            .map_or(seen_after_ns, |lag_ns| lag_ns.min(seen_after_ns));
        self.lag_ns = Some(lag_ns);
        let host_ns = i128::from(device_ns).saturating_add(lag_ns);
        u64::try_from(host_ns).map_or(seen_at, MonotonicNs::new)
    }
}

/// For how long the timing of a launch that stood behind another one makes those of launches that stood alone unwelcome. A
/// kernel that often stands behind others is timed so many times in this time.
const FAIR_NS: u64 = 200_000_000;

/// A host that takes longer from one call to the next was put off between them. How long that was it knows, but not whether the device waited
/// for as long: where another context had it, the first event was reached late, too. What is left of such a timing may be nothing.
const LEAD_NS_MAX: u64 = 100_000;
/// So many of those in a row say nothing. A host that is always so slow is believed.
const DOUBTFUL_MAX: u32 = 8;

/// Kernels that are told apart. Two that are not make each other's timings rarer, not wrong.
const KERNELS: usize = 1024;

/// When each kernel last had a timing that was its own.
#[derive(Debug)]
pub(crate) struct FairTimings {
    fair_at: Box<[AtomicU64]>,
    /// Timings in a row that said nothing, of each.
    doubtful: Box<[AtomicU32]>,
}

impl Default for FairTimings {
    fn default() -> Self {
        Self {
            fair_at: (0..KERNELS).map(|_| AtomicU64::new(0)).collect(),
            doubtful: (0..KERNELS).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

impl FairTimings {
    /// How long a launch of `key` took, unless better timings of its kind are to be had.
    pub(crate) fn elapsed(&self, key: KernelKey, timing: Timing) -> Option<GpuNs> {
        let index = usize::try_from(key.0).ok()?.checked_rem(KERNELS)?;
        let fair_at = self.fair_at.get(index)?;
        let now = timing.ended_at.get();
        match timing.stood {
            Stood::Behind => {
                fair_at.store(now, Ordering::Relaxed);
                Some(timing.between)
            }
            Stood::Alone { lead_ns } => {
                let last = fair_at.load(Ordering::Relaxed);
                let is_stale = last == 0 || now.saturating_sub(last) > FAIR_NS;
                let own_ns = timing.between.get().saturating_sub(lead_ns);
                let is_doubtful = lead_ns > LEAD_NS_MAX && own_ns < lead_ns;
                let says_much = is_stale && !self.is_in_doubt(index, is_doubtful);
                says_much.then(|| GpuNs::new(own_ns))
            }
        }
    }
}

impl FairTimings {
    /// Whether a timing that is doubtful says nothing; how many in a row did is minded.
    fn is_in_doubt(&self, index: usize, is_doubtful: bool) -> bool {
        let Some(in_a_row) = self.doubtful.get(index) else {
            return false;
        };
        let before = in_a_row.load(Ordering::Relaxed);
        let is_in_doubt = is_doubtful && before < DOUBTFUL_MAX;
        let now = if is_in_doubt {
            before.saturating_add(1)
        } else {
            0
        };
        in_a_row.store(now, Ordering::Relaxed);
        is_in_doubt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: KernelKey = KernelKey(7);
    const ALONE: Stood = Stood::Alone { lead_ns: 10 };

    fn elapsed_ns(
        timings: &FairTimings,
        key: KernelKey,
        stood: Stood,
        between_ns: u64,
        now_ns: u64,
    ) -> Option<u64> {
        let timing = Timing {
            between: GpuNs::new(between_ns),
            stood,
            ended_at: MonotonicNs::new(now_ns),
            part: None,
        };
        timings.elapsed(key, timing).map(GpuNs::get)
    }

    #[test]
    fn an_end_that_is_seen_late_is_told_by_those_that_were_seen_soon() {
        let mut clock = DeviceClock::default();
        let mut host_ns =
            |device_ns, seen_ns| clock.host_time(device_ns, MonotonicNs::new(seen_ns)).get();
        assert_eq!(host_ns(0, 1_400), 1_400, "nothing better is known");
        assert_eq!(host_ns(5_000, 6_010), 6_010, "10 late");
        assert_eq!(host_ns(9_000, 10_300), 10_010, "300 late");
        assert_eq!(host_ns(-100, 2_000), 910, "before the origin");
    }

    #[test]
    fn a_launch_alone_is_timed_without_its_way_from_the_host() {
        let timings = FairTimings::default();
        assert_eq!(elapsed_ns(&timings, KEY, ALONE, 100, 1), Some(90));
        assert_eq!(elapsed_ns(&timings, KEY, ALONE, 5, 1), Some(0));
    }

    #[test]
    fn a_host_that_was_put_off_between_its_calls_is_believed_after_a_while() {
        let timings = FairTimings::default();
        let put_off = Stood::Alone { lead_ns: 2_000_000 };
        let timed = |stood, between_ns| elapsed_ns(&timings, KEY, stood, between_ns, 1);
        assert_eq!(timed(put_off, 9_000_000), Some(7_000_000), "long enough");
        for _ in 0..DOUBTFUL_MAX {
            assert_eq!(timed(put_off, 2_050_000), None);
        }
        assert_eq!(timed(put_off, 2_050_000), Some(50_000), "it always is");
        assert_eq!(timed(put_off, 2_050_000), None, "again");
        let short = Stood::Alone {
            lead_ns: LEAD_NS_MAX,
        };
        assert_eq!(timed(short, LEAD_NS_MAX + 5_000), Some(5_000));
    }

    #[test]
    fn a_launch_behind_another_is_the_better_timing_for_a_while() {
        let timings = FairTimings::default();
        assert_eq!(elapsed_ns(&timings, KEY, Stood::Behind, 100, 1), Some(100));
        assert_eq!(elapsed_ns(&timings, KEY, ALONE, 100, 2), None);
        assert_eq!(
            elapsed_ns(&timings, KernelKey(8), ALONE, 100, 2),
            Some(90),
            "another kernel"
        );
        assert_eq!(
            elapsed_ns(&timings, KEY, ALONE, 100, 2 + FAIR_NS),
            Some(90),
            "stale"
        );
    }
}
