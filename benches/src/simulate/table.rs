//! Markdown tables.

use std::fmt::Write;

/// Rows under a head.
pub(crate) struct Table {
    text: String,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(head: &[&str]) -> Self {
        let mut table = Self {
            text: String::new(),
        };
        table.row(head);
        table.row(&vec!["---"; head.len()]);
        table
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: &[impl AsRef<str>]) {
        for cell in cells {
            // Writing to a string cannot fail.
            let _ = write!(self.text, "| {} ", cell.as_ref());
        }
        self.text.push_str("|\n");
    }

    /// The table's text.
    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

/// A part in percent, with one decimal.
pub(crate) fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// A time in µs, with one decimal.
pub(crate) fn microseconds(ns: u64) -> String {
    format!("{:.1} µs", ns as f64 / 1e3)
}
