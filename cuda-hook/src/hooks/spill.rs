//! Allocations past the container's guarantee that become managed memory, on the host: `spill`.
//!
//! Which of the two functions of the driver is called is decided before either is. What is spilled is charged to the quota apart from
//! what lies on the device; everything else about the block is as of any other.
#![expect(
    unsafe_code,
    reason = "reads what the driver has written to the caller's out-pointers"
)]

use cuda_sys_stubs::abi::{CUDA_ERROR_OUT_OF_MEMORY, CUDA_SUCCESS, CUdeviceptr, CUresult};
use limiter::ledger::Bound;
use limiter::units::Bytes;

use crate::charge;
use crate::driver::Managed;
use crate::entry::Cx;
use crate::hooks::memory::{self, Place, Word};
use crate::live::Key;
use crate::thread::Thread;

/// `cuMemAlloc`, where it may be answered with managed memory.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn alloc(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    dptr: *mut CUdeviceptr,
    bytes: usize,
) -> CUresult {
    let Some(place) = Place::current(cx) else {
        return call();
    };
    // SAFETY: the driver's promise: after success it has written there.
    let key = || Key::Pointer(unsafe { dptr.read() });
    let size = Bytes::new(bytes.get());
    if let Some(charge) = charge::at_once(cx, place.device_index, size) {
        return memory::keep(cx, place, charge, call, key);
    }
    match managed(cx, place) {
        None => memory::charged_at_last(cx, place, bytes.get(), call, key),
        // SAFETY: as of this hook.
        Some(managed) => unsafe { alloc_or_spill(cx, call, place, managed, (dptr, bytes)) },
    }
}

/// What may be spilled.
///
/// # Safety
/// As [`hooks`](crate::hooks).
#[cold]
unsafe fn alloc_or_spill(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    place: Place,
    managed: Managed<'static>,
    (dptr, bytes): (*mut CUdeviceptr, usize),
) -> CUresult {
    // SAFETY: the driver's promise: after success it has written there.
    let key = || Key::Pointer(unsafe { dptr.read() });
    let size = Bytes::new(bytes.get());
    match charge::try_charge_guaranteed(cx, place.device_index, size) {
        Ok(charge) => return memory::keep(cx, place, charge, call, key),
        Err(over) if over.bound != Bound::Guarantee => return CUDA_ERROR_OUT_OF_MEMORY,
        Err(_) => {}
    }
    let ledger = &cx.attachment.ledger;
    let charge = match ledger.try_spill(place.device_index, size) {
        Ok(charge) => charge,
        Err(over) => {
            Thread::note_over_quota(place.device_index, over);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
    };
    // SAFETY: the caller's out-pointer, and the driver's contract for both functions is the same.
    let allocate = || unsafe { managed.alloc(dptr, bytes) };
    let status = memory::keep(cx, place, charge, allocate, key);
    if status == CUDA_SUCCESS {
        // SAFETY: as of `key`.
        let advised = managed.keep_on_host(unsafe { dptr.read() }, bytes);
        tracing::debug!(bytes, ?advised, "spilled");
    }
    status
}

/// The driver's managed memory for a place; `None` where nothing may spill, or it would not relieve the device.
#[inline]
fn managed(cx: Cx, place: Place) -> Option<Managed<'static>> {
    if !cx.attachment.ledger.may_spill(place.device_index) {
        return None;
    }
    let device = cx.attachment.device(place.device_index)?;
    cx.driver.managed(device)
}
