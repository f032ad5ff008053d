//! One process's connection, as the device sees it.

use super::vram::Vram;
use crate::clock;
use crate::command::UtilizationSample;
use crate::model::{Model, Output, ProcessId, ProcessInfo};
use crate::peer_pid::peer_pid;
use crate::profile::{DEVICES_MAX, MachineProfile};
use crate::shared::{SharedMapping, memory_file};
use crate::wire::{
    self, MESSAGE_BYTES_MAX, Refusal, Reply, Request, Submission, USAGE_ROWS_PER_MESSAGE,
};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fmt::{self, Display, Formatter};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Messages of one peer that are handled before the others get their turn.
const MESSAGES_PER_TURN: usize = 256;

/// Descriptors of a welcome: the shared memory and one a device.
const DESCRIPTORS_MAX: usize = 1 + DEVICES_MAX;

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

/// A connection.
pub(super) struct Peer {
    pub(super) socket: OwnedFd,
    /// Readable when the process has ended, even while a forked child keeps the socket open.
    pub(super) process_end: Option<OwnedFd>,
    /// 0 = outside our pid namespace.
    pub(super) pid: u32,
    /// Once it has said hello.
    pub(super) process: Option<ProcessId>,
    shared: Option<SharedMapping>,
    buffer: Vec<u8>,
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
            process: None,
            shared: None,
            buffer: Vec::new(),
        }
    }

    /// Handles what it sent, up to a turn's worth.
    pub(super) fn serve(
        &mut self,
        model: &mut Model,
        profile: &MachineProfile,
        vram: &Vram,
    ) -> Result<(), Leave> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(MESSAGE_BYTES_MAX + 1, 0);
        for _ in 0..MESSAGES_PER_TURN {
            let bytes = match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Leave::Gone),
                Ok((bytes, _)) if bytes > MESSAGE_BYTES_MAX => {
                    return Err(Leave::BrokeProtocol("message too long".to_owned()));
                }
                Ok((bytes, _)) => bytes,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(_) => return Err(Leave::Gone),
            };
            let request = wire::decode(&buffer[..bytes])
                .map_err(|malformed| Leave::BrokeProtocol(malformed.to_string()))?;
            match self.process {
                Some(process) => {
                    let reply = handle(model, process, request)?;
                    vram.forget(model.take_released());
                    if let Some(reply) = reply {
                        self.answer(&reply, &[])?;
                    }
                }
                None => self.greet(model, profile, vram, request)?,
            }
        }
        self.buffer = buffer;
        Ok(())
    }

    fn greet(
        &mut self,
        model: &mut Model,
        profile: &MachineProfile,
        vram: &Vram,
        request: Request,
    ) -> Result<(), Leave> {
        let Request::Hello { version, container } = request else {
            return Err(Leave::BrokeProtocol("no hello".to_owned()));
        };
        let welcome = Reply::Welcome {
            version: wire::VERSION,
            profile_name: profile.name.clone(),
            profile_text: profile.text.clone(),
        };
        let name = "gpu-sim-semaphores";
        let shared = memory_file(name, SharedMapping::BYTES as u64).map_err(Leave::Failed)?;
        self.shared = Some(SharedMapping::new(&shared).map_err(Leave::Failed)?);
        let mut descriptors = vec![shared.as_fd()];
        descriptors.extend(vram.descriptors());
        self.answer(&welcome, &descriptors)?;
        if version != wire::VERSION {
            return Err(Leave::BrokeProtocol(format!("version {version}")));
        }
        let start_time_ticks = start_time_ticks(self.pid).unwrap_or(0);
        self.process = Some(model.join(ProcessInfo {
            pid: self.pid,
            start_time_ticks,
            container,
        }));
        Ok(())
    }

    /// Sends a reply, without waiting: who does not read its replies is thrown out.
    fn answer(&self, reply: &Reply, descriptors: &[BorrowedFd]) -> Result<(), Leave> {
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

/// Does what a process asks. Submissions carry their own time; for all else it is now.
fn handle(model: &mut Model, process: ProcessId, request: Request) -> Result<Option<Reply>, Leave> {
    let now_ns = clock::monotonic_ns();
    if let Request::Submit(submission) = request {
        // A process cannot put its commands into the future.
        let submitted_ns = submission.submitted_ns.min(now_ns);
        model.submit(
            process,
            Submission {
                submitted_ns,
                ..submission
            },
        )?;
        return Ok(None);
    }
    model.advance_to(now_ns);
    match one_way(model, process, request)? {
        None => Ok(None),
        Some(request) => Ok(Some(
            answer(model, process, request).unwrap_or_else(Reply::Refused),
        )),
    }
}

/// Does what is not answered, and gives back what is.
fn one_way(
    model: &mut Model,
    process: ProcessId,
    request: Request,
) -> Result<Option<Request>, Leave> {
    match request {
        Request::DestroyStream { stream } => model.destroy_stream(process, stream)?,
        Request::GraphNodes { graph, nodes } => model.append_to_graph(process, graph, nodes)?,
        Request::GraphUpdate {
            graph,
            index,
            command,
            enabled,
        } => {
            model.update_graph(process, graph, index, command, enabled)?;
        }
        Request::DestroyGraph { graph } => model.destroy_graph(process, graph)?,
        Request::HostCallDone { token } => model.host_call_done(process, token)?,
        Request::Signal { semaphore, payload } => model.signal(process, semaphore, payload),
        Request::Hello { .. } => return Err(Leave::BrokeProtocol("second hello".to_owned())),
        answered => return Ok(Some(answered)),
    }
    Ok(None)
}

fn answer(model: &mut Model, process: ProcessId, request: Request) -> Result<Reply, Refusal> {
    Ok(match request {
        Request::Memory { device } => Reply::Memory(model.memory(device)?),
        Request::Alloc {
            device,
            bytes,
            kind,
        } => Reply::Block(model.alloc(process, device, bytes, kind)?),
        Request::Free { block } => {
            model.free(process, block)?;
            Reply::Done
        }
        Request::CreateContext { device } => Reply::Context(model.create_context(process, device)?),
        Request::DestroyContext { context } => {
            model.destroy_context(process, context)?;
            Reply::Done
        }
        Request::CreateStream {
            context,
            priority,
            semaphore,
            base,
        } => Reply::Stream(model.create_stream(process, context, priority, semaphore, base)?),
        Request::Usage { first } => {
            let mut rows = model.usage().into_iter().skip(first as usize);
            let page = rows.by_ref().take(USAGE_ROWS_PER_MESSAGE).collect();
            Reply::Usage {
                rows: page,
                more: rows.next().is_some(),
            }
        }
        Request::Engine { device } => Reply::Engine(model.engine_usage(device)?),
        Request::Utilization { device } => Reply::Utilization(utilization(model, device)?),
        _ => return Err(Refusal::Unknown),
    })
}

fn utilization(model: &Model, device: u32) -> Result<Vec<UtilizationSample>, Refusal> {
    let ahead_ns = clock::realtime_ns().saturating_sub(clock::monotonic_ns());
    let samples = model.samples(device)?.into_iter();
    let samples = samples.map(|sample| UtilizationSample {
        timestamp_us: (sample.end_ns + ahead_ns) / 1_000,
        gpu_percent: sample.gpu_percent,
        memory_percent: sample.copy_percent,
        pid: sample.process.and_then(|process| model.pid(process)),
    });
    Ok(samples.collect())
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)); the name in field 2 may hold spaces and parentheses.
fn start_time_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}
