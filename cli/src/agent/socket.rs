//! The unix socket of who may change limits.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use crate::failure::Failure;

/// Only its owner and root may connect: that takes the right to write to it (unix(7), "Pathname socket ownership and permissions").
const OF_OWNER: Mode = Mode::from_raw_mode(0o600);

/// Connections that may wait to be accepted.
const WAITING_MAX: i32 = 128;

/// The socket, which goes when it is dropped.
pub(crate) struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    /// Makes it, and the folder that it stands in. One that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// Another process listens there, something else stands there, or nothing can be made there.
    pub(crate) fn bind(path: &Path) -> Result<Self, Failure> {
        let refused = |reason: &dyn std::fmt::Display| {
            Failure::failed(format_args!(
                "cannot listen on {}: {reason}; --socket names another path",
                path.display()
            ))
        };
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(refused(&"what is there is no socket"));
            }
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(|error| refused(&error))?;
                }
                Err(error) => return Err(refused(&error)),
                Ok(_) => return Err(refused(&"another process does")),
            },
            Err(_) => make_folder(path).map_err(|error| refused(&error))?,
        }
        let listener = bind_for_owner(path).map_err(|error| refused(&error))?;
        Ok(Self {
            path: path.to_owned(),
            listener,
        })
    }

    /// What accepts.
    pub(crate) fn listener(&self) -> Result<tokio::net::UnixListener, Failure> {
        let listener = self.listener.try_clone();
        let listening = listener.and_then(|listener| {
            listener.set_nonblocking(true)?;
            tokio::net::UnixListener::from_std(listener)
        });
        listening.map_err(Failure::failed)
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755).create(folder)
    })
}

/// With the mode from its first moment on: what is bound gets the mode of the socket (Linux, net/unix/af_unix.c, `unix_bind_bsd`).
fn bind_for_owner(path: &Path) -> io::Result<UnixListener> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    fchmod(&socket, OF_OWNER)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, WAITING_MAX)?;
    Ok(UnixListener::from(socket))
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Where it is gone already nothing is left to do.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_is_its_owners_and_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/socket");
        let socket = Socket::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_a_killed_agent_left_is_replaced_and_a_living_ones_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap()); // its file stays
        let _living = Socket::bind(&path).unwrap();
        let refused = Socket::bind(&path).err().unwrap().to_string();
        assert!(
            refused.contains("another process does; --socket names"),
            "{refused}"
        );
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        fs::write(&path, "kept").unwrap();
        let refused = Socket::bind(&path).err().unwrap().to_string();
        assert!(refused.contains("no socket"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    }
}
