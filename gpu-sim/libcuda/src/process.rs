//! The state of the driver in this process: its connection to the machine, and every object that it gave a handle for.
//!
//! Nothing exists before `cuInit`. One lock guards all objects; it is never held while a call waits for the device, but
//! for a queue that is full. What commands do to memory when they complete ([`gpu_sim::client::Effect`]) takes no lock of ours.
#![expect(
    unsafe_code,
    reason = "asks to be told of fork(); the C library's interface for it is a C function"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Once, OnceLock};

use cuda_sys_stubs::abi::*;
use gpu_sim::client::{Lost, Machine, RequestError};
use gpu_sim::profile::Profile;
use parking_lot::{Mutex, MutexGuard};

use crate::address::AddressBook;
use crate::array::{Array, Mipmap};
use crate::capture::Capture;
use crate::context::{Context, Primary};
use crate::door::Answer;
use crate::event::Event;
use crate::graph::conditional::Condition;
use crate::graph::exec::GraphExec;
use crate::graph::memory::GraphAlloc;
use crate::graph::{Graph, Node};
use crate::green::{Description, Green};
use crate::host_call::{self, HostCall};
use crate::library::{Kernel, Library};
use crate::link::Link;
use crate::location::{Home, Location};
use crate::log;
use crate::managed::Advice;
use crate::module::{Function, Module};
use crate::pool::{Pool, Pools, Retired, SharedFiles};
use crate::stream::Stream;
use crate::table::{Key, Table};
use crate::texture::{Surface, Texture};
use crate::texture_reference::TextureReference;
use crate::user_object::UserObject;
use crate::virtual_memory::{Physical, Reservations};
use crate::visible;
use crate::window::Window;
use crate::workqueue;

/// One device that this process sees.
pub(crate) struct Device {
    /// Its number at the machine, whatever `CUDA_VISIBLE_DEVICES` makes of it.
    pub(crate) index: u32,
    pub(crate) profile: Profile,
    /// The addresses that its memory has in this process.
    pub(crate) window: Window,
}

/// Everything that a handle can stand for.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) contexts: Table<Context>,
    pub(crate) streams: Table<Stream>,
    /// Streams whose green context is gone, until the program ends them.
    pub(crate) detached: BTreeSet<Key<Stream>>,
    pub(crate) events: Table<Event>,
    pub(crate) modules: Table<Module>,
    pub(crate) functions: Table<Function>,
    pub(crate) libraries: Table<Library>,
    pub(crate) kernels: Table<Kernel>,
    pub(crate) links: Table<Link>,
    pub(crate) graphs: Table<Graph>,
    pub(crate) nodes: Table<Node>,
    pub(crate) execs: Table<GraphExec>,
    pub(crate) graph_allocs: Table<GraphAlloc>,
    pub(crate) conditions: Table<Condition>,
    pub(crate) captures: Table<Capture>,
    pub(crate) user_objects: Table<UserObject>,
    /// Functions of user objects that ended, to be called when the lock is gone.
    pub(crate) to_call: Vec<HostCall>,
    pub(crate) pools: Table<Pool>,
    pub(crate) physicals: Table<Physical>,
    pub(crate) reservations: Reservations,
    pub(crate) arrays: Table<Array>,
    pub(crate) mipmaps: Table<Mipmap>,
    pub(crate) greens: Table<Green>,
    pub(crate) descriptions: Table<Description>,
    /// Work queues of green contexts' own that were ever made.
    pub(crate) workqueues: u64,
    pub(crate) textures: Table<Texture>,
    pub(crate) texture_references: Table<TextureReference>,
    pub(crate) surfaces: Table<Surface>,
    /// Of managed memory, by the stretch's id.
    pub(crate) advice: BTreeMap<u64, Advice>,
    pub(crate) book: AddressBook,
    /// One a device.
    pub(crate) primaries: Vec<Primary>,
    /// Of the host, and of its node.
    pub(crate) host_pools: Vec<Pools>,
    /// Of managed memory, by where it prefers to be.
    pub(crate) managed_pools: BTreeMap<Option<Location>, Pools>,
    /// Blocks given back by `cuMemFreeAsync` whose stream has not come so far.
    pub(crate) retired: Vec<Retired>,
}

/// The driver, after `cuInit`.
pub(crate) struct Process {
    pub(crate) machine: Machine,
    pub(crate) devices: Vec<Device>,
    /// Work queues of each device.
    pub(crate) connections: u32,
    /// Of pools of the host that are shared with other processes.
    pub(crate) shared_files: SharedFiles,
    state: Mutex<State>,
}

static PROCESS: OnceLock<Process> = OnceLock::new();
static FORKED: AtomicBool = AtomicBool::new(false);
/// The error that every call answers from now on; `CUDA_SUCCESS`: none.
static STICKY: AtomicU32 = AtomicU32::new(CUDA_SUCCESS);

/// The driver of this process. `CUDA_ERROR_NOT_INITIALIZED` before `cuInit`, and for good in a child that was forked after
/// it; `CUDA_ERROR_NOT_PERMITTED` in a function that a stream calls, where the driver must not be called;
/// for good, [`sticky`]'s.
pub(crate) fn process() -> Answer<&'static Process> {
    if FORKED.load(Ordering::Relaxed) {
        return Err(CUDA_ERROR_NOT_INITIALIZED);
    }
    sticky()?;
    if host_call::is_inside() {
        return Err(CUDA_ERROR_NOT_PERMITTED);
    }
    PROCESS.get().ok_or(CUDA_ERROR_NOT_INITIALIZED)
}

/// The error that sticks to this process, until it ends: `CUDA_ERROR_UNKNOWN` once the device was found gone, or what a kernel
/// did that the process does not survive ([`crate::fault`]).
pub(crate) fn sticky() -> Answer {
    match STICKY.load(Ordering::Relaxed) {
        CUDA_SUCCESS => Ok(()),
        error => Err(error),
    }
}

/// Has every call from now on answer an error; the first one stays.
pub(crate) fn stick(error: CUresult) {
    let order = Ordering::Relaxed;
    let _ = STICKY.compare_exchange(CUDA_SUCCESS, error, order, order);
}

/// `cuInit`: connects to the machine, which starts with its first user.
pub(crate) fn init() -> Answer {
    static ONCE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if FORKED.load(Ordering::Relaxed) {
        return Err(CUDA_ERROR_NOT_INITIALIZED);
    }
    let _guard = ONCE_AT_A_TIME.lock();
    if PROCESS.get().is_none() {
        let process = Process::connect()?;
        watch_fork()?;
        // Nobody else sets it: the guard is held.
        let _ = PROCESS.set(process);
    }
    Ok(())
}

extern "C" fn in_child() {
    FORKED.store(true, Ordering::Relaxed);
}

fn watch_fork() -> Answer {
    // SAFETY: the handler only stores to an atomic, which is allowed in a forked child.
    let status = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    if status == 0 {
        Ok(())
    } else {
        Err(CUDA_ERROR_OPERATING_SYSTEM)
    }
}

impl Process {
    fn connect() -> Answer<Self> {
        let machine = Machine::connect().map_err(|error| {
            log::error(format_args!("cuInit: {error}"));
            CUDA_ERROR_SYSTEM_NOT_READY
        })?;
        let variable = |name| std::env::var(name).ok();
        let selection = variable("CUDA_VISIBLE_DEVICES");
        let profiles = machine.devices();
        let devices: Vec<Device> = visible::select(profiles, selection.as_deref())
            .into_iter()
            .filter_map(|index| {
                let profile = profiles.get(usize::try_from(index).ok()?)?.clone();
                Some(Window::reserve(profile.memory_bytes).map(|window| Device {
                    index,
                    profile,
                    window,
                }))
            })
            .collect::<Answer<_>>()?;
        if devices.is_empty() {
            return Err(CUDA_ERROR_NO_DEVICE);
        }
        let mut state = State::default();
        for ordinal in 0..devices.len() {
            let pool = state
                .pools
                .insert(Pool::new(Home::Pinned(Location::Device(ordinal))));
            state.primaries.push(Primary::new(Pools::new(pool)));
        }
        for location in [Location::Host, Location::HostNode] {
            let pool = state.pools.insert(Pool::new(Home::Pinned(location)));
            state.host_pools.push(Pools::new(pool));
        }
        Ok(Self {
            machine,
            devices,
            connections: workqueue::connections(variable("CUDA_DEVICE_MAX_CONNECTIONS").as_deref()),
            shared_files: SharedFiles::default(),
            state: Mutex::new(state),
        })
    }

    /// All objects, for one call at a time.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The device of this ordinal.
    pub(crate) fn device(&self, ordinal: CUdevice) -> Answer<(usize, &Device)> {
        let ordinal = usize::try_from(ordinal).map_err(|_| CUDA_ERROR_INVALID_DEVICE)?;
        Ok((
            ordinal,
            self.devices.get(ordinal).ok_or(CUDA_ERROR_INVALID_DEVICE)?,
        ))
    }
}

/// What a program is told when the device process is gone, by this call and every one that follows, until the program ends: as
/// when a board drops off the bus. Says once why.
pub(crate) fn lost(gone: Lost) -> CUresult {
    static SAID: Once = Once::new();
    stick(CUDA_ERROR_UNKNOWN);
    SAID.call_once(|| {
        log::error(format_args!(
            "{gone}: calls answer CUDA_ERROR_UNKNOWN until this program ends; the next one starts a new device"
        ));
    });
    CUDA_ERROR_UNKNOWN
}

/// What a program is told when the device refuses.
pub(crate) fn refused(error: RequestError) -> CUresult {
    match error {
        RequestError::OutOfMemory | RequestError::OutOfSemaphores => CUDA_ERROR_OUT_OF_MEMORY,
        RequestError::Unknown | RequestError::NoPlace | RequestError::NotAGraph => {
            CUDA_ERROR_INVALID_VALUE
        }
        RequestError::NotOfTeam => CUDA_ERROR_INVALID_DEVICE,
        RequestError::Lost(gone) => lost(gone),
    }
}
