//! What is kept of each thread: whether it is inside a hook, and what its call under way has come to.

use std::cell::Cell;

use limiter::ledger::OverQuota;

use crate::in_hand::InHand;
use crate::quiet;

/// Of a thread. Its call looks it up once.
pub(crate) struct Thread {
    /// A hook runs in it: what comes in again are the driver's own calls.
    is_inside: Cell<bool>,
    /// The last charge of the call under way that the quota had no room for, and of which device.
    over_quota: Cell<Option<(usize, OverQuota)>>,
    /// Whether its call is one of those that [`Quiet`](crate::quiet::Quiet) counts. Calls do not nest: what enters from inside is
    /// let through at the door.
    pub(crate) is_counted: Cell<bool>,
    /// Where it is counted.
    pub(crate) counts_in: quiet::Place,
    /// What it may launch without asking.
    pub(crate) in_hand: InHand,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            is_inside: Cell::new(false),
            over_quota: Cell::new(None),
            is_counted: Cell::new(false),
            counts_in: quiet::Place::new(),
            in_hand: InHand::new(),
        }
    };
}

/// A thread that is inside a hook, until this is dropped.
pub(crate) struct Inside<'a>(&'a Thread);

impl Thread {
    /// Goes in with this thread; `None` where it is inside already. A thread that is ending counts as inside.
    #[inline]
    pub(crate) fn enter<T>(work: impl FnOnce(Inside) -> T) -> Option<T> {
        let entered = THREAD.try_with(|thread| {
            let is_first = !thread.is_inside.replace(true);
            is_first.then(|| {
                thread.over_quota.set(None);
                work(Inside(thread))
            })
        });
        entered.ok().flatten()
    }

    /// This thread; `None` where it is ending.
    #[inline]
    pub(crate) fn current<T>(look: impl FnOnce(&Self) -> T) -> Option<T> {
        THREAD.try_with(look).ok()
    }

    /// Runs the program's own code that the driver calls inside of a hook: for its calls this thread is outside.
    pub(crate) fn outside<T>(work: impl FnOnce() -> T) -> T {
        let before = Self::current(|thread| {
            let (is_inside, is_counted) = (&thread.is_inside, &thread.is_counted);
            let flags = (is_inside.replace(false), is_counted.replace(false));
            (flags, thread.over_quota.take())
        });
        let answer = work();
        if let Some(((is_inside, is_counted), over_quota)) = before {
            // A thread that is ending counts as inside.
            let _ = Self::current(|thread| {
                thread.is_inside.set(is_inside);
                thread.is_counted.set(is_counted);
                thread.over_quota.set(over_quota);
            });
        }
        answer
    }

    /// The quota had no room for a charge of the call under way. If the call is refused in the end, that is why.
    pub(crate) fn note_over_quota(device_index: usize, over: OverQuota) {
        // A thread that is ending has no call under way.
        let _ = Self::current(|thread| thread.over_quota.set(Some((device_index, over))));
    }

    /// What was noted so since this thread went in.
    pub(crate) fn over_quota(&self) -> Option<(usize, OverQuota)> {
        self.over_quota.get()
    }
}

impl std::ops::Deref for Inside<'_> {
    type Target = Thread;

    fn deref(&self) -> &Thread {
        self.0
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.is_inside.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_guard_does_not_clear_the_outer_one() {
        let went_in = Thread::enter(|_inside| {
            assert!(Thread::enter(|_inside| ()).is_none());
            assert!(Thread::enter(|_inside| ()).is_none(), "still inside");
        });
        assert!(went_in.is_some());
        assert!(Thread::enter(|_inside| ()).is_some(), "out again");
    }
}
