//! The second door: what this library exports beyond its rows when it stands in the driver's place as `libcuda.so.1`.
//!
//! Every function of every known driver that no row hooks is a jump ([`crate::jump`]) to the driver's function. What the driver lacks
//! answers `CUDA_ERROR_NOT_FOUND`, as what is not there cannot be hidden from a linker.
#![expect(unsafe_code, reason = "exports jumps")]

use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use cuda_sys_stubs::abi::{CUDA_ERROR_NOT_FOUND, CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, CUresult};

use crate::jump::{first_call, jump};
use crate::runtime;

/// A jump for each symbol, and their names in the same order, sorted.
macro_rules! jumps {
    ($($index:literal $name:ident)*) => {
        const JUMPS: usize = [$($index),*].len();

        static NAMES: [&str; JUMPS] = [ $( concat!(stringify!($name), "\0") ),* ];

        $(
            /// # Safety
            /// As the driver's function of that name.
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            unsafe extern "C" fn $name() {
                std::arch::naked_asm!(
                    jump!(),
                    slots = sym SLOTS,
                    offset = const $index * size_of::<usize>(),
                    number = const $index,
                    first_call = sym first_call,
                )
            }
        )*
    };
}

include!(concat!(env!("OUT_DIR"), "/jumps.rs"));

/// Where each jump leads.
static SLOTS: [AtomicPtr<c_void>; JUMPS] = [const { AtomicPtr::new(ptr::null_mut()) }; JUMPS];

first_call!(first_call asks target);

/// Where the jump of that number leads, for good.
extern "C" fn target(index: u32) -> *mut c_void {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    let Some((name, slot)) = NAMES.get(index).zip(SLOTS.get(index)) else {
        return lacking as *mut c_void;
    };
    let found = match runtime::get().driver() {
        Ok(driver) => CStr::from_bytes_with_nul(name.as_bytes())
            .map(|name| driver.address_of(name))
            .ok()
            .filter(|address| !address.is_null())
            .unwrap_or(lacking as *mut c_void),
        Err(_) => without_driver as *mut c_void,
    };
    slot.store(found, Ordering::Relaxed);
    found
}

/// What a function answers that the driver lacks.
extern "C" fn lacking() -> CUresult {
    CUDA_ERROR_NOT_FOUND
}

/// What every function answers where there is no driver to be had.
extern "C" fn without_driver() -> CUresult {
    CUDA_ERROR_SHARED_OBJECT_INIT_FAILED
}

/// Whether a jump has that name.
pub(crate) fn has_jump(name: &CStr) -> bool {
    NAMES
        .binary_search_by(|known| known.as_bytes().cmp(name.to_bytes_with_nul()))
        .is_ok()
}

/// Whether the driver is there and has no symbol of that name, which `dlerror` then tells.
pub(crate) fn is_lacking(name: &CStr) -> bool {
    runtime::get()
        .driver()
        .is_ok_and(|driver| driver.address_of(name).is_null())
}
