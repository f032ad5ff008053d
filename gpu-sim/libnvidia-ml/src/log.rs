//! Lines on stderr, as much as `GPU_SIM_LOG` asks for: `off`, `error` (default), … `debug`.

use std::fmt::Arguments;
use std::io::Write as _;
use std::sync::LazyLock;

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Level {
    Off,
    Error,
    Debug,
}

static LEVEL: LazyLock<Level> = LazyLock::new(|| match std::env::var("GPU_SIM_LOG").as_deref() {
    Ok("off") => Level::Off,
    Ok("debug" | "trace") => Level::Debug,
    _ => Level::Error,
});

pub(crate) fn error(line: Arguments) {
    write(Level::Error, line);
}

pub(crate) fn debug(line: Arguments) {
    write(Level::Debug, line);
}

fn write(level: Level, line: Arguments) {
    if *LEVEL >= level {
        // There is nobody left to tell that stderr is closed.
        let _ = std::io::stderr()
            .lock()
            .write_all(format!("gpu-sim: nvml: {line}\n").as_bytes());
    }
}
