//! The machine's folder: what lies in it, and the lock under which a device comes up and ends.
//!
//! Only devices take the lock. Each is in a session of its own, so a program that is stopped or killed while it starts one keeps
//! nobody waiting: whoever else comes starts a device, too, and of all of them the first to have the lock stays.

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::path::Path;

/// The file whose lock a device holds while it comes up or ends.
pub const LOCK_FILE: &str = "lock";

/// The socket that the device listens on.
pub const SOCKET_FILE: &str = "socket";

/// The device's standard error.
pub const LOG_FILE: &str = "log";

/// What a device writes to its standard output once it, or another of the same folder, listens.
pub const READY: &str = "ready\n";

/// Takes the machine's lock. The device removes the file when it ends, so a lock counts only if the
/// file still stands where it was.
pub fn lock(dir: &Path) -> Result<OwnedFd, Errno> {
    let path = dir.join(LOCK_FILE);
    loop {
        match rustix::fs::mkdir(dir, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
        if still_stands(&file, &path) {
            return Ok(file);
        }
    }
}

/// Connects to the device. `NOENT`, `CONNREFUSED`: there is none.
pub fn dial(dir: &Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(dir.join(SOCKET_FILE))?;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Err(Errno::INTR) => {}
            other => return other.map(|()| socket),
        }
    }
}

/// Removes the machine's files, and its folder unless somebody has put something else there, traces perhaps. For the holder
/// of the lock, when no device runs.
pub fn remove(dir: &Path) -> Result<(), Errno> {
    for file in [SOCKET_FILE, LOG_FILE, LOCK_FILE] {
        match rustix::fs::unlink(dir.join(file)) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    match rustix::fs::rmdir(dir) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::ACCESS | Errno::BUSY) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether `path` still names the file behind `file`.
pub fn still_stands(file: &OwnedFd, path: &Path) -> bool {
    match (rustix::fs::fstat(file), rustix::fs::stat(path)) {
        (Ok(held), Ok(named)) => held.st_ino == named.st_ino && held.st_dev == named.st_dev,
        _ => false,
    }
}
