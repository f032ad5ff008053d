//! A launch under a share: a container that is past it waits here, exactly as long as needed, holding no lock.
//!
//! What is launched on a stream that records into a graph is not run now: it passes, and is paid for when its graph is
//! launched.

use cuda_sys_stubs::abi::*;
use limiter::clock;
use limiter::price::KernelKey;
use limiter::share::{Admit, Reservation};

use crate::completion::Launch;
use crate::entry::Cx;

/// The device that `stream` runs on, in the share's order.
fn device_index(cx: Cx, stream: CUstream) -> Option<usize> {
    cx.attachment.only_device_index().or_else(|| {
        cx.attachment
            .device_index(cx.driver.stream_device(stream).ok()?)
    })
}

/// Who must wait waits this much longer, in ns, and then may launch several at once: a GPU that is given one small kernel
/// at a time by each of its tenants spends its time switching between them. Less than what a bucket lets through at once
/// takes to fill at any cap (2 ms), so that nothing of the share is lost by it.
const GATHER_NS: u64 = 1_500_000;

/// Waits for the container's turn.
fn admitted(cx: Cx, device_index: usize, key: KernelKey) -> Reservation {
    let mut now = clock::monotonic();
    loop {
        match cx.attachment.share.admit(device_index, key, now) {
            Admit::Granted(reservation) => return reservation,
            Admit::NotBefore(then) => {
                now = cx
                    .attachment
                    .share
                    .wait(device_index, then.saturating_add_ns(GATHER_NS));
            }
        }
    }
}

/// Calls when it is this container's turn, and watches for the end of what was launched.
pub(crate) fn throttled(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    key: KernelKey,
    stream: CUstream,
) -> CUresult {
    let Some(device_index) = device_index(cx, stream) else {
        return call();
    };
    let share = &cx.attachment.share;
    if !share.is_limited(device_index) {
        return call();
    }
    match cx.driver.is_capturing(stream) {
        // On the legacy stream, while another stream captures: the driver will refuse the launch.
        Ok(true) | Err(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) => return call(),
        Ok(false) | Err(_) => {}
    }
    if !cx.attachment.completion.is_watching(cx) {
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
    let reservation = admitted(cx, device_index, key);
    let timed = share.should_time(device_index, key, clock::monotonic());
    let launch = Launch::begin(cx, stream, timed);
    let status = call();
    if status == CUDA_SUCCESS {
        launch.finish(cx, reservation);
    } else {
        launch.abandon(cx);
        share.cancel(reservation);
    }
    status
}
