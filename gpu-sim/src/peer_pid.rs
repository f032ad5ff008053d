//! Who is at the other end of a Unix socket.
#![expect(
    unsafe_code,
    reason = "rustix gives the pid as non-zero, and it may be 0"
)]

use std::os::fd::{AsFd, AsRawFd};

/// Process id of the peer when it connected or listened; 0 = outside our pid namespace, or not to be had.
pub(crate) fn peer_pid(socket: impl AsFd) -> u32 {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `credentials` has `bytes` bytes, the option's type. On failure the pid stays 0.
    unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut bytes,
        );
    }
    u32::try_from(credentials.pid).unwrap_or(0)
}
