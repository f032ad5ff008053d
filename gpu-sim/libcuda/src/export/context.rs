//! Contexts and the primary context.

use cuda_sys_stubs::abi::*;

use super::{list, put, put_if, wanted};
use crate::door::{Answer, exports};
use crate::limit;
use crate::process::process;
use crate::stream::{PRIORITY_GREATEST, PRIORITY_LEAST};
use crate::table::Key;
use crate::{abi, context};

/// `cuCtxCreate`: the new context becomes the calling thread's.
fn create(flags: u32, device: CUdevice, api_version: u32) -> Answer<CUcontext> {
    let process = process()?;
    let (ordinal, _) = process.device(device)?;
    let key = context::create(process, &mut process.lock(), ordinal, flags, api_version)?;
    context::push(key);
    Ok(key.handle())
}

fn destroy(handle: CUcontext) -> Answer {
    let process = process()?;
    let key = {
        let state = process.lock();
        let key = context::find(&state, handle)?;
        let context = context::get(&state, key)?;
        if context.is_primary || context.green.is_some() {
            return Err(CUDA_ERROR_INVALID_CONTEXT);
        }
        key
    };
    context::destroy(process, key)?;
    if context::top() == Some(key) {
        context::pop();
    }
    Ok(())
}

/// Takes one use of a context back; how many are left.
fn detach(handle: CUcontext) -> Answer<u32> {
    let mut state = process()?.lock();
    let key = context::find(&state, handle)?;
    let context = state
        .contexts
        .get_mut(key)
        .ok_or(CUDA_ERROR_INVALID_CONTEXT)?;
    context.usage_count = context.usage_count.saturating_sub(1);
    Ok(context.usage_count)
}

fn push(handle: CUcontext) -> Answer {
    context::push(context::find(&process()?.lock(), handle)?);
    Ok(())
}

fn pop() -> Answer<CUcontext> {
    process()?;
    context::pop()
        .map(Key::handle)
        .ok_or(CUDA_ERROR_INVALID_CONTEXT)
}

fn release_primary(device: CUdevice) -> Answer {
    let process = process()?;
    let (ordinal, _) = process.device(device)?;
    context::release_primary(process, ordinal)
}

fn reset_primary(device: CUdevice) -> Answer {
    let process = process()?;
    let (ordinal, _) = process.device(device)?;
    context::reset_primary(process, ordinal)
}

fn set_primary_flags(device: CUdevice, flags: u32) -> Answer {
    let process = process()?;
    let (ordinal, _) = process.device(device)?;
    context::check_flags(flags)?;
    let mut state = process.lock();
    let primary = state
        .primaries
        .get_mut(ordinal)
        .ok_or(CUDA_ERROR_INVALID_DEVICE)?;
    primary.flags = flags;
    if let Some(context) = primary.context.and_then(|key| state.contexts.get_mut(key)) {
        context.flags = flags;
    }
    Ok(())
}

exports! {
    fn cuCtxCreate(pctx: *mut CUcontext, flags: u32, dev: CUdevice) {
        wanted(pctx)?;
        put(pctx, create(flags, dev, abi::NARROW)?)
    }
    fn cuCtxCreate_v2(pctx: *mut CUcontext, flags: u32, dev: CUdevice) {
        wanted(pctx)?;
        put(pctx, create(flags, dev, abi::WIDE)?)
    }
    fn cuCtxCreate_v3(pctx: *mut CUcontext, paramsArray: *mut CUexecAffinityParam, numParams: i32, flags: u32, dev: CUdevice) {
        wanted(pctx)?;
        if numParams != 0 || !paramsArray.is_null() {
            process()?;
            return Err(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY);
        }
        put(pctx, create(flags, dev, abi::WIDE)?)
    }
    fn cuCtxCreate_v4(pctx: *mut CUcontext, ctxCreateParams: *mut CUctxCreateParams, flags: u32, dev: CUdevice) {
        wanted(pctx)?;
        for params in list(ctxCreateParams, usize::from(!ctxCreateParams.is_null()))? {
            if params.numExecAffinityParams != 0 {
                return Err(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY);
            }
            if !params.cigParams.is_null() {
                return Err(CUDA_ERROR_NOT_SUPPORTED);
            }
        }
        put(pctx, create(flags, dev, abi::WIDE)?)
    }
    fn cuCtxDestroy(ctx: CUcontext) {
        destroy(ctx)
    }
    fn cuCtxDestroy_v2(ctx: CUcontext) {
        destroy(ctx)
    }
    fn cuCtxAttach(pctx: *mut CUcontext, flags: u32) {
        let process = process()?;
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let mut state = process.lock();
        let key = context::current(&state)?;
        let context = context::current_mut(&mut state)?;
        context.usage_count = context.usage_count.saturating_add(1);
        put(pctx, key.handle())
    }
    fn cuCtxDetach(ctx: CUcontext) {
        if detach(ctx)? == 0 { destroy(ctx) } else { Ok(()) }
    }
    fn cuCtxPushCurrent(ctx: CUcontext) {
        push(ctx)
    }
    fn cuCtxPushCurrent_v2(ctx: CUcontext) {
        push(ctx)
    }
    fn cuCtxPopCurrent(pctx: *mut CUcontext) {
        put_if(pctx, pop()?);
        Ok(())
    }
    fn cuCtxPopCurrent_v2(pctx: *mut CUcontext) {
        put_if(pctx, pop()?);
        Ok(())
    }
    fn cuCtxSetCurrent(ctx: CUcontext) {
        let process = process()?;
        let key = if ctx.is_null() { None } else { Some(context::find(&process.lock(), ctx)?) };
        context::replace(key);
        Ok(())
    }
    fn cuCtxGetCurrent(pctx: *mut CUcontext) {
        process()?;
        put(pctx, context::top().map_or(std::ptr::null_mut(), Key::handle))
    }
    fn cuCtxGetDevice(device: *mut CUdevice) {
        let process = process()?;
        let state = process.lock();
        let ordinal = context::get(&state, context::current(&state)?)?.device;
        put(device, CUdevice::try_from(ordinal).map_err(|_| CUDA_ERROR_INVALID_DEVICE)?)
    }
    fn cuCtxGetDevice_v2(device: *mut CUdevice, ctx: CUcontext) {
        let process = process()?;
        let state = process.lock();
        let ordinal = context::get(&state, context::find_or_current(&state, ctx)?)?.device;
        put(device, CUdevice::try_from(ordinal).map_err(|_| CUDA_ERROR_INVALID_DEVICE)?)
    }
    fn cuCtxGetFlags(flags: *mut u32) {
        let process = process()?;
        let state = process.lock();
        put(flags, context::get(&state, context::current(&state)?)?.flags)
    }
    fn cuCtxSetFlags(flags: u32) {
        let process = process()?;
        context::check_flags(flags)?;
        context::current_mut(&mut process.lock())?.flags = flags;
        Ok(())
    }
    fn cuCtxGetId(ctx: CUcontext, ctxId: *mut u64) {
        let process = process()?;
        let state = process.lock();
        put(ctxId, context::find_or_current(&state, ctx)?.number())
    }
    fn cuCtxGetApiVersion(ctx: CUcontext, version: *mut u32) {
        let process = process()?;
        let state = process.lock();
        put(version, context::get(&state, context::find_or_current(&state, ctx)?)?.api_version)
    }
    fn cuCtxSynchronize() {
        let process = process()?;
        let key = context::current(&process.lock())?;
        context::synchronize(process, key)
    }
    fn cuCtxSynchronize_v2(ctx: CUcontext) {
        let process = process()?;
        let key = context::find_or_current(&process.lock(), ctx)?;
        context::synchronize(process, key)
    }
    fn cuCtxGetLimit(pvalue: *mut usize, limit: CUlimit) {
        put(pvalue, limit::get(process()?, limit)?)
    }
    fn cuCtxSetLimit(limit: CUlimit, value: usize) {
        limit::set(process()?, limit, value)
    }
    fn cuCtxGetCacheConfig(pconfig: *mut CUfunc_cache) {
        let process = process()?;
        put(pconfig, context::current_mut(&mut process.lock())?.cache_config)
    }
    fn cuCtxSetCacheConfig(config: CUfunc_cache) {
        let process = process()?;
        if config > CU_FUNC_CACHE_PREFER_EQUAL {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        context::current_mut(&mut process.lock())?.cache_config = config;
        Ok(())
    }
    fn cuCtxGetSharedMemConfig(pConfig: *mut CUsharedconfig) {
        let process = process()?;
        put(pConfig, context::current_mut(&mut process.lock())?.shared_config)
    }
    fn cuCtxSetSharedMemConfig(config: CUsharedconfig) {
        let process = process()?;
        if config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        context::current_mut(&mut process.lock())?.shared_config = config;
        Ok(())
    }
    fn cuCtxGetStreamPriorityRange(leastPriority: *mut i32, greatestPriority: *mut i32) {
        let process = process()?;
        context::current(&process.lock())?;
        put_if(leastPriority, PRIORITY_LEAST);
        put_if(greatestPriority, PRIORITY_GREATEST);
        Ok(())
    }
    fn cuCtxResetPersistingL2Cache() {
        context::current(&process()?.lock()).map(drop)
    }
    fn cuCtxEnablePeerAccess(peerContext: CUcontext, Flags: u32) {
        let process = process()?;
        let mut state = process.lock();
        let (peer, own) = (context::find(&state, peerContext)?, context::current(&state)?);
        if Flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        if context::get(&state, peer)?.device == context::get(&state, own)?.device {
            return Err(CUDA_ERROR_INVALID_CONTEXT);
        }
        let is_new = context::current_mut(&mut state)?.peers.insert(peer);
        if is_new { Ok(()) } else { Err(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED) }
    }
    fn cuCtxDisablePeerAccess(peerContext: CUcontext) {
        let process = process()?;
        let mut state = process.lock();
        let peer = context::find(&state, peerContext)?;
        let was_there = context::current_mut(&mut state)?.peers.remove(&peer);
        if was_there { Ok(()) } else { Err(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED) }
    }
    fn cuDevicePrimaryCtxRetain(pctx: *mut CUcontext, dev: CUdevice) {
        let process = process()?;
        wanted(pctx)?;
        let (ordinal, _) = process.device(dev)?;
        put(pctx, context::retain_primary(process, ordinal)?.handle())
    }
    fn cuDevicePrimaryCtxRelease(dev: CUdevice) {
        release_primary(dev)
    }
    fn cuDevicePrimaryCtxRelease_v2(dev: CUdevice) {
        release_primary(dev)
    }
    fn cuDevicePrimaryCtxReset(dev: CUdevice) {
        reset_primary(dev)
    }
    fn cuDevicePrimaryCtxReset_v2(dev: CUdevice) {
        reset_primary(dev)
    }
    fn cuDevicePrimaryCtxSetFlags(dev: CUdevice, flags: u32) {
        set_primary_flags(dev, flags)
    }
    fn cuDevicePrimaryCtxSetFlags_v2(dev: CUdevice, flags: u32) {
        set_primary_flags(dev, flags)
    }
    fn cuDevicePrimaryCtxGetState(dev: CUdevice, flags: *mut u32, active: *mut i32) {
        let process = process()?;
        let (ordinal, _) = process.device(dev)?;
        let state = process.lock();
        let primary = state.primaries.get(ordinal).ok_or(CUDA_ERROR_INVALID_DEVICE)?;
        put(flags, primary.flags)?;
        put(active, primary.context.is_some().into())
    }
}
