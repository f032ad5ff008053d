//! `cuda-hook top`: what every container uses of its limits, live.

mod lines;
mod screen;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use limiter::sample::Sample;
use ratatui::DefaultTerminal;

use crate::args::{Sort, TopArgs};
use crate::failure::Failure;
use crate::listed::Lists;
use crate::notes;
use crate::output;
use crate::settings;
use crate::status::sample_of;
use crate::ticks::Ticks;
use lines::Line;

/// Shows frames until `q`; one, as text, where nobody could press it.
pub(crate) fn top(args: &TopArgs) -> Result<ExitCode, Failure> {
    let folder = settings::of(&settings::environment())
        .map_err(Failure::failed)?
        .dir;
    let mut view = View::of(folder, args.sort)?;
    if args.once || !io::stdout().is_terminal() {
        once(&mut view, args.every)?;
    } else {
        refuse_dumb_terminal()?;
        live(&mut view, args.every)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is shown, and how.
struct View {
    folder: PathBuf,
    lists: Lists,
    /// The two newest looks: shares are of the time between them.
    before: Option<Sample>,
    now: Sample,
    sort: Sort,
    /// Lines that are scrolled past.
    skipped: usize,
}

impl View {
    fn of(folder: PathBuf, sort: Sort) -> Result<Self, Failure> {
        let mut lists = Lists::default();
        Ok(Self {
            before: None,
            now: sample_of(&folder, &mut lists)?,
            folder,
            lists,
            sort,
            skipped: 0,
        })
    }

    fn look(&mut self) -> Result<(), Failure> {
        let now = sample_of(&self.folder, &mut self.lists)?;
        self.before = Some(std::mem::replace(&mut self.now, now));
        Ok(())
    }

    fn lines(&self) -> Vec<Line> {
        lines::of(self.before.as_ref(), &self.now, self.sort)
    }

    fn notes(&self) -> Vec<String> {
        notes::of(&self.now)
    }
}

/// One frame, of the time of one period.
fn once(view: &mut View, period: Duration) -> Result<(), Failure> {
    let ticks = Ticks::every(period).map_err(Failure::failed)?;
    ticks.wait().map_err(Failure::failed)?;
    view.look()?;
    let table = lines::table(&view.lines()).to_string();
    let lines = [table].into_iter().chain(view.notes());
    output::print(lines.collect::<Vec<_>>().join("\n"))
}

/// A terminal that cannot place its cursor shows no frames.
fn refuse_dumb_terminal() -> Result<(), Failure> {
    match std::env::var("TERM").as_deref() {
        Ok("" | "dumb") | Err(_) => Err(Failure::failed(
            "this terminal cannot place its cursor (TERM is dumb, or not set); `cuda-hook top --once` prints one frame",
        )),
        Ok(_) => Ok(()),
    }
}

fn live(view: &mut View, period: Duration) -> Result<(), Failure> {
    let mut terminal = ratatui::try_init().map_err(unusable)?;
    let shown = frames(&mut terminal, view, period);
    let restored = ratatui::try_restore().map_err(unusable);
    shown.and(restored)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn unusable(error: io::Error) -> Failure {
    Failure::failed(format_args!(
        "this terminal cannot be drawn on: {error}; `cuda-hook top --once` prints one frame"
    ))
}

fn frames(
    terminal: &mut DefaultTerminal,
    view: &mut View,
    period: Duration,
) -> Result<(), Failure> {
    let mut next = Instant::now() + period;
    loop {
        terminal
            .draw(|frame| screen::draw(frame, view))
            .map_err(unusable)?;
        let left = next.saturating_duration_since(Instant::now());
        if event::poll(left).map_err(unusable)? {
            let event = event::read().map_err(unusable)?;
            if Some(Wish::End) == wish(&event).inspect(|wish| view.obey(*wish)) {
                return Ok(());
            }
        } else {
            view.look()?;
            next = Instant::now() + period;
        }
    }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    End,
    Sort(Sort),
    Up,
    Down,
}

fn wish(event: &Event) -> Option<Wish> {
    let Event::Key(KeyEvent {
        code,
        modifiers,
        kind: KeyEventKind::Press | KeyEventKind::Repeat,
        ..
    }) = event
    else {
        return None; // a new size is drawn anyway
    };
    let is_control = modifiers.contains(KeyModifiers::CONTROL);
    Some(match code {
        KeyCode::Char('c') if is_control => Wish::End,
        KeyCode::Char('q') | KeyCode::Esc => Wish::End,
        KeyCode::Char('m') => Wish::Sort(Sort::Memory),
        KeyCode::Char('g') => Wish::Sort(Sort::Gpu),
        KeyCode::Char('w') => Wish::Sort(Sort::Waiting),
        KeyCode::Char('r') => Wish::Sort(Sort::Refusals),
        KeyCode::Char('n') => Wish::Sort(Sort::Name),
        KeyCode::Up => Wish::Up,
        KeyCode::Down => Wish::Down,
        _ => return None,
    })
}

impl View {
    fn obey(&mut self, wish: Wish) {
        match wish {
            Wish::End => {}
            Wish::Sort(sort) => self.sort = sort,
            Wish::Up => self.skipped = self.skipped.saturating_sub(1),
            Wish::Down => {
                let last = self.lines().len().saturating_sub(1);
                self.skipped = self.skipped.saturating_add(1).min(last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::{container, sample};

    pub(super) fn view(names: &[&str]) -> View {
        View {
            folder: PathBuf::from("/state"),
            lists: Lists::default(),
            before: None,
            now: sample(names.iter().map(|name| container(name, &[7])).collect()),
            sort: Sort::Name,
            skipped: 0,
        }
    }

    fn key(code: KeyCode, modifiers: KeyModifiers) -> Option<Wish> {
        wish(&Event::Key(KeyEvent::new(code, modifiers)))
    }

    #[test]
    fn keys_sort_scroll_and_end() {
        let plain = |letter| key(KeyCode::Char(letter), KeyModifiers::NONE);
        assert_eq!(plain('q'), Some(Wish::End));
        assert_eq!(plain('c'), None);
        let interrupt = key(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(interrupt, Some(Wish::End));
        let mut view = view(&["a", "b"]);
        for (letter, sort) in [('m', Sort::Memory), ('g', Sort::Gpu), ('r', Sort::Refusals)] {
            view.obey(plain(letter).unwrap());
            assert_eq!(view.sort, sort);
        }
        for (code, skipped) in [
            (KeyCode::Down, 1),
            (KeyCode::Down, 1),
            (KeyCode::Up, 0),
            (KeyCode::Up, 0),
        ] {
            view.obey(key(code, KeyModifiers::NONE).unwrap());
            assert_eq!(view.skipped, skipped);
        }
    }
}
