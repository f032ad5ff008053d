//! Linear device memory: charge, call, commit.
#![expect(
    unsafe_code,
    reason = "reads what the driver has written to the caller's out-pointers"
)]

use cuda_sys_stubs::abi::{CUDA_ERROR_OUT_OF_MEMORY, CUDA_SUCCESS, CUresult};
use limiter::units::Bytes;

use crate::charge;
use crate::entry::Cx;
use crate::hooks::pool;
use crate::live::{Block, Key, Owner};

/// The driver's sizes and pointers: 32 bits in the ABI before CUDA 3.2, 64 since.
pub(crate) trait Word: Copy {
    /// The number.
    fn get(self) -> u64;
    /// The number, or the greatest that fits.
    fn saturating(number: u64) -> Self;
}

impl Word for u32 {
    fn get(self) -> u64 {
        u64::from(self)
    }

    fn saturating(number: u64) -> Self {
        u32::try_from(number).unwrap_or(u32::MAX)
    }
}

impl Word for u64 {
    fn get(self) -> u64 {
        self
    }

    fn saturating(number: u64) -> Self {
        number
    }
}

impl Word for usize {
    fn get(self) -> u64 {
        u64::try_from(self).unwrap_or(u64::MAX)
    }

    fn saturating(number: u64) -> Self {
        usize::try_from(number).unwrap_or(usize::MAX)
    }
}

/// Where a charge goes: a device in the ledger's order, and whose end is the block's end.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The device that will hold the bytes.
    pub(crate) device_index: usize,
    /// Who frees them if nobody else does.
    pub(crate) owner: Owner,
}

impl Place {
    /// The current context, on its device; `None` without one: the driver will say so.
    pub(crate) fn current(cx: Cx) -> Option<Self> {
        let device_index = cx
            .attachment
            .device_index(cx.driver.current_device().ok()?)?;
        let context = cx.driver.current_context().ok()?;
        Some(Self {
            device_index,
            owner: Owner(context.addr()),
        })
    }
}

/// Charges `bytes` at `place`, calls, and keeps the charge for the block that `key` then names.
pub(crate) fn charged(
    cx: Cx,
    place: Place,
    bytes: u64,
    call: impl FnOnce() -> CUresult,
    key: impl FnOnce() -> Key,
) -> CUresult {
    let Place {
        device_index,
        owner,
    } = place;
    let Ok(charge) = charge::try_charge(cx, device_index, Bytes::new(bytes)) else {
        return CUDA_ERROR_OUT_OF_MEMORY;
    };
    let status = call();
    if status == CUDA_SUCCESS {
        let bytes = charge.commit();
        remember(
            cx,
            key(),
            Block {
                bytes,
                device_index,
                owner,
            },
        );
    }
    status
}

/// Records a committed block. An address that was still on record had been freed where we could not see it.
pub(crate) fn remember(cx: Cx, key: Key, block: Block) {
    if let Some(Block {
        bytes,
        device_index,
        ..
    }) = cx.attachment.live.insert(key, block)
    {
        tracing::warn!(?key, "freed unseen");
        cx.attachment.ledger.uncharge(device_index, bytes);
    }
}

/// Takes the block of `key` out, calls, and gives its charge back, or puts it back if the driver refuses.
pub(crate) fn uncharged(cx: Cx, key: Key, call: impl FnOnce() -> CUresult) -> CUresult {
    let taken = cx.attachment.live.take(key);
    let status = call();
    match taken {
        Some(Block {
            bytes,
            device_index,
            ..
        }) if status == CUDA_SUCCESS => {
            cx.attachment.ledger.uncharge(device_index, bytes);
        }
        Some(block) => remember(cx, key, block),
        None => {}
    }
    status
}

/// `cuMemAlloc`, `cuMemAllocManaged`. Managed memory is charged in full although its pages come and go.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn alloc<P: Word>(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    dptr: *mut P,
    bytes: impl Word,
) -> CUresult {
    let Some(place) = Place::current(cx) else {
        return call();
    };
    charged(cx, place, bytes.get(), call, || {
        // SAFETY: the driver's promise: after success it has written there.
        Key::Pointer(unsafe { dptr.read() }.get())
    })
}

/// Rows of a pitched allocation begin at multiples of this at least (`CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT` and
/// the like are no greater), so this much is charged before the true pitch is known.
const PITCH_ALIGNMENT_BYTES: u64 = 512;

/// `cuMemAllocPitch`. The pitch is known only afterwards: what it takes beyond the estimate is charged then, and if the
/// quota has no room for that, the allocation is undone.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn alloc_pitch<P: Word, S: Word>(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    dptr: *mut P,
    pitch: *mut S,
    width_bytes: S,
    height: S,
) -> CUresult {
    let Some(place) = Place::current(cx) else {
        return call();
    };
    let (width_bytes, height) = (width_bytes.get(), height.get());
    let row_bytes = width_bytes
        .checked_next_multiple_of(PITCH_ALIGNMENT_BYTES)
        .unwrap_or(u64::MAX);
    // SAFETY: the driver's promise: after success it has written there.
    let written = || unsafe { (dptr.read().get(), pitch.read().get()) };
    let status = charged(cx, place, row_bytes.saturating_mul(height), call, || {
        Key::Pointer(written().0)
    });
    if status != CUDA_SUCCESS {
        return status;
    }
    let (pointer, pitch_bytes) = written();
    if settle(
        cx,
        Key::Pointer(pointer),
        Bytes::new(pitch_bytes.saturating_mul(height)),
    ) {
        return CUDA_SUCCESS;
    }
    let undone = uncharged(cx, Key::Pointer(pointer), || cx.driver.free(pointer));
    if undone == CUDA_SUCCESS {
        CUDA_ERROR_OUT_OF_MEMORY
    } else {
        undone
    }
}

/// Corrects the charge of a block to what it turned out to take; `false` if the quota has no room for the rest of it.
pub(crate) fn settle(cx: Cx, key: Key, exact: Bytes) -> bool {
    let ledger = &cx.attachment.ledger;
    // Not there: another thread has freed it already.
    let Some(block) = cx.attachment.live.take(key) else {
        return true;
    };
    let Block {
        bytes,
        device_index,
        ..
    } = block;
    let (missing, excess) = (
        exact.get().saturating_sub(bytes.get()),
        bytes.get().saturating_sub(exact.get()),
    );
    let settled = match charge::try_charge(cx, device_index, Bytes::new(missing)) {
        Ok(charge) => {
            charge.commit();
            ledger.uncharge(device_index, Bytes::new(excess));
            true
        }
        Err(_) => false,
    };
    remember(
        cx,
        key,
        Block {
            bytes: if settled { exact } else { bytes },
            ..block
        },
    );
    settled
}

/// `cuMemFree`. A pointer that is not on record is the driver's affair.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn free(cx: Cx, call: impl FnOnce() -> CUresult, dptr: u64) -> CUresult {
    pool::freed(cx, dptr, call)
}
