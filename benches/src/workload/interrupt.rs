//! Ctrl-C: the first ends the window, the second the program.
#![expect(
    unsafe_code,
    reason = "a signal handler can only be installed through libc"
)]

use std::io;
use std::mem::zeroed;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{NanosleepRelativeResult, Timespec, nanosleep};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// While it lives the first SIGINT is noted, and the second does what it did before.
pub(crate) struct Watch {
    before: libc::sigaction,
}

impl Watch {
    /// Begins to watch, with no SIGINT noted yet.
    pub(crate) fn begin() -> io::Result<Self> {
        INTERRUPTED.store(false, Ordering::Relaxed);
        // SAFETY: all zeros are a valid `sigaction`: no flags, an empty mask.
        let (mut action, mut before): (libc::sigaction, libc::sigaction) = unsafe { zeroed() };
        action.sa_sigaction = note as *const () as usize;
        action.sa_flags = libc::SA_RESETHAND;
        // SAFETY: the handler does nothing but an atomic store, which is async-signal-safe; both outlive the call.
        match unsafe { libc::sigaction(libc::SIGINT, &raw const action, &raw mut before) } {
            0 => Ok(Self { before }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: what the kernel gave out as the action before is a valid one. It cannot refuse what it gave out.
        unsafe { libc::sigaction(libc::SIGINT, &raw const self.before, ptr::null_mut()) };
    }
}

/// Whether there was a SIGINT.
pub(crate) fn is_set() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Waits for a time, or for a SIGINT. One that comes in the moment before the wait is seen after it.
pub(crate) fn wait_until(deadline: Instant) {
    while !is_set() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return;
        }
        let Ok(left) = Timespec::try_from(left) else {
            return; // in 292 billion years
        };
        if let NanosleepRelativeResult::Err(_) = nanosleep(&left) {
            return; // the time is valid, so there is no such error
        }
    }
}
