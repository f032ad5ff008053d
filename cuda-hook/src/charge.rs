//! Charging a quota that this process's own reserves may stand in the way of.
//!
//! Pools and graphs keep memory that nobody uses; a driver whose board is full gives it back before it refuses, and what it has
//! given back meanwhile is only seen when it is asked. So a refusal here comes last.

use limiter::ledger::{Bound, Charge, OverQuota};
use limiter::lending::Physical;
use limiter::units::Bytes;

use crate::entry::Cx;
use crate::hooks::{graph_memory, pool};
use crate::reservation::Activity;
use crate::runtime;
use crate::thread::Thread;

/// How often a refusal is put off because other threads' calls are under way. They take microseconds.
const ATTEMPTS_MAX: u32 = 1000;

/// What is to be charged.
#[derive(Clone, Copy)]
struct Wanted {
    device_index: usize,
    bytes: Bytes,
    /// So many bytes were charged for the same call already.
    own: u64,
    /// Whether what is past the container's guarantee may be borrowed.
    may_borrow: bool,
}

/// Charges `bytes`; where the quota has no room for them, once more after the driver was asked what its pools and graphs still
/// reserve, and then after what they do not use was given back. What is charged for calls that are under way may be counted twice
/// until they have returned: nobody is refused because of that.
#[inline]
pub(crate) fn try_charge(
    cx: Cx,
    device_index: usize,
    bytes: Bytes,
) -> Result<Charge<'static>, OverQuota> {
    match at_once(cx, device_index, bytes) {
        Some(charge) => Ok(charge),
        None => try_charge_beside(cx, device_index, bytes, 0),
    }
}

/// The same if there is room and nobody to be asked; `None`: [`try_charge`] may still do it, or says why not.
#[inline]
pub(crate) fn at_once(cx: Cx, device_index: usize, bytes: Bytes) -> Option<Charge<'static>> {
    let ledger = &cx.attachment.ledger;
    ledger.try_charge_at_once(device_index, bytes)
}

/// The same within what is guaranteed: nothing is borrowed.
pub(crate) fn try_charge_guaranteed(
    cx: Cx,
    device_index: usize,
    bytes: Bytes,
) -> Result<Charge<'static>, OverQuota> {
    let wanted = Wanted {
        device_index,
        bytes,
        own: 0,
        may_borrow: false,
    };
    insist(cx, wanted)
}

/// The same in a call that `own` bytes were charged for already.
pub(crate) fn try_charge_beside(
    cx: Cx,
    device_index: usize,
    bytes: Bytes,
    own: u64,
) -> Result<Charge<'static>, OverQuota> {
    let wanted = Wanted {
        device_index,
        bytes,
        own,
        may_borrow: true,
    };
    insist(cx, wanted)
}

/// Tries, and tries again after each thing that may make room.
fn insist(cx: Cx, wanted: Wanted) -> Result<Charge<'static>, OverQuota> {
    let device_index = wanted.device_index;
    // For what is past the whole quota nothing makes room, and where nothing is kept for later nobody does.
    if let Some(over) = cx.attachment.ledger.over_alone(device_index, wanted.bytes)
        && (over.asked > over.max || !may_reserve(cx))
    {
        Thread::note_over_quota(device_index, over);
        return Err(over);
    }
    let mut attempt = charge_or_borrow(cx, wanted);
    if attempt.is_err() && refresh(cx, device_index) {
        attempt = charge_or_borrow(cx, wanted);
    }
    for _ in 0..ATTEMPTS_MAX {
        if attempt.is_ok() || !trim(cx, device_index) {
            break;
        }
        let before = activity(cx, device_index);
        attempt = charge_or_borrow(cx, wanted);
        if before.coming <= wanted.own && before == activity(cx, device_index) {
            break;
        }
        std::thread::yield_now();
    }
    attempt.inspect_err(|over| Thread::note_over_quota(device_index, *over))
}

/// Charges what is within the container's guarantee, and borrows what is past it, if that is wanted.
fn charge_or_borrow(
    cx: Cx,
    Wanted {
        device_index,
        bytes,
        may_borrow,
        ..
    }: Wanted,
) -> Result<Charge<'static>, OverQuota> {
    match cx.attachment.ledger.try_charge(device_index, bytes) {
        Err(over) if may_borrow && over.bound == Bound::Guarantee => {
            borrow(cx, device_index, bytes, over)
        }
        attempt => attempt,
    }
}

/// How often the driver is asked what is free before nothing is lent: what a neighbour frees meanwhile counts as in use.
const LOOKS_MAX: u32 = 3;

#[cold]
fn borrow(
    cx: Cx,
    device_index: usize,
    bytes: Bytes,
    mut over: OverQuota,
) -> Result<Charge<'static>, OverQuota> {
    let board = cx.attachment.share.board(device_index);
    for _ in 0..LOOKS_MAX {
        let (Some(board), Some(physical)) = (board, physical(cx, device_index)) else {
            break;
        };
        let ledger = &cx.attachment.ledger;
        match ledger.try_borrow(device_index, bytes, board, physical) {
            Err(refusal) if refusal.bound == Bound::Lendable => over = refusal,
            attempt => return attempt,
        }
    }
    Err(over)
}

/// What could be granted on a device where not all of the quota is guaranteed.
#[cold]
pub(crate) fn grantable(cx: Cx, device_index: usize) -> Option<Bytes> {
    let board = cx.attachment.share.board(device_index)?;
    let ledger = &cx.attachment.ledger;
    ledger.grantable(device_index, board, physical(cx, device_index)?)
}

/// A device's memory: as the driver tells it where the device is current, otherwise as NVML does. `None`: nobody tells even how much it is.
fn physical(cx: Cx, device_index: usize) -> Option<Physical> {
    let device = cx.attachment.device(device_index)?;
    if cx.driver.current_device() == Ok(device)
        && let Ok(physical) = cx.driver.memory()
    {
        return Some(physical);
    }
    let of_nvml = || {
        runtime::get()
            .nvml()?
            .memory(cx.attachment.uuid(device_index)?)
    };
    of_nvml().or_else(|| {
        let total = cx.driver.memory_total(device).ok()?;
        Some(Physical { total, free: None })
    })
}

/// What other threads are doing with the driver's pools and graphs on a device.
fn activity(cx: Cx, device_index: usize) -> Activity {
    pool::activity(cx, device_index).and(graph_memory::activity(cx, device_index))
}

/// Has the driver give back what its pools and graphs keep on a device and nobody uses; whether they may keep any.
fn trim(cx: Cx, device_index: usize) -> bool {
    // Both, whatever the first one says.
    pool::trim_all(cx, device_index) | graph_memory::trim_all(cx, device_index)
}

/// Whether any pool or graph of this process was ever seen that may keep memory. Whoever finds that one is charged for, finds this.
#[inline]
fn may_reserve(cx: Cx) -> bool {
    cx.attachment.pools.is_any_known() || cx.attachment.graph_memory.is_any_known()
}

/// Asks the driver what its pools and graphs reserve on a device; whether this process was charged for any.
#[inline]
pub(crate) fn refresh(cx: Cx, device_index: usize) -> bool {
    may_reserve(cx) && refresh_any(cx, device_index)
}

#[inline(never)]
fn refresh_any(cx: Cx, device_index: usize) -> bool {
    pool::refresh(cx, device_index) | graph_memory::refresh(cx, device_index)
}

/// The same on every device.
pub(crate) fn refresh_all(cx: Cx) {
    for (device_index, _) in cx.attachment.devices().enumerate() {
        refresh(cx, device_index);
    }
}
