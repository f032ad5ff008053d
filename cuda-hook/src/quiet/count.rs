//! How many calls are under way. Each thread counts its own in a word that it alone writes: to count one more takes one locked
//! instruction, to count one less none.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

/// So many threads have a word of their own. Those that come later share one, and add and take away by locked instructions.
const WORDS: usize = 16;

/// Calls of one process.
pub(super) struct Count {
    /// Tells it from others that a thread may have a word of: a child process has its own count, and its parent's threads.
    number: u64,
    own: [CachePadded<AtomicU32>; WORDS],
    /// Threads that have come.
    threads: AtomicUsize,
    shared: CachePadded<AtomicU32>,
}

/// Which word of which count is a thread's.
#[derive(Clone, Copy)]
struct Word {
    count: u64,
    index: usize,
}

/// What a thread has to keep for the count.
pub(crate) struct Place(Cell<Word>);

impl Place {
    /// Of a thread that has not counted yet.
    pub(crate) const fn new() -> Self {
        Self(Cell::new(Word { count: 0, index: 0 }))
    }
}

impl Default for Count {
    fn default() -> Self {
        static COUNTS: AtomicU64 = AtomicU64::new(1);
        Self {
            number: COUNTS.fetch_add(1, Ordering::Relaxed),
            own: Default::default(),
            threads: AtomicUsize::new(0),
            shared: CachePadded::default(),
        }
    }
}

impl Count {
    /// A call begins in the thread of that place. What the thread reads from now on, it reads after that can be seen.
    #[inline]
    pub(super) fn add(&self, place: &Place) {
        match self.own(place) {
            Some(own) => {
                let calls = own.load(Ordering::Relaxed);
                own.swap(calls.wrapping_add(1), Ordering::SeqCst);
            }
            None => {
                self.shared.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// It ends. That may be seen a little after what the thread reads from now on.
    #[inline]
    pub(super) fn take_away(&self, place: &Place) {
        match self.own(place) {
            Some(own) => {
                let calls = own.load(Ordering::Relaxed);
                own.store(calls.wrapping_sub(1), Ordering::Release);
            }
            None => {
                self.shared.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// All of them. Who finds a call ended finds what its thread did in it.
    pub(super) fn sum(&self) -> u32 {
        let own = self.own.iter().map(|own| own.load(Ordering::SeqCst));
        own.fold(self.shared.load(Ordering::SeqCst), u32::wrapping_add)
    }

    /// The thread's own word; `None`: it has to share.
    #[inline]
    fn own(&self, Place(word): &Place) -> Option<&AtomicU32> {
        if word.get().count != self.number {
            self.come(word);
        }
        self.own.get(word.get().index).map(|own| &**own)
    }

    #[cold]
    fn come(&self, word: &Cell<Word>) {
        word.set(Word {
            count: self.number,
            index: self.threads.fetch_add(1, Ordering::Relaxed),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn each_thread_counts_in_its_own_word_and_those_that_come_late_in_one() {
        let count = Count::default();
        let places = [const { Place::new() }; WORDS + 2];
        places.iter().for_each(|place| count.add(place));
        let own = count.own.each_ref().map(|own| own.load(Ordering::Relaxed));
        assert_eq!(own, [1; WORDS]);
        assert_eq!(count.shared.load(Ordering::Relaxed), 2);
        assert_eq!(count.sum(), 18);
        places.iter().for_each(|place| count.take_away(place));
        assert_eq!(count.sum(), 0);
    }

    #[test]
    fn a_call_inside_a_call_is_one_more() {
        let (count, place) = (Count::default(), Place::new());
        count.add(&place);
        count.add(&place);
        count.take_away(&place);
        assert_eq!(count.sum(), 1);
    }

    #[test]
    fn a_word_of_the_parents_count_is_none_of_the_childs() {
        let [parent, child] = [(); 2].map(|()| Count::default());
        let (first, second) = (Place::new(), Place::new());
        parent.add(&first);
        child.add(&second);
        child.add(&first);
        child.take_away(&second);
        assert_eq!((parent.sum(), child.sum()), (1, 1));
        let own = child.own.each_ref().map(|own| own.load(Ordering::Relaxed));
        assert_eq!(own[..2], [0, 1]);
    }

    #[test]
    fn many_threads_at_once_are_counted_to_the_last() {
        let count = Count::default();
        thread::scope(|scope| {
            for _ in 0..2 * WORDS {
                scope.spawn(|| {
                    let place = Place::new();
                    for _ in 0..1_000 {
                        count.add(&place);
                        assert!(count.sum() > 0);
                        count.take_away(&place);
                    }
                });
            }
        });
        assert_eq!(count.sum(), 0);
    }
}
