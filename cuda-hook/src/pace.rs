//! How often the watching thread looks. What a look costs is the host's affair: on a virtual machine to wake up alone may take 25 µs, ten times as
//! long as elsewhere. A thread that nobody asked for must not be felt on either.

use limiter::units::MonotonicNs;

/// So much of a processor's time the thread may take, in thousandths. The figure to keep is 20: a look may cost more than the last ones did.
const PART_MAX_THOUSANDTHS: u64 = 17;
/// So many looks are averaged.
const LOOKS: u32 = 128;
/// It looks so often whatever that costs: who waits for a launch's end has waited long enough.
const EVERY_NS_MAX: u64 = 2_000_000;

/// What looks have cost of late, and until when they are paid for.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Since the thread's processor time was last read.
    looks: u32,
    processor_ns: u64,
    /// 0: not known yet.
    look_ns: u64,
    paid_at: MonotonicNs,
}

impl Pace {
    /// The thread has looked. `processor_ns`: the time that it has had of processors, which is asked now and then.
    pub(crate) fn looked(&mut self, now: MonotonicNs, processor_ns: impl FnOnce() -> u64) {
        self.looks = self.looks.saturating_add(1);
        if self.looks >= LOOKS {
            let now_ns = processor_ns();
            let spent_ns = now_ns.saturating_sub(self.processor_ns);
            self.look_ns = spent_ns.checked_div(u64::from(LOOKS)).unwrap_or(0);
            (self.processor_ns, self.looks) = (now_ns, 0);
        }
        let whole_ns = self.look_ns.saturating_mul(1_000);
        let price_ns = whole_ns.checked_div(PART_MAX_THOUSANDTHS).unwrap_or(0);
        self.paid_at = self.paid_at.max(now).saturating_add_ns(price_ns);
        self.paid_at = self.paid_at.min(now.saturating_add_ns(EVERY_NS_MAX));
    }

    /// How long to pause, in ns, where the next look is wanted after `wanted_ns`.
    pub(crate) fn pause_ns(&self, now: MonotonicNs, wanted_ns: u64) -> u64 {
        wanted_ns.max(self.paid_at.saturating_ns_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread whose looks cost that much each, once it knows that.
    fn settled(look_ns: u64) -> (Pace, MonotonicNs) {
        let (mut pace, mut processor_ns) = (Pace::default(), 0);
        let mut now = MonotonicNs::new(1_000_000_000);
        for _ in 0..3 * LOOKS {
            processor_ns += look_ns;
            pace.looked(now, || processor_ns);
            now = now.saturating_add_ns(pace.pause_ns(now, 200_000));
        }
        (pace, now)
    }

    /// How long it pauses after the next look.
    fn pause_ns(look_ns: u64, wanted_ns: u64) -> u64 {
        let (mut pace, now) = settled(look_ns);
        pace.looked(now, || unreachable!("it was asked just now"));
        pace.pause_ns(now, wanted_ns)
    }

    #[test]
    fn a_look_that_costs_little_is_made_as_often_as_it_is_wanted() {
        assert_eq!(pause_ns(3_000, 200_000), 200_000);
        assert_eq!(pause_ns(12_000, 1_000_000), 1_000_000);
    }

    #[test]
    fn one_that_costs_much_is_made_as_seldom_as_it_takes() {
        let pause_ns = [12_000, 200_000].map(|look_ns| pause_ns(look_ns, 200_000));
        assert_eq!(pause_ns[0], 12_000 * 1_000 / PART_MAX_THOUSANDTHS);
        assert_eq!(pause_ns[1], EVERY_NS_MAX);
    }

    #[test]
    fn a_look_for_which_the_thread_was_woken_is_paid_for_with_the_next() {
        let (mut pace, now) = settled(12_000);
        let [once, twice] = [(); 2].map(|()| {
            pace.looked(now, || unreachable!("it was asked just now"));
            pace.pause_ns(now, 0)
        });
        assert!(once > 0);
        assert_eq!(twice, 2 * once);
        let later = now.saturating_add_ns(twice);
        assert_eq!(pace.pause_ns(later, 0), 0, "time pays");
    }

    #[test]
    fn what_looks_cost_is_asked_anew() {
        let (mut pace, mut now) = settled(100_000);
        let mut processor_ns = pace.processor_ns;
        for _ in 0..2 * LOOKS {
            processor_ns += 1_000;
            pace.looked(now, || processor_ns);
            now = now.saturating_add_ns(pace.pause_ns(now, 200_000));
        }
        pace.looked(now, || processor_ns);
        assert_eq!(pace.pause_ns(now, 200_000), 200_000);
    }

    #[test]
    fn the_first_looks_are_made_as_wanted() {
        let (mut pace, now) = (Pace::default(), MonotonicNs::new(1_000_000_000));
        pace.looked(now, || unreachable!("128 looks are averaged"));
        assert_eq!(pace.pause_ns(now, 200_000), 200_000);
    }
}
