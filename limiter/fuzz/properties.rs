//! What holds of every text that somebody may write as a size, a share or a configuration.
//!
//! Two programs ask: libFuzzer, whose targets are in `fuzz_targets`, and `tests/parsing.rs`, which plays the corpus.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::{env, fs, process};

use limiter::config::{self, GpuLimits, Refusal, Settings};
use limiter::units::{Bytes, DeviceUuid, Percent};

/// Between the environment and the file of a configuration.
const DIVIDER: &str = "\n---\n";
const DEVICES: [DeviceUuid; 2] = [
    DeviceUuid::from_bytes([0x11; 16]),
    DeviceUuid::from_bytes([0x22; 16]),
];

/// What is read is read exactly, all else is refused, and what is written reads back.
pub(crate) fn quantity(text: &str) {
    let bytes = text.parse::<Bytes>().ok();
    let (number, unit) = text.split_at(
        text.find(|c: char| c.is_ascii_alphabetic())
            .unwrap_or(text.len()),
    );
    if let Some(wanted) = product(number, factor(unit), !unit.is_empty()) {
        assert_eq!(bytes.map(Bytes::get), wanted, "{text:?}");
    }
    if let Some(bytes) = bytes {
        assert_eq!(bytes.to_string().parse(), Ok(bytes), "{text:?}");
    }
    let percent = text.parse::<Percent>().ok();
    if let Some(wanted) = product(text.strip_suffix('%').unwrap_or(text), Some(1_000), true) {
        let wanted = wanted.filter(|thousandths| (1_000..=100_000).contains(thousandths));
        assert_eq!(
            percent.map(|percent| u64::from(percent.thousandths())),
            wanted,
            "{text:?}"
        );
    }
    if let Some(percent) = percent {
        assert_eq!(percent.to_string().parse(), Ok(percent), "{text:?}");
    }
    if let Ok(uuid) = text.parse::<DeviceUuid>() {
        assert!(uuid.to_string().eq_ignore_ascii_case(text), "{text:?}");
    }
}

/// `unit` of bytes, as the README has it; of no unit, one.
fn factor(unit: &str) -> Option<u128> {
    let unit = unit.to_ascii_lowercase();
    let power = |letter: &str| {
        ["", "k", "m", "g", "t"]
            .iter()
            .position(|known| *known == letter)
    };
    let exponent = |stem: &str| power(stem).and_then(|power| u32::try_from(power).ok());
    match unit.strip_suffix("ib").filter(|stem| !stem.is_empty()) {
        Some(stem) => exponent(stem).map(|power| 1024_u128.pow(power)),
        None => match unit.strip_suffix('b').filter(|stem| !stem.is_empty()) {
            Some(stem) => exponent(stem).map(|power| 1000_u128.pow(power)),
            None => exponent(&unit).map(|power| 1024_u128.pow(power)),
        },
    }
}

/// `number` × `factor`, if both are well written and it comes out whole and fits; in another way than the product's. The outer `None`:
/// more digits than can be told in this way.
fn product(number: &str, factor: Option<u128>, may_have_fraction: bool) -> Option<Option<u64>> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = [whole, fraction]
        .iter()
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    let is_fraction = number.contains('.');
    let Some(factor) = factor.filter(|_| is_number && (may_have_fraction || !is_fraction)) else {
        return Some(None);
    };
    if whole.len() + fraction.len() > 25 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let product = digits.checked_mul(factor)?;
    Some(
        (product % divisor == 0)
            .then(|| u64::try_from(product / divisor).ok())
            .flatten(),
    )
}

/// A configuration, as bytes: variables, a line each, then [`DIVIDER`] and the config file.
pub(crate) fn configuration(input: &[u8]) {
    let at = input
        .windows(DIVIDER.len())
        .position(|window| window == DIVIDER.as_bytes());
    let (environment, file) = at.map_or((input, &[][..]), |at| {
        (&input[..at], &input[at + DIVIDER.len()..])
    });
    let path = env::temp_dir().join(format!("limiter-configuration-{}.toml", process::id()));
    let written = fs::File::create(&path).and_then(|mut target| target.write_all(file));
    assert!(written.is_ok(), "{}: {written:?}", path.display());
    examine(&path, variables(&String::from_utf8_lossy(environment)));
    let removed = fs::remove_file(&path);
    assert!(removed.is_ok(), "{}: {removed:?}", path.display());
}

/// A configuration is the same whenever it is read, and the environment raises no limit of the file.
fn examine(path: &Path, variables: Vec<(OsString, OsString)>) {
    let both = load(path, variables.clone());
    let again = load(path, variables);
    assert_eq!(format!("{both:?}"), format!("{again:?}"));
    let Some((limits, of_file)) = bound(&both).zip(bound(&load(path, Vec::new()))) else {
        return;
    };
    for (limits, of_file) in limits.into_iter().zip(of_file) {
        assert!(
            limits.sm.is_none() || limits.sm <= limits.sm_max,
            "{limits:?}"
        );
        let is_within = is_within(limits, of_file);
        assert!(is_within, "{limits:?} beyond the file's {of_file:?}");
    }
}

/// `NAME=VALUE`, a line each, but for the variable that names the file.
fn variables(text: &str) -> Vec<(OsString, OsString)> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let pairs = pairs.filter(|(name, _)| *name != "CUDA_HOOK_CONFIG");
    pairs
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn load(path: &Path, variables: Vec<(OsString, OsString)>) -> Result<Settings, Refusal> {
    let named = ("CUDA_HOOK_CONFIG".into(), path.as_os_str().to_owned());
    let loaded = config::load_from(variables.into_iter().chain([named]));
    if let Err(refusal) = &loaded {
        assert_is_one_line(refusal);
    }
    loaded
}

/// The limits of two devices, where they are accepted.
fn bound(settings: &Result<Settings, Refusal>) -> Option<Vec<GpuLimits>> {
    let Some(limits) = &settings.as_ref().ok()?.limits else {
        return Some(vec![GpuLimits::default(); DEVICES.len()]);
    };
    limits.bind(&DEVICES).inspect_err(assert_is_one_line).ok()
}

/// Whoever reads stderr is told by us on one line, and by nobody else.
fn assert_is_one_line(refusal: &Refusal) {
    let line = refusal.to_string();
    assert!(
        line.starts_with("cuda-hook: ") && !line.contains(char::is_control),
        "{line:?}"
    );
}

fn is_within(limits: GpuLimits, bounds: GpuLimits) -> bool {
    fn is_at_most<T: PartialOrd>(one: Option<T>, most: Option<T>) -> bool {
        most.is_none_or(|most| one.is_some_and(|one| one <= most))
    }
    is_at_most(limits.memory_bytes_max, bounds.memory_bytes_max)
        && is_at_most(limits.sm_max, bounds.sm_max)
}
