//! The system calls around `shm`, each in a safe dress.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::units::MonotonicNs;

/// The same file under a high descriptor number, closed on exec; where there is none, as it is.
pub(super) fn above_programs_numbers(file: File) -> File {
    for lowest in [900, 200] {
        // SAFETY: duplicates a descriptor that `file` keeps open.
        let copy = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) };
        if copy >= 0 {
            // SAFETY: the kernel has just made this descriptor for us.
            return unsafe { File::from_raw_fd(copy) };
        }
    }
    file
}

/// Which clock (clock_gettime(2)).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    Monotonic,
    MonotonicCoarse,
    Realtime,
}

/// `CLOCK_MONOTONIC`.
pub(crate) fn clock(clock: Clock) -> MonotonicNs {
    let id = match clock {
        Clock::Monotonic => libc::CLOCK_MONOTONIC,
        Clock::MonotonicCoarse => libc::CLOCK_MONOTONIC_COARSE,
        Clock::Realtime => libc::CLOCK_REALTIME,
    };
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is writable. The call cannot fail for these clocks (clock_gettime(2)).
    unsafe { libc::clock_gettime(id, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    MonotonicNs::new(seconds.saturating_mul(NS_PER_S).saturating_add(nanoseconds))
}

/// Nanoseconds in a second.
pub(super) const NS_PER_S: u64 = 1_000_000_000;

/// The user that this process acts as.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: always succeeds (geteuid(2)).
    unsafe { libc::geteuid() }
}

/// Whether this process may make files in the folder `path`.
pub(crate) fn is_writable(path: &Path) -> bool {
    let Ok(text) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: `text` is a C string that outlives the call.
    let answer = unsafe {
        libc::faccessat(
            libc::AT_FDCWD,
            text.as_ptr(),
            libc::W_OK | libc::X_OK,
            libc::AT_EACCESS,
        )
    };
    answer == 0 && path.is_dir()
}
