//! What a program is told about its GPU's memory: the quota where it is less than the board.
#![expect(
    unsafe_code,
    reason = "rewrites what the driver has written to the caller's out-pointers"
)]

use cuda_sys_stubs::abi::{CUDA_SUCCESS, CUdevice, CUresult};
use limiter::ledger::MemoryUse;

use crate::charge;
use crate::entry::Cx;
use crate::hooks::memory::{self, Word};

/// Total and free bytes as a container sees them: total = min(quota, physical), free = min(quota − used, physically free).
pub(crate) fn seen(MemoryUse { max, current, .. }: MemoryUse, total: u64, free: u64) -> (u64, u64) {
    let left = max.get().saturating_sub(current.get());
    (total.min(max.get()), free.min(left))
}

/// `cuDeviceTotalMem`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn total_memory<W: Word>(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    bytes: *mut W,
    device: CUdevice,
) -> CUresult {
    let status = call();
    let index = cx.attachment.device_index(device);
    let memory = index.and_then(|index| cx.attachment.ledger.memory_use(index));
    if let (CUDA_SUCCESS, Some(memory)) = (status, memory) {
        // SAFETY: the driver's promise: after success it has written there, or takes null for "not wanted".
        if let Some(bytes) = unsafe { bytes.as_mut() } {
            let (total, _) = seen(memory, bytes.get(), 0);
            *bytes = W::saturating(total);
        }
    }
    status
}

/// `cuMemGetInfo`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
#[inline]
pub(crate) unsafe fn memory_info<W: Word>(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    free: *mut W,
    total: *mut W,
) -> CUresult {
    let status = call();
    if status != CUDA_SUCCESS {
        return status;
    }
    let Some(index) = memory::current_device_index(cx) else {
        return status;
    };
    charge::refresh(cx, index);
    let Some(memory) = cx.attachment.ledger.memory_use(index) else {
        return status;
    };
    // The two may be one, or null where a driver takes that for "not wanted".
    let read = |bytes: *mut W| {
        // SAFETY: the driver's promise: after success it has written to what is not null.
        (!bytes.is_null()).then(|| unsafe { bytes.read() }.get())
    };
    let write = |bytes: *mut W, seen| {
        if !bytes.is_null() {
            // SAFETY: where the driver has written, so may we.
            unsafe { bytes.write(W::saturating(seen)) };
        }
    };
    let [physical_total, physical_free] =
        [total, free].map(|bytes| read(bytes).unwrap_or(u64::MAX));
    let (seen_total, mut seen_free) = seen(memory, physical_total, physical_free);
    if !memory.is_guaranteed
        && let Some(grantable) = charge::grantable(cx, index)
    {
        seen_free = seen_free.min(grantable.get());
    }
    write(total, seen_total);
    write(free, seen_free);
    status
}

#[cfg(test)]
mod tests {
    use limiter::units::Bytes;

    use super::*;

    fn memory(max: u64, current: u64) -> MemoryUse {
        MemoryUse {
            max: Bytes::new(max),
            is_guaranteed: true,
            current: Bytes::new(current),
        }
    }

    #[test]
    fn a_quota_below_the_board_is_what_is_seen() {
        assert_eq!(seen(memory(100, 30), 1000, 900), (100, 70));
    }

    #[test]
    fn a_quota_above_the_board_shows_the_board() {
        assert_eq!(seen(memory(2000, 0), 1000, 900), (1000, 900));
    }

    #[test]
    fn a_neighbour_that_fills_the_board_leaves_less_than_the_quota() {
        assert_eq!(seen(memory(100, 30), 1000, 20), (100, 20));
    }

    #[test]
    fn a_container_over_a_lowered_quota_has_nothing_free() {
        assert_eq!(seen(memory(100, 130), 1000, 900), (100, 0));
    }
}
