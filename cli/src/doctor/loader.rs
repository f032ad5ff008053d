//! What the dynamic loader says of the environment that this command was called in: its glibc, and the driver it finds.
//!
//! The companion is asked, each time a new one: what one question has had the loader open does not answer the next.

use std::path::Path;

use cuda_hook_libraries::{Driver, Question};

use crate::failure::Failure;
use crate::libraries::Libraries;

/// What to do where the companion cannot be asked.
pub(crate) const WAY_OUT: &str =
    "install cuda-hook as a whole, in an image with glibc, which NVIDIA's own libcuda needs too";

/// Why a driver was not opened.
#[derive(Debug)]
pub(crate) enum NotOpened {
    /// The loader's own message.
    Loader(String),
    /// Nobody could ask the loader.
    Unasked(Failure),
}

/// Opens `name`, a SONAME or a path, as a program would.
pub(crate) fn open_driver(name: &Path) -> Result<Driver, NotOpened> {
    let question = Question::Driver(name.to_owned());
    let answer = Libraries::start().and_then(|mut libraries| libraries.ask(&question));
    let opened: Result<Driver, String> = answer.map_err(NotOpened::Unasked)?;
    opened.map_err(NotOpened::Loader)
}

/// Version of the glibc that programs run on here, as `2.36`.
pub(crate) fn glibc_version() -> Result<String, Failure> {
    Libraries::start()?.ask(&Question::CLibrary)
}
