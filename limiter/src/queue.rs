//! Which of a container's launches goes first: one that has waited much longer than another.
//!
//! What a cap or a turn has room for goes to whoever asks first after there is. Processes of one container would race for that, and one could lose for
//! as long as there are many. So a launch that waits says since when, and when it will ask again; others, as long as it keeps that word, wait until it
//! has asked. Words of one launch stand there, of the one that has waited longest; there is no lock, and nobody to wait for that does not come.

use crate::shm::layout::BucketRow;
use crate::sync::Ordering;
use crate::units::MonotonicNs;
use crate::window::PATIENCE_NS;

/// One that has waited no longer than that more than another has no precedence: who asks first then has its host at hand, and two launches in a row
/// of one process are timed more exactly.
const PRECEDENCE_NS: u64 = 5_000_000;
/// So late may one be that said when it would ask.
const LATE_NS: u64 = 1_000_000;
/// Nobody promises to ask any later than that.
const WORD_NS_MAX: u64 = 200_000_000;

/// The launches of one container that wait for one GPU.
#[derive(Clone, Copy)]
pub(crate) struct Queue<'a>(pub(crate) &'a BucketRow);

impl Queue<'_> {
    /// When a launch that has waited `since` then is to ask again because another goes first; `None`: none does.
    pub(crate) fn first_not_before(
        self,
        since: MonotonicNs,
        now: MonotonicNs,
    ) -> Option<MonotonicNs> {
        let first = self.first(now)?;
        let has_precedence = first.since.saturating_add_ns(PRECEDENCE_NS) < since;
        let is_patient = now.saturating_ns_since(since) < PATIENCE_NS;
        (has_precedence && is_patient).then_some(first.until)
    }

    /// A launch has waited `since` then, and will ask again.
    pub(crate) fn wait(self, since: MonotonicNs, asks_at: MonotonicNs, now: MonotonicNs) {
        if self.first(now).is_none_or(|first| since <= first.since) {
            let until = asks_at.saturating_add_ns(LATE_NS);
            self.0.waits_since_ns.store(since.get(), Ordering::Relaxed);
            self.0.waits_until_ns.store(until.get(), Ordering::Relaxed);
        }
    }

    /// A launch that had waited `since` then waits no longer for what others want, too.
    pub(crate) fn leave(self, since: MonotonicNs) {
        let waits_since_ns = &self.0.waits_since_ns;
        if waits_since_ns.load(Ordering::Relaxed) == since.get() {
            waits_since_ns.store(0, Ordering::Relaxed);
        }
    }

    /// The launch that has waited longest, if it keeps its word.
    fn first(self, now: MonotonicNs) -> Option<First> {
        let since_ns = self.0.waits_since_ns.load(Ordering::Relaxed);
        if since_ns == 0 {
            return None;
        }
        let until = MonotonicNs::new(self.0.waits_until_ns.load(Ordering::Relaxed));
        let is_kept = now < until && until < now.saturating_add_ns(WORD_NS_MAX);
        is_kept.then_some(First {
            since: MonotonicNs::new(since_ns),
            until,
        })
    }
}

/// What is written of it. The two words may be of two launches: then one is let go, or waited for, that should not have been, until the next
/// one asks.
struct First {
    since: MonotonicNs,
    until: MonotonicNs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::AtomicU64;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs::new(10_000 * MS + ms * MS)
    }

    fn empty() -> BucketRow {
        BucketRow {
            tat_ns: AtomicU64::new(0),
            waits_since_ns: AtomicU64::new(0),
            waits_until_ns: AtomicU64::new(0),
        }
    }

    #[test]
    fn who_has_waited_much_longer_goes_first() {
        let row = empty();
        let queue = Queue(&row);
        assert_eq!(queue.first_not_before(at(20), at(20)), None);
        queue.wait(at(0), at(30), at(20));
        assert_eq!(queue.first_not_before(at(20), at(20)), Some(at(31)));
        assert_eq!(queue.first_not_before(at(0), at(20)), None, "itself");
        assert_eq!(queue.first_not_before(at(4), at(20)), None, "hardly longer");
        queue.leave(at(0));
        assert_eq!(queue.first_not_before(at(20), at(20)), None);
    }

    #[test]
    fn the_one_that_has_waited_longest_stands_there() {
        let row = empty();
        let queue = Queue(&row);
        queue.wait(at(10), at(30), at(20));
        queue.wait(at(0), at(40), at(20));
        queue.wait(at(15), at(50), at(20));
        queue.leave(at(15));
        assert_eq!(queue.first_not_before(at(20), at(20)), Some(at(41)));
        queue.wait(at(0), at(60), at(40));
        assert_eq!(
            queue.first_not_before(at(20), at(40)),
            Some(at(61)),
            "it asks again"
        );
    }

    #[test]
    fn who_does_not_come_is_not_waited_for() {
        let row = empty();
        let queue = Queue(&row);
        queue.wait(at(0), at(30), at(20));
        assert_eq!(
            queue.first_not_before(at(20), at(31)),
            None,
            "it was stopped, or killed"
        );
        queue.wait(at(10), at(50), at(31));
        assert_eq!(queue.first_not_before(at(20), at(31)), Some(at(51)));
    }

    #[test]
    fn nobody_waits_longer_than_is_said_here_whatever_stands_there() {
        let row = empty();
        let queue = Queue(&row);
        queue.wait(at(0), at(9_000), at(20));
        assert_eq!(
            queue.first_not_before(at(20), at(20)),
            None,
            "a word of seconds"
        );
        queue.wait(at(0), at(2_050), at(2_030));
        assert_eq!(
            queue.first_not_before(at(20), at(2_030)),
            None,
            "after two seconds"
        );
    }
}
