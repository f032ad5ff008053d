//! What crosses the socket between a process and the device: one message a packet.

use crate::command::{
    AllocKind, Binding, Block, BlockId, Command, ContainerUsage, ContextId, EngineUsage, Exported,
    GraphId, GraphNode, MemoryInfo, MulticastId, MulticastTeam, ProcessUsage, SemaphoreId,
    Sequence, StreamId, UtilizationSample,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Raised whenever a message or the shared memory changes its meaning.
pub const VERSION: u32 = 6;

/// Largest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Nodes of one [`Request::GraphNodes`], so that a message stays below its maximum.
pub const GRAPH_NODES_PER_MESSAGE: usize = 256;

/// Rows of one [`Reply::Usage`] or [`Reply::Containers`].
pub const USAGE_ROWS_PER_MESSAGE: usize = 128;

/// Why a process connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It uses the machine, which lives as long as it does.
    User,
    /// It looks on. The machine ends without waiting for it.
    Observer,
}

/// A command on its way to a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// Which stream.
    pub stream: StreamId,
    /// Its place in the stream: one more than the one before it.
    pub sequence: Sequence,
    /// When the process submitted it, CLOCK_MONOTONIC in ns.
    pub submitted_ns: u64,
    /// Written to the completion log when it completes; 0 = nothing is written.
    pub token: u64,
    /// For a graph: the nodes that are logged; the n-th of them as `token + n`.
    pub logged_nodes: Vec<u32>,
    /// What to do.
    pub command: Command,
}

/// From a process to the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first message; answered by [`Reply::Welcome`] with the descriptors.
    Hello {
        /// [`VERSION`] of the process.
        version: u32,
        /// Label for the usage table.
        container: String,
        /// Whether the machine lives on for its sake.
        role: Role,
    },
    /// Answered by [`Reply::Memory`].
    Memory {
        /// Which device.
        device: u32,
    },
    /// Answered by [`Reply::Block`].
    Alloc {
        /// Which device.
        device: u32,
        /// How many bytes.
        bytes: u64,
        /// What for.
        kind: AllocKind,
    },
    /// Answered by [`Reply::Done`].
    Free {
        /// Which block.
        block: BlockId,
    },
    /// Answered by [`Reply::Block`]: from now on this process holds the block too, until it frees it.
    Open {
        /// Which block.
        block: BlockId,
    },
    /// Answered by [`Reply::Done`] with a descriptor.
    Export {
        /// What it stands for.
        what: Exported,
    },
    /// Answered by [`Reply::Block`] or [`Reply::Multicast`], which this process then holds, or by [`Reply::Pool`].
    Import {
        /// Device number of the descriptor's file (fstat(2)).
        file_device: u64,
        /// Inode number of the descriptor's file.
        inode: u64,
    },
    /// Answered by [`Reply::Multicast`].
    CreateMulticast {
        /// What for; its semaphore is one that the process holds.
        team: MulticastTeam,
    },
    /// Answered by [`Reply::Done`].
    AddToMulticast {
        /// One that this process holds.
        object: MulticastId,
        /// Which device.
        device: u32,
    },
    /// Answered by [`Reply::Done`].
    BindMulticast {
        /// One that this process holds.
        object: MulticastId,
        /// Where in it.
        part: Binding,
        /// Memory that this process holds.
        block: BlockId,
    },
    /// Answered by [`Reply::Done`].
    UnbindMulticast {
        /// One that this process holds.
        object: MulticastId,
        /// Where in it.
        part: Binding,
    },
    /// One-way: this process holds it once less.
    DropMulticast {
        /// One that this process holds.
        object: MulticastId,
    },
    /// Answered by [`Reply::SharedSemaphore`].
    CreateSharedSemaphore,
    /// Answered by [`Reply::Done`].
    OpenSharedSemaphore {
        /// One that another process holds.
        semaphore: SemaphoreId,
    },
    /// One-way.
    DropSharedSemaphore {
        /// One that this process holds.
        semaphore: SemaphoreId,
    },
    /// Answered by [`Reply::Context`].
    CreateContext {
        /// Which device.
        device: u32,
    },
    /// Answered by [`Reply::Done`].
    DestroyContext {
        /// Which context.
        context: ContextId,
    },
    /// Answered by [`Reply::Stream`].
    CreateStream {
        /// Of which context.
        context: ContextId,
        /// As CUDA counts it: lower is more urgent.
        priority: i32,
        /// Where completed sequence numbers are written.
        semaphore: SemaphoreId,
        /// The semaphore's payload when nothing has completed.
        base: u64,
    },
    /// One-way: the stream's kernels run on no more SMs than these, from now on.
    LimitSms {
        /// Which stream.
        stream: StreamId,
        /// How many SMs.
        sm_count_max: u32,
    },
    /// One-way: gone when what it holds has completed.
    DestroyStream {
        /// Which stream.
        stream: StreamId,
    },
    /// One-way: appends nodes to a graph, which the first such message creates.
    GraphNodes {
        /// Chosen by the process.
        graph: GraphId,
        /// The next nodes.
        nodes: Vec<GraphNode>,
    },
    /// One-way: changes what one node does in launches submitted later.
    GraphUpdate {
        /// Which graph.
        graph: GraphId,
        /// Index of the node.
        index: u32,
        /// What it does from now on.
        command: Command,
        /// Whether it does it.
        enabled: bool,
    },
    /// One-way: launches already submitted still run.
    DestroyGraph {
        /// Which graph.
        graph: GraphId,
    },
    /// One-way.
    Submit(Submission),
    /// One-way: the function behind this token has returned.
    HostCallDone {
        /// As logged.
        token: u64,
    },
    /// One-way: raises a semaphore from the host.
    Signal {
        /// Which one.
        semaphore: SemaphoreId,
        /// Its new payload.
        payload: u64,
    },
    /// Answered by [`Reply::Usage`].
    Usage {
        /// Index of the first row wanted.
        first: u32,
    },
    /// Answered by [`Reply::Containers`].
    Containers {
        /// Index of the first row wanted.
        first: u32,
    },
    /// Answered by [`Reply::Engine`].
    Engine {
        /// Which device.
        device: u32,
    },
    /// Answered by [`Reply::Utilization`].
    Utilization {
        /// Which device.
        device: u32,
    },
}

/// Why the device did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No room for that many bytes in one piece.
    OutOfMemory,
    /// The name stands for nothing that this process owns.
    Unknown,
    /// There is no place for it, or nothing at that place.
    NoPlace,
    /// The device is not of the multicast object's team.
    NotOfTeam,
}

/// From the device to a process; one for each request that is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To `Hello`. With it come the descriptors of the process's shared memory, of the machine's, and of each device's memory.
    Welcome {
        /// [`VERSION`] of the device.
        version: u32,
        /// Name of the machine's profile.
        profile_name: String,
        /// The profile's TOML text.
        profile_text: String,
    },
    /// To `Memory`.
    Memory(MemoryInfo),
    /// To `Alloc`, `Open`, `Import`.
    Block(Block),
    /// To `Import`.
    Pool {
        /// The device that its memory lies on.
        device: u32,
    },
    /// To `CreateMulticast`, `Import`.
    Multicast {
        /// Its name.
        object: MulticastId,
        /// What it was made for.
        team: MulticastTeam,
    },
    /// To `CreateSharedSemaphore`.
    SharedSemaphore(SemaphoreId),
    /// To `CreateContext`.
    Context(ContextId),
    /// To `CreateStream`.
    Stream(StreamId),
    /// To `Usage`.
    Usage {
        /// Rows, in the order of connection.
        rows: Vec<ProcessUsage>,
        /// Whether more rows follow.
        more: bool,
    },
    /// To `Containers`.
    Containers {
        /// Rows, by container and device.
        rows: Vec<ContainerUsage>,
        /// Whether more rows follow.
        more: bool,
    },
    /// To `Engine`.
    Engine(EngineUsage),
    /// To `Utilization`: oldest first.
    Utilization(Vec<UtilizationSample>),
    /// Done, nothing to say.
    Done,
    /// Not done.
    Refused(Refusal),
}

/// A message that is none of ours.
#[derive(Debug, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(#[from] postcard::Error);

/// Writes a message into `buffer`, which is cleared first.
pub fn encode(message: &impl Serialize, buffer: &mut Vec<u8>) -> Result<(), Malformed> {
    buffer.clear();
    *buffer = postcard::to_extend(message, std::mem::take(buffer))?;
    Ok(())
}

/// Reads a message; bytes left over make it malformed.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    match postcard::take_from_bytes(bytes)? {
        (message, []) => Ok(message),
        _ => Err(Malformed(postcard::Error::DeserializeBadEncoding)),
    }
}
