//! Who and what has ended: peers, and exported descriptors that were closed everywhere.
//!
//! They are watched apart from all that is to be read, so that an end can be looked for before a message is served. The kernel tells
//! that a socket hangs up, or that a process has ended, before anybody can see that process as a zombie: whoever knows of a death and
//! asks for something then is served by a machine that knows of it, too.

use super::peer::Peer;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The ends that are watched. Its descriptor is readable while there are some to be seen.
pub(super) struct Ends(OwnedFd);

impl AsFd for Ends {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Ends {
    pub(super) fn new() -> Result<Self, Errno> {
        epoll::create(CreateFlags::CLOEXEC).map(Self)
    }

    /// Watches a descriptor's other end as `source`, until the descriptor is closed.
    pub(super) fn watch(&self, descriptor: &OwnedFd, source: u64) -> Result<(), Errno> {
        // Nothing is asked for: that the other end hangs up is always told.
        let hang_up = EventFlags::empty();
        epoll::add(&self.0, descriptor, EventData::new_u64(source), hang_up)
    }

    /// Watches a peer as `source`: its socket, and its process where there is one to be seen.
    pub(super) fn watch_peer(&self, peer: &Peer, source: u64) -> Result<(), Errno> {
        self.watch(&peer.socket, source)?;
        peer.process_end.as_ref().map_or(Ok(()), |end| {
            epoll::add(&self.0, end, EventData::new_u64(source), EventFlags::IN)
        })
    }

    /// One that has ended; it is told again until its descriptors are closed. Never waits.
    pub(super) fn next(&self) -> Result<Option<u64>, Errno> {
        let mut space = [MaybeUninit::<Event>::uninit()];
        let at_once = Timespec::default();
        match epoll::wait(&self.0, &mut space, Some(&at_once)) {
            Ok((events, _)) => Ok(events.first().map(|event| event.data.u64())),
            Err(Errno::INTR) => Ok(None), // nobody waits for a signal here: it is looked again
            Err(error) => Err(error),
        }
    }
}
