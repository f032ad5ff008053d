//! Events on stderr: one `write(2)` each, so that lines of several processes do not mix.
//!
//! No lock is taken: a thread of a forked child may log whatever its parent's threads were doing.

use std::fmt::{self, Write};
use std::io;
use std::os::fd::AsFd;

use limiter::config::LogLevel;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, span};

/// Writes one line, whatever the level. A stderr that is closed or full is the program's business.
pub(crate) fn line(line: fmt::Arguments<'_>) {
    let text = format!("{line}\n");
    let _ = rustix::io::write(io::stderr().as_fd(), text.as_bytes());
}

/// Sends the events up to `level` to stderr from now on. The first call in a process decides.
pub(crate) fn start(level: LogLevel) {
    let max = match level {
        LogLevel::Off => return,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // An error says that a subscriber stands already: ours, from another thread's first use.
    let _ = tracing::subscriber::set_global_default(Stderr { max });
}

struct Stderr {
    max: LevelFilter,
}

impl tracing::Subscriber for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.max
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.max)
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let Text { message, fields } = text;
        line(format_args!(
            "cuda-hook: {} [{}] {message}{fields}",
            event.metadata().level(),
            std::process::id()
        ));
    }

    // Spans are not used here.
    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}
    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}
    fn enter(&self, _span: &span::Id) {}
    fn exit(&self, _span: &span::Id) {}
}

/// The message of an event, and its other fields as ` name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a `String` cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
