//! A second process: the same test program, started again for one of its tests, on the same machine.
//!
//! A test that needs another process calls [`Other::start`] with its own name; in the child [`here`] is true, and the test plays
//! the other part. The two talk over a socket: bytes, and descriptors with them.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Number of the child's end of the socket, in its environment.
const SOCKET: &str = "TEST_OTHER_SOCKET";

/// The other process, as the test that started it sees it. Dropped, it is killed.
pub(crate) struct Other {
    child: Child,
    pub(crate) line: Line,
}

/// One end of what the two talk over.
pub(crate) struct Line(UnixStream);

/// The child's end, where this process is one.
pub(crate) fn here() -> Option<Line> {
    let number = std::env::var(SOCKET).ok()?.parse().expect("a number");
    // SAFETY: the parent left this descriptor open for us, and nobody else here knows of it.
    Some(Line(unsafe { UnixStream::from_raw_fd(number) }))
}

impl Other {
    /// Starts this program again for the test of this name. The driver must have been opened before, so that its machine has a name.
    pub(crate) fn start(test: &str) -> Self {
        super::driver();
        let (own, theirs) = UnixStream::pair().expect("a pair");
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).expect("inheritable");
        let child = Command::new(std::env::current_exe().expect("a test has a path"))
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(SOCKET, theirs.as_raw_fd().to_string())
            .spawn()
            .expect("it starts");
        Self {
            child,
            line: Line(own),
        }
    }

    /// Kills it, and waits until it is dead.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is there");
        self.child.wait().expect("it ends");
    }

    /// Waits until it has ended well.
    pub(crate) fn end(mut self) {
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Line {
    pub(crate) fn say<const N: usize>(&mut self, bytes: [u8; N]) {
        self.0.write_all(&bytes).expect("the other listens");
    }

    pub(crate) fn hear<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).expect("the other says it");
        bytes
    }

    pub(crate) fn give(&self, descriptor: impl AsFd) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let byte = [IoSlice::new(&[0])];
        sendmsg(&self.0, &byte, &mut ancillary, SendFlags::empty()).expect("the other listens");
    }

    pub(crate) fn take(&self) -> OwnedFd {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).expect("it is sent");
        let mut messages = ancillary.drain();
        match messages.next() {
            Some(RecvAncillaryMessage::ScmRights(mut rights)) => rights.next().expect("one"),
            _ => panic!("no descriptor came"),
        }
    }
}
