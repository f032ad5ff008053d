//! The unwinder, `libgcc_s`: looked up when there is something to unwind, as glibc does where a thread is cancelled.
//!
//! Almost no process ever unwinds, and not every container has the library: were it needed by the file, every start of a program
//! would pay for loading it, or fail. Rust's std calls the functions by name; here each name is a jump to the process's own. It is
//! not linked in instead, because one process has one unwinder: a thread that is cancelled inside the driver is unwound by
//! `libgcc_s`, which hands our frames what only `libgcc_s` can read.
//!
//! Source: *Itanium C++ ABI: Exception Handling*, level I (names, at most three arguments, `_URC_END_OF_STACK`).
#![expect(
    unsafe_code,
    reason = "jumps to the unwinder's functions, and opens their library"
)]

use std::arch::global_asm;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::lookup;
use crate::table::c_name;

const LIBRARY: &CStr = c"libgcc_s.so.1";

/// `_URC_END_OF_STACK`: nobody handles it.
const END_OF_STACK: c_int = 5;

/// Defines each function as a jump. Hidden: to everybody else in the process these names are `libgcc_s`'s.
macro_rules! unwinder {
    ($($function:ident)*) => {
        /// A function's place in [`NAMES`].
        #[derive(Clone, Copy)]
        enum Place { $( $function ),* }

        static NAMES: [&CStr; FUNCTIONS] = [ $( c_name(concat!("_Unwind_", stringify!($function), "\0")) ),* ];

        const FUNCTIONS: usize = [ $( Place::$function ),* ].len();

        $( global_asm!(
            concat!(".pushsection .text._Unwind_", stringify!($function), ", \"ax\", @progbits"),
            concat!(".globl _Unwind_", stringify!($function)),
            concat!(".hidden _Unwind_", stringify!($function)),
            concat!(".type _Unwind_", stringify!($function), ", @function"),
            concat!("_Unwind_", stringify!($function), ":"),
            "push rdi",
            "push rsi",
            "push rdx",
            "mov edi, {place}",
            "call {address}",
            "pop rdx",
            "pop rsi",
            "pop rdi",
            "jmp rax",
            concat!(".size _Unwind_", stringify!($function), ", . - _Unwind_", stringify!($function)),
            ".popsection",
            place = const Place::$function as u32,
            address = sym address,
        ); )*
    };
}

// Those that std calls. One that is missing here would be asked of libgcc_s by the file, which a test sees (`artefact.rs`).
unwinder! {
    RaiseException
    Resume
    DeleteException
    Backtrace
    GetLanguageSpecificData
    GetRegionStart
    GetTextRelBase
    GetDataRelBase
    GetIP
    GetIPInfo
    SetGR
    SetIP
    GetCFA
    FindEnclosingFunction
}

/// Where each function is; null until it is first called.
static FOUND: [AtomicPtr<c_void>; FUNCTIONS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; FUNCTIONS];

/// Where the function of that place is, for good.
extern "C" fn address(place: u32) -> *mut c_void {
    let place = usize::try_from(place).unwrap_or(usize::MAX);
    let Some((name, found)) = NAMES.get(place).zip(FOUND.get(place)) else {
        return nothing_unwinds as *mut c_void;
    };
    let mut address = found.load(Ordering::Relaxed);
    if address.is_null() {
        address = look_up(name).unwrap_or(nothing_unwinds as *mut c_void);
        found.store(address, Ordering::Relaxed);
    }
    address
}

fn look_up(name: &CStr) -> Option<*mut c_void> {
    let flags = libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_NODELETE;
    // SAFETY: a name; the library's initialisers are those of every C++ program.
    let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), flags) };
    (!library.is_null())
        .then(|| lookup::real_dlsym(library, name))
        .filter(|address| !address.is_null())
}

/// Every function where there is no unwinder: std then says that a panic cannot be handled, and aborts.
extern "C" fn nothing_unwinds() -> c_int {
    END_OF_STACK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_is_the_librarys_own() {
        for (place, name) in (0..).zip(NAMES) {
            let address = address(place);
            assert_ne!(address, nothing_unwinds as *mut c_void, "{name:?}");
            assert_eq!(Some(address), look_up(name), "{name:?}");
        }
        assert_eq!(look_up(c"_Unwind_Nothing"), None);
    }
}
