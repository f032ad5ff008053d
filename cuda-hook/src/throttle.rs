//! A launch under a share: a container that is past it waits here until its turn, holding no lock.
//!
//! What is launched on a stream that records into a graph is not run now: it passes, and is paid for when its graph is
//! launched.

use std::cell::Cell;

use cuda_sys_stubs::abi::*;
use limiter::clock;
use limiter::price::KernelKey;
use limiter::share::{Credit, Share};
use limiter::units::GpuNs;

use crate::completion::Launch;
use crate::config_file;
use crate::entry::Cx;
use crate::in_hand::Place;
use crate::thread::Thread;

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
    let key = key();
    match cx.driver.is_capturing(stream) {
        // On the legacy stream, while another stream captures: the driver will refuse the launch.
        Ok(true) | Err(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) => return call(),
        Ok(false) | Err(_) => {}
    }
    let place = Place::new(
        &cx.attachment.share,
        device_index,
        stream.expose_provenance(),
    );
    match spend(cx, place, key) {
        Some(price) => on_credit(call, place, price),
        None => in_turn(cx, call, key, stream, place),
    }
}

/// Takes the launch off what this thread has in hand; its price, if there was enough.
#[inline]
fn spend(cx: Cx, place: Place, key: KernelKey) -> Option<GpuNs> {
    let spend = |credit: &mut Credit| cx.attachment.share.spend(credit, key);
    Thread::current(|thread| thread.in_hand.with(place, spend))??
}

/// A launch that is paid for already.
#[inline]
fn on_credit(call: impl FnOnce() -> CUresult, place: Place, price: GpuNs) -> CUresult {
    let status = call();
    if status != CUDA_SUCCESS {
        let refund = |credit: &mut Credit| credit.refund(price);
        Thread::current(|thread| thread.in_hand.with(place, refund));
    }
    status
}

/// Keeps what is in hand for the next launch.
fn keep(share: &Share, place: Place, credit: Credit) {
    let left = Thread::current(|thread| thread.in_hand.put(place, credit)).flatten();
    if let Some((of, mut credit)) = left
        && of.is_of(share)
    {
        share.give_back(&mut credit);
    }
}

#[inline(never)]
fn in_turn(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    key: KernelKey,
    stream: CUstream,
    place: Place,
) -> CUresult {
    let share = &cx.attachment.share;
    if !cx.attachment.completion.is_watching(cx) {
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
    let in_hand = Thread::current(|thread| thread.in_hand.take(place)).flatten();
    let Some(mut credit) = in_hand.or_else(|| share.credit(place.device_index)) else {
        return call(); // not a device of the share: not limited
    };
    let looks_at = Cell::new(None);
    let mut reservation = share.acquire_beside(&mut credit, key, clock::monotonic(), |now| {
        config_file::look(cx.attachment);
        let looks_at = cx
            .attachment
            .completion
            .look_while_waiting(cx, &looks_at, now);
        config_file::next_look(cx.attachment, now).min(looks_at)
    });
    let timed = share.should_time(&mut credit, &mut reservation, clock::monotonic());
    keep(share, place, credit);
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
