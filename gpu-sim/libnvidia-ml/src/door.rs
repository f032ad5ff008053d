//! The one door from C: every exported function is a row of [`exports!`].

use std::ffi::{CStr, c_char, c_uint};
use std::panic::{AssertUnwindSafe, catch_unwind};

use cuda_sys_stubs::nvml_abi::{
    NVML_ERROR_INSUFFICIENT_SIZE, NVML_ERROR_INVALID_ARGUMENT, NVML_ERROR_UNKNOWN, NVML_SUCCESS,
    nvmlReturn_t,
};

use crate::log;

/// What a call answers; the error is NVML's own status.
pub(crate) type Answer<T = ()> = Result<T, nvmlReturn_t>;

/// Runs one call: its body, and the last stop for a panic.
pub(crate) fn enter(symbol: &str, body: impl FnOnce() -> Answer) -> nvmlReturn_t {
    let answer = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        log::error(format_args!(
            "{symbol}: the simulation panicked, and answers NVML_ERROR_UNKNOWN"
        ));
        Err(NVML_ERROR_UNKNOWN)
    });
    answer.err().unwrap_or(NVML_SUCCESS)
}

/// Defines exported functions. A row is one signature and body under one name or several, `fn a / b (…) { … }`, whose ABI is
/// the same; the body answers `Answer<()>`.
macro_rules! exports {
    ($( fn $($name:ident)/ + ($($arg:ident: $type:ty),* $(,)?) $body:block )*) => { $(
        const _: () = {
            unsafe fn body($($arg: $type),*) -> $crate::door::Answer {
                #[allow(unused_unsafe, reason = "not every body touches pointers")]
                // SAFETY: the caller keeps NVML's contract: each pointer is null or good for what the call documents.
                unsafe { $body }
            }
            $crate::door::exports!(@names [$($name)+] ($($arg: $type),*));
        };
    )* };
    (@names [$($name:ident)+] $signature:tt) => { $( $crate::door::exports!(@export $name $signature); )+ };
    (@export $name:ident ($($arg:ident: $type:ty),*)) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $type),*) -> cuda_sys_stubs::nvml_abi::nvmlReturn_t {
            // SAFETY: arguments pass through unchanged under the caller's contract.
            $crate::door::enter(stringify!($name), || unsafe { body($($arg),*) })
        }
        const _: cuda_sys_stubs::nvml_pfn::$name = $name; // a row that disagrees with the ABI does not compile
    };
}
pub(crate) use exports;

/// Writes an answer where the caller wants it.
///
/// # Safety
/// `to` is null or good for one `T`.
pub(crate) unsafe fn give<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}

/// Reads what the caller points to.
///
/// # Safety
/// `from` is null or holds one `T`.
pub(crate) unsafe fn take<T: Copy>(from: *const T) -> Answer<T> {
    if from.is_null() {
        return Err(NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller's promise.
    Ok(unsafe { from.read() })
}

/// Reads a name that the caller passes.
///
/// # Safety
/// `text` is null or a string that ends in NUL and outlives the call.
pub(crate) unsafe fn text<'a>(text: *const c_char) -> Answer<&'a str> {
    if text.is_null() {
        return Err(NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller's promise.
    unsafe { CStr::from_ptr(text) }
        .to_str()
        .map_err(|_| NVML_ERROR_INVALID_ARGUMENT)
}

/// Writes a string into the caller's buffer of `length` bytes, or `NVML_ERROR_INSUFFICIENT_SIZE`.
///
/// # Safety
/// `to` is null or good for `length` bytes.
pub(crate) unsafe fn give_text(to: *mut c_char, length: c_uint, value: &str) -> Answer {
    if to.is_null() {
        return Err(NVML_ERROR_INVALID_ARGUMENT);
    }
    if usize::try_from(length).unwrap_or(0) <= value.len() {
        return Err(NVML_ERROR_INSUFFICIENT_SIZE);
    }
    // SAFETY: not null, and the buffer holds the string with its NUL, by the check above and the caller's promise.
    unsafe {
        to.copy_from_nonoverlapping(value.as_ptr().cast(), value.len());
        to.add(value.len()).write(0);
    }
    Ok(())
}

/// Fills the caller's array, whose capacity `count` says and which is set to how many there are; `NVML_ERROR_INSUFFICIENT_SIZE`
/// when they do not fit. A count of 0 only asks how many.
///
/// # Safety
/// `count` is null or good for one number, and `array` is null or good for that many `T`.
pub(crate) unsafe fn give_array<T: Copy>(
    array: *mut T,
    count: *mut c_uint,
    values: &[T],
) -> Answer {
    // SAFETY: the caller's promise.
    let capacity = usize::try_from(unsafe { take(count) }?).unwrap_or(0);
    // SAFETY: the caller's promise.
    unsafe { give(count, c_uint::try_from(values.len()).unwrap_or(c_uint::MAX)) }?;
    if values.is_empty() {
        return Ok(());
    }
    if capacity < values.len() {
        return Err(NVML_ERROR_INSUFFICIENT_SIZE);
    }
    if array.is_null() {
        return Err(NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, and good for at least as many as there are, by the check above and the caller's promise.
    unsafe { array.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;

    #[test]
    fn a_string_that_does_not_fit_with_its_nul_is_refused() {
        let mut buffer = [1 as c_char; 4];
        // SAFETY: the buffer is as long as said.
        unsafe {
            assert_eq!(
                give_text(buffer.as_mut_ptr(), 4, "four"),
                Err(NVML_ERROR_INSUFFICIENT_SIZE)
            );
            assert_eq!(give_text(buffer.as_mut_ptr(), 4, "thr"), Ok(()));
        }
        assert_eq!(buffer[3], 0);
    }

    #[test]
    fn an_array_with_no_room_says_how_much_it_needs() {
        let mut count = 0;
        // SAFETY: a count, and an array that the count says is not there.
        let answer = unsafe { give_array(ptr::null_mut::<u8>(), &raw mut count, &[1, 2, 3]) };
        assert_eq!((answer, count), (Err(NVML_ERROR_INSUFFICIENT_SIZE), 3));
    }
}
