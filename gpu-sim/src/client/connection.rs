//! The socket to the device, and what came with it.

use super::{ConnectError, Lost};
use crate::profile::{DEVICES_MAX, MachineProfile};
use crate::shared::{CommonsMapping, Mapping, SharedMapping};
use crate::wire::{self, MESSAGE_BYTES_MAX, Reply, Request, Role};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recv, recvmsg,
    send,
};
use rustix::process::Pid;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Descriptors that a welcome can bring: the process's shared memory, the machine's, and one a device.
const DESCRIPTORS_MAX: usize = 2 + DEVICES_MAX;

/// Lowest number of the socket's descriptor: out of the way of programs that count on theirs.
const DESCRIPTOR_MIN: i32 = 512;

/// The socket. Bound to the process that connected.
pub(super) struct Connection {
    socket: OwnedFd,
    owner: Pid,
    /// Held from a request to its reply.
    replies: Mutex<Vec<u8>>,
    abandoned: AtomicBool,
}

/// What joining a machine gives.
pub(super) struct Joined {
    pub(super) connection: Connection,
    pub(super) profile: MachineProfile,
    pub(super) shared: Arc<SharedMapping>,
    pub(super) commons: CommonsMapping,
    pub(super) memories: Vec<Mapping>,
}

/// Introduces this process to the device.
pub(super) fn join(socket: OwnedFd, container: &str, role: Role) -> Result<Joined, ConnectError> {
    let socket = rustix::io::fcntl_dupfd_cloexec(&socket, DESCRIPTOR_MIN).unwrap_or(socket);
    let connection = Connection {
        socket,
        owner: rustix::process::getpid(),
        replies: Mutex::default(),
        abandoned: AtomicBool::new(false),
    };
    let hello = Request::Hello {
        version: wire::VERSION,
        container: container.to_owned(),
        role,
    };
    connection.send(&hello)?;
    let (reply, descriptors) = connection.receive()?;
    let Reply::Welcome {
        version,
        profile_name,
        profile_text,
    } = reply
    else {
        return Err(connection.abandon().into());
    };
    if version != wire::VERSION {
        return Err(ConnectError::Version { device: version });
    }
    let profile = MachineProfile::parse(&profile_name, &profile_text)?;
    let mut descriptors = descriptors.into_iter();
    let (Some(shared), Some(commons), true) = (
        descriptors.next(),
        descriptors.next(),
        descriptors.len() == profile.devices.len(),
    ) else {
        return Err(connection.abandon().into());
    };
    let io = |what: &str| {
        let what = what.to_owned();
        move |error: Errno| ConnectError::Io {
            what,
            source: error.into(),
        }
    };
    let shared = SharedMapping::new(shared).map_err(io("mapping the semaphores"))?;
    let commons = CommonsMapping::new(commons).map_err(io("mapping the machine's semaphores"))?;
    let memories: Result<Vec<Mapping>, Errno> = descriptors
        .zip(&profile.devices)
        .map(|(memory, device)| Mapping::new(memory, device.memory_bytes as usize))
        .collect();
    let memories = memories.map_err(io("mapping the device memory"))?;
    Ok(Joined {
        connection,
        profile,
        shared: Arc::new(shared),
        commons,
        memories,
    })
}

impl Connection {
    /// Whether this process is the one that connected.
    pub(super) fn own(&self) -> Result<(), Lost> {
        if rustix::process::getpid() != self.owner {
            return Err(Lost::Forked);
        }
        if self.abandoned.load(Relaxed) {
            return Err(Lost::Device);
        }
        Ok(())
    }

    /// Whether the device still holds the other end.
    pub(super) fn alive(&self) -> Result<(), Lost> {
        self.own()?;
        let mut descriptor = [PollFd::new(&self.socket, PollFlags::HUP)];
        match poll(
            &mut descriptor,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        ) {
            Ok(0) | Err(Errno::INTR) => Ok(()),
            _ => Err(Lost::Device),
        }
    }

    pub(super) fn device_pid(&self) -> u32 {
        crate::peer_pid::peer_pid(&self.socket)
    }

    /// Gives the connection up: the device broke the protocol.
    pub(super) fn abandon(&self) -> Lost {
        self.abandoned.store(true, Relaxed);
        Lost::Device
    }

    /// Sends a message that is not answered. Waits while the device has no room for it.
    pub(super) fn send(&self, request: &Request) -> Result<(), Lost> {
        self.own()?;
        let mut message = Vec::with_capacity(128);
        if wire::encode(request, &mut message).is_err() || message.len() > MESSAGE_BYTES_MAX {
            return Err(self.abandon());
        }
        loop {
            match send(&self.socket, &message, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Lost::Device),
            }
        }
    }

    /// Sends a message and waits for its answer.
    pub(super) fn request(&self, request: &Request) -> Result<Reply, Lost> {
        self.own()?;
        let mut buffer = self.replies.lock();
        buffer.resize(MESSAGE_BYTES_MAX, 0);
        self.send(request)?;
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => return Err(Lost::Device),
                Ok((bytes, _)) => {
                    return wire::decode(&buffer[..bytes]).map_err(|_| self.abandon());
                }
                Err(Errno::INTR) => {}
                Err(_) => return Err(Lost::Device),
            }
        }
    }

    /// As [`Connection::request`], for what is answered with descriptors.
    pub(super) fn request_descriptors(
        &self,
        request: &Request,
    ) -> Result<(Reply, Vec<OwnedFd>), Lost> {
        self.own()?;
        let _one_at_a_time = self.replies.lock();
        self.send(request)?;
        self.receive()
    }

    /// The next reply, with the descriptors that come with it.
    fn receive(&self) -> Result<(Reply, Vec<OwnedFd>), Lost> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            match recvmsg(
                &self.socket,
                &mut parts,
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(Errno::INTR) => {}
                other => break other.map_err(|_| Lost::Device)?,
            }
        };
        if message.bytes == 0 || message.flags.contains(ReturnFlags::TRUNC) {
            return Err(self.abandon());
        }
        let mut descriptors = Vec::new();
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                descriptors.extend(rights);
            }
        }
        let reply = wire::decode(&buffer[..message.bytes]).map_err(|_| self.abandon())?;
        Ok((reply, descriptors))
    }
}
