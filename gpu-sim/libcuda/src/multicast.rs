//! Multicast objects: one stretch of addresses that stands for memory of each device of a team, which several processes can make up
//! together. The device keeps their books ([`gpu_sim::client::Multicast`]).
//!
//! Only kernels broadcast through such addresses, and kernels compute nothing here. So an object keeps the memory that is bound to
//! it, and can be mapped; what is copied to where it is mapped stays in pages of each process's own (PTX ISA, "multimem": any other
//! access to such an address is undefined).
//!
//! Source: cuda.h 13.5, "Multicast Object Management".

use cuda_sys_stubs::abi::*;
use gpu_sim::client;
use gpu_sim::command::{Binding, Block, Exported};

use crate::address::Backing;
use crate::door::Answer;
use crate::host_memory::HostMemory;
use crate::location::Location;
use crate::process::{Process, State, lost, refused};
use crate::table::Key;
use crate::virtual_memory::{self, GRANULARITY, Physical};

/// A multicast object, which a handle stands for as for physical memory.
pub(crate) struct Multicast {
    object: client::Multicast,
    /// Ordinals of the devices that this process added.
    devices: Vec<usize>,
    /// What lies behind the addresses that the object is mapped at.
    pub(crate) pages: HostMemory,
}

impl Multicast {
    pub(crate) fn new(object: client::Multicast) -> Answer<Self> {
        Ok(Self {
            pages: HostMemory::create(object.bytes(), Location::Host)?,
            devices: Vec::new(),
            object,
        })
    }

    /// Whether two values are of one object.
    pub(crate) fn is(&self, object: &client::Multicast) -> bool {
        self.object == *object
    }

    /// What a descriptor of it stands for.
    pub(crate) fn exported(&self) -> Exported {
        Exported::Multicast(self.object.id())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.object.bytes()
    }

    /// The device at which it counts as mapped: the first that this process added, or that it has.
    pub(crate) fn device(&self) -> usize {
        self.devices.first().copied().unwrap_or_default()
    }
}

/// What is to be bound.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// Memory by its handle, from an offset on.
    Handle(CUmemGenericAllocationHandle, u64),
    /// Memory by an address that it is mapped at, or that a pool has it at.
    Address(CUdeviceptr),
}

/// Memory of a device from some byte on.
struct Part {
    block: Block,
    /// Ordinal of the device.
    ordinal: usize,
    offset: u64,
    /// Bytes that there are from there on, as far as it is mapped.
    left: u64,
    /// Whether other processes can get it.
    can_be_shared: bool,
}

impl Part {
    fn of_physical(memory: &Physical, offset: u64, end: u64) -> Answer<Self> {
        let (block, ordinal) = memory.block().ok_or(CUDA_ERROR_INVALID_VALUE)?;
        Ok(Self {
            block,
            ordinal,
            offset,
            left: end.checked_sub(offset).ok_or(CUDA_ERROR_INVALID_VALUE)?,
            can_be_shared: memory.handle_types != 0,
        })
    }
}

impl Bound {
    fn find(self, state: &State) -> Answer<Part> {
        let physical = |key| state.physicals.get(key).ok_or(CUDA_ERROR_INVALID_VALUE);
        let address = match self {
            Self::Handle(handle, offset) => {
                let memory = physical(virtual_memory::find(state, handle)?)?;
                return Part::of_physical(memory, offset, memory.bytes());
            }
            Self::Address(address) => address,
        };
        let range = state.book.find(address).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let offset = address.saturating_sub(range.start);
        match (range.backing, range.pool) {
            (Backing::Mapped { physical: key, .. }, _) => {
                Part::of_physical(physical(key)?, offset, range.bytes)
            }
            (Backing::Device(block) | Backing::Imported { block, .. }, Some(pool)) => {
                let pool = state.pools.get(pool).ok_or(CUDA_ERROR_INVALID_VALUE)?;
                Ok(Part {
                    block,
                    ordinal: range.device,
                    offset,
                    left: range.bytes.saturating_sub(offset),
                    can_be_shared: pool.is_imported || pool.handle_types != 0,
                })
            }
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }
}

/// How many devices an object is for.
fn check_properties(process: &Process, prop: &CUmulticastObjectProp) -> Answer<u32> {
    let has_feature = |device: &crate::process::Device| device.profile.multicast;
    let kinds = CUmemAllocationHandleType::try_from(prop.handleTypes);
    let kinds = kinds.map_err(|_| CUDA_ERROR_NOT_SUPPORTED)?;
    Location::Device(0).check_handle_types(kinds)?;
    if !process.devices.iter().any(has_feature) {
        return Err(CUDA_ERROR_NOT_SUPPORTED);
    }
    let all = u32::try_from(process.machine.devices().len()).unwrap_or(u32::MAX);
    if prop.numDevices == 0 || prop.numDevices > all || prop.flags != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    Ok(prop.numDevices)
}

fn check_aligned(numbers: &[u64]) -> Answer {
    let aligned = numbers
        .iter()
        .all(|number| number.is_multiple_of(GRANULARITY));
    aligned.then_some(()).ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// `cuMulticastGetGranularity`: ours is the same for both options, that of physical memory.
pub(crate) fn granularity(process: &Process, prop: &CUmulticastObjectProp) -> Answer<u64> {
    check_properties(process, prop).map(|_| GRANULARITY)
}

/// `cuMulticastCreate`.
pub(crate) fn create(process: &Process, prop: &CUmulticastObjectProp) -> Answer<Key<Physical>> {
    let size = check_properties(process, prop)?;
    let bytes = u64::try_from(prop.size).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    virtual_memory::check_size(bytes)?;
    let object = process.machine.create_multicast(size, bytes);
    let object = Multicast::new(object.map_err(refused)?)?;
    let handle_types = u32::try_from(prop.handleTypes).map_err(|_| CUDA_ERROR_NOT_SUPPORTED)?;
    let mut state = process.lock();
    Ok(virtual_memory::insert_multicast(
        &mut state,
        object,
        handle_types,
    ))
}

/// What a handle stands for.
fn find(state: &State, handle: CUmemGenericAllocationHandle) -> Answer<&Physical> {
    let key = virtual_memory::find(state, handle)?;
    state.physicals.get(key).ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// The object behind a handle.
fn find_object(state: &State, handle: CUmemGenericAllocationHandle) -> Answer<&Multicast> {
    let object = find(state, handle)?.multicast();
    object.ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// Waits until all devices have been added to an object, by whichever processes. Of any other memory there is nothing to wait for.
pub(crate) fn wait_for_team(process: &Process, handle: CUmemGenericAllocationHandle) -> Answer {
    let completion = {
        let state = process.lock();
        let object = find(&state, handle)?.multicast();
        object.map(|object| object.object.completion())
    };
    let Some((complete, payload)) = completion else {
        return Ok(());
    };
    let waited = process.machine.wait(&complete, payload);
    waited.map(drop).map_err(lost)
}

/// `cuMulticastAddDevice`.
pub(crate) fn add_device(
    process: &Process,
    handle: CUmemGenericAllocationHandle,
    device: CUdevice,
) -> Answer {
    let (ordinal, device) = process.device(device)?;
    if !device.profile.multicast {
        return Err(CUDA_ERROR_NOT_SUPPORTED);
    }
    let mut state = process.lock();
    let key = virtual_memory::find(&state, handle)?;
    let object = state.physicals.get_mut(key);
    let object = object.and_then(Physical::multicast_mut);
    let object = object.ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let added = process
        .machine
        .add_to_multicast(&object.object, device.index);
    added.map_err(refused)?;
    object.devices.push(ordinal);
    Ok(())
}

/// `cuMulticastBindMem`, `cuMulticastBindAddr`: memory of `device`, or of whichever device of the team it lies on. Waits for the team
/// to be complete. What other processes can get is bound to nothing else.
pub(crate) fn bind(
    process: &Process,
    handle: CUmemGenericAllocationHandle,
    device: Option<CUdevice>,
    (offset, bytes): (u64, u64),
    bound: Bound,
) -> Answer {
    let wanted = device.map(|device| process.device(device)).transpose()?;
    wait_for_team(process, handle)?;
    let state = process.lock();
    let memory = bound.find(&state)?;
    check_aligned(&[offset, bytes, memory.offset])?;
    let object = find_object(&state, handle)?;
    let is_kept_here = find(&state, handle)?.handle_types != 0 && !memory.can_be_shared;
    let is_elsewhere = wanted.is_some_and(|(wanted, _)| wanted != memory.ordinal);
    if is_kept_here || is_elsewhere || bytes > memory.left {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let part = Binding {
        device: memory.block.device,
        offset,
        bytes,
    };
    let bound = process
        .machine
        .bind_multicast(&object.object, part, memory.block.id);
    bound.map_err(refused)
}

/// `cuMulticastUnbind`: exactly what one call has bound, in whichever process.
pub(crate) fn unbind(
    process: &Process,
    handle: CUmemGenericAllocationHandle,
    device: CUdevice,
    (offset, bytes): (u64, u64),
) -> Answer {
    let part = Binding {
        device: process.device(device)?.1.index,
        offset,
        bytes,
    };
    let state = process.lock();
    let object = find_object(&state, handle)?;
    let unbound = process.machine.unbind_multicast(&object.object, part);
    unbound.map_err(refused)
}
