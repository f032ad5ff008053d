//! What is told of a call that the quota refuses: a record in the container's ledger, and a line in the log now and then.

use std::sync::atomic::{AtomicU64, Ordering};

use limiter::clock;
use limiter::ledger::OverQuota;
use limiter::units::MonotonicNs;

use crate::runtime::Attachment;

/// Writes down that the program's call of `symbol` was refused. Allocates nothing, unless a line is due.
#[cold]
pub(crate) fn tell(
    attachment: &Attachment,
    symbol: &'static str,
    device_index: usize,
    over: OverQuota,
) {
    static PACE: Pace = Pace::new();
    let now = clock::coarse(); // to some milliseconds, at a fifth of the price
    attachment
        .ledger
        .note_refused(device_index, symbol, over, now);
    if tracing::enabled!(tracing::Level::INFO)
        && let Some(unsaid) = PACE.due(now)
    {
        tracing::info!(device_index, unsaid, "refused {symbol}: {over}");
    }
}

/// A program that is refused may ask again at once, and for ever.
const LINE_EVERY_NS: u64 = 1_000_000_000;

/// How often the same is said.
struct Pace {
    /// `CLOCK_MONOTONIC`; 0: never.
    said_at_ns: AtomicU64,
    unsaid: AtomicU64,
}

impl Pace {
    const fn new() -> Self {
        Self {
            said_at_ns: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
        }
    }

    /// Whether a line is due: with how many there was none for since the last.
    fn due(&self, now: MonotonicNs) -> Option<u64> {
        let said_at_ns = self.said_at_ns.load(Ordering::Relaxed);
        let is_due = said_at_ns == 0 || now.get().saturating_sub(said_at_ns) >= LINE_EVERY_NS;
        let swap = |new| {
            self.said_at_ns
                .compare_exchange(said_at_ns, new, Ordering::Relaxed, Ordering::Relaxed)
        };
        if is_due && swap(now.get()).is_ok() {
            return Some(self.unsaid.swap(0, Ordering::Relaxed));
        }
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_second_says_how_many_it_stands_for() {
        let pace = Pace::new();
        let due = |ms: u64| pace.due(MonotonicNs::new(5_000_000_000 + ms * 1_000_000));
        assert_eq!(due(0), Some(0));
        for ms in 1..1000 {
            assert_eq!(due(ms), None);
        }
        assert_eq!(due(1000), Some(999));
        assert_eq!((due(1999), due(2000)), (None, Some(1)));
    }
}
