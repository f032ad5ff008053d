//! A process's connection to the simulated machine. Everything takes `&self` and is thread-safe.
//!
//! Control is request and reply over a socket, submissions are one-way messages on the same socket,
//! completion is read from shared memory. Bytes are moved by the process itself: by [`Effect`]s, run in
//! the order in which the device completes the commands they belong to, before any [`Machine::wait`] or
//! [`Machine::poll`] says so.

mod connection;
mod effects;
mod environment;
mod graph;
mod multicast;
mod quiet_thread;
mod semaphores;
mod sharing;
mod start;

pub use effects::Effect;
pub use environment::Environment;
pub use graph::Graph;
pub use multicast::Multicast;
pub use semaphores::SemaphoreHandle;
pub use sharing::Imported;

use crate::command::{
    AllocKind, Block, BlockId, Command, ContainerUsage, ContextId, EngineUsage, MemoryInfo,
    ProcessUsage, Sequence, StreamId, UtilizationSample,
};
use crate::peer_pid::peer_pid;
use crate::profile::{MachineProfile, Profile, ProfileError};
use crate::shared::{CommonsMapping, Mapping, Semaphore};
use crate::wire::{self, Refusal, Reply, Request, Role, Submission};
use connection::Connection;
use effects::Effects;
use parking_lot::Mutex;
use rustix::thread::{NanosleepRelativeResult, Timespec, nanosleep};
use semaphores::Semaphores;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// How long a wait looks before it sleeps.
const SPIN: Duration = Duration::from_micros(10);

/// How long a sleep lasts before it asks whether the device still lives.
const LIFE_CHECK: Duration = Duration::from_millis(50);

/// Devices that may die under one attempt to connect before it fails.
const DYING_MAX: u32 = 3;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The profile is not one.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A variable of the environment has a value that it cannot have.
    #[error("{name}={value}: it must be {wanted}")]
    Setting {
        /// Which variable.
        name: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        wanted: &'static str,
    },
    /// The folder's machine runs with this profile as it was before its file was changed.
    #[error(
        "{dir}: the machine there was started before {profile} was changed; it ends with its last user"
    )]
    ChangedProfile {
        /// The machine's folder.
        dir: String,
        /// The profile's file.
        profile: String,
    },
    /// The folder's machine runs with another profile.
    #[error(
        "{dir}: the machine there has profile {running}, which is not the {asked} of this process"
    )]
    OtherProfile {
        /// The machine's folder.
        dir: String,
        /// What runs.
        running: String,
        /// What was asked for.
        asked: String,
    },
    /// The device process was not found.
    #[error("gpu-sim-device not found beside {beside}; set GPU_SIM_DEVICE to its path")]
    NoDevice {
        /// Where it was looked for.
        beside: String,
    },
    /// The device process did not come up.
    #[error("gpu-sim-device: {0}")]
    NotStarted(String),
    /// The device process is of another build.
    #[error("gpu-sim-device speaks version {device} of the protocol, this library {ours}", ours = wire::VERSION)]
    Version {
        /// What the device speaks.
        device: u32,
    },
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The device went away while it was spoken to.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// The connection is no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The device process is gone, or has thrown this process out.
    #[error("the simulated device is gone")]
    Device,
    /// This process was forked from the one that connected. It must connect anew; a CUDA program
    /// gets `CUDA_ERROR_NOT_INITIALIZED`.
    #[error("the connection belongs to the process that this one was forked from")]
    Forked,
}

/// Why a request was not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No room for that many bytes in one piece.
    #[error("out of device memory")]
    OutOfMemory,
    /// The name stands for nothing that this process owns.
    #[error("no such thing")]
    Unknown,
    /// There is no place for it, or nothing at that place.
    #[error("no such place")]
    NoPlace,
    /// The device is not of the multicast object's team.
    #[error("not of the team")]
    NotOfTeam,
    /// All semaphores of the process are taken.
    #[error("out of semaphores")]
    OutOfSemaphores,
    /// A graph's nodes depend on later ones, or there is a graph among them.
    #[error("not a graph")]
    NotAGraph,
    /// No connection.
    #[error(transparent)]
    Lost(#[from] Lost),
}

impl From<Refusal> for RequestError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::OutOfMemory => Self::OutOfMemory,
            Refusal::Unknown => Self::Unknown,
            Refusal::NoPlace => Self::NoPlace,
            Refusal::NotOfTeam => Self::NotOfTeam,
        }
    }
}

/// A stream of a context.
pub struct Stream {
    id: StreamId,
    context: ContextId,
    progress: SemaphoreHandle,
    /// The semaphore's payload before the first command.
    base: u64,
    /// Last sequence number given out; locked while its command is sent.
    submitted: Mutex<Sequence>,
}

impl Stream {
    /// Its name.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Its context.
    pub fn context(&self) -> ContextId {
        self.context
    }

    /// Sequence number of the last command submitted; 0 = none yet.
    pub fn submitted(&self) -> Sequence {
        *self.submitted.lock()
    }

    /// The command that another stream of this process waits with until this one has completed `sequence`.
    pub fn reached(&self, sequence: Sequence) -> Command {
        Command::Wait {
            semaphore: self.progress.id(),
            payload: self.base + sequence,
        }
    }

    /// Sequence number of the last command that the device has completed. Its effects, and those
    /// before it, may still have to run: [`Machine::poll_stream`] runs them.
    pub fn completed(&self) -> Sequence {
        self.progress.get().read().payload - self.base
    }
}

struct Inner {
    connection: Connection,
    semaphores: Arc<Semaphores>,
    commons: CommonsMapping,
    effects: Effects,
    graphs: AtomicU64,
}

/// This process's connection to the machine.
pub struct Machine {
    profile: MachineProfile,
    alloc_delay: Duration,
    memories: Vec<Mapping>,
    inner: Arc<Inner>,
}

impl Machine {
    /// Connects to the machine that the environment names; starts it when this is its first user.
    pub fn connect() -> Result<Self, ConnectError> {
        Self::connect_to(&Environment::from_process())
    }

    /// Connects to the machine that `environment` names; starts it when this is its first user.
    pub fn connect_to(environment: &Environment) -> Result<Self, ConnectError> {
        if let Some(machine) = Self::connect_existing(environment)? {
            return Ok(machine);
        }
        let asked = environment.profile()?;
        let mut dying = 0;
        loop {
            let socket = start::connect(environment, &asked)?;
            let device = peer_pid(&socket);
            match Self::join(environment, &asked, socket, Role::User) {
                // A device that is killed may hang up on its users before it stops to listen: the next one is started
                // by whoever asks when it has ended.
                Err(ConnectError::Lost(Lost::Device))
                    if dying < DYING_MAX && start::wait_for_end(device) =>
                {
                    dying += 1;
                }
                joined => return joined,
            }
        }
    }

    /// Connects to the machine that `environment` names if it runs; starts none.
    pub fn connect_existing(environment: &Environment) -> Result<Option<Self>, ConnectError> {
        Self::connect_as(environment, Role::User)
    }

    /// As [`Machine::connect_existing`], to read the machine's books: it ends, and the connection with it, as if nobody
    /// looked on.
    pub fn observe(environment: &Environment) -> Result<Option<Self>, ConnectError> {
        Self::connect_as(environment, Role::Observer)
    }

    fn connect_as(environment: &Environment, role: Role) -> Result<Option<Self>, ConnectError> {
        let asked = environment.profile()?;
        environment.linger_ms()?;
        environment.alloc_delay()?;
        let Some(socket) = start::connect_existing(environment)? else {
            return Ok(None);
        };
        match Self::join(environment, &asked, socket, role) {
            Err(ConnectError::Lost(_)) => Ok(None), // it was just ending
            joined => joined.map(Some),
        }
    }

    fn join(
        environment: &Environment,
        asked: &MachineProfile,
        socket: OwnedFd,
        role: Role,
    ) -> Result<Self, ConnectError> {
        let joined = connection::join(socket, &environment.container, role)?;
        let dir = || environment.dir.display().to_string();
        if joined.profile.name != asked.name {
            return Err(ConnectError::OtherProfile {
                dir: dir(),
                running: joined.profile.name,
                asked: asked.name.clone(),
            });
        }
        if joined.profile.text != asked.text {
            return Err(ConnectError::ChangedProfile {
                dir: dir(),
                profile: joined.profile.name,
            });
        }
        let inner = Inner {
            connection: joined.connection,
            semaphores: Arc::new(Semaphores::new(Arc::clone(&joined.shared))),
            commons: joined.commons,
            effects: Effects::new(joined.shared),
            graphs: AtomicU64::new(0),
        };
        Ok(Self {
            profile: joined.profile,
            alloc_delay: environment.alloc_delay()?,
            memories: joined.memories,
            inner: Arc::new(inner),
        })
    }

    /// The machine's devices, in the order of their ordinals.
    pub fn devices(&self) -> &[Profile] {
        &self.profile.devices
    }

    /// The machine: driver version, CUDA version, timing.
    pub fn profile(&self) -> &MachineProfile {
        &self.profile
    }

    /// Whether the connection is still good. One system call.
    pub fn alive(&self) -> Result<(), Lost> {
        self.inner.connection.alive()
    }

    /// Process id of the device process; 0 where it lies outside our pid namespace.
    pub fn device_pid(&self) -> u32 {
        self.inner.connection.device_pid()
    }

    /// Memory of a device. `Unknown`: no such device.
    pub fn memory(&self, device: u32) -> Result<MemoryInfo, RequestError> {
        match self.request(&Request::Memory { device })? {
            Reply::Memory(memory) => Ok(memory),
            _ => Err(self.inner.connection.abandon().into()),
        }
    }

    /// Takes device memory. `OutOfMemory`: nothing was taken.
    pub fn alloc(&self, device: u32, bytes: u64, kind: AllocKind) -> Result<Block, RequestError> {
        self.dawdle();
        match self.request(&Request::Alloc {
            device,
            bytes,
            kind,
        })? {
            Reply::Block(block) => Ok(block),
            _ => Err(self.inner.connection.abandon().into()),
        }
    }

    /// Takes as long as a slow driver that `GPU_SIM_ALLOC_US` asks for.
    fn dawdle(&self) {
        let mut left = Some(self.alloc_delay).filter(|delay| !delay.is_zero());
        while let Some(delay) = left {
            // Below 2³² µs: both parts fit.
            let wanted = Timespec {
                tv_sec: delay.as_secs() as i64,
                tv_nsec: delay.subsec_nanos().into(),
            };
            left = match nanosleep(&wanted) {
                NanosleepRelativeResult::Interrupted(left) => Duration::try_from(left).ok(),
                _ => None,
            };
        }
    }

    /// Gives device memory back at once, whatever is pending.
    pub fn free(&self, block: BlockId) -> Result<(), RequestError> {
        self.request(&Request::Free { block }).map(drop)
    }

    /// Makes a context; it takes `context_bytes` of the profile.
    pub fn create_context(&self, device: u32) -> Result<ContextId, RequestError> {
        match self.request(&Request::CreateContext { device })? {
            Reply::Context(context) => Ok(context),
            _ => Err(self.inner.connection.abandon().into()),
        }
    }

    /// Ends a context: its streams and what is pending in them are dropped. Blocks stay until freed.
    pub fn destroy_context(&self, context: ContextId) -> Result<(), RequestError> {
        self.request(&Request::DestroyContext { context })?;
        self.inner.effects.drain(&self.inner.connection);
        self.inner.effects.forget(context);
        Ok(())
    }

    /// Makes a stream. `priority` as CUDA counts it: lower is more urgent.
    pub fn create_stream(&self, context: ContextId, priority: i32) -> Result<Stream, RequestError> {
        let progress = self.create_semaphore()?;
        let base = progress.get().read().payload;
        let semaphore = progress.id();
        match self.request(&Request::CreateStream {
            context,
            priority,
            semaphore,
            base,
        })? {
            Reply::Stream(id) => Ok(Stream {
                id,
                context,
                progress,
                base,
                submitted: Mutex::new(0),
            }),
            _ => Err(self.inner.connection.abandon().into()),
        }
    }

    /// Ends a stream as soon as what it holds has completed; does not wait for that.
    pub fn destroy_stream(&self, stream: Stream) -> Result<(), Lost> {
        self.inner
            .connection
            .send(&Request::DestroyStream { stream: stream.id })
    }

    /// Makes a semaphore, local to this process. Dropping the handle gives it back.
    pub fn create_semaphore(&self) -> Result<SemaphoreHandle, RequestError> {
        self.inner.connection.own()?;
        Semaphores::create(&self.inner.semaphores).ok_or(RequestError::OutOfSemaphores)
    }

    /// Appends a command to a stream; waits while the stream's queue is full (`Timing::queue_depth`).
    pub fn submit(&self, stream: &Stream, command: Command) -> Result<Sequence, Lost> {
        self.push(stream, command, 0, Vec::new())
    }

    /// As [`Machine::submit`], with what has to happen in this process when the command completes.
    /// A [`Command::HostCall`] wants an [`Effect::HostCall`], a [`Command::FaultingKernel`] an [`Effect::Fault`], and nothing else does.
    pub fn submit_with(
        &self,
        stream: &Stream,
        command: Command,
        effect: Effect,
    ) -> Result<Sequence, Lost> {
        let token = self.expect(stream, vec![effect])?;
        self.push(stream, command, token, Vec::new())
    }

    /// Launches a graph, with the effects of its nodes: index and effect, each index once.
    pub fn submit_graph(
        &self,
        stream: &Stream,
        graph: &Graph,
        effects: Vec<(u32, Effect)>,
    ) -> Result<Sequence, Lost> {
        let (nodes, effects): (Vec<u32>, Vec<Effect>) = effects.into_iter().unzip();
        let token = if effects.is_empty() {
            0
        } else {
            self.expect(stream, effects)?
        };
        self.push(stream, Command::Graph { graph: graph.id }, token, nodes)
    }

    /// Raises a semaphore from the host.
    pub fn signal(&self, semaphore: &SemaphoreHandle, payload: u64) -> Result<(), Lost> {
        self.inner.connection.send(&Request::Signal {
            semaphore: semaphore.id(),
            payload,
        })
    }

    /// Waits until a semaphore has at least this payload and every effect before it has run. Gives the
    /// time of the semaphore's last growth, CLOCK_MONOTONIC in ns. Must not be called by an [`Effect`].
    pub fn wait(&self, semaphore: &SemaphoreHandle, payload: u64) -> Result<u64, Lost> {
        self.inner.wait(semaphore.get(), payload)
    }

    /// As [`Machine::wait`], but says `None` where that would wait.
    pub fn poll(&self, semaphore: &SemaphoreHandle, payload: u64) -> Result<Option<u64>, Lost> {
        self.inner.poll(semaphore.get(), payload)
    }

    /// Waits until a stream has completed a command and every effect before it has run. Gives the
    /// time of the stream's last completion, CLOCK_MONOTONIC in ns.
    pub fn wait_stream(&self, stream: &Stream, sequence: Sequence) -> Result<u64, Lost> {
        self.inner
            .wait(stream.progress.get(), stream.base + sequence)
    }

    /// As [`Machine::wait_stream`], but says `None` where that would wait.
    pub fn poll_stream(&self, stream: &Stream, sequence: Sequence) -> Result<Option<u64>, Lost> {
        self.inner
            .poll(stream.progress.get(), stream.base + sequence)
    }

    /// Where these bytes of a device's memory lie in this process, for as long as the machine value lives;
    /// `None` beyond its end. Who touches them must own the block and order itself with other threads.
    pub fn vram(&self, device: u32, offset: u64, bytes: u64) -> Option<NonNull<u8>> {
        self.memories.get(device as usize)?.range(offset, bytes)
    }

    /// What every process did on every device since the machine started, the dead included.
    pub fn usage(&self) -> Result<Vec<ProcessUsage>, RequestError> {
        let mut all = Vec::new();
        loop {
            let first = all.len() as u32;
            match self.request(&Request::Usage { first })? {
                Reply::Usage { rows, more } => {
                    all.extend(rows);
                    if !more {
                        return Ok(all);
                    }
                }
                _ => return Err(self.inner.connection.abandon().into()),
            }
        }
    }

    /// What every container's processes did on every device since the machine started, the dead included. Never less
    /// than before, though the oldest dead may have left [`Machine::usage`].
    pub fn containers(&self) -> Result<Vec<ContainerUsage>, RequestError> {
        let mut all = Vec::new();
        loop {
            let first = all.len() as u32;
            match self.request(&Request::Containers { first })? {
                Reply::Containers { rows, more } => {
                    all.extend(rows);
                    if !more {
                        return Ok(all);
                    }
                }
                _ => return Err(self.inner.connection.abandon().into()),
            }
        }
    }

    /// What a device's engines did since the machine started.
    pub fn engine_usage(&self, device: u32) -> Result<EngineUsage, RequestError> {
        match self.request(&Request::Engine { device })? {
            Reply::Engine(usage) => Ok(usage),
            _ => Err(self.inner.connection.abandon().into()),
        }
    }

    /// The ring of utilization samples of the last 10 s, oldest first.
    pub fn utilization(&self, device: u32) -> Result<Vec<UtilizationSample>, RequestError> {
        match self.request(&Request::Utilization { device })? {
            Reply::Utilization(samples) => Ok(samples),
            _ => Err(self.inner.connection.abandon().into()),
        }
    }

    fn request(&self, request: &Request) -> Result<Reply, RequestError> {
        match self.inner.connection.request(request)? {
            Reply::Refused(refusal) => Err(refusal.into()),
            reply => Ok(reply),
        }
    }

    /// Announces effects and gives the first one's token. Waits while the log has no room for them.
    fn expect(&self, stream: &Stream, mut effects: Vec<Effect>) -> Result<u64, Lost> {
        self.inner.connection.own()?;
        loop {
            let ticket = self.inner.effects.ticket();
            self.inner.effects.drain(&self.inner.connection);
            match Effects::expect(&self.inner, stream.context, effects) {
                Ok(token) => return Ok(token),
                Err(refused) => effects = refused,
            }
            self.inner.connection.alive()?;
            self.inner.effects.listen(ticket, LIFE_CHECK);
        }
    }

    fn push(
        &self,
        stream: &Stream,
        command: Command,
        token: u64,
        logged_nodes: Vec<u32>,
    ) -> Result<Sequence, Lost> {
        let mut submitted = stream.submitted.lock();
        let sequence = *submitted + 1;
        let queue_depth = self.profile.timing.queue_depth;
        if sequence > queue_depth {
            self.wait_stream(stream, sequence - queue_depth)?;
        }
        stream.progress.reserve(stream.base + sequence);
        let submitted_ns = crate::clock::monotonic_ns();
        let stream = stream.id;
        let submission = Submission {
            stream,
            sequence,
            submitted_ns,
            token,
            logged_nodes,
            command,
        };
        self.inner.connection.send(&Request::Submit(submission))?;
        *submitted = sequence;
        Ok(sequence)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.inner.effects.stop();
    }
}

impl Inner {
    fn wait(&self, semaphore: &Semaphore, payload: u64) -> Result<u64, Lost> {
        self.connection.own()?;
        let start = Instant::now();
        loop {
            let stamp = semaphore.read();
            if stamp.payload >= payload {
                self.effects.drain(&self.connection);
                return Ok(stamp.timestamp_ns);
            }
            if start.elapsed() < SPIN {
                std::hint::spin_loop();
                continue;
            }
            self.connection.alive()?;
            semaphore.sleep(payload, LIFE_CHECK);
        }
    }

    fn poll(&self, semaphore: &Semaphore, payload: u64) -> Result<Option<u64>, Lost> {
        self.connection.own()?;
        let stamp = semaphore.read();
        if stamp.payload < payload {
            return self.connection.alive().map(|()| None);
        }
        self.effects.drain(&self.connection);
        Ok(Some(stamp.timestamp_ns))
    }
}
