//! Why a charge is refused.

use crate::units::Bytes;

/// The container has less than that left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{asked} asked, {current} of {max} in use ({bound})")]
pub struct OverQuota {
    /// What was asked for.
    pub asked: Bytes,
    /// What the container held, as far as it counts there.
    pub current: Bytes,
    /// What it may hold.
    pub max: Bytes,
    /// Which bound that is.
    pub bound: Bound,
}

/// What keeps a container from more memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u64)] // a whole word, as all of what is copied with it
pub enum Bound {
    /// Its quota, which nothing exceeds.
    #[default]
    Quota,
    /// Its guarantee: more has to be borrowed.
    Guarantee,
    /// The GPU's memory, less what the other containers hold or are guaranteed: there is no more to borrow.
    Lendable,
}

impl Bound {
    /// As shared memory has it.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Quota => 0,
            Self::Guarantee => 1,
            Self::Lendable => 2,
        }
    }

    /// Of a number in shared memory.
    pub(crate) fn of(number: u32) -> Self {
        match number {
            1 => Self::Guarantee,
            2 => Self::Lendable,
            _ => Self::Quota,
        }
    }

    /// As it is written out.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Guarantee => "guarantee",
            Self::Lendable => "lendable",
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}
