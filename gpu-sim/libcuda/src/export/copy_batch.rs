//! Copies that come in batches, and copies with attributes. Copies of a batch have no order among them, so one after the other is one.

use cuda_sys_stubs::abi::*;

use super::{address, get, list, put_if, wide};
use crate::array;
use crate::copy::{CopyParams, Return, SideParams, copy};
use crate::door::{Answer, NullStream, exports};
use crate::process::{State, process};

/// When a copy with these attributes may return: before its source was read, or not.
fn returns(order: CUmemcpySrcAccessOrder) -> Answer<Return> {
    match order {
        CU_MEMCPY_SRC_ACCESS_ORDER_STREAM | CU_MEMCPY_SRC_ACCESS_ORDER_ANY => Ok(Return::AtOnce),
        CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL => Ok(Return::WhenDone),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// A batch cannot go to the legacy null stream (CUDA Driver API, `cuMemcpyBatchAsync`).
fn check_stream((stream, null): (CUstream, NullStream)) -> Answer {
    const HANDLE_LEGACY: usize = 1;
    let is_legacy = match stream.addr() {
        0 => null == NullStream::Legacy,
        number => number == HANDLE_LEGACY,
    };
    if is_legacy {
        Err(CUDA_ERROR_INVALID_VALUE)
    } else {
        Ok(())
    }
}

/// Attributes of each copy: they hold from an index on, the first from the first copy on.
struct Attributes<'a> {
    attributes: &'a [CUmemcpyAttributes],
    from: &'a [usize],
}

impl Attributes<'_> {
    fn check(&self, count: usize) -> Answer {
        let starts = self.from.first() == Some(&0);
        let grows = self.from.windows(2).all(|pair| pair.first() < pair.get(1));
        let ends = self.from.last().is_some_and(|last| *last < count);
        if starts && grows && ends {
            Ok(())
        } else {
            Err(CUDA_ERROR_INVALID_VALUE)
        }
    }

    fn of(&self, index: usize) -> Answer<&CUmemcpyAttributes> {
        let at = self.from.partition_point(|from| *from <= index);
        let found = at.checked_sub(1).and_then(|at| self.attributes.get(at));
        found.ok_or(CUDA_ERROR_INVALID_VALUE)
    }
}

type Lists = (*mut CUdeviceptr, *mut CUdeviceptr, *mut usize, usize);
type AttributeLists = (*mut CUmemcpyAttributes, *mut usize, usize);

/// # Safety
/// Lists are as long as they are said to be.
unsafe fn batch(
    (dsts, srcs, sizes, count): Lists,
    (attributes, from, attribute_count): AttributeLists,
    fail_index: *mut usize,
    stream: (CUstream, NullStream),
) -> Answer {
    // SAFETY: the caller's promise, for each list.
    unsafe {
        put_if(fail_index, usize::MAX);
        let (dsts, srcs) = (list(dsts, count)?, list(srcs, count)?);
        let sizes = list(sizes, count)?;
        let attributes = Attributes {
            attributes: list(attributes, attribute_count)?,
            from: list(from, attribute_count)?,
        };
        check_stream(stream)?;
        attributes.check(count)?;
        for (index, ((dst, src), size)) in dsts.iter().zip(srcs).zip(sizes).enumerate() {
            let order = attributes.of(index)?.srcAccessOrder;
            one(*dst, *src, *size, order, stream).inspect_err(|_| put_if(fail_index, index))?;
        }
        Ok(())
    }
}

fn one(
    dst: CUdeviceptr,
    src: CUdeviceptr,
    bytes: usize,
    order: CUmemcpySrcAccessOrder,
    (stream, null): (CUstream, NullStream),
) -> Answer {
    if bytes == 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let any = |address| (CU_MEMORYTYPE_UNIFIED, address);
    let params = CopyParams::linear(any(dst), any(src), wide(bytes));
    copy(process()?, params, stream, null, returns(order)?)
}

/// Bytes of the elements that an operation counts in: those of the array that takes part – blocks, where it is compressed –, else bytes.
///
/// # Safety
/// The operand's type says which member was written.
unsafe fn element_bytes(state: &State, operand: &CUmemcpy3DOperand_v1) -> Answer<Option<u64>> {
    match operand.type_ {
        CU_MEMCPY_OPERAND_TYPE_POINTER => Ok(None),
        CU_MEMCPY_OPERAND_TYPE_ARRAY => {
            // SAFETY: it is the array that was written (caller).
            let array = array::find(state, unsafe { operand.op.array.array })?;
            array.shape.element_bytes().map(Some)
        }
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// # Safety
/// As [`element_bytes`].
unsafe fn side(
    operand: &CUmemcpy3DOperand_v1,
    element_bytes: u64,
    extent: &CUextent3D_v1,
) -> SideParams {
    let bytes = |elements: usize| wide(elements).saturating_mul(element_bytes);
    let or = |given: usize, least: usize| if given == 0 { least } else { given };
    if operand.type_ == CU_MEMCPY_OPERAND_TYPE_ARRAY {
        // SAFETY: it is the array that was written (caller).
        let at = unsafe { operand.op.array };
        return SideParams {
            x: bytes(at.offset.x),
            y: wide(at.offset.y),
            z: wide(at.offset.z),
            ..SideParams::linear(CU_MEMORYTYPE_ARRAY, address(at.array))
        };
    }
    // SAFETY: it is the pointer that was written (caller).
    let at = unsafe { operand.op.ptr };
    SideParams {
        pitch: bytes(or(at.rowLength, extent.width)),
        height: wide(or(at.layerHeight, extent.height)),
        ..SideParams::linear(CU_MEMORYTYPE_UNIFIED, at.ptr)
    }
}

/// # Safety
/// The operands' types say which members were written.
unsafe fn box_copy(
    operation: &CUDA_MEMCPY3D_BATCH_OP,
    (stream, null): (CUstream, NullStream),
) -> Answer {
    let process = process()?;
    // SAFETY: the caller's promise.
    let bytes = unsafe {
        let state = process.lock();
        let of_src = element_bytes(&state, &operation.src)?;
        of_src
            .or(element_bytes(&state, &operation.dst)?)
            .unwrap_or(1)
    };
    let CUextent3D_v1 {
        width,
        height,
        depth,
    } = operation.extent;
    if width == 0 || height == 0 || depth == 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    let (src, dst) = unsafe {
        (
            side(&operation.src, bytes, &operation.extent),
            side(&operation.dst, bytes, &operation.extent),
        )
    };
    let params = CopyParams {
        src,
        dst,
        width: wide(width).saturating_mul(bytes),
        height: wide(height),
        depth: wide(depth),
    };
    let when = returns(operation.srcAccessOrder)?;
    copy(process, params, stream, null, when)
}

/// # Safety
/// The list is as long as it is said to be; operands' types say which members were written.
unsafe fn box_batch(
    (operations, count): (*mut CUDA_MEMCPY3D_BATCH_OP, usize),
    fail_index: *mut usize,
    flags: u64,
    stream: (CUstream, NullStream),
) -> Answer {
    // SAFETY: the caller's promise.
    unsafe {
        put_if(fail_index, usize::MAX);
        let operations = list(operations, count)?;
        check_stream(stream)?;
        if flags != 0 || count == 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        for (index, operation) in operations.iter().enumerate() {
            box_copy(operation, stream).inspect_err(|_| put_if(fail_index, index))?;
        }
        Ok(())
    }
}

exports! {
    fn cuMemcpyBatchAsync / cuMemcpyBatchAsync_ptsz |null| (dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize, attrs: *mut CUmemcpyAttributes, attrsIdxs: *mut usize, numAttrs: usize, failIdx: *mut usize, hStream: CUstream) {
        process()?;
        batch((dsts, srcs, sizes, count), (attrs, attrsIdxs, numAttrs), failIdx, (hStream, null))
    }
    fn cuMemcpyBatchAsync_v2 / cuMemcpyBatchAsync_v2_ptsz |null| (dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize, attrs: *mut CUmemcpyAttributes, attrsIdxs: *mut usize, numAttrs: usize, hStream: CUstream) {
        process()?;
        batch((dsts, srcs, sizes, count), (attrs, attrsIdxs, numAttrs), std::ptr::null_mut(), (hStream, null))
    }
    fn cuMemcpy3DBatchAsync / cuMemcpy3DBatchAsync_ptsz |null| (numOps: usize, opList: *mut CUDA_MEMCPY3D_BATCH_OP, failIdx: *mut usize, flags: u64, hStream: CUstream) {
        process()?;
        box_batch((opList, numOps), failIdx, flags, (hStream, null))
    }
    fn cuMemcpy3DBatchAsync_v2 / cuMemcpy3DBatchAsync_v2_ptsz |null| (numOps: usize, opList: *mut CUDA_MEMCPY3D_BATCH_OP, flags: u64, hStream: CUstream) {
        process()?;
        box_batch((opList, numOps), std::ptr::null_mut(), flags, (hStream, null))
    }
    fn cuMemcpyWithAttributesAsync / cuMemcpyWithAttributesAsync_ptsz |null| (dst: CUdeviceptr, src: CUdeviceptr, size: usize, attr: *mut CUmemcpyAttributes, hStream: CUstream) {
        process()?;
        one(dst, src, size, get(attr.cast_const())?.srcAccessOrder, (hStream, null))
    }
    fn cuMemcpy3DWithAttributesAsync / cuMemcpy3DWithAttributesAsync_ptsz |null| (op: *mut CUDA_MEMCPY3D_BATCH_OP, flags: u64, hStream: CUstream) {
        process()?;
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        box_copy(&get(op.cast_const())?, (hStream, null))
    }
}
