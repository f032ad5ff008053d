//! Types, constants and records of NVML, spelled as nvml.h of CUDA 13.5 spells them.
//!
//! The rules are those of [`crate::abi`]; the reference is NVIDIA's *NVML API Reference Guide*.
#![expect(
    missing_docs,
    reason = "the names are NVIDIA's; their reference documents them"
)]
#![expect(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    reason = "spelled as in nvml.h"
)]

mod constants;
mod enums;
mod records;
mod results;
mod types;

pub use constants::*;
pub use enums::*;
pub use records::*;
pub use types::*;

use core::ffi::{CStr, c_uint};

/// What a caller writes into the `version` field of a versioned struct: its size in bytes, and the version in the top byte.
///
/// Source: the definition of `NVML_STRUCT_VERSION` in nvml.h.
#[must_use]
pub const fn struct_version<T>(version: u8) -> c_uint {
    assert!(
        size_of::<T>() < 1 << 24,
        "the size shares a word with the version"
    );
    size_of::<T>() as c_uint | (version as c_uint) << 24
}

/// The `version` of a [`nvmlMemory_v2_t`].
pub const nvmlMemory_v2: c_uint = struct_version::<nvmlMemory_v2_t>(2);
/// The `version` of a [`nvmlProcessDetailList_v1_t`].
pub const nvmlProcessDetailList_v1: c_uint = struct_version::<nvmlProcessDetailList_v1_t>(1);
/// The `version` of a [`nvmlProcessesUtilizationInfo_v1_t`].
pub const nvmlProcessesUtilizationInfo_v1: c_uint =
    struct_version::<nvmlProcessesUtilizationInfo_v1_t>(1);
/// The `version` of a [`nvmlPciInfoExt_v1_t`].
pub const nvmlPciInfoExt_v1: c_uint = struct_version::<nvmlPciInfoExt_v1_t>(1);
/// The `version` of a [`nvmlTemperature_v1_t`].
pub const nvmlTemperature_v1: c_uint = struct_version::<nvmlTemperature_v1_t>(1);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_code_of_nvml_has_its_name_and_a_description() {
        assert_eq!(result_name(NVML_SUCCESS), Some(c"NVML_SUCCESS"));
        assert_eq!(
            result_name(NVML_ERROR_ARGUMENT_VERSION_MISMATCH),
            Some(c"NVML_ERROR_ARGUMENT_VERSION_MISMATCH")
        );
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
    fn a_versioned_struct_says_its_size_and_its_version() {
        assert_eq!(nvmlMemory_v2, 40 | 2 << 24);
    }
}
