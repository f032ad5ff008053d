//! Markdown tables.

use std::fmt::Write;

/// Rows under a head.
#[derive(Debug)]
pub struct Table {
    text: String,
}

impl Table {
    /// An empty table.
    pub fn new(head: &[impl AsRef<str>]) -> Self {
        let mut table = Self {
            text: String::new(),
        };
        table.row(head);
        table.row(&vec!["---"; head.len()]);
        table
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[impl AsRef<str>]) {
        for cell in cells {
            // Writing to a string cannot fail.
            let _ = write!(self.text, "| {} ", cell.as_ref());
        }
        self.text.push_str("|\n");
    }

    /// The table's text.
    pub fn into_text(self) -> String {
        self.text
    }
}

/// A part in percent, with one decimal.
pub fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// A time in µs, with one decimal.
pub fn microseconds(ns: u64) -> String {
    format!("{:.1} µs", ns as f64 / 1e3)
}
