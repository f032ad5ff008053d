//! Streams that write words to memory and wait for them.

use cuda_sys_stubs::abi::*;

use super::list;
use crate::door::{Answer, NullStream, exports};
use crate::fill::{FillParams, fill};
use crate::process::process;
use crate::watch::{self, Condition};

/// A write of one word as a fill.
fn written(address: CUdeviceptr, value: u64, bytes: u32, flags: u32) -> Answer<FillParams> {
    if flags & !CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    Ok(FillParams {
        address,
        pitch: 0,
        value,
        element_bytes: bytes,
        width: 1,
        height: 1,
    })
}

fn condition(value: u64, bytes: u32, flags: u32) -> Condition {
    let kind = flags & !CU_STREAM_WAIT_VALUE_FLUSH;
    Condition { kind, value, bytes }
}

fn write(
    (stream, null): (CUstream, NullStream),
    address: CUdeviceptr,
    value: u64,
    bytes: u32,
    flags: u32,
) -> Answer {
    let params = written(address, value, bytes, flags)?;
    fill(process()?, params, stream, null)
}

fn wait(
    stream: (CUstream, NullStream),
    address: CUdeviceptr,
    value: u64,
    bytes: u32,
    flags: u32,
) -> Answer {
    let condition = condition(value, bytes, flags);
    watch::wait(process()?, stream, address, condition)
}

/// Operations of one batch (CUDA Driver API, `cuStreamBatchMemOp`).
pub(super) const BATCH_MAX: u32 = 256;

/// What one operation does to a word.
pub(super) enum Word {
    Write(FillParams),
    Wait(CUdeviceptr, Condition),
}

/// Reads one operation; of a barrier nothing is left, because a stream's writes are seen in their order anyway.
///
/// # Safety
/// The operation says which member was written.
pub(super) unsafe fn decode(operation: &CUstreamBatchMemOpParams) -> Answer<Option<Word>> {
    // SAFETY: every member begins with the operation; the others are read under their own (caller).
    let (kind, word) = unsafe { (operation.operation, operation.waitValue) };
    let low = word.value64 & u64::from(u32::MAX);
    let wait = |value, bytes| Word::Wait(word.address, condition(value, bytes, word.flags));
    let write = |value, bytes| written(word.address, value, bytes, word.flags).map(Word::Write);
    Ok(Some(match kind {
        CU_STREAM_MEM_OP_WAIT_VALUE_32 => wait(low, 4),
        CU_STREAM_MEM_OP_WAIT_VALUE_64 => wait(word.value64, 8),
        CU_STREAM_MEM_OP_WRITE_VALUE_32 => write(low, 4)?,
        CU_STREAM_MEM_OP_WRITE_VALUE_64 => write(word.value64, 8)?,
        CU_STREAM_MEM_OP_BARRIER => return Ok(None),
        CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES | CU_STREAM_MEM_OP_ATOMIC_REDUCTION => {
            return Err(CUDA_ERROR_NOT_SUPPORTED);
        }
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    }))
}

/// Has a stream do one operation after the other.
///
/// # Safety
/// The list is as long as it is said to be; each operation says which member was written.
unsafe fn batch(
    (stream, null): (CUstream, NullStream),
    operations: *mut CUstreamBatchMemOpParams,
    count: u32,
    flags: u32,
) -> Answer {
    if flags != 0 || count > BATCH_MAX {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let count = usize::try_from(count).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    // SAFETY: the caller's promise.
    for operation in unsafe { list(operations.cast_const(), count)? } {
        // SAFETY: the caller's promise.
        match unsafe { decode(operation)? } {
            Some(Word::Write(params)) => fill(process()?, params, stream, null),
            Some(Word::Wait(address, condition)) => {
                watch::wait(process()?, (stream, null), address, condition)
            }
            None => Ok(()),
        }?;
    }
    Ok(())
}

exports! {
    fn cuStreamBatchMemOp / cuStreamBatchMemOp_ptsz |null| (stream: CUstream, count: u32, paramArray: *mut CUstreamBatchMemOpParams, flags: u32) {
        process()?;
        batch((stream, null), paramArray, count, flags)
    }
    fn cuStreamBatchMemOp_v2 / cuStreamBatchMemOp_v2_ptsz |null| (stream: CUstream, count: u32, paramArray: *mut CUstreamBatchMemOpParams, flags: u32) {
        process()?;
        batch((stream, null), paramArray, count, flags)
    }
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
