//! What the dynamic loader of this very process says: the glibc it is part of, and the driver it finds.
//!
//! With `unsafe`: a driver must be opened and asked to know that it can be, and glibc tells its version by a C function.
#![expect(
    unsafe_code,
    reason = "dlopen of the driver, one call into it, and gnu_get_libc_version"
)]

use std::ffi::{CStr, c_int};
use std::fs;
use std::path::{Path, PathBuf};

use cuda_sys_stubs::abi::CUDA_SUCCESS;
use cuda_sys_stubs::pfn;
use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};

/// A driver that the loader could open.
#[derive(Debug)]
pub(crate) struct Driver {
    /// The file, links resolved.
    pub(crate) path: PathBuf,
    /// Newest CUDA version that it serves, as `cuDriverGetVersion` says it (12020 = 12.2); `None`: it would not say.
    pub(crate) cuda_version: Option<i32>,
}

/// Opens `name`, a SONAME or a path, as a program would, and closes it again.
///
/// # Errors
/// The loader's own message.
pub(crate) fn open_driver(name: &Path) -> Result<Driver, libloading::Error> {
    // SAFETY: the driver's promise: `libcuda.so.1` may be loaded into any process; its constructors assume nothing.
    let library = unsafe { Library::open(Some(name), RTLD_LAZY | RTLD_LOCAL)? };
    let path = if name.is_absolute() {
        fs::canonicalize(name).ok()
    } else {
        mapped("libcuda.so")
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

/// The file in this process's memory whose name begins so (proc_pid_maps(5)).
pub(crate) fn mapped(name: &str) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let mut files = maps.lines().filter_map(|line| line.get(line.find('/')?..));
    files
        .find(|file| {
            file.rsplit('/')
                .next()
                .is_some_and(|file| file.starts_with(name))
        })
        .map(PathBuf::from)
}

/// Version of the glibc that this process runs on, as `2.36`.
pub(crate) fn glibc_version() -> String {
    // SAFETY: glibc's promise: a static string, valid for ever.
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    version.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_not_there_is_an_error_with_its_name() {
        let error = open_driver(Path::new("/nonexistent/libcuda.so.1")).unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains("/nonexistent/libcuda.so.1"), "{text}");
    }

    #[test]
    fn glibc_says_its_version_in_numbers() {
        assert!(crate::doctor::elf::glibc_version(&glibc_version()).is_some());
    }
}
