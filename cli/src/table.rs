//! A plain text table: columns as wide as their widest cell, two spaces between them.

use std::fmt::{self, Display, Formatter};

/// Which side of its column a cell keeps to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Align {
    /// Names.
    Left,
    /// Figures, so that their digits stand under each other.
    Right,
}

/// A heading and rows of cells; prints itself.
#[derive(Debug)]
pub(crate) struct Table<const COLUMNS: usize> {
    columns: [(&'static str, Align); COLUMNS],
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(crate) fn new(columns: [(&'static str, Align); COLUMNS]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, row: [String; COLUMNS]) {
        self.rows.push(row);
    }

    fn widths(&self) -> [usize; COLUMNS] {
        let mut widths = self.columns.map(|(heading, _)| heading.chars().count());
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }

    fn line<'cell>(
        &self,
        widths: [usize; COLUMNS],
        cells: impl Iterator<Item = &'cell str>,
    ) -> String {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.zip(widths).zip(self.columns) {
            let cell = match align {
                Align::Left => format!("{cell:<width$}  "),
                Align::Right => format!("{cell:>width$}  "),
            };
            line.push_str(&cell);
        }
        line.trim_end().to_owned()
    }
}

impl<const COLUMNS: usize> Display for Table<COLUMNS> {
    /// Lines without a trailing line end.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        f.write_str(&self.line(widths, self.columns.iter().map(|(heading, _)| *heading)))?;
        for row in &self.rows {
            write!(f, "\n{}", self.line(widths, row.iter().map(String::as_str)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_right_and_names_left() {
        let mut table = Table::new([
            ("NAME", Align::Left),
            ("BYTES", Align::Right),
            ("WHO", Align::Left),
        ]);
        table.push(["a".into(), "1".into(), "x".into()]);
        table.push(["longer".into(), "1000000".into(), String::new()]);
        let lines = [
            "NAME      BYTES  WHO",
            "a             1  x",
            "longer  1000000",
        ];
        assert_eq!(table.to_string(), lines.join("\n"));
    }
}
