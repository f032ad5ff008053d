//! The one place that writes to standard output and standard error.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Writes `text` and a line end to standard output. A reader that has gone (`cuda-hook status | head -1`) has what it wanted.
pub(crate) fn print(text: impl Display) -> Result<(), Failure> {
    write_line(&mut io::stdout().lock(), text).map(drop)
}

/// Whether somebody still reads standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Listens,
    Gone,
}

/// As [`print()`], for who prints on and on and has to know when to stop.
pub(crate) fn print_line(text: impl Display) -> Result<Reader, Failure> {
    write_line(&mut io::stdout().lock(), text)
}

/// Writes `value` as JSON in one line.
pub(crate) fn print_json_line(value: &impl Serialize) -> Result<Reader, Failure> {
    print_line(json_line(value)?)
}

/// `value` as JSON in one line.
pub(crate) fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(not_json)
}

/// Writes `value` as indented JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(json(value)?)
}

/// `value` as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(not_json)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn not_json(error: serde_json::Error) -> Failure {
    Failure::failed(format_args!("cannot write JSON: {error}"))
}

/// Writes to standard error under this command's name. Nobody is left to tell when that fails.
pub(crate) fn complain(text: impl Display) {
    drop(writeln!(io::stderr().lock(), "cuda-hook: {text}"));
}

fn write_line(out: &mut impl Write, text: impl Display) -> Result<Reader, Failure> {
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Listens),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::failed(format_args!(
            "cannot write to standard output: {error}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let written = write_line(&mut Broken(ErrorKind::BrokenPipe), "x");
        assert_eq!(written, Ok(Reader::Gone));
    }

    #[test]
    fn a_full_disk_is_a_failure() {
        assert!(write_line(&mut Broken(ErrorKind::StorageFull), "x").is_err());
    }
}
