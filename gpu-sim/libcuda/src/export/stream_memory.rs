//! Streams that write words to memory and wait for them.

use cuda_sys_stubs::abi::*;

use crate::door::{Answer, NullStream, exports};
use crate::fill::{FillParams, fill};
use crate::process::process;
use crate::watch::{self, Condition};

fn write(
    (stream, null): (CUstream, NullStream),
    address: CUdeviceptr,
    value: u64,
    bytes: u32,
    flags: u32,
) -> Answer {
    if flags & !CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let params = FillParams {
        address,
        pitch: 0,
        value,
        element_bytes: bytes,
        width: 1,
        height: 1,
    };
    fill(process()?, params, stream, null)
}

fn wait(
    stream: (CUstream, NullStream),
    address: CUdeviceptr,
    value: u64,
    bytes: u32,
    flags: u32,
) -> Answer {
    let kind = flags & !CU_STREAM_WAIT_VALUE_FLUSH;
    watch::wait(
        process()?,
        stream,
        address,
        Condition { kind, value, bytes },
    )
}

exports! {
    fn cuStreamWriteValue32 / cuStreamWriteValue32_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u32, flags: u32) {
        write((stream, null), addr, value.into(), 4, flags)
    }
    fn cuStreamWaitValue32 / cuStreamWaitValue32_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u32, flags: u32) {
        wait((stream, null), addr, value.into(), 4, flags)
    }
    fn cuStreamWriteValue32_v2 / cuStreamWriteValue32_v2_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u32, flags: u32) {
        write((stream, null), addr, value.into(), 4, flags)
    }
    fn cuStreamWaitValue32_v2 / cuStreamWaitValue32_v2_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u32, flags: u32) {
        wait((stream, null), addr, value.into(), 4, flags)
    }
    fn cuStreamWriteValue64 / cuStreamWriteValue64_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u64, flags: u32) {
        write((stream, null), addr, value, 8, flags)
    }
    fn cuStreamWaitValue64 / cuStreamWaitValue64_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u64, flags: u32) {
        wait((stream, null), addr, value, 8, flags)
    }
    fn cuStreamWriteValue64_v2 / cuStreamWriteValue64_v2_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u64, flags: u32) {
        write((stream, null), addr, value, 8, flags)
    }
    fn cuStreamWaitValue64_v2 / cuStreamWaitValue64_v2_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u64, flags: u32) {
        wait((stream, null), addr, value, 8, flags)
    }
}
