//! What is configured, as the library will understand it: the same reader, the same messages.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use limiter::config::{self, Refusal, Settings};

use crate::artefacts::LIBRARY_VARIABLE;

/// Names and values, as a program gets them.
pub(crate) type Environment = BTreeMap<OsString, OsString>;

/// This process's environment without the one variable that is for this command and not for the library.
pub(crate) fn environment() -> Environment {
    let mut environment: Environment = std::env::vars_os().collect();
    environment.remove(OsStr::new(LIBRARY_VARIABLE));
    environment
}

/// What the library would make of `environment` and the config file. The refusal is the library's own line.
pub(crate) fn of(environment: &Environment) -> Result<Settings, String> {
    config::load_from(environment.clone()).map_err(|refusal| line(&refusal))
}

/// The same of a program in a container that is yet to be made.
pub(crate) fn of_container(environment: Environment) -> Result<Settings, String> {
    config::load_for_container(environment).map_err(|refusal| line(&refusal))
}

/// A refusal without the name that this command puts before every line of its own.
fn line(refusal: &Refusal) -> String {
    let line = refusal.to_string();
    line.strip_prefix("cuda-hook: ")
        .map_or(line.clone(), str::to_owned)
}
