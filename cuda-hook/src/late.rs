//! Functions of the C library and of the unwinder that are found when they are first called, not when this library is loaded.
//!
//! Almost no process of a container uses CUDA, and each pays for every name that the loader has to bind in it, and for every library
//! that the file needs. What only a CUDA process calls is therefore a jump ([`crate::jump`]): the names below are defined here, hidden,
//! so that std and every crate in this library links to them. Before glibc 2.34 some of them live in libpthread and libdl: the file
//! names neither, and a process that uses CUDA has both.
//!
//! A name is looked for in the loaded objects in their order, as the loader would: a sanitizer's or a tracer's function stands before
//! glibc's. That takes no lock of ours and leaves `dlerror` alone. Names that std takes for absent where they are null (`statx`) are
//! not defined here, and neither is what is called on every path (`malloc`, `memcpy`), nor what some glibc since 2.17 does not export
//! (`fstat`, which before 2.33 is a part of each program).
//!
//! The unwinder, `libgcc_s`, is opened when there is something to unwind, as glibc does where a thread is cancelled: almost no process
//! ever unwinds, and not every container has it. It is not linked in instead, because one process has one unwinder: a thread that is
//! cancelled inside the driver is unwound by `libgcc_s`, which hands our frames what only `libgcc_s` can read.
//!
//! Sources: *ELF-64 Object File Format* (hidden symbols); *Itanium C++ ABI: Exception Handling*, level I (`_URC_END_OF_STACK`).
#![expect(
    unsafe_code,
    reason = "jumps to the C library's functions, and opens the unwinder's library"
)]

use std::arch::global_asm;
use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::elf::{Object, SymbolName};
use crate::jump::{first_call, jump};
use crate::lookup;

const UNWINDER: &CStr = c"libgcc_s.so.1";

/// Defines each function as a jump. Hidden: to everybody else in the process these names are who they were.
macro_rules! late {
    ($( or $absent:literal: $($function:ident)* ; )*) => {
        /// A function's number.
        #[expect(non_camel_case_types, reason = "the functions' own names")]
        #[derive(Clone, Copy)]
        enum Number { $( $( $function, )* )* }

        /// All names in the order of their numbers, each ended by a null: one string has one address, a list has one for each.
        const NAMES: &str = concat!($( $( stringify!($function), "\0", )* )*);

        /// Where each name begins.
        static BEGINS: [u16; FUNCTIONS] = begins(&[ $( $( stringify!($function).len(), )* )* ]);

        /// What each function answers where it is not to be found.
        static ABSENT: &[i8] = &[ $( $( { let _ = Number::$function; $absent }, )* )* ];

        const FUNCTIONS: usize = [ $( $( Number::$function, )* )* ].len();

        $( $( global_asm!(
            concat!(".pushsection .text.", stringify!($function), ", \"ax\", @progbits"),
            concat!(".globl ", stringify!($function)),
            concat!(".hidden ", stringify!($function)),
            concat!(".type ", stringify!($function), ", @function"),
            concat!(stringify!($function), ":"),
            jump!(),
            concat!(".size ", stringify!($function), ", . - ", stringify!($function)),
            ".popsection",
            slots = sym SLOTS,
            offset = const Number::$function as usize * size_of::<usize>(),
            number = const Number::$function as u32,
            first_call = sym first_call,
        ); )* )*
    };
}

// A name that is missing here is bound when the library is loaded, which a test sees (`artefact.rs`).
late! {
    or 0: __errno_location dladdr1 dlerror dlopen getcwd getenv opendir readdir64 realpath;
    or -1:
        __fxstat __fxstat64 __lxstat64 __register_atfork __xpg_strerror_r __xstat64 close closedir dirfd dlinfo faccessat fchmod fcntl
        ftruncate64 getauxval geteuid getpid lseek64 mkdir mmap mmap64 mprotect munmap open64 pause poll
        posix_fallocate pread64 pthread_attr_destroy pthread_attr_getguardsize pthread_attr_getstack pthread_attr_init
        pthread_attr_setstacksize pthread_create pthread_detach pthread_getattr_np pthread_key_create pthread_key_delete pthread_self
        pthread_setname_np pthread_setspecific pthread_sigmask read readlink sched_yield sigaltstack sigfillset syscall sysconf
        write writev;
    // The unwinder's: `_URC_END_OF_STACK`, nobody handles it. Std then says that a panic cannot be handled, and aborts.
    or 5:
        _Unwind_RaiseException _Unwind_Resume _Unwind_DeleteException _Unwind_Backtrace _Unwind_GetLanguageSpecificData
        _Unwind_GetRegionStart _Unwind_GetTextRelBase _Unwind_GetDataRelBase _Unwind_GetIP _Unwind_GetIPInfo _Unwind_SetGR
        _Unwind_SetIP _Unwind_GetCFA _Unwind_FindEnclosingFunction;
}

/// Where names of these lengths begin that stand one behind the other, each ended by a null.
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::as_conversions,
    reason = "runs in the compiler, where each of them is an error"
)]
const fn begins(lengths: &[usize; FUNCTIONS]) -> [u16; FUNCTIONS] {
    let mut begins = [0; FUNCTIONS];
    let (mut number, mut begin) = (0, 0);
    while number < FUNCTIONS {
        assert!(begin <= u16::MAX as usize);
        begins[number] = begin as u16;
        begin += lengths[number] + 1;
        number += 1;
    }
    begins
}

/// Where each jump leads.
static SLOTS: [AtomicPtr<c_void>; FUNCTIONS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; FUNCTIONS];

first_call!(first_call asks target);

/// Where the function of that number is, for good.
extern "C" fn target(number: u32) -> *mut c_void {
    let number = usize::try_from(number).unwrap_or(usize::MAX);
    let found = name_of(number)
        .and_then(look_up)
        .unwrap_or_else(|| absent(number));
    if let Some(slot) = SLOTS.get(number) {
        slot.store(found, Ordering::Relaxed);
    }
    found
}

fn name_of(number: usize) -> Option<&'static CStr> {
    let name = NAMES.get(usize::from(*BEGINS.get(number)?)..)?;
    CStr::from_bytes_until_nul(name.as_bytes()).ok()
}

fn look_up(name: &CStr) -> Option<*mut c_void> {
    if name.to_bytes().starts_with(b"_Unwind_") {
        return of_the_unwinder(name);
    }
    let name = SymbolName::new(name);
    Object::find_map(|object| object.symbols()?.function(&name))
}

fn of_the_unwinder(name: &CStr) -> Option<*mut c_void> {
    let flags = libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_NODELETE;
    // SAFETY: a name; the library's initialisers are those of every C++ program.
    let library = unsafe { libc::dlopen(UNWINDER.as_ptr(), flags) };
    (!library.is_null())
        .then(|| lookup::real_dlsym(library, name))
        .filter(|address| !address.is_null())
}

/// What stands for the function of that number where there is none.
fn absent(number: usize) -> *mut c_void {
    match ABSENT.get(number) {
        Some(0) => answer::<0> as *mut c_void,
        Some(5) => answer::<5> as *mut c_void,
        _ => answer::<-1> as *mut c_void,
    }
}

extern "C" fn answer<const ANSWER: isize>() -> isize {
    ANSWER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_is_the_librarys_own() {
        for number in 0..FUNCTIONS {
            let name = name_of(number).unwrap();
            // SAFETY: a lookup of a name, in the whole program or in the unwinder's library.
            let theirs = if name.to_bytes().starts_with(b"_Unwind_") {
                of_the_unwinder(name).unwrap()
            } else {
                lookup::real_dlsym(libc::RTLD_DEFAULT, name)
            };
            assert!(!theirs.is_null(), "{name:?}");
            assert_eq!(target(u32::try_from(number).unwrap()), theirs, "{name:?}");
        }
        assert_eq!(name_of(FUNCTIONS), None);
        assert_eq!(look_up(c"_Unwind_Nothing"), None);
        assert_eq!(look_up(c"no_such_function"), None);
    }

    #[test]
    fn an_absent_function_fails_as_its_kind_does() {
        let kinds = [("dlopen", 0), ("close", -1), ("_Unwind_RaiseException", 5)];
        for (name, wanted) in kinds {
            let number = NAMES.split('\0').position(|known| known == name).unwrap();
            // SAFETY: one of the functions above, all of that type.
            let absent = unsafe {
                std::mem::transmute::<*mut c_void, extern "C" fn() -> isize>(absent(number))
            };
            assert_eq!(absent(), wanted, "{name}");
        }
    }

    /// `mmap`, which takes six; std calls it by its other name.
    #[test]
    fn a_jump_passes_every_argument_on_first_and_later_calls() {
        // SAFETY: a path and flags.
        let image = unsafe { libc::open64(c"/proc/self/exe".as_ptr(), libc::O_RDONLY) };
        for _ in 0..2 {
            let (kind, length) = (libc::MAP_PRIVATE, 4096);
            // SAFETY: the kernel chooses where.
            let mapped =
                unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_READ, kind, image, 0) };
            assert_ne!(mapped, libc::MAP_FAILED);
            // SAFETY: mapped as long, and an ELF image begins so.
            assert_eq!(unsafe { *mapped.cast::<[u8; 4]>() }, *b"\x7fELF");
            // SAFETY: mapped above, and not used again.
            assert_eq!(unsafe { libc::munmap(mapped, length) }, 0);
        }
        // SAFETY: ours, and not used again.
        assert_eq!(unsafe { libc::close(image) }, 0);
    }
}
