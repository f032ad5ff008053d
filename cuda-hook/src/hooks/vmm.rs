//! Virtual memory management: memory is made by `cuMemCreate` and lives as long as a handle or a mapping of it does.
//! References that other processes hold (exported handles) and multicast bindings are not seen here.
#![expect(
    unsafe_code,
    reason = "reads what the driver has written to the caller's out-pointers"
)]

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;

use cuda_sys_stubs::abi::*;
use limiter::units::Bytes;
use parking_lot::Mutex;

use crate::charge;
use crate::entry::Cx;
use crate::hooks::pool;

/// Memory made by `cuMemCreate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Allocation {
    bytes: Bytes,
    device_index: usize,
    handle_count: u64,
    mapping_count: u64,
}

/// The driver may give a released handle's number to the next allocation while the first is still mapped: so allocations have
/// numbers of our own.
type AllocationId = u64;

/// A mapped range of addresses: its size in bytes, and what it maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    bytes: u64,
    allocation: AllocationId,
}

#[derive(Default)]
struct State {
    next_id: AllocationId,
    allocations: HashMap<AllocationId, Allocation>,
    handles: HashMap<CUmemGenericAllocationHandle, AllocationId>,
    mappings: BTreeMap<CUdeviceptr, Mapping>,
}

impl State {
    fn add(&mut self, handle: CUmemGenericAllocationHandle, bytes: Bytes, device_index: usize) {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.allocations.insert(
            id,
            Allocation {
                bytes,
                device_index,
                handle_count: 1,
                mapping_count: 0,
            },
        );
        self.handles.insert(handle, id);
    }

    /// A reference more: to the allocation of the handle, or else, for a handle new to us, to what is mapped at `address`.
    fn retain(&mut self, handle: CUmemGenericAllocationHandle, address: CUdeviceptr) {
        let mapped = || self.mapping_at(address).map(|mapping| mapping.allocation);
        let Some(id) = self.handles.get(&handle).copied().or_else(mapped) else {
            return;
        };
        self.handles.insert(handle, id);
        if let Some(allocation) = self.allocations.get_mut(&id) {
            allocation.handle_count = allocation.handle_count.saturating_add(1);
        }
    }

    /// A reference less. The handle's number is forgotten with its last one.
    fn release(&mut self, handle: CUmemGenericAllocationHandle) -> Option<AllocationId> {
        let id = *self.handles.get(&handle)?;
        let allocation = self.allocations.get_mut(&id)?;
        allocation.handle_count = allocation.handle_count.saturating_sub(1);
        if allocation.handle_count == 0 {
            self.handles.remove(&handle);
        }
        Some(id)
    }

    fn unrelease(&mut self, handle: CUmemGenericAllocationHandle, id: AllocationId) {
        self.handles.insert(handle, id);
        if let Some(allocation) = self.allocations.get_mut(&id) {
            allocation.handle_count = allocation.handle_count.saturating_add(1);
        }
    }

    fn map(&mut self, address: CUdeviceptr, bytes: u64, handle: CUmemGenericAllocationHandle) {
        let Some(&allocation) = self.handles.get(&handle) else {
            return;
        };
        self.insert_mapping(address, Mapping { bytes, allocation });
    }

    fn insert_mapping(&mut self, address: CUdeviceptr, mapping: Mapping) {
        if let Some(allocation) = self.allocations.get_mut(&mapping.allocation) {
            allocation.mapping_count = allocation.mapping_count.saturating_add(1);
            self.mappings.insert(address, mapping);
        }
    }

    /// Takes out the mappings that lie in the range. The driver unmaps whole mappings only.
    fn unmap(&mut self, address: CUdeviceptr, bytes: u64) -> Vec<(CUdeviceptr, Mapping)> {
        let range = address..address.saturating_add(bytes);
        let taken: Vec<_> = self.mappings.extract_if(range, |_, _| true).collect();
        for (_, mapping) in &taken {
            if let Some(allocation) = self.allocations.get_mut(&mapping.allocation) {
                allocation.mapping_count = allocation.mapping_count.saturating_sub(1);
            }
        }
        taken
    }

    fn mapping_at(&self, address: CUdeviceptr) -> Option<Mapping> {
        let (&start, &mapping) = self.mappings.range(..=address).next_back()?;
        (address < start.saturating_add(mapping.bytes)).then_some(mapping)
    }

    /// The allocation, taken out, if nothing refers to it any more.
    fn take_unreferenced(&mut self, id: AllocationId) -> Option<Allocation> {
        let allocation = self.allocations.get(&id)?;
        if allocation.handle_count == 0 && allocation.mapping_count == 0 {
            self.allocations.remove(&id)
        } else {
            None
        }
    }
}

/// What this process holds by virtual memory management.
#[derive(Default)]
pub(crate) struct Vmm(Mutex<State>);

/// Gives back what nothing refers to any more.
fn settle(cx: Cx, ids: impl IntoIterator<Item = AllocationId>) {
    for id in ids {
        let freed = cx.attachment.vmm.0.lock().take_unreferenced(id);
        if let Some(Allocation {
            bytes,
            device_index,
            ..
        }) = freed
        {
            cx.attachment.ledger.uncharge(device_index, bytes);
        }
    }
}

/// `cuMemCreate`: exact, for the size is a multiple of the granularity already. Host memory is not charged.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn create(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: *mut CUmemGenericAllocationHandle,
    size: usize,
    properties: *const CUmemAllocationProp,
) -> CUresult {
    // SAFETY: the caller's promise: null or its properties.
    let device =
        unsafe { properties.as_ref() }.and_then(|properties| pool::device_of(properties.location));
    let Some(device_index) = device.and_then(|device| cx.attachment.device_index(device)) else {
        return call();
    };
    let bytes = Bytes::new(u64::try_from(size).unwrap_or(u64::MAX));
    let Ok(charge) = charge::try_charge(cx, device_index, bytes) else {
        return CUDA_ERROR_OUT_OF_MEMORY;
    };
    let status = call();
    if status == CUDA_SUCCESS {
        // SAFETY: the driver's promise: after success it has written there.
        cx.attachment
            .vmm
            .0
            .lock()
            .add(unsafe { handle.read() }, charge.commit(), device_index);
    }
    status
}

/// `cuMemRetainAllocationHandle`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn retain(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: *mut CUmemGenericAllocationHandle,
    address: *mut c_void,
) -> CUresult {
    let status = call();
    if status == CUDA_SUCCESS {
        let address = u64::try_from(address.addr()).unwrap_or(u64::MAX);
        // SAFETY: the driver's promise: after success it has written there.
        cx.attachment
            .vmm
            .0
            .lock()
            .retain(unsafe { handle.read() }, address);
    }
    status
}

/// `cuMemRelease`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn release(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: CUmemGenericAllocationHandle,
) -> CUresult {
    let released = cx.attachment.vmm.0.lock().release(handle);
    let status = call();
    match released {
        Some(id) if status != CUDA_SUCCESS => cx.attachment.vmm.0.lock().unrelease(handle, id),
        released => settle(cx, released),
    }
    status
}

/// `cuMemMap`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn map(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    address: CUdeviceptr,
    size: usize,
    handle: CUmemGenericAllocationHandle,
) -> CUresult {
    let status = call();
    if status == CUDA_SUCCESS {
        cx.attachment
            .vmm
            .0
            .lock()
            .map(address, u64::try_from(size).unwrap_or(u64::MAX), handle);
    }
    status
}

/// `cuMemUnmap`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn unmap(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    address: CUdeviceptr,
    size: usize,
) -> CUresult {
    let taken = cx
        .attachment
        .vmm
        .0
        .lock()
        .unmap(address, u64::try_from(size).unwrap_or(u64::MAX));
    let status = call();
    if status == CUDA_SUCCESS {
        settle(cx, taken.into_iter().map(|(_, mapping)| mapping.allocation));
    } else {
        let mut state = cx.attachment.vmm.0.lock();
        for (start, mapping) in taken {
            state.insert_mapping(start, mapping);
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 2 << 20;

    fn one() -> State {
        let mut state = State::default();
        state.add(5, Bytes::new(SIZE), 0);
        state
    }

    #[test]
    fn memory_outlives_its_handle_while_it_is_mapped() {
        let mut state = one();
        state.map(0x1000_0000, SIZE, 5);
        let id = state.release(5).unwrap();
        assert_eq!(state.take_unreferenced(id), None, "mapped");
        assert_eq!(state.unmap(0x1000_0000, SIZE).len(), 1);
        assert_eq!(state.take_unreferenced(id).unwrap().bytes, Bytes::new(SIZE));
    }

    #[test]
    fn memory_outlives_its_mapping_while_a_handle_is_held() {
        let mut state = one();
        state.map(0x1000_0000, SIZE, 5);
        let unmapped = state.unmap(0x1000_0000, SIZE);
        let (_, Mapping { allocation, .. }) = unmapped[0];
        assert_eq!(
            state.take_unreferenced(allocation),
            None,
            "the handle is held"
        );
        let id = state.release(5).unwrap();
        assert!(state.take_unreferenced(id).is_some());
    }

    #[test]
    fn a_retained_handle_is_released_twice() {
        let mut state = one();
        state.map(0x1000_0000, SIZE, 5);
        state.retain(5, 0x1000_0000);
        state.unmap(0x1000_0000, SIZE);
        let id = state.release(5).unwrap();
        assert_eq!(state.take_unreferenced(id), None);
        assert_eq!(state.release(5), Some(id));
        assert!(state.take_unreferenced(id).is_some());
        assert_eq!(state.release(5), None, "forgotten");
    }

    #[test]
    fn a_released_number_may_name_the_next_allocation() {
        let mut state = one();
        state.map(0x1000_0000, SIZE, 5);
        let first = state.release(5).unwrap();
        state.add(5, Bytes::new(2 * SIZE), 0);
        let second = state.release(5).unwrap();
        assert_eq!(
            state.take_unreferenced(second).unwrap().bytes,
            Bytes::new(2 * SIZE)
        );
        state.unmap(0x1000_0000, SIZE);
        assert_eq!(
            state.take_unreferenced(first).unwrap().bytes,
            Bytes::new(SIZE)
        );
    }

    #[test]
    fn a_handle_got_back_from_a_mapping_holds_the_memory() {
        let mut state = one();
        state.map(0x1000_0000, SIZE, 5);
        let id = state.release(5).unwrap();
        state.retain(9, 0x1000_0000 + SIZE - 1);
        state.unmap(0x1000_0000, SIZE);
        assert_eq!(state.take_unreferenced(id), None);
        assert_eq!(state.release(9), Some(id));
        assert!(state.take_unreferenced(id).is_some());
    }

    #[test]
    fn a_refused_release_leaves_the_reference() {
        let mut state = one();
        let id = state.release(5).unwrap();
        state.unrelease(5, id);
        assert_eq!(state.take_unreferenced(id), None);
        assert_eq!(state.release(5), Some(id));
    }
}
