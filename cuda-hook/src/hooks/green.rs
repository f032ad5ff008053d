//! Green contexts: contexts with a part of a device's SMs. Each retains the device's primary context, whose memory it uses.
#![expect(
    unsafe_code,
    reason = "reads what the driver has written to the caller's out-pointers"
)]

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use cuda_sys_stubs::abi::{CUDA_SUCCESS, CUcontext, CUdevice, CUgreenCtx, CUresult};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use crate::entry::Cx;
use crate::hooks::context::{self, Making};
use crate::hooks::measure;

/// The green contexts of this process, and to which primary context each belongs. What was allocated while one was current is
/// the primary one's and outlives it.
#[derive(Default)]
pub(crate) struct Greens {
    primary_by_green: RwLock<FxHashMap<usize, usize>>,
    /// One was made, ever: before, nobody has to look.
    any: AtomicBool,
}

impl Greens {
    /// The context whose end is the end of what was allocated in `context`.
    #[inline]
    pub(crate) fn primary_of(&self, context: usize) -> usize {
        // Whoever allocates in a green context was handed it after it was noted here.
        if !self.any.load(Ordering::Relaxed) {
            return context;
        }
        self.primary_of_one(context)
    }

    #[inline(never)]
    fn primary_of_one(&self, context: usize) -> usize {
        let primary_by_green = self.primary_by_green.read();
        primary_by_green.get(&context).copied().unwrap_or(context)
    }

    fn forget(&self, green: CUcontext) {
        self.primary_by_green.write().remove(&green.addr());
    }

    fn add(&self, green: CUcontext, primary: CUcontext) {
        self.any.store(true, Ordering::Relaxed);
        self.primary_by_green
            .write()
            .insert(green.addr(), primary.addr());
    }

    /// The primary context is gone, and all that was its.
    pub(crate) fn forget_of(&self, primary: CUcontext) {
        self.primary_by_green
            .write()
            .retain(|_, of| *of != primary.addr());
    }
}

/// `cuGreenCtxCreate`: the first use of a device makes its primary context.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn create(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    green: *mut CUgreenCtx,
    device: CUdevice,
) -> CUresult {
    // SAFETY: the driver's promise: after success it has written there.
    let made = || unsafe { green.read() };
    let primary = || cx.driver.primary_context(device).unwrap_or(ptr::null_mut());
    let undo = || cx.driver.destroy_green_context(made());
    let status = if cx.driver.has_primary_context(device) == Ok(false) {
        let making = Making {
            call,
            made: primary,
            undo: |_| undo(),
        };
        context::charged(cx, device, making)
    } else {
        measure::charged(cx, primary(), call, undo)
    };
    if status == CUDA_SUCCESS
        && let Ok(context) = cx.driver.green_context(made())
    {
        cx.attachment.greens.add(context, primary());
    }
    status
}

/// `cuGreenCtxDestroy`: the last user of a primary context takes it along.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn destroy(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    green: CUgreenCtx,
) -> CUresult {
    let own = cx.driver.green_context(green);
    if let Ok(context) = own {
        cx.attachment
            .completion
            .forget_context(&cx.attachment.share, context);
    }
    let primaries: Vec<(CUdevice, CUcontext)> = cx
        .attachment
        .devices()
        .filter_map(|device| Some((device, context::primary(cx, device)?)))
        .collect();
    let then = cx.attachment.context_ends.now();
    let status = call();
    if status == CUDA_SUCCESS {
        if let Ok(context) = own {
            cx.attachment.greens.forget(context);
        }
        for (device, primary) in primaries {
            context::primary_released(cx, device, primary, then);
        }
    }
    status
}
