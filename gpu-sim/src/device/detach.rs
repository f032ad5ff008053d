//! Becoming nobody's child: the host program must not find us among its children, its terminal's
//! jobs or its descriptors.
#![expect(unsafe_code, reason = "fork and close_range have no safe form")]

use rustix::io::Errno;

/// Closes every descriptor but the standard three. To be called first, while nothing else is open.
fn close_inherited() {
    // SAFETY: nothing in this process owns a descriptor above 2 yet. Kernels without the call (< 5.9)
    // refuse it; then the host's descriptors without O_CLOEXEC stay open, which harms nobody but it.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Leaves the host program's session and descriptors. Returns in the process that goes on; the one
/// that the host started ends here with status 0.
pub fn detach() -> Result<(), Errno> {
    close_inherited();
    // EPERM: the host made us leader of a group; then the fork below is what frees us.
    let led = rustix::process::setsid();
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { libc::fork() } {
        -1 => {
            return Err(
                Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::AGAIN)
            );
        }
        0 => {}
        // SAFETY: ends this process without running what the child still needs (exit handlers).
        _ => unsafe { libc::_exit(0) },
    }
    if led.is_err() {
        rustix::process::setsid()?;
    }
    rustix::process::chdir("/")
}
