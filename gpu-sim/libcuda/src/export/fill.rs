//! Memsets.

use cuda_sys_stubs::abi::*;

use super::wide;
use crate::door::{Answer, NullStream, exports};
use crate::fill::{FillParams, fill, fill_now};
use crate::process::process;

fn params(
    address: CUdeviceptr,
    pitch: usize,
    value: u64,
    element_bytes: u32,
    (width, height): (usize, usize),
) -> FillParams {
    FillParams {
        address,
        pitch: wide(pitch),
        value,
        element_bytes,
        width: wide(width),
        height: wide(height),
    }
}

/// Fills at once: from an address on, in rows of a pitch, with a value of so many bytes.
pub(super) fn run(
    (address, pitch): (CUdeviceptr, usize),
    (value, element_bytes): (u64, u32),
    extent: (usize, usize),
    null: NullStream,
) -> Answer {
    let params = params(address, pitch, value, element_bytes, extent);
    fill_now(process()?, params, null)
}

exports! {
    fn cuMemsetD8_v2 / cuMemsetD8_v2_ptds |null| (dstDevice: CUdeviceptr, uc: u8, N: usize) {
        run((dstDevice, 0), (uc.into(), 1), (N, 1), null)
    }
    fn cuMemsetD8Async / cuMemsetD8Async_ptsz |null| (dstDevice: CUdeviceptr, uc: u8, N: usize, hStream: CUstream) {
        fill(process()?, params(dstDevice, 0, uc.into(), 1, (N, 1)), hStream, null)
    }
    fn cuMemsetD2D8_v2 / cuMemsetD2D8_v2_ptds |null| (dstDevice: CUdeviceptr, dstPitch: usize, uc: u8, Width: usize, Height: usize) {
        run((dstDevice, dstPitch), (uc.into(), 1), (Width, Height), null)
    }
    fn cuMemsetD2D8Async / cuMemsetD2D8Async_ptsz |null| (dstDevice: CUdeviceptr, dstPitch: usize, uc: u8, Width: usize, Height: usize, hStream: CUstream) {
        fill(process()?, params(dstDevice, dstPitch, uc.into(), 1, (Width, Height)), hStream, null)
    }
    fn cuMemsetD16_v2 / cuMemsetD16_v2_ptds |null| (dstDevice: CUdeviceptr, us: u16, N: usize) {
        run((dstDevice, 0), (us.into(), 2), (N, 1), null)
    }
    fn cuMemsetD16Async / cuMemsetD16Async_ptsz |null| (dstDevice: CUdeviceptr, us: u16, N: usize, hStream: CUstream) {
        fill(process()?, params(dstDevice, 0, us.into(), 2, (N, 1)), hStream, null)
    }
    fn cuMemsetD2D16_v2 / cuMemsetD2D16_v2_ptds |null| (dstDevice: CUdeviceptr, dstPitch: usize, us: u16, Width: usize, Height: usize) {
        run((dstDevice, dstPitch), (us.into(), 2), (Width, Height), null)
    }
    fn cuMemsetD2D16Async / cuMemsetD2D16Async_ptsz |null| (dstDevice: CUdeviceptr, dstPitch: usize, us: u16, Width: usize, Height: usize, hStream: CUstream) {
        fill(process()?, params(dstDevice, dstPitch, us.into(), 2, (Width, Height)), hStream, null)
    }
    fn cuMemsetD32_v2 / cuMemsetD32_v2_ptds |null| (dstDevice: CUdeviceptr, ui: u32, N: usize) {
        run((dstDevice, 0), (ui.into(), 4), (N, 1), null)
    }
    fn cuMemsetD32Async / cuMemsetD32Async_ptsz |null| (dstDevice: CUdeviceptr, ui: u32, N: usize, hStream: CUstream) {
        fill(process()?, params(dstDevice, 0, ui.into(), 4, (N, 1)), hStream, null)
    }
    fn cuMemsetD2D32_v2 / cuMemsetD2D32_v2_ptds |null| (dstDevice: CUdeviceptr, dstPitch: usize, ui: u32, Width: usize, Height: usize) {
        run((dstDevice, dstPitch), (ui.into(), 4), (Width, Height), null)
    }
    fn cuMemsetD2D32Async / cuMemsetD2D32Async_ptsz |null| (dstDevice: CUdeviceptr, dstPitch: usize, ui: u32, Width: usize, Height: usize, hStream: CUstream) {
        fill(process()?, params(dstDevice, dstPitch, ui.into(), 4, (Width, Height)), hStream, null)
    }
}
