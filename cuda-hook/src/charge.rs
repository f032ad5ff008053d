//! Charging a quota that this process's own reserves may stand in the way of.
//!
//! Pools and graphs keep memory that nobody uses; a driver whose board is full gives it back before it refuses, and what it has
//! given back meanwhile is only seen when it is asked. So a refusal here comes last.

use limiter::ledger::{Charge, OverQuota};
use limiter::units::Bytes;

use crate::entry::Cx;
use crate::hooks::{graph_memory, pool};
use crate::reservation::Activity;
use crate::thread::Thread;

/// How often a refusal is put off because other threads' calls are under way. They take microseconds.
const ATTEMPTS_MAX: u32 = 1000;

/// Charges `bytes`; where the quota has no room for them, once more after the driver was asked what its pools and graphs still
/// reserve, and then after what they do not use was given back. What is charged for calls that are under way may be counted twice
/// until they have returned: nobody is refused because of that.
pub(crate) fn try_charge(
    cx: Cx,
    device_index: usize,
    bytes: Bytes,
) -> Result<Charge<'static>, OverQuota> {
    try_charge_beside(cx, device_index, bytes, 0)
}

/// The same in a call that `own` bytes were charged for already.
pub(crate) fn try_charge_beside(
    cx: Cx,
    device_index: usize,
    bytes: Bytes,
    own: u64,
) -> Result<Charge<'static>, OverQuota> {
    let ledger = &cx.attachment.ledger;
    let mut attempt = ledger.try_charge(device_index, bytes);
    if attempt.is_err() && refresh(cx, device_index) {
        attempt = ledger.try_charge(device_index, bytes);
    }
    for _ in 0..ATTEMPTS_MAX {
        if attempt.is_ok() || !trim(cx, device_index) {
            break;
        }
        let before = activity(cx, device_index);
        attempt = ledger.try_charge(device_index, bytes);
        if before.coming <= own && before == activity(cx, device_index) {
            break;
        }
        std::thread::yield_now();
    }
    attempt.inspect_err(|over| Thread::note_over_quota(device_index, *over))
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

/// Asks the driver what its pools and graphs reserve on a device; whether this process was charged for any.
pub(crate) fn refresh(cx: Cx, device_index: usize) -> bool {
    pool::refresh(cx, device_index) | graph_memory::refresh(cx, device_index)
}

/// The same on every device.
pub(crate) fn refresh_all(cx: Cx) {
    for (device_index, _) in cx.attachment.devices().enumerate() {
        refresh(cx, device_index);
    }
}
