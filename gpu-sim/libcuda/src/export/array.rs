//! Arrays.

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

use super::{address, get, put, wanted, wide};
use crate::array::{self, Shape};
use crate::copy::{CopyParams, Return, SideParams, copy};
use crate::door::{Answer, NullStream, exports};
use crate::process::process;

fn shape(description: &CUDA_ARRAY3D_DESCRIPTOR) -> Shape {
    let CUDA_ARRAY3D_DESCRIPTOR {
        Width,
        Height,
        Depth,
        Format,
        NumChannels,
        Flags,
    } = *description;
    Shape {
        width: wide(Width),
        height: wide(Height),
        depth: wide(Depth),
        format: Format,
        channels: NumChannels,
        flags: Flags,
    }
}

fn length(extent: u64) -> usize {
    usize::try_from(extent).unwrap_or(usize::MAX)
}

pub(super) fn describe(handle: CUarray) -> Answer<CUDA_ARRAY3D_DESCRIPTOR> {
    let process = process()?;
    let Shape {
        width,
        height,
        depth,
        format,
        channels,
        flags,
    } = array::find(&process.lock(), handle)?.shape;
    Ok(CUDA_ARRAY3D_DESCRIPTOR {
        Width: length(width),
        Height: length(height),
        Depth: length(depth),
        Format: format,
        NumChannels: channels,
        Flags: flags,
    })
}

/// An array of one or two dimensions, as one of three.
pub(super) fn flat(description: &CUDA_ARRAY_DESCRIPTOR) -> CUDA_ARRAY3D_DESCRIPTOR {
    let CUDA_ARRAY_DESCRIPTOR {
        Width,
        Height,
        Format,
        NumChannels,
    } = *description;
    CUDA_ARRAY3D_DESCRIPTOR {
        Width,
        Height,
        Depth: 0,
        Format,
        NumChannels,
        Flags: 0,
    }
}

/// Makes an array as `read` describes it.
///
/// # Safety
/// `handle` is null or can be written.
pub(super) unsafe fn create(
    handle: *mut CUarray,
    read: impl FnOnce() -> Answer<CUDA_ARRAY3D_DESCRIPTOR>,
) -> Answer {
    let process = process()?;
    wanted(handle)?;
    let array = array::create(process, shape(&read()?))?;
    // SAFETY: the caller's promise.
    unsafe { put(handle, array.handle()) }
}

/// One row of an array, from a byte on.
pub(super) fn row(handle: CUarray, offset: usize) -> SideParams {
    SideParams {
        x: wide(offset),
        ..SideParams::linear(CU_MEMORYTYPE_ARRAY, address(handle))
    }
}

pub(super) fn host(pointer: *const c_void) -> SideParams {
    SideParams::linear(CU_MEMORYTYPE_HOST, address(pointer))
}

pub(super) fn device(pointer: CUdeviceptr) -> SideParams {
    SideParams::linear(CU_MEMORYTYPE_DEVICE, pointer)
}

pub(super) fn run(
    dst: SideParams,
    src: SideParams,
    bytes: usize,
    stream: Option<CUstream>,
    null: NullStream,
) -> Answer {
    let params = CopyParams {
        src,
        dst,
        width: wide(bytes),
        height: 1,
        depth: 1,
    };
    let when = if stream.is_some() {
        Return::AtOnce
    } else {
        Return::WhenDone
    };
    copy(
        process()?,
        params,
        stream.unwrap_or(std::ptr::null_mut()),
        null,
        when,
    )
}

exports! {
    fn cuArrayCreate_v2(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY_DESCRIPTOR) {
        create(pHandle, || Ok(flat(&get(pAllocateArray)?)))
    }
    fn cuArray3DCreate_v2(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY3D_DESCRIPTOR) {
        create(pHandle, || get(pAllocateArray))
    }
    fn cuArrayDestroy(hArray: CUarray) {
        array::destroy(process()?, hArray)
    }
    fn cuArrayGetDescriptor_v2(pArrayDescriptor: *mut CUDA_ARRAY_DESCRIPTOR, hArray: CUarray) {
        let CUDA_ARRAY3D_DESCRIPTOR { Width, Height, Format, NumChannels, .. } = describe(hArray)?;
        put(pArrayDescriptor, CUDA_ARRAY_DESCRIPTOR { Width, Height, Format, NumChannels })
    }
    fn cuArray3DGetDescriptor_v2(pArrayDescriptor: *mut CUDA_ARRAY3D_DESCRIPTOR, hArray: CUarray) {
        put(pArrayDescriptor, describe(hArray)?)
    }
    fn cuArrayGetPlane(pPlaneArray: *mut CUarray, hArray: CUarray, planeIdx: u32) {
        let process = process()?;
        put(pPlaneArray, array::plane(&process.lock(), hArray, planeIdx)?.handle())
    }
    fn cuMipmappedArrayCreate(pHandle: *mut CUmipmappedArray, pMipmappedArrayDesc: *const CUDA_ARRAY3D_DESCRIPTOR, numMipmapLevels: u32) {
        let process = process()?;
        wanted(pHandle)?;
        put(pHandle, array::create_mipmap(process, shape(&get(pMipmappedArrayDesc)?), numMipmapLevels)?.handle())
    }
    fn cuMipmappedArrayDestroy(hMipmappedArray: CUmipmappedArray) {
        array::destroy_mipmap(process()?, hMipmappedArray)
    }
    fn cuMipmappedArrayGetLevel(pLevelArray: *mut CUarray, hMipmappedArray: CUmipmappedArray, level: u32) {
        let process = process()?;
        put(pLevelArray, array::level(&process.lock(), hMipmappedArray, level)?.handle())
    }
    fn cuMemcpyHtoA_v2 / cuMemcpyHtoA_v2_ptds |null| (dstArray: CUarray, dstOffset: usize, srcHost: *const c_void, ByteCount: usize) {
        run(row(dstArray, dstOffset), host(srcHost), ByteCount, None, null)
    }
    fn cuMemcpyAtoH_v2 / cuMemcpyAtoH_v2_ptds |null| (dstHost: *mut c_void, srcArray: CUarray, srcOffset: usize, ByteCount: usize) {
        run(host(dstHost), row(srcArray, srcOffset), ByteCount, None, null)
    }
    fn cuMemcpyDtoA_v2 / cuMemcpyDtoA_v2_ptds |null| (dstArray: CUarray, dstOffset: usize, srcDevice: CUdeviceptr, ByteCount: usize) {
        run(row(dstArray, dstOffset), device(srcDevice), ByteCount, None, null)
    }
    fn cuMemcpyAtoD_v2 / cuMemcpyAtoD_v2_ptds |null| (dstDevice: CUdeviceptr, srcArray: CUarray, srcOffset: usize, ByteCount: usize) {
        run(device(dstDevice), row(srcArray, srcOffset), ByteCount, None, null)
    }
    fn cuMemcpyAtoA_v2 / cuMemcpyAtoA_v2_ptds |null| (dstArray: CUarray, dstOffset: usize, srcArray: CUarray, srcOffset: usize, ByteCount: usize) {
        run(row(dstArray, dstOffset), row(srcArray, srcOffset), ByteCount, None, null)
    }
    fn cuMemcpyHtoAAsync_v2 / cuMemcpyHtoAAsync_v2_ptsz |null| (dstArray: CUarray, dstOffset: usize, srcHost: *const c_void, ByteCount: usize, hStream: CUstream) {
        run(row(dstArray, dstOffset), host(srcHost), ByteCount, Some(hStream), null)
    }
    fn cuMemcpyAtoHAsync_v2 / cuMemcpyAtoHAsync_v2_ptsz |null| (dstHost: *mut c_void, srcArray: CUarray, srcOffset: usize, ByteCount: usize, hStream: CUstream) {
        run(host(dstHost), row(srcArray, srcOffset), ByteCount, Some(hStream), null)
    }
}
