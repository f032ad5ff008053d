//! The driver's initialisation; contexts, which take memory themselves; and their ends, which are the ends of everything
//! allocated in them.
#![expect(
    unsafe_code,
    reason = "reads what the driver has written to the caller's out-pointers"
)]

use std::collections::HashMap;

use cuda_sys_stubs::abi::{
    CUDA_ERROR_OUT_OF_MEMORY, CUDA_SUCCESS, CUcontext, CUdevice, CUlimit, CUresult,
};
use limiter::context::Turn;
use limiter::ledger::Residence;
use limiter::units::{Bytes, DeviceUuid};
use parking_lot::Mutex;

use crate::charge;
use crate::driver::Nvml;
use crate::ends::Moment;
use crate::entry::{Api, Bare, Cuda, Cx};
use crate::hooks::{measure, memory, pool, vmm};
use crate::live::{Block, Key};
use crate::runtime;

/// `cuInit`: where limits are in force they are in force before the program's first context, or the driver is not
/// initialised for it.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn init(cx: Bare<Cuda>, call: impl FnOnce() -> CUresult) -> CUresult {
    let status = call();
    if status != CUDA_SUCCESS {
        return status;
    }
    match cx.runtime.attachment(cx.library()) {
        Ok(_) => CUDA_SUCCESS,
        Err(unusable) => {
            unusable.say_once();
            Cuda::UNENFORCEABLE
        }
    }
}

/// Measures what the context takes that is made between its two ends: by what NVML lists as this process's; where it does not
/// list it, by what the whole board holds, which whoever else allocates disturbs.
struct Meter {
    turn: Turn<'static>,
    nvml: &'static Nvml,
    uuid: DeviceUuid,
    used_before: Bytes,
    listed_before: Bytes,
}

impl Meter {
    /// `None` where NVML cannot be asked: then somebody else may measure. `own` is what this process was charged so far.
    fn start(turn: Turn<'static>, uuid: DeviceUuid, own: Bytes) -> Option<Self> {
        let nvml = runtime::get().nvml()?;
        Some(Self {
            turn,
            nvml,
            uuid,
            used_before: nvml.memory_used(uuid)?,
            // Before its first context a process is not listed, although it may hold physical memory.
            listed_before: listed(nvml, uuid).unwrap_or(own),
        })
    }

    fn finish(self) {
        let of_process = listed(self.nvml, self.uuid).map(|after| (self.listed_before, after));
        let of_board = || Some((self.used_before, self.nvml.memory_used(self.uuid)?));
        if let Some((before, after)) = of_process.or_else(of_board) {
            let taken = after.get().saturating_sub(before.get());
            tracing::debug!(taken, "measured what a context takes");
            self.turn.measured(Bytes::new(taken));
        }
    }
}

/// What NVML lists of the GPU's memory as this process's.
fn listed(nvml: &Nvml, uuid: DeviceUuid) -> Option<Bytes> {
    nvml.process_memory(uuid, std::process::id())
}

/// How a context comes about and goes again.
pub(crate) struct Making<C, M, U> {
    /// The program's call.
    pub(crate) call: C,
    /// The context that it made.
    pub(crate) made: M,
    /// Ends it again.
    pub(crate) undo: U,
}

/// Calls what makes a context on `device` and charges what it takes. Where that does not fit into the quota it is not made,
/// or, if only afterwards it is known what it takes, ended again.
pub(crate) fn charged(
    cx: Cx,
    device: CUdevice,
    Making { call, made, undo }: Making<
        impl FnOnce() -> CUresult,
        impl FnOnce() -> CUcontext,
        impl FnOnce(CUcontext) -> CUresult,
    >,
) -> CUresult {
    let attachment = cx.attachment;
    // Not a device, or no quota there.
    let Some((device_index, board)) = attachment
        .device_index(device)
        .filter(|&index| attachment.ledger.limits(index).is_limited())
        .and_then(|index| Some((index, attachment.share.board(index)?)))
    else {
        let status = call();
        if status == CUDA_SUCCESS {
            was_made(cx, made());
        }
        return status;
    };
    let cost = board.context_cost(cx.driver.version().unwrap_or(0));
    let expected = cost.expect();
    let own = attachment.ledger.own(device_index);
    let Ok(charge) = charge::try_charge(cx, device_index, expected.bytes.unwrap_or_default())
    else {
        return CUDA_ERROR_OUT_OF_MEMORY;
    };
    let meter = expected
        .turn
        .zip(attachment.uuid(device_index))
        .and_then(|(turn, uuid)| Meter::start(turn, uuid, own));
    let status = call();
    if status != CUDA_SUCCESS {
        return status;
    }
    let context = made();
    was_made(cx, context);
    let key = Key::Context(context.addr());
    let block = Block {
        bytes: charge.commit(),
        device_index,
        residence: Residence::Device,
        owner: attachment.owner(context),
    };
    memory::remember(cx, key, block);
    attachment.used.context_made();
    let Some(meter) = meter else { return status };
    meter.finish();
    if memory::settle(cx, key, cost.bytes().unwrap_or(block.bytes)) {
        return status;
    }
    match memory::uncharged(cx, key, || undo(context)) {
        CUDA_SUCCESS => CUDA_ERROR_OUT_OF_MEMORY,
        status => status,
    }
}

/// `cuCtxCreate` and its like.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn create(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    context: *mut CUcontext,
    device: CUdevice,
) -> CUresult {
    let making = Making {
        call,
        // SAFETY: the driver's promise: after success it has written there.
        made: || unsafe { context.read() },
        undo: |context| cx.driver.destroy_context(context),
    };
    charged(cx, device, making)
}

/// `cuDevicePrimaryCtxRetain`: the first one makes it.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn retain_primary(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    context: *mut CUcontext,
    device: CUdevice,
) -> CUresult {
    if cx.driver.has_primary_context(device) != Ok(false) {
        return call();
    }
    let making = Making {
        call,
        // SAFETY: as above.
        made: || unsafe { context.read() },
        undo: |_| cx.driver.release_primary_context(device),
    };
    charged(cx, device, making)
}

/// How often contexts were attached to beyond their making.
#[derive(Default)]
pub(crate) struct Attachments(Mutex<HashMap<usize, u64>>);

impl Attachments {
    fn add(&self, context: CUcontext) {
        let mut counts = self.0.lock();
        let count = counts.entry(context.addr()).or_default();
        *count = count.saturating_add(1);
    }

    /// Whether there was one to take back.
    fn remove(&self, context: CUcontext) -> bool {
        let mut counts = self.0.lock();
        let Some(count) = counts.get_mut(&context.addr()) else {
            return false;
        };
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&context.addr());
        }
        true
    }

    fn forget(&self, context: CUcontext) {
        self.0.lock().remove(&context.addr());
    }
}

/// `cuCtxAttach`: the current context ends one `cuCtxDetach` later.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn attach(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    context: *mut CUcontext,
) -> CUresult {
    let status = call();
    if status == CUDA_SUCCESS {
        // SAFETY: the driver's promise: after success it has written there.
        cx.attachment
            .context_attachments
            .add(unsafe { context.read() });
    }
    status
}

/// `cuCtxDetach`: the last one destroys the context.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn detach(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    context: CUcontext,
) -> CUresult {
    if !cx.attachment.context_attachments.remove(context) {
        // SAFETY: as of this hook.
        return unsafe { destroy(cx, call, context) };
    }
    let status = call();
    if status != CUDA_SUCCESS {
        cx.attachment.context_attachments.add(context);
    }
    status
}

/// `cuCtxSetLimit`: stacks, buffers and heaps grow and shrink with it, some of them with the next launch only.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn set_limit(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    limit: CUlimit,
) -> CUresult {
    let (Ok(context), before) = (cx.driver.current_context(), cx.driver.limit(limit)) else {
        return call();
    };
    let status = measure::charged(cx, context, call, || {
        before.map_or_else(|status| status, |value| cx.driver.set_limit(limit, value))
    });
    cx.attachment.used.forget();
    status
}

/// Gives back what is on record as the context's that had this handle until `end`.
fn give_back_until(cx: Cx, end: Moment, context: CUcontext) {
    let is_its = |block: &Block| block.owner.context == context.addr() && block.owner.since < end;
    for (key, block) in cx.attachment.live.take_all(is_its) {
        memory::give_back(cx, block);
        if let Key::Array(array) = key {
            vmm::array_is_gone(cx, array);
        }
    }
}

/// A context was made: what had its handle before has ended, and its end may not be known yet.
fn was_made(cx: Cx, context: CUcontext) {
    let end = cx.attachment.context_ends.made(context.addr());
    give_back_until(cx, end, context);
}

/// The context has ended that had this handle at `then`: what was taken in it is given back, and what was known of it forgotten.
/// What pools reserve may have gone with it.
fn has_ended(cx: Cx, context: CUcontext, then: Moment) {
    let end = cx.attachment.context_ends.ended(context.addr(), then);
    give_back_until(cx, end, context);
    cx.attachment.context_attachments.forget(context);
    cx.attachment.greens.forget_of(context);
    cx.attachment.used.forget();
    charge::refresh_all(cx);
}

/// `cuCtxDestroy`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn destroy(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    context: CUcontext,
) -> CUresult {
    cx.attachment
        .completion
        .forget_context(&cx.attachment.share, context);
    let then = cx.attachment.context_ends.now();
    let status = call();
    if status == CUDA_SUCCESS {
        has_ended(cx, context, then);
    }
    status
}

/// The primary context of `device`, if it has one.
pub(crate) fn primary(cx: Cx, device: CUdevice) -> Option<CUcontext> {
    let active = cx.driver.has_primary_context(device).ok()?;
    active
        .then(|| cx.driver.primary_context(device).ok())
        .flatten()
}

/// `cuDevicePrimaryCtxReset`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn reset_primary(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    device: CUdevice,
) -> CUresult {
    let Some(context) = primary(cx, device) else {
        return call();
    };
    cx.attachment
        .completion
        .forget_context(&cx.attachment.share, context);
    let then = cx.attachment.context_ends.now();
    let status = call();
    if status == CUDA_SUCCESS {
        primary_ended(cx, device, context, then);
    }
    status
}

/// The primary context of `device` has ended, and what pools have out there may have with it.
fn primary_ended(cx: Cx, device: CUdevice, context: CUcontext, then: Moment) {
    if let Some(device_index) = cx.attachment.device_index(device) {
        pool::primary_ended(cx, device_index);
    }
    has_ended(cx, context, then);
}

/// The primary context of `device` was released that was there at `then`: if it is gone, so is what was allocated in it.
pub(crate) fn primary_released(cx: Cx, device: CUdevice, context: CUcontext, then: Moment) {
    if cx.driver.has_primary_context(device) != Ok(false) {
        return;
    }
    cx.attachment
        .completion
        .forget_context(&cx.attachment.share, context);
    primary_ended(cx, device, context, then);
}

/// `cuDevicePrimaryCtxRelease`: the last release destroys the context, and only afterwards is it known to have been the last.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn release_primary(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    device: CUdevice,
) -> CUresult {
    let Some(context) = primary(cx, device) else {
        return call();
    };
    let then = cx.attachment.context_ends.now();
    let status = call();
    if status == CUDA_SUCCESS {
        primary_released(cx, device, context, then);
    }
    status
}
