//! Multicast objects: one stretch of addresses that stands for memory of each device of a team.
//!
//! Only kernels broadcast through such addresses, and kernels compute nothing here. So an object keeps the memory that is bound to
//! it, and can be mapped; what is copied to where it is mapped stays in pages of the object's own. Objects are not shared with other
//! processes, so that nobody else completes a team: where the driver would wait for the rest of it, the call is refused.
//!
//! Source: cuda.h 13.5, "Multicast Object Management".

use cuda_sys_stubs::abi::*;

use crate::address::Backing;
use crate::door::Answer;
use crate::host_memory::HostMemory;
use crate::location::Location;
use crate::process::{Process, State};
use crate::table::Key;
use crate::virtual_memory::{self, GRANULARITY, Physical};

/// A multicast object, which a handle stands for as for physical memory.
pub(crate) struct Multicast {
    /// Devices of the team when it is complete.
    size: usize,
    /// Ordinals of those that have been added.
    devices: Vec<usize>,
    bindings: Vec<Binding>,
    /// What lies behind the addresses that the object is mapped at.
    pub(crate) pages: HostMemory,
}

/// Memory of a device in a part of the object.
struct Binding {
    device: usize,
    offset: u64,
    bytes: u64,
    memory: Key<Physical>,
}

impl Multicast {
    /// The first device of a team that is complete; `CUDA_ERROR_ILLEGAL_STATE` as long as it is not.
    pub(crate) fn first_device(&self) -> Answer<usize> {
        let complete = self.devices.len() == self.size;
        let first = self.devices.first().filter(|_| complete);
        first.copied().ok_or(CUDA_ERROR_ILLEGAL_STATE)
    }

    /// The memory that is bound to it.
    pub(crate) fn bound(&self) -> impl Iterator<Item = Key<Physical>> {
        self.bindings.iter().map(|binding| binding.memory)
    }

    fn is_bound(&self, device: usize, offset: u64, bytes: u64) -> bool {
        self.bindings.iter().any(|binding| {
            let end = binding.offset.saturating_add(binding.bytes);
            binding.device == device
                && offset < end
                && binding.offset < offset.saturating_add(bytes)
        })
    }
}

/// What is to be bound.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// Memory by its handle, from an offset on.
    Handle(CUmemGenericAllocationHandle, u64),
    /// Memory by an address that it is mapped at.
    Address(CUdeviceptr),
}

impl Bound {
    /// The memory, the offset in it, and the bytes that there are from there on, as far as it is mapped.
    fn find(self, state: &State) -> Answer<(Key<Physical>, u64, u64)> {
        match self {
            Self::Handle(handle, offset) => {
                let key = virtual_memory::find(state, handle)?;
                let memory = state.physicals.get(key).ok_or(CUDA_ERROR_INVALID_VALUE)?;
                let left = memory.bytes().checked_sub(offset);
                Ok((key, offset, left.ok_or(CUDA_ERROR_INVALID_VALUE)?))
            }
            Self::Address(address) => {
                let range = state.book.find(address).ok_or(CUDA_ERROR_INVALID_VALUE)?;
                let Backing::Mapped { physical, .. } = range.backing else {
                    return Err(CUDA_ERROR_INVALID_VALUE);
                };
                let offset = address.saturating_sub(range.start);
                Ok((physical, offset, range.bytes.saturating_sub(offset)))
            }
        }
    }
}

fn check_properties(process: &Process, prop: &CUmulticastObjectProp) -> Answer<usize> {
    let has_feature = |device: &crate::process::Device| device.profile.multicast;
    if !process.devices.iter().any(has_feature) || prop.handleTypes != 0 {
        return Err(CUDA_ERROR_NOT_SUPPORTED);
    }
    let devices = usize::try_from(prop.numDevices).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    if devices == 0 || devices > process.devices.len() || prop.flags != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    Ok(devices)
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
    let object = Multicast {
        size,
        devices: Vec::new(),
        bindings: Vec::new(),
        pages: HostMemory::create(bytes, Location::Host)?,
    };
    Ok(virtual_memory::insert_multicast(
        &mut process.lock(),
        object,
    ))
}

/// The object behind a handle.
fn find_mut(state: &mut State, handle: CUmemGenericAllocationHandle) -> Answer<&mut Multicast> {
    let key = virtual_memory::find(state, handle)?;
    let object = state.physicals.get_mut(key).and_then(Physical::multicast);
    object.ok_or(CUDA_ERROR_INVALID_VALUE)
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
    let object = find_mut(&mut state, handle)?;
    if object.devices.len() == object.size || object.devices.contains(&ordinal) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    object.devices.push(ordinal);
    Ok(())
}

/// `cuMulticastBindMem`, `cuMulticastBindAddr`: memory of `device`, or of whichever device of the team it lies on.
pub(crate) fn bind(
    process: &Process,
    handle: CUmemGenericAllocationHandle,
    device: Option<CUdevice>,
    (offset, bytes): (u64, u64),
    bound: Bound,
) -> Answer {
    let wanted = device.map(|device| process.device(device)).transpose()?;
    let mut state = process.lock();
    let (key, memory_offset, left) = bound.find(&state)?;
    check_aligned(&[offset, bytes, memory_offset])?;
    let memory = state.physicals.get(key).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let Location::Device(device) = memory.location()? else {
        return Err(CUDA_ERROR_INVALID_VALUE);
    };
    if wanted.is_some_and(|(ordinal, _)| ordinal != device) || memory.is_multicast() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let object = find_mut(&mut state, handle)?;
    object.first_device()?;
    let fits = offset
        .checked_add(bytes)
        .is_some_and(|end| end <= object.pages.bytes);
    if bytes == 0 || bytes > left || !fits || object.is_bound(device, offset, bytes) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if !object.devices.contains(&device) {
        return Err(CUDA_ERROR_INVALID_DEVICE);
    }
    object.bindings.push(Binding {
        device,
        offset,
        bytes,
        memory: key,
    });
    virtual_memory::bind(&mut state, key)
}

/// `cuMulticastUnbind`: exactly what one call has bound.
pub(crate) fn unbind(
    process: &Process,
    handle: CUmemGenericAllocationHandle,
    device: CUdevice,
    (offset, bytes): (u64, u64),
) -> Answer {
    let (device, _) = process.device(device)?;
    let mut state = process.lock();
    let object = find_mut(&mut state, handle)?;
    let is_it = |binding: &Binding| {
        (binding.device, binding.offset, binding.bytes) == (device, offset, bytes)
    };
    let place = object.bindings.iter().position(is_it);
    let binding = object
        .bindings
        .swap_remove(place.ok_or(CUDA_ERROR_INVALID_VALUE)?);
    virtual_memory::unbind(process, &mut state, binding.memory)
}
