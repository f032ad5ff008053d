//! Puts the library into a container before its program starts: what the runtime does for us ([`cdi`]), what it has us do ([`hook`]).
//!
//! A container that was to be limited and cannot be is not started.

pub(crate) mod cdi;
pub(crate) mod config;
pub(crate) mod hook;
pub(crate) mod image;
pub(crate) mod labels;

mod bundle;
mod root;

/// Where the library lies in a container.
const LIBRARY: &str = "/usr/lib/cuda-hook/libcuda_hook.so";

/// Folder of the shared state, on the node and in a container.
const STATE: &str = "/run/cuda-hook";

/// Where the library reads its limits in a container.
const CONFIG: &str = limiter::config::CONFIG_PATH;

/// The loader preloads what this file names into every program (ld.so(8)): no variable that a program clears takes it out.
const PRELOADS: &str = "/etc/ld.so.preload";

/// What it says where nothing else is preloaded: [`LIBRARY`]. `scripts/build` and `scripts/package` lay the same file beside the library.
const PRELOADS_ALONE: &str = include_str!("ld.so.preload");

/// The same for the programs that keep this variable.
const PRELOAD_VARIABLE: &str = "LD_PRELOAD";

/// Whether what preloads in a container names the library: ld.so(8) splits it at spaces and colons.
fn names_library(preloads: &str) -> bool {
    preloads.split([' ', ':', '\n']).any(|name| name == LIBRARY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_laid_beside_the_library_preloads_it_and_nothing_else() {
        assert_eq!(PRELOADS_ALONE, format!("{LIBRARY}\n"));
        assert!(names_library(PRELOADS_ALONE));
        assert!(names_library(&format!("/lib/other.so:{LIBRARY}")));
        assert!(!names_library(&format!("{LIBRARY}.old /lib/other.so")));
    }
}
