//! When iterations arrive. Time is an argument: nanoseconds since the window began.

use crate::file::Arrival;

/// The times at which iterations arrive, one after the other.
#[derive(Clone, Debug)]
pub(crate) enum Arrivals {
    /// Each when the one before has ended.
    ClosedLoop,
    /// At random, and on their own.
    Poisson(Poisson),
}

impl Arrivals {
    pub(crate) fn new(arrival: Arrival) -> Self {
        match arrival {
            Arrival::ClosedLoop => Self::ClosedLoop,
            Arrival::Poisson { rate_per_s, seed } => Self::Poisson(Poisson::new(rate_per_s, seed)),
        }
    }

    /// When the next iteration arrives, if it is asked for at `now_ns`.
    pub(crate) fn next_ns(&mut self, now_ns: u64) -> u64 {
        match self {
            Self::ClosedLoop => now_ns,
            Self::Poisson(process) => process.next_ns(),
        }
    }

    /// How many more arrive before `end_ns`. In a closed loop nobody does who is not served at once.
    pub(crate) fn until(&mut self, end_ns: u64) -> u64 {
        match self {
            Self::ClosedLoop => 0,
            Self::Poisson(process) => {
                (0..).take_while(|_| process.next_ns() < end_ns).count() as u64
            }
        }
    }
}

/// A Poisson process: independent exponential gaps.
#[derive(Clone, Debug)]
pub(crate) struct Poisson {
    mean_gap_ns: f64,
    state: u64,
    at_ns: f64,
}

impl Poisson {
    fn new(rate_per_s: f64, seed: u64) -> Self {
        Self {
            mean_gap_ns: 1e9 / rate_per_s,
            state: seed,
            at_ns: 0.0,
        }
    }

    fn next_ns(&mut self) -> u64 {
        self.at_ns += -self.mean_gap_ns * self.uniform().ln();
        self.at_ns as u64
    }

    /// Uniform within (0, 1]: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
    /// OOPSLA 2014), its upper 53 bits.
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((mixed >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 100_000;

    fn gaps_ns(seed: u64) -> Vec<f64> {
        let mut process = Poisson::new(1_000.0, seed);
        let mut before = 0;
        let gaps = (0..COUNT).map(|_| {
            let at = process.next_ns();
            let gap = at - before;
            before = at;
            gap as f64
        });
        gaps.collect()
    }

    /// An exponential distribution has a standard deviation equal to its mean, and no memory.
    #[test]
    fn gaps_are_exponential_with_the_rate_asked_for() {
        let gaps = gaps_ns(1);
        let mean = gaps.iter().sum::<f64>() / COUNT as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / COUNT as f64;
        let neighbours = gaps
            .windows(2)
            .map(|pair| (pair[0] - mean) * (pair[1] - mean));
        let correlation = neighbours.sum::<f64>() / COUNT as f64 / variance;
        assert!((mean / 1e6 - 1.0).abs() < 0.02, "mean {mean} ns");
        assert!(
            (variance.sqrt() / mean - 1.0).abs() < 0.03,
            "variance {variance}"
        );
        assert!(correlation.abs() < 0.02, "correlation {correlation}");
    }

    #[test]
    fn a_seed_repeats_its_times_and_another_has_others() {
        assert_eq!(gaps_ns(7), gaps_ns(7));
        assert_ne!(gaps_ns(7), gaps_ns(8));
    }

    #[test]
    fn a_closed_loop_is_always_ready() {
        assert_eq!(Arrivals::ClosedLoop.next_ns(123), 123);
        assert_eq!(Arrivals::ClosedLoop.until(u64::MAX), 0);
    }

    #[test]
    fn who_arrives_before_the_end_is_counted() {
        let times: Vec<u64> = {
            let mut process = Poisson::new(1_000.0, 3);
            (0..20).map(|_| process.next_ns()).collect()
        };
        let mut arrivals = Arrivals::new(Arrival::Poisson {
            rate_per_s: 1_000.0,
            seed: 3,
        });
        assert_eq!(arrivals.next_ns(0), times[0]);
        assert_eq!(arrivals.until(times[10]), 9);
    }
}
