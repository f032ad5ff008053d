//! Ranges of what a file says.

use std::fmt::Display;
use std::ops::RangeInclusive;

/// A value that means nothing: where it stands, and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub(crate) struct Invalid {
    key: String,
    reason: String,
}

impl Invalid {
    pub(crate) fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            reason: reason.into(),
        }
    }
}

/// Refuses a value outside its range. NaN is in no range.
pub(crate) fn within<T: PartialOrd + Display>(
    key: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), Invalid> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    Err(Invalid::new(
        key,
        format!("{value} is not within {least} to {most}"),
    ))
}
