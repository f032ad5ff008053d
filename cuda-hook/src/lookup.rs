//! Lookups: a caller who would get a driver's function that we hook gets ours.
//!
//! `dlsym` and `dlvsym` are naked functions. A name that we do not hook, which is almost every name of every process of
//! the container, is passed on by a *jump*: glibc sees the caller's return address, by which it knows what `RTLD_NEXT`
//! means; a call from here would change that for every library of the process. This path takes no lock and allocates
//! nothing: allocators come through it while they start.
//!
//! A name that we hook is answered with our function where the caller would have got the driver's: on a handle, when the
//! object behind the real answer bears the driver's SONAME; for `RTLD_DEFAULT` and `RTLD_NEXT`, when the driver is loaded and
//! has the name. Where the caller would have got nothing, or somebody else's function, so it does with us.
#![expect(
    unsafe_code,
    reason = "stands in the place of glibc's dlsym, and writes where cuGetProcAddress does"
)]

use std::ffi::{CStr, c_char, c_void};
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use cuda_sys_stubs::abi::{
    CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND, CUDA_ERROR_NOT_FOUND, CUDA_SUCCESS,
    CUdriverProcAddressQueryResult, CUresult,
};

use crate::driver::{DRIVER_SONAME, NVML_SONAME};
use crate::elf::Object;
use crate::entry::{Bare, Cuda};
use crate::newer;
use crate::runtime::{self, Stance};
#[cfg(second_door)]
use crate::second_door::{self, has_jump};
use crate::table;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("`dlsym` and `dlvsym` are written for x86-64");

type Dlsym = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;
type Dlvsym = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> *mut c_void;

/// What to do about a lookup, in the two registers in which x86-64 returns such a pair.
#[repr(C)]
struct Answer {
    /// The answer, unless there is somewhere to go on.
    found: *mut c_void,
    /// The function that shall answer instead, as if the caller had called it; null: nobody.
    go_on: *const c_void,
}

impl Answer {
    const fn found(found: *mut c_void) -> Self {
        Self {
            found,
            go_on: ptr::null(),
        }
    }

    const fn go_on(function: *const c_void) -> Self {
        Self {
            found: ptr::null_mut(),
            go_on: function,
        }
    }
}

/// Asks `$answer` with the caller's arguments; then returns what it found, or jumps on with them as they came.
macro_rules! ask_or_jump {
    ($answer:path) => {
        std::arch::naked_asm!(
            "push rdi",
            "push rsi",
            "push rdx",
            "call {answer}",
            "mov r11, rdx",
            "pop rdx",
            "pop rsi",
            "pop rdi",
            "test r11, r11",
            "jnz 2f",
            "ret",
            "2:",
            "jmp r11",
            answer = sym $answer,
        )
    };
}

/// `dlsym(3)`, for every object of the process.
///
/// # Safety
/// As `dlsym`.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
unsafe extern "C" fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    ask_or_jump!(answer_dlsym)
}

/// `dlvsym(3)`, for every object of the process.
///
/// # Safety
/// As `dlvsym`.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
unsafe extern "C" fn dlvsym(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
) -> *mut c_void {
    ask_or_jump!(answer_dlvsym)
}

/// # Safety
/// As `dlsym`.
unsafe extern "C" fn answer_dlsym(handle: *mut c_void, name: *const c_char) -> Answer {
    let real = real_address(&DLSYM, c"dlsym");
    // SAFETY: what glibc exports as `dlsym` has that type.
    let dlsym = unsafe { mem::transmute::<*mut c_void, Option<Dlsym>>(real) };
    // SAFETY: the caller's promise: null, or a string.
    match unsafe { Wanted::on(handle, name) }.zip(dlsym) {
        Some((wanted, dlsym)) => wanted.answer(handle, real, |handle| {
            // SAFETY: the caller's arguments, or a handle of ours.
            unsafe { dlsym(handle, name) }
        }),
        None => Answer::go_on(real),
    }
}

/// # Safety
/// As `dlvsym`.
unsafe extern "C" fn answer_dlvsym(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
) -> Answer {
    let real = real_address(&DLVSYM, c"dlvsym");
    // SAFETY: what glibc exports as `dlvsym` has that type.
    let dlvsym = unsafe { mem::transmute::<*mut c_void, Option<Dlvsym>>(real) };
    // SAFETY: the caller's promise: null, or a string.
    match unsafe { Wanted::on(handle, name) }.zip(dlvsym) {
        Some((wanted, dlvsym)) => wanted.answer(handle, real, |handle| {
            // SAFETY: the caller's arguments, or a handle of ours.
            unsafe { dlvsym(handle, name, version) }
        }),
        None => Answer::go_on(real),
    }
}

/// A looked-up name that concerns us.
enum Wanted<'a> {
    /// We have a function for it.
    Hooked(Hooked<'a>),
    /// It may be one of the driver's that is not to be found as it is.
    Drivers(&'a CStr),
}

impl<'a> Wanted<'a> {
    /// Two bytes decide for nearly every name.
    ///
    /// # Safety
    /// `name` is null or a string that outlives the answer.
    unsafe fn on(handle: *mut c_void, name: *const c_char) -> Option<Self> {
        if name.is_null() {
            return None;
        }
        // SAFETY: the caller's promise.
        let name = unsafe { CStr::from_ptr(name) };
        let (ours, providers): (_, &[_]) = match name.to_bytes() {
            [b'c', b'u', b'A'..=b'Z', ..] if is_elsewhere(handle) => {
                return Some(Self::Drivers(name));
            }
            [b'c', b'u', ..] => match table::by_name(name) {
                Some(ours) => (ours, &[DRIVER_SONAME]),
                None if newer::is_suspect(name) || has_jump(name) => {
                    return Some(Self::Drivers(name));
                }
                None => return None,
            },
            [b'n', b'v', ..] => (table::by_name(name)?, &[NVML_SONAME]),
            b"dlsym" => (dlsym as Dlsym as *mut c_void, LIBC_SONAMES),
            b"dlvsym" => (dlvsym as Dlvsym as *mut c_void, LIBC_SONAMES),
            _ => return None,
        };
        Some(Self::Hooked(Hooked {
            name,
            ours,
            providers,
        }))
    }

    /// What the caller gets. `real` is glibc's lookup of the name, `go_on` its address; the last call of it is the one whose
    /// failure `dlerror` tells, as without us.
    fn answer(
        &self,
        handle: *mut c_void,
        go_on: *const c_void,
        real: impl Fn(*mut c_void) -> *mut c_void,
    ) -> Answer {
        match self {
            Self::Hooked(hooked) => Answer::found(hooked.answer(handle, real)),
            Self::Drivers(name) => drivers_answer(name, handle, real(handle))
                .map_or(Answer::go_on(go_on), Answer::found),
        }
    }
}

/// What is found instead of `theirs`, a function of a driver without a hook; `None`: what would be found anyway.
fn drivers_answer(name: &CStr, handle: *mut c_void, theirs: *mut c_void) -> Option<*mut c_void> {
    if !is_of(theirs, &[DRIVER_SONAME]) {
        return None;
    }
    if newer::is_suspect(name) && newer::is_withheld(runtime::get(), name) {
        return Some(ptr::null_mut());
    }
    if is_elsewhere(handle) {
        return in_this_namespace(name);
    }
    is_lacking(theirs, name).then_some(ptr::null_mut())
}

/// The preload exports nothing but hooks.
#[cfg(not(second_door))]
fn has_jump(_name: &CStr) -> bool {
    false
}

/// Whether `theirs` is a function of ours that stands for one which the driver lacks.
#[cfg(second_door)]
fn is_lacking(theirs: *mut c_void, name: &CStr) -> bool {
    is_ours(theirs) && second_door::is_lacking(name)
}

/// The preload stands in nobody's place.
#[cfg(not(second_door))]
fn is_lacking(_theirs: *mut c_void, _name: &CStr) -> bool {
    false
}

/// Whether `handle` is of a namespace of its own, in which no preload is.
fn is_elsewhere(handle: *mut c_void) -> bool {
    if handle == libc::RTLD_DEFAULT || handle == libc::RTLD_NEXT {
        return false;
    }
    let mut namespace: libc::Lmid_t = libc::LM_ID_BASE;
    // SAFETY: the caller's handle, as it would be handed to `dlsym`; the out-pointer is live and of the request's type.
    let status = unsafe {
        libc::dlinfo(
            handle,
            libc::RTLD_DI_LMID,
            (&raw mut namespace).cast::<c_void>(),
        )
    };
    status == 0 && namespace != libc::LM_ID_BASE
}

/// What stands for a function of a driver that lives in another namespace. There are two drivers in such a process, which
/// know nothing of each other: under limits all of it comes from the one that we watch; without, none of it.
fn in_this_namespace(name: &CStr) -> Option<*mut c_void> {
    let runtime = runtime::get();
    if matches!(runtime.stance(), Stance::Open(_)) {
        return None;
    }
    let theirs = runtime.driver().ok()?.address_of(name);
    if theirs.is_null() {
        return Some(theirs);
    }
    Some(table::by_name(name).unwrap_or(theirs))
}

/// Whether `address` lies in this library.
fn is_ours(address: *mut c_void) -> bool {
    let object = Object::defining(address);
    object.is_some() && object == Object::ours()
}

/// Whether `address` is of a library with one of these SONAMEs.
fn is_of(address: *mut c_void, sonames: &[&CStr]) -> bool {
    let bears_one = |object: Object| {
        object
            .soname()
            .is_some_and(|soname| sonames.contains(&soname))
    };
    !address.is_null() && Object::defining(address).is_some_and(bears_one)
}

/// A looked-up name that we have a function for.
struct Hooked<'a> {
    name: &'a CStr,
    ours: *mut c_void,
    /// The SONAMEs of the library in whose place our function stands.
    providers: &'static [&'static CStr],
}

impl Hooked<'_> {
    /// What the caller gets. `real` is glibc's lookup of the name; the last call of it is the one whose failure
    /// `dlerror` tells, as without us.
    fn answer(
        &self,
        handle: *mut c_void,
        real: impl Fn(*mut c_void) -> *mut c_void,
    ) -> *mut c_void {
        let found = real(self.provider_for(handle).unwrap_or(handle));
        if cfg!(second_door) && found == self.ours && self.providers == [DRIVER_SONAME] {
            // Found where the driver would have been found.
            let lacking = is_lacking(found, self.name);
            return if lacking { ptr::null_mut() } else { found };
        }
        let theirs = if found == self.ours {
            // Found in the whole program, where we stand whether or not the driver does: ask behind us.
            real(libc::RTLD_NEXT)
        } else {
            found
        };
        if is_of(theirs, self.providers) {
            self.ours
        } else {
            theirs
        }
    }

    /// What `RTLD_DEFAULT` and `RTLD_NEXT` find depends on who calls, and from here it is we who would be seen calling. The
    /// loaded provider, if there is one, is what they could find at best; `None`: ask with the handle as it is, and for
    /// `RTLD_NEXT` that is what stands behind this library. The provider stays loaded from now on.
    fn provider_for(&self, handle: *mut c_void) -> Option<*mut c_void> {
        if handle != libc::RTLD_DEFAULT && handle != libc::RTLD_NEXT {
            return None;
        }
        self.providers.iter().find_map(|soname| {
            // SAFETY: a terminated name; nothing is loaded, so no initialiser runs.
            let loaded =
                unsafe { libc::dlopen(soname.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
            (!loaded.is_null()).then_some(loaded)
        })
    }
}

/// Where `dlsym` lives: in libdl before glibc 2.34, in libc since.
const LIBC_SONAMES: &[&CStr] = &[c"libc.so.6", c"libdl.so.2"];

static DLSYM: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static DLVSYM: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// glibc's function `name`, looked for once. Null only in a process without glibc, which could not have loaded us.
fn real_address(cache: &AtomicPtr<c_void>, name: &CStr) -> *mut c_void {
    let cached = cache.load(Ordering::Relaxed);
    if !cached.is_null() {
        return cached;
    }
    let is_libc = |object: &Object| {
        object
            .soname()
            .is_some_and(|soname| LIBC_SONAMES.contains(&soname))
    };
    let found =
        Object::find_map(|object| is_libc(&object).then(|| object.function(name)).flatten());
    let found = found.unwrap_or(ptr::null_mut());
    cache.store(found, Ordering::Relaxed);
    found
}

/// The function `name` of the loaded `library`, or null: the real one, never ours.
pub(crate) fn real_dlsym(library: *mut c_void, name: &CStr) -> *mut c_void {
    let real = real_address(&DLSYM, c"dlsym");
    // SAFETY: what glibc exports as `dlsym` has that type.
    match unsafe { mem::transmute::<*mut c_void, Option<Dlsym>>(real) } {
        // SAFETY: a handle of ours and a terminated name.
        Some(real) => unsafe { real(library, name.as_ptr()) },
        None => ptr::null_mut(),
    }
}

/// `cuGetProcAddress`: ask the driver, then swap its function for ours where it is one that we hook. No copy of its rules
/// about names, versions and flags; what it does not have, we do not have.
///
/// # Safety
/// `symbol` and `pfn` as the driver demands.
pub(crate) unsafe fn get_proc_address(
    cx: Bare<Cuda>,
    call: impl FnOnce() -> CUresult,
    symbol: *const c_char,
    pfn: *mut *mut c_void,
) -> CUresult {
    let out = pfn.cast::<MaybeUninit<*mut c_void>>();
    // SAFETY: the caller's promise: where the driver may write there is memory, whatever is in it.
    let before = (!pfn.is_null()).then(|| unsafe { out.read() });
    let status = call();
    // SAFETY: the caller's promise, and what the driver has answered.
    if let (Some(before), true) = (before, unsafe { swap(cx, status, symbol, pfn) }) {
        // SAFETY: as above. This version leaves untouched what it does not find.
        unsafe { out.write(before) };
        return CUDA_ERROR_NOT_FOUND;
    }
    status
}

/// `cuGetProcAddress_v2`, which succeeds with null and says why.
///
/// # Safety
/// `symbol`, `pfn` and `says` as the driver demands.
pub(crate) unsafe fn get_proc_address_v2(
    cx: Bare<Cuda>,
    call: impl FnOnce() -> CUresult,
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    says: *mut CUdriverProcAddressQueryResult,
) -> CUresult {
    let status = call();
    // SAFETY: the caller's promise, and what the driver has answered.
    if unsafe { swap(cx, status, symbol, pfn) } {
        // SAFETY: where the driver has written, so may we.
        unsafe { pfn.write(ptr::null_mut()) };
        if !says.is_null() {
            // SAFETY: the caller's promise.
            unsafe { says.write(CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND) };
        }
    }
    status
}

/// Swaps what the driver has written for ours, and tells whether it is to be withheld.
///
/// # Safety
/// `status` is the driver's answer for `symbol` and `pfn`.
unsafe fn swap(
    cx: Bare<Cuda>,
    status: CUresult,
    symbol: *const c_char,
    pfn: *mut *mut c_void,
) -> bool {
    if status != CUDA_SUCCESS || pfn.is_null() {
        return false;
    }
    // SAFETY: the driver's promise: after success it has written there.
    let theirs = unsafe { pfn.read() };
    if let Some(ours) = cx.library().ours_for(theirs) {
        // SAFETY: where the driver has written, so may we.
        unsafe { pfn.write(ours) };
        return false;
    }
    // A driver that is linked without -Bsymbolic finds ours for its own.
    if theirs.is_null() || symbol.is_null() || !cx.runtime.is_strict() || is_ours(theirs) {
        return false;
    }
    // SAFETY: the driver has read the caller's string.
    let base = unsafe { CStr::from_ptr(symbol) };
    newer::is_suspect_address(cx.library(), base, theirs) && newer::is_withheld(cx.runtime, base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_we_do_not_hook_is_passed_on() {
        for name in [
            c"malloc",
            c"cuDriverGetVersion",
            c"nvmlInit_v2",
            c"cu",
            c"",
            c"dlsymm",
        ] {
            // SAFETY: a string, and a lookup in the whole program.
            let answer = unsafe { answer_dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
            assert_eq!(answer.go_on, libc::dlsym as *const c_void, "{name:?}");
        }
        // SAFETY: null is what a mistaken caller passes; glibc shall judge it.
        let answer = unsafe { answer_dlsym(libc::RTLD_DEFAULT, ptr::null()) };
        assert_eq!(answer.go_on, libc::dlsym as *const c_void);
    }

    #[test]
    fn the_arguments_arrive_as_they_came() {
        // SAFETY: lookups in the whole program.
        let (plain, versioned) = unsafe {
            (
                dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr()),
                dlvsym(
                    libc::RTLD_DEFAULT,
                    c"malloc".as_ptr(),
                    c"GLIBC_2.2.5".as_ptr(),
                ),
            )
        };
        assert_eq!(plain, libc::malloc as *mut c_void);
        assert_eq!(versioned, libc::malloc as *mut c_void);
    }

    #[test]
    fn without_a_driver_in_the_process_there_is_no_hook() {
        for handle in [libc::RTLD_DEFAULT, libc::RTLD_NEXT] {
            // SAFETY: a lookup in the whole program.
            assert!(unsafe { dlsym(handle, c"cuInit".as_ptr()) }.is_null());
        }
    }

    #[test]
    fn a_lookup_of_dlsym_itself_finds_ours() {
        // SAFETY: a lookup in the whole program.
        let found = unsafe { dlsym(libc::RTLD_NEXT, c"dlsym".as_ptr()) };
        assert_eq!(found, dlsym as Dlsym as *mut c_void);
    }
}
