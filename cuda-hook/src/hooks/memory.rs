//! Linear device memory: charge, call, commit.
#![expect(
    unsafe_code,
    reason = "reads what the driver has written to the caller's out-pointers"
)]

use std::mem::MaybeUninit;

use cuda_sys_stubs::abi::{CUDA_ERROR_OUT_OF_MEMORY, CUDA_SUCCESS, CUresult};
use limiter::ledger::Charge;
use limiter::units::Bytes;

use crate::charge;
use crate::entry::Cx;
use crate::hooks::pool;
use crate::live::{Block, Freeing, Key, Number, Owner};

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
    #[inline]
    pub(crate) fn current(cx: Cx) -> Option<Self> {
        let context = cx.driver.current_context().ok()?;
        if context.is_null() {
            return None;
        }
        Some(Self {
            device_index: current_device_index(cx)?,
            owner: cx.attachment.owner(context),
        })
    }
}

/// The device of the current context, where there is one. Of a single device nobody need be asked.
#[inline]
pub(crate) fn current_device_index(cx: Cx) -> Option<usize> {
    cx.attachment.only_device_index().or_else(|| {
        let device = cx.driver.current_device().ok()?;
        cx.attachment.device_index(device)
    })
}

/// Charges `bytes` at `place`, calls, and keeps the charge for the block that `key` then names.
#[inline]
pub(crate) fn charged(
    cx: Cx,
    place: Place,
    bytes: u64,
    call: impl FnOnce() -> CUresult,
    key: impl FnOnce() -> Key,
) -> CUresult {
    match charge::at_once(cx, place.device_index, Bytes::new(bytes)) {
        Some(charge) => keep(cx, place, charge, call, key),
        None => charged_at_last(cx, place, bytes, call, key),
    }
}

/// The same where that takes more than a look at the ledger.
#[cold]
pub(crate) fn charged_at_last(
    cx: Cx,
    place: Place,
    bytes: u64,
    call: impl FnOnce() -> CUresult,
    key: impl FnOnce() -> Key,
) -> CUresult {
    match charge::try_charge_beside(cx, place.device_index, Bytes::new(bytes), 0) {
        Ok(charge) => keep(cx, place, charge, call, key),
        Err(_) => CUDA_ERROR_OUT_OF_MEMORY,
    }
}

/// Calls, and keeps the charge for the block that `key` then names.
#[inline]
pub(crate) fn keep(
    cx: Cx,
    place: Place,
    charge: Charge<'_>,
    call: impl FnOnce() -> CUresult,
    key: impl FnOnce() -> Key,
) -> CUresult {
    let status = call();
    if status == CUDA_SUCCESS {
        let residence = charge.residence();
        let block = Block {
            bytes: charge.commit(),
            device_index: place.device_index,
            residence,
            owner: place.owner,
        };
        remember(cx, key(), block);
    }
    status
}

/// Gives the charge of a block back that is on record no more.
#[inline]
pub(crate) fn give_back(cx: Cx, block: Block) {
    let ledger = &cx.attachment.ledger;
    ledger.give_back(block.device_index, block.bytes, block.residence);
}

/// Records a committed block. What was still on record there had been freed. Where the block's context has ended since the call, so
/// has the block.
#[inline(never)]
pub(crate) fn remember(cx: Cx, key: Key, block: Block) {
    let (number, replaced) = cx.attachment.live.insert(key, block);
    let Owner { context, since } = block.owner;
    let is_gone = cx.attachment.context_ends.has_ended(context, since);
    if is_gone || replaced.is_some() {
        let gone = is_gone.then_some((key, number));
        forget(cx, gone, replaced);
    }
}

#[cold]
fn forget(cx: Cx, gone: Option<(Key, Number)>, replaced: Option<Block>) {
    let gone = gone.and_then(|(key, number)| cx.attachment.live.take(key, number));
    for block in replaced.into_iter().chain(gone) {
        tracing::debug!(?block, "freed unseen");
        give_back(cx, block);
    }
}

/// Calls, and gives back what is on record under `key`, if the call succeeds and nobody else has given it back.
#[inline]
pub(crate) fn uncharged(cx: Cx, key: Key, call: impl FnOnce() -> CUresult) -> CUresult {
    let freeing = cx.attachment.live.freeing(key);
    let status = call();
    if status == CUDA_SUCCESS {
        forget_freed(cx, freeing);
    }
    status
}

#[inline(never)]
fn forget_freed(cx: Cx, freeing: Freeing<'_>) {
    if let Some(block) = freeing.take() {
        give_back(cx, block);
    }
}

/// What an out-pointer leads to before a call: where an allocation is undone it is put back, for a driver that refuses writes
/// nothing.
pub(crate) struct Untouched<T> {
    place: *mut T,
    before: MaybeUninit<T>,
}

impl<T> Untouched<T> {
    /// # Safety
    /// `place` is the caller's out-pointer: null, or memory that may be written.
    pub(crate) unsafe fn of(place: *mut T) -> Self {
        let before = if place.is_null() {
            MaybeUninit::uninit()
        } else {
            // SAFETY: the caller's promise. Whether anything was ever written there does not matter.
            unsafe { place.cast::<MaybeUninit<T>>().read() }
        };
        Self { place, before }
    }

    /// Puts it back.
    ///
    /// # Safety
    /// The driver has written there: it is not null.
    pub(crate) unsafe fn put_back(self) {
        // SAFETY: the caller's promise.
        unsafe { self.place.cast::<MaybeUninit<T>>().write(self.before) };
    }
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
    // SAFETY: the caller's promise: its out-pointers.
    let untouched = unsafe { (Untouched::of(dptr), Untouched::of(pitch)) };
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
    if undone != CUDA_SUCCESS {
        return undone;
    }
    // SAFETY: as above.
    unsafe {
        untouched.0.put_back();
        untouched.1.put_back();
    }
    CUDA_ERROR_OUT_OF_MEMORY
}

/// Corrects the charge of a block to what it turned out to take; `false` if the quota has no room for the rest of it.
pub(crate) fn settle(cx: Cx, key: Key, exact: Bytes) -> bool {
    let live = &cx.attachment.live;
    let Some(record) = live.find(key) else {
        return true; // another thread has freed it already
    };
    let Block {
        bytes,
        device_index,
        ..
    } = record.block;
    let missing = Bytes::new(exact.get().saturating_sub(bytes.get()));
    let Ok(charge) = charge::try_charge(cx, device_index, missing) else {
        return false;
    };
    // Where it was freed meanwhile, the rest goes with `charge`.
    if live.resize(key, record, exact) {
        charge.commit();
        let excess = Bytes::new(bytes.get().saturating_sub(exact.get()));
        cx.attachment.ledger.uncharge(device_index, excess);
    }
    true
}

/// `cuMemFree`. A pointer that is not on record is the driver's affair.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn free(cx: Cx, call: impl FnOnce() -> CUresult, dptr: u64) -> CUresult {
    pool::freed(cx, dptr, call)
}
