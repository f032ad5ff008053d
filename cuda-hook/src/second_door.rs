//! The second door: what this library exports beyond its rows when it stands in the driver's place as `libcuda.so.1`.
//!
//! Every function of every known driver that no row hooks is two instructions: load its number, jump through its slot.
//! A slot leads to [`resolve_first`] until the first call, and from then on to the driver's function: arguments, stack and
//! answer are none of our business, and need no type. What the driver lacks answers `CUDA_ERROR_NOT_FOUND`, as what is not
//! there cannot be hidden from a linker.
#![expect(
    unsafe_code,
    reason = "exports jumps, and keeps the caller's registers while it finds where they lead"
)]

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use cuda_sys_stubs::abi::{CUDA_ERROR_NOT_FOUND, CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, CUresult};

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
                    "mov r11d, {index}",
                    "jmp qword ptr [rip + {slots} + {offset}]",
                    index = const $index,
                    offset = const $index * size_of::<usize>(),
                    slots = sym SLOTS,
                )
            }
        )*
    };
}

include!(concat!(env!("OUT_DIR"), "/jumps.rs"));

/// Where each jump leads.
static SLOTS: [AtomicPtr<c_void>; JUMPS] =
    [const { AtomicPtr::new(resolve_first as *mut c_void) }; JUMPS];

/// The first call through a slot: keeps every register that an argument may be in, fills the slot, and goes on.
///
/// # Safety
/// Jumped to from a jump, with its number in `r11d`.
#[unsafe(naked)]
unsafe extern "C" fn resolve_first() {
    std::arch::naked_asm!(
        "push rax",
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "sub rsp, 128",
        "movups [rsp], xmm0",
        "movups [rsp + 16], xmm1",
        "movups [rsp + 32], xmm2",
        "movups [rsp + 48], xmm3",
        "movups [rsp + 64], xmm4",
        "movups [rsp + 80], xmm5",
        "movups [rsp + 96], xmm6",
        "movups [rsp + 112], xmm7",
        "mov edi, r11d",
        "call {target}",
        "mov r11, rax",
        "movups xmm0, [rsp]",
        "movups xmm1, [rsp + 16]",
        "movups xmm2, [rsp + 32]",
        "movups xmm3, [rsp + 48]",
        "movups xmm4, [rsp + 64]",
        "movups xmm5, [rsp + 80]",
        "movups xmm6, [rsp + 96]",
        "movups xmm7, [rsp + 112]",
        "add rsp, 128",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "pop rax",
        "jmp r11",
        target = sym target,
    )
}

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
