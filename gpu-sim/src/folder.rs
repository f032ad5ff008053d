//! The machine's folder: what lies in it, and the lock that decides who starts and ends the machine.

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The file whose lock decides who may start or end the machine.
pub const LOCK_FILE: &str = "lock";

/// The socket that the device listens on.
pub const SOCKET_FILE: &str = "socket";

/// The device's standard error.
pub const LOG_FILE: &str = "log";

/// What the device writes to its standard output once it listens.
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
