//! Stream-ordered allocation: pools of a device, of the host or of managed memory, `cuMemAllocAsync`, `cuMemFreeAsync`.
//!
//! An allocation is there when the call returns. A block that is freed in stream order goes back when its stream has come that
//! far: to its pool, up to the pool's release threshold, else to the device; this is looked after whenever the program waits
//! for something, asks for memory or asks how much there is.

mod attribute;
mod chunk;
mod shared_file;

pub(crate) use attribute::{PoolAttribute, attribute, set_attribute};
pub(crate) use chunk::Chunk;
pub(crate) use shared_file::{Part, PartName, SharedFile, SharedFiles};

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::{Imported, RequestError, Stream as GpuStream};
use gpu_sim::command::{Block, Command, Exported, Sequence};

use crate::address::{Access, Backing, Range};
use crate::capture::recapture;
use crate::context;
use crate::door::{Answer, NullStream};
use crate::graph::Operation;
use crate::location::{Home, Location};
use crate::process::{Process, State, lost, refused};
use crate::table::Key;
use crate::virtual_memory::{self, Physical};
use crate::{capture, graph, managed, memory, stream};

/// A memory pool.
pub(crate) struct Pool {
    pub(crate) home: Home,
    /// Of managed memory that prefers no device: the one that it counts on, which was current when the pool was made.
    device: Option<usize>,
    pub(crate) is_default: bool,
    pub(crate) release_threshold: u64,
    /// The most that it may have.
    bytes_max: u64,
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
    /// Of the host and shared: the file that its memory is parts of.
    pub(crate) file: Option<Key<SharedFile>>,
    /// What may be done from elsewhere.
    pub(crate) access: Access,
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
    what: Gone,
    stream: Arc<GpuStream>,
    sequence: Sequence,
}

enum Gone {
    /// A block, to the pool or else to the device.
    Chunk(Chunk, Option<Key<Pool>>),
    /// Physical memory that an array was bound to.
    Binding(Key<Physical>),
}

impl Retired {
    /// A binding that ends when the stream has come there.
    pub(crate) fn binding(
        physical: Key<Physical>,
        stream: &Arc<GpuStream>,
        sequence: Sequence,
    ) -> Self {
        Self {
            what: Gone::Binding(physical),
            stream: Arc::clone(stream),
            sequence,
        }
    }
}

impl Pool {
    /// The default pool of a location.
    pub(crate) fn new(home: Home) -> Self {
        Self {
            home,
            device: None,
            is_default: true,
            release_threshold: 0,
            bytes_max: u64::MAX,
            reuse: [1; 3],
            used: Level::default(),
            reserved: Level::default(),
            spare: Vec::new(),
            live: 0,
            is_destroyed: false,
            handle_types: CU_MEM_HANDLE_TYPE_NONE,
            is_imported: false,
            file: None,
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

/// Makes a pool of so many bytes at most; 0: of as many as there are.
pub(crate) fn create(
    process: &Process,
    home: Home,
    handle_types: CUmemAllocationHandleType,
    bytes_max: u64,
) -> Answer<Key<Pool>> {
    home.check_handle_types(handle_types)?;
    let is_shared_on_host = home.device().is_none() && handle_types != CU_MEM_HANDLE_TYPE_NONE;
    let file = is_shared_on_host.then(|| process.shared_files.create());
    let file = file.transpose()?;
    let mut state = process.lock();
    let current = context::current(&state).and_then(|key| context::get(&state, key));
    let device = current.ok().map(|context| context.device);
    Ok(state.pools.insert(Pool {
        is_default: false,
        bytes_max: if bytes_max == 0 { u64::MAX } else { bytes_max },
        handle_types,
        device,
        file,
        ..Pool::new(home)
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

/// The pools of a location. Those of managed memory are made when they are first asked for.
pub(crate) fn of(state: &mut State, home: Home) -> Answer<&mut Pools> {
    let pools = match home {
        Home::Pinned(Location::Device(ordinal)) => state
            .primaries
            .get_mut(ordinal)
            .map(|primary| &mut primary.pools),
        Home::Pinned(Location::Host) => state.host_pools.first_mut(),
        Home::Pinned(Location::HostNode) => state.host_pools.last_mut(),
        Home::Managed(preferred) => {
            let pools = &mut state.pools;
            let made = state.managed_pools.entry(preferred);
            Some(made.or_insert_with(|| Pools::new(pools.insert(Pool::new(home)))))
        }
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
        if let Some(file) = pool.file {
            return process.shared_files.export(file);
        }
        pool.home.device()
    };
    let device = device.and_then(|ordinal| process.devices.get(ordinal));
    let device = device.ok_or(CUDA_ERROR_INVALID_DEVICE)?.index;
    let exported = process.machine.export(Exported::Pool { device });
    exported.map_err(refused)
}

/// `cuMemPoolImportFromShareableHandle`.
pub(crate) fn import(process: &Process, descriptor: BorrowedFd) -> Answer<Key<Pool>> {
    let imported = |home, file| Pool {
        is_default: false,
        is_imported: true,
        file,
        ..Pool::new(Home::Pinned(home))
    };
    if let Some(file) = process.shared_files.import(descriptor)? {
        let pool = imported(Location::HostNode, Some(file));
        return Ok(process.lock().pools.insert(pool));
    }
    let Imported::Pool { device } = process.machine.import(descriptor).map_err(refused)? else {
        return Err(CUDA_ERROR_INVALID_VALUE);
    };
    let mut devices = process.devices.iter();
    let ordinal = devices
        .position(|known| known.index == device)
        .ok_or(CUDA_ERROR_INVALID_DEVICE)?;
    let pool = imported(Location::Device(ordinal), None);
    Ok(process.lock().pools.insert(pool))
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
    let of_others = objects.host_pools.iter_mut();
    let of_others = of_others.chain(objects.managed_pools.values_mut());
    for pools in of_devices.chain(of_others) {
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
        let ended = state.pools.remove(key);
        if let Some(file) = ended.and_then(|pool| pool.file) {
            process.shared_files.let_go(file);
        }
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
        None => of(&mut state, Home::Pinned(Location::Device(of_device)))?.current,
    };
    let Pool { home, device, .. } = *get(&mut state, pool)?;
    let ordinal = match home {
        Home::Managed(_) => home.device().or(device).unwrap_or(of_device),
        Home::Pinned(_) => home.device().unwrap_or(of_device),
    };
    if get(&mut state, pool)?.is_imported {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if capture::place(&mut state, stream)?.is_some() {
        let wanted = ((home, ordinal), bytes);
        let alloc = match recapture::alloc(&mut state, stream, wanted)? {
            Some(alloc) => alloc,
            None => graph::memory::reserve_alloc(&mut state, (home, ordinal), bytes)?,
        };
        capture::append(&mut state, stream, Operation::Alloc(alloc))?;
        return graph::memory::address(&state, alloc);
    }
    let chunk = take(process, &mut state, pool, ordinal, bytes)?;
    let (start, backing) = chunk.place(process, ordinal)?;
    state.book.insert(Range {
        start,
        bytes,
        backing,
        // It is the pool's, and outlives every context (CUDA Driver API, `cuCtxDestroy`).
        context: None,
        device: ordinal,
        pool: Some(pool),
        id: 0,
        is_global: false,
    });
    if let Home::Managed(Some(preferred)) = home {
        managed::prefer(&mut state, start, preferred);
    }
    Ok(start)
}

/// Sees that a pool may have so many bytes more, and gives back what it keeps if it must.
fn make_room(process: &Process, state: &mut State, key: Key<Pool>, bytes: u64) -> Answer {
    let left = get(state, key)?.bytes_max.checked_sub(bytes);
    let left = left.ok_or(CUDA_ERROR_OUT_OF_MEMORY)?;
    trim(process, state, key, left)?;
    if get(state, key)?.reserved.current > left {
        return Err(CUDA_ERROR_OUT_OF_MEMORY);
    }
    Ok(())
}

/// Takes what a pool keeps, or more for it; what a device has to count, this one does.
fn take(
    process: &Process,
    state: &mut State,
    key: Key<Pool>,
    ordinal: usize,
    bytes: u64,
) -> Answer<Chunk> {
    reclaim(process, state)?;
    let pool = get(state, key)?;
    let (spare, home, file) = (pool.take_spare(bytes), pool.home, pool.file);
    let chunk = match spare {
        Some(chunk) => chunk,
        None => {
            make_room(process, state, key, bytes)?;
            let chunk = match file {
                Some(file) => Chunk::take_part(process, file, bytes)?,
                None => Chunk::take(process, state, home, ordinal, bytes)?,
            };
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
    // Whoever refuses leaves the block where it is.
    stream::order(process, &mut state, stream)?;
    let freed = state.book.remove(start, |range| match range.backing {
        Backing::Device(_) => !range.is_global,
        Backing::HostPooled { .. } => true,
        Backing::Managed(_) => range.pool.is_some(),
        Backing::Imported { .. } => range.pool.is_some(),
        _ => false,
    });
    let freed = freed.ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let chunk = freed.chunk().ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let pool = freed.pool;
    let sequence = stream::submit(process, &mut state, stream, Command::Marker, None)?;
    let gpu = Arc::clone(&stream::get(&state, stream)?.gpu);
    state.retired.push(Retired {
        what: Gone::Chunk(chunk, pool),
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
            Some(_) => take_back(process, state, retired.what)?,
            None => state.retired.push(retired),
        }
    }
    graph::memory::sweep(process, state)
}

fn take_back(process: &Process, state: &mut State, gone: Gone) -> Answer {
    let (chunk, key) = match gone {
        Gone::Chunk(chunk, key) => (chunk, key),
        Gone::Binding(physical) => return virtual_memory::unbind(process, state, physical),
    };
    let pool = key.and_then(|key| state.pools.get_mut(key));
    // What was imported goes back to who exported it, not to our pool.
    let Some(pool) = pool.filter(|pool| !pool.is_imported) else {
        return chunk.give_back(process);
    };
    pool.used.subtract(chunk.bytes());
    pool.live = pool.live.saturating_sub(1);
    pool.spare.push(chunk);
    let threshold = pool.release_threshold;
    key.map_or(Ok(()), |key| trim(process, state, key, threshold))
}

/// Gives back all that pools have on a device, whoever uses it.
pub(crate) fn reset(process: &Process, state: &mut State, device: usize) -> Answer {
    reclaim(process, state)?;
    let of_device = state.pools.iter();
    let of_device = of_device.filter(|(_, pool)| pool.home.device() == Some(device));
    let of_device: Vec<_> = of_device.map(|(key, _)| key).collect();
    for range in state
        .book
        .remove_all(|range| range.pool.is_some_and(|pool| of_device.contains(&pool)))
    {
        forget(state, &range);
        memory::give_back(process, range)?;
    }
    of_device
        .into_iter()
        .try_for_each(|key| trim(process, state, key, 0))
}

/// Minds that a block of a pool was freed by other means than the pool's.
pub(crate) fn forget(state: &mut State, range: &Range) {
    state.advice.remove(&range.id);
    let pool = range.pool.and_then(|key| state.pools.get_mut(key));
    let pool = pool.filter(|pool| !pool.is_imported);
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
