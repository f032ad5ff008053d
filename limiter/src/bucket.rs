//! A hard cap on GPU time: the generic cell rate algorithm (ITU-T I.371) on one shared atomic.
//!
//! The whole state is the *theoretical arrival time*: the moment at which everything granted so far is paid for at the
//! capped rate. There is nothing to refill, so nothing to forget when a process dies, stops or sleeps, and no lock.

use crate::sync::{AtomicU64, Ordering};
use crate::units::{GpuNs, MonotonicNs, Percent};

/// GPU time that may be used at once after a rest.
pub const BURST: GpuNs = GpuNs::new(2_000_000);

/// No launch leaves a debt that takes longer to pay. A larger one means that the clock began anew (a reboot, with the
/// state kept on a disk) and is forgotten.
const DEBT_NS_MAX: u64 = 600_000_000_000;

/// Nothing waits longer for what was not charged yet.
const OWED_WALL_NS_MAX: u64 = 1_000_000_000;

/// A cap on GPU time. Granted while what was granted before is paid up to the burst; the cost is paid afterwards, so that
/// a single kernel may be longer than the burst.
#[derive(Clone, Copy, Debug)]
pub struct Bucket<'a> {
    tat_ns: &'a AtomicU64,
}

/// The answer to a cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Granted and charged.
    Granted,
    /// Nothing charged; ask again then.
    NotBefore(MonotonicNs),
}

/// How a finished launch's charge differs from what was charged at its admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// It took longer.
    More(GpuNs),
    /// It took less, or did not run.
    Less(GpuNs),
}

impl Correction {
    /// From what was charged to what should have been.
    pub fn between(charged: GpuNs, due: GpuNs) -> Self {
        if due >= charged {
            Self::More(GpuNs::new(due.get().saturating_sub(charged.get())))
        } else {
            Self::Less(GpuNs::new(charged.get().saturating_sub(due.get())))
        }
    }
}

/// Time on the wall in which `cap` yields this much GPU time, rounded up.
fn wall_ns(cost: GpuNs, cap: Percent) -> u64 {
    let scaled = u128::from(cost.get()).saturating_mul(u128::from(Percent::ALL.thousandths()));
    u64::try_from(scaled.div_ceil(u128::from(cap.thousandths()))).unwrap_or(u64::MAX)
}

impl<'a> Bucket<'a> {
    /// The bucket whose state is `tat_ns`; 0 is a rested one.
    pub fn new(tat_ns: &'a AtomicU64) -> Self {
        Self { tat_ns }
    }

    /// May work of this cost begin now?
    ///
    /// What was not used before `entitled_since` is lost; pass `now` for a container that wanted nothing. Over any window of
    /// length `t`, what is granted is at most `burst + cap × (t + now − entitled_since)` and one cost.
    pub fn admit(
        self,
        now: MonotonicNs,
        entitled_since: MonotonicNs,
        cost: GpuNs,
        cap: Percent,
        burst: GpuNs,
    ) -> Decision {
        let entitled_since = entitled_since.min(now);
        let tolerance = wall_ns(burst, cap);
        let price = wall_ns(cost, cap);
        let paid_by = now.get().saturating_add(tolerance);
        let next = |tat: u64| {
            let tat = if tat > now.get().saturating_add(DEBT_NS_MAX) {
                0
            } else {
                tat
            };
            (tat <= paid_by).then(|| tat.max(entitled_since.get()).saturating_add(price))
        };
        match self
            .tat_ns
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
        {
            Ok(_) => Decision::Granted,
            Err(tat) => Decision::NotBefore(MonotonicNs::new(tat.saturating_sub(tolerance))),
        }
    }

    /// When everything granted so far is paid up to the burst, with this much beside that was not charged yet; `None`: by now, or there is
    /// nothing beside. For what is beside a second of waiting at the most: it may run until something is launched.
    pub fn paid_not_before(
        self,
        now: MonotonicNs,
        owed: GpuNs,
        cap: Percent,
        burst: GpuNs,
    ) -> Option<MonotonicNs> {
        let tat = self.tat_ns.load(Ordering::Acquire);
        let owed_ns = wall_ns(owed, cap).min(OWED_WALL_NS_MAX);
        let paid = tat
            .saturating_add(owed_ns)
            .saturating_sub(wall_ns(burst, cap));
        (owed_ns > 0 && paid > now.get()).then(|| MonotonicNs::new(paid))
    }

    /// Correct an earlier charge.
    pub fn settle(self, correction: Correction, cap: Percent) {
        let next = |tat: u64| {
            Some(match correction {
                Correction::More(cost) => tat.saturating_add(wall_ns(cost, cap)),
                Correction::Less(cost) => tat.saturating_sub(wall_ns(cost, cap)),
            })
        };
        let _always_some = self
            .tat_ns
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// The cap changes: what is owed stays the same amount of GPU time.
    pub fn rescale(self, now: MonotonicNs, from: Percent, to: Percent) {
        let next = |tat: u64| {
            let owed = u128::from(tat.saturating_sub(now.get()))
                .saturating_mul(u128::from(from.thousandths()));
            let owed =
                u64::try_from(owed.div_ceil(u128::from(to.thousandths()))).unwrap_or(u64::MAX);
            (tat > now.get()).then(|| now.get().saturating_add(owed))
        };
        let _paid_up = self
            .tat_ns
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;
    const START: MonotonicNs = MonotonicNs::new(1_000 * MS);

    fn percent(text: &str) -> Percent {
        text.parse().unwrap()
    }

    /// Ask until granted; returns when.
    fn wait_for(bucket: Bucket, mut now: MonotonicNs, cost: u64, cap: Percent) -> MonotonicNs {
        while let Decision::NotBefore(then) = bucket.admit(now, now, GpuNs::new(cost), cap, BURST) {
            assert!(then > now, "a wait that ends in the past");
            now = then;
        }
        now
    }

    /// Share of `rounds` kernels of `cost` that take `taken`, admitted one after another.
    fn share_taken(cost: u64, taken: u64, cap: Percent, rounds: u64) -> f64 {
        let tat = AtomicU64::new(0);
        let bucket = Bucket::new(&tat);
        let mut now = START;
        for _ in 0..rounds {
            now = wait_for(bucket, now, cost, cap).saturating_add_ns(taken);
            bucket.settle(
                Correction::between(GpuNs::new(cost), GpuNs::new(taken)),
                cap,
            );
        }
        let end = wait_for(bucket, now, 1, cap);
        (rounds * taken) as f64 / end.saturating_ns_since(START) as f64
    }

    #[test]
    fn what_a_container_was_entitled_to_and_did_not_get_is_made_up_for() {
        let cap = percent("50");
        let used_at_once = |entitled_since: MonotonicNs| {
            let tat = AtomicU64::new(0);
            let admit =
                || Bucket::new(&tat).admit(START, entitled_since, GpuNs::new(MS), cap, BURST);
            std::iter::repeat_with(admit)
                .take_while(|decision| *decision == Decision::Granted)
                .count()
        };
        let rested = used_at_once(START);
        let held_back = MonotonicNs::new(START.get() - 20 * MS);
        assert_eq!(rested, 3, "the burst, and the one that goes beyond it");
        assert_eq!(used_at_once(held_back), rested + 10, "half of 20 ms more");
    }

    #[test]
    fn the_long_run_share_is_the_cap_whatever_was_estimated() {
        for (cost, taken, rounds) in [
            (5_000, 5_000, 100_000),
            (1_250_000, 1_250_000, 1_000),
            (100, 20_000_000, 200),
            (20_000_000, 100_000, 10_000),
            (50_000, 200_000_000, 50),
        ] {
            for cap in ["1", "30", "99.5"] {
                let share = 100.0 * share_taken(cost, taken, percent(cap), rounds);
                let wanted = f64::from(percent(cap).thousandths()) / 1_000.0;
                assert!(
                    (share - wanted).abs() < 0.01 * wanted,
                    "{cost} {taken} {cap}: {share}"
                );
            }
        }
    }

    #[test]
    fn after_a_rest_a_burst_and_no_more_goes_at_once() {
        let tat = AtomicU64::new(0);
        let bucket = Bucket::new(&tat);
        for later in [0, 3_600_000 * MS] {
            let now = START.saturating_add_ns(later);
            let granted = (0..100).take_while(|_| {
                bucket.admit(now, now, GpuNs::new(MS / 2), percent("10"), BURST)
                    == Decision::Granted
            });
            assert_eq!(
                granted.count(),
                5,
                "2 ms, and the one that begins before they are used up"
            );
        }
    }

    #[test]
    fn what_was_not_charged_yet_is_paid_for_too() {
        let tat = AtomicU64::new(START.get());
        let paid_ms = |owed_ms: u64| {
            let owed = GpuNs::new(owed_ms * MS);
            let then = Bucket::new(&tat).paid_not_before(START, owed, percent("25"), BURST);
            then.map(|then| then.saturating_ns_since(START) / MS)
        };
        assert_eq!([0, 2, 3, 12].map(paid_ms), [None, None, Some(4), Some(40)]);
        let most_ms = OWED_WALL_NS_MAX / MS - BURST.get() / MS * 4;
        assert_eq!([500, 600_000].map(paid_ms), [Some(most_ms); 2]);
    }

    #[test]
    fn a_changed_cap_keeps_what_is_owed() {
        let tat = AtomicU64::new(0);
        let bucket = Bucket::new(&tat);
        bucket.admit(START, START, GpuNs::new(30 * MS), percent("60"), BURST);
        bucket.rescale(START, percent("60"), percent("30"));
        assert_eq!(
            bucket.admit(START, START, GpuNs::new(1), percent("30"), BURST),
            Decision::NotBefore(START.saturating_add_ns(100 * MS - (200 * MS).div_ceil(30)))
        );
    }

    #[test]
    fn a_debt_from_before_a_reboot_is_forgotten() {
        let tat = AtomicU64::new(START.get() + 2 * DEBT_NS_MAX);
        assert_eq!(
            Bucket::new(&tat).admit(START, START, GpuNs::new(1), percent("30"), BURST),
            Decision::Granted
        );
        assert_eq!(
            Bucket::new(&tat).admit(START, START, GpuNs::new(1), percent("30"), BURST),
            Decision::Granted
        );
    }

    #[test]
    fn no_extreme_overflows() {
        let tat = AtomicU64::new(u64::MAX);
        let bucket = Bucket::new(&tat);
        let end = MonotonicNs::new(u64::MAX);
        for now in [MonotonicNs::new(0), START, end] {
            bucket.admit(
                now,
                now,
                GpuNs::new(u64::MAX),
                percent("1"),
                GpuNs::new(u64::MAX),
            );
            bucket.settle(Correction::More(GpuNs::new(u64::MAX)), percent("1"));
            bucket.rescale(now, percent("100"), percent("1"));
            bucket.settle(Correction::Less(GpuNs::new(u64::MAX)), percent("1"));
        }
    }

    proptest! {
        #[test]
        fn no_window_holds_more_than_burst_and_rate_and_one_cost(
            cap in 1_000_u32..=100_000,
            requests in proptest::collection::vec((0..4 * MS, 1..3 * MS), 1..120),
        ) {
            let cap = Percent::from_thousandths(cap).unwrap();
            let (tat, mut now, mut granted) = (AtomicU64::new(0), START, Vec::new());
            for (pause, cost) in requests {
                now = now.saturating_add_ns(pause);
                if Bucket::new(&tat).admit(now, now, GpuNs::new(cost), cap, BURST) == Decision::Granted {
                    granted.push((now, cost));
                }
            }
            for (first, (begin, _)) in granted.iter().enumerate() {
                let mut sum = 0;
                for (end, cost) in &granted[first..] {
                    let window = end.saturating_ns_since(*begin);
                    let allowed = BURST.get() + window * u64::from(cap.thousandths()) / 100_000 + 1;
                    prop_assert!(sum <= allowed, "{sum} before the last in {window} ns");
                    sum += cost;
                }
            }
        }

        #[test]
        fn who_comes_back_when_told_is_granted(
            cap in 1_000_u32..=100_000,
            costs in proptest::collection::vec(0..300 * MS, 1..50),
        ) {
            let cap = Percent::from_thousandths(cap).unwrap();
            let (tat, mut now) = (AtomicU64::new(0), START);
            for cost in costs {
                let cost = GpuNs::new(cost);
                if let Decision::NotBefore(then) = Bucket::new(&tat).admit(now, now, cost, cap, BURST) {
                    prop_assert!(then > now);
                    now = then;
                    prop_assert_eq!(Bucket::new(&tat).admit(now, now, cost, cap, BURST), Decision::Granted);
                }
            }
        }
    }
}
