//! The symbols that nobody simulates yet: each is there, says so once, and answers `NVML_ERROR_NOT_SUPPORTED`.

use std::sync::atomic::{AtomicBool, Ordering};

use cuda_sys_stubs::nvml_abi::{NVML_ERROR_NOT_SUPPORTED, nvmlReturn_t};

use crate::log;

fn answer(symbol: &str, said: &AtomicBool) -> nvmlReturn_t {
    if !said.swap(true, Ordering::Relaxed) {
        log::debug(format_args!(
            "{symbol} is not simulated: NVML_ERROR_NOT_SUPPORTED"
        ));
    }
    NVML_ERROR_NOT_SUPPORTED
}

/// No parameters: in the C ABIs of x86-64 and aarch64 a callee may leave its arguments unread.
macro_rules! unsimulated {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> nvmlReturn_t {
            static SAID: AtomicBool = AtomicBool::new(false);
            answer(stringify!($name), &SAID)
        }
    )* };
}

include!(concat!(env!("OUT_DIR"), "/unsimulated.rs"));
