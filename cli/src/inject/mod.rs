//! Puts the library into a container before its program starts: what the runtime does for us ([`cdi`]), what it has us do ([`hook`]).
//!
//! A container that was to be limited and cannot be is not started.

pub(crate) mod cdi;
pub(crate) mod hook;

mod bundle;
mod config;
mod image;
mod root;

/// Where the library lies in a container.
const LIBRARY: &str = "/usr/lib/cuda-hook/libcuda_hook.so";

/// Folder of the shared state, on the node and in a container.
const STATE: &str = "/run/cuda-hook";

/// The loader preloads what this file names into every program (ld.so(8)): no variable that a program clears takes it out.
const PRELOADS: &str = "/etc/ld.so.preload";
