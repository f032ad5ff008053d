//! What is known of a pointer.

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

use super::{list, put, wanted};
use crate::address::{Backing, Range};
use crate::door::{Answer, exports};
use crate::memory::{self, Attribute};
use crate::process::process;

/// Writes a value in the type that the attribute has.
///
/// # Safety
/// `to` is null or has room for the attribute's type.
unsafe fn write(to: *mut c_void, value: Attribute) -> Answer {
    // SAFETY: the caller's promise, for each type in turn.
    unsafe {
        match value {
            Attribute::Pointer(value) | Attribute::Long(value) => put(to.cast::<u64>(), value),
            Attribute::Word(value) => put(to.cast::<u32>(), value),
            Attribute::Byte(value) => put(to.cast::<u8>(), value),
            Attribute::Tokens => put(to.cast::<[u64; 2]>(), [0; 2]),
        }
    }
}

exports! {
    fn cuPointerGetAttribute(data: *mut c_void, attribute: CUpointer_attribute, ptr: CUdeviceptr) {
        let process = process()?;
        wanted(data)?;
        let value = memory::attribute(&process.lock(), attribute, ptr)?;
        write(data, value.ok_or(CUDA_ERROR_INVALID_VALUE)?)
    }
    fn cuPointerGetAttributes(numAttributes: u32, attributes: *mut CUpointer_attribute, data: *mut *mut c_void, ptr: CUdeviceptr) {
        let process = process()?;
        let count = usize::try_from(numAttributes).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
        let (attributes, data) = (list(attributes, count)?, list(data, count)?);
        if count == 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let state = process.lock();
        for (attribute, to) in attributes.iter().zip(data) {
            let value = match memory::attribute(&state, *attribute, ptr) {
                Ok(Some(value)) => value,
                // Attributes that do not apply are written as for an unknown pointer.
                Ok(None) | Err(_) => Attribute::unknown(*attribute),
            };
            write(*to, value)?;
        }
        Ok(())
    }
    fn cuPointerSetAttribute(value: *const c_void, attribute: CUpointer_attribute, ptr: CUdeviceptr) {
        let process = process()?;
        wanted(value.cast_mut())?;
        let has_memory = |range: &Range| range.block().is_some() || matches!(range.backing, Backing::Managed(_));
        let is_known = process.lock().book.find(ptr).is_some_and(has_memory);
        if attribute == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS && is_known { Ok(()) } else { Err(CUDA_ERROR_INVALID_VALUE) }
    }
}
