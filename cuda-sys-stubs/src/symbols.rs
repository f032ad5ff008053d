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

/// Whether it is known what the driver's symbol of that exported name does.
#[must_use]
pub fn is_understood(name: &str) -> bool {
    driver::UNDERSTOOD.lines().any(|known| known == name)
}

/// Exported names of the ABIs of a function that `cuGetProcAddress` knows by the name `base`, of those that are understood.
pub fn understood_abis(base: &str) -> impl Iterator<Item = &'static str> {
    driver::UNDERSTOOD.lines().filter(move |known| {
        known.strip_prefix(base).is_some_and(|suffix| {
            matches!(suffix, "" | "_ptds" | "_ptsz") || suffix.starts_with("_v")
        })
    })
}

/// Words in the names of functions that take memory, bring images or submit work. Of those that are known they name three of
/// four that take memory and every launch; beside those also some that do nothing of the kind.
const WORDS_OF_USE: [&str; 11] = [
    "Alloc",
    "Create",
    "Import",
    "Instantiate",
    "Launch",
    "Load",
    "Map",
    "Open",
    "Restore",
    "Retain",
    "Upload",
];

/// Whether a function of that name may take memory or submit work, as far as a name can say: it is written as the driver's
/// are (`cu` and a capital letter), and one of `Alloc`, `Create`, `Import`, `Instantiate`, `Launch`, `Load`, `Map`, `Open`,
/// `Restore`, `Retain` and `Upload` stands in it.
#[must_use]
pub fn sounds_like_use(name: &str) -> bool {
    name.strip_prefix("cu").is_some_and(|rest| {
        rest.starts_with(|first: char| first.is_ascii_uppercase())
            && WORDS_OF_USE.iter().any(|word| rest.contains(word))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::format;
    use std::string::{String, ToString};
    use std::vec::Vec;

    use super::*;

    const EFFECTS: &str = include_str!("../symbols/effects.tsv");
    const DRIVER_API: &str = include_str!("../symbols/driver_api.tsv");

    /// The cells of a table, line by line, without its heading.
    fn cells(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
        table.lines().skip(1).map(|line| line.split('\t').collect())
    }

    fn names() -> Vec<&'static str> {
        DRIVER
            .iter()
            .map(|symbol| symbol.name)
            .chain(NVML.iter().map(|symbol| symbol.name))
            .collect()
    }

    #[test]
    fn every_symbol_has_exactly_one_effect() {
        let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
        for row in cells(EFFECTS) {
            *lines.entry(row[0]).or_default() += 1;
        }
        let wrong: Vec<&str> = names()
            .into_iter()
            .filter(|name| lines.get(name) != Some(&1))
            .collect();
        assert!(wrong.is_empty(), "no effect, or more than one: {wrong:?}");
    }

    #[test]
    fn no_effect_stands_without_a_symbol() {
        let names: BTreeSet<&str> = names().into_iter().collect();
        let orphans: Vec<&str> = cells(EFFECTS)
            .map(|row| row[0])
            .filter(|name| !names.contains(name))
            .collect();
        assert!(orphans.is_empty(), "{orphans:?}");
    }

    #[test]
    fn the_rust_table_says_what_the_effects_table_says() {
        for row in cells(EFFECTS) {
            let effect = driver(row[0])
                .map(|symbol| symbol.effect)
                .or_else(|| nvml(row[0]).map(|symbol| symbol.effect));
            assert_eq!(
                effect
                    .map(|effect| format!("{effect:?}").to_lowercase())
                    .as_deref(),
                Some(row[1]),
                "{}",
                row[0]
            );
        }
    }

    #[test]
    fn every_abi_and_stream_variant_of_a_function_has_the_same_effect() {
        for symbol in DRIVER {
            for sibling in driver_by_base(symbol.base) {
                assert_eq!(
                    sibling.effect, symbol.effect,
                    "{} and {}",
                    sibling.name, symbol.name
                );
            }
        }
        for pair in NVML.windows(2).filter(|pair| pair[0].base == pair[1].base) {
            assert_eq!(
                pair[0].effect, pair[1].effect,
                "{} and {}",
                pair[0].name, pair[1].name
            );
        }
    }

    /// The effects that the `quota` and `throttle` columns leave open; what they mean stands in symbols/README.md.
    fn possible(quota: &str, throttle: &str) -> &'static [Effect] {
        match (quota, throttle) {
            ("cond", "graph" | "kernel" | "kernel-state") => &[Effect::Throttle],
            ("add" | "add-post" | "ctx-add" | "image-add" | "resize", "n") => &[Effect::Charge],
            ("sub" | "ctx-sub" | "image-sub" | "unref", "n") => &[Effect::Uncharge],
            ("cond", "n") => &[Effect::Charge, Effect::Uncharge],
            ("cond", "state") => &[Effect::Charge, Effect::Uncharge, Effect::Track],
            ("late" | "ref" | "policy", _) | ("none" | "internal", "state") => &[Effect::Track],
            ("import" | "unimport", "n") => &[Effect::Track, Effect::Neutral],
            ("host" | "internal" | "residency" | "va", "n") => &[Effect::Neutral],
            ("none", "maybe") => &[Effect::Throttle],
            ("none" | "internal", "unknown") => &[Effect::Track, Effect::Unknown],
            ("none", "n") => &[
                Effect::Neutral,
                Effect::Attach,
                Effect::Lookup,
                Effect::Report,
                // Takes nothing itself, but makes what others' memory is bound into.
                Effect::Track,
                Effect::Unknown,
            ],
            _ => &[],
        }
    }

    #[test]
    fn no_effect_contradicts_what_is_known_of_quota_and_throttle() {
        for row in cells(DRIVER_API) {
            let (name, quota, throttle) = (row[0], row[8], row[9]);
            let effect = driver(name).unwrap().effect;
            assert!(
                possible(quota, throttle).contains(&effect),
                "{name}: {quota}, {throttle}, yet {effect:?}"
            );
        }
    }

    #[test]
    fn every_symbol_is_found_by_its_name_and_by_its_base() {
        for symbol in DRIVER {
            assert_eq!(driver(symbol.name), Some(symbol));
            assert!(
                driver_by_base(symbol.base).any(|found| found == symbol),
                "{}",
                symbol.name
            );
            assert!(
                driver_by_base(symbol.base).all(|found| found.base == symbol.base),
                "{}",
                symbol.name
            );
        }
        for symbol in NVML {
            assert_eq!(nvml(symbol.name), Some(symbol));
        }
        assert_eq!(
            (
                driver("cuMemAlloc_v9"),
                driver_by_base("cuMemAlloc_v2").count()
            ),
            (None, 0)
        );
    }

    #[test]
    fn what_is_understood_is_what_has_a_known_effect() {
        for symbol in DRIVER {
            assert_eq!(
                is_understood(symbol.name),
                symbol.effect != Effect::Unknown,
                "{}",
                symbol.name
            );
        }
        for name in ["", "cu", "cuMemAlloc_v9", "cuMemAlloc_v2\ncuMemFree"] {
            assert!(!is_understood(name), "{name}");
        }
    }

    #[test]
    fn the_abis_of_a_function_are_those_of_its_base_name() {
        for symbol in DRIVER.iter().filter(|symbol| is_understood(symbol.name)) {
            assert!(
                understood_abis(symbol.base).any(|abi| abi == symbol.name),
                "{}",
                symbol.name
            );
        }
        assert_eq!(
            understood_abis("cuMemAlloc").collect::<Vec<_>>(),
            ["cuMemAlloc", "cuMemAlloc_v2"]
        );
    }

    /// Functions that take memory at first use of something are not known by their names: their siblings of tomorrow will not
    /// be either.
    #[test]
    fn allocators_and_launches_sound_like_use_and_questions_do_not() {
        let missed: Vec<_> = DRIVER
            .iter()
            .filter(|symbol| symbol.effect == Effect::Charge && !sounds_like_use(symbol.name))
            .map(|symbol| symbol.base)
            .filter(|base| !base.contains("Get") && !base.contains("Set"))
            .collect();
        assert_eq!(missed, Vec::<&str>::new());
        let launches = DRIVER.iter().filter(|symbol| {
            symbol.effect == Effect::Throttle && !symbol.name.starts_with("cuMem")
        });
        for symbol in launches {
            assert!(sounds_like_use(symbol.name), "{}", symbol.name);
        }
        for name in [
            "cuDeviceGetCount",
            "cuMemFree_v2",
            "cuMemcpyHtoD_v2",
            "cudaMalloc",
            "cuda",
            "Alloc",
        ] {
            assert!(!sounds_like_use(name), "{name}");
        }
    }

    #[test]
    fn the_tables_hold_every_symbol_that_was_counted() {
        assert_eq!((DRIVER.len(), NVML.len()), (757, 442));
        let exported_by = |branch| {
            DRIVER
                .iter()
                .filter(|symbol| symbol.drivers.contains(&branch))
                .count()
        };
        assert_eq!(exported_by(535), 620, "the exports of 535.261.03");
        assert_eq!(
            NVML.iter()
                .filter(|symbol| symbol.drivers.contains(&535))
                .count(),
            332
        );
    }

    #[test]
    fn a_per_thread_symbol_has_a_legacy_twin_with_the_same_parameters() {
        for symbol in DRIVER {
            let suffix = match symbol.stream_variant {
                StreamVariant::None | StreamVariant::Legacy => continue,
                StreamVariant::Ptds => "_ptds",
                StreamVariant::Ptsz => "_ptsz",
            };
            let twin = driver(symbol.name.strip_suffix(suffix).unwrap()).unwrap();
            assert_eq!(twin.stream_variant, StreamVariant::Legacy, "{}", twin.name);
            assert_eq!(types(twin), types(symbol), "{}", symbol.name);
        }
    }

    #[test]
    fn no_two_abis_of_a_function_begin_with_the_same_version() {
        let mut begins = BTreeSet::new();
        for symbol in DRIVER.iter().filter(|symbol| symbol.introduced != NEVER) {
            let per_thread = matches!(
                symbol.stream_variant,
                StreamVariant::Ptds | StreamVariant::Ptsz
            );
            assert!(
                begins.insert((symbol.base, symbol.introduced, per_thread)),
                "{}",
                symbol.name
            );
        }
    }

    fn types(symbol: &Symbol) -> Option<Vec<&'static str>> {
        symbol
            .parameters
            .map(|parameters| parameters.iter().map(|(_, rust_type)| *rust_type).collect())
    }

    #[test]
    fn only_undocumented_functions_have_no_signature() {
        let without: Vec<String> = DRIVER
            .iter()
            .filter(|symbol| symbol.parameters.is_none() && symbol.effect != Effect::Unknown)
            .map(|symbol| symbol.name.to_string())
            .collect();
        assert_eq!(without.len(), 28, "{without:?}");
        assert!(
            without.iter().all(|name| name.starts_with("cudbg")),
            "{without:?}"
        );
    }

    #[test]
    fn a_c_signature_is_translated_type_by_type() {
        let parameters = |name: &str| driver(name).unwrap().parameters.unwrap();
        assert_eq!(
            parameters("cuMemAlloc"),
            [("dptr", "*mut CUdeviceptr_v1"), ("bytesize", "c_uint")]
        );
        assert_eq!(
            parameters("cuGetErrorName"),
            [("error", "CUresult"), ("pStr", "*mut *const c_char")]
        );
        assert_eq!(parameters("cuCtxSynchronize"), []);
        assert_eq!(parameters("cuStreamSynchronize"), [("hStream", "CUstream")]);
        let capture = parameters("cuStreamGetCaptureInfo_v3");
        assert!(
            capture.contains(&("dependencies_out", "*mut *const CUgraphNode")),
            "{capture:?}"
        );
    }
}
