//! Sleeping on a word of shared memory: futex(2).

use std::ptr;

use super::system::NS_PER_S;
use crate::sync::AtomicU32;
use crate::units::MonotonicNs;

/// Wait while `word` is `expected`, until somebody wakes or `deadline` has come. May return early.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, deadline: MonotonicNs) {
    let deadline = timespec(deadline);
    // FUTEX_WAIT_BITSET takes an absolute time on CLOCK_MONOTONIC (futex(2)).
    // SAFETY: `word` and `deadline` are readable for the whole call. Every outcome (value changed, timeout, signal) is a
    // return to the caller, who looks again.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET,
            expected,
            &raw const deadline,
            ptr::null::<u32>(),
            libc::FUTEX_BITSET_MATCH_ANY,
        )
    };
}

/// Wake one that waits on `word`.
pub(super) fn futex_wake_one(word: &AtomicU32) {
    futex_wake(word, 1);
}

/// Wake all that wait on `word`.
pub(crate) fn futex_wake_all(word: &AtomicU32) {
    futex_wake(word, i32::MAX);
}

fn futex_wake(word: &AtomicU32, count: i32) {
    // SAFETY: the kernel uses the address as a key only.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
}

fn timespec(point: MonotonicNs) -> libc::timespec {
    libc::timespec {
        tv_sec: (point.get() / NS_PER_S)
            .try_into()
            .unwrap_or(libc::time_t::MAX),
        tv_nsec: (point.get() % NS_PER_S).try_into().unwrap_or(0),
    }
}
