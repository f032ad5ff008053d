//! Quantities with their units in the type, and the one grammar in which people write them.

use std::fmt;
use std::str::FromStr;

/// An amount of device memory in bytes.
///
/// Written as an integer of bytes, or as a number with `KiB MiB GiB TiB` (`K M G T` mean the same) or
/// `KB MB GB TB` (decimal), in any case; a fraction must come out as whole bytes. Displays exactly, in the largest
/// binary unit that leaves no remainder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

/// Time during which a GPU's compute engine was occupied, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuNs(u64);

/// A point in time: `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonotonicNs(u64);

/// A share in percent, 1 to 100, kept in thousandths of a percent.
///
/// Written as a number with at most three decimals and an optional `%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

/// What identifies a GPU for good: the 16 bytes of `cuDeviceGetUuid`, written `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceUuid([u8; 16]);

/// What is wrong with a quantity somebody wrote: a clause such as `is not a number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub(crate) &'static str);

impl Bytes {
    /// What a user may write, for the end of an error message.
    pub const ALLOWED: &'static str =
        "bytes, or a number with KiB, MiB, GiB, TiB, KB, MB, GB or TB; 0; max";

    /// From a number of bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// A size, or `max` (in any case) for "no limit", which is `None`.
    pub fn parse_or_max(text: &str) -> Result<Option<Self>, ParseError> {
        if text.eq_ignore_ascii_case("max") {
            return Ok(None);
        }
        text.parse().map(Some)
    }
}

impl GpuNs {
    /// From a number of nanoseconds.
    pub const fn new(ns: u64) -> Self {
        Self(ns)
    }

    /// The number of nanoseconds.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl MonotonicNs {
    /// From nanoseconds since the clock's start.
    pub const fn new(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the clock's start.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// This point moved `ns` nanoseconds into the future, at most to the end of time.
    pub const fn saturating_add_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Nanoseconds since `earlier`; 0 when `earlier` is later.
    pub const fn saturating_ns_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Percent {
    /// The whole: 100 %.
    pub const ALL: Self = Self(100_000);
    /// The smallest share: 1 %.
    pub const LEAST: Self = Self(1_000);
    /// What a user may write, for the end of an error message.
    pub const ALLOWED: &'static str = "1 to 100, up to three decimals, with or without %";

    /// From thousandths of a percent, 1000 (1 %) to 100000 (100 %); `None` outside.
    pub const fn from_thousandths(thousandths: u32) -> Option<Self> {
        if Self::LEAST.0 <= thousandths && thousandths <= Self::ALL.0 {
            Some(Self(thousandths))
        } else {
            None
        }
    }

    /// Thousandths of a percent.
    pub const fn thousandths(self) -> u32 {
        self.0
    }

    /// In percent, for who shows it.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }
}

impl DeviceUuid {
    /// From the driver's 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The driver's 16 bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

/// `number` × `unit`, exactly: digits with an optional fraction, nothing else.
fn exact_multiple(number: &str, unit: u64) -> Result<u64, ParseError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(ParseError("is not a number"));
    }
    // From the last digit to the first: 0.d₁d₂… × unit is whole only if each 0.dₖdₖ₊₁… × unit is.
    let mut part: u64 = 0;
    for digit in fraction.bytes().rev() {
        let digit = u64::from(digit.saturating_sub(b'0'));
        let tenfold = part.saturating_add(digit.saturating_mul(unit));
        if tenfold % 10 != 0 {
            return Err(ParseError("is not a whole number of the smallest unit"));
        }
        part = tenfold / 10;
    }
    let whole: u64 = whole.parse().map_err(|_| TOO_LARGE)?;
    whole
        .checked_mul(unit)
        .and_then(|product| product.checked_add(part))
        .ok_or(TOO_LARGE)
}

const TOO_LARGE: ParseError = ParseError("is too large");

/// Factor of a size's unit, which is given in lower case.
fn size_unit(unit: &str) -> Option<u64> {
    Some(match unit {
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    })
}

impl FromStr for Bytes {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let unit_at = text.find(|c: char| c.is_ascii_alphabetic());
        let Some((number, unit)) = unit_at.and_then(|at| text.split_at_checked(at)) else {
            if text.contains('.') {
                return Err(ParseError("is a fraction without a unit"));
            }
            return exact_multiple(text, 1).map(Self);
        };
        let unit = size_unit(&unit.to_ascii_lowercase()).ok_or(ParseError("is not a size"))?;
        exact_multiple(number, unit).map(Self)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{name}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for Percent {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let thousandths = exact_multiple(text.strip_suffix('%').unwrap_or(text), 1_000)?;
        u32::try_from(thousandths)
            .ok()
            .and_then(Self::from_thousandths)
            .ok_or(ParseError("is out of range"))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, thousandths) = (self.0 / 1_000, self.0 % 1_000);
        if thousandths == 0 {
            return write!(f, "{whole}%");
        }
        let fraction = format!("{thousandths:03}");
        write!(f, "{whole}.{}%", fraction.trim_end_matches('0'))
    }
}

impl FromStr for DeviceUuid {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const SHAPE: ParseError =
            ParseError("is not of the form GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx");
        let groups = text.strip_prefix("GPU-").ok_or(SHAPE)?;
        let lengths = groups.split('-').map(str::len);
        if !lengths.eq([8, 4, 4, 4, 12]) {
            return Err(SHAPE);
        }
        let mut nibbles = groups.chars().filter(|c| *c != '-').map(|c| c.to_digit(16));
        let mut bytes = [0_u8; 16];
        for byte in &mut bytes {
            let (high, low) = nibbles
                .next()
                .flatten()
                .zip(nibbles.next().flatten())
                .ok_or(SHAPE)?;
            *byte = u8::try_from(high << 4 | low).map_err(|_| SHAPE)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for DeviceUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GPU")?;
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 0 | 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(text: &str) -> Result<u64, ParseError> {
        text.parse().map(Bytes::get)
    }

    #[test]
    fn sizes_are_read_exactly() {
        for (text, wanted) in [
            ("0", 0),
            ("1234567", 1_234_567),
            ("1K", 1024),
            ("1kib", 1024),
            ("4GiB", 4 << 30),
            ("4g", 4 << 30),
            ("1.5GiB", 3 << 29),
            ("0.5T", 1 << 39),
            ("2TB", 2_000_000_000_000),
            ("1.25kb", 1250),
            ("16777215TiB", 16_777_215 << 40),
            ("18446744073709551615", u64::MAX),
            ("0.0000000000009094947017729282379150390625TiB", 1),
        ] {
            assert_eq!(bytes(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_exact_size_is_refused() {
        for text in [
            "",
            "abc",
            "-1",
            "+1",
            "1.5",
            "1.0000000001KiB",
            ".5K",
            "1.K",
            "1..5K",
            "1 GiB",
            " 1",
            "1B",
            "1KiBs",
            "0x10",
            "1e3",
            "K",
            "²K",
            "16777216TiB",
            "18446744073709551616",
            "99999999999999999999TB",
            "max",
            "1.0000001MB",
            "4,5G",
        ] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn max_is_no_limit_and_zero_is_a_limit() {
        assert_eq!(Bytes::parse_or_max("MAX"), Ok(None));
        assert_eq!(Bytes::parse_or_max("0"), Ok(Some(Bytes::new(0))));
        assert!(Bytes::parse_or_max("maximum").is_err());
    }

    #[test]
    fn percents_are_read_exactly() {
        for (text, wanted) in [
            ("1", 1_000),
            ("100%", 100_000),
            ("12.5", 12_500),
            ("33.333%", 33_333),
            ("1.000", 1_000),
        ] {
            assert_eq!(text.parse().map(Percent::thousandths), Ok(wanted), "{text}");
        }
        for text in [
            "",
            "%",
            "0",
            "0.999",
            "100.001",
            "200",
            "-1",
            "12.3456",
            "30 %",
            "30%%",
            "abc",
            "4294967.297",
        ] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_device_uuid_is_written_as_the_driver_writes_it() {
        let text = "GPU-7c6c3c6e-0123-4567-89ab-cdef00ff1020";
        let uuid: DeviceUuid = text.parse().unwrap();
        assert_eq!(uuid.to_bytes()[..4], [0x7c, 0x6c, 0x3c, 0x6e]);
        assert_eq!(uuid.to_string(), text);
        for text in [
            "",
            "GPU-",
            "7c6c3c6e-0123-4567-89ab-cdef00ff1020",
            "GPU-7c6c3c6e-0123-4567-89ab-cdef00ff102",
            "GPU-7c6c3c6e-0123-4567-89ab-cdef00ff10g0",
        ] {
            assert!(text.parse::<DeviceUuid>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_size_reads_back_as_itself(value in any::<u64>(), shift in 0_u32..60) {
            for value in [value, value >> shift << shift, value & 0xfff << shift] {
                prop_assert_eq!(bytes(&Bytes::new(value).to_string()), Ok(value));
            }
        }

        #[test]
        fn every_percent_reads_back_as_itself(thousandths in 1_000_u32..=100_000) {
            let percent = Percent::from_thousandths(thousandths).unwrap();
            prop_assert_eq!(percent.to_string().parse(), Ok(percent));
        }

        #[test]
        fn every_device_uuid_reads_back_as_itself(raw in any::<[u8; 16]>()) {
            let uuid = DeviceUuid::from_bytes(raw);
            prop_assert_eq!(uuid.to_string().parse(), Ok(uuid));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC*") {
            let _ = text.parse::<Bytes>();
            let _ = text.parse::<Percent>();
            let _ = text.parse::<DeviceUuid>();
        }
    }
}
