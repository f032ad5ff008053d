//! Moments at which the books and the device agree: no thread of this process is between a charge and its allocation, or
//! between a free and what that gives back.
//!
//! Who measures needs such a moment before and after. Calls that allocate or free are counted while they are under way; for a
//! measurement those that come are held back, and those under way waited for. Both waits are bounded: a call may itself wait
//! for something that only the other thread can do. Nothing is locked while the driver is called; after [`HELD_BACK_MAX`] a call
//! goes its way, whatever is being measured.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A call is held back no longer.
const HELD_BACK_MAX: Duration = Duration::from_millis(20);
/// Calls under way are waited for no longer.
const WAITED_FOR_MAX: Duration = Duration::from_millis(2);

/// The calls of this process that allocate or free.
#[derive(Default)]
pub(crate) struct Quiet {
    under_way: AtomicU32,
    is_measuring: AtomicBool,
    /// Held while somebody measures.
    measuring: Mutex<()>,
    last_left: Mutex<()>,
    left: Condvar,
}

thread_local! {
    /// Whether this thread's call is counted. Calls do not nest: what enters from inside is let through at the door.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// A call that is counted; dropped, it is over.
pub(crate) struct Call<'a>(&'a Quiet);

/// A call that is measured, and so not waited for, until dropped.
pub(crate) struct Measured<'a>(Option<&'a Quiet>);

impl Quiet {
    /// A call that allocates or frees begins.
    pub(crate) fn begin(&self) -> Call<'_> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        if self.is_measuring.load(Ordering::SeqCst) {
            self.leave();
            // Measured to its end, or too long.
            drop(self.measuring.try_lock_for(HELD_BACK_MAX));
            self.under_way.fetch_add(1, Ordering::SeqCst);
        }
        COUNTED.set(true);
        Call(self)
    }

    /// What this thread's call takes is measured: nobody has to wait for its end.
    pub(crate) fn step_aside(&self) -> Measured<'_> {
        let counted = COUNTED.replace(false);
        if counted {
            self.leave();
        }
        Measured(counted.then_some(self))
    }

    /// Looks at the books and at the device, and is told whether they agree. Of a call that has [stepped
    /// aside](Self::step_aside), or that is not counted.
    pub(crate) fn look<T>(&self, look: impl FnOnce(bool) -> T) -> T {
        let _measuring = self.measuring.lock();
        self.is_measuring.store(true, Ordering::SeqCst);
        let _open_again = OpenAgain(&self.is_measuring);
        let mut last_left = self.last_left.lock();
        let mut is_waiting = true;
        while is_waiting && self.under_way.load(Ordering::SeqCst) > 0 {
            let waited = self.left.wait_for(&mut last_left, WAITED_FOR_MAX);
            is_waiting = !waited.timed_out();
        }
        drop(last_left);
        look(self.under_way.load(Ordering::SeqCst) == 0)
    }

    fn leave(&self) {
        let before = self.under_way.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.is_measuring.load(Ordering::SeqCst) {
            let _last_left = self.last_left.lock();
            self.left.notify_all();
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if COUNTED.replace(false) {
            self.0.leave();
        }
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        if let Some(quiet) = self.0 {
            quiet.under_way.fetch_add(1, Ordering::SeqCst);
            COUNTED.set(true);
        }
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

    #[test]
    fn a_look_is_quiet_unless_a_call_is_under_way() {
        let quiet = Quiet::default();
        assert!(quiet.look(|is_quiet| is_quiet));
        let call = quiet.begin();
        assert!(
            !quiet.look(|is_quiet| is_quiet),
            "and does not wait for ever"
        );
        drop(call);
        assert!(quiet.look(|is_quiet| is_quiet));
    }

    #[test]
    fn a_call_that_is_measured_is_not_waited_for() {
        let quiet = Quiet::default();
        let call = quiet.begin();
        let measured = quiet.step_aside();
        assert!(quiet.look(|is_quiet| is_quiet));
        drop(measured);
        assert!(!quiet.look(|is_quiet| is_quiet));
        drop(call);
        assert!(quiet.look(|is_quiet| is_quiet));
    }

    #[test]
    fn a_call_that_comes_during_a_look_is_held_back_but_not_for_ever() {
        let quiet = Quiet::default();
        let (said, heard) = channel();
        thread::scope(|scope| {
            quiet.look(|_| {
                scope.spawn(|| {
                    let _call = quiet.begin();
                    said.send(()).unwrap();
                });
                // It begins while we are still looking.
                heard.recv_timeout(Duration::from_secs(10)).unwrap();
            });
        });
        assert!(quiet.look(|is_quiet| is_quiet));
    }
}
