//! Memory pools, in stream order. What a pool holds beyond the blocks that are out is not charged: it is released to the
//! device on trim, on synchronisation, or by the pool's threshold, unseen here.
#![expect(
    unsafe_code,
    reason = "reads what the driver has written to the caller's out-pointers"
)]

use std::collections::HashMap;

use cuda_sys_stubs::abi::*;
use parking_lot::Mutex;

use crate::entry::Cx;
use crate::hooks::memory::{self, Place};
use crate::live::{Key, Owner};

/// Where the pools that this process made lie. A pool that is not here is a device's own.
#[derive(Default)]
pub(crate) struct Pools(Mutex<HashMap<usize, CUmemLocation>>);

/// The device that memory at `location` takes room on; `None` for host memory.
pub(crate) fn device_of(location: CUmemLocation) -> Option<CUdevice> {
    match location.type_ {
        CU_MEM_LOCATION_TYPE_DEVICE => Some(location.id),
        // The device stands in the low byte, the locality domain above.
        CU_MEM_LOCATION_TYPE_DEVICE_LOCALITY_DOMAIN => Some(location.id & 0xff),
        _ => None,
    }
}

/// The device that `stream` runs on; `None` without a current context for a default stream.
fn place_on(cx: Cx, stream: CUstream) -> Option<Place> {
    let device = cx.driver.stream_device(stream).ok()?;
    Some(Place {
        device_index: cx.attachment.device_index(device)?,
        owner: Owner::Pool,
    })
}

/// Whether the call only records a graph node, which takes or gives back memory when the graph is launched.
fn is_recorded(cx: Cx, stream: CUstream) -> bool {
    cx.driver.is_capturing(stream).unwrap_or(false)
}

/// `cuMemAllocAsync`: from the current pool of the stream's device.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn alloc(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    dptr: *mut CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    let place = if is_recorded(cx, stream) {
        None
    } else {
        place_on(cx, stream)
    };
    // SAFETY: as of this hook.
    unsafe { alloc_at(cx, call, dptr, bytes, place) }
}

/// `cuMemAllocFromPoolAsync`: where the pool lies.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn alloc_from(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    dptr: *mut CUdeviceptr,
    bytes: usize,
    pool: CUmemoryPool,
    stream: CUstream,
) -> CUresult {
    let location = cx.attachment.pools.0.lock().get(&pool.addr()).copied();
    let place = match location {
        _ if is_recorded(cx, stream) => None,
        None => place_on(cx, stream),
        Some(location) => device_of(location)
            .and_then(|device| cx.attachment.device_index(device))
            .map(|device_index| Place {
                device_index,
                owner: Owner::Pool,
            }),
    };
    // SAFETY: as of this hook.
    unsafe { alloc_at(cx, call, dptr, bytes, place) }
}

/// # Safety
/// As [`hooks`](crate::hooks).
unsafe fn alloc_at(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    dptr: *mut CUdeviceptr,
    bytes: usize,
    place: Option<Place>,
) -> CUresult {
    let Some(place) = place else { return call() };
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    memory::charged(cx, place, bytes, call, || {
        // SAFETY: the driver's promise: after success it has written there.
        Key::Pointer(unsafe { dptr.read() })
    })
}

/// `cuMemFreeAsync`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn free(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    dptr: CUdeviceptr,
    stream: CUstream,
) -> CUresult {
    if is_recorded(cx, stream) {
        return call();
    }
    memory::uncharged(cx, Key::Pointer(dptr), call)
}

/// `cuMemPoolCreate`: remember where the pool lies.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn create(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    pool: *mut CUmemoryPool,
    properties: *const CUmemPoolProps,
) -> CUresult {
    let status = call();
    if status == CUDA_SUCCESS {
        // SAFETY: the driver's promise: after success both are what it has written and read.
        let (pool, location) = unsafe { (pool.read(), (*properties).location) };
        cx.attachment.pools.0.lock().insert(pool.addr(), location);
    }
    status
}

/// `cuMemPoolDestroy`: what is out of the pool stays charged until it is freed.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn destroy(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    pool: CUmemoryPool,
) -> CUresult {
    let taken = cx.attachment.pools.0.lock().remove(&pool.addr());
    let status = call();
    if let (true, Some(location)) = (status != CUDA_SUCCESS, taken) {
        cx.attachment.pools.0.lock().insert(pool.addr(), location);
    }
    status
}
