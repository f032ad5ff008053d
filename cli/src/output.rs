//! The one place that writes to standard output and standard error.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Writes `text` and a line end to standard output. A reader that has gone (`cuda-hook status | head -1`) has what it wanted.
pub(crate) fn print(text: impl Display) -> Result<(), Failure> {
    write_line(&mut io::stdout().lock(), text)
}

/// Writes `value` as indented JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::failed(format_args!("cannot write JSON: {error}")))?;
    print(text)
}

/// Writes to standard error under this command's name. Nobody is left to tell when that fails.
pub(crate) fn complain(text: impl Display) {
    drop(writeln!(io::stderr().lock(), "cuda-hook: {text}"));
}

fn write_line(out: &mut impl Write, text: impl Display) -> Result<(), Failure> {
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::failed(format_args!(
            "cannot write to standard output: {error}"
        ))),
        _ => Ok(()),
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
        assert_eq!(write_line(&mut Broken(ErrorKind::BrokenPipe), "x"), Ok(()));
    }

    #[test]
    fn a_full_disk_is_a_failure() {
        assert!(write_line(&mut Broken(ErrorKind::StorageFull), "x").is_err());
    }
}
