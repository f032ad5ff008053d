//! The calls of before CUDA 3.2, whose device addresses and sizes have 32 bits: each widens what it is given, has its successor's work
//! done, and narrows what comes of it. They are for contexts of that time ([`crate::abi`]), where every address fits.

use std::ffi::{c_char, c_void};

use cuda_sys_stubs::abi::*;

use super::array::{self, describe};
use super::copy::{self, from_2d, from_3d, linear};
use super::texture_reference::{address_of, bind_pitched, set_address};
use super::{address, fill, get, module, narrow, put, put_if, wanted};
use crate::copy::Return;
use crate::door::{Answer, NullStream, exports};
use crate::memory;
use crate::process::process;

const DEVICE: CUmemorytype = CU_MEMORYTYPE_DEVICE;
const HOST: CUmemorytype = CU_MEMORYTYPE_HOST;
const NONE: CUstream = std::ptr::null_mut();

/// None of these has a per-thread twin.
const NULL: NullStream = NullStream::Legacy;

/// A size as the successors have it.
fn wide(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// An address as these calls have it. `CUDA_ERROR_INVALID_VALUE`: it is one that only newer calls can have given.
fn short(address: CUdeviceptr) -> Answer<CUdeviceptr_v1> {
    address.try_into().map_err(|_| CUDA_ERROR_INVALID_VALUE)
}

fn length(bytes: usize) -> u32 {
    narrow(super::wide(bytes))
}

fn widened_2d(copy: &CUDA_MEMCPY2D_v1) -> CUDA_MEMCPY2D {
    CUDA_MEMCPY2D {
        srcXInBytes: wide(copy.srcXInBytes),
        srcY: wide(copy.srcY),
        srcMemoryType: copy.srcMemoryType,
        srcHost: copy.srcHost,
        srcDevice: copy.srcDevice.into(),
        srcArray: copy.srcArray,
        srcPitch: wide(copy.srcPitch),
        dstXInBytes: wide(copy.dstXInBytes),
        dstY: wide(copy.dstY),
        dstMemoryType: copy.dstMemoryType,
        dstHost: copy.dstHost,
        dstDevice: copy.dstDevice.into(),
        dstArray: copy.dstArray,
        dstPitch: wide(copy.dstPitch),
        WidthInBytes: wide(copy.WidthInBytes),
        Height: wide(copy.Height),
    }
}

fn widened_3d(copy: &CUDA_MEMCPY3D_v1) -> CUDA_MEMCPY3D {
    CUDA_MEMCPY3D {
        srcXInBytes: wide(copy.srcXInBytes),
        srcY: wide(copy.srcY),
        srcZ: wide(copy.srcZ),
        srcLOD: wide(copy.srcLOD),
        srcMemoryType: copy.srcMemoryType,
        srcHost: copy.srcHost,
        srcDevice: copy.srcDevice.into(),
        srcArray: copy.srcArray,
        reserved0: copy.reserved0,
        srcPitch: wide(copy.srcPitch),
        srcHeight: wide(copy.srcHeight),
        dstXInBytes: wide(copy.dstXInBytes),
        dstY: wide(copy.dstY),
        dstZ: wide(copy.dstZ),
        dstLOD: wide(copy.dstLOD),
        dstMemoryType: copy.dstMemoryType,
        dstHost: copy.dstHost,
        dstDevice: copy.dstDevice.into(),
        dstArray: copy.dstArray,
        reserved1: copy.reserved1,
        dstPitch: wide(copy.dstPitch),
        dstHeight: wide(copy.dstHeight),
        WidthInBytes: wide(copy.WidthInBytes),
        Height: wide(copy.Height),
        Depth: wide(copy.Depth),
    }
}

fn widened_array(description: &CUDA_ARRAY_DESCRIPTOR_v1) -> CUDA_ARRAY_DESCRIPTOR {
    CUDA_ARRAY_DESCRIPTOR {
        Width: wide(description.Width),
        Height: wide(description.Height),
        Format: description.Format,
        NumChannels: description.NumChannels,
    }
}

exports! {
    fn cuMemAlloc(dptr: *mut CUdeviceptr_v1, bytesize: u32) {
        let process = process()?;
        wanted(dptr)?;
        put(dptr, short(memory::alloc(process, bytesize.into())?)?)
    }
    fn cuMemAllocPitch(dptr: *mut CUdeviceptr_v1, pPitch: *mut u32, WidthInBytes: u32, Height: u32, ElementSizeBytes: u32) {
        let process = process()?;
        wanted(dptr)?;
        wanted(pPitch)?;
        let (start, pitch) = memory::alloc_pitch(process, WidthInBytes.into(), Height.into(), ElementSizeBytes)?;
        put(dptr, short(start)?)?;
        put(pPitch, narrow(pitch))
    }
    fn cuMemFree(dptr: CUdeviceptr_v1) {
        memory::free(process()?, dptr.into())
    }
    fn cuMemGetAddressRange(pbase: *mut CUdeviceptr_v1, psize: *mut u32, dptr: CUdeviceptr_v1) {
        let (start, bytes) = memory::address_range(process()?, dptr.into())?;
        put_if(pbase, short(start)?);
        put_if(psize, narrow(bytes));
        Ok(())
    }
    fn cuMemHostGetDevicePointer(pdptr: *mut CUdeviceptr_v1, p: *mut c_void, Flags: u32) {
        let process = process()?;
        if Flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        put(pdptr, short(memory::device_pointer(process, address(p))?)?)
    }
    fn cuMemcpyHtoD(dstDevice: CUdeviceptr_v1, srcHost: *const c_void, ByteCount: u32) {
        linear((DEVICE, dstDevice.into()), (HOST, address(srcHost)), wide(ByteCount), NONE, NULL, Return::WhenDone)
    }
    fn cuMemcpyHtoDAsync(dstDevice: CUdeviceptr_v1, srcHost: *const c_void, ByteCount: u32, hStream: CUstream) {
        linear((DEVICE, dstDevice.into()), (HOST, address(srcHost)), wide(ByteCount), hStream, NULL, Return::AtOnce)
    }
    fn cuMemcpyDtoH(dstHost: *mut c_void, srcDevice: CUdeviceptr_v1, ByteCount: u32) {
        linear((HOST, address(dstHost)), (DEVICE, srcDevice.into()), wide(ByteCount), NONE, NULL, Return::WhenDone)
    }
    fn cuMemcpyDtoHAsync(dstHost: *mut c_void, srcDevice: CUdeviceptr_v1, ByteCount: u32, hStream: CUstream) {
        linear((HOST, address(dstHost)), (DEVICE, srcDevice.into()), wide(ByteCount), hStream, NULL, Return::AtOnce)
    }
    fn cuMemcpyDtoD(dstDevice: CUdeviceptr_v1, srcDevice: CUdeviceptr_v1, ByteCount: u32) {
        linear((DEVICE, dstDevice.into()), (DEVICE, srcDevice.into()), wide(ByteCount), NONE, NULL, Return::WhenDone)
    }
    fn cuMemcpyDtoDAsync(dstDevice: CUdeviceptr_v1, srcDevice: CUdeviceptr_v1, ByteCount: u32, hStream: CUstream) {
        linear((DEVICE, dstDevice.into()), (DEVICE, srcDevice.into()), wide(ByteCount), hStream, NULL, Return::AtOnce)
    }
    fn cuMemcpy2D(pCopy: *const CUDA_MEMCPY2D_v1) {
        copy::run(from_2d(&widened_2d(&get(pCopy)?)), NONE, NULL, Return::WhenDone)
    }
    fn cuMemcpy2DUnaligned(pCopy: *const CUDA_MEMCPY2D_v1) {
        copy::run(from_2d(&widened_2d(&get(pCopy)?)), NONE, NULL, Return::WhenDone)
    }
    fn cuMemcpy2DAsync(pCopy: *const CUDA_MEMCPY2D_v1, hStream: CUstream) {
        copy::run(from_2d(&widened_2d(&get(pCopy)?)), hStream, NULL, Return::AtOnce)
    }
    fn cuMemcpy3D(pCopy: *const CUDA_MEMCPY3D_v1) {
        copy::run(from_3d(&widened_3d(&get(pCopy)?)), NONE, NULL, Return::WhenDone)
    }
    fn cuMemcpy3DAsync(pCopy: *const CUDA_MEMCPY3D_v1, hStream: CUstream) {
        copy::run(from_3d(&widened_3d(&get(pCopy)?)), hStream, NULL, Return::AtOnce)
    }
    fn cuMemcpyHtoA(dstArray: CUarray, dstOffset: u32, srcHost: *const c_void, ByteCount: u32) {
        array::run(array::row(dstArray, wide(dstOffset)), array::host(srcHost), wide(ByteCount), None, NULL)
    }
    fn cuMemcpyHtoAAsync(dstArray: CUarray, dstOffset: u32, srcHost: *const c_void, ByteCount: u32, hStream: CUstream) {
        array::run(array::row(dstArray, wide(dstOffset)), array::host(srcHost), wide(ByteCount), Some(hStream), NULL)
    }
    fn cuMemcpyAtoH(dstHost: *mut c_void, srcArray: CUarray, srcOffset: u32, ByteCount: u32) {
        array::run(array::host(dstHost), array::row(srcArray, wide(srcOffset)), wide(ByteCount), None, NULL)
    }
    fn cuMemcpyAtoHAsync(dstHost: *mut c_void, srcArray: CUarray, srcOffset: u32, ByteCount: u32, hStream: CUstream) {
        array::run(array::host(dstHost), array::row(srcArray, wide(srcOffset)), wide(ByteCount), Some(hStream), NULL)
    }
    fn cuMemcpyDtoA(dstArray: CUarray, dstOffset: u32, srcDevice: CUdeviceptr_v1, ByteCount: u32) {
        array::run(array::row(dstArray, wide(dstOffset)), array::device(srcDevice.into()), wide(ByteCount), None, NULL)
    }
    fn cuMemcpyAtoD(dstDevice: CUdeviceptr_v1, srcArray: CUarray, srcOffset: u32, ByteCount: u32) {
        array::run(array::device(dstDevice.into()), array::row(srcArray, wide(srcOffset)), wide(ByteCount), None, NULL)
    }
    fn cuMemcpyAtoA(dstArray: CUarray, dstOffset: u32, srcArray: CUarray, srcOffset: u32, ByteCount: u32) {
        array::run(array::row(dstArray, wide(dstOffset)), array::row(srcArray, wide(srcOffset)), wide(ByteCount), None, NULL)
    }
    fn cuMemsetD8(dstDevice: CUdeviceptr_v1, uc: u8, N: u32) {
        fill::run((dstDevice.into(), 0), (uc.into(), 1), (wide(N), 1), NULL)
    }
    fn cuMemsetD16(dstDevice: CUdeviceptr_v1, us: u16, N: u32) {
        fill::run((dstDevice.into(), 0), (us.into(), 2), (wide(N), 1), NULL)
    }
    fn cuMemsetD32(dstDevice: CUdeviceptr_v1, ui: u32, N: u32) {
        fill::run((dstDevice.into(), 0), (ui.into(), 4), (wide(N), 1), NULL)
    }
    fn cuMemsetD2D8(dstDevice: CUdeviceptr_v1, dstPitch: u32, uc: u8, Width: u32, Height: u32) {
        fill::run((dstDevice.into(), wide(dstPitch)), (uc.into(), 1), (wide(Width), wide(Height)), NULL)
    }
    fn cuMemsetD2D16(dstDevice: CUdeviceptr_v1, dstPitch: u32, us: u16, Width: u32, Height: u32) {
        fill::run((dstDevice.into(), wide(dstPitch)), (us.into(), 2), (wide(Width), wide(Height)), NULL)
    }
    fn cuMemsetD2D32(dstDevice: CUdeviceptr_v1, dstPitch: u32, ui: u32, Width: u32, Height: u32) {
        fill::run((dstDevice.into(), wide(dstPitch)), (ui.into(), 4), (wide(Width), wide(Height)), NULL)
    }
    fn cuArrayCreate(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY_DESCRIPTOR_v1) {
        array::create(pHandle, || Ok(array::flat(&widened_array(&get(pAllocateArray)?))))
    }
    fn cuArray3DCreate(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY3D_DESCRIPTOR_v1) {
        array::create(pHandle, || {
            let CUDA_ARRAY3D_DESCRIPTOR_v1 { Width, Height, Depth, Format, NumChannels, Flags } = get(pAllocateArray)?;
            let (Width, Height, Depth) = (wide(Width), wide(Height), wide(Depth));
            Ok(CUDA_ARRAY3D_DESCRIPTOR { Width, Height, Depth, Format, NumChannels, Flags })
        })
    }
    fn cuArrayGetDescriptor(pArrayDescriptor: *mut CUDA_ARRAY_DESCRIPTOR_v1, hArray: CUarray) {
        let CUDA_ARRAY3D_DESCRIPTOR { Width, Height, Format, NumChannels, .. } = describe(hArray)?;
        let (Width, Height) = (length(Width), length(Height));
        put(pArrayDescriptor, CUDA_ARRAY_DESCRIPTOR_v1 { Width, Height, Format, NumChannels })
    }
    fn cuArray3DGetDescriptor(pArrayDescriptor: *mut CUDA_ARRAY3D_DESCRIPTOR_v1, hArray: CUarray) {
        let CUDA_ARRAY3D_DESCRIPTOR { Width, Height, Depth, Format, NumChannels, Flags } = describe(hArray)?;
        let (Width, Height, Depth) = (length(Width), length(Height), length(Depth));
        put(pArrayDescriptor, CUDA_ARRAY3D_DESCRIPTOR_v1 { Width, Height, Depth, Format, NumChannels, Flags })
    }
    fn cuModuleGetGlobal(dptr: *mut CUdeviceptr_v1, bytes: *mut u32, hmod: CUmodule, name: *const c_char) {
        let (start, size) = module::global(hmod, name)?;
        put_if(dptr, short(start)?);
        put_if(bytes, narrow(size));
        Ok(())
    }
    fn cuTexRefSetAddress(ByteOffset: *mut u32, hTexRef: CUtexref, dptr: CUdeviceptr_v1, bytes: u32) {
        let offset = set_address(hTexRef, dptr.into(), wide(bytes), !ByteOffset.is_null())?;
        put_if(ByteOffset, narrow(offset));
        Ok(())
    }
    fn cuTexRefGetAddress(pdptr: *mut CUdeviceptr_v1, hTexRef: CUtexref) {
        put(pdptr, short(address_of(hTexRef)?)?)
    }
    fn cuTexRefSetAddress2D(hTexRef: CUtexref, desc: *const CUDA_ARRAY_DESCRIPTOR_v1, dptr: CUdeviceptr_v1, Pitch: u32) {
        bind_pitched(hTexRef, &widened_array(&get(desc)?), dptr.into(), wide(Pitch))
    }
}
