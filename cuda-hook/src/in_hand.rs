//! What a thread has in hand of its container's share, by stream: launches on it ask nobody.

use std::cell::RefCell;
use std::ptr;

use limiter::share::{Credit, Share};

/// Streams that a thread has credit for at a time.
const STREAMS: usize = 4;

/// Where credit is for: a stream of a device, in one process. After a fork nothing counts that the parent had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    share: usize,
    pub(crate) device_index: usize,
    stream: usize,
}

impl Place {
    #[inline]
    pub(crate) fn new(share: &Share, device_index: usize, stream: usize) -> Self {
        Self {
            share: ptr::from_ref(share).addr(),
            device_index,
            stream,
        }
    }

    /// Whether it is one of this share's.
    pub(crate) fn is_of(self, share: &Share) -> bool {
        self.share == ptr::from_ref(share).addr()
    }
}

/// A thread's credit, last used first.
pub(crate) struct InHand<C = Credit> {
    credits: RefCell<[Option<(Place, C)>; STREAMS]>,
}

impl<C> InHand<C> {
    pub(crate) const fn new() -> Self {
        Self {
            credits: RefCell::new([const { None }; STREAMS]),
        }
    }

    /// Does this with the credit for `place`, if there is any.
    #[inline]
    pub(crate) fn with<T>(&self, place: Place, work: impl FnOnce(&mut C) -> T) -> Option<T> {
        let mut credits = self.credits.borrow_mut();
        let found = credits.iter_mut().flatten().find(|(of, _)| *of == place);
        found.map(|(_, credit)| work(credit))
    }

    /// Takes out the credit for `place`.
    pub(crate) fn take(&self, place: Place) -> Option<C> {
        let mut credits = self.credits.borrow_mut();
        let is_for = |kept: &Option<(Place, C)>| matches!(kept, Some((of, _)) if *of == place);
        let found = credits.iter_mut().find(|kept| is_for(kept))?;
        found.take().map(|(_, credit)| credit)
    }

    /// Keeps the credit for `place`; what has to make room for it is that of the stream that was used least lately.
    pub(crate) fn put(&self, place: Place, credit: C) -> Option<(Place, C)> {
        let mut credits = self.credits.borrow_mut();
        let mut moved = Some((place, credit));
        for kept in credits.iter_mut() {
            std::mem::swap(kept, &mut moved);
            if moved.is_none() {
                break;
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(stream: usize) -> Place {
        Place {
            share: 1,
            device_index: 0,
            stream,
        }
    }

    #[test]
    fn the_stream_that_was_used_least_lately_makes_room() {
        let in_hand = InHand::new();
        for stream in 0..STREAMS {
            assert_eq!(in_hand.put(place(stream), stream), None);
        }
        let first = in_hand.take(place(0)).expect("it was put there");
        assert_eq!(in_hand.put(place(0), first), None, "its own room");
        let least_lately = in_hand.put(place(STREAMS), STREAMS);
        assert_eq!(least_lately, Some((place(1), 1)));
        assert_eq!(in_hand.with(place(0), |credit| *credit), Some(0));
        assert_eq!(in_hand.with(place(1), |credit| *credit), None);
        assert_eq!(in_hand.take(place(1)), None);
    }
}
