//! One process's connection, as the device sees it.

use crate::model::{Model, Output, ProcessId, ProcessInfo};
use crate::peer_pid::peer_pid;
use crate::profile::{DEVICES_MAX, MachineProfile};
use crate::shared::{SharedMapping, memory_file};
use crate::wire::{self, MESSAGE_BYTES_MAX, Refusal, Reply, Request, Role};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fmt::{self, Display, Formatter};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Descriptors of a welcome: the process's shared memory, the machine's, and one a device.
const DESCRIPTORS_MAX: usize = 2 + DEVICES_MAX;

/// Why a peer leaves.
#[derive(Debug)]
pub(super) enum Leave {
    /// It closed the connection or ended.
    Gone,
    /// It sent something that is not to be answered but by throwing it out.
    BrokeProtocol(String),
    /// The operating system refused something.
    Failed(Errno),
}

impl Display for Leave {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Self::Gone => write!(f, "gone"),
            Self::BrokeProtocol(how) => write!(f, "broke the protocol: {how}"),
            Self::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl From<Refusal> for Leave {
    /// Of messages that are not answered: a client of ours sends none that is refused.
    fn from(refusal: Refusal) -> Self {
        Self::BrokeProtocol(format!("{refusal:?}"))
    }
}

/// Room for one message, and one byte that shows that it was too long.
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    pub(super) fn new() -> Self {
        Self(vec![0; MESSAGE_BYTES_MAX + 1])
    }
}

/// A connection.
pub(super) struct Peer {
    pub(super) socket: OwnedFd,
    /// Readable when the process has ended, even while a forked child keeps the socket open.
    pub(super) process_end: Option<OwnedFd>,
    /// 0 = outside our pid namespace.
    pub(super) pid: u32,
    /// A user, unless it says otherwise.
    pub(super) role: Role,
    /// Once it has said hello.
    pub(super) process: Option<ProcessId>,
    shared: Option<SharedMapping>,
}

impl Peer {
    pub(super) fn new(socket: OwnedFd) -> Self {
        let pid = peer_pid(&socket);
        let process_end =
            Pid::from_raw(pid as i32).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Self {
            socket,
            process_end,
            pid,
            role: Role::User,
            process: None,
            shared: None,
        }
    }

    /// The next message, if there is one.
    pub(super) fn receive(&self, buffer: &mut Buffer) -> Result<Option<Request>, Leave> {
        loop {
            let bytes = match recv(&self.socket, &mut buffer.0[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Leave::Gone),
                Ok((bytes, _)) if bytes > MESSAGE_BYTES_MAX => {
                    return Err(Leave::BrokeProtocol("message too long".to_owned()));
                }
                Ok((bytes, _)) => bytes,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(_) => return Err(Leave::Gone),
            };
            return wire::decode(&buffer.0[..bytes])
                .map(Some)
                .map_err(|malformed| Leave::BrokeProtocol(malformed.to_string()));
        }
    }

    /// Answers the first message, which has to be a hello, and makes the peer a process of the model.
    pub(super) fn greet(
        &mut self,
        model: &mut Model,
        profile: &MachineProfile,
        descriptors_of_machine: &[BorrowedFd],
        request: Request,
    ) -> Result<ProcessId, Leave> {
        let Request::Hello {
            version,
            container,
            role,
        } = request
        else {
            return Err(Leave::BrokeProtocol("no hello".to_owned()));
        };
        self.role = role;
        let welcome = Reply::Welcome {
            version: wire::VERSION,
            profile_name: profile.name.clone(),
            profile_text: profile.text.clone(),
        };
        let name = "gpu-sim-semaphores";
        let shared = memory_file(name, SharedMapping::BYTES as u64).map_err(Leave::Failed)?;
        self.shared = Some(SharedMapping::new(&shared).map_err(Leave::Failed)?);
        let mut descriptors = vec![shared.as_fd()];
        descriptors.extend(descriptors_of_machine);
        self.answer(&welcome, &descriptors)?;
        if version != wire::VERSION {
            return Err(Leave::BrokeProtocol(format!("version {version}")));
        }
        let start_time_ticks = start_time_ticks(self.pid).unwrap_or(0);
        let info = ProcessInfo {
            pid: self.pid,
            start_time_ticks,
            container,
        };
        let process = model.join(info);
        self.process = Some(process);
        Ok(process)
    }

    /// Sends a reply, without waiting: who does not read its replies is thrown out.
    pub(super) fn answer(&self, reply: &Reply, descriptors: &[BorrowedFd]) -> Result<(), Leave> {
        let mut message = Vec::new();
        wire::encode(reply, &mut message)
            .map_err(|malformed| Leave::BrokeProtocol(malformed.to_string()))?;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if descriptors.is_empty() {
            return send(&self.socket, &message, flags)
                .map(drop)
                .map_err(Leave::Failed);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        sendmsg(
            &self.socket,
            &[IoSlice::new(&message)],
            &mut ancillary,
            flags,
        )
        .map(drop)
        .map_err(Leave::Failed)
    }

    /// Writes to the process's shared memory.
    pub(super) fn tell(&self, output: Output) -> Result<(), Leave> {
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        match output {
            Output::Raise {
                semaphore,
                payload,
                at_ns,
                ..
            } => match shared.semaphore(semaphore.0) {
                Some(semaphore) => semaphore.raise(payload, at_ns),
                None => return Err(Leave::BrokeProtocol("no such semaphore".to_owned())),
            },
            Output::Log { token, .. } => {
                shared
                    .push(token)
                    .map_err(|full| Leave::BrokeProtocol(full.to_string()))?;
            }
        }
        Ok(())
    }
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)); the name in field 2 may hold spaces and parentheses.
fn start_time_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}
