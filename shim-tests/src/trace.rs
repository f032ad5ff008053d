//! The call trace that the simulated driver writes: one line a call, with its arguments and status.
//!
//! The driver writes values as they are and addresses as `ptr`, so the traces of two runs of one program are equal where
//! the calls are.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The calls of one process, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    calls: Vec<String>,
}

impl<'a> FromIterator<&'a str> for Trace {
    fn from_iter<Lines: IntoIterator<Item = &'a str>>(lines: Lines) -> Self {
        Self {
            calls: lines.into_iter().map(str::to_owned).collect(),
        }
    }
}

impl Trace {
    /// Reads a trace file.
    pub fn read(path: &Path) -> Self {
        let text =
            fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.lines().collect()
    }

    /// The calls, in order.
    pub fn calls(&self) -> &[String] {
        &self.calls
    }

    /// How often a symbol was called.
    pub fn count(&self, symbol: &str) -> usize {
        self.calls
            .iter()
            .filter(|call| call.split(' ').next() == Some(symbol))
            .count()
    }

    /// The first call in which two traces differ, for a person to read; nothing if they are the same.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let longest = self.calls.len().max(other.calls.len());
        let at = (0..longest).find(|&at| self.calls.get(at) != other.calls.get(at))?;
        let mut text = format!(
            "call {at} of {} and {}:",
            self.calls.len(),
            other.calls.len()
        );
        for (sign, trace) in [('-', self), ('+', other)] {
            let context = trace
                .calls
                .iter()
                .enumerate()
                .skip(at.saturating_sub(2))
                .take(5);
            for (index, call) in context {
                // Writing to a string cannot fail.
                let _ = write!(
                    text,
                    "\n{sign}{} {call}",
                    if index == at { '>' } else { ' ' }
                );
            }
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(calls: &[&str]) -> Trace {
        calls.iter().copied().collect()
    }

    #[test]
    fn a_call_more_is_a_difference() {
        let short = trace(&["cuInit 0 = 0"]);
        let long = trace(&["cuInit 0 = 0", "cuMemGetInfo_v2 ptr ptr = 0"]);
        assert!(
            short
                .difference(&long)
                .is_some_and(|text| text.contains("+> cuMemGetInfo_v2"))
        );
        assert_eq!(long.difference(&long), None);
    }

    #[test]
    fn another_argument_status_or_order_is_a_difference() {
        let one = trace(&["cuMemAlloc_v2 ptr 4096 = 0", "cuMemAlloc_v2 ptr 8192 = 2"]);
        for other in [
            ["cuMemAlloc_v2 ptr 4097 = 0", "cuMemAlloc_v2 ptr 8192 = 2"],
            ["cuMemAlloc_v2 ptr 4096 = 0", "cuMemAlloc_v2 ptr 8192 = 0"],
            ["cuMemAlloc_v2 ptr 8192 = 2", "cuMemAlloc_v2 ptr 4096 = 0"],
        ] {
            assert!(one.difference(&trace(&other)).is_some(), "{other:?}");
        }
    }
}
