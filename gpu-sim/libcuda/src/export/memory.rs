//! Allocation and release.
//!
//! The calls of before CUDA 3.2 that deal in device addresses are in [`mod@super::narrow`].

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

use super::{address, narrow, put, put_if, wanted, wide};
use crate::door::{Answer, exports};
use crate::memory;
use crate::process::process;

fn alloc_host(bytes: usize, flags: u32) -> Answer<*mut c_void> {
    let start = memory::alloc_host(process()?, wide(bytes), flags)?;
    let start = usize::try_from(start).map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?;
    Ok(std::ptr::with_exposed_provenance_mut(start))
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

exports! {
    fn cuMemAlloc_v2(dptr: *mut CUdeviceptr, bytesize: usize) {
        let process = process()?;
        wanted(dptr)?;
        put(dptr, memory::alloc(process, wide(bytesize))?)
    }
    fn cuMemAllocPitch_v2(dptr: *mut CUdeviceptr, pPitch: *mut usize, WidthInBytes: usize, Height: usize, ElementSizeBytes: u32) {
        let process = process()?;
        wanted(dptr)?;
        wanted(pPitch)?;
        let (start, pitch) = memory::alloc_pitch(process, wide(WidthInBytes), wide(Height), ElementSizeBytes)?;
        put(dptr, start)?;
        put(pPitch, length(pitch))
    }
    fn cuMemAllocManaged(dptr: *mut CUdeviceptr, bytesize: usize, flags: u32) {
        let process = process()?;
        wanted(dptr)?;
        put(dptr, memory::alloc_managed(process, wide(bytesize), flags)?)
    }
    fn cuMemFree_v2(dptr: CUdeviceptr) {
        memory::free(process()?, dptr)
    }
    fn cuMemAllocHost(pp: *mut *mut c_void, bytesize: u32) {
        wanted(pp)?;
        put(pp, alloc_host(length(bytesize.into()), 0)?)
    }
    fn cuMemAllocHost_v2(pp: *mut *mut c_void, bytesize: usize) {
        wanted(pp)?;
        put(pp, alloc_host(bytesize, 0)?)
    }
    fn cuMemHostAlloc(pp: *mut *mut c_void, bytesize: usize, Flags: u32) {
        wanted(pp)?;
        put(pp, alloc_host(bytesize, Flags)?)
    }
    fn cuMemFreeHost(p: *mut c_void) {
        memory::free_host(process()?, address(p))
    }
    fn cuMemHostRegister(p: *mut c_void, bytesize: usize, Flags: u32) {
        memory::register_host(process()?, address(p), wide(bytesize), Flags)
    }
    fn cuMemHostRegister_v2(p: *mut c_void, bytesize: usize, Flags: u32) {
        memory::register_host(process()?, address(p), wide(bytesize), Flags)
    }
    fn cuMemHostUnregister(p: *mut c_void) {
        memory::unregister_host(process()?, address(p))
    }
    fn cuMemHostGetDevicePointer_v2(pdptr: *mut CUdeviceptr, p: *mut c_void, Flags: u32) {
        let process = process()?;
        if Flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        put(pdptr, memory::device_pointer(process, address(p))?)
    }
    fn cuMemHostGetFlags(pFlags: *mut u32, p: *mut c_void) {
        put(pFlags, memory::host_flags(process()?, address(p))?)
    }
    fn cuMemGetInfo(free: *mut u32, total: *mut u32) {
        let info = memory::info(process()?)?;
        put(free, narrow(info.free_bytes))?;
        put(total, narrow(info.total_bytes))
    }
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let info = memory::info(process()?)?;
        put(free, length(info.free_bytes))?;
        put(total, length(info.total_bytes))
    }
    fn cuMemGetAddressRange_v2(pbase: *mut CUdeviceptr, psize: *mut usize, dptr: CUdeviceptr) {
        let (start, bytes) = memory::address_range(process()?, dptr)?;
        put_if(pbase, start);
        put_if(psize, length(bytes));
        Ok(())
    }
}
