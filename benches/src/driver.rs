//! The driver, for programs that call it directly: found as every program finds it, and asked by name.
#![expect(unsafe_code, reason = "loads a C library")]

use std::error::Error as _;
use std::fs;
use std::path::Path;

use cuda_sys_stubs::abi::{CUDA_SUCCESS, CUresult, result_name};
pub use libloading::Library;

/// What every program looks for: the driver's own, or whatever a loader puts in its place.
pub const DRIVER: &str = "libcuda.so.1";

/// Loads the driver, or says that there is none, and the way out.
pub fn load() -> Result<Library, String> {
    // SAFETY: a driver, real or simulated, runs nothing but its loader's work when it is loaded.
    unsafe { Library::new(DRIVER) }.map_err(|error| {
        format!(
            "no NVIDIA driver: {}; `cuda-hook run --sim t4 -- PROGRAM …` runs on a simulated GPU",
            error.source().unwrap_or(&error)
        )
    })
}

/// What a refused call is told as: its name, and `CUDA_ERROR_OUT_OF_MEMORY`, or a number where that has no name.
pub fn checked(call: &str, status: CUresult) -> Result<(), String> {
    if status == CUDA_SUCCESS {
        return Ok(());
    }
    let name = result_name(status).map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| format!("status {status}"));
    Err(format!("{call}: {name}"))
}

/// Whether the libcuda of this process is the simulation's: its folder has the simulated device beside it. A search path may lead
/// there without anybody's asking, and nothing simulated is to be called real.
pub fn is_simulation() -> bool {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines()
        .filter(|line| line.contains("/libcuda.so"))
        .filter_map(|line| line.find('/').and_then(|at| line.get(at..)))
        .filter_map(|path| Path::new(path).parent())
        .any(|folder| folder.join("gpu-sim-device").exists())
}

/// Declares `Calls`, the driver's functions of these names: a field of its type in `pfn` for each, looked up by its name.
#[macro_export]
macro_rules! driver_calls {
    ($($symbol:ident),* $(,)?) => {
        #[expect(non_snake_case, reason = "spelled as in cuda.h")]
        struct Calls {
            $($symbol: ::cuda_sys_stubs::pfn::$symbol,)*
            /// Keeps the functions where they are.
            _library: $crate::driver::Library,
        }

        impl Calls {
            fn open() -> Result<Self, String> {
                let library = $crate::driver::load()?;
                Ok(Self {
                    $(
                        // SAFETY: the type is the one that the driver's ABI gives the symbol of this name.
                        $symbol: *unsafe { library.get::<::cuda_sys_stubs::pfn::$symbol>(stringify!($symbol)) }
                            .map_err(|error| format!("{}: {error}", $crate::driver::DRIVER))?,
                    )*
                    _library: library,
                })
            }
        }
    };
}
