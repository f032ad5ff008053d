//! Device, managed and page-locked memory: allocation, release, and what is known of a pointer.
//!
//! Managed memory is ordinary host memory of this process, counted by the device in full from its allocation on: nobody sees
//! which of it a kernel would touch, so it is taken to be resident. It can therefore not exceed the device's memory.

use cuda_sys_stubs::abi::*;
use gpu_sim::command::{AllocKind, MemoryInfo};

use crate::address::{Backing, Range};
use crate::context::{self, Context};
use crate::door::Answer;
use crate::pool::Chunk;
use crate::process::{Process, State, refused};
use crate::table::Key;
use crate::window::{LOW_END, hide, map_host, map_host_at, unmap_host};
use crate::{capture, graph, ipc, pool, stream};

/// Host memory is page-locked in pages of this size.
const PAGE_BYTES: u64 = 4096;

/// Blocks start at multiples of this.
const BLOCK_ALIGNMENT: u64 = 512;

/// Rows of `cuMemAllocPitch` start at multiples of this, as on every device since compute capability 2.0.
pub(crate) const PITCH_ALIGNMENT: u64 = 512;

const HOST_ALLOC_FLAGS: u32 =
    CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
const HOST_REGISTER_FLAGS: u32 = CU_MEMHOSTREGISTER_PORTABLE
    | CU_MEMHOSTREGISTER_DEVICEMAP
    | CU_MEMHOSTREGISTER_IOMEMORY
    | CU_MEMHOSTREGISTER_READ_ONLY;

fn range(
    start: CUdeviceptr,
    bytes: u64,
    backing: Backing,
    context: Key<Context>,
    device: usize,
) -> Range {
    Range {
        start,
        bytes,
        backing,
        context: Some(context),
        device,
        pool: None,
        id: 0,
        is_global: false,
    }
}

/// Takes memory of a context's device and writes it down.
pub(crate) fn take(
    process: &Process,
    state: &mut State,
    context: Key<Context>,
    bytes: u64,
) -> Answer<Range> {
    let ordinal = context::get(state, context)?.device;
    let device = process
        .devices
        .get(ordinal)
        .ok_or(CUDA_ERROR_INVALID_DEVICE)?;
    let block = pool::with_reclaim(process, state, |process| {
        process
            .machine
            .alloc(device.index, bytes, AllocKind::Device)
    })?;
    let start = if context::get(state, context)?.is_narrow() {
        let gap = state.book.low_gap(bytes, BLOCK_ALIGNMENT);
        gap.inspect_err(|_| {
            // Out of addresses; that the block goes back as well can only fail with the device gone.
            let _ = process.machine.free(block.id);
        })?
    } else {
        device.window.address(block.offset)
    };
    let taken = range(start, bytes, Backing::Device(block), context, ordinal);
    state.book.insert(taken);
    Ok(taken)
}

/// `cuMemAlloc`.
pub(crate) fn alloc(process: &Process, bytes: u64) -> Answer<CUdeviceptr> {
    let mut state = process.lock();
    let context = context::owner(&state)?;
    capture::forbid(&mut state)?;
    if bytes == 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    Ok(take(process, &mut state, context, bytes)?.start)
}

/// `cuMemAllocPitch`: address and pitch.
pub(crate) fn alloc_pitch(
    process: &Process,
    width: u64,
    height: u64,
    element_bytes: u32,
) -> Answer<(CUdeviceptr, u64)> {
    if !matches!(element_bytes, 4 | 8 | 16) || width == 0 || height == 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let pitch = width
        .checked_next_multiple_of(PITCH_ALIGNMENT)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let bytes = pitch.checked_mul(height).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    Ok((alloc(process, bytes)?, pitch))
}

/// `cuMemAllocManaged`.
pub(crate) fn alloc_managed(process: &Process, bytes: u64, flags: u32) -> Answer<CUdeviceptr> {
    let mut state = process.lock();
    let context = context::owner(&state)?;
    capture::forbid(&mut state)?;
    if bytes == 0 || !matches!(flags, CU_MEM_ATTACH_GLOBAL | CU_MEM_ATTACH_HOST) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let ordinal = context::get(&state, context)?.device;
    let chunk = Chunk::take_managed(process, &mut state, ordinal, bytes)?;
    let (start, backing) = chunk.place(process, ordinal)?;
    state
        .book
        .insert(range(start, bytes, backing, context, ordinal));
    Ok(start)
}

/// Whole pages that hold so many bytes.
pub(crate) fn length(bytes: u64) -> Answer<usize> {
    bytes
        .checked_next_multiple_of(PAGE_BYTES)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or(CUDA_ERROR_OUT_OF_MEMORY)
}

/// `cuMemHostAlloc`, `cuMemAllocHost`.
pub(crate) fn alloc_host(process: &Process, bytes: u64, flags: u32) -> Answer<CUdeviceptr> {
    let mut state = process.lock();
    let context = context::owner(&state)?;
    capture::forbid(&mut state)?;
    if bytes == 0 || flags & !HOST_ALLOC_FLAGS != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let ordinal = context::get(&state, context)?.device;
    let start = if context::get(&state, context)?.is_narrow() {
        let pages = length(bytes)?;
        let start = state
            .book
            .low_gap(u64::try_from(pages).unwrap_or(u64::MAX), PAGE_BYTES)?;
        map_host_at(start, pages)?;
        start
    } else {
        u64::try_from(map_host(length(bytes)?)?).map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?
    };
    state.book.insert(range(
        start,
        bytes,
        Backing::HostAllocated { flags },
        context,
        ordinal,
    ));
    Ok(start)
}

/// `cuMemHostRegister`.
pub(crate) fn register_host(
    process: &Process,
    start: CUdeviceptr,
    bytes: u64,
    flags: u32,
) -> Answer {
    let mut state = process.lock();
    let context = context::owner(&state)?;
    if start == 0
        || bytes == 0
        || start.checked_add(bytes).is_none()
        || flags & !HOST_REGISTER_FLAGS != 0
    {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if process
        .devices
        .iter()
        .any(|device| device.window.contains(start))
    {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if state.book.overlaps(start, bytes) {
        return Err(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    }
    let ordinal = context::get(&state, context)?.device;
    state.book.insert(range(
        start,
        bytes,
        Backing::HostRegistered { flags },
        context,
        ordinal,
    ));
    Ok(())
}

/// `cuMemFree`: waits, as hardware does, for all work that may use the memory.
pub(crate) fn free(process: &Process, start: CUdeviceptr) -> Answer {
    let is_ours = |range: &Range| match range.backing {
        Backing::Imported { .. } => range.pool.is_some(),
        _ => range.chunk().is_some() && !range.is_global,
    };
    {
        let mut state = process.lock();
        context::owner(&state)?;
        capture::forbid(&mut state)?;
        if start == 0 {
            return Ok(());
        }
    }
    let of_graph = graph::memory::find(&process.lock(), start);
    if let Some(alloc) = of_graph {
        return graph::memory::free(process, alloc);
    }
    let freed = take_back(process, start, is_ours, CUDA_ERROR_INVALID_VALUE)?;
    give_back(process, freed)
}

/// `cuMemFreeHost`.
pub(crate) fn free_host(process: &Process, start: CUdeviceptr) -> Answer {
    context::owner(&process.lock())?;
    let freed = take_back(
        process,
        start,
        |range| matches!(range.backing, Backing::HostAllocated { .. }),
        CUDA_ERROR_INVALID_VALUE,
    )?;
    give_back(process, freed)
}

/// `cuMemHostUnregister`.
pub(crate) fn unregister_host(process: &Process, start: CUdeviceptr) -> Answer {
    context::owner(&process.lock())?;
    let is_registered = |range: &Range| matches!(range.backing, Backing::HostRegistered { .. });
    take_back(
        process,
        start,
        is_registered,
        CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
    )
    .map(drop)
}

/// Waits for all work, then takes a stretch out of the book. Of two calls for the same one, one finds it.
pub(crate) fn take_back(
    process: &Process,
    start: CUdeviceptr,
    which: impl Fn(&Range) -> bool,
    otherwise: CUresult,
) -> Answer<Range> {
    let pending = {
        let state = process.lock();
        state
            .book
            .find(start)
            .filter(|range| range.start == start && which(range))
            .ok_or(otherwise)?;
        stream::pending(&state, None)
    };
    stream::wait_all(process, &pending)?;
    let mut state = process.lock();
    context::current(&state)?;
    let range = state.book.remove(start, which).ok_or(otherwise)?;
    pool::forget(&mut state, &range);
    Ok(range)
}

/// Returns what is behind a stretch that was taken out of the book.
pub(crate) fn give_back(process: &Process, range: Range) -> Answer {
    match range.backing {
        Backing::HostRegistered { .. } | Backing::Mapped { .. } | Backing::Graph { .. } => {
            return Ok(());
        }
        Backing::HostAllocated { .. } if range.start < LOW_END => {
            hide(range.start, range.bytes.next_multiple_of(PAGE_BYTES))?;
        }
        Backing::HostAllocated { .. } => {
            let start = usize::try_from(range.start).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
            unmap_host(start, length(range.bytes)?);
        }
        Backing::Device(_)
        | Backing::Managed(_)
        | Backing::Imported { .. }
        | Backing::HostPooled { .. } => {}
    }
    range
        .chunk()
        .map_or(Ok(()), |chunk| chunk.give_back(process))
}

/// `cuMemGetInfo` of the calling thread's device.
pub(crate) fn info(process: &Process) -> Answer<MemoryInfo> {
    let device = {
        let mut state = process.lock();
        let context = context::owner(&state)?;
        pool::reclaim(process, &mut state)?;
        context::get(&state, context)?.device
    };
    let index = process
        .devices
        .get(device)
        .ok_or(CUDA_ERROR_INVALID_DEVICE)?
        .index;
    process.machine.memory(index).map_err(refused)
}

/// The stretch that an address belongs to, with its start and size. `CUDA_ERROR_NOT_FOUND`: none of a device's.
pub(crate) fn address_range(process: &Process, address: CUdeviceptr) -> Answer<(CUdeviceptr, u64)> {
    let state = process.lock();
    context::owner(&state)?;
    let range = state.book.find(address).ok_or(CUDA_ERROR_NOT_FOUND)?;
    Ok((range.start, range.bytes))
}

/// Flags of page-locked memory that the driver allocated.
pub(crate) fn host_flags(process: &Process, address: CUdeviceptr) -> Answer<u32> {
    let state = process.lock();
    context::owner(&state)?;
    match state.book.find(address).map(|range| range.backing) {
        Some(Backing::HostAllocated { flags }) => Ok(flags | CU_MEMHOSTALLOC_DEVICEMAP),
        Some(Backing::HostRegistered { flags }) => Ok(flags),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// The device's address of page-locked memory: the same, there is one address space.
pub(crate) fn device_pointer(process: &Process, address: CUdeviceptr) -> Answer<CUdeviceptr> {
    let state = process.lock();
    context::owner(&state)?;
    state
        .book
        .find(address)
        .filter(|range| range.is_host())
        .map(|_| address)
        .ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// The number that a handle is.
fn number<T>(key: Key<T>) -> u64 {
    u64::try_from(key.handle::<()>().addr()).unwrap_or(0)
}

/// A value of `cuPointerGetAttribute`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    Pointer(u64),
    Word(u32),
    Byte(u8),
    Long(u64),
    Tokens,
}

/// What is known of a pointer. `None`: the pointer is unknown to the driver.
pub(crate) fn attribute(
    state: &State,
    attribute: CUpointer_attribute,
    address: CUdeviceptr,
) -> Answer<Option<Attribute>> {
    let Some(range) = state.book.find(address) else {
        return if (CU_POINTER_ATTRIBUTE_CONTEXT..=CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL)
            .contains(&attribute)
        {
            Ok(None)
        } else {
            Err(CUDA_ERROR_INVALID_VALUE)
        };
    };
    let is_managed = range.is_managed();
    let is_device = !range.is_host();
    Ok(Some(match attribute {
        CU_POINTER_ATTRIBUTE_CONTEXT => Attribute::Pointer(range.context.map_or(0, number)),
        CU_POINTER_ATTRIBUTE_MEMORY_TYPE => Attribute::Word(if is_device {
            CU_MEMORYTYPE_DEVICE
        } else {
            CU_MEMORYTYPE_HOST
        }),
        CU_POINTER_ATTRIBUTE_DEVICE_POINTER => Attribute::Pointer(address),
        CU_POINTER_ATTRIBUTE_HOST_POINTER if is_managed || !is_device => {
            Attribute::Pointer(address)
        }
        CU_POINTER_ATTRIBUTE_HOST_POINTER => return Err(CUDA_ERROR_INVALID_VALUE),
        CU_POINTER_ATTRIBUTE_P2P_TOKENS => Attribute::Tokens,
        CU_POINTER_ATTRIBUTE_SYNC_MEMOPS => Attribute::Byte(0),
        CU_POINTER_ATTRIBUTE_BUFFER_ID | CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID => {
            Attribute::Long(range.id)
        }
        CU_POINTER_ATTRIBUTE_IS_MANAGED => Attribute::Byte(is_managed.into()),
        CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL => {
            Attribute::Word(u32::try_from(range.device).unwrap_or(0))
        }
        CU_POINTER_ATTRIBUTE_RANGE_START_ADDR | CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR => {
            Attribute::Pointer(range.start)
        }
        CU_POINTER_ATTRIBUTE_RANGE_SIZE | CU_POINTER_ATTRIBUTE_MAPPING_SIZE => {
            Attribute::Long(range.bytes)
        }
        CU_POINTER_ATTRIBUTE_MAPPED => Attribute::Byte(1),
        CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE => {
            Attribute::Byte(ipc::is_capable(range).into())
        }
        CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE
        | CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE => Attribute::Byte(0),
        CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES => {
            Attribute::Long(handle_types(state, range).into())
        }
        CU_POINTER_ATTRIBUTE_ACCESS_FLAGS => Attribute::Word(CU_MEM_ACCESS_FLAGS_PROT_READWRITE),
        CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE => Attribute::Pointer(range.pool.map_or(0, number)),
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    }))
}

/// As what a stretch can be given to other processes.
fn handle_types(state: &State, range: &Range) -> CUmemAllocationHandleType {
    match range.backing {
        Backing::Mapped { physical, .. } => {
            let physical = state.physicals.get(physical);
            physical.map_or(CU_MEM_HANDLE_TYPE_NONE, |physical| physical.handle_types)
        }
        _ => {
            let pool = range.pool.and_then(|key| state.pools.get(key));
            pool.map_or(CU_MEM_HANDLE_TYPE_NONE, |pool| pool.handle_types)
        }
    }
}

impl Attribute {
    /// What `cuPointerGetAttributes` writes for a pointer that the driver does not know.
    pub(crate) fn unknown(attribute: CUpointer_attribute) -> Self {
        match attribute {
            CU_POINTER_ATTRIBUTE_MEMORY_TYPE | CU_POINTER_ATTRIBUTE_ACCESS_FLAGS => Self::Word(0),
            CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL => Self::Word(u32::MAX - 1),
            CU_POINTER_ATTRIBUTE_P2P_TOKENS => Self::Tokens,
            CU_POINTER_ATTRIBUTE_SYNC_MEMOPS
            | CU_POINTER_ATTRIBUTE_IS_MANAGED
            | CU_POINTER_ATTRIBUTE_MAPPED
            | CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE
            | CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE
            | CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE => Self::Byte(0),
            CU_POINTER_ATTRIBUTE_CONTEXT
            | CU_POINTER_ATTRIBUTE_DEVICE_POINTER
            | CU_POINTER_ATTRIBUTE_HOST_POINTER => Self::Pointer(0),
            _ => Self::Long(0),
        }
    }
}
