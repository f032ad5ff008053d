//! What the runtime tells of a container: its state, and the configuration of its bundle (OCI Runtime Specification 1.0, "State",
//! "Configuration").

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;

use serde::Deserialize;

use crate::failure::Failure;

/// What a hook gets on its standard input.
#[derive(Debug, Deserialize)]
pub(crate) struct State {
    /// The container's name at its runtime.
    pub(crate) id: String,
    /// `creating`, `created`, `running` or `stopped`.
    #[serde(default)]
    pub(crate) status: String,
    bundle: PathBuf,
}

/// The part of `config.json` that matters here.
#[derive(Debug, Deserialize)]
pub(crate) struct Container {
    root: Root,
    pub(crate) process: Process,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Root {
    path: PathBuf,
}

/// The container's first program.
#[derive(Debug, Deserialize)]
pub(crate) struct Process {
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    pub(crate) cwd: PathBuf,
}

impl State {
    /// The state on standard input.
    pub(crate) fn read() -> Result<Self, Failure> {
        let read: Result<Self, _> = serde_json::from_reader(io::stdin().lock());
        let state = read.map_err(|error| {
            Failure::usage(format_args!(
                "standard input is not the state of a container, as a runtime tells it to its hooks: {error}"
            ))
        })?;
        let is_name =
            |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        if is_name(&state.id) {
            Ok(state)
        } else {
            Err(Failure::usage(format_args!(
                "{:?} is no container's id",
                state.id
            )))
        }
    }

    /// The configuration of its bundle.
    pub(crate) fn container(&self) -> Result<Container, Failure> {
        let path = self.bundle.join("config.json");
        let unreadable = |error: &dyn std::fmt::Display| {
            Failure::failed(format_args!("{}: {error}", path.display()))
        };
        let file = File::open(&path).map_err(|error| unreadable(&error))?;
        serde_json::from_reader(BufReader::new(file)).map_err(|error| unreadable(&error))
    }

    /// Where the container's root file system is, seen from outside.
    pub(crate) fn root(&self, container: &Container) -> PathBuf {
        self.bundle.join(&container.root.path)
    }
}

impl Process {
    /// A variable of the container's environment.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let mut last = self.env.iter().rev();
        last.find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    }
}
