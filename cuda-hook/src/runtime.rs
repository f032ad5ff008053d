//! The state of this process: what was configured, the real libraries, and the place among the container's processes.
//!
//! Nothing runs when the library is loaded. The first hooked call reads the configuration, once, for good; the first call
//! that needs it attaches. Fork is handled here and nowhere else: whatever a child could share with its parent hangs
//! on one pointer, and the child forgets it. It holds nothing, gives nothing back, and attaches on its own first call.
#![expect(
    unsafe_code,
    reason = "registers a fork handler; owns the state behind an atomic pointer"
)]

use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::{fmt, io, mem, ptr, thread};

use cuda_sys_stubs::abi::{
    CUDA_ERROR_DEINITIALIZED, CUDA_ERROR_NOT_INITIALIZED, CUcontext, CUdevice,
};
use limiter::clock;
use limiter::config::{self, Limits, MemoryLimits, Refusal, Settings};
use limiter::follow::{Follower, Moment};
use limiter::ledger::{Ledger, MemoryUse};
use limiter::sample::{self, ContainerSample, ProcessSample};
use limiter::share::Share;
use limiter::units::{Bytes, DeviceUuid};
use once_cell::race::OnceBox;
use once_cell::sync::OnceCell;
use parking_lot::Mutex;

use crate::completion::Completion;
use crate::driver::{Driver, Nvml};
use crate::ends::ContextEnds;
use crate::entry::Cx;
use crate::hooks::array::Sizes;
use crate::hooks::context::Attachments;
use crate::hooks::graph_memory::GraphMemory;
use crate::hooks::green::Greens;
use crate::hooks::measure::owed::Owed;
use crate::hooks::module::Used;
use crate::hooks::pool::Pools;
use crate::hooks::vmm::Vmm;
use crate::live::{LiveMap, Owner};
use crate::quiet::Quiet;
use crate::{config_file, entry, log};

/// What one process knows for good.
pub(crate) struct Runtime {
    stance: Stance,
    driver: OnceBox<Result<Driver, NoDriver>>,
    nvml: OnceBox<Option<Nvml>>,
}

/// What the configuration makes of this process.
pub(crate) enum Stance {
    /// No limits: everything is the driver's, which may stand at a configured path.
    Open(Option<PathBuf>),
    /// A configuration that cannot be obeyed: nothing may escape it.
    Refused(Complaint),
    /// Limits are in force.
    Limited(Box<Limited>),
}

/// A configuration with limits.
pub(crate) struct Limited {
    settings: Settings,
    limits: Limits,
}

/// Why limits cannot be enforced: one line for stderr, said once.
pub(crate) struct Complaint {
    line: String,
    said: AtomicBool,
}

impl From<Refusal> for Complaint {
    fn from(refusal: Refusal) -> Self {
        Self {
            line: refusal.to_string(),
            said: AtomicBool::new(false),
        }
    }
}

/// There is no real driver.
pub(crate) struct NoDriver {
    complaint: Option<Complaint>,
}

impl Complaint {
    fn new(reason: impl fmt::Display) -> Self {
        Self {
            line: format!("cuda-hook: {reason}"),
            said: AtomicBool::new(false),
        }
    }

    pub(crate) fn unusable(reason: impl fmt::Display) -> Self {
        Self::new(format_args!("limits cannot be enforced: {reason}"))
    }

    /// Writes the line to stderr, the first time.
    pub(crate) fn say_once(&self) {
        if !self.said.swap(true, Ordering::Relaxed) {
            log::line(format_args!("{}", self.line));
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

static RUNTIME: OnceBox<Runtime> = OnceBox::new();

/// The runtime of this process, made at first use. Threads that come first together may make it together; one stays.
pub(crate) fn get() -> &'static Runtime {
    RUNTIME.get_or_init(|| Box::new(Runtime::new(config::load())))
}

impl Runtime {
    fn new(loaded: Result<Settings, Refusal>) -> Self {
        let stance = match loaded {
            Err(refusal) => Stance::Refused(refusal.into()),
            Ok(settings) => {
                log::start(settings.log);
                match settings.limits.clone() {
                    None => Stance::Open(settings.driver),
                    Some(limits) => {
                        entry::report_panics();
                        Stance::Limited(Box::new(Limited { settings, limits }))
                    }
                }
            }
        };
        Self {
            stance,
            driver: OnceBox::new(),
            nvml: OnceBox::new(),
        }
    }

    /// Whether functions that this version does not know are to be withheld; never without limits.
    pub(crate) fn is_strict(&self) -> bool {
        matches!(&self.stance, Stance::Limited(limited) if limited.settings.strict)
    }

    /// What the configuration makes of this process.
    pub(crate) fn stance(&self) -> &Stance {
        &self.stance
    }

    /// The real driver, opened at first use.
    pub(crate) fn driver(&self) -> Result<&Driver, &NoDriver> {
        let path = match &self.stance {
            Stance::Open(path) => path.as_deref(),
            Stance::Refused(_) => None,
            Stance::Limited(limited) => limited.settings.driver.as_deref(),
        };
        let open = || {
            Driver::open(path).map_err(|reason| {
                tracing::warn!("no driver: {reason}");
                NoDriver {
                    complaint: reason
                        .needs_attention
                        .then(|| Complaint::new(format_args!("no driver: {reason}"))),
                }
            })
        };
        self.driver.get_or_init(|| Box::new(open())).as_ref()
    }

    /// What stands between this process and its driver, where somebody has to do something about it.
    pub(crate) fn complaint(&self) -> Option<&Complaint> {
        match &self.stance {
            Stance::Refused(refusal) => Some(refusal),
            Stance::Open(_) | Stance::Limited(_) => self.driver().err()?.complaint.as_ref(),
        }
    }

    /// The real NVML, opened at first use; `None` where there is none.
    pub(crate) fn nvml(&self) -> Option<&Nvml> {
        let open = || {
            Nvml::open()
                .inspect_err(|reason| tracing::warn!("no NVML: {reason}"))
                .ok()
        };
        self.nvml.get_or_init(|| Box::new(open())).as_ref()
    }

    /// This process's place among its container's, taken at the first call after the driver's initialisation; `None`
    /// before, and without limits. A failure is for good.
    pub(crate) fn attachment(
        &self,
        driver: &Driver,
    ) -> Result<Option<&'static Attachment>, &'static Complaint> {
        let Stance::Limited(limited) = &self.stance else {
            return Ok(None);
        };
        let process = process();
        if let Some(attached) = process.attachment.get() {
            return attached.as_deref().map(Some);
        }
        let devices = match driver.devices() {
            Err(CUDA_ERROR_NOT_INITIALIZED | CUDA_ERROR_DEINITIALIZED) => return Ok(None),
            answer => answer.map_err(|status| {
                Complaint::unusable(format!(
                    "the driver does not tell its devices: CUDA error {status}"
                ))
            }),
        };
        forget_in_children();
        let _reading = process.reading.lock();
        let attach = || devices.and_then(|devices| Attachment::new(limited, driver, &devices));
        process.attachment.get_or_init(attach).as_deref().map(Some)
    }
}

/// A process of the container, on one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessUse {
    /// In its own pid namespace.
    pub(crate) pid: u32,
    /// What it holds.
    pub(crate) memory: Bytes,
}

impl Limited {
    /// The container's memory on the GPU of `uuid`; `None` without a quota there. A process that is not attached, because it
    /// asks NVML only, reads the state of those that are.
    pub(crate) fn memory_use(
        &self,
        uuid: DeviceUuid,
        visible: impl FnOnce() -> Option<Vec<DeviceUuid>>,
    ) -> Option<MemoryUse> {
        let process = process();
        if let Some(attached) = process.attachment.get() {
            let attachment = attached.as_deref().ok()?;
            config_file::look(attachment);
            return attachment.memory_use(uuid);
        }
        let _reading = process.reading.lock();
        self.sampled_memory_use(uuid).or_else(|| {
            let visible = visible()?;
            let limits = self.limits.bind(&visible).ok()?;
            let index = visible.iter().position(|&device| device == uuid)?;
            let limits = MemoryLimits::from(*limits.get(index)?);
            Some(MemoryUse {
                max: limits.wall()?,
                is_guaranteed: limits.soft.is_none(),
                current: Bytes::new(0),
            })
        })
    }

    /// The container's processes, and what each holds of the GPU of `uuid`. As [`memory_use`](Self::memory_use).
    pub(crate) fn processes(&self, uuid: DeviceUuid) -> Vec<ProcessUse> {
        let process = process();
        if let Some(attached) = process.attachment.get() {
            return attached
                .as_ref()
                .map_or_else(|_| Vec::new(), |attachment| attachment.processes(uuid));
        }
        let _reading = process.reading.lock();
        let of_sample = |process: &ProcessSample| ProcessUse {
            pid: process.pid,
            memory: process
                .devices
                .iter()
                .find(|device| device.device_uuid == uuid.to_string())
                .map_or(Bytes::default(), |device| {
                    Bytes::new(device.memory_bytes_current)
                }),
        };
        self.sampled()
            .map(|container| container.processes.iter().map(of_sample).collect())
            .unwrap_or_default()
    }

    /// What the container's processes have written down.
    fn sampled(&self) -> Option<ContainerSample> {
        let sample = sample::read(&self.settings.dir, clock::monotonic()).ok()?;
        sample
            .containers
            .into_iter()
            .find(|sample| sample.container == self.settings.container.as_str())
    }

    fn sampled_memory_use(&self, uuid: DeviceUuid) -> Option<MemoryUse> {
        let container = self.sampled()?;
        let device = container
            .devices
            .iter()
            .find(|device| device.device_uuid == uuid.to_string())?;
        let (current, spilled) = (device.memory_bytes_current, device.memory_bytes_spilled);
        let limits = device.memory_limits();
        Some(MemoryUse {
            max: limits.wall()?,
            is_guaranteed: limits.soft.is_none(),
            current: Bytes::new(current.saturating_add(spilled)),
        })
    }
}

/// What belongs to one process, and to none of its children.
#[derive(Default)]
struct Process {
    /// In a box: the stack has fewer copies of it, of two pages each, and a page that nobody has touched yet costs as much as ten system calls.
    attachment: OnceCell<Result<Box<Attachment>, Complaint>>,
    /// Held while another's view of the state folder is read, and while attaching: a closed descriptor of a ledger
    /// drops this process's own lock on it.
    reading: Mutex<()>,
}

/// What a hook works with, once this process is attached: [`attached`].
static ATTACHED: AtomicPtr<Cx> = AtomicPtr::new(ptr::null_mut());

/// The driver and this process's place among its container's, if it has been taken.
#[inline]
pub(crate) fn attached() -> Option<Cx> {
    // SAFETY: null, or placed once from a box that is never freed.
    unsafe { ATTACHED.load(Ordering::Acquire).as_ref() }.copied()
}

/// Minds that this process is attached, until it forks a child.
pub(crate) fn note_attached(cx: Cx) -> Cx {
    let fresh = Box::into_raw(Box::new(cx));
    let placed =
        ATTACHED.compare_exchange(ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Relaxed);
    if placed.is_err() {
        // SAFETY: made above and seen by nobody else.
        drop(unsafe { Box::from_raw(fresh) });
    }
    cx
}

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(ptr::null_mut());

/// This process's state. It is never freed: a child abandons its parent's, whose locks may be held for ever.
#[inline]
fn process() -> &'static Process {
    // SAFETY: null, or placed once from a box, and never freed.
    unsafe { PROCESS.load(Ordering::Acquire).as_ref() }.unwrap_or_else(|| made_process())
}

#[cold]
fn made_process() -> &'static Process {
    let fresh = Box::into_raw(Box::<Process>::default());
    let placed =
        PROCESS.compare_exchange(ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire);
    let current = match placed {
        Ok(_) => fresh,
        Err(theirs) => {
            // SAFETY: made above and seen by nobody else.
            drop(unsafe { Box::from_raw(fresh) });
            theirs
        }
    };
    // SAFETY: placed once from a box, and never freed.
    unsafe { &*current }
}

unsafe extern "C" {
    /// What `pthread_atfork(3p)` is inside glibc, where each library has a copy of that function (*Linux Standard Base Core*,
    /// `__register_atfork`). The last argument names the library whose unloading ends the registration; this one stays.
    fn __register_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
        library: *mut c_void,
    ) -> c_int;
}

/// Has every child forget this process's state, from the first attachment on.
fn forget_in_children() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if REGISTERED.swap(true, Ordering::Relaxed) {
        return;
    }
    // SAFETY: the handler does nothing but store to an atomic.
    let status = unsafe { __register_atfork(None, None, Some(forget), ptr::null_mut()) };
    if status != 0 {
        tracing::error!(
            status,
            "no fork handler: a child would use its parent's place"
        );
    }
}

unsafe extern "C" fn forget() {
    ATTACHED.store(ptr::null_mut(), Ordering::Relaxed);
    PROCESS.store(ptr::null_mut(), Ordering::Relaxed);
}

/// This process's place among its container's.
pub(crate) struct Attachment {
    /// The container's memory.
    pub(crate) ledger: Ledger,
    /// The container's GPU time.
    pub(crate) share: Share,
    /// The config file that the limits are of, if they are of one.
    pub(crate) follower: Option<Follower>,
    /// What this process holds.
    pub(crate) live: LiveMap,
    /// What it holds by virtual memory management.
    pub(crate) vmm: Vmm,
    /// Its memory pools.
    pub(crate) pools: Pools,
    /// What its graphs allocate.
    pub(crate) graph_memory: GraphMemory,
    /// How often its contexts were attached to.
    pub(crate) context_attachments: Attachments,
    /// Which of them have ended.
    pub(crate) context_ends: ContextEnds,
    /// When its books and the device agree.
    pub(crate) quiet: Quiet,
    /// What could not be measured for want of such a moment.
    pub(crate) owed: Owed,
    /// What its arrays were seen to take.
    pub(crate) array_sizes: Sizes,
    /// Which contexts are green.
    pub(crate) greens: Greens,
    /// What it has used of its modules and libraries.
    pub(crate) used: Used,
    /// What this process has launched and not seen end.
    pub(crate) completion: Completion,
    /// In the order of the ledger and the share.
    devices: Vec<Device>,
}

/// A device that the program sees.
struct Device {
    device: CUdevice,
    uuid: DeviceUuid,
}

impl Attachment {
    fn new(
        limited: &Limited,
        driver: &Driver,
        devices: &[(CUdevice, DeviceUuid)],
    ) -> Result<Box<Self>, Complaint> {
        let Settings { dir, container, .. } = &limited.settings;
        let uuids: Vec<DeviceUuid> = devices.iter().map(|&(_, uuid)| uuid).collect();
        let source = limited.settings.source.clone();
        let follower = source.map(Follower::new);
        // A fork's settings are as old as its parent.
        let limits = match follower.as_ref().and_then(config_file::rewritten) {
            Some(version) => version?.limits,
            None => limited.limits.clone(),
        };
        let limits = limits.bind(&uuids)?;
        let quotas: Vec<_> = uuids
            .iter()
            .zip(&limits)
            .map(|(&uuid, &limits)| (uuid, limits))
            .collect();
        let ledger = Ledger::attach(dir, container, &quotas).map_err(Complaint::unusable)?;
        let now = clock::monotonic();
        let seed = u64::from(std::process::id()).rotate_left(32) ^ now.get();
        let share = Share::attach(&ledger, dir, now, seed).map_err(Complaint::unusable)?;
        for (index, &(device, _)) in devices.iter().enumerate() {
            if let (Some(board), Ok(total)) = (share.board(index), driver.memory_total(device)) {
                board.set_memory_total(total);
            }
        }
        if let Some(follower) = &follower {
            let stamp = follower.stamp();
            Follower::obey(&ledger, &limits, stamp, Moment::Start, now)
                .map_err(Complaint::unusable)?;
        }
        tracing::info!("attached to container {container} in {}", dir.display());
        Ok(Box::new(Self {
            ledger,
            share,
            follower,
            live: LiveMap::default(),
            vmm: Vmm::default(),
            pools: Pools::default(),
            graph_memory: GraphMemory::default(),
            context_attachments: Attachments::default(),
            context_ends: ContextEnds::default(),
            quiet: Quiet::default(),
            owed: Owed::default(),
            array_sizes: Sizes::default(),
            greens: Greens::default(),
            used: Used::default(),
            completion: Completion::default(),
            devices: devices
                .iter()
                .map(|&(device, uuid)| Device { device, uuid })
                .collect(),
        }))
    }

    /// The index of the driver's `device` in the ledger and the share.
    pub(crate) fn device_index(&self, device: CUdevice) -> Option<usize> {
        self.devices.iter().position(|ours| ours.device == device)
    }

    /// Their UUIDs, in that order.
    pub(crate) fn uuids(&self) -> Vec<DeviceUuid> {
        self.devices.iter().map(|ours| ours.uuid).collect()
    }

    /// The driver's devices, in the order of the ledger and the share.
    pub(crate) fn devices(&self) -> impl Iterator<Item = CUdevice> {
        self.devices.iter().map(|ours| ours.device)
    }

    /// The driver's device of that index.
    pub(crate) fn device(&self, device_index: usize) -> Option<CUdevice> {
        self.devices.get(device_index).map(|ours| ours.device)
    }

    /// The GPU of that index.
    pub(crate) fn uuid(&self, device_index: usize) -> Option<DeviceUuid> {
        self.devices.get(device_index).map(|device| device.uuid)
    }

    /// The index of the only device, if there is but one.
    pub(crate) fn only_device_index(&self) -> Option<usize> {
        (self.devices.len() == 1).then_some(0)
    }

    /// Whose what is taken from now on in `context` is: a green context uses its primary one's memory.
    pub(crate) fn owner(&self, context: CUcontext) -> Owner {
        Owner {
            since: self.context_ends.now(),
            context: self.greens.primary_of(context.addr()),
        }
    }

    fn memory_use(&self, uuid: DeviceUuid) -> Option<MemoryUse> {
        self.ledger.memory_use(self.index_of(uuid)?)
    }

    /// The container's processes; on a GPU that this process does not see none of them holds anything, as far as it knows.
    fn processes(&self, uuid: DeviceUuid) -> Vec<ProcessUse> {
        let index = self.index_of(uuid);
        let held = |bytes: &[Bytes]| index.and_then(|index| bytes.get(index).copied());
        let processes = self.ledger.processes();
        processes
            .iter()
            .map(|process| ProcessUse {
                pid: process.pid,
                memory: held(&process.bytes).unwrap_or_default(),
            })
            .collect()
    }

    fn index_of(&self, uuid: DeviceUuid) -> Option<usize> {
        self.devices.iter().position(|ours| ours.uuid == uuid)
    }
}

/// Starts a thread that the program does not notice: its signals are for its own threads.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // SAFETY: all bytes zero are a valid set, and it is filled before use.
    let (mut all, mut before) = unsafe {
        (
            mem::zeroed::<libc::sigset_t>(),
            mem::zeroed::<libc::sigset_t>(),
        )
    };
    // SAFETY: both sets are live. The new thread inherits the mask; ours is put back below.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
    }
    let spawned = thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop);
    // SAFETY: as above: the mask that this thread had.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
    spawned
}
