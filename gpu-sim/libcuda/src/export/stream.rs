//! Streams, and functions that a stream calls.

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

use super::{get, put, put_if, wanted};
use crate::context;
use crate::door::{Answer, NullStream, exports};
use crate::event;
use crate::graph::{self, Operation};
use crate::green;
use crate::host_call::HostCall;
use crate::process::process;
use crate::stream::{self, Kind, Stream};
use crate::table::Key;

fn create(flags: u32, priority: i32) -> Answer<CUstream> {
    let process = process()?;
    let mut state = process.lock();
    let context = context::current(&state)?;
    Ok(stream::create(process, &mut state, context, Kind::Created, flags, priority)?.handle())
}

/// Asks a stream something.
fn with_stream<T>(handle: CUstream, null: NullStream, ask: impl FnOnce(&Stream) -> T) -> Answer<T> {
    let process = process()?;
    let mut state = process.lock();
    let key = stream::resolve(process, &mut state, handle, null)?;
    Ok(ask(stream::get(&state, key)?))
}

fn call(handle: CUstream, null: NullStream, call: HostCall) -> Answer {
    let process = process()?;
    let mut state = process.lock();
    let key = stream::resolve(process, &mut state, handle, null)?;
    graph::perform(process, &mut state, key, Operation::Host(call))
}

/// A number that stands for a pointer.
fn number(data: *mut c_void) -> usize {
    data.expose_provenance()
}

exports! {
    fn cuStreamCreate(phStream: *mut CUstream, Flags: u32) {
        wanted(phStream)?;
        put(phStream, create(Flags, stream::PRIORITY_LEAST)?)
    }
    fn cuStreamCreateWithPriority(phStream: *mut CUstream, flags: u32, priority: i32) {
        wanted(phStream)?;
        put(phStream, create(flags, priority)?)
    }
    fn cuStreamDestroy(hStream: CUstream) {
        stream::destroy(process()?, hStream)
    }
    fn cuStreamDestroy_v2(hStream: CUstream) {
        stream::destroy(process()?, hStream)
    }
    fn cuStreamSynchronize / cuStreamSynchronize_ptsz |null| (hStream: CUstream) {
        stream::synchronize(process()?, hStream, null)
    }
    fn cuStreamQuery / cuStreamQuery_ptsz |null| (hStream: CUstream) {
        stream::query(process()?, hStream, null)
    }
    fn cuStreamWaitEvent / cuStreamWaitEvent_ptsz |null| (hStream: CUstream, hEvent: CUevent, Flags: u32) {
        event::wait_on_stream(process()?, hStream, null, hEvent, Flags)
    }
    fn cuStreamGetFlags / cuStreamGetFlags_ptsz |null| (hStream: CUstream, flags: *mut u32) {
        put(flags, with_stream(hStream, null, |stream| stream.flags)?)
    }
    fn cuStreamGetPriority / cuStreamGetPriority_ptsz |null| (hStream: CUstream, priority: *mut i32) {
        put(priority, with_stream(hStream, null, |stream| stream.priority)?)
    }
    fn cuStreamGetId / cuStreamGetId_ptsz |null| (hStream: CUstream, streamId: *mut u64) {
        put(streamId, with_stream(hStream, null, |stream| stream.gpu.id().0)?)
    }
    fn cuStreamGetCtx / cuStreamGetCtx_ptsz |null| (hStream: CUstream, pctx: *mut CUcontext) {
        put(pctx, with_stream(hStream, null, |stream| stream.context.handle())?)
    }
    fn cuStreamGetCtx_v2 / cuStreamGetCtx_v2_ptsz |null| (hStream: CUstream, pCtx: *mut CUcontext, pGreenCtx: *mut CUgreenCtx) {
        // Of a green context's stream only the green context is told.
        let context = with_stream(hStream, null, |stream| stream.context)?;
        let green = green::of(&process()?.lock(), context);
        put(pCtx, if green.is_some() { std::ptr::null_mut() } else { context.handle() })?;
        put_if(pGreenCtx, green.map_or(std::ptr::null_mut(), Key::handle));
        Ok(())
    }
    fn cuStreamGetDevice / cuStreamGetDevice_ptsz |null| (hStream: CUstream, device: *mut CUdevice) {
        let context = with_stream(hStream, null, |stream| stream.context)?;
        let process = process()?;
        let ordinal = context::get(&process.lock(), context)?.device;
        put(device, CUdevice::try_from(ordinal).map_err(|_| CUDA_ERROR_INVALID_DEVICE)?)
    }
    fn cuStreamGetAttribute / cuStreamGetAttribute_ptsz |null| (hStream: CUstream, attr: CUstreamAttrID, value: *mut CUstreamAttrValue) {
        let priority = with_stream(hStream, null, |stream| stream.priority)?;
        wanted(value)?;
        match attr {
            CU_LAUNCH_ATTRIBUTE_PRIORITY => put(value.cast::<i32>(), priority),
            CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY => put(value.cast::<u32>(), CU_SYNC_POLICY_AUTO),
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }
    fn cuStreamSetAttribute / cuStreamSetAttribute_ptsz |null| (hStream: CUstream, attr: CUstreamAttrID, value: *const CUstreamAttrValue) {
        with_stream(hStream, null, |_| ())?;
        wanted(value.cast_mut())?;
        // Policies that have no effect on the simulated device; a priority is fixed when the stream is made.
        match attr {
            CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY | CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW => Ok(()),
            CU_LAUNCH_ATTRIBUTE_PRIORITY => Err(CUDA_ERROR_NOT_SUPPORTED),
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }
    fn cuStreamCopyAttributes / cuStreamCopyAttributes_ptsz |null| (dst: CUstream, src: CUstream) {
        with_stream(dst, null, |_| ())?;
        with_stream(src, null, |_| ())
    }
    fn cuLaunchHostFunc / cuLaunchHostFunc_ptsz |null| (hStream: CUstream, r#fn: CUhostFn, userData: *mut c_void) {
        let function = r#fn.ok_or(CUDA_ERROR_INVALID_VALUE)?;
        call(hStream, null, HostCall::Function { function, data: number(userData) })
    }
    fn cuLaunchHostFunc_v2 / cuLaunchHostFunc_v2_ptsz |null| (hStream: CUstream, r#fn: CUhostFn, userData: *mut c_void, syncMode: u32) {
        let function = r#fn.ok_or(CUDA_ERROR_INVALID_VALUE)?;
        if syncMode > CU_HOST_TASK_SPINWAIT {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        call(hStream, null, HostCall::Function { function, data: number(userData) })
    }
    fn cuStreamAddCallback / cuStreamAddCallback_ptsz |null| (hStream: CUstream, callback: CUstreamCallback, userData: *mut c_void, flags: u32) {
        let function = callback.filter(|_| flags == 0).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        call(hStream, null, HostCall::StreamCallback { function, stream: hStream.addr(), data: number(userData) })
    }
    fn cuThreadExchangeStreamCaptureMode(mode: *mut CUstreamCaptureMode) {
        process()?;
        let previous = crate::capture::exchange_mode(get(mode)?)?;
        put(mode, previous)
    }
}
