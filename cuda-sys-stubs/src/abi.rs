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
mod enums;
mod records;
mod results;
mod types;

pub use callbacks::*;
pub use enums::*;
pub use records::*;
pub use types::*;

use core::ffi::CStr;

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
