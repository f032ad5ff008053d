//! What a process asks of the simulated GPU: identifiers, commands and what they cost.

use serde::{Deserialize, Serialize};

/// One block of device memory, unique for the life of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockId(pub u64);

/// One GPU context, unique for the life of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContextId(pub u64);

/// One stream of a context, unique for the life of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId(pub u64);

/// One executable graph, unique for the life of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GraphId(pub u64);

/// A semaphore slot: an index into the shared memory of the process that names it, or, where [`SemaphoreId::is_shared`],
/// into the machine's own, which all processes map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SemaphoreId(pub u32);

impl SemaphoreId {
    const SHARED: u32 = 1 << 31;

    /// The machine's semaphore at this index.
    pub fn shared(index: u32) -> Self {
        Self(index | Self::SHARED)
    }

    /// Whether it is one of the machine's.
    pub fn is_shared(self) -> bool {
        self.0 & Self::SHARED != 0
    }

    /// Where it lies in its shared memory.
    pub fn index(self) -> u32 {
        self.0 & !Self::SHARED
    }
}

/// What a descriptor stands for that one process gives another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exported {
    /// Device memory, which the descriptor keeps as long as it is open somewhere.
    Block(BlockId),
    /// A memory pool of a device; its blocks are opened one by one.
    Pool {
        /// Which device.
        device: u32,
    },
    /// A multicast object, which the descriptor keeps as memory.
    Multicast(MulticastId),
}

/// One multicast object, unique for the life of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MulticastId(pub u64);

/// What a multicast object was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MulticastTeam {
    /// Devices that it is complete with.
    pub size: u32,
    /// Bytes that can be bound of each device.
    pub bytes: u64,
    /// A semaphore of the machine …
    pub complete: SemaphoreId,
    /// … that has at least this payload when the team is complete.
    pub complete_payload: u64,
}

/// A part of a multicast object to which memory is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The device whose memory it is.
    pub device: u32,
    /// From the object's beginning, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl Binding {
    /// Where it ends; `None` where no object does.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.bytes)
    }

    /// Whether it has bytes of the same device in common with another.
    pub fn overlaps(&self, other: &Self) -> bool {
        let before = |left: &Self, right: &Self| left.end().is_none_or(|end| right.offset < end);
        self.device == other.device && before(self, other) && before(other, self)
    }
}

/// A command's place in its stream; the first is 1, so that 0 means "nothing yet".
pub type Sequence = u64;

/// What a block of memory is for. It decides granularity, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllocKind {
    /// `cuMemAlloc`, pools, arrays, modules: small blocks share a 2 MiB page.
    Device,
    /// `cuMemAllocManaged`, counted as resident from the start.
    Managed,
    /// `cuMemCreate`: whole 2 MiB pages, never shared.
    Physical,
}

/// A block of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its name for [`crate::client::Machine::free`].
    pub id: BlockId,
    /// The device it lies on.
    pub device: u32,
    /// Where it starts in the device's memory, in bytes; a multiple of 512.
    pub offset: u64,
    /// Its size as asked for, in bytes.
    pub bytes: u64,
}

/// Which way a copy goes, and so which engine it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyDirection {
    /// Page-locked host memory to device memory, by the H2D copy engine.
    HostToDevice,
    /// Device memory to page-locked host memory, by the D2H copy engine.
    DeviceToHost,
    /// As [`CopyDirection::HostToDevice`] from pageable memory: staged, so slower.
    PageableToDevice,
    /// As [`CopyDirection::DeviceToHost`] to pageable memory: staged, so slower.
    DeviceToPageable,
    /// Within one device, at memory bandwidth, on the compute engine.
    DeviceToDevice,
}

/// What a kernel costs. The model turns it into waves and time; nothing is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCost {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Shared memory of a block, static and dynamic, in bytes.
    pub shared_bytes: u32,
    /// Registers of a thread.
    pub registers_per_thread: u32,
    /// Instructions that each thread executes.
    pub instructions_per_thread: u64,
}

/// One entry of a stream's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Run a kernel on the compute engine.
    Kernel(KernelCost),
    /// Run a kernel that its context does not survive: when it ends, nothing else of the context runs any more. What was, and
    /// what is still, given to its streams counts as completed without having been done, so that nobody waits for it.
    FaultingKernel(KernelCost),
    /// Move bytes. The client moves them; the device says when.
    Copy {
        /// Which way, and so which engine.
        direction: CopyDirection,
        /// How many bytes.
        bytes: u64,
    },
    /// Fill device memory at memory bandwidth, on the compute engine.
    Memset {
        /// How many bytes.
        bytes: u64,
    },
    /// Have the process call a function; the stream goes on when it has returned.
    HostCall,
    /// Wait until a semaphore of this process has at least this payload.
    Wait {
        /// Which semaphore.
        semaphore: SemaphoreId,
        /// The smallest payload that lets the stream go on.
        payload: u64,
    },
    /// Raise a semaphore of this process and stamp it with the time.
    Signal {
        /// Which semaphore.
        semaphore: SemaphoreId,
        /// Its new payload; a lower one than it has changes nothing.
        payload: u64,
    },
    /// Run an uploaded graph.
    Graph {
        /// Which one, as it stands when the command is submitted.
        graph: GraphId,
    },
    /// Nothing: completes when its turn comes.
    Marker,
}

/// One node of an executable graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphNode {
    /// What it does. [`Command::Graph`] is refused: child graphs are flattened by the caller.
    pub command: Command,
    /// Indices of the nodes that must have completed; each lower than the node's own.
    pub dependencies: Vec<u32>,
    /// A disabled node completes at once and does nothing.
    pub enabled: bool,
}

/// Memory of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryInfo {
    /// What a program can have in all, in bytes.
    pub total_bytes: u64,
    /// What is not backed, in bytes.
    pub free_bytes: u64,
    /// What all processes hold, in bytes, contexts included.
    pub used_bytes: u64,
    /// What the driver keeps for itself, in bytes; not part of `total_bytes`.
    pub reserved_bytes: u64,
}

/// What one process did on one device, as the device counted it: the ground truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUsage {
    /// Process id as the device process sees it; 0 where it lies outside its pid namespace.
    pub pid: u32,
    /// When the process started, in clock ticks since boot (`/proc/<pid>/stat` field 22).
    pub start_time_ticks: u64,
    /// `CUDA_HOOK_CONTAINER` of the process, or empty.
    pub container: String,
    /// Which device.
    pub device: u32,
    /// Whether it is still connected.
    pub alive: bool,
    /// Contexts that it holds now.
    pub contexts: u32,
    /// When it made its first context on the device, in ns of the timeline; 0: it has made none.
    pub context_begun_ns: u64,
    /// Time for which it held contexts, in ns.
    pub context_ns_total: u64,
    /// Device memory that it holds now, in bytes, as backed.
    pub memory_bytes_current: u64,
    /// The most it ever held, in bytes.
    pub memory_bytes_peak: u64,
    /// Time for which its kernels occupied the compute engine, in ns; switches excluded.
    pub gpu_busy_ns_total: u64,
    /// Time for which it had work for the compute engine while another context had the engine or was being
    /// switched to, in ns.
    pub gpu_wait_ns_total: u64,
    /// Time for which its copies occupied the copy engines, in ns.
    pub copy_busy_ns_total: u64,
    /// Kernels completed, graph nodes included.
    pub kernels_total: u64,
    /// Bytes copied, counted when the copy completes.
    pub copied: CopiedBytes,
}

/// What the processes of one container did together on one device, the dead included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUsage {
    /// `CUDA_HOOK_CONTAINER` of its processes, or empty.
    pub container: String,
    /// Which device.
    pub device: u32,
    /// Processes that used the device and are connected.
    pub processes_alive: u32,
    /// Processes that ever used the device.
    pub processes_total: u64,
    /// Device memory that they hold now, in bytes, as backed.
    pub memory_bytes_current: u64,
    /// The most that they ever held at one time, in bytes.
    pub memory_bytes_peak: u64,
    /// Sum of [`ProcessUsage::gpu_busy_ns_total`], in ns.
    pub gpu_busy_ns_total: u64,
    /// Sum of [`ProcessUsage::gpu_wait_ns_total`], in ns.
    pub gpu_wait_ns_total: u64,
    /// Sum of [`ProcessUsage::copy_busy_ns_total`], in ns.
    pub copy_busy_ns_total: u64,
    /// Kernels completed, graph nodes included.
    pub kernels_total: u64,
    /// Bytes copied.
    pub copied: CopiedBytes,
}

impl ContainerUsage {
    /// Adds what one process did; memory is not added, as the container has figures of its own.
    pub fn add(&mut self, process: &ProcessUsage) {
        self.processes_alive += u32::from(process.alive);
        self.processes_total += 1;
        self.gpu_busy_ns_total += process.gpu_busy_ns_total;
        self.gpu_wait_ns_total += process.gpu_wait_ns_total;
        self.copy_busy_ns_total += process.copy_busy_ns_total;
        self.kernels_total += process.kernels_total;
        self.copied.add(process.copied);
    }
}

/// Bytes copied in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedBytes {
    /// Host to device.
    pub h2d_bytes_total: u64,
    /// Device to host.
    pub d2h_bytes_total: u64,
    /// Within one device.
    pub d2d_bytes_total: u64,
}

impl CopiedBytes {
    /// Adds one copy.
    pub fn count(&mut self, direction: CopyDirection, bytes: u64) {
        let total = match direction {
            CopyDirection::HostToDevice | CopyDirection::PageableToDevice => {
                &mut self.h2d_bytes_total
            }
            CopyDirection::DeviceToHost | CopyDirection::DeviceToPageable => {
                &mut self.d2h_bytes_total
            }
            CopyDirection::DeviceToDevice => &mut self.d2d_bytes_total,
        };
        *total += bytes;
    }

    fn add(&mut self, other: Self) {
        self.h2d_bytes_total += other.h2d_bytes_total;
        self.d2h_bytes_total += other.d2h_bytes_total;
        self.d2d_bytes_total += other.d2d_bytes_total;
    }
}

/// One entry of the utilization ring that NVML reads: one each 10 s / 72.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UtilizationSample {
    /// End of the sampled period, CLOCK_REALTIME in µs since the epoch.
    pub timestamp_us: u64,
    /// Part of the period in which the compute engine ran a kernel, in percent.
    pub gpu_percent: u32,
    /// Part of the period in which a copy engine moved data, in percent.
    pub memory_percent: u32,
    /// The process whose context was on the engine at the end of the period.
    pub pid: Option<u32>,
}

/// What the device counts for itself, beside what it counts per process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineUsage {
    /// Time for which kernels occupied the compute engine, in ns.
    pub gpu_busy_ns_total: u64,
    /// Time spent switching between contexts, in ns; charged to no process.
    pub switch_ns_total: u64,
    /// Switches that interrupted a kernel.
    pub switches_preemptive_total: u64,
    /// Switches of an engine that had run empty.
    pub switches_voluntary_total: u64,
    /// Time for which the copy engine from host to device moved bytes, in ns.
    pub h2d_busy_ns_total: u64,
    /// Time for which the copy engine from device to host moved bytes, in ns.
    pub d2h_busy_ns_total: u64,
    /// Bytes copied.
    pub copied: CopiedBytes,
}
