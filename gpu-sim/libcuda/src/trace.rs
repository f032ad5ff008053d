//! The call trace: with `GPU_SIM_TRACE` naming a folder, each process writes `<folder>/<pid>.trace`, one line a call.
//!
//! A line is the symbol, the arguments that mean the same in every run, and the status. Sizes, counts, flags and dimensions
//! are written as they are; pointers and handles only as `null` or `ptr`, because addresses differ from run to run; structs
//! passed by value as `struct`. A line is written when its call returns, in one `write`, so lines of threads never mix.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;

use cuda_sys_stubs::abi::CUresult;

use crate::log;

/// One argument, as far as it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Argument {
    Unsigned(u64),
    Signed(i64),
    Real(f32),
    Null,
    Pointer,
    Struct,
}

/// From this value on a 64-bit argument is taken for a device address; no size or flag is so large.
const ADDRESS_MIN: u64 = 1 << 40;

/// How an argument's type is written.
pub(crate) trait Traced {
    fn traced(&self) -> Argument;
}

macro_rules! traced {
    ($($type:ty => $variant:ident),*) => { $(
        impl Traced for $type {
            fn traced(&self) -> Argument {
                Argument::$variant((*self).into())
            }
        }
    )* };
}
traced!(i32 => Signed, u8 => Unsigned, u16 => Unsigned, u32 => Unsigned, f32 => Real);

impl Traced for u64 {
    fn traced(&self) -> Argument {
        if *self < ADDRESS_MIN {
            Argument::Unsigned(*self)
        } else {
            Argument::Pointer
        }
    }
}

impl Traced for usize {
    fn traced(&self) -> Argument {
        Argument::Unsigned(u64::try_from(*self).unwrap_or(u64::MAX))
    }
}

impl<T> Traced for *mut T {
    fn traced(&self) -> Argument {
        if self.is_null() {
            Argument::Null
        } else {
            Argument::Pointer
        }
    }
}

impl<T> Traced for *const T {
    fn traced(&self) -> Argument {
        self.cast_mut().traced()
    }
}

/// A callback, or none.
macro_rules! traced_callbacks {
    ($($type:ty),*) => { $(
        impl Traced for $type {
            fn traced(&self) -> Argument {
                if self.is_some() { Argument::Pointer } else { Argument::Null }
            }
        }
    )* };
}
traced_callbacks!(
    cuda_sys_stubs::abi::CUhostFn,
    cuda_sys_stubs::abi::CUstreamCallback,
    cuda_sys_stubs::abi::CUoccupancyB2DSize,
    cuda_sys_stubs::abi::CUgraphRecaptureCallback
);

macro_rules! traced_structs {
    ($($type:ty),*) => { $(
        impl Traced for $type {
            fn traced(&self) -> Argument {
                Argument::Struct
            }
        }
    )* };
}
traced_structs!(
    cuda_sys_stubs::abi::CUmemLocation,
    cuda_sys_stubs::abi::CUipcMemHandle,
    cuda_sys_stubs::abi::CUipcEventHandle
);

/// The arguments of a call, ready for [`call`].
macro_rules! arguments {
    ($($arg:ident),*) => { [$($crate::trace::Traced::traced(&$arg)),*] };
}
pub(crate) use arguments;

/// Writes one line, if a trace is wanted; only then it asks for the arguments.
pub(crate) fn call<const N: usize>(
    symbol: &str,
    status: CUresult,
    arguments: impl FnOnce() -> [Argument; N],
) {
    static TRACE: OnceLock<Option<Trace>> = OnceLock::new();
    if let Some(trace) = TRACE.get_or_init(Trace::open) {
        trace.write(&line(symbol, &arguments(), status));
    }
}

fn line(symbol: &str, arguments: &[Argument], status: CUresult) -> String {
    let mut line = String::with_capacity(80);
    line.push_str(symbol);
    for argument in arguments {
        // Writing to a string cannot fail.
        let _ = match argument {
            Argument::Unsigned(value) => write!(line, " {value}"),
            Argument::Signed(value) => write!(line, " {value}"),
            Argument::Real(value) => write!(line, " {value}"),
            Argument::Null => write!(line, " null"),
            Argument::Pointer => write!(line, " ptr"),
            Argument::Struct => write!(line, " struct"),
        };
    }
    let _ = writeln!(line, " = {status}");
    line
}

/// The file of the process that opened it. A forked child writes to a file of its own.
struct Trace {
    folder: std::path::PathBuf,
    pid: u32,
    file: File,
}

impl Trace {
    fn open() -> Option<Self> {
        let folder = std::env::var_os("GPU_SIM_TRACE").filter(|folder| !folder.is_empty())?;
        let pid = std::process::id();
        match append(Path::new(&folder), pid) {
            Ok(file) => Some(Self {
                folder: folder.into(),
                pid,
                file,
            }),
            Err(error) => {
                log::error(format_args!(
                    "GPU_SIM_TRACE={}: {error}",
                    Path::new(&folder).display()
                ));
                None
            }
        }
    }

    fn write(&self, line: &str) {
        let pid = std::process::id();
        let written = if pid == self.pid {
            (&self.file).write_all(line.as_bytes())
        } else {
            append(&self.folder, pid).and_then(|mut file| file.write_all(line.as_bytes()))
        };
        if let Err(error) = written {
            log::error(format_args!("GPU_SIM_TRACE: {error}"));
        }
    }
}

fn append(folder: &Path, pid: u32) -> std::io::Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(folder.join(format!("{pid}.trace")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_values_but_no_addresses() {
        let address: u64 = 0x7f00_0000_0200;
        let arguments = [
            address.traced(),
            4096usize.traced(),
            (-1i32).traced(),
            std::ptr::null::<u8>().traced(),
            std::ptr::dangling::<u8>().traced(),
        ];
        assert_eq!(
            line("cuMemcpy", &arguments, 2),
            "cuMemcpy ptr 4096 -1 null ptr = 2\n"
        );
    }
}
