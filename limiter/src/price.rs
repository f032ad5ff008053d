//! What a kernel costs: measured durations, cleaned of other tenants' time slices.

/// Identifies a kernel with its launch shape: a hash that the caller makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelKey(pub u64);
