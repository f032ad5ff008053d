//! The device process: drives the model with the clock and speaks to the processes that use it.
//!
//! One thread, one `epoll`. It never waits for a client: what it sends it sends without blocking, and
//! completions are stores to shared memory. A client that breaks the protocol is thrown out, alone.

mod commons;
mod detach;
mod ends;
mod exports;
mod log;
mod peer;
mod requests;
mod vram;

pub use detach::detach;
pub use log::{Level, Log};

use crate::clock;
use crate::folder::{self, LOCK_FILE, SOCKET_FILE, still_stands};
use crate::model::{Model, Output, ProcessId};
use crate::profile::MachineProfile;
use crate::wire::{Reply, Request, Role};
use commons::Commons;
use ends::Ends;
use exports::Exports;
use peer::{Buffer, Leave, Peer};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use vram::Vram;

/// How late a completion may be seen, in ns, so that short kernels are handled in batches. Times in
/// the model stay exact. 20 µs is below the wake-up time of a sleeping process.
const WAKE_GRANULARITY_NS: u64 = 20_000;

/// Messages of one peer that are handled before the others get their turn.
const MESSAGES_PER_TURN: usize = 256;

/// How long a machine is there for its first user, whatever its linger time: who started it may take that long to connect.
const FIRST_USER_PATIENCE: Duration = Duration::from_secs(5);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

const LISTENER: u64 = 0;
const TIMER: u64 = 1;
const ENDS: u64 = 2;
/// Peers and exported descriptors.
const FIRST_OTHER: u64 = 3;

/// The running machine.
pub struct Device {
    dir: PathBuf,
    log: Log,
    epoll: OwnedFd,
    ends: Ends,
    listener: OwnedFd,
    /// Of the socket's file: another machine may come to stand in the folder, should somebody remove ours.
    socket_inode: u64,
    timer: OwnedFd,
    model: Model,
    profile: MachineProfile,
    vram: Vram,
    commons: Commons,
    exports: Exports,
    peers: BTreeMap<u64, Peer>,
    by_process: BTreeMap<ProcessId, u64>,
    /// Of the peer or exported descriptor that comes next.
    next_source: u64,
    buffer: Buffer,
    linger_ns: u64,
    /// When the machine ends, unless somebody comes.
    linger_until_ns: u64,
}

/// Listens in a folder; gives the socket, and the inode of its file.
fn listen(dir: &Path, epoll: &OwnedFd) -> Result<(OwnedFd, u64), Errno> {
    let socket_path = dir.join(SOCKET_FILE);
    match rustix::fs::unlink(&socket_path) {
        Ok(()) | Err(Errno::NOENT) => {} // left by a device that was killed, or our own
        Err(error) => return Err(error),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::bind(&listener, &SocketAddrUnix::new(&socket_path)?)?;
    rustix::net::listen(&listener, BACKLOG)?;
    epoll::add(
        epoll,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    Ok((listener, rustix::fs::stat(&socket_path)?.st_ino))
}

impl Device {
    /// Makes the machine in `dir` and listens there; it outlives its last user by `linger`. The caller holds
    /// the folder's lock.
    pub fn new(
        dir: &Path,
        profile: MachineProfile,
        linger: Duration,
        log: Log,
    ) -> Result<Self, Errno> {
        let timer_flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, timer_flags)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let ends = Ends::new()?;
        let (listener, socket_inode) = listen(dir, &epoll)?;
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), edge)?;
        epoll::add(&epoll, &ends, EventData::new_u64(ENDS), EventFlags::IN)?;
        let now_ns = clock::monotonic_ns();
        let linger_ns = linger.as_nanos() as u64;
        Ok(Self {
            dir: dir.to_owned(),
            log,
            epoll,
            ends,
            listener,
            socket_inode,
            timer,
            model: Model::new(profile.clone(), now_ns),
            vram: Vram::new(&profile, log)?,
            commons: Commons::new()?,
            exports: Exports::default(),
            profile,
            peers: BTreeMap::new(),
            by_process: BTreeMap::new(),
            next_source: FIRST_OTHER,
            buffer: Buffer::new(),
            linger_ns,
            linger_until_ns: now_ns + linger_ns.max(FIRST_USER_PATIENCE.as_nanos() as u64),
        })
    }

    /// Runs until the last user has been gone for its linger time, then removes the machine's files.
    pub fn run(mut self) -> Result<(), Errno> {
        let mut events = Vec::with_capacity(64);
        loop {
            self.arm()?;
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            for event in &events {
                self.handle(event.data.u64())?;
            }
            self.advance();
            let idle = !self.is_used() && clock::monotonic_ns() >= self.linger_until_ns;
            if idle && self.end()? {
                return Ok(());
            }
        }
    }

    /// Whether anybody is connected for whose sake the machine lives on.
    fn is_used(&self) -> bool {
        self.peers.values().any(|peer| peer.role == Role::User)
    }

    /// Sets the timer to what comes first: the model's next event or the machine's end.
    fn arm(&self) -> Result<(), Errno> {
        let earliest_ns = clock::monotonic_ns() + WAKE_GRANULARITY_NS;
        let end_ns = (!self.is_used()).then_some(self.linger_until_ns);
        let next_ns = self.model.next_event_ns().into_iter().chain(end_ns).min();
        // All zero disarms; the clock is far past zero.
        let at_ns = next_ns.map_or(0, |next_ns| next_ns.max(earliest_ns));
        let it_value = Timespec {
            tv_sec: (at_ns / 1_000_000_000) as i64,
            tv_nsec: (at_ns % 1_000_000_000) as i64,
        };
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once).map(drop)
    }

    fn handle(&mut self, source: u64) -> Result<(), Errno> {
        match source {
            LISTENER => self.accept(),
            TIMER => Ok(()), // edge-triggered: setting it again is all it wants
            ENDS => self.part_with_ended(),
            peer => {
                self.serve(peer);
                Ok(())
            }
        }
    }

    fn accept(&mut self) -> Result<(), Errno> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match acceptfrom_with(&self.listener, flags) {
                Ok((socket, _)) => self.welcome(socket),
                Err(Errno::AGAIN) => return Ok(()),
                // The peer gave up, or we are out of descriptors for now: neither ends the machine.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    self.log.say(Level::Error, format_args!("accept: {error}"));
                    return Ok(());
                }
            }
        }
    }

    fn next_source(&mut self) -> u64 {
        let source = self.next_source;
        self.next_source += 1;
        source
    }

    fn welcome(&mut self, socket: OwnedFd) {
        let id = self.next_source();
        let peer = Peer::new(socket);
        let source = EventData::new_u64(id);
        let watched = epoll::add(&self.epoll, &peer.socket, source, EventFlags::IN);
        match watched.and_then(|()| self.ends.watch_peer(&peer, id)) {
            Ok(()) => drop(self.peers.insert(id, peer)),
            Err(error) => self.log.say(Level::Error, format_args!("epoll: {error}")),
        }
    }

    /// Handles what a peer sent.
    fn serve(&mut self, id: u64) {
        let result = self.take_turn(id);
        self.flush();
        if let Err(leave) = result {
            self.part_with(id, &leave);
        }
    }

    /// Parts with everybody whose end can be seen by now, and lets go of what descriptors kept that were closed everywhere.
    fn part_with_ended(&mut self) -> Result<(), Errno> {
        while let Some(source) = self.ends.next()? {
            if !self.exports.hang_up(&mut self.model, source) {
                self.part_with_dead(source);
            }
            self.flush();
        }
        Ok(())
    }

    /// Parts with a peer that has ended, when what it had sent is done.
    fn part_with_dead(&mut self, id: u64) {
        let leave = self.take_turn(id).err().unwrap_or(Leave::Gone);
        self.flush();
        self.part_with(id, &leave);
    }

    fn part_with(&mut self, id: u64, leave: &Leave) {
        if let Some(peer) = self.peers.remove(&id) {
            self.part(peer, leave);
        }
    }

    /// Handles a peer's messages, up to a turn's worth. What happened before an answer is seen before it.
    fn take_turn(&mut self, id: u64) -> Result<(), Leave> {
        for _ in 0..MESSAGES_PER_TURN {
            let Some(peer) = self.peers.get_mut(&id) else {
                break;
            };
            let Some(request) = peer.receive(&mut self.buffer)? else {
                break;
            };
            let Some(process) = peer.process else {
                let of_machine = [self.commons.descriptor()].into_iter();
                let of_machine: Vec<_> = of_machine.chain(self.vram.descriptors()).collect();
                let process = peer.greet(&mut self.model, &self.profile, &of_machine, request)?;
                self.by_process.insert(process, id);
                continue;
            };
            if requests::takes_memory(&request) && !self.may_take_memory(id)? {
                continue;
            }
            let Some((reply, descriptor)) = self.answer(process, request)? else {
                continue;
            };
            self.flush();
            let descriptors: Vec<BorrowedFd> = descriptor.iter().map(AsFd::as_fd).collect();
            self.peers
                .get(&id)
                .map_or(Ok(()), |peer| peer.answer(&reply, &descriptors))?;
        }
        Ok(())
    }

    /// Whether a peer lives to have what it asks for. Parts with the dead first, and so with itself where it is one of them: what one of
    /// them held, or still asks for, is never counted beside what somebody asked for after its end.
    fn may_take_memory(&mut self, id: u64) -> Result<bool, Leave> {
        self.part_with_ended().map_err(Leave::Failed)?;
        Ok(self.peers.contains_key(&id))
    }

    /// Does what a process asks: the reply, if there is one, and the descriptor that goes with it.
    fn answer(
        &mut self,
        process: ProcessId,
        request: Request,
    ) -> Result<Option<(Reply, Option<OwnedFd>)>, Leave> {
        match request {
            Request::Export { what } => {
                let source = self.next_source();
                let watched = (&self.ends, source);
                let exported = self.exports.export(&mut self.model, watched, process, what);
                Ok(Some(match exported {
                    Ok(descriptor) => (Reply::Done, Some(descriptor)),
                    Err(refusal) => (Reply::Refused(refusal), None),
                }))
            }
            Request::Import { file_device, inode } => {
                let file = (file_device, inode);
                let imported = self.exports.import(&mut self.model, process, file);
                Ok(Some((imported.unwrap_or_else(Reply::Refused), None)))
            }
            request => {
                let reply = requests::handle(&mut self.model, process, request)?;
                Ok(reply.map(|reply| (reply, None)))
            }
        }
    }

    fn part(&mut self, peer: Peer, leave: &Leave) {
        let level = if matches!(leave, Leave::Gone) {
            Level::Debug
        } else {
            Level::Error
        };
        self.log
            .say(level, format_args!("process {} leaves: {leave}", peer.pid));
        if let Some(process) = peer.process {
            self.model.kill(process);
            self.by_process.remove(&process);
        }
        // Who has not said hello was none, but perhaps a device that looked whether there is one.
        if peer.role == Role::User && peer.process.is_some() {
            self.linger_until_ns = clock::monotonic_ns() + self.linger_ns;
        }
    }

    fn advance(&mut self) {
        self.model.advance_to(clock::monotonic_ns());
        self.flush();
    }

    /// Carries out what the model says.
    fn flush(&mut self) {
        self.vram.forget(self.model.take_released());
        while let Some(output) = self.model.take_output() {
            self.tell(output);
        }
    }

    fn tell(&mut self, output: Output) {
        if let Output::Raise {
            process: ProcessId::MACHINE,
            semaphore,
            payload,
            at_ns,
        } = output
        {
            return self.commons.raise(semaphore, payload, at_ns);
        }
        let (Output::Raise { process, .. } | Output::Log { process, .. }) = output;
        let Some(&id) = self.by_process.get(&process) else {
            return;
        };
        let told = self.peers.get(&id).map_or(Ok(()), |peer| peer.tell(output));
        if let Err(leave) = told
            && let Some(peer) = self.peers.remove(&id)
        {
            self.part(peer, &leave);
        }
    }

    /// Removes the machine's files, unless a new user is just coming. Says whether it did.
    fn end(&mut self) -> Result<bool, Errno> {
        let lock_path = self.dir.join(LOCK_FILE);
        let lock = match rustix::fs::open(&lock_path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        {
            Ok(lock) => lock,
            Err(Errno::NOENT) => return Ok(true), // somebody removed the folder under us
            Err(error) => return Err(error),
        };
        let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if !locked || !still_stands(&lock, &lock_path) {
            self.linger_until_ns = clock::monotonic_ns() + self.linger_ns;
            return Ok(false);
        }
        let socket = rustix::fs::stat(self.dir.join(SOCKET_FILE));
        if socket.is_ok_and(|socket| socket.st_ino != self.socket_inode) {
            // Somebody removed the folder under us, and another machine stands there now.
            self.accept()?;
            return Ok(!self.is_used());
        }
        // From here on nobody can connect, and we do not hang up on who has: who comes now starts a device, which waits for our lock.
        rustix::net::shutdown(&self.listener, Shutdown::Both)?;
        self.accept()?;
        if self.is_used() {
            (self.listener, self.socket_inode) = listen(&self.dir, &self.epoll)?;
            return Ok(false);
        }
        self.log
            .say(Level::Debug, format_args!("the last user is gone"));
        folder::remove(&self.dir).map(|()| true)
    }
}
