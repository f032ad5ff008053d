//! Virtual memory management: physical memory by handle, reserved addresses, and mappings of the one at the other.
//!
//! A reservation is two equal stretches of address space: the one that the program gets, never accessible, and a shadow, at which
//! the pages of mapped physical memory can be reached. So bytes that run on over several mappings can be copied as one.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};

use cuda_sys_stubs::abi::*;
use gpu_sim::client::{self, Imported};
use gpu_sim::command::{AllocKind, Block, BlockId, Exported};

use crate::address::{Access, Backing, Range};
use crate::array::TILE_BYTES;
use crate::door::Answer;
use crate::host_memory::HostMemory;
use crate::location::Location;
use crate::multicast::{self, Multicast};
use crate::process::{Process, State, refused};
use crate::table::Key;
use crate::window::{duplicate, hide, reserve, share};
use crate::{pool, stream};

/// Physical memory comes in pages of this size, and so do mappings.
pub(crate) const GRANULARITY: u64 = 2 << 20;

/// What physical memory is.
enum Memory {
    /// Of the device with this ordinal.
    Device {
        block: Block,
        ordinal: usize,
    },
    Host(HostMemory),
    /// A stretch for memory of several devices.
    Multicast(Multicast),
}

impl Memory {
    fn bytes(&self) -> u64 {
        match self {
            Self::Device { block, .. } => block.bytes,
            Self::Host(memory) => memory.bytes,
            Self::Multicast(object) => object.bytes(),
        }
    }

    /// Whether this is the block of a device that has this id.
    fn is_block(&self, id: BlockId) -> bool {
        matches!(self, Self::Device { block, .. } if block.id == id)
    }

    /// Makes the first bytes reachable at reserved addresses of ours.
    fn show(&self, process: &Process, at: u64, bytes: u64) -> Answer {
        match self {
            Self::Device { block, .. } => {
                let pages = process.machine.vram(block.device, block.offset, bytes);
                duplicate(pages.ok_or(CUDA_ERROR_INVALID_VALUE)?, at, bytes)
            }
            Self::Host(memory) | Self::Multicast(Multicast { pages: memory, .. }) => {
                share(memory.file(), at, bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
            }
        }
    }
}

/// Physical memory, as a handle stands for it.
pub(crate) struct Physical {
    memory: Memory,
    /// As what it may be given to other processes.
    pub(crate) handle_types: CUmemAllocationHandleType,
    /// Whether arrays may be mapped to it tile by tile.
    pub(crate) is_tile_pool: bool,
    /// Handles that the program holds.
    handles: u32,
    /// Places at which it is mapped.
    mappings: u32,
    /// Tiles of arrays that it is bound to.
    bindings: u32,
}

impl Physical {
    /// Memory with its first handle.
    fn new(memory: Memory, handle_types: CUmemAllocationHandleType) -> Self {
        Self {
            memory,
            handle_types,
            is_tile_pool: false,
            handles: 1,
            mappings: 0,
            bindings: 0,
        }
    }

    /// Where it lies; a multicast object at the first device that this process added to its team.
    pub(crate) fn location(&self) -> Location {
        match &self.memory {
            Memory::Device { ordinal, .. } => Location::Device(*ordinal),
            Memory::Host(memory) => memory.location,
            Memory::Multicast(object) => Location::Device(object.device()),
        }
    }

    /// The block of a device that it is, and the device's ordinal.
    pub(crate) fn block(&self) -> Option<(Block, usize)> {
        match self.memory {
            Memory::Device { block, ordinal } => Some((block, ordinal)),
            Memory::Host(_) | Memory::Multicast(_) => None,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    pub(crate) fn is_multicast(&self) -> bool {
        matches!(self.memory, Memory::Multicast(_))
    }

    /// The multicast object, if it is one.
    pub(crate) fn multicast(&self) -> Option<&Multicast> {
        match &self.memory {
            Memory::Multicast(object) => Some(object),
            Memory::Device { .. } | Memory::Host(_) => None,
        }
    }

    /// The same, to change.
    pub(crate) fn multicast_mut(&mut self) -> Option<&mut Multicast> {
        match &mut self.memory {
            Memory::Multicast(object) => Some(object),
            Memory::Device { .. } | Memory::Host(_) => None,
        }
    }
}

/// A multicast object with its first handle.
pub(crate) fn insert_multicast(
    state: &mut State,
    object: Multicast,
    handle_types: CUmemAllocationHandleType,
) -> Key<Physical> {
    let physical = Physical::new(Memory::Multicast(object), handle_types);
    state.physicals.insert(physical)
}

/// Memory has become part of an array, which keeps it.
pub(crate) fn bind(state: &mut State, key: Key<Physical>) -> Answer {
    let physical = state.physicals.get_mut(key);
    physical.ok_or(CUDA_ERROR_INVALID_VALUE)?.bindings += 1;
    Ok(())
}

/// Memory is no longer part of an array.
pub(crate) fn unbind(process: &Process, state: &mut State, key: Key<Physical>) -> Answer {
    if let Some(physical) = state.physicals.get_mut(key) {
        physical.bindings = physical.bindings.saturating_sub(1);
    }
    end_if_unused(process, state, key)
}

/// Addresses without memory, until some is mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reservation {
    bytes: u64,
    shadow: u64,
}

/// All reservations, by their start.
pub(crate) type Reservations = BTreeMap<CUdeviceptr, Reservation>;

pub(crate) fn check_size(bytes: u64) -> Answer {
    if bytes > 0 && bytes.is_multiple_of(GRANULARITY) {
        Ok(())
    } else {
        Err(CUDA_ERROR_INVALID_VALUE)
    }
}

/// `cuMemCreate`.
pub(crate) fn create(
    process: &Process,
    bytes: u64,
    location: Location,
    handle_types: CUmemAllocationHandleType,
    is_tile_pool: bool,
) -> Answer<Key<Physical>> {
    check_size(bytes)?;
    let mut state = process.lock();
    let memory = match location {
        Location::Device(ordinal) => {
            let device = process.devices.get(ordinal);
            let device = device.ok_or(CUDA_ERROR_INVALID_DEVICE)?.index;
            let block = pool::with_reclaim(process, &mut state, |process| {
                process.machine.alloc(device, bytes, AllocKind::Physical)
            })?;
            Memory::Device { block, ordinal }
        }
        Location::Host | Location::HostNode => Memory::Host(HostMemory::create(bytes, location)?),
    };
    Ok(state.physicals.insert(Physical {
        is_tile_pool,
        ..Physical::new(memory, handle_types)
    }))
}

/// Memory for tiles, of which a stretch (start and length in bytes) is to be mapped. `CUDA_ERROR_INVALID_VALUE`: it is not made for that,
/// is another device's, or has no such stretch.
pub(crate) fn tile_pool(
    state: &State,
    handle: CUmemGenericAllocationHandle,
    device: usize,
    (start, bytes): (u64, u64),
) -> Answer<(Key<Physical>, Block)> {
    let key = find(state, handle)?;
    let physical = state.physicals.get(key).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let fits = |block: &Block| {
        let end = start.checked_add(bytes);
        start.is_multiple_of(TILE_BYTES) && end.is_some_and(|end| end <= block.bytes)
    };
    match physical.memory {
        Memory::Device { block, ordinal }
            if physical.is_tile_pool && ordinal == device && fits(&block) =>
        {
            Ok((key, block))
        }
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// `cuMemExportToShareableHandle`: a descriptor that keeps the memory as long as a copy of it is open.
pub(crate) fn export(
    process: &Process,
    handle: CUmemGenericAllocationHandle,
    handle_type: CUmemAllocationHandleType,
) -> Answer<OwnedFd> {
    let state = process.lock();
    let physical = state.physicals.get(find(&state, handle)?);
    let allowed = |physical: &&Physical| physical.handle_types & handle_type != 0;
    let physical = physical.filter(allowed).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let what = match &physical.memory {
        Memory::Device { block, .. } => Exported::Block(block.id),
        Memory::Host(memory) => return memory.export(),
        Memory::Multicast(object) => object.exported(),
    };
    process.machine.export(what).map_err(refused)
}

/// `cuMemImportFromShareableHandle`: one more handle, of memory that this process may have known before.
pub(crate) fn import(process: &Process, descriptor: BorrowedFd) -> Answer<Key<Physical>> {
    let mut state = process.lock();
    if let Some(memory) = HostMemory::import(descriptor)? {
        return Ok(import_host(&mut state, memory));
    }
    match process.machine.import(descriptor).map_err(refused)? {
        Imported::Block(block) => import_block(process, &mut state, block),
        Imported::Multicast(object) => import_multicast(&mut state, object),
        Imported::Pool { .. } => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// One more handle of what this process knows already, if it does.
fn known(state: &mut State, is_it: impl Fn(&Memory) -> bool) -> Option<Key<Physical>> {
    let mut physicals = state.physicals.iter_mut();
    let (key, known) = physicals.find(|(_, known)| is_it(&known.memory))?;
    known.handles = known.handles.saturating_add(1);
    Some(key)
}

/// A handle of a block that this process has just got hold of.
fn import_block(process: &Process, state: &mut State, block: Block) -> Answer<Key<Physical>> {
    if let Some(key) = known(state, |memory| memory.is_block(block.id)) {
        process.machine.free(block.id).map_err(refused)?;
        return Ok(key);
    }
    let device = process
        .devices
        .iter()
        .position(|device| device.index == block.device);
    let Some(ordinal) = device else {
        process.machine.free(block.id).map_err(refused)?;
        return Err(CUDA_ERROR_INVALID_DEVICE);
    };
    let memory = Memory::Device { block, ordinal };
    let handle_types = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    Ok(state.physicals.insert(Physical::new(memory, handle_types)))
}

/// A handle of a multicast object that this process has just got hold of.
fn import_multicast(state: &mut State, object: client::Multicast) -> Answer<Key<Physical>> {
    let is_it = |memory: &Memory| matches!(memory, Memory::Multicast(known) if known.is(&object));
    if let Some(key) = known(state, is_it) {
        return Ok(key);
    }
    let handle_types = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    let object = Multicast::new(object)?;
    Ok(insert_multicast(state, object, handle_types))
}

/// One more handle of host memory that came from a descriptor.
fn import_host(state: &mut State, memory: HostMemory) -> Key<Physical> {
    let is_it = |known: &Memory| matches!(known, Memory::Host(known) if known.is(&memory));
    if let Some(key) = known(state, is_it) {
        return key;
    }
    let handle_types = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    let physical = Physical::new(Memory::Host(memory), handle_types);
    state.physicals.insert(physical)
}

/// The memory behind a handle, which is a number. Memory that is only mapped or bound has none.
pub(crate) fn find(state: &State, handle: CUmemGenericAllocationHandle) -> Answer<Key<Physical>> {
    let address = usize::try_from(handle).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    let key =
        Key::of(std::ptr::without_provenance_mut::<()>(address)).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let physical = state.physicals.get(key);
    physical
        .filter(|physical| physical.handles > 0)
        .map(|_| key)
        .ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// `cuMemRelease`: memory that is mapped stays until it is not.
pub(crate) fn release(process: &Process, handle: CUmemGenericAllocationHandle) -> Answer {
    let mut state = process.lock();
    let key = find(&state, handle)?;
    let physical = state
        .physicals
        .get_mut(key)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    physical.handles = physical
        .handles
        .checked_sub(1)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    end_if_unused(process, &mut state, key)
}

/// `cuMemRetainAllocationHandle`: one more handle for what is mapped here.
pub(crate) fn retain(process: &Process, address: CUdeviceptr) -> Answer<Key<Physical>> {
    let mut state = process.lock();
    let Some(Backing::Mapped { physical, .. }) =
        state.book.find(address).map(|range| range.backing)
    else {
        return Err(CUDA_ERROR_INVALID_VALUE);
    };
    let owner = state
        .physicals
        .get_mut(physical)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    owner.handles = owner.handles.saturating_add(1);
    Ok(physical)
}

fn end_if_unused(process: &Process, state: &mut State, key: Key<Physical>) -> Answer {
    let is_used = state
        .physicals
        .get(key)
        .is_some_and(|physical| physical.handles + physical.mappings + physical.bindings > 0);
    let ended = if is_used {
        None
    } else {
        state.physicals.remove(key)
    };
    match ended.map(|physical| physical.memory) {
        Some(Memory::Device { block, .. }) => process.machine.free(block.id).map_err(refused),
        // What has no block of the device goes with its value.
        Some(Memory::Host(_) | Memory::Multicast(_)) | None => Ok(()),
    }
}

/// `cuMemAddressReserve`.
pub(crate) fn reserve_addresses(
    process: &Process,
    bytes: u64,
    alignment: u64,
) -> Answer<CUdeviceptr> {
    check_size(bytes)?;
    if alignment != 0 && !alignment.is_power_of_two() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let start = reserve(bytes, alignment.max(GRANULARITY))?;
    let shadow = reserve(bytes, GRANULARITY)?;
    process
        .lock()
        .reservations
        .insert(start, Reservation { bytes, shadow });
    Ok(start)
}

/// `cuMemAddressFree`: a whole reservation, without mappings. Its addresses are never given out again.
pub(crate) fn free_addresses(process: &Process, start: CUdeviceptr, bytes: u64) -> Answer {
    let mut state = process.lock();
    let is_whole = state
        .reservations
        .get(&start)
        .is_some_and(|reservation| reservation.bytes == bytes);
    if !is_whole || state.book.overlaps(start, bytes) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    state.reservations.remove(&start);
    Ok(())
}

/// Where the shadow of these addresses is, if one reservation has them all.
fn shadow(state: &State, start: CUdeviceptr, bytes: u64) -> Answer<u64> {
    let (first, reservation) = state
        .reservations
        .range(..=start)
        .next_back()
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let offset = start - first;
    let fits = offset
        .checked_add(bytes)
        .is_some_and(|end| end <= reservation.bytes);
    if fits {
        Ok(reservation.shadow + offset)
    } else {
        Err(CUDA_ERROR_INVALID_VALUE)
    }
}

/// `cuMemMap`: all of a physical allocation at addresses that have none yet. It cannot be used until access is set. Waits for the
/// team of a multicast object to be complete.
pub(crate) fn map(
    process: &Process,
    start: CUdeviceptr,
    bytes: u64,
    handle: CUmemGenericAllocationHandle,
) -> Answer {
    multicast::wait_for_team(process, handle)?;
    let mut state = process.lock();
    let key = find(&state, handle)?;
    check_size(bytes)?;
    let shadow = shadow(&state, start, bytes)?;
    let physical = state.physicals.get(key).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    if bytes > physical.memory.bytes() || !start.is_multiple_of(GRANULARITY) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if state.book.overlaps(start, bytes) {
        return Err(CUDA_ERROR_ALREADY_MAPPED);
    }
    let location = physical.location();
    physical.memory.show(process, shadow, bytes)?;
    // Memory of the host is nobody's in particular; the first device stands for it.
    let (device, is_host) = match location {
        Location::Device(ordinal) => (ordinal, false),
        Location::Host | Location::HostNode => (0, true),
    };
    state
        .physicals
        .get_mut(key)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?
        .mappings += 1;
    let backing = Backing::Mapped {
        physical: key,
        shadow,
        access: Access::default(),
        is_host,
    };
    state.book.insert(Range {
        start,
        bytes,
        backing,
        context: None,
        device,
        pool: None,
        id: 0,
        is_global: true,
    });
    Ok(())
}

/// Starts of the mappings that make up these bytes exactly.
fn mappings(state: &State, start: CUdeviceptr, bytes: u64) -> Answer<Vec<CUdeviceptr>> {
    let end = start.checked_add(bytes).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let (mut found, mut at) = (Vec::new(), start);
    while at < end {
        let range = state
            .book
            .find(at)
            .filter(|range| range.start == at && matches!(range.backing, Backing::Mapped { .. }));
        found.push(at);
        at = at.saturating_add(range.ok_or(CUDA_ERROR_INVALID_VALUE)?.bytes);
    }
    if at == end && bytes > 0 {
        Ok(found)
    } else {
        Err(CUDA_ERROR_INVALID_VALUE)
    }
}

/// `cuMemUnmap`: whole mappings, when no work can use them any more.
pub(crate) fn unmap(process: &Process, start: CUdeviceptr, bytes: u64) -> Answer {
    let pending = {
        let state = process.lock();
        mappings(&state, start, bytes)?;
        stream::pending(&state, None)
    };
    stream::wait_all(process, &pending)?;
    let mut state = process.lock();
    for at in mappings(&state, start, bytes)? {
        let range = state
            .book
            .remove(at, |_| true)
            .ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let Backing::Mapped {
            physical,
            shadow,
            is_host,
            ..
        } = range.backing
        else {
            return Err(CUDA_ERROR_INVALID_VALUE);
        };
        hide(shadow, range.bytes)?;
        if is_host {
            hide(range.start, range.bytes)?;
        }
        if let Some(owner) = state.physicals.get_mut(physical) {
            owner.mappings = owner.mappings.saturating_sub(1);
        }
        end_if_unused(process, &mut state, physical)?;
    }
    Ok(())
}

/// `cuMemSetAccess`, for one location. Copies need some access of some location; kernels, which touch nothing, need none.
/// The host reaches its own memory at the addresses themselves, and no device's: `CUDA_ERROR_NOT_SUPPORTED`.
pub(crate) fn set_access(
    process: &Process,
    start: CUdeviceptr,
    bytes: u64,
    user: Location,
    flags: CUmemAccess_flags,
) -> Answer {
    let mut state = process.lock();
    let mappings = mappings(&state, start, bytes)?;
    let is_foreign = |at: &CUdeviceptr| state.book.find(*at).is_some_and(|range| !range.is_host());
    if user.is_host() && mappings.iter().any(is_foreign) {
        return Err(CUDA_ERROR_NOT_SUPPORTED);
    }
    for at in mappings {
        let mut range = *state.book.find(at).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        if let Backing::Mapped {
            access, physical, ..
        } = &mut range.backing
        {
            *access = access.with(user, flags);
            let memory = state.physicals.get(*physical).map(|owner| &owner.memory);
            if let (true, Some(Memory::Host(memory))) = (user.is_host(), memory) {
                share(memory.file(), at, range.bytes, flags)?;
            }
        }
        state.book.replace(range);
    }
    Ok(())
}

/// `cuMemGetAccess`.
pub(crate) fn access(
    process: &Process,
    address: CUdeviceptr,
    user: Location,
) -> Answer<CUmemAccess_flags> {
    let state = process.lock();
    match state.book.find(address).map(|range| range.backing) {
        Some(Backing::Mapped { access, .. }) => Ok(access.of(user)),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}
