//! The boundary to C: what each exported function reads and writes through the pointers it is given.
//!
//! Files are named by the nouns of the API. A row checks pointers, calls the safe function that does the work, and writes the
//! answer; it decides nothing. Symbols without a row get a stub from the build script.
#![expect(
    unsafe_code,
    reason = "this is where a C program's pointers are followed, under the contract of the driver API"
)]
#![expect(non_snake_case, reason = "arguments are spelled as in cuda.h")]

mod array;
mod array_mapping;
pub(crate) mod capture;
mod context;
mod copy;
mod copy_batch;
mod device;
mod event;
mod fill;
mod function;
mod graph;
mod graph_conditional;
mod graph_exec;
mod graph_kernel;
mod graph_memory;
mod graph_node;
mod graph_words;
mod green;
mod ipc;
mod launch;
mod library;
mod link;
mod managed;
mod memory;
mod memory_query;
mod module;
mod multicast;
mod narrow;
mod pool;
mod resolver;
mod staged_launch;
mod stream;
mod stream_memory;
mod tensor_map;
mod texture;
mod texture_reference;
mod user_object;
mod virtual_memory;
mod workqueue;

use std::ffi::{CStr, c_char};

use cuda_sys_stubs::abi::CUDA_ERROR_INVALID_VALUE;

use crate::door::Answer;
use crate::image::Format;

/// Writes an answer. `CUDA_ERROR_INVALID_VALUE`: there is nowhere to.
///
/// # Safety
/// `to` is null or can be written.
unsafe fn put<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: not null, so it can be written (caller).
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// Writes an answer where one is wanted.
///
/// # Safety
/// As [`put`].
unsafe fn put_if<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: not null, so it can be written (caller).
        unsafe { to.write_unaligned(value) };
    }
}

/// Refuses a null pointer before anything is done.
fn wanted<T>(to: *mut T) -> Answer {
    if to.is_null() {
        Err(CUDA_ERROR_INVALID_VALUE)
    } else {
        Ok(())
    }
}

/// Reads a struct.
///
/// # Safety
/// `from` is null or points to a `T`, which stays as it is while the call lasts.
unsafe fn get<T: Copy>(from: *const T) -> Answer<T> {
    if from.is_null() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: not null, so it points to a `T` (caller).
    Ok(unsafe { from.read_unaligned() })
}

/// Reads a list; of none, the pointer does not matter.
///
/// # Safety
/// `from` is null or points to `count` elements, which stay as they are while the call lasts.
unsafe fn list<'a, T>(from: *const T, count: usize) -> Answer<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if from.is_null() || !from.is_aligned() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: not null, so it points to `count` elements (caller).
    Ok(unsafe { std::slice::from_raw_parts(from, count) })
}

/// Answers with a list the way the graph calls do: without a buffer only its length; with one, as much as fits, null
/// behind its end, and how many were written.
///
/// # Safety
/// `count` is null or points to a length; `to` is null or has room for that many.
unsafe fn put_list<T: Copy>(to: *mut T, count: *mut usize, found: &[T], none: T) -> Answer {
    // SAFETY: the caller's promise for `count`.
    let room = unsafe { get(count)? };
    if to.is_null() {
        // SAFETY: `count` was just read.
        return unsafe { put(count, found.len()) };
    }
    for index in 0..room {
        let value = found.get(index).copied().unwrap_or(none);
        // SAFETY: `to` has room for `room` elements (caller).
        unsafe { to.wrapping_add(index).write_unaligned(value) };
    }
    // SAFETY: `count` was just read.
    unsafe { put(count, found.len().min(room)) }
}

/// Reads a name or a path.
///
/// # Safety
/// `from` is null or a C string.
unsafe fn text<'a>(from: *const c_char) -> Answer<&'a str> {
    if from.is_null() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: not null, so it is a C string (caller).
    let text = unsafe { CStr::from_ptr(from) };
    text.to_str().map_err(|_| CUDA_ERROR_INVALID_VALUE)
}

/// Writes a C string, cut to `room` bytes with its NUL.
///
/// # Safety
/// `to` is null or has room for `room` bytes.
unsafe fn put_text(to: *mut c_char, room: i32, value: &str) -> Answer {
    let room = usize::try_from(room)
        .ok()
        .filter(|room| *room > 0)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    wanted(to)?;
    let bytes = value.bytes().take(room - 1).chain([0]);
    for (index, byte) in bytes.enumerate() {
        // SAFETY: at most `room` bytes are written (caller).
        unsafe { to.wrapping_add(index).write(byte.cast_signed()) };
    }
    Ok(())
}

/// The wrapper that compilers put around a fatbin: magic, version, pointer to it.
const FATBIN_WRAPPER_MAGIC: u32 = 0x4662_43b1;

/// The bytes of a module image, whose length only its format tells.
///
/// # Safety
/// `image` is null or points to a cubin, a fatbin, a fatbin's wrapper or NUL-terminated text.
unsafe fn image<'a>(image: *const std::ffi::c_void) -> Answer<&'a [u8]> {
    wanted(image.cast_mut())?;
    let bytes = image.cast::<u8>();
    // SAFETY: the caller's promise: four bytes, unless a NUL ends them before.
    let magic = unsafe { magic(bytes) };
    if let Some(format) = magic.and_then(|magic| Format::of(&magic)) {
        // SAFETY: an image of that format has a whole header, and says how long the rest is (caller).
        return unsafe { measured(bytes, format) }
            .ok_or(cuda_sys_stubs::abi::CUDA_ERROR_INVALID_IMAGE);
    }
    if magic == Some(FATBIN_WRAPPER_MAGIC.to_le_bytes()) {
        // SAFETY: the wrapper's third word is a pointer to the fatbin (caller).
        let inner = unsafe {
            bytes
                .add(8)
                .cast::<*const std::ffi::c_void>()
                .read_unaligned()
        };
        // SAFETY: as this function's own.
        return unsafe { self::image(inner) };
    }
    // SAFETY: anything else is NUL-terminated text (caller).
    Ok(unsafe { CStr::from_ptr(bytes.cast()) }.to_bytes())
}

/// The first four bytes, unless a NUL ends them before.
///
/// # Safety
/// `bytes` points to four bytes or to a C string.
unsafe fn magic(bytes: *const u8) -> Option<[u8; 4]> {
    let mut magic = [0; 4];
    for (index, to) in magic.iter_mut().enumerate() {
        // SAFETY: no NUL came before this byte, so it is there (caller).
        *to = unsafe { bytes.add(index).read() };
        if *to == 0 {
            return None;
        }
    }
    Some(magic)
}

/// # Safety
/// `bytes` points to a whole image of this format.
unsafe fn measured<'a>(bytes: *const u8, format: Format) -> Option<&'a [u8]> {
    // SAFETY: the header is part of the image (caller).
    let header = unsafe { std::slice::from_raw_parts(bytes, format.header_bytes()) };
    // SAFETY: so is the table that the header locates (caller).
    let table = unsafe { std::slice::from_raw_parts(bytes, format.table_bytes(header)?) };
    // SAFETY: so is everything that the table locates (caller).
    Some(unsafe { std::slice::from_raw_parts(bytes, format.extent(table)?) })
}

/// A pointer as a number that can become a pointer again.
fn address<T>(pointer: *const T) -> u64 {
    u64::try_from(pointer.expose_provenance()).unwrap_or(u64::MAX)
}

/// A length of the 64-bit ABI.
fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// A 64-bit length for the ABI of before CUDA 3.2, which has 32: as much as it can say.
fn narrow(length: u64) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
