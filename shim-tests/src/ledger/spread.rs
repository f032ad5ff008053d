//! How long something took, over many times.

use std::fmt::{self, Debug, Formatter};
use std::time::Duration;

/// Of many durations the middle one, the one that 1 % exceed, and the longest; zero of none.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Spread {
    /// Half of them are longer.
    pub median: Duration,
    /// One in a hundred is longer.
    pub p99: Duration,
    /// None is longer.
    pub longest: Duration,
}

impl Spread {
    /// Of these.
    pub fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let at = |percent: usize| {
            let rank = (durations.len() * percent).div_ceil(100);
            durations.get(rank.saturating_sub(1)).copied()
        };
        Self {
            median: at(50).unwrap_or_default(),
            p99: at(99).unwrap_or_default(),
            longest: at(100).unwrap_or_default(),
        }
    }
}

impl Debug for Spread {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Self {
            median,
            p99,
            longest,
        } = self;
        write!(
            f,
            "median {median:.1?}, p99 {p99:.1?}, longest {longest:.1?}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_by_rank() {
        let milliseconds = |range: std::ops::RangeInclusive<u64>| range.map(Duration::from_millis);
        let spread = Spread::of(milliseconds(1..=200).rev().collect());
        assert_eq!(
            format!("{spread:?}"),
            "median 100.0ms, p99 198.0ms, longest 200.0ms"
        );
        let one = Spread::of(milliseconds(7..=7).collect());
        assert_eq!(one.median, one.longest);
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}
