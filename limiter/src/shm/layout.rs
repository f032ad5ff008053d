//! What stands where in the shared files. Raise `LAYOUT_VERSION` with every change.
//!
//! Only atomics: other processes write at any time, and one may die between any two writes. So no value here is a sum
//! of others, and no flag says "somebody is at work".

use std::mem::offset_of;

use super::{Preamble, Shared};
use crate::sync::{AtomicU32, AtomicU64};

/// How many there are; fewer where the program is interpreted, by loom in every order or by Miri step by step.
const fn places(loom: usize, miri: usize, otherwise: usize) -> usize {
    if cfg!(loom) {
        loom
    } else if cfg!(miri) {
        miri
    } else {
        otherwise
    }
}

/// Measurements of what a context takes that a board keeps.
pub(crate) const CONTEXT_COSTS: usize = 5;
/// Calls whose refusals one container's file counts apart.
pub(crate) const CALLS_MAX: usize = places(1, 4, 64);
/// GPUs that one container's file has place for.
pub(crate) const DEVICES_MAX: usize = places(1, 2, 16);
/// Containers that one board has place for.
pub(crate) const TENANTS_MAX: usize = places(2, 4, 256);
/// Processes that one file has place for.
pub(crate) const ENTRIES_MAX: usize = places(3, 8, 1024);

/// A file whose body is one entry per process.
pub(crate) trait Entries: Shared {
    /// Size of one entry. The first stands at `HEADER_BYTES`.
    const ENTRY_BYTES: usize;

    /// Who owns entry `index`; `None` at and above [`ENTRIES_MAX`].
    fn owner(&self, index: usize) -> Option<&Owner>;

    /// Empty entry `index`, whose owner is gone, so that it can be given to another.
    fn retire(&self, index: usize);
}

/// The process that owns an entry. A lock on the entry's byte says whether it lives; the rest says who it is.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct Owner {
    /// 0: free, 1: taken.
    pub(crate) state: AtomicU32,
    /// Counts the owners, so that a former one can see that the entry is no longer its own.
    pub(crate) generation: AtomicU32,
    /// In the owner's own pid namespace.
    pub(crate) pid: AtomicU32,
    /// A number that the owner loses by exec(2), which leaves it pid and start time.
    pub(crate) image: AtomicU32,
    /// Clock ticks since boot (proc_pid_stat(5), field 22).
    pub(crate) start_time: AtomicU64,
    /// Inode of `/proc/<pid>/ns/pid`; 0: unknown.
    pub(crate) pid_namespace: AtomicU64,
}

/// `<dir>/<container>/ledger`.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C)]
pub(crate) struct ContainerFile {
    preamble: Preamble,
    pub(crate) config: ConfigRow,
    /// The calls that were ever refused; what counts or names one is by the number of its row.
    pub(crate) calls: [CallName; CALLS_MAX],
    /// Refusals of processes that are gone.
    pub(crate) retired: RefusalCounts,
    /// The last of those.
    pub(crate) retired_last: RefusalRecord,
    pub(crate) devices: [DeviceRow; DEVICES_MAX],
    pub(crate) slots: [Slot; ENTRIES_MAX],
}

/// The config file that the container's limits are of.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct ConfigRow {
    /// When it was written, in ns since 1970; 0: no process has one.
    pub(crate) stamp_ns: AtomicU64,
}

/// A GPU of the container.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C)]
pub(crate) struct DeviceRow {
    pub(crate) identity: Identity,
    pub(crate) memory: MemoryRow,
    pub(crate) share: ShareRow,
    pub(crate) bucket: BucketRow,
    /// Usage of processes that are gone.
    pub(crate) retired: UsageRow,
}

/// Which GPU a row is about.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct Identity {
    /// 0: free, 1: the UUID is written.
    pub(crate) state: AtomicU32,
    reserved: AtomicU32,
    /// The UUID's bytes, big-endian.
    pub(crate) uuid: [AtomicU64; 2],
}

/// A limit that may change while programs run. `u64::MAX` is no limit.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C)]
pub(crate) struct LimitCell {
    /// What is enforced.
    pub(crate) value: AtomicU64,
    /// What the configuration of the processes at work says; `value` may have been changed since.
    pub(crate) configured: AtomicU64,
}

/// Memory quota of the container on one GPU, in bytes.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct MemoryRow {
    pub(crate) max: LimitCell,
    /// What of that is guaranteed; no limit: all of it.
    pub(crate) soft: LimitCell,
    /// What may be spilled: 0, or no limit.
    pub(crate) spill: LimitCell,
    pub(crate) peak: AtomicU64,
    /// 1: a process has spilled, since when they are counted.
    pub(crate) has_spilled: AtomicU64,
    /// Calls of processes that are gone, refused on this GPU.
    pub(crate) retired_refusals: AtomicU64,
}

/// A call of the programs, by its name.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct CallName {
    /// 0: free, 1: the name is written.
    pub(crate) state: AtomicU32,
    reserved: AtomicU32,
    /// Zero bytes behind it.
    pub(crate) text: [AtomicU64; CALL_NAME_WORDS],
}

/// A call's name has at most eight times as many bytes.
pub(crate) const CALL_NAME_WORDS: usize = 6;

/// How often each call was refused, by row of [`ContainerFile::calls`].
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct RefusalCounts {
    pub(crate) by_call: [AtomicU64; CALLS_MAX],
}

/// A refusal in full. Whole only where `check` is of all the rest: see `refusals`.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct RefusalRecord {
    /// 1: a thread writes. One that died there leaves it so, until the entry is given to another process.
    pub(crate) writing: AtomicU32,
    /// Row of the call from 1 on; 0: nobody knows which.
    pub(crate) call: AtomicU32,
    /// Row of the GPU.
    pub(crate) device: AtomicU32,
    /// In the process's own pid namespace.
    pub(crate) pid: AtomicU32,
    pub(crate) asked_bytes: AtomicU64,
    pub(crate) current_bytes: AtomicU64,
    pub(crate) max_bytes: AtomicU64,
    /// Which bound it was: see `ledger::Bound`.
    pub(crate) bound: AtomicU32,
    reserved: AtomicU32,
    /// `CLOCK_MONOTONIC`.
    pub(crate) at_ns: AtomicU64,
    /// 0: there is none.
    pub(crate) check: AtomicU64,
}

/// Shares of the container on one GPU, in thousandths of a percent.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct ShareRow {
    pub(crate) sm: LimitCell,
    pub(crate) sm_max: LimitCell,
}

/// What the container's launches have in common.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct BucketRow {
    /// The one word that every launch writes that is not on credit.
    pub(crate) tat_ns: AtomicU64,
    /// Since when the launch has waited that has waited longest; 0: none waits. See `queue`.
    pub(crate) waits_since_ns: AtomicU64,
    /// Until when it will have asked again.
    pub(crate) waits_until_ns: AtomicU64,
}

/// What launches used.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct UsageRow {
    pub(crate) charged_ns: AtomicU64,
    pub(crate) launches: AtomicU64,
    pub(crate) throttled_ns: AtomicU64,
    pub(crate) throttled_count: AtomicU64,
    /// Parts of `throttled_ns`, by what was in the way.
    pub(crate) throttled_by_cap_ns: AtomicU64,
    pub(crate) throttled_by_share_ns: AtomicU64,
    pub(crate) throttled_by_window_ns: AtomicU64,
}

/// A process of the container.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct Slot {
    pub(crate) owner: Owner,
    pub(crate) last_refusal: RefusalRecord,
    /// By row of [`ContainerFile::devices`].
    pub(crate) devices: [SlotDevice; DEVICES_MAX],
    pub(crate) refusals: RefusalCounts,
}

/// What a process has of one GPU.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(128))]
pub(crate) struct SlotDevice {
    /// Bytes asked for and not decided yet.
    pub(crate) pending_bytes: AtomicU64,
    /// Bytes granted.
    pub(crate) bytes: AtomicU64,
    /// How often bytes were granted.
    pub(crate) grants: AtomicU64,
    /// Waiting launches sleep on it; changes when they should look again.
    pub(crate) gate: AtomicU32,
    reserved: AtomicU32,
    /// The most that `bytes` was.
    pub(crate) peak_bytes: AtomicU64,
    /// How often a call was refused.
    pub(crate) refusals: AtomicU64,
    /// Bytes granted that lie on the host; not among `bytes`.
    pub(crate) spilled_bytes: AtomicU64,
    reserved_too: AtomicU64,
    pub(crate) usage: UsageRow,
}

/// `<dir>/gpu-<uuid>.board`.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C)]
pub(crate) struct BoardFile {
    preamble: Preamble,
    pub(crate) contexts: ContextRow,
    pub(crate) lease: LeaseRow,
    pub(crate) memory: PhysicalRow,
    pub(crate) turns: TurnsRow,
    pub(crate) clock: ClockRow,
    pub(crate) tenants: [TenantRow; TENANTS_MAX],
    pub(crate) entries: [BoardEntry; ENTRIES_MAX],
}

/// What a context takes of the GPU.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct ContextRow {
    /// When somebody began to measure, `CLOCK_MONOTONIC`; 0: nobody is at it.
    pub(crate) measuring_since_ns: AtomicU64,
    /// The latest measurements, each in one word: see `board::ContextCost`. 0: none.
    pub(crate) costs: [AtomicU64; CONTEXT_COSTS],
    /// Counts the measurements; who waits for one sleeps on it.
    pub(crate) measured: AtomicU32,
    reserved: [AtomicU32; 3],
}

/// Who has the GPU to itself for a moment, to time a launch.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct LeaseRow {
    /// Number of the holder's entry, from 1 on.
    pub(crate) holder: AtomicU64,
    /// Until when, `CLOCK_MONOTONIC`.
    pub(crate) until_ns: AtomicU64,
    /// When the next lease may begin.
    pub(crate) next_ns: AtomicU64,
}

/// The GPU's memory, in bytes.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct PhysicalRow {
    /// All that the driver says there is; 0: nobody has asked it.
    pub(crate) total: AtomicU64,
    /// What of that was in use and in no container's ledger when last somebody borrowed.
    pub(crate) outside: AtomicU64,
}

/// How far the containers' virtual clocks are.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct TurnsRow {
    /// The least clock among the containers that wanted the GPU, when last looked at. Never falls.
    pub(crate) least_vt: AtomicU64,
}

/// How long one of the busy processes had the GPU: see `board::clock`.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct ClockRow {
    /// When it was last read, `CLOCK_MONOTONIC`; 0: never.
    pub(crate) at_ns: AtomicU64,
    /// What it showed then.
    pub(crate) virtual_ns: AtomicU64,
}

/// A container on a GPU.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct TenantRow {
    /// Hash of its name; 0: free.
    pub(crate) id: AtomicU64,
    /// Its virtual clock: GPU time in ns, divided by its guarantee.
    pub(crate) vt: AtomicU64,
    /// Its guarantee in thousandths of a percent, as of its last launch.
    pub(crate) weight: AtomicU64,
    reserved: [AtomicU64; 5],
    /// Its name; zero bytes behind it.
    pub(crate) name: [AtomicU64; CONTAINER_NAME_WORDS],
}

/// A container's name has at most eight times as many bytes.
pub(crate) const CONTAINER_NAME_WORDS: usize = 8;

/// A process on a GPU.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct BoardEntry {
    pub(crate) owner: Owner,
    pub(crate) activity: Activity,
}

/// Whether a process has work on the GPU.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct Activity {
    /// 1: has work outstanding.
    pub(crate) busy: AtomicU32,
    /// Number of its container's row, from 1 on; 0: none.
    pub(crate) tenant: AtomicU32,
    /// When its owner last said so, `CLOCK_MONOTONIC`.
    pub(crate) heartbeat_ns: AtomicU64,
    /// Until when it may want the GPU, for all that the others know, `CLOCK_MONOTONIC`.
    pub(crate) wants_until_ns: AtomicU64,
    /// GPU time that its work on the GPU is thought to take.
    pub(crate) outstanding_ns: AtomicU64,
}

#[cfg(not(any(loom, miri)))]
const _: () = {
    assert!(size_of::<Preamble>() == 64 && size_of::<Owner>() == 64);
    assert!(size_of::<DeviceRow>() == 6 * 64 && size_of::<SlotDevice>() == 128);
    assert!(size_of::<CallName>() == 64 && size_of::<RefusalRecord>() == 64);
    assert!(size_of::<Slot>() == 2688 && size_of::<BoardEntry>() == 128);
    assert!(size_of::<TurnsRow>() == 64 && size_of::<TenantRow>() == 128);
    assert!(size_of::<MemoryRow>() == 128 && size_of::<PhysicalRow>() == 64);
    assert!(size_of::<ContextRow>() == 64 && size_of::<LeaseRow>() == 64);
};

// SAFETY: `repr(C)`, begins with a `Preamble`, atomics and arrays and structs of them only.
unsafe impl Shared for ContainerFile {
    const MAGIC: u64 = u64::from_be_bytes(*b"cuhkledg");
    const LAYOUT_VERSION: u32 = 7;
    const HEADER_BYTES: usize = offset_of!(Self, slots);

    fn preamble(&self) -> &Preamble {
        &self.preamble
    }

    #[cfg(loom)]
    fn empty() -> Self {
        Self::default()
    }
}

// SAFETY: as above.
unsafe impl Shared for BoardFile {
    const MAGIC: u64 = u64::from_be_bytes(*b"cuhkbord");
    const LAYOUT_VERSION: u32 = 5;
    const HEADER_BYTES: usize = offset_of!(Self, entries);

    fn preamble(&self) -> &Preamble {
        &self.preamble
    }

    #[cfg(loom)]
    fn empty() -> Self {
        Self::default()
    }
}
