//! What `cuGetProcAddress` answers, as a pure rule over the symbol tables.
//!
//! Measured on the real drivers 470.256.02, 525.147.05, 535.261.03, 550.163.01 and 555.58.02; every answer is in
//! `symbols/getprocaddress.tsv`, and the tests ask for all of them.

use crate::symbols::{self, StreamVariant, Symbol};

/// The default stream of the caller's own build, as `cuGetProcAddress` is told in its flags.
pub const FLAG_LEGACY_STREAM: u64 = 1;
/// The per-thread default stream; wins over [`FLAG_LEGACY_STREAM`].
pub const FLAG_PER_THREAD_DEFAULT_STREAM: u64 = 2;

/// The answer to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The newest ABI that is not newer than the version asked with.
    Found(&'static Symbol),
    /// The driver knows the name, but only from a later version on.
    VersionNotSufficient,
    /// The driver does not know the name. It knows base names alone: not `cuMemAlloc_v2`.
    SymbolNotFound,
    /// A flag that does not exist.
    InvalidFlags,
}

/// What a driver that exports the symbols for which `known` holds answers to `cuGetProcAddress(base, …, cuda_version, flags)`.
///
/// `cuda_version` may be any integer, not only the number of a release: it is an upper bound.
pub fn resolve(
    known: &dyn Fn(&Symbol) -> bool,
    base: &str,
    cuda_version: i32,
    flags: u64,
) -> Resolution {
    if flags & !(FLAG_LEGACY_STREAM | FLAG_PER_THREAD_DEFAULT_STREAM) != 0 {
        return Resolution::InvalidFlags;
    }
    let per_thread = flags & FLAG_PER_THREAD_DEFAULT_STREAM != 0;
    let mut answer = Resolution::SymbolNotFound;
    let mut newest = 0;
    for symbol in symbols::driver_by_base(base)
        .filter(|symbol| symbol.introduced != symbols::NEVER && known(symbol))
    {
        if answer == Resolution::SymbolNotFound {
            answer = Resolution::VersionNotSufficient;
        }
        let is_candidate = match symbol.stream_variant {
            StreamVariant::None => true,
            StreamVariant::Legacy => !per_thread,
            StreamVariant::Ptds | StreamVariant::Ptsz => per_thread,
        };
        let is_old_enough = i64::from(symbol.introduced) <= i64::from(cuda_version);
        if is_candidate && is_old_enough && symbol.introduced >= newest {
            newest = symbol.introduced;
            answer = Resolution::Found(symbol);
        }
    }
    answer
}
