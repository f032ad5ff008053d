//! A thread in somebody else's process: the host program's signals are not for it.
#![expect(unsafe_code, reason = "signal masks are set by the C library alone")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Starts a thread that handles no signal. A thread inherits its starter's mask, so that is full meanwhile.
pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: both sets have room, and the first is filled before it is read.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    // SAFETY: the call above has filled `before`: it fails for an unknown first argument alone.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    started.map(drop)
}
