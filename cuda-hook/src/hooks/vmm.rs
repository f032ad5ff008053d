//! Virtual memory management: memory is made by `cuMemCreate` and lives as long as anything refers to it: a handle, a mapping, a
//! multicast object, logical endpoint or sparse array that it is bound into, or a descriptor in whoever's hands.
//!
//! Where descriptors are, and when the last is closed, cannot be seen: memory that was exported stays charged until the process
//! ends. What is imported is charged to the process that made it.
#![expect(
    unsafe_code,
    reason = "reads the caller's records and what the driver has written to its out-pointers"
)]

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;
use limiter::units::Bytes;
use parking_lot::Mutex;

use self::references::{Allocation, AllocationId, Holder, References, Spot};
use crate::charge;
use crate::entry::Cx;
use crate::hooks::memory::Word;
use crate::hooks::pool;
use crate::live::Key;

mod references;

/// What this process holds by virtual memory management.
#[derive(Default)]
pub(crate) struct Vmm(Mutex<References>);

/// Gives back what nothing refers to any more.
fn settle(cx: Cx, ids: impl IntoIterator<Item = AllocationId>) {
    let over = cx.attachment.vmm.0.lock().take_unreferenced(ids);
    for allocation in over {
        let ledger = &cx.attachment.ledger;
        ledger.uncharge(allocation.device_index, allocation.bytes);
        if let Some(pool) = allocation.pool {
            pool.let_go(cx);
        }
    }
}

/// Makes the call, and after its success minds what it has done.
fn tracked(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    minds: impl FnOnce(&mut References),
) -> CUresult {
    let status = call();
    if status == CUDA_SUCCESS {
        minds(&mut cx.attachment.vmm.0.lock());
    }
    status
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
    tracked(cx, call, |references| {
        let allocation = Allocation::new(charge.commit(), device_index);
        // SAFETY: the driver's promise: after success it has written there.
        references.add(unsafe { handle.read() }, allocation);
    })
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
    let address = u64::try_from(address.addr()).unwrap_or(u64::MAX);
    tracked(cx, call, |references| {
        // SAFETY: the driver's promise: after success it has written there.
        references.retain(unsafe { handle.read() }, address);
    })
}

/// `cuMulticastCreate`: an object that is known by a handle, and has no memory.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn create_multicast(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: *mut CUmemGenericAllocationHandle,
) -> CUresult {
    tracked(cx, call, |references| {
        // SAFETY: the driver's promise: after success it has written there.
        references.add(unsafe { handle.read() }, Allocation::default());
    })
}

/// `cuMemImportFromShareableHandle`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn import(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: *mut CUmemGenericAllocationHandle,
) -> CUresult {
    tracked(cx, call, |references| {
        // SAFETY: the driver's promise: after success it has written there.
        references.import(unsafe { handle.read() });
    })
}

/// `cuMemExportToShareableHandle`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn export(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: CUmemGenericAllocationHandle,
) -> CUresult {
    tracked(cx, call, |references| {
        if let Some(id) = references.find(handle) {
            references.export(id);
        }
    })
}

/// `cuMemGetHandleForAddressRange`: what its descriptor keeps is mapped memory, or a block, whose record is dropped: its free
/// is not its end.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn export_range(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    address: CUdeviceptr,
    size: usize,
) -> CUresult {
    let mut is_mapped = false;
    let status = tracked(cx, call, |references| {
        is_mapped = references.export_range(address, size.get());
    });
    if status == CUDA_SUCCESS && !is_mapped {
        let block = cx.driver.block_at(address);
        let live = &cx.attachment.live;
        let kept = block.ok().and_then(|start| {
            let key = Key::Pointer(start);
            live.take(key, live.find(key)?.number)
        });
        tracing::debug!(?kept, "charged until the process ends");
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
    let references = &cx.attachment.vmm.0;
    // Of two threads that release one handle only the driver knows which does: each looks before, and takes after its success.
    let id = references.lock().find(handle);
    let status = call();
    if status == CUDA_SUCCESS
        && let Some(id) = id
    {
        references.lock().release(handle, id);
        settle(cx, [id]);
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
    tracked(cx, call, |references| {
        references.map(address, size.get(), handle);
    })
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
    let taken = cx.attachment.vmm.0.lock().unmap(address, size.get());
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

/// Where memory is bound: in which part of a multicast object or an endpoint.
fn spot(cx: Cx, device: Option<CUdevice>, offset: impl Word, size: impl Word) -> Spot {
    Spot::Range {
        device_index: device.and_then(|device| cx.attachment.device_index(device)),
        offset: offset.get(),
        bytes: size.get(),
    }
}

/// What is bound: memory by its handle, or by the address that it is mapped at or that a pool has it at.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// By handle.
    Handle(CUmemGenericAllocationHandle),
    /// By address.
    Address(CUdeviceptr),
}

impl Bound {
    fn find(self, references: &References) -> Option<AllocationId> {
        match self {
            Self::Handle(handle) => references.find(handle),
            Self::Address(address) => references.mapped_at(address),
        }
    }

    /// The pool that has the memory, which stays charged from now on.
    fn keep_pool(self, cx: Cx) -> Option<pool::Kept> {
        match self {
            Self::Handle(_) => None,
            Self::Address(address) => pool::keep(cx, address),
        }
    }
}

/// Makes a call that binds memory, and after its success minds what keeps it. `place` says into what it is bound, and where, of memory
/// on the device of that index.
fn bind(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    bound: Bound,
    place: impl FnOnce(&References, Option<usize>) -> Option<(Holder, Spot)>,
) -> CUresult {
    let pool = bound.keep_pool(cx);
    let status = call();
    if status != CUDA_SUCCESS {
        if let Some(pool) = pool {
            pool.let_go(cx);
        }
        return status;
    }
    let references = &mut *cx.attachment.vmm.0.lock();
    let id = match pool {
        Some(pool) => Some(references.insert(Allocation::of_pool(pool))),
        None => bound.find(references),
    };
    if let Some(id) = id
        && let Some((holder, spot)) = place(references, references.device_index(id))
    {
        references.bind(holder, spot, id);
    }
    status
}

/// `cuMulticastBindMem`, `cuMulticastBindAddr`; without a device, on that which the memory lies on.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn bind_multicast(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    object: CUmemGenericAllocationHandle,
    (device, offset, size): (Option<CUdevice>, usize, usize),
    bound: Bound,
) -> CUresult {
    bind(cx, call, bound, |references, own| {
        let device = device.or_else(|| cx.attachment.device(own?));
        let object = references.find(object)?;
        Some((Holder::Multicast(object), spot(cx, device, offset, size)))
    })
}

/// `cuLogicalEndpointBindMem`, `cuLogicalEndpointBindAddr`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn bind_endpoint(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    endpoint: CUlogicalEndpointId,
    (device, offset, size): (CUdevice, u64, u64),
    bound: Bound,
) -> CUresult {
    bind(cx, call, bound, |_, _| {
        let spot = spot(cx, Some(device), offset, size);
        Some((Holder::Endpoint(endpoint), spot))
    })
}

/// Takes bindings out, calls, and gives back what only they kept, or puts them back if the driver refuses. `None` for `spot`
/// takes all.
fn unbound(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    holder: Option<Holder>,
    spot: Option<Spot>,
) -> CUresult {
    let Some(holder) = holder else { return call() };
    let references = &cx.attachment.vmm.0;
    let taken = match spot {
        Some(spot) => references.lock().unbind(holder, spot),
        None => references.lock().unbind_all(holder),
    };
    let status = call();
    if status == CUDA_SUCCESS {
        settle(cx, taken.into_iter().map(|binding| binding.allocation));
    } else {
        references.lock().rebind(holder, taken);
    }
    status
}

/// `cuMulticastUnbind`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn unbind_multicast(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    object: CUmemGenericAllocationHandle,
    (device, offset, size): (CUdevice, usize, usize),
) -> CUresult {
    let object = cx.attachment.vmm.0.lock().find(object);
    let spot = spot(cx, Some(device), offset, size);
    unbound(cx, call, object.map(Holder::Multicast), Some(spot))
}

/// `cuLogicalEndpointUnbind`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn unbind_endpoint(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    endpoint: CUlogicalEndpointId,
    (device, offset, size): (CUdevice, u64, u64),
) -> CUresult {
    let spot = spot(cx, Some(device), offset, size);
    unbound(cx, call, Some(Holder::Endpoint(endpoint)), Some(spot))
}

/// `cuLogicalEndpointDestroy`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn destroy_endpoint(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    endpoint: CUlogicalEndpointId,
) -> CUresult {
    unbound(cx, call, Some(Holder::Endpoint(endpoint)), None)
}

/// The end of an array or mipmapped array by `call`, and of what is bound into it.
pub(crate) fn array_ended(cx: Cx, call: impl FnOnce() -> CUresult, array: usize) -> CUresult {
    unbound(cx, call, Some(Holder::Array(array)), None)
}

/// The same of one that has ended with its context.
pub(crate) fn array_is_gone(cx: Cx, array: usize) {
    array_ended(cx, || CUDA_SUCCESS, array);
}

/// What an operation on a sparse array is about: the array, and the part of it.
///
/// # Safety
/// The members of the unions that their types name are the valid ones.
unsafe fn part_of(operation: &CUarrayMapInfo) -> (Holder, Spot) {
    let is_mipmap = operation.resourceType == CU_RESOURCE_TYPE_MIPMAPPED_ARRAY;
    let is_miptail = operation.subresourceType == CU_ARRAY_SPARSE_SUBRESOURCE_TYPE_MIPTAIL;
    // SAFETY: the caller's promise.
    let array = unsafe {
        if is_mipmap {
            operation.resource.mipmap.addr()
        } else {
            operation.resource.array.addr()
        }
    };
    let tile = if is_miptail {
        // SAFETY: the caller's promise.
        let tail = unsafe { operation.subresource.miptail };
        [1, tail.layer.into(), tail.offset, tail.size, 0, 0, 0, 0, 0]
    } else {
        // SAFETY: the caller's promise.
        let [level, layer, x, y, z, width, height, depth] =
            unsafe { operation.subresource.sparseLevel }.map(u64::from);
        [0, level, layer, x, y, z, width, height, depth]
    };
    (Holder::Array(array), Spot::Tile(tile))
}

/// `cuMemMapArrayAsync`. A part that is mapped anew, or unmapped, keeps what it had no longer; only the very same part counts as
/// that, all others keep theirs until the array ends.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn map_array(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    operations: *const CUarrayMapInfo,
    count: u32,
) -> CUresult {
    if operations.is_null() {
        return call();
    }
    let length = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller's promise: that many operations.
    let operations = unsafe { std::slice::from_raw_parts(operations, length) };
    let mut left = Vec::new();
    let status = tracked(cx, call, |references| {
        for operation in operations {
            // SAFETY: the caller's promise, which the driver has taken.
            let (holder, spot) = unsafe { part_of(operation) };
            let is_mapped = operation.memOperationType == CU_MEM_OPERATION_TYPE_MAP;
            left.extend(references.unbind(holder, spot));
            if let Some(id) = references.find(operation.memHandle).filter(|_| is_mapped) {
                references.bind(holder, spot, id);
            }
        }
    });
    settle(cx, left.into_iter().map(|binding| binding.allocation));
    status
}
