//! What the `cuda-hook` command asks its companion, and what that answers: one line of JSON each, over the companion's standard
//! input and output, until the input ends.
//!
//! The command is static, so that it runs in every image; a static program can open no library of the system's. The companion
//! `cuda-hook-libraries` is what the libraries are made for: a program of glibc's. It is started in the environment of whoever calls the
//! command, so that its loader finds what a program's would find.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The companion's file.
pub const FILE: &str = "cuda-hook-libraries";

/// SONAME of the management library of the GPUs' driver.
pub const NVML: &str = "libnvidia-ml.so.1";

/// One question; its answer is named beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// The version of the C library: a `String`, as `2.36`.
    CLibrary,
    /// Which file the loader opens for a driver's SONAME or path: `Result<Driver, String>`, or what the loader says.
    Driver(PathBuf),
    /// Who uses the GPUs with these UUIDs: `Result<Vec<Gpu>, Unusable>`, without those that NVML does not know.
    Processes(Vec<String>),
}

/// A driver that the loader could open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Driver {
    /// The file, links resolved.
    pub path: PathBuf,
    /// Newest CUDA version that it serves, as `cuDriverGetVersion` says it (12020 = 12.2); `None`: it would not say.
    pub cuda_version: Option<i32>,
}

/// What NVML lists of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// As it was asked for.
    pub uuid: String,
    /// In NVML's order; one that is listed for several parts of the GPU stands there several times.
    pub processes: Vec<Process>,
}

/// One process that NVML lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id, in the pid namespace of whoever asks.
    pub pid: u32,
    /// What it holds; `None`: NVML does not know.
    pub memory_bytes: Option<u64>,
}

/// Why NVML lists nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unusable {
    /// There is none, or it is the simulated one, whose machine is asked without starting it.
    #[error("no NVML: {0}")]
    Absent(String),
    /// It does not work: NVML's own error.
    #[error("{NVML} cannot be used (error {0})")]
    Refused(u32),
}

/// Whether a library is a simulated one: those have their device process beside them.
pub fn is_simulated(library: &Path) -> bool {
    library.with_file_name("gpu-sim-device").exists()
}
