//! What `cuGetProcAddress` answers, as a pure rule over the symbol tables.
//!
//! Measured on the real drivers 470.256.02, 525.147.05, 535.261.03, 550.163.01 and 555.58.02; every answer is in
//! `symbols/getprocaddress.tsv`, and the tests ask for all of them.

use crate::abi::{
    CU_GET_PROC_ADDRESS_SUCCESS, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND,
    CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT, CUdriverProcAddressQueryResult,
};
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

impl Resolution {
    /// The symbol whose address the caller gets.
    #[must_use]
    pub fn symbol(self) -> Option<&'static Symbol> {
        match self {
            Self::Found(symbol) => Some(symbol),
            Self::VersionNotSufficient | Self::SymbolNotFound | Self::InvalidFlags => None,
        }
    }

    /// What `cuGetProcAddress_v2` reports beside the address; `None` where it fails and reports nothing.
    #[must_use]
    pub fn query_result(self) -> Option<CUdriverProcAddressQueryResult> {
        match self {
            Self::Found(_) => Some(CU_GET_PROC_ADDRESS_SUCCESS),
            Self::SymbolNotFound => Some(CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND),
            Self::VersionNotSufficient => Some(CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT),
            Self::InvalidFlags => None,
        }
    }
}

/// What a driver that exports the symbols for which `known` holds answers to `cuGetProcAddress(base, …, cuda_version, flags)`.
///
/// `cuda_version` may be any integer, not only the number of a release: it is an upper bound.
#[must_use]
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
    let mut abis = symbols::driver_by_base(base)
        .filter(|symbol| symbol.introduced != symbols::NEVER && known(symbol))
        .peekable();
    if abis.peek().is_none() {
        return Resolution::SymbolNotFound;
    }
    abis.filter(|symbol| serves(symbol.stream_variant, per_thread))
        .filter(|symbol| i64::from(symbol.introduced) <= i64::from(cuda_version))
        .max_by_key(|symbol| symbol.introduced)
        .map_or(Resolution::VersionNotSufficient, Resolution::Found)
}

/// Whether a symbol of that variant is what a caller with or without a per-thread default stream may get.
fn serves(variant: StreamVariant, per_thread: bool) -> bool {
    match variant {
        StreamVariant::None => true,
        StreamVariant::Legacy => !per_thread,
        StreamVariant::Ptds | StreamVariant::Ptsz => per_thread,
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::symbols::{DRIVER, NEVER};

    const MEASURED: &str = include_str!("../symbols/getprocaddress.tsv");

    /// One row of the table: for these drivers and flags, from one version to another, the answer is this.
    struct Row {
        base: &'static str,
        flags: Vec<u64>,
        from_version: i32,
        to_version: i32,
        symbol: Option<&'static str>,
        /// `None` where only drivers without a `cuGetProcAddress_v2` were asked.
        query_result: Option<u32>,
        drivers: Vec<u16>,
    }

    fn rows() -> impl Iterator<Item = Row> {
        MEASURED.lines().skip(1).map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            Row {
                base: if cells[0] == "(empty string)" {
                    ""
                } else {
                    cells[0]
                },
                flags: cells[1]
                    .split(',')
                    .map(|flag| flag.parse().unwrap())
                    .collect(),
                from_version: cells[2].parse().unwrap(),
                to_version: if cells[3] == "max" {
                    i32::MAX
                } else {
                    cells[3].parse().unwrap()
                },
                symbol: (cells[4] != "-").then_some(cells[4]),
                query_result: (cells[5] != "-").then(|| cells[5].parse().unwrap()),
                drivers: cells[6]
                    .split(',')
                    .map(|driver| driver.parse().unwrap())
                    .collect(),
            }
        })
    }

    fn exported_by(driver: u16) -> impl Fn(&Symbol) -> bool {
        move |symbol| symbol.drivers.contains(&driver)
    }

    /// The versions of a row that are worth asking with: both ends and one between.
    fn versions(row: &Row) -> [i32; 3] {
        [
            row.from_version,
            row.from_version + (row.to_version - row.from_version) / 2,
            row.to_version,
        ]
    }

    #[test]
    fn every_answer_of_five_real_drivers_is_reproduced() {
        let mut asked = 0;
        for row in rows() {
            for (&driver, &flags) in row
                .drivers
                .iter()
                .flat_map(|driver| row.flags.iter().map(move |f| (driver, f)))
            {
                for version in versions(&row) {
                    let answer = resolve(&exported_by(driver), row.base, version, flags);
                    let question = (driver, row.base, version, flags);
                    assert_eq!(
                        answer.symbol().map(|symbol| symbol.name),
                        row.symbol,
                        "{question:?}"
                    );
                    assert!(
                        row.query_result
                            .is_none_or(|expected| Some(expected) == answer.query_result()),
                        "{question:?}"
                    );
                    asked += 1;
                }
            }
        }
        assert!(
            asked > 40_000,
            "only {asked} questions: the table was not read"
        );
    }

    #[test]
    fn the_measured_intervals_have_no_gaps() {
        let rows: Vec<Row> = rows().collect();
        for driver in [470, 525, 535, 550, 555] {
            for flags in 0..3 {
                let mut of_driver: Vec<&Row> = rows
                    .iter()
                    .filter(|row| row.drivers.contains(&driver) && row.flags.contains(&flags))
                    .collect();
                of_driver.sort_by_key(|row| (row.base, row.from_version));
                for pair in of_driver.windows(2) {
                    let [one, next] = pair else { unreachable!() };
                    let follows = one.base == next.base && next.from_version == one.to_version + 1;
                    let begins = one.base != next.base
                        && next.from_version == 0
                        && one.to_version == i32::MAX;
                    assert!(
                        follows || begins,
                        "driver {driver}, flags {flags}: {} to {}",
                        one.base,
                        next.base
                    );
                }
            }
        }
    }

    #[test]
    fn both_stream_flags_together_mean_the_per_thread_stream() {
        for row in rows() {
            let ask = |flags| resolve(&exported_by(535), row.base, row.from_version, flags);
            assert_eq!(ask(3), ask(2), "{} {}", row.base, row.from_version);
        }
    }

    #[test]
    fn any_other_flag_is_refused() {
        for bit in 2..64 {
            for flags in 0..4 {
                let answer = resolve(&|_| true, "cuMemAlloc", 12_000, flags | 1 << bit);
                assert_eq!(answer, Resolution::InvalidFlags, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_name_with_a_version_or_stream_suffix_is_not_known() {
        let bases: Vec<&str> = DRIVER.iter().map(|symbol| symbol.base).collect();
        let suffixed: Vec<&Symbol> = DRIVER
            .iter()
            .filter(|symbol| !bases.contains(&symbol.name))
            .collect();
        assert!(suffixed.len() > 150);
        for symbol in suffixed {
            assert_eq!(
                resolve(&|_| true, symbol.name, i32::MAX, 0),
                Resolution::SymbolNotFound,
                "{}",
                symbol.name
            );
        }
    }

    #[test]
    fn exported_symbols_without_a_version_are_not_reachable() {
        for symbol in DRIVER.iter().filter(|symbol| symbol.introduced == NEVER) {
            assert_eq!(
                resolve(&|_| true, symbol.base, i32::MAX, 0),
                Resolution::SymbolNotFound,
                "{}",
                symbol.name
            );
        }
    }

    #[test]
    fn a_driver_without_the_symbol_does_not_know_its_name() {
        assert_eq!(
            resolve(&|_| false, "cuInit", i32::MAX, 0),
            Resolution::SymbolNotFound
        );
    }

    #[test]
    fn a_negative_version_is_too_low_for_everything() {
        assert_eq!(
            resolve(&|_| true, "cuInit", -1, 0),
            Resolution::VersionNotSufficient
        );
        assert_eq!(
            resolve(&|_| true, "cuInit", i32::MIN, 0),
            Resolution::VersionNotSufficient
        );
    }

    #[test]
    fn the_resolver_itself_changes_its_signature_with_cuda_12() {
        let ask = |version| {
            resolve(&exported_by(535), "cuGetProcAddress", version, 0)
                .symbol()
                .map(|symbol| symbol.name)
        };
        assert_eq!(ask(11_029), None);
        assert_eq!(ask(11_999), Some("cuGetProcAddress"));
        assert_eq!(ask(12_000), Some("cuGetProcAddress_v2"));
    }
}
