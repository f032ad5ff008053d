//! What real programs ask the driver for, request by request: the answers are those of the real driver 535.261.03.
//!
//! `requests.tsv` has every request once: those that CUDA runtimes 11.7 to 13.5, cuda-bindings, numba, CuPy, NCCL, JAX, PyTorch and
//! Triton made of the real libcuda 535 (one runtime of 470, which shows its way without `cuGetProcAddress`) under a logging `dlsym`,
//! names that they are linked against, and names found in their text alone (`strings`). What 535 answered is in `getprocaddress.tsv`.
//! Requests for undocumented tables (`cuGetExportTable`) are not among them: there are none here.
//!
//! One difference is wanted: the simulated driver has the symbols of newer drivers too. Where one of these is newer than whatever
//! 535 has and not newer than the version that is asked for, it is the answer. 535 is of CUDA 12.2: up to 12020 nothing differs but one
//! name that no driver here exports.
#![expect(clippy::expect_used, reason = "what goes wrong fails the test")]

mod support;

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::ops::RangeInclusive;

use cuda_sys_stubs::abi::*;
use cuda_sys_stubs::get_proc_address::resolve;
use support::{cu, driver, ok};

const REQUESTS: &str = include_str!("requests.tsv");
const MEASURED: &str = include_str!("../../../cuda-sys-stubs/symbols/getprocaddress.tsv");
const ABI: &str = include_str!("../src/abi.rs");
const DRIVER: u16 = 535;
const CUDA_VERSION_OF_DRIVER: i32 = 12_020;
/// In cuda.h since CUDA 9.0, and exported by none of the five drivers that were measured.
const IN_NO_DRIVER: &str = "cuEventCreateFromEGLSync";

fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table.lines().skip(1).map(|line| line.split('\t').collect())
}

/// The calls of before CUDA 3.2, whose addresses and sizes have 32 bits: today's contexts refuse them.
fn with_32_bit_addresses() -> Vec<*mut c_void> {
    let (_, list) = ABI.split_once("const CHANGED").expect("a list");
    let (list, _) = list.split_once("];").expect("its end");
    let symbols = list.split('"').skip(1).step_by(2);
    symbols.map(|name| exported(name).expect(name)).collect()
}

/// A name, or none, as the tables write it.
fn name(cell: &str) -> &str {
    if cell == "(empty string)" { "" } else { cell }
}

fn number<T: std::str::FromStr<Err = std::num::ParseIntError>>(cell: &str) -> T {
    cell.parse().expect("a number")
}

/// What a driver answers: a symbol, or why there is none.
type Found<'a> = Result<&'a str, CUdriverProcAddressQueryResult>;

/// What is answered whatever version of these is asked for.
struct Interval {
    versions: RangeInclusive<i32>,
    found: Found<'static>,
}

/// The measured answers of 535, by name and flags.
struct Measured(BTreeMap<(&'static str, u64), Vec<Interval>>);

impl Measured {
    fn of_535() -> Self {
        let mut answers: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for row in rows(MEASURED) {
            let [base, flags, from, to, symbol, status, drivers] = row[..] else {
                unreachable!("{row:?}")
            };
            if !drivers
                .split(',')
                .any(|driver| number::<u16>(driver) == DRIVER)
            {
                continue;
            }
            let to = if to == "max" { i32::MAX } else { number(to) };
            let found = match number(status) {
                CU_GET_PROC_ADDRESS_SUCCESS => Ok(symbol),
                why => Err(why),
            };
            for flags in flags.split(',').map(number) {
                let versions = number(from)..=to;
                let of_name = answers.entry((name(base), flags)).or_default();
                of_name.push(Interval { versions, found });
            }
        }
        Self(answers)
    }

    /// Only base names have rows; a name without is one that the driver does not know.
    fn answer(&self, name: &'static str, version: i32, flags: u64) -> Found<'static> {
        let Some(of_name) = self.0.get(&(name, flags)) else {
            return Err(CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
        };
        let asked = |interval: &&Interval| interval.versions.contains(&version);
        of_name
            .iter()
            .find(asked)
            .expect("intervals without gaps")
            .found
    }
}

/// The symbol that is the answer because the simulated driver has it and 535 has not.
fn newer_than_535(name: &str, version: i32, flags: u64) -> Option<&'static str> {
    resolve(&|_| true, name, version, flags)
        .symbol()
        .filter(|symbol| !symbol.drivers.contains(&DRIVER))
        .map(|symbol| symbol.name)
}

fn exported(name: &str) -> Option<*mut c_void> {
    // SAFETY: only the address is looked at.
    let symbol = unsafe { driver().library.get::<*mut c_void>(name.as_bytes()) }.ok()?;
    // SAFETY: as above.
    unsafe { symbol.try_as_raw_ptr() }
}

/// Asks the built driver as that version of `cuGetProcAddress` is asked, and asserts that it answers as expected.
fn assert_answers(via: &str, name: &str, version: i32, flags: u64, expected: Found) {
    let untouched = std::ptr::dangling_mut::<u64>().cast();
    let (mut pointer, mut why) = (untouched, 99);
    let base = CString::new(name).expect("no NUL");
    let request = format!("{via} {name}@{version}/{flags}");
    if via == "cuGetProcAddress" {
        let status = cu!(cuGetProcAddress(
            base.as_ptr(),
            &mut pointer,
            version,
            flags
        ));
        let expected = match expected {
            Ok(symbol) => (CUDA_SUCCESS, exported(symbol)),
            Err(_) => (CUDA_ERROR_NOT_FOUND, Some(untouched)),
        };
        assert_eq!((status, Some(pointer)), expected, "{request}");
    } else {
        let status = cu!(cuGetProcAddress_v2(
            base.as_ptr(),
            &mut pointer,
            version,
            flags,
            &mut why
        ));
        let expected = match expected {
            Ok(symbol) => (exported(symbol), CU_GET_PROC_ADDRESS_SUCCESS),
            Err(why) => (Some(std::ptr::null_mut()), why),
        };
        assert_eq!(
            (status, (Some(pointer), why)),
            (CUDA_SUCCESS, expected),
            "{request}"
        );
    }
}

#[test]
fn every_request_by_version_is_answered_as_by_the_real_535_or_with_what_is_newer() {
    let measured = Measured::of_535();
    let (mut as_535, mut newer) = (0, 0);
    for row in rows(REQUESTS).filter(|row| row[0].starts_with("cuGetProcAddress")) {
        let (via, name, version, flags) = (row[0], name(row[1]), number(row[2]), number(row[3]));
        let expected = match newer_than_535(name, version, flags) {
            Some(symbol) => {
                assert!(
                    version > CUDA_VERSION_OF_DRIVER || name == IN_NO_DRIVER,
                    "{row:?}"
                );
                newer += 1;
                Ok(symbol)
            }
            None => {
                as_535 += 1;
                measured.answer(name, version, flags)
            }
        };
        assert_answers(via, name, version, flags, expected);
    }
    assert_eq!((as_535, newer), (891, 136), "the table was not read");
}

#[test]
fn every_name_that_real_programs_look_up_is_exported() {
    let by_name = || rows(REQUESTS).filter(|row| !row[0].starts_with("cuGetProcAddress"));
    let missing: Vec<_> = by_name().filter(|row| exported(row[1]).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(by_name().count(), 1077, "the table was not read");
}

#[test]
fn no_program_that_was_watched_reaches_a_call_with_32_bit_addresses() {
    let old = with_32_bit_addresses();
    assert_eq!(old.len(), 39, "the list was not read");
    for row in rows(REQUESTS).filter(|row| row[0] != "strings") {
        let found = if row[0].starts_with("cuGetProcAddress") {
            let base = CString::new(name(row[1])).expect("no NUL");
            let (mut pointer, mut why) = (std::ptr::null_mut(), 0);
            ok!(cuGetProcAddress_v2(
                base.as_ptr(),
                &mut pointer,
                number(row[2]),
                number(row[3]),
                &mut why
            ));
            Some(pointer)
        } else {
            exported(row[1])
        };
        assert!(found.is_none_or(|found| !old.contains(&found)), "{row:?}");
    }
}
