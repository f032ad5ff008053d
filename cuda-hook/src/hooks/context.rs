//! The driver's initialisation, and the ends of contexts, which are the ends of everything allocated in them.
#![expect(unsafe_code, reason = "hooks are unsafe on the terms of `hooks`")]

use cuda_sys_stubs::abi::{CUDA_SUCCESS, CUcontext, CUdevice, CUresult};

use crate::entry::{Api, Bare, Cuda, Cx};
use crate::hooks::memory;
use crate::live::{Block, Key, Owner};

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

fn give_back(cx: Cx, taken: Vec<(Key, Block)>) {
    for (
        _,
        Block {
            bytes,
            device_index,
            ..
        },
    ) in taken
    {
        cx.attachment.ledger.uncharge(device_index, bytes);
    }
}

/// Takes out what `gone` names, calls, and gives it back, or puts it back on record if the driver refuses.
fn ended(cx: Cx, call: impl FnOnce() -> CUresult, gone: impl FnMut(&Block) -> bool) -> CUresult {
    let taken = cx.attachment.live.take_all(gone);
    let status = call();
    if status == CUDA_SUCCESS {
        give_back(cx, taken);
    } else {
        for (key, block) in taken {
            memory::remember(cx, key, block);
        }
    }
    status
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
    ended(cx, call, |block| {
        block.owner == Owner::Context(context.addr())
    })
}

/// The primary context of `device`, if it has one.
fn primary(cx: Cx, device: CUdevice) -> Option<CUcontext> {
    let active = cx.driver.has_primary_context(device).ok()?;
    active
        .then(|| cx.driver.primary_context(device).ok())
        .flatten()
}

/// `cuDevicePrimaryCtxReset`: the primary context's memory and, with it, what is out of the device's pools.
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
    let device_index = cx.attachment.device_index(device);
    cx.attachment
        .completion
        .forget_context(&cx.attachment.share, context);
    ended(cx, call, |block| match block.owner {
        Owner::Context(owner) => owner == context.addr(),
        Owner::Pool => Some(block.device_index) == device_index,
    })
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
    let status = call();
    if status == CUDA_SUCCESS && cx.driver.has_primary_context(device) == Ok(false) {
        cx.attachment
            .completion
            .forget_context(&cx.attachment.share, context);
        give_back(
            cx,
            cx.attachment
                .live
                .take_all(|block| block.owner == Owner::Context(context.addr())),
        );
    }
    status
}
