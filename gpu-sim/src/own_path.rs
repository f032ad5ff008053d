//! Where the library or program lies that holds this code.
#![expect(unsafe_code, reason = "asks the loader, which only speaks C")]

use std::ffi::{CStr, OsStr};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Path of the library, or of the program where we are linked into it.
pub(crate) fn own_path() -> Option<PathBuf> {
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    let inside = own_path as fn() -> Option<PathBuf> as *const libc::c_void;
    // SAFETY: `inside` is an address of ours and `info` has room for the answer.
    if unsafe { libc::dladdr(inside, info.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: `dladdr` answered, so it has filled `info`.
    let info = unsafe { info.assume_init() };
    // SAFETY: the loader's promise: a string that lives as long as the object that we are part of.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    let path = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
    // The loader knows the program itself by what it was called as, which may be no path.
    let path = if path.is_file() {
        path
    } else {
        std::env::current_exe().ok()?
    };
    std::fs::canonicalize(path).ok()
}
