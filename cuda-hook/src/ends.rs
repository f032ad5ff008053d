//! Which contexts have ended, so that what a thread was taking of one meanwhile is not charged for ever.
//!
//! A context's end gives back all that is on record as its. An allocation of another thread may have succeeded just before, and come to
//! its record only afterwards; and the driver may give the handle to a new context at once. So each block has beside
//! its context's handle the moment before its call, and an end says up to which moment the handle was that context's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// A moment in the life of this process, counted in contexts that were made or ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// When contexts ended.
#[derive(Default)]
pub(crate) struct ContextEnds {
    now: AtomicU64,
    /// By handle: the first moment at which what had it before had it no longer.
    latest: Mutex<HashMap<usize, Moment>>,
}

impl ContextEnds {
    /// The present. To be asked before a call that takes something in a context.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.now.load(Ordering::SeqCst))
    }

    /// A context was made that has this handle: whatever had it before has ended. What is older than the moment returned was its.
    pub(crate) fn made(&self, context: usize) -> Moment {
        let mut latest = self.latest.lock();
        self.step(&mut latest, context)
    }

    /// The context has ended that had this handle at `then`, before the call that ended it. What is older than the moment
    /// returned was its; it is not after another's making, which may have come first.
    pub(crate) fn ended(&self, context: usize, then: Moment) -> Moment {
        let mut latest = self.latest.lock();
        match latest.get(&context) {
            Some(&end) if end > then => end,
            _ => self.step(&mut latest, context),
        }
    }

    /// Whether the context that had this handle at `then` has ended. To be asked when what was taken in it is on record: an
    /// end that comes later finds it there.
    #[inline]
    pub(crate) fn has_ended(&self, context: usize, then: Moment) -> bool {
        self.now() != then && self.has_ended_since(context, then)
    }

    #[inline(never)]
    fn has_ended_since(&self, context: usize, then: Moment) -> bool {
        let latest = self.latest.lock();
        latest.get(&context).is_some_and(|&end| end > then)
    }

    fn step(&self, latest: &mut HashMap<usize, Moment>, context: usize) -> Moment {
        let before = self.now.fetch_add(1, Ordering::SeqCst);
        let moment = Moment(before.wrapping_add(1));
        latest.insert(context, moment);
        moment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_before_a_contexts_end_was_its() {
        let ends = ContextEnds::default();
        let before = ends.now();
        assert!(!ends.has_ended(7, before));
        let end = ends.ended(7, before);
        assert!(before < end);
        assert!(ends.has_ended(7, before));
        assert!(!ends.has_ended(8, before), "another context");
        assert!(!ends.has_ended(7, ends.now()), "the next of that handle");
    }

    #[test]
    fn an_end_that_is_told_after_the_next_contexts_making_is_before_it() {
        let ends = ContextEnds::default();
        let then = ends.now();
        // The driver has ended it; before its thread says so, another makes a context that is given the handle.
        let made = ends.made(7);
        let of_the_next = ends.now();
        assert_eq!(ends.ended(7, then), made);
        assert!(!ends.has_ended(7, of_the_next));
        assert!(of_the_next >= made, "it stays");
    }
}
