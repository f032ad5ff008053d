//! What the simulated driver has to say, on stderr, one `write` a line. `GPU_SIM_LOG` is `off`, `error` (default), `warn`,
//! `info` or `debug`; any other word counts as `error`.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::OnceLock;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
}

fn wanted() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| match std::env::var("GPU_SIM_LOG").as_deref() {
        Ok("off") => Level::Off,
        Ok("warn") => Level::Warn,
        Ok("info") => Level::Info,
        Ok("debug") => Level::Debug,
        _ => Level::Error,
    })
}

/// Something that the program's user has to know: the simulation cannot do what it should.
pub(crate) fn error(message: Arguments<'_>) {
    write(Level::Error, "error", message);
}

/// Something for whoever looks closer.
pub(crate) fn debug(message: Arguments<'_>) {
    write(Level::Debug, "debug", message);
}

fn write(level: Level, word: &str, message: Arguments<'_>) {
    if level <= wanted() {
        // Nobody can be told that stderr is closed.
        let _ = std::io::stderr().write_all(format!("gpu-sim: {word}: {message}\n").as_bytes());
    }
}
