//! A frame on a terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line as Text;
use ratatui::text::Span;
use ratatui::widgets::{Cell, Paragraph, Row, Table, Wrap};

use super::View;
use super::lines::{BAR_CELLS, Line, full_cells};
use crate::args::Sort;

/// Rows of the screen that sentences may have.
const NOTE_ROWS_MAX: u16 = 8;

pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let lines = view.lines();
    let notes = view.notes().join("\n");
    let width = frame.area().width.max(1);
    let note_rows = rows_of(&notes, width).min(NOTE_ROWS_MAX);
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(note_rows),
    ])
    .areas(frame.area());
    frame.render_widget(title(view, lines.len()), head);
    frame.render_widget(table(lines.iter().skip(view.skipped)), body);
    frame.render_widget(Paragraph::new(notes).wrap(Wrap { trim: true }), foot);
}

/// How many rows a text takes when it is wrapped, at most.
fn rows_of(text: &str, width: u16) -> u16 {
    // A word that does not fit leaves the rest of a row empty: a third more is enough for sentences.
    let rows = |line: &str| (line.chars().count() * 4 / 3).div_ceil(usize::from(width));
    u16::try_from(text.lines().map(rows).sum::<usize>()).unwrap_or(u16::MAX)
}

fn title(view: &View, count: usize) -> Text<'static> {
    let sorted_by = match view.sort {
        Sort::Memory => "memory",
        Sort::Gpu => "GPU time",
        Sort::Waiting => "waiting",
        Sort::Refusals => "refusals",
        Sort::Name => "name",
    };
    Text::from(vec![
        "cuda-hook top".bold(),
        format!(
            "  {}  {count} lines by {sorted_by}  ",
            view.folder.display()
        )
        .into(),
        "m g w r n: sort  up down: scroll  q: quit".dim(),
    ])
}

fn table<'a>(lines: impl Iterator<Item = &'a Line>) -> Table<'a> {
    let heading = [
        "CONTAINER",
        "GPU",
        "MEMORY",
        "",
        "GPU TIME",
        "",
        "UNACCOUNTED",
        "WAITING",
        "WAITED FOR",
        "REFUSED",
        "PROCESSES",
    ];
    let bar = Constraint::Length(u16::try_from(BAR_CELLS).unwrap_or(u16::MAX));
    let widths = [
        Constraint::Min(9),
        Constraint::Length(12),
        bar,
        Constraint::Length(36),
        bar,
        Constraint::Length(18),
        Constraint::Length(11),
        Constraint::Length(9),
        Constraint::Max(33), // all three, where there is room
        Constraint::Length(7),
        Constraint::Min(9),
    ];
    Table::new(lines.map(row), widths)
        .header(Row::new(heading).style(Style::new().reversed()))
        .column_spacing(1)
}

fn row(line: &Line) -> Row<'_> {
    let [unaccounted, waiting, waited_for, refused, processes] = line.rest();
    let right = |text: String| Cell::from(Text::from(text).right_aligned());
    Row::new([
        Cell::from(line.container.as_str()),
        Cell::from(line.gpu.as_str()),
        Cell::from(bar(line.memory_part())),
        Cell::from(line.memory_text()),
        Cell::from(bar(line.gpu_part())),
        Cell::from(line.gpu_text()),
        right(unaccounted),
        right(waiting),
        Cell::from(waited_for),
        right(refused),
        Cell::from(processes),
    ])
}

/// Nothing where there is nothing to measure by.
fn bar(part: Option<f64>) -> Text<'static> {
    let Some(part) = part else {
        return Text::default();
    };
    let color = match part {
        _ if part >= 0.95 => Color::Red,
        _ if part >= 0.8 => Color::Yellow,
        _ => Color::Green,
    };
    let full = full_cells(part);
    Text::from(vec![
        Span::styled("█".repeat(full), color),
        "░".repeat(BAR_CELLS.saturating_sub(full)).dim(),
    ])
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::tests::view;
    use super::*;

    /// The rows of the screen.
    fn screen(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content().chunks(usize::from(width));
        rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect())
            .collect()
    }

    #[test]
    fn a_screen_has_a_line_a_container_with_bars() {
        let rows = screen(&view(&["a", "b"]), 150, 6);
        assert!(rows[0].starts_with("cuda-hook top  /state  2 lines by name"));
        assert!(rows[1].starts_with("CONTAINER"));
        assert!(rows[2].starts_with("a"), "{rows:?}");
        for part in ["GPU-7c6c3c6e", "█████░░░░░ 1 GiB of 2 GiB", "256 MiB"] {
            assert!(rows[2].contains(part), "{part} in {}", rows[2]);
        }
        assert!(rows[3].starts_with("b"));
    }

    #[test]
    fn what_is_scrolled_past_is_not_drawn() {
        let mut view = view(&["a", "b"]);
        view.skipped = 1;
        let rows = screen(&view, 150, 6);
        assert!(rows[2].starts_with("b"), "{rows:?}");
    }

    #[test]
    fn sentences_stand_below() {
        let mut view = view(&["a"]);
        view.now.containers[0].devices[0].memory_bytes_max = Some(1 << 20);
        let rows = screen(&view, 80, 8);
        let all = rows.join("\n");
        assert!(all.contains("a: 1 GiB in use of GPU-7c6c3c6e"), "{all}");
    }

    #[test]
    fn no_size_is_too_small() {
        for (width, height) in [(1, 1), (3, 2), (20, 3)] {
            screen(&view(&["a"]), width, height);
        }
    }
}
