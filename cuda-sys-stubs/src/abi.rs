//! Types, constants and records of the CUDA driver API, spelled as cuda.h of CUDA 13.5 spells them.
//!
//! An enumeration is an integer and constants: the driver may answer with a value that this crate does not know.
//! A struct that nobody here reads is opaque, for use behind a pointer only. What the fields mean is said by
//! NVIDIA's *CUDA Driver API* reference; numbers and layouts are compared with the header by `scripts/check-layouts`.
#![expect(
    missing_docs,
    reason = "the names are NVIDIA's; their reference documents them"
)]
#![expect(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    reason = "spelled as in cuda.h"
)]

mod callbacks;
mod constants;
mod enums;
mod records;
mod results;
mod types;

pub use callbacks::*;
pub use constants::*;
pub use enums::*;
pub use records::*;
pub use types::*;

use core::ffi::{CStr, c_void};
use core::ptr::without_provenance_mut;

/// The legacy default stream, by name.
pub const CU_STREAM_LEGACY: CUstream = without_provenance_mut(1);
/// The calling thread's own default stream, by name.
pub const CU_STREAM_PER_THREAD: CUstream = without_provenance_mut(2);

/// Ends the `extra` array of a launch.
pub const CU_LAUNCH_PARAM_END: *mut c_void = without_provenance_mut(0);
/// In the `extra` array: the next element points at the packed arguments.
pub const CU_LAUNCH_PARAM_BUFFER_POINTER: *mut c_void = without_provenance_mut(1);
/// In the `extra` array: the next element points at the size of the packed arguments, a `usize` in bytes.
pub const CU_LAUNCH_PARAM_BUFFER_SIZE: *mut c_void = without_provenance_mut(2);

/// The name of a status code as the header spells it; `None` for a number that is none.
#[must_use]
pub fn result_name(result: CUresult) -> Option<&'static CStr> {
    crate::results::find(results::RESULTS, result).map(|text| text.name)
}

/// What a status code means, in this project's own words; `None` for a number that is none.
#[must_use]
pub fn result_description(result: CUresult) -> Option<&'static CStr> {
    crate::results::find(results::RESULTS, result).map(|text| text.description)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_code_of_the_driver_has_its_name_and_a_description() {
        assert_eq!(result_name(CUDA_SUCCESS), Some(c"CUDA_SUCCESS"));
        assert_eq!(
            result_name(CUDA_ERROR_OUT_OF_MEMORY),
            Some(c"CUDA_ERROR_OUT_OF_MEMORY")
        );
        assert_eq!(result_name(CUDA_ERROR_UNKNOWN), Some(c"CUDA_ERROR_UNKNOWN"));
        for text in results::RESULTS {
            assert_eq!(result_name(text.code), Some(text.name));
            assert!(
                result_description(text.code).is_some_and(|description| !description.is_empty()),
                "{:?}",
                text.name
            );
        }
    }

    #[test]
    fn a_number_that_is_no_status_code_has_no_name() {
        assert_eq!((result_name(9999), result_description(9999)), (None, None));
    }
}
