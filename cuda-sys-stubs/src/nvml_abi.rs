//! Types, constants and records of NVML, spelled as nvml.h of CUDA 13.5 spells them.
//!
//! The rules are those of [`crate::abi`]; the reference is NVIDIA's *NVML API Reference Guide*.
#![expect(
    missing_docs,
    reason = "the names are NVIDIA's; their reference documents them"
)]
#![expect(non_camel_case_types, non_snake_case, reason = "spelled as in nvml.h")]

mod enums;
mod records;
mod results;
mod types;

pub use enums::*;
pub use records::*;
pub use types::*;

use core::ffi::CStr;

/// The name of a status code as the header spells it; `None` for a number that is none.
#[must_use]
pub fn result_name(result: nvmlReturn_t) -> Option<&'static CStr> {
    crate::results::find(results::RESULTS, result).map(|text| text.name)
}

/// What a status code means, in this project's own words; `None` for a number that is none.
#[must_use]
pub fn result_description(result: nvmlReturn_t) -> Option<&'static CStr> {
    crate::results::find(results::RESULTS, result).map(|text| text.description)
}
