//! What the dynamic loader of this very process says: the glibc it is part of, and the driver it finds.
//!
//! With `unsafe`: a driver must be opened and asked to know that it can be, and glibc tells its version by a C function.
#![expect(
    unsafe_code,
    reason = "dlopen of the driver, one call into it, and gnu_get_libc_version"
)]

use std::error::Error;
use std::ffi::{CStr, c_int};
use std::fs;
use std::path::Path;

use cuda_hook_libraries::Driver;
use cuda_sys_stubs::abi::CUDA_SUCCESS;
use cuda_sys_stubs::pfn;
use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};

use crate::mapped;

/// Opens `name`, a SONAME or a path, as a program would, and closes it again.
///
/// # Errors
/// The loader's own message.
pub(crate) fn open(name: &Path) -> Result<Driver, String> {
    // SAFETY: the driver's promise: `libcuda.so.1` may be loaded into any process; its constructors assume nothing.
    let opened = unsafe { Library::open(Some(name), RTLD_LAZY | RTLD_LOCAL) };
    let library = opened.map_err(|error| {
        error
            .source()
            .map_or_else(|| error.to_string(), ToString::to_string)
    })?;
    let path = if name.is_absolute() {
        fs::canonicalize(name).ok()
    } else {
        mapped::file("libcuda.so")
    };
    let cuda_version = cuda_version(&library);
    Ok(Driver {
        path: path.unwrap_or_else(|| name.to_owned()),
        cuda_version,
    })
}

fn cuda_version(library: &Library) -> Option<i32> {
    // SAFETY: the type is the ABI's for this name (cuda.h).
    let get_version =
        unsafe { library.get::<pfn::cuDriverGetVersion>(b"cuDriverGetVersion\0") }.ok()?;
    let mut version: c_int = 0;
    // SAFETY: the driver's contract: may be called before cuInit, and writes one int.
    let status = unsafe { get_version(&raw mut version) };
    (status == CUDA_SUCCESS).then_some(version)
}

/// Version of the glibc that this process runs on, as `2.36`.
pub(crate) fn glibc_version() -> String {
    // SAFETY: glibc's promise: a static string, valid for ever.
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    version.to_string_lossy().into_owned()
}
