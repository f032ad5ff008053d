//! Memory pools and stream-ordered allocation.

use std::ffi::c_void;
use std::os::fd::{IntoRawFd, RawFd};

use cuda_sys_stubs::abi::*;

use super::virtual_memory::descriptor;
use super::{get, list, put, wanted, wide};
use crate::door::{Answer, exports};
use crate::location::{Home, Location};
use crate::pool::{self, Pool, PoolAttribute};
use crate::process::{Process, process};

/// Who may use a pool's memory: the host, only what is its own.
fn user(process: &Process, pool: &Pool, user: &CUmemLocation) -> Answer<Location> {
    let user = Location::of_user(process, user)?;
    if user.is_host() && !pool.home.is_open_to(user) {
        return Err(CUDA_ERROR_NOT_SUPPORTED);
    }
    Ok(user)
}

/// The pools that a location and a type stand for.
///
/// # Safety
/// As [`get`].
unsafe fn home(
    process: &Process,
    location: *mut CUmemLocation,
    kind: CUmemAllocationType,
) -> Answer<Home> {
    // SAFETY: the caller's promise.
    Home::of(process, &unsafe { get(location.cast_const())? }, kind)
}

fn device(process: &Process, device: CUdevice) -> Answer<Home> {
    Ok(Home::Pinned(Location::Device(process.device(device)?.0)))
}

/// Makes a pool the one that its location has; `cuMemAllocAsync` takes from a device's.
fn set_current(process: &Process, home: Home, pool: CUmemoryPool) -> Answer {
    let mut state = process.lock();
    let key = pool::find(&state, pool)?;
    if pool::get(&mut state, key)?.home != home {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    pool::of(&mut state, home)?.current = key;
    Ok(())
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
        let home = Home::of(process, &props.location, props.allocType)?;
        if matches!(home, Home::Managed(_)) && (props.maxSize, props.usage) != (0, 0) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        put(pool, pool::create(process, home, props.handleTypes, wide(props.maxSize))?.handle())
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
            let user = user(process, pool, &wish.location)?;
            if pool.home.is_open_to(user) && wish.flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE {
                return Err(CUDA_ERROR_INVALID_VALUE);
            }
            access = access.with(user, wish.flags);
        }
        pool.access = access;
        Ok(())
    }
    fn cuMemPoolGetAccess(flags: *mut CUmemAccess_flags, memPool: CUmemoryPool, location: *mut CUmemLocation) {
        let process = process()?;
        let location = get(location.cast_const())?;
        let mut state = process.lock();
        let key = pool::find(&state, memPool)?;
        let pool = pool::get(&mut state, key)?;
        let user = user(process, pool, &location)?;
        put(flags, if pool.home.is_open_to(user) { CU_MEM_ACCESS_FLAGS_PROT_READWRITE } else { pool.access.of(user) })
    }
    fn cuDeviceGetDefaultMemPool(pool_out: *mut CUmemoryPool, dev: CUdevice) {
        let process = process()?;
        put(pool_out, pool::of(&mut process.lock(), device(process, dev)?)?.default.handle())
    }
    fn cuDeviceGetMemPool(pool: *mut CUmemoryPool, dev: CUdevice) {
        let process = process()?;
        put(pool, pool::of(&mut process.lock(), device(process, dev)?)?.current.handle())
    }
    fn cuDeviceSetMemPool(dev: CUdevice, pool: CUmemoryPool) {
        let process = process()?;
        set_current(process, device(process, dev)?, pool)
    }
    fn cuMemGetDefaultMemPool(pool_out: *mut CUmemoryPool, location: *mut CUmemLocation, r#type: CUmemAllocationType) {
        let process = process()?;
        let home = home(process, location, r#type)?;
        put(pool_out, pool::of(&mut process.lock(), home)?.default.handle())
    }
    fn cuMemGetMemPool(pool: *mut CUmemoryPool, location: *mut CUmemLocation, r#type: CUmemAllocationType) {
        let process = process()?;
        let home = home(process, location, r#type)?;
        put(pool, pool::of(&mut process.lock(), home)?.current.handle())
    }
    fn cuMemSetMemPool(location: *mut CUmemLocation, r#type: CUmemAllocationType, pool: CUmemoryPool) {
        let process = process()?;
        set_current(process, home(process, location, r#type)?, pool)
    }
}
