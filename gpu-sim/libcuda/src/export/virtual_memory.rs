//! Virtual memory management.

use std::ffi::c_void;
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};

use cuda_sys_stubs::abi::*;

use super::{get, list, put, wanted, wide};
use crate::door::{Answer, exports};
use crate::location::Location;
use crate::process::{Process, process};
use crate::virtual_memory::{self, GRANULARITY, Physical};

/// Where memory is to be. Refuses what cannot be there, or be shared as is wished.
fn location(process: &Process, prop: &CUmemAllocationProp) -> Answer<Location> {
    if prop.type_ != CU_MEM_ALLOCATION_TYPE_PINNED {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let location = Location::of(process, &prop.location)?;
    location.check_handle_types(prop.requestedHandleTypes)?;
    Ok(location)
}

/// The descriptor that a caller passed as a pointer.
///
/// # Safety
/// If `handle_type` says so, it is one, and stays open while the call lasts.
pub(super) unsafe fn descriptor<'a>(
    handle: *mut c_void,
    handle_type: CUmemAllocationHandleType,
) -> Answer<BorrowedFd<'a>> {
    match handle_type {
        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR => {}
        CU_MEM_HANDLE_TYPE_WIN32 | CU_MEM_HANDLE_TYPE_WIN32_KMT | CU_MEM_HANDLE_TYPE_FABRIC => {
            return Err(CUDA_ERROR_NOT_SUPPORTED);
        }
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    }
    let number = RawFd::try_from(handle.addr())
        .ok()
        .filter(|number| *number >= 0)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    // SAFETY: the caller's promise; a number that names nothing fails its first use.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

pub(super) fn number<T>(handle: *mut T) -> CUmemGenericAllocationHandle {
    u64::try_from(handle.addr()).unwrap_or(0)
}

exports! {
    fn cuMemGetAllocationGranularity(granularity: *mut usize, prop: *const CUmemAllocationProp, option: CUmemAllocationGranularity_flags) {
        location(process()?, &get(prop)?)?;
        if option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        put(granularity, usize::try_from(GRANULARITY).map_err(|_| CUDA_ERROR_UNKNOWN)?)
    }
    fn cuMemCreate(handle: *mut CUmemGenericAllocationHandle, size: usize, prop: *const CUmemAllocationProp, flags: u64) {
        let process = process()?;
        wanted(handle)?;
        let prop = get(prop)?;
        let location = location(process, &prop)?;
        let usage = u32::from(prop.allocFlags.usage);
        let is_tile_pool = usage & CU_MEM_CREATE_USAGE_TILE_POOL != 0;
        if flags != 0 || (is_tile_pool && location.is_host()) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let made = virtual_memory::create(process, wide(size), location, prop.requestedHandleTypes, is_tile_pool)?;
        put(handle, number(made.handle::<()>()))
    }
    fn cuMemExportToShareableHandle(shareableHandle: *mut c_void, handle: CUmemGenericAllocationHandle, handleType: CUmemAllocationHandleType, flags: u64) {
        let process = process()?;
        wanted(shareableHandle)?;
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let descriptor = virtual_memory::export(process, handle, handleType)?;
        put(shareableHandle.cast::<RawFd>(), descriptor.into_raw_fd())
    }
    fn cuMemImportFromShareableHandle(handle: *mut CUmemGenericAllocationHandle, osHandle: *mut c_void, shHandleType: CUmemAllocationHandleType) {
        let process = process()?;
        wanted(handle)?;
        let descriptor = descriptor(osHandle, shHandleType)?;
        put(handle, number(virtual_memory::import(process, descriptor)?.handle::<()>()))
    }
    fn cuMemRelease(handle: CUmemGenericAllocationHandle) {
        virtual_memory::release(process()?, handle)
    }
    fn cuMemRetainAllocationHandle(handle: *mut CUmemGenericAllocationHandle, addr: *mut c_void) {
        let process = process()?;
        wanted(handle)?;
        put(handle, number(virtual_memory::retain(process, super::address(addr))?.handle::<()>()))
    }
    fn cuMemGetAllocationPropertiesFromHandle(prop: *mut CUmemAllocationProp, handle: CUmemGenericAllocationHandle) {
        let process = process()?;
        let state = process.lock();
        let physical: &Physical = state.physicals.get(virtual_memory::find(&state, handle)?).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        if physical.is_multicast() {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let (location, requestedHandleTypes) = (physical.location().described()?, physical.handle_types);
        let allocFlags = anonymous_allocFlags { compressionType: 0, gpuDirectRDMACapable: 0, usage: physical.is_tile_pool.into(), reserved: [0; 4] };
        put(prop, CUmemAllocationProp { type_: CU_MEM_ALLOCATION_TYPE_PINNED, requestedHandleTypes, location, win32HandleMetaData: std::ptr::null_mut(), allocFlags })
    }
    fn cuMemAddressReserve(ptr: *mut CUdeviceptr, size: usize, alignment: usize, _addr: CUdeviceptr, flags: u64) {
        let process = process()?;
        wanted(ptr)?;
        // An address that the caller would like is a hint, which the driver need not follow.
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        put(ptr, virtual_memory::reserve_addresses(process, wide(size), wide(alignment))?)
    }
    fn cuMemAddressFree(ptr: CUdeviceptr, size: usize) {
        virtual_memory::free_addresses(process()?, ptr, wide(size))
    }
    fn cuMemMap(ptr: CUdeviceptr, size: usize, offset: usize, handle: CUmemGenericAllocationHandle, flags: u64) {
        let process = process()?;
        if offset != 0 || flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        virtual_memory::map(process, ptr, wide(size), handle)
    }
    fn cuMemUnmap(ptr: CUdeviceptr, size: usize) {
        virtual_memory::unmap(process()?, ptr, wide(size))
    }
    fn cuMemSetAccess(ptr: CUdeviceptr, size: usize, desc: *const CUmemAccessDesc, count: usize) {
        let process = process()?;
        let wishes = list(desc, count)?;
        for wish in wishes {
            Location::of_user(process, &wish.location)?;
        }
        for wish in wishes {
            if !matches!(wish.flags, CU_MEM_ACCESS_FLAGS_PROT_NONE | CU_MEM_ACCESS_FLAGS_PROT_READ | CU_MEM_ACCESS_FLAGS_PROT_READWRITE) {
                return Err(CUDA_ERROR_INVALID_VALUE);
            }
            let user = Location::of_user(process, &wish.location)?;
            virtual_memory::set_access(process, ptr, wide(size), user, wish.flags)?;
        }
        if count == 0 { Err(CUDA_ERROR_INVALID_VALUE) } else { Ok(()) }
    }
    fn cuMemGetAccess(flags: *mut u64, location: *const CUmemLocation, ptr: CUdeviceptr) {
        let process = process()?;
        let user = Location::of_user(process, &get(location)?)?;
        put(flags, virtual_memory::access(process, ptr, user)?.into())
    }
}
