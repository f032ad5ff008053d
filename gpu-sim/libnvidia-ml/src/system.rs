//! What is true of the whole machine: versions, error texts, process names.

use std::ffi::{c_char, c_int, c_uint};
use std::fs;

use cuda_sys_stubs::nvml_abi::{self, NVML_ERROR_NOT_FOUND, nvmlReturn_t};

use gpu_sim::profile::{CUDA_VERSION, DRIVER_VERSION};

use crate::door::{exports, give, give_text};
use crate::session::machine;

exports! {
    fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) {
        machine()?;
        give_text(version, length, DRIVER_VERSION)
    }
    fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) {
        // NVML's version is the driver's behind the number of the CUDA major version.
        machine()?;
        give_text(version, length, &format!("{}.{DRIVER_VERSION}", CUDA_VERSION / 1000))
    }
    fn nvmlSystemGetCudaDriverVersion / nvmlSystemGetCudaDriverVersion_v2(cudaDriverVersion: *mut c_int) {
        machine()?;
        give(cudaDriverVersion, CUDA_VERSION)
    }
    fn nvmlUnitGetCount(unitCount: *mut c_uint) {
        machine()?;
        give(unitCount, 0)
    }
    fn nvmlSystemGetProcessName(pid: c_uint, name: *mut c_char, length: c_uint) {
        machine()?;
        let path = fs::read_link(format!("/proc/{pid}/exe")).map_err(|_| NVML_ERROR_NOT_FOUND)?;
        give_text(name, length, &path.to_string_lossy())
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    nvml_abi::result_description(result)
        .unwrap_or(c"unknown error")
        .as_ptr()
}
const _: cuda_sys_stubs::nvml_pfn::nvmlErrorString = nvmlErrorString;
