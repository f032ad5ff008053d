//! Copies, one at a time.

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

use super::{address, get, wide};
use crate::context;
use crate::copy::{CopyParams, Return, SideParams, copy};
use crate::door::{Answer, NullStream, exports};
use crate::process::process;

const DEVICE: CUmemorytype = CU_MEMORYTYPE_DEVICE;
const HOST: CUmemorytype = CU_MEMORYTYPE_HOST;
const ANY: CUmemorytype = CU_MEMORYTYPE_UNIFIED;

/// Synchronous calls take the null stream.
const NONE: CUstream = std::ptr::null_mut();

pub(super) fn linear(
    dst: (CUmemorytype, u64),
    src: (CUmemorytype, u64),
    bytes: usize,
    stream: CUstream,
    null: NullStream,
    when: Return,
) -> Answer {
    copy(
        process()?,
        CopyParams::linear(dst, src, wide(bytes)),
        stream,
        null,
        when,
    )
}

/// Copies as the parameters say.
pub(super) fn run(params: CopyParams, stream: CUstream, null: NullStream, when: Return) -> Answer {
    copy(process()?, params, stream, null, when)
}

fn side(
    memory_type: CUmemorytype,
    (host, device, array): (u64, u64, u64),
    (x, y, z): (usize, usize, usize),
    (pitch, height): (usize, usize),
) -> SideParams {
    let address = match memory_type {
        HOST => host,
        CU_MEMORYTYPE_ARRAY => array,
        _ => device,
    };
    SideParams {
        x: wide(x),
        y: wide(y),
        z: wide(z),
        memory_type,
        address,
        pitch: wide(pitch),
        height: wide(height),
    }
}

pub(super) fn from_2d(copy: &CUDA_MEMCPY2D) -> CopyParams {
    CopyParams {
        src: side(
            copy.srcMemoryType,
            (
                address(copy.srcHost),
                copy.srcDevice,
                address(copy.srcArray),
            ),
            (copy.srcXInBytes, copy.srcY, 0),
            (copy.srcPitch, 0),
        ),
        dst: side(
            copy.dstMemoryType,
            (
                address(copy.dstHost),
                copy.dstDevice,
                address(copy.dstArray),
            ),
            (copy.dstXInBytes, copy.dstY, 0),
            (copy.dstPitch, 0),
        ),
        width: wide(copy.WidthInBytes),
        height: wide(copy.Height),
        depth: 1,
    }
}

pub(super) fn from_3d(copy: &CUDA_MEMCPY3D) -> CopyParams {
    let (src, dst) = (
        (copy.srcXInBytes, copy.srcY, copy.srcZ),
        (copy.dstXInBytes, copy.dstY, copy.dstZ),
    );
    CopyParams {
        src: side(
            copy.srcMemoryType,
            (
                address(copy.srcHost),
                copy.srcDevice,
                address(copy.srcArray),
            ),
            src,
            (copy.srcPitch, copy.srcHeight),
        ),
        dst: side(
            copy.dstMemoryType,
            (
                address(copy.dstHost),
                copy.dstDevice,
                address(copy.dstArray),
            ),
            dst,
            (copy.dstPitch, copy.dstHeight),
        ),
        width: wide(copy.WidthInBytes),
        height: wide(copy.Height),
        depth: wide(copy.Depth),
    }
}

fn from_peer(copy: &CUDA_MEMCPY3D_PEER) -> CopyParams {
    let (src, dst) = (
        (copy.srcXInBytes, copy.srcY, copy.srcZ),
        (copy.dstXInBytes, copy.dstY, copy.dstZ),
    );
    CopyParams {
        src: side(
            copy.srcMemoryType,
            (
                address(copy.srcHost),
                copy.srcDevice,
                address(copy.srcArray),
            ),
            src,
            (copy.srcPitch, copy.srcHeight),
        ),
        dst: side(
            copy.dstMemoryType,
            (
                address(copy.dstHost),
                copy.dstDevice,
                address(copy.dstArray),
            ),
            dst,
            (copy.dstPitch, copy.dstHeight),
        ),
        width: wide(copy.WidthInBytes),
        height: wide(copy.Height),
        depth: wide(copy.Depth),
    }
}

fn check_contexts(contexts: [CUcontext; 2]) -> Answer {
    let process = process()?;
    let state = process.lock();
    contexts
        .into_iter()
        .try_for_each(|handle| context::find(&state, handle).map(drop))
}

exports! {
    fn cuMemcpy / cuMemcpy_ptds |null| (dst: CUdeviceptr, src: CUdeviceptr, ByteCount: usize) {
        linear((ANY, dst), (ANY, src), ByteCount, NONE, null, Return::WhenDone)
    }
    fn cuMemcpyAsync / cuMemcpyAsync_ptsz |null| (dst: CUdeviceptr, src: CUdeviceptr, ByteCount: usize, hStream: CUstream) {
        linear((ANY, dst), (ANY, src), ByteCount, hStream, null, Return::AtOnce)
    }
    fn cuMemcpyHtoD_v2 / cuMemcpyHtoD_v2_ptds |null| (dstDevice: CUdeviceptr, srcHost: *const c_void, ByteCount: usize) {
        linear((DEVICE, dstDevice), (HOST, address(srcHost)), ByteCount, NONE, null, Return::WhenDone)
    }
    fn cuMemcpyHtoDAsync_v2 / cuMemcpyHtoDAsync_v2_ptsz |null| (dstDevice: CUdeviceptr, srcHost: *const c_void, ByteCount: usize, hStream: CUstream) {
        linear((DEVICE, dstDevice), (HOST, address(srcHost)), ByteCount, hStream, null, Return::AtOnce)
    }
    fn cuMemcpyDtoH_v2 / cuMemcpyDtoH_v2_ptds |null| (dstHost: *mut c_void, srcDevice: CUdeviceptr, ByteCount: usize) {
        linear((HOST, address(dstHost)), (DEVICE, srcDevice), ByteCount, NONE, null, Return::WhenDone)
    }
    fn cuMemcpyDtoHAsync_v2 / cuMemcpyDtoHAsync_v2_ptsz |null| (dstHost: *mut c_void, srcDevice: CUdeviceptr, ByteCount: usize, hStream: CUstream) {
        linear((HOST, address(dstHost)), (DEVICE, srcDevice), ByteCount, hStream, null, Return::AtOnce)
    }
    fn cuMemcpyDtoD_v2 / cuMemcpyDtoD_v2_ptds |null| (dstDevice: CUdeviceptr, srcDevice: CUdeviceptr, ByteCount: usize) {
        linear((DEVICE, dstDevice), (DEVICE, srcDevice), ByteCount, NONE, null, Return::WhenDone)
    }
    fn cuMemcpyDtoDAsync_v2 / cuMemcpyDtoDAsync_v2_ptsz |null| (dstDevice: CUdeviceptr, srcDevice: CUdeviceptr, ByteCount: usize, hStream: CUstream) {
        linear((DEVICE, dstDevice), (DEVICE, srcDevice), ByteCount, hStream, null, Return::AtOnce)
    }
    fn cuMemcpyPeer / cuMemcpyPeer_ptds |null| (dstDevice: CUdeviceptr, dstContext: CUcontext, srcDevice: CUdeviceptr, srcContext: CUcontext, ByteCount: usize) {
        check_contexts([dstContext, srcContext])?;
        linear((DEVICE, dstDevice), (DEVICE, srcDevice), ByteCount, NONE, null, Return::WhenDone)
    }
    fn cuMemcpyPeerAsync / cuMemcpyPeerAsync_ptsz |null| (dstDevice: CUdeviceptr, dstContext: CUcontext, srcDevice: CUdeviceptr, srcContext: CUcontext, ByteCount: usize, hStream: CUstream) {
        check_contexts([dstContext, srcContext])?;
        linear((DEVICE, dstDevice), (DEVICE, srcDevice), ByteCount, hStream, null, Return::AtOnce)
    }
    fn cuMemcpy2D_v2 / cuMemcpy2D_v2_ptds |null| (pCopy: *const CUDA_MEMCPY2D) {
        run(from_2d(&get(pCopy)?), NONE, null, Return::WhenDone)
    }
    fn cuMemcpy2DUnaligned_v2 / cuMemcpy2DUnaligned_v2_ptds |null| (pCopy: *const CUDA_MEMCPY2D) {
        run(from_2d(&get(pCopy)?), NONE, null, Return::WhenDone)
    }
    fn cuMemcpy2DAsync_v2 / cuMemcpy2DAsync_v2_ptsz |null| (pCopy: *const CUDA_MEMCPY2D, hStream: CUstream) {
        run(from_2d(&get(pCopy)?), hStream, null, Return::AtOnce)
    }
    fn cuMemcpy3D_v2 / cuMemcpy3D_v2_ptds |null| (pCopy: *const CUDA_MEMCPY3D) {
        run(from_3d(&get(pCopy)?), NONE, null, Return::WhenDone)
    }
    fn cuMemcpy3DAsync_v2 / cuMemcpy3DAsync_v2_ptsz |null| (pCopy: *const CUDA_MEMCPY3D, hStream: CUstream) {
        run(from_3d(&get(pCopy)?), hStream, null, Return::AtOnce)
    }
    fn cuMemcpy3DPeer / cuMemcpy3DPeer_ptds |null| (pCopy: *const CUDA_MEMCPY3D_PEER) {
        let params = get(pCopy)?;
        check_contexts([params.dstContext, params.srcContext])?;
        run(from_peer(&params), NONE, null, Return::WhenDone)
    }
    fn cuMemcpy3DPeerAsync / cuMemcpy3DPeerAsync_ptsz |null| (pCopy: *const CUDA_MEMCPY3D_PEER, hStream: CUstream) {
        let params = get(pCopy)?;
        check_contexts([params.dstContext, params.srcContext])?;
        run(from_peer(&params), hStream, null, Return::AtOnce)
    }
}
