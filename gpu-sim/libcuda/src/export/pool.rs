//! Memory pools and stream-ordered allocation.

use std::ffi::c_void;
use std::os::fd::{IntoRawFd, RawFd};

use cuda_sys_stubs::abi::*;

use super::virtual_memory::descriptor;
use super::{get, list, put, wanted, wide};
use crate::context::Primary;
use crate::door::{Answer, exports};
use crate::pool::{self, PoolAttribute};
use crate::process::process;

/// Only memory of a device comes from a pool.
fn check_props(props: &CUmemPoolProps) -> Answer {
    let is_device = props.location.type_ == CU_MEM_LOCATION_TYPE_DEVICE;
    if props.allocType != CU_MEM_ALLOCATION_TYPE_PINNED {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if is_device && props.handleTypes & !CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR == 0 {
        Ok(())
    } else {
        Err(CUDA_ERROR_NOT_SUPPORTED)
    }
}

fn is_own(location: &CUmemLocation, device: usize) -> bool {
    location.type_ == CU_MEM_LOCATION_TYPE_DEVICE && usize::try_from(location.id) == Ok(device)
}

/// Asks for a pool of a device.
fn of_device<T>(device: CUdevice, ask: impl FnOnce(&Primary) -> T) -> Answer<T> {
    let process = process()?;
    let (ordinal, _) = process.device(device)?;
    let state = process.lock();
    let primary = state.primaries.get(ordinal);
    Ok(ask(primary.ok_or(CUDA_ERROR_INVALID_DEVICE)?))
}

/// Makes a pool the one that `cuMemAllocAsync` takes from.
fn set_current(device: CUdevice, pool: CUmemoryPool) -> Answer {
    let process = process()?;
    let (ordinal, _) = process.device(device)?;
    let mut state = process.lock();
    let key = pool::find(&state, pool)?;
    if pool::get(&mut state, key)?.device != ordinal {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let primary = state.primaries.get_mut(ordinal);
    primary.ok_or(CUDA_ERROR_INVALID_DEVICE)?.pool = key;
    Ok(())
}

/// The device whose page-locked memory is meant; there are pools of no other memory.
fn device_of(location: &CUmemLocation, kind: CUmemAllocationType) -> Answer<CUdevice> {
    match (location.type_, kind) {
        (CU_MEM_LOCATION_TYPE_DEVICE, CU_MEM_ALLOCATION_TYPE_PINNED) => Ok(location.id),
        (
            CU_MEM_LOCATION_TYPE_DEVICE..=CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT,
            CU_MEM_ALLOCATION_TYPE_PINNED | CU_MEM_ALLOCATION_TYPE_MANAGED,
        ) => Err(CUDA_ERROR_NOT_SUPPORTED),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

exports! {
    fn cuMemAllocAsync / cuMemAllocAsync_ptsz |null| (dptr: *mut CUdeviceptr, bytesize: usize, hStream: CUstream) {
        let process = process()?;
        wanted(dptr)?;
        put(dptr, pool::alloc(process, wide(bytesize), None, hStream, null)?)
    }
    fn cuMemAllocFromPoolAsync / cuMemAllocFromPoolAsync_ptsz |null| (dptr: *mut CUdeviceptr, bytesize: usize, pool: CUmemoryPool, hStream: CUstream) {
        let process = process()?;
        wanted(dptr)?;
        put(dptr, pool::alloc(process, wide(bytesize), Some(pool), hStream, null)?)
    }
    fn cuMemFreeAsync / cuMemFreeAsync_ptsz |null| (dptr: CUdeviceptr, hStream: CUstream) {
        pool::free(process()?, dptr, hStream, null)
    }
    fn cuMemPoolCreate(pool: *mut CUmemoryPool, poolProps: *const CUmemPoolProps) {
        let process = process()?;
        wanted(pool)?;
        let props = get(poolProps)?;
        check_props(&props)?;
        put(pool, pool::create(process, props.location.id, props.handleTypes)?.handle())
    }
    fn cuMemPoolExportToShareableHandle(handle_out: *mut c_void, pool: CUmemoryPool, handleType: CUmemAllocationHandleType, flags: u64) {
        let process = process()?;
        wanted(handle_out)?;
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        put(handle_out.cast::<RawFd>(), pool::export(process, pool, handleType)?.into_raw_fd())
    }
    fn cuMemPoolImportFromShareableHandle(pool_out: *mut CUmemoryPool, handle: *mut c_void, handleType: CUmemAllocationHandleType, flags: u64) {
        let process = process()?;
        wanted(pool_out)?;
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        put(pool_out, pool::import(process, descriptor(handle, handleType)?)?.handle())
    }
    fn cuMemPoolDestroy(pool: CUmemoryPool) {
        pool::destroy(process()?, pool)
    }
    fn cuMemPoolTrimTo(pool: CUmemoryPool, minBytesToKeep: usize) {
        let process = process()?;
        let mut state = process.lock();
        let key = pool::find(&state, pool)?;
        pool::reclaim(process, &mut state)?;
        pool::trim(process, &mut state, key, wide(minBytesToKeep))
    }
    fn cuMemPoolGetAttribute(pool: CUmemoryPool, attr: CUmemPool_attribute, value: *mut c_void) {
        let process = process()?;
        wanted(value)?;
        let mut state = process.lock();
        pool::reclaim(process, &mut state)?;
        let key = pool::find(&state, pool)?;
        match pool::attribute(pool::get(&mut state, key)?, attr)? {
            PoolAttribute::Word(word) => put(value.cast::<u32>(), word),
            PoolAttribute::Long(long) => put(value.cast::<u64>(), long),
        }
    }
    fn cuMemPoolSetAttribute(pool: CUmemoryPool, attr: CUmemPool_attribute, value: *mut c_void) {
        let process = process()?;
        let long = match attr {
            CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES..=CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES => get(value.cast::<u32>())?.into(),
            _ => get(value.cast::<u64>())?,
        };
        let mut state = process.lock();
        let key = pool::find(&state, pool)?;
        pool::set_attribute(pool::get(&mut state, key)?, attr, long)
    }
    fn cuMemPoolSetAccess(pool: CUmemoryPool, map: *const CUmemAccessDesc, count: usize) {
        let process = process()?;
        let wishes = list(map, count)?;
        let mut state = process.lock();
        let key = pool::find(&state, pool)?;
        let pool = pool::get(&mut state, key)?;
        let mut access = pool.access;
        for wish in wishes {
            let (ordinal, _) = process.device(wish.location.id)?;
            if is_own(&wish.location, pool.device) && wish.flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE {
                return Err(CUDA_ERROR_INVALID_VALUE);
            }
            access = access.with(ordinal, wish.flags);
        }
        pool.access = access;
        Ok(())
    }
    fn cuMemPoolGetAccess(flags: *mut CUmemAccess_flags, memPool: CUmemoryPool, location: *mut CUmemLocation) {
        let process = process()?;
        let location = get(location.cast_const())?;
        let (ordinal, _) = process.device(location.id)?;
        let mut state = process.lock();
        let key = pool::find(&state, memPool)?;
        let pool = pool::get(&mut state, key)?;
        put(flags, if ordinal == pool.device { CU_MEM_ACCESS_FLAGS_PROT_READWRITE } else { pool.access.of(ordinal) })
    }
    fn cuDeviceGetDefaultMemPool(pool_out: *mut CUmemoryPool, dev: CUdevice) {
        put(pool_out, of_device(dev, |primary| primary.default_pool.handle())?)
    }
    fn cuDeviceGetMemPool(pool: *mut CUmemoryPool, dev: CUdevice) {
        put(pool, of_device(dev, |primary| primary.pool.handle())?)
    }
    fn cuDeviceSetMemPool(dev: CUdevice, pool: CUmemoryPool) {
        set_current(dev, pool)
    }
    fn cuMemGetDefaultMemPool(pool_out: *mut CUmemoryPool, location: *mut CUmemLocation, r#type: CUmemAllocationType) {
        let device = device_of(&get(location.cast_const())?, r#type)?;
        put(pool_out, of_device(device, |primary| primary.default_pool.handle())?)
    }
    fn cuMemGetMemPool(pool: *mut CUmemoryPool, location: *mut CUmemLocation, r#type: CUmemAllocationType) {
        let device = device_of(&get(location.cast_const())?, r#type)?;
        put(pool, of_device(device, |primary| primary.pool.handle())?)
    }
    fn cuMemSetMemPool(location: *mut CUmemLocation, r#type: CUmemAllocationType, pool: CUmemoryPool) {
        set_current(device_of(&get(location.cast_const())?, r#type)?, pool)
    }
}
