//! Stream-ordered allocation: pools of a device or of the host, `cuMemAllocAsync`, `cuMemFreeAsync`.
//!
//! An allocation is there when the call returns. A block that is freed in stream order goes back when its stream has come that
//! far: to its pool, up to the pool's release threshold, else to the device; this is looked after whenever the program waits
//! for something, asks for memory or asks how much there is.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::{Imported, RequestError, Stream as GpuStream};
use gpu_sim::command::{AllocKind, Block, Command, Exported, Sequence};

use crate::address::{Access, Backing, Range};
use crate::context;
use crate::door::{Answer, NullStream};
use crate::graph::Operation;
use crate::location::Location;
use crate::process::{Process, State, lost, refused};
use crate::table::Key;
use crate::window::{map_host, unmap_host};
use crate::{capture, graph, memory, stream};

/// A memory pool.
pub(crate) struct Pool {
    pub(crate) location: Location,
    pub(crate) is_default: bool,
    pub(crate) release_threshold: u64,
    /// Values of the three reuse policies; kept, and without effect.
    pub(crate) reuse: [u32; 3],
    pub(crate) used: Level,
    pub(crate) reserved: Level,
    /// What is kept for the next allocation.
    spare: Vec<Chunk>,
    /// Chunks of it that are allocated.
    live: u64,
    is_destroyed: bool,
    /// As what it may be given to other processes.
    pub(crate) handle_types: CUmemAllocationHandleType,
    /// Another process's: its blocks are opened one by one, and none is allocated here.
    pub(crate) is_imported: bool,
    /// What may be done from elsewhere.
    pub(crate) access: Access,
}

/// A piece of memory that a pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    Device(Block),
    Host { start: CUdeviceptr, bytes: u64 },
}

impl Chunk {
    fn take(process: &Process, state: &mut State, location: Location, bytes: u64) -> Answer<Self> {
        let Location::Device(ordinal) = location else {
            let length = memory::length(bytes)?;
            let start = u64::try_from(map_host(length)?);
            return Ok(Self::Host {
                start: start.map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?,
                bytes: u64::try_from(length).map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?,
            });
        };
        let device = process.devices.get(ordinal);
        let device = device.ok_or(CUDA_ERROR_INVALID_DEVICE)?.index;
        let block = with_reclaim(process, state, |process| {
            process.machine.alloc(device, bytes, AllocKind::Device)
        });
        block.map(Self::Device)
    }

    fn bytes(self) -> u64 {
        match self {
            Self::Device(block) => block.bytes,
            Self::Host { bytes, .. } => bytes,
        }
    }

    /// Where it is: its address, and what is written down of it.
    fn place(self, process: &Process, ordinal: usize) -> Answer<(CUdeviceptr, Backing)> {
        match self {
            Self::Device(block) => {
                let device = process.devices.get(ordinal);
                let window = device.ok_or(CUDA_ERROR_INVALID_DEVICE)?.window;
                Ok((window.address(block.offset), Backing::Device(block)))
            }
            Self::Host { start, bytes } => Ok((start, Backing::HostPooled { bytes })),
        }
    }

    /// Returns it to the device, or to the host.
    pub(crate) fn give_back(self, process: &Process) -> Answer {
        match self {
            Self::Device(block) => process.machine.free(block.id).map_err(refused),
            Self::Host { start, bytes } => {
                let start = usize::try_from(start).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
                unmap_host(start, memory::length(bytes)?);
                Ok(())
            }
        }
    }
}

/// Bytes now, and the most there were since the figure was reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) current: u64,
    pub(crate) high: u64,
}

impl Level {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.current = self.current.saturating_add(bytes);
        self.high = self.high.max(self.current);
    }

    pub(crate) fn subtract(&mut self, bytes: u64) {
        self.current = self.current.saturating_sub(bytes);
    }
}

/// What was given back in stream order.
pub(crate) struct Retired {
    chunk: Chunk,
    pool: Option<Key<Pool>>,
    stream: Arc<GpuStream>,
    sequence: Sequence,
}

impl Pool {
    /// The default pool of a location.
    pub(crate) fn new(location: Location) -> Self {
        Self {
            location,
            is_default: true,
            release_threshold: 0,
            reuse: [1; 3],
            used: Level::default(),
            reserved: Level::default(),
            spare: Vec::new(),
            live: 0,
            is_destroyed: false,
            handle_types: CU_MEM_HANDLE_TYPE_NONE,
            is_imported: false,
            access: Access::default(),
        }
    }

    fn take_spare(&mut self, bytes: u64) -> Option<Chunk> {
        let fits = |chunk: &Chunk| chunk.bytes() >= bytes && chunk.bytes() / 2 <= bytes;
        let at = self.spare.iter().position(fits)?;
        Some(self.spare.swap_remove(at))
    }
}

/// The pool behind a handle.
pub(crate) fn find(state: &State, handle: CUmemoryPool) -> Answer<Key<Pool>> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    state
        .pools
        .get(key)
        .filter(|pool| !pool.is_destroyed)
        .map(|_| key)
        .ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// A pool that must exist, because its handle was looked up.
pub(crate) fn get(state: &mut State, key: Key<Pool>) -> Answer<&mut Pool> {
    state.pools.get_mut(key).ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// Makes a pool at a location. `CUDA_ERROR_NOT_SUPPORTED`: one of the host that is to be shared; blocks are handed out one by
/// one by the machine, which knows devices' only.
pub(crate) fn create(
    process: &Process,
    location: Location,
    handle_types: CUmemAllocationHandleType,
) -> Answer<Key<Pool>> {
    location.check_handle_types(handle_types)?;
    if location.is_host() && handle_types != CU_MEM_HANDLE_TYPE_NONE {
        return Err(CUDA_ERROR_NOT_SUPPORTED);
    }
    Ok(process.lock().pools.insert(Pool {
        is_default: false,
        handle_types,
        ..Pool::new(location)
    }))
}

/// The pool that a location had first, and the one that it has now.
pub(crate) struct Pools {
    pub(crate) default: Key<Pool>,
    pub(crate) current: Key<Pool>,
}

impl Pools {
    pub(crate) fn new(pool: Key<Pool>) -> Self {
        Self {
            default: pool,
            current: pool,
        }
    }
}

/// The pools of a location.
pub(crate) fn of(state: &mut State, location: Location) -> Answer<&mut Pools> {
    let pools = match location {
        Location::Device(ordinal) => state
            .primaries
            .get_mut(ordinal)
            .map(|primary| &mut primary.pools),
        Location::Host => state.host_pools.first_mut(),
        Location::HostNode => state.host_pools.last_mut(),
    };
    pools.ok_or(CUDA_ERROR_INVALID_DEVICE)
}

/// `cuMemPoolExportToShareableHandle`.
pub(crate) fn export(
    process: &Process,
    handle: CUmemoryPool,
    handle_type: CUmemAllocationHandleType,
) -> Answer<OwnedFd> {
    let device = {
        let mut state = process.lock();
        let key = find(&state, handle)?;
        let pool = get(&mut state, key)?;
        if pool.handle_types & handle_type == 0 || pool.is_imported {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        pool.location.index()
    };
    let device = process.devices.get(device);
    let device = device.ok_or(CUDA_ERROR_INVALID_DEVICE)?.index;
    let exported = process.machine.export(Exported::Pool { device });
    exported.map_err(refused)
}

/// `cuMemPoolImportFromShareableHandle`.
pub(crate) fn import(process: &Process, descriptor: BorrowedFd) -> Answer<Key<Pool>> {
    let imported = process.machine.import(descriptor).map_err(refused)?;
    let Imported::Pool { device } = imported else {
        return Err(CUDA_ERROR_INVALID_VALUE);
    };
    let mut devices = process.devices.iter();
    let ordinal = devices
        .position(|known| known.index == device)
        .ok_or(CUDA_ERROR_INVALID_DEVICE)?;
    Ok(process.lock().pools.insert(Pool {
        is_default: false,
        is_imported: true,
        ..Pool::new(Location::Device(ordinal))
    }))
}

/// Ends a pool when its last block is freed. A location whose pool it was gets its default pool back.
pub(crate) fn destroy(process: &Process, handle: CUmemoryPool) -> Answer {
    let mut state = process.lock();
    let key = find(&state, handle)?;
    let pool = get(&mut state, key)?;
    if pool.is_default {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    pool.is_destroyed = true;
    pool.release_threshold = 0;
    let objects = &mut *state;
    let of_devices = objects.primaries.iter_mut().map(|each| &mut each.pools);
    for pools in of_devices.chain(&mut objects.host_pools) {
        if pools.current == key {
            pools.current = pools.default;
        }
    }
    trim(process, &mut state, key, 0)
}

/// Gives spare memory back, down to `keep_bytes` reserved.
pub(crate) fn trim(
    process: &Process,
    state: &mut State,
    key: Key<Pool>,
    keep_bytes: u64,
) -> Answer {
    let pool = get(state, key)?;
    while pool.reserved.current > keep_bytes {
        let Some(chunk) = pool.spare.pop() else { break };
        pool.reserved.subtract(chunk.bytes());
        chunk.give_back(process)?;
    }
    if pool.is_destroyed && pool.live == 0 {
        state.pools.remove(key);
    }
    Ok(())
}

/// Allocates from a pool, or from the current pool of the stream's device.
pub(crate) fn alloc(
    process: &Process,
    bytes: u64,
    pool: Option<CUmemoryPool>,
    handle: CUstream,
    null: NullStream,
) -> Answer<CUdeviceptr> {
    let mut state = process.lock();
    let stream = stream::resolve(process, &mut state, handle, null)?;
    if bytes == 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let context = context::owner_of(&state, stream::get(&state, stream)?.context);
    let of_device = context::get(&state, context)?.device;
    let pool = match pool {
        Some(handle) => find(&state, handle)?,
        None => of(&mut state, Location::Device(of_device))?.current,
    };
    let location = get(&mut state, pool)?.location;
    let ordinal = match location {
        Location::Device(ordinal) => ordinal,
        Location::Host | Location::HostNode => of_device,
    };
    if get(&mut state, pool)?.is_imported {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if capture::place(&mut state, stream)?.is_some() {
        if location.is_host() {
            return Err(CUDA_ERROR_NOT_SUPPORTED);
        }
        let alloc = graph::memory::reserve_alloc(&mut state, ordinal, bytes)?;
        capture::append(&mut state, stream, Operation::Alloc(alloc))?;
        return graph::memory::address(&state, alloc);
    }
    let chunk = take(process, &mut state, pool, bytes)?;
    let (start, backing) = chunk.place(process, ordinal)?;
    state.book.insert(Range {
        start,
        bytes,
        backing,
        context: Some(context),
        device: ordinal,
        pool: Some(pool),
        id: 0,
        is_global: false,
    });
    Ok(start)
}

/// Takes what a pool keeps, or more for it.
fn take(process: &Process, state: &mut State, key: Key<Pool>, bytes: u64) -> Answer<Chunk> {
    reclaim(process, state)?;
    let pool = get(state, key)?;
    let (spare, location) = (pool.take_spare(bytes), pool.location);
    let chunk = match spare {
        Some(chunk) => chunk,
        None => {
            let chunk = Chunk::take(process, state, location, bytes)?;
            get(state, key)?.reserved.add(chunk.bytes());
            chunk
        }
    };
    let pool = get(state, key)?;
    pool.used.add(chunk.bytes());
    pool.live = pool.live.saturating_add(1);
    Ok(chunk)
}

/// Frees in stream order: the address is void at once, the memory when the stream has come here.
pub(crate) fn free(
    process: &Process,
    start: CUdeviceptr,
    handle: CUstream,
    null: NullStream,
) -> Answer {
    let mut state = process.lock();
    let stream = stream::resolve(process, &mut state, handle, null)?;
    if capture::place(&mut state, stream)?.is_some() {
        let alloc = graph::memory::find(&state, start).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        return capture::append(&mut state, stream, Operation::Free(alloc));
    }
    if let Some(alloc) = graph::memory::find(&state, start) {
        let sequence = stream::submit(process, &mut state, stream, Command::Marker, None)?;
        let gpu = Arc::clone(&stream::get(&state, stream)?.gpu);
        return graph::memory::free_on_stream(&mut state, alloc, (&gpu, sequence));
    }
    let freed = state.book.remove(start, |range| match range.backing {
        Backing::Device(_) => !range.is_global,
        Backing::HostPooled { .. } => true,
        Backing::Imported { .. } => range.pool.is_some(),
        _ => false,
    });
    let freed = freed.ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let chunk = freed.chunk().ok_or(CUDA_ERROR_INVALID_VALUE)?;
    // What was imported goes back to who exported it, not to our pool.
    let is_imported = matches!(freed.backing, Backing::Imported { .. });
    let pool = freed.pool.filter(|_| !is_imported);
    let sequence = stream::submit(process, &mut state, stream, Command::Marker, None)?;
    let gpu = Arc::clone(&stream::get(&state, stream)?.gpu);
    state.retired.push(Retired {
        chunk,
        pool,
        stream: gpu,
        sequence,
    });
    Ok(())
}

/// Takes back the blocks whose streams have come far enough.
pub(crate) fn reclaim(process: &Process, state: &mut State) -> Answer {
    for retired in std::mem::take(&mut state.retired) {
        match process
            .machine
            .poll_stream(&retired.stream, retired.sequence)
            .map_err(lost)?
        {
            Some(_) => take_back(process, state, retired)?,
            None => state.retired.push(retired),
        }
    }
    graph::memory::sweep(process, state)
}

fn take_back(process: &Process, state: &mut State, retired: Retired) -> Answer {
    let Some(pool) = retired.pool.and_then(|key| state.pools.get_mut(key)) else {
        return retired.chunk.give_back(process);
    };
    pool.used.subtract(retired.chunk.bytes());
    pool.live = pool.live.saturating_sub(1);
    pool.spare.push(retired.chunk);
    let threshold = pool.release_threshold;
    retired
        .pool
        .map_or(Ok(()), |key| trim(process, state, key, threshold))
}

/// Minds that a block of a pool was freed by other means than the pool's.
pub(crate) fn forget(state: &mut State, range: &Range) {
    state.advice.remove(&range.id);
    if matches!(range.backing, Backing::Imported { .. }) {
        return;
    }
    let pool = range.pool.and_then(|key| state.pools.get_mut(key));
    if let Some((pool, chunk)) = pool.zip(range.chunk()) {
        pool.used.subtract(chunk.bytes());
        pool.reserved.subtract(chunk.bytes());
        pool.live = pool.live.saturating_sub(1);
    }
}

/// Asks the device for memory; when it has none, once more with everything that pools keep given back.
pub(crate) fn with_reclaim(
    process: &Process,
    state: &mut State,
    ask: impl Fn(&Process) -> Result<Block, RequestError>,
) -> Answer<Block> {
    match ask(process) {
        Err(RequestError::OutOfMemory) => {}
        other => return other.map_err(refused),
    }
    for retired in &state.retired {
        process
            .machine
            .wait_stream(&retired.stream, retired.sequence)
            .map_err(lost)?;
    }
    reclaim(process, state)?;
    let pools: Vec<_> = state.pools.iter().map(|(key, _)| key).collect();
    for key in pools {
        trim(process, state, key, 0)?;
    }
    ask(process).map_err(refused)
}

/// A value of `cuMemPoolGetAttribute`.
pub(crate) enum PoolAttribute {
    Word(u32),
    Long(u64),
}

/// What a pool says of itself.
pub(crate) fn attribute(pool: &Pool, attribute: CUmemPool_attribute) -> Answer<PoolAttribute> {
    let [events, opportunistic, internal] = pool.reuse;
    Ok(match attribute {
        CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES => PoolAttribute::Word(events),
        CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC => PoolAttribute::Word(opportunistic),
        CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES => PoolAttribute::Word(internal),
        CU_MEMPOOL_ATTR_RELEASE_THRESHOLD => PoolAttribute::Long(pool.release_threshold),
        CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT => PoolAttribute::Long(pool.reserved.current),
        CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH => PoolAttribute::Long(pool.reserved.high),
        CU_MEMPOOL_ATTR_USED_MEM_CURRENT => PoolAttribute::Long(pool.used.current),
        CU_MEMPOOL_ATTR_USED_MEM_HIGH => PoolAttribute::Long(pool.used.high),
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    })
}

/// Sets a policy, the release threshold, or a high-water mark (to 0: to what there is).
pub(crate) fn set_attribute(pool: &mut Pool, attribute: CUmemPool_attribute, value: u64) -> Answer {
    let word = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
    let [events, opportunistic, internal] = &mut pool.reuse;
    match attribute {
        CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES => *events = word,
        CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC => *opportunistic = word,
        CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES => *internal = word,
        CU_MEMPOOL_ATTR_RELEASE_THRESHOLD => pool.release_threshold = value,
        CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH if value == 0 => {
            pool.reserved.high = pool.reserved.current
        }
        CU_MEMPOOL_ATTR_USED_MEM_HIGH if value == 0 => pool.used.high = pool.used.current,
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    }
    Ok(())
}
