//! A launch under a share: a container that is past it waits here until its turn, holding no lock.
//!
//! What is launched on a stream that records into a graph is not run now: it passes, and is paid for when its graph is
//! launched.

use cuda_sys_stubs::abi::*;
use limiter::bucket::BURST;
use limiter::clock;
use limiter::price::KernelKey;
use limiter::share::{Admit, Reservation};
use limiter::units::Percent;

use crate::completion::Launch;
use crate::entry::Cx;
use crate::runtime::Attachment;

/// The device that `stream` runs on, in the share's order.
fn device_index(cx: Cx, stream: CUstream) -> Option<usize> {
    cx.attachment.only_device_index().or_else(|| {
        cx.attachment
            .device_index(cx.driver.stream_device(stream).ok()?)
    })
}

/// How much longer than it must a launch waits, once it has to: several may then go at once. A GPU that is given one small
/// kernel at a time by each of its tenants spends its time switching between them, and a launch that stands behind
/// another can be timed more exactly than one that stands alone.
///
/// The bucket lets [`BURST`] through at once after a rest of `BURST / cap`: nothing of the share is lost by a wait that is
/// shorter. Five eighths of that rest are gathered, which is two kernels of up to 1.25 ms; of a large cap, only what is not the
/// container's own time anyway. What remains covers a host that is late.
pub(crate) fn gather_ns(cap: Option<Percent>) -> u64 {
    const GATHER_NS_MAX: u64 = 7_000_000;
    const PART_MAX_THOUSANDTHS: u64 = 62_500;
    let cap = u64::from(cap.unwrap_or(Percent::ALL).thousandths());
    let whole = u64::from(Percent::ALL.thousandths());
    let part = whole.saturating_sub(cap).min(PART_MAX_THOUSANDTHS);
    let gathered = BURST.get().saturating_mul(part).checked_div(cap);
    gathered.unwrap_or(0).min(GATHER_NS_MAX)
}

/// Waits for the container's turn.
fn admitted(cx: Cx, device_index: usize, key: KernelKey) -> Reservation {
    let Attachment { share, .. } = cx.attachment;
    let mut now = clock::monotonic();
    loop {
        match share.admit(device_index, key, now) {
            Admit::Granted(reservation) => return reservation,
            Admit::NotBefore(then) => {
                let then = then.saturating_add_ns(cx.attachment.gather_ns(device_index));
                now = share.wait(device_index, then);
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
    let launch = Launch::begin(cx, stream, key, timed);
    let status = call();
    if status == CUDA_SUCCESS {
        launch.finish(cx, reservation);
    } else {
        launch.abandon(cx);
        share.cancel(reservation);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gathering_container_loses_nothing_of_its_share() {
        for thousandths in (1_000..=100_000).step_by(500) {
            let gathered_ns = gather_ns(Percent::from_thousandths(thousandths));
            let rest_ns = BURST.get() * 100_000 / u64::from(thousandths);
            assert!(
                gathered_ns <= rest_ns * 2 / 3,
                "{thousandths}: {gathered_ns} of {rest_ns}"
            );
        }
    }

    #[test]
    fn who_may_use_nearly_all_of_a_gpu_hardly_gathers() {
        assert!(gather_ns(Percent::from_thousandths(90_000)) < 250_000);
        assert_eq!(gather_ns(None), 0);
    }
}
