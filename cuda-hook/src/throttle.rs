//! A launch under a share: a container that is past it waits here until its turn, holding no lock.
//!
//! What is launched on a stream that records into a graph is not run now: it passes, and is paid for when its graph is
//! launched.

use cuda_sys_stubs::abi::*;
use limiter::clock;
use limiter::price::KernelKey;

use crate::completion::Launch;
use crate::config_file;
use crate::entry::Cx;

/// The device that `stream` runs on, in the share's order.
fn device_index(cx: Cx, stream: CUstream) -> Option<usize> {
    cx.attachment.only_device_index().or_else(|| {
        cx.attachment
            .device_index(cx.driver.stream_device(stream).ok()?)
    })
}

/// Calls when it is this container's turn, and watches for the end of what was launched.
#[inline]
pub(crate) fn throttled(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    key: impl FnOnce() -> KernelKey,
    stream: CUstream,
) -> CUresult {
    let Some(device_index) = device_index(cx, stream) else {
        return call();
    };
    if !cx.attachment.share.is_limited(device_index) {
        return call();
    }
    in_turn(cx, call, key(), stream, device_index)
}

#[inline(never)]
fn in_turn(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    key: KernelKey,
    stream: CUstream,
    device_index: usize,
) -> CUresult {
    let share = &cx.attachment.share;
    match cx.driver.is_capturing(stream) {
        // On the legacy stream, while another stream captures: the driver will refuse the launch.
        Ok(true) | Err(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) => return call(),
        Ok(false) | Err(_) => {}
    }
    if !cx.attachment.completion.is_watching(cx) {
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
    let reservation = share.acquire_beside(device_index, key, clock::monotonic(), |now| {
        config_file::look(cx.attachment);
        config_file::next_look(cx.attachment, now)
    });
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
