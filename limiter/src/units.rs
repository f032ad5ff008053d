//! Quantities with their units in the type, and the one grammar in which people write them.

use std::fmt;
use std::str::FromStr;

/// An amount of device memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

/// Time during which a container occupied a GPU's compute engine, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuNs(u64);

/// A point in time: `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonotonicNs(u64);

/// A share in percent, 1 to 100, kept in thousandths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

/// What identifies a GPU for good, as the driver and NVML give it (16 bytes, written `GPU-…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceUuid([u8; 16]);

macro_rules! nanoseconds {
    ($name:ident) => {
        impl $name {
            /// From a number of nanoseconds.
            pub const fn new(ns: u64) -> Self {
                Self(ns)
            }
            /// The number of nanoseconds.
            pub const fn get(self) -> u64 {
                self.0
            }
        }
    };
}
nanoseconds!(GpuNs);
nanoseconds!(MonotonicNs);

impl MonotonicNs {
    /// This point moved `ns` nanoseconds into the future, at most to the end of time.
    pub const fn saturating_add_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }
    /// Nanoseconds since `earlier`; 0 when `earlier` is later.
    pub const fn saturating_ns_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Bytes {
    /// From a number of bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }
    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl Percent {
    /// The whole: 100 %.
    pub const ALL: Self = Self(100_000);

    /// From thousandths of a percent, 1000 (1 %) to 100000 (100 %); `None` outside.
    pub const fn from_thousandths(thousandths: u32) -> Option<Self> {
        if 1_000 <= thousandths && thousandths <= 100_000 {
            Some(Self(thousandths))
        } else {
            None
        }
    }
    /// Thousandths of a percent.
    pub const fn thousandths(self) -> u32 {
        self.0
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

/// What is wrong with a quantity somebody wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub(crate) &'static str);

impl FromStr for Bytes {
    type Err = ParseError;
    fn from_str(_text: &str) -> Result<Self, ParseError> {
        unimplemented!()
    }
}
impl FromStr for Percent {
    type Err = ParseError;
    fn from_str(_text: &str) -> Result<Self, ParseError> {
        unimplemented!()
    }
}
impl FromStr for DeviceUuid {
    type Err = ParseError;
    fn from_str(_text: &str) -> Result<Self, ParseError> {
        unimplemented!()
    }
}
impl fmt::Display for Bytes {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}
impl fmt::Display for Percent {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}
impl fmt::Display for DeviceUuid {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}
