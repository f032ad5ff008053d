//! The CUDA driver API and NVML as data: ABI types, a function-pointer type per symbol, what each symbol does to a quota.
//!
//! Nothing here is exported to C and nothing here runs on its own: the interposing library, the simulated driver and
//! the tests read the same tables, `symbols/*.tsv`, from which `scripts/generate-abi` writes much of this crate.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod get_proc_address;
pub mod layout;
pub mod nvml_abi;
#[expect(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    reason = "spelled as in nvml.h"
)]
pub mod nvml_pfn;
#[expect(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    reason = "spelled as in cuda.h"
)]
pub mod pfn;
mod results;
pub mod symbols;

pub use symbols::Effect;
