//! Virtual memory management.

use cuda_sys_stubs::abi::*;

use super::{get, list, put, wanted, wide};
use crate::door::{Answer, exports};
use crate::process::process;
use crate::virtual_memory::{self, GRANULARITY};

/// Refuses memory that is not a device's, or that is to be shared with other processes.
fn check_prop(prop: &CUmemAllocationProp) -> Answer<CUdevice> {
    if prop.type_ != CU_MEM_ALLOCATION_TYPE_PINNED {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    match prop.location.type_ {
        CU_MEM_LOCATION_TYPE_DEVICE if prop.requestedHandleTypes == CU_MEM_HANDLE_TYPE_NONE => {
            Ok(prop.location.id)
        }
        CU_MEM_LOCATION_TYPE_DEVICE..=CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT => {
            Err(CUDA_ERROR_NOT_SUPPORTED)
        }
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

fn number<T>(handle: *mut T) -> CUmemGenericAllocationHandle {
    u64::try_from(handle.addr()).unwrap_or(0)
}

exports! {
    fn cuMemGetAllocationGranularity(granularity: *mut usize, prop: *const CUmemAllocationProp, option: CUmemAllocationGranularity_flags) {
        process()?.device(check_prop(&get(prop)?)?)?;
        if option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        put(granularity, usize::try_from(GRANULARITY).map_err(|_| CUDA_ERROR_UNKNOWN)?)
    }
    fn cuMemCreate(handle: *mut CUmemGenericAllocationHandle, size: usize, prop: *const CUmemAllocationProp, flags: u64) {
        let process = process()?;
        wanted(handle)?;
        let device = check_prop(&get(prop)?)?;
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        put(handle, number(virtual_memory::create(process, wide(size), device)?.handle::<()>()))
    }
    fn cuMemRelease(handle: CUmemGenericAllocationHandle) {
        virtual_memory::release(process()?, handle)
    }
    fn cuMemRetainAllocationHandle(handle: *mut CUmemGenericAllocationHandle, addr: *mut std::ffi::c_void) {
        let process = process()?;
        wanted(handle)?;
        put(handle, number(virtual_memory::retain(process, super::address(addr))?.handle::<()>()))
    }
    fn cuMemGetAllocationPropertiesFromHandle(prop: *mut CUmemAllocationProp, handle: CUmemGenericAllocationHandle) {
        let process = process()?;
        let state = process.lock();
        let device = state.physicals.get(virtual_memory::find(&state, handle)?).ok_or(CUDA_ERROR_INVALID_VALUE)?.device;
        let location = CUmemLocation { type_: CU_MEM_LOCATION_TYPE_DEVICE, id: CUdevice::try_from(device).map_err(|_| CUDA_ERROR_INVALID_DEVICE)? };
        let allocFlags = anonymous_allocFlags { compressionType: 0, gpuDirectRDMACapable: 0, usage: 0, reserved: [0; 4] };
        let (type_, requestedHandleTypes) = (CU_MEM_ALLOCATION_TYPE_PINNED, CU_MEM_HANDLE_TYPE_NONE);
        put(prop, CUmemAllocationProp { type_, requestedHandleTypes, location, win32HandleMetaData: std::ptr::null_mut(), allocFlags })
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
            if wish.location.type_ != CU_MEM_LOCATION_TYPE_DEVICE {
                return Err(CUDA_ERROR_NOT_SUPPORTED);
            }
            process.device(wish.location.id)?;
        }
        for wish in wishes {
            let has_access = match wish.flags {
                CU_MEM_ACCESS_FLAGS_PROT_NONE => false,
                CU_MEM_ACCESS_FLAGS_PROT_READ | CU_MEM_ACCESS_FLAGS_PROT_READWRITE => true,
                _ => return Err(CUDA_ERROR_INVALID_VALUE),
            };
            virtual_memory::set_access(process, ptr, wide(size), has_access)?;
        }
        if count == 0 { Err(CUDA_ERROR_INVALID_VALUE) } else { Ok(()) }
    }
    fn cuMemGetAccess(flags: *mut u64, location: *const CUmemLocation, ptr: CUdeviceptr) {
        let process = process()?;
        process.device(get(location)?.id)?;
        let has_access = virtual_memory::has_access(process, ptr)?;
        put(flags, u64::from(if has_access { CU_MEM_ACCESS_FLAGS_PROT_READWRITE } else { CU_MEM_ACCESS_FLAGS_PROT_NONE }))
    }
}
