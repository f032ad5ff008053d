//! Functions that the driver has and this version does not know: it was made before them, or nobody knows what they do.
//!
//! By default they pass. Under `strict`, where limits are set, those whose names sound like memory or launches are not handed
//! out: the driver seems not to have them.

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use cuda_sys_stubs::symbols;

use crate::driver::Driver;
use crate::log;
use crate::runtime::Runtime;

/// Whether a symbol of that name is one of these, should the driver have it, and sounds like memory or launches.
pub(crate) fn is_suspect(name: &CStr) -> bool {
    name.to_str()
        .is_ok_and(|name| symbols::sounds_like_use(name) && !symbols::is_understood(name))
}

/// Whether `address`, which the driver has given for the name `base`, is a function that sounds like memory or launches and
/// is no ABI that is known of it.
pub(crate) fn is_suspect_address(driver: &Driver, base: &CStr, address: *mut c_void) -> bool {
    let Ok(base) = base.to_str() else {
        return false;
    };
    symbols::sounds_like_use(base)
        && !symbols::understood_abis(base).any(|abi| driver.address_of_text(abi) == address)
}

/// Whether such a function is to be withheld. Says so of the first.
pub(crate) fn is_withheld(runtime: &Runtime, name: &CStr) -> bool {
    static SAID: AtomicBool = AtomicBool::new(false);
    let withheld = runtime.is_strict();
    if withheld && !SAID.swap(true, Ordering::Relaxed) {
        log::line(format_args!(
            "cuda-hook: strict: the driver's {} is not known to this version and is not handed out; cuda-hook doctor names all",
            name.to_string_lossy()
        ));
    }
    withheld
}
