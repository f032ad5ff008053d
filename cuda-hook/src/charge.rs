//! Charging a quota that this process's own reserves may stand in the way of.
//!
//! Pools and graphs keep memory that nobody uses; a driver whose board is full gives it back before it refuses, and what it has
//! given back meanwhile is only seen when it is asked. So a refusal here comes last.

use limiter::ledger::{Charge, OverQuota};
use limiter::units::Bytes;

use crate::entry::Cx;
use crate::hooks::{graph_memory, pool};

/// Charges `bytes`; where the quota has no room for them, once more after the driver was asked what its pools and graphs still
/// reserve, and once more after what they do not use was given back.
pub(crate) fn try_charge(
    cx: Cx,
    device_index: usize,
    bytes: Bytes,
) -> Result<Charge<'static>, OverQuota> {
    let ledger = &cx.attachment.ledger;
    let again_if = |something_was_held: bool, refusal: OverQuota| {
        if something_was_held {
            ledger.try_charge(device_index, bytes)
        } else {
            Err(refusal)
        }
    };
    ledger
        .try_charge(device_index, bytes)
        .or_else(|refusal| again_if(refresh(cx, device_index), refusal))
        .or_else(|refusal| again_if(trim(cx, device_index), refusal))
        .inspect_err(|refusal| tracing::info!(device_index, "out of quota: {refusal}"))
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
