//! Launches: what is launched, on which stream. When it may go is [`throttle`](crate::throttle)'s to say.
#![expect(unsafe_code, reason = "reads the caller's launch configurations")]

use std::hash::{BuildHasher, Hash};
use std::ptr;

use cuda_sys_stubs::abi::*;
use limiter::price::KernelKey;
use rustc_hash::FxBuildHasher;

use crate::entry::Cx;
use crate::hooks::module;
use crate::throttle::throttled;

/// The stream that a handle of 0 means to most functions: the legacy default stream.
pub(crate) const DEFAULT_STREAM: CUstream = ptr::null_mut();

/// `CU_STREAM_PER_THREAD` of cuda.h: the handle that means this thread's default stream to every function.
const PER_THREAD_STREAM: CUstream = ptr::without_provenance_mut(2);

/// The stream that `stream` means to a `_ptsz` function.
pub(crate) fn per_thread(stream: CUstream) -> CUstream {
    if stream.is_null() {
        PER_THREAD_STREAM
    } else {
        stream
    }
}

/// The stream that `stream` means to a function without that suffix.
pub(crate) fn as_given(stream: CUstream) -> CUstream {
    stream
}

/// Names what is launched, with everything that its duration depends on and that can be seen.
fn key_of(what: impl Hash) -> KernelKey {
    KernelKey(FxBuildHasher.hash_one(what))
}

/// `cuLaunchKernel`, `cuLaunchCooperativeKernel` and, with a block shape set earlier, `cuLaunchGrid`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
#[inline]
pub(crate) unsafe fn kernel(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    function: CUfunction,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    stream: CUstream,
) -> CUresult {
    let key = || key_of((function, (grid, block, shared_bytes)));
    module::launched(cx, || throttled(cx, call, key, stream), function, stream)
}

/// Nothing is to be done about a launch: the function was launched before, and no share is to be kept.
#[inline]
pub(crate) fn is_steady(cx: Cx, function: CUfunction) -> bool {
    let is_unlimited = |device_index| !cx.attachment.share.is_limited(device_index);
    cx.attachment.only_device_index().is_some_and(is_unlimited)
        && cx.attachment.used.is_recent(function)
}

/// `cuLaunchKernelEx`; `stream_of` says what its stream means.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn kernel_ex(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    config: *const CUlaunchConfig,
    function: CUfunction,
    stream_of: fn(CUstream) -> CUstream,
) -> CUresult {
    // SAFETY: the caller's promise: null or its configuration.
    let Some(config) = (unsafe { config.as_ref() }) else {
        return call();
    };
    let grid = [config.gridDimX, config.gridDimY, config.gridDimZ];
    let block = [config.blockDimX, config.blockDimY, config.blockDimZ];
    // SAFETY: as of this hook.
    unsafe {
        kernel(
            cx,
            call,
            function,
            grid,
            block,
            config.sharedMemBytes,
            stream_of(config.hStream),
        )
    }
}

/// `cuGraphLaunch`: a graph is paid for as a whole.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn graph(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    graph: CUgraphExec,
    stream: CUstream,
) -> CUresult {
    throttled(cx, call, || key_of(graph), stream)
}

/// `cuLaunchCooperativeKernelMultiDevice`: one launch on each device, let go when it is this container's turn on all of them.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn multi_device(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    launches: *const CUDA_LAUNCH_PARAMS,
    count: u32,
) -> CUresult {
    if launches.is_null() || count == 0 {
        return call();
    }
    // SAFETY: the caller's promise: that many launches.
    let launches =
        unsafe { std::slice::from_raw_parts(launches, usize::try_from(count).unwrap_or(0)) };
    let nested: Box<dyn FnOnce() -> CUresult + '_> = Box::new(call);
    launches.iter().fold(nested, |inner, launch| {
        let grid = [launch.gridDimX, launch.gridDimY, launch.gridDimZ];
        let block = [launch.blockDimX, launch.blockDimY, launch.blockDimZ];
        let key = move || key_of((launch.function, (grid, block, launch.sharedMemBytes)));
        Box::new(move || {
            let call = || throttled(cx, inner, key, launch.hStream);
            module::launched(cx, call, launch.function, launch.hStream)
        })
    })()
}
