//! The device's log: lines in the machine's folder, which stands for standard error.

use std::fmt::Arguments;
use std::io::Write;

/// What is worth a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something went wrong.
    Error,
    /// Who comes and goes.
    Debug,
}

/// Where lines go: standard error, up to a level.
#[derive(Clone, Copy, Debug)]
pub struct Log(Option<Level>);

impl Log {
    /// `GPU_SIM_LOG`: `off`, `error` (default), `warn`, `info`, `debug`, `trace`.
    pub fn from_name(name: Option<&str>) -> Self {
        match name {
            Some("off") => Self(None),
            Some("debug" | "trace") => Self(Some(Level::Debug)),
            _ => Self(Some(Level::Error)),
        }
    }

    /// Writes a line.
    pub fn say(&self, level: Level, line: Arguments) {
        if self.0.is_some_and(|most| level <= most) {
            // There is nowhere to report that the log cannot be written.
            let _ = writeln!(std::io::stderr(), "gpu-sim-device: {line}");
        }
    }
}
