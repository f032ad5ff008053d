//! Streams that write words to memory and wait for them.

use cuda_sys_stubs::abi::*;

use super::list;
use crate::door::{Answer, NullStream, exports};
use crate::fill::FillParams;
use crate::graph::words::Words;
use crate::process::{State, process};
use crate::reduction::Reduction;
use crate::stream;
use crate::watch::{self, Condition, WordOperation};

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

/// Operations of one batch (CUDA Driver API, `cuStreamBatchMemOp`).
const BATCH_MAX: u32 = 256;

/// What is done to a word. `None`: it is a barrier, and a stream's writes are seen in their order anyway.
///
/// # Safety
/// The operation says which member was written.
unsafe fn plan(
    state: &State,
    operation: &CUstreamBatchMemOpParams,
) -> Answer<Option<WordOperation>> {
    // SAFETY: every member begins with the operation; the others are read under their own (caller).
    let kind = unsafe { operation.operation };
    if kind == CU_STREAM_MEM_OP_ATOMIC_REDUCTION {
        // SAFETY: as above.
        let reduction = Reduction::plan(state, unsafe { &operation.atomicReduction })?;
        return Ok(Some(WordOperation::Reduce(reduction)));
    }
    // SAFETY: as above.
    let word = unsafe { operation.waitValue };
    let low = word.value64 & u64::from(u32::MAX);
    let wait = |value, bytes| {
        let condition = condition(value, bytes, word.flags);
        WordOperation::wait(state, word.address, condition)
    };
    let write = |value, bytes| {
        WordOperation::write(state, written(word.address, value, bytes, word.flags)?)
    };
    match kind {
        CU_STREAM_MEM_OP_WAIT_VALUE_32 => wait(low, 4),
        CU_STREAM_MEM_OP_WAIT_VALUE_64 => wait(word.value64, 8),
        CU_STREAM_MEM_OP_WRITE_VALUE_32 => write(low, 4),
        CU_STREAM_MEM_OP_WRITE_VALUE_64 => write(word.value64, 8),
        CU_STREAM_MEM_OP_BARRIER => return Ok(None),
        CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES => return Err(CUDA_ERROR_NOT_SUPPORTED),
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    }
    .map(Some)
}

/// A batch, as a program describes it and as it is carried out.
///
/// # Safety
/// The list is as long as it is said to be; each operation says which member was written.
pub(super) unsafe fn words(
    state: &State,
    (operations, count): (*const CUstreamBatchMemOpParams, u32),
    flags: u32,
    context: usize,
) -> Answer<Words> {
    if flags != 0 || count > BATCH_MAX {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let count = usize::try_from(count).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    // SAFETY: the caller's promise.
    let described = unsafe { list(operations, count)? };
    let mut planned = Vec::with_capacity(count);
    for each in described {
        // SAFETY: the caller's promise.
        planned.extend(unsafe { plan(state, each)? });
    }
    Ok(Words::new(planned, described, context))
}

/// Has a stream do one operation after the other, or records them as one node if it is capturing.
///
/// # Safety
/// As [`words`].
unsafe fn batch(
    (stream, null): (CUstream, NullStream),
    operations: *const CUstreamBatchMemOpParams,
    count: u32,
    flags: u32,
) -> Answer {
    let process = process()?;
    let mut state = process.lock();
    let key = stream::resolve(process, &mut state, stream, null)?;
    let context = stream::get(&state, key)?.context.handle::<()>().addr();
    // SAFETY: the caller's promise.
    let words = unsafe { words(&state, (operations, count), flags, context)? };
    watch::perform(process, &mut state, key, words)
}

/// As [`batch`], of one operation.
fn one(
    stream: (CUstream, NullStream),
    operation: CUstreamBatchMemOpType,
    (address, value64, flags): (CUdeviceptr, u64, u32),
) -> Answer {
    let described = CUstreamBatchMemOpParams {
        waitValue: anonymous_memOpValue {
            operation,
            address,
            value64,
            flags,
            alias: 0,
        },
    };
    // SAFETY: a list of one; every operation has the members that were just written.
    unsafe { batch(stream, &raw const described, 1, 0) }
}

exports! {
    fn cuStreamBatchMemOp / cuStreamBatchMemOp_ptsz |null| (stream: CUstream, count: u32, paramArray: *mut CUstreamBatchMemOpParams, flags: u32) {
        batch((stream, null), paramArray.cast_const(), count, flags)
    }
    fn cuStreamBatchMemOp_v2 / cuStreamBatchMemOp_v2_ptsz |null| (stream: CUstream, count: u32, paramArray: *mut CUstreamBatchMemOpParams, flags: u32) {
        batch((stream, null), paramArray.cast_const(), count, flags)
    }
    fn cuStreamWriteValue32 / cuStreamWriteValue32_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u32, flags: u32) {
        one((stream, null), CU_STREAM_MEM_OP_WRITE_VALUE_32, (addr, value.into(), flags))
    }
    fn cuStreamWaitValue32 / cuStreamWaitValue32_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u32, flags: u32) {
        one((stream, null), CU_STREAM_MEM_OP_WAIT_VALUE_32, (addr, value.into(), flags))
    }
    fn cuStreamWriteValue32_v2 / cuStreamWriteValue32_v2_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u32, flags: u32) {
        one((stream, null), CU_STREAM_MEM_OP_WRITE_VALUE_32, (addr, value.into(), flags))
    }
    fn cuStreamWaitValue32_v2 / cuStreamWaitValue32_v2_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u32, flags: u32) {
        one((stream, null), CU_STREAM_MEM_OP_WAIT_VALUE_32, (addr, value.into(), flags))
    }
    fn cuStreamWriteValue64 / cuStreamWriteValue64_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u64, flags: u32) {
        one((stream, null), CU_STREAM_MEM_OP_WRITE_VALUE_64, (addr, value, flags))
    }
    fn cuStreamWaitValue64 / cuStreamWaitValue64_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u64, flags: u32) {
        one((stream, null), CU_STREAM_MEM_OP_WAIT_VALUE_64, (addr, value, flags))
    }
    fn cuStreamWriteValue64_v2 / cuStreamWriteValue64_v2_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u64, flags: u32) {
        one((stream, null), CU_STREAM_MEM_OP_WRITE_VALUE_64, (addr, value, flags))
    }
    fn cuStreamWaitValue64_v2 / cuStreamWaitValue64_v2_ptsz |null| (stream: CUstream, addr: CUdeviceptr, value: u64, flags: u32) {
        one((stream, null), CU_STREAM_MEM_OP_WAIT_VALUE_64, (addr, value, flags))
    }
}
