//! The hooks, by the driver API's own nouns.
//!
//! A hook is given `call`, which makes the program's own call of the real function, once: whether to make it, and what to
//! do before and after, is all that a hook decides. Every hook is `unsafe` on the same terms: its arguments are those of
//! a caller of the hooked symbol, under the driver's contract for them.

pub(crate) mod array;
pub(crate) mod capture;
pub(crate) mod context;
pub(crate) mod graph_memory;
pub(crate) mod green;
pub(crate) mod launch;
pub(crate) mod measure;
pub(crate) mod memory;
pub(crate) mod module;
pub(crate) mod nvml;
pub(crate) mod pool;
pub(crate) mod processes;
pub(crate) mod report;
pub(crate) mod spill;
pub(crate) mod utilization;
pub(crate) mod vmm;
