//! Every symbol of libcuda and libnvidia-ml: what it is, since when, in which driver, and what it does to a quota.
//!
//! The source is `symbols/*.tsv`; what the columns mean and how they were measured stands in `symbols/README.md`.

mod driver;
mod nvml;

pub use driver::DRIVER;
pub use nvml::NVML;

/// What a call does to a quota: decided by people, one word per symbol in `symbols/effects.tsv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Enters the driver. Limits that cannot be enforced must be refused here.
    Attach,
    /// May take device memory: an allocation, a context, a module image, a lazily loaded function.
    Charge,
    /// May give device memory back.
    Uncharge,
    /// Submits work that may occupy streaming multiprocessors.
    Throttle,
    /// Takes nothing and submits nothing, but a later charge, uncharge or throttle is wrong without having seen it.
    Track,
    /// Answers with figures that a quota changes, or that show what other tenants do.
    Report,
    /// Hands out addresses of functions.
    Lookup,
    /// Does nothing to a quota.
    Neutral,
    /// Exported or asked for, but in no public header: nobody here knows what it does.
    Unknown,
}

/// Which default stream a symbol means by a stream handle of 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamVariant {
    /// The symbol has no twin: it takes no stream, or does not care.
    None,
    /// The legacy default stream; a per-thread twin exists.
    Legacy,
    /// The per-thread default stream, of a function without a stream parameter (`_ptds`).
    Ptds,
    /// The per-thread default stream, of a function with a stream parameter (`_ptsz`).
    Ptsz,
}

/// What an exported name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SymbolKind {
    /// Code.
    Function,
    /// A variable, for the debugger.
    Data,
}

/// [`Symbol::introduced`] of a symbol that `cuGetProcAddress` never gives.
pub const NEVER: u32 = u32::MAX;

/// A parameter: its name and its type, as Rust text with the names of [`crate::abi`] or [`crate::nvml_abi`].
pub type Parameter = (&'static str, &'static str);

/// One symbol of libcuda.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// The exported name, e.g. `cuMemAlloc_v2`.
    pub name: &'static str,
    /// The name that `cuGetProcAddress` is asked for, e.g. `cuMemAlloc`.
    pub base: &'static str,
    /// First version for which `cuGetProcAddress` answers with this symbol, as it counts (11030 is CUDA 11.3), or [`NEVER`].
    pub introduced: u32,
    /// Version of the ABI: 2 for `…_v2`, 1 where the name has no such suffix.
    pub abi_version: u8,
    /// Which default stream it means.
    pub stream_variant: StreamVariant,
    /// Code or data.
    pub kind: SymbolKind,
    /// What a call does to a quota.
    pub effect: Effect,
    /// Branches of real drivers (470, 525, 535, 550, 555 were looked at) that export it.
    pub drivers: &'static [u16],
    /// Parameters in order; `None` where no public header declares the function, and for data. A function with known
    /// parameters returns `CUresult`.
    pub parameters: Option<&'static [Parameter]>,
}

/// One symbol of libnvidia-ml.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmlSymbol {
    /// The exported name, e.g. `nvmlDeviceGetMemoryInfo_v2`.
    pub name: &'static str,
    /// The name without its version suffix.
    pub base: &'static str,
    /// Version of the ABI: 2 for `…_v2`, 1 where the name has no such suffix.
    pub abi_version: u8,
    /// What a call does to a quota.
    pub effect: Effect,
    /// Branches of real drivers (470, 525, 535, 550, 555 were looked at) that export it.
    pub drivers: &'static [u16],
    /// Parameters in order; `None` where no public header declares the function. A function with known parameters
    /// returns `nvmlReturn_t`, but `nvmlErrorString`, which returns a string.
    pub parameters: Option<&'static [Parameter]>,
}

/// The driver symbol of that exported name.
#[must_use]
pub fn driver(name: &str) -> Option<&'static Symbol> {
    let index = DRIVER
        .binary_search_by(|symbol| symbol.name.cmp(name))
        .ok()?;
    DRIVER.get(index)
}

/// The NVML symbol of that exported name.
#[must_use]
pub fn nvml(name: &str) -> Option<&'static NvmlSymbol> {
    let index = NVML.binary_search_by(|symbol| symbol.name.cmp(name)).ok()?;
    NVML.get(index)
}

/// Every ABI of one base name: what `cuGetProcAddress` chooses from. Empty for a name that is no base name.
pub fn driver_by_base(base: &str) -> impl Iterator<Item = &'static Symbol> + use<> {
    let sorted = driver::DRIVER_BY_BASE;
    let base_of = |index: &u16| DRIVER.get(usize::from(*index)).map(|symbol| symbol.base);
    let start = sorted.partition_point(|index| base_of(index) < Some(base));
    let end = sorted.partition_point(|index| base_of(index) <= Some(base));
    sorted
        .get(start..end)
        .unwrap_or_default()
        .iter()
        .filter_map(|index| DRIVER.get(usize::from(*index)))
}
