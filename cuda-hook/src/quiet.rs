//! Moments at which the books and the device agree: no thread of this process is between a charge and its allocation, or
//! between a free and what that gives back.
//!
//! Who measures needs such a moment before and after. Calls that allocate or free are counted while they are under way; for a
//! measurement those that come are held back, and those under way waited for. Both waits are bounded: a call may itself wait
//! for something that only the other thread can do. Nothing is locked while the driver is called; after [`HELD_BACK_MAX`] a call
//! goes its way, whatever is being measured, and whoever measures is told: the moment was not quiet to its end.

mod count;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use self::count::Count;
pub(crate) use self::count::Place;
use crate::thread::Thread;

/// A call is held back no longer.
const HELD_BACK_MAX: Duration = Duration::from_millis(20);
/// Calls under way are waited for no longer.
const WAITED_FOR_MAX: Duration = Duration::from_millis(2);

/// The calls of this process that allocate or free.
#[derive(Default)]
pub(crate) struct Quiet {
    under_way: Count,
    /// Those that are measured, and so not waited for.
    aside: AtomicU32,
    is_measuring: AtomicBool,
    looks: AtomicU64,
    /// Calls that were held back for long enough, and went on while somebody was looking.
    gone_on: AtomicU64,
    /// Held while somebody measures.
    measuring: Mutex<()>,
    last_left: Mutex<()>,
    left: Condvar,
}

/// What is known of a look at the books and at the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// No other thread has a call under way: the books and the device agree, but for what is being measured.
    pub(crate) is_quiet: bool,
    /// Nor is anything else being measured.
    pub(crate) is_alone: bool,
    /// How many looks there were before.
    number: u64,
}

impl Look {
    /// Whether nothing but what the looking thread did was under way from `before` to this look.
    pub(crate) fn is_next_after(self, before: Self) -> bool {
        [before, self]
            .iter()
            .all(|look| look.is_quiet && look.is_alone)
            && self.number == before.number.wrapping_add(1)
    }
}

/// A look that is not over yet.
pub(crate) struct Looking<'a> {
    quiet: &'a Quiet,
    began: Look,
    gone_on: u64,
}

impl Looking<'_> {
    /// What is known of it until now: quiet it is as long as no other call has gone on. To be asked when everything has been seen.
    pub(crate) fn until_now(&self) -> Look {
        // Who has seen what a call did sees that it has gone on.
        fence(Ordering::SeqCst);
        let is_undisturbed = self.quiet.gone_on.load(Ordering::SeqCst) == self.gone_on;
        Look {
            is_quiet: self.began.is_quiet && is_undisturbed,
            ..self.began
        }
    }
}

/// A call that is counted; dropped, it is over.
pub(crate) struct Call<'a> {
    quiet: &'a Quiet,
    thread: &'a Thread,
}

/// A part of a call that is counted; dropped, it is over.
pub(crate) struct Part<'a>(&'a Quiet);

/// A call that is measured, and so not waited for, until dropped.
pub(crate) struct Measured<'a> {
    quiet: &'a Quiet,
    counted: bool,
}

impl Quiet {
    /// A call of this thread that allocates or frees begins.
    #[inline]
    pub(crate) fn begin<'a>(&'a self, thread: &'a Thread) -> Call<'a> {
        self.count(thread);
        Call {
            quiet: self,
            thread,
        }
    }

    #[inline]
    fn count(&self, thread: &Thread) {
        self.under_way.add(&thread.counts_in);
        if self.is_measuring.load(Ordering::SeqCst) {
            self.hold_back(thread);
        }
        thread.is_counted.set(true);
    }

    #[inline]
    fn count_no_more(&self, thread: &Thread) {
        if thread.is_counted.replace(false) {
            self.leave(thread);
        }
    }

    /// The same for a part of this thread's call, which as a whole is not counted.
    pub(crate) fn begin_part(&self) -> Part<'_> {
        Thread::current(|thread| self.count(thread));
        Part(self)
    }

    #[cold]
    fn hold_back(&self, thread: &Thread) {
        self.leave(thread);
        let nobody_measures = self.measuring.try_lock_for(HELD_BACK_MAX);
        // Before anybody else can begin to.
        self.under_way.add(&thread.counts_in);
        if nobody_measures.is_none() {
            self.gone_on.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// What this thread's call takes is measured: nobody has to wait for its end.
    pub(crate) fn step_aside(&self) -> Measured<'_> {
        self.aside.fetch_add(1, Ordering::SeqCst);
        let counted = Thread::current(|thread| {
            let counted = thread.is_counted.get();
            self.count_no_more(thread);
            counted
        });
        Measured {
            quiet: self,
            counted: counted == Some(true),
        }
    }

    /// Looks at the books and at the device, and is told whether they agree. What this thread has under way itself does not
    /// count.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Looking<'_>) -> T) -> T {
        let own = u32::from(Thread::current(|thread| thread.is_counted.get()) == Some(true));
        let _measuring = self.measuring.lock();
        self.is_measuring.store(true, Ordering::SeqCst);
        let _open_again = OpenAgain(&self.is_measuring);
        let mut last_left = self.last_left.lock();
        let mut is_waiting = true;
        while is_waiting && self.under_way.sum() > own {
            let waited = self.left.wait_for(&mut last_left, WAITED_FOR_MAX);
            is_waiting = !waited.timed_out();
        }
        drop(last_left);
        look(&self.begin_look(own))
    }

    /// With the lock of whoever measures held; `own` calls are the looking thread's.
    fn begin_look(&self, own: u32) -> Looking<'_> {
        let gone_on = self.gone_on.load(Ordering::SeqCst);
        Looking {
            quiet: self,
            began: Look {
                is_quiet: self.under_way.sum() == own,
                is_alone: self.aside.load(Ordering::SeqCst) == 0,
                number: self.looks.fetch_add(1, Ordering::SeqCst),
            },
            gone_on,
        }
    }

    /// Looks if they agree at once, and nobody else is looking: without waiting for anybody.
    pub(crate) fn look_now<T>(&self, look: impl FnOnce(&Looking<'_>) -> T) -> Option<T> {
        let _measuring = self.measuring.try_lock()?;
        self.is_measuring.store(true, Ordering::SeqCst);
        let _open_again = OpenAgain(&self.is_measuring);
        let looking = self.begin_look(0);
        looking.began.is_quiet.then(|| look(&looking))
    }

    /// Who looks and does not see yet that the call has ended, while it has not seen yet that somebody looks, finds out when it has waited.
    #[inline]
    fn leave(&self, thread: &Thread) {
        self.under_way.take_away(&thread.counts_in);
        if self.is_measuring.load(Ordering::SeqCst) {
            self.tell_who_looks();
        }
    }

    #[cold]
    fn tell_who_looks(&self) {
        let _last_left = self.last_left.lock();
        self.left.notify_all();
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.quiet.count_no_more(self.thread);
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        Thread::current(|thread| self.0.count_no_more(thread));
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        if self.counted {
            Thread::current(|thread| {
                self.quiet.under_way.add(&thread.counts_in);
                thread.is_counted.set(true);
            });
        }
        self.quiet.aside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Lets calls come again, also after a panic.
struct OpenAgain<'a>(&'a AtomicBool);

impl Drop for OpenAgain<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    fn seen(quiet: &Quiet) -> Look {
        quiet.look(|look| look.until_now())
    }

    /// As another thread finds it.
    fn is_quiet(quiet: &Quiet) -> bool {
        let look = || seen(quiet).is_quiet;
        thread::scope(|scope| scope.spawn(look).join().unwrap())
    }

    #[test]
    fn a_look_is_quiet_unless_a_call_is_under_way() {
        let quiet = Quiet::default();
        assert!(is_quiet(&quiet));
        let call = quiet.begin_part();
        assert!(!is_quiet(&quiet), "and does not wait for ever");
        drop(call);
        assert!(is_quiet(&quiet));
    }

    #[test]
    fn who_does_not_wait_looks_only_when_nobody_is_in_the_way() {
        let quiet = Quiet::default();
        assert!(quiet.look_now(|_| ()).is_some());
        let call = quiet.begin_part();
        assert!(quiet.look_now(|_| ()).is_none(), "a call is under way");
        drop(call);
        quiet.look(|_| assert!(quiet.look_now(|_| ()).is_none(), "somebody looks"));
        assert!(quiet.look_now(|_| ()).is_some());
    }

    #[test]
    fn a_threads_own_call_is_not_in_its_way() {
        let quiet = Quiet::default();
        let _call = quiet.begin_part();
        assert!(seen(&quiet).is_quiet);
        assert!(!is_quiet(&quiet), "but in the others'");
    }

    #[test]
    fn two_looks_are_one_after_the_other_if_nothing_else_was_measured() {
        let quiet = Quiet::default();
        let before = seen(&quiet);
        let after = seen(&quiet);
        assert!(after.is_next_after(before));
        assert!(!seen(&quiet).is_next_after(before), "another look");
        let before = seen(&quiet);
        let _measured = quiet.step_aside();
        assert!(!seen(&quiet).is_next_after(before), "another call");
    }

    #[test]
    fn a_call_that_is_measured_is_not_waited_for() {
        let quiet = Quiet::default();
        let call = quiet.begin_part();
        let measured = quiet.step_aside();
        assert!(is_quiet(&quiet));
        drop(measured);
        assert!(!is_quiet(&quiet));
        drop(call);
        assert!(is_quiet(&quiet));
    }

    #[test]
    fn a_call_that_comes_during_a_look_is_held_back_but_not_for_ever() {
        let quiet = Quiet::default();
        let (said, heard) = channel();
        thread::scope(|scope| {
            quiet.look(|look| {
                assert!(look.until_now().is_quiet);
                scope.spawn(|| {
                    let _call = quiet.begin_part();
                    said.send(()).unwrap();
                });
                // It begins while we are still looking.
                heard.recv_timeout(Duration::from_secs(10)).unwrap();
                assert!(!look.until_now().is_quiet, "and whoever looks knows");
            });
        });
        assert!(is_quiet(&quiet));
    }

    /// Takes turns at looking and at calls: nothing is called in a look that was quiet to its end.
    #[test]
    fn nobody_calls_while_a_look_is_quiet() {
        const TURNS: u32 = 20_000;
        let (quiet, calling) = (Quiet::default(), AtomicU32::new(0));
        let call = || {
            let _call = quiet.begin_part();
            calling.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            calling.fetch_sub(1, Ordering::SeqCst);
        };
        let look = |look: &Looking<'_>| {
            let seen = calling.load(Ordering::SeqCst);
            thread::yield_now();
            let seen = seen.max(calling.load(Ordering::SeqCst));
            assert!(seen == 0 || !look.until_now().is_quiet);
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..TURNS).for_each(|_| call()));
                scope.spawn(|| (0..TURNS).for_each(|_| quiet.look(look)));
            }
        });
    }
}
