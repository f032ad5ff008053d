//! What limits a container has: the config file and the environment, checked.

use std::fmt;
use std::path::PathBuf;

use crate::units::{Bytes, DeviceUuid, Percent};

/// Everything that was configured for this process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose quota this is.
    pub container: ContainerName,
    /// Folder of the shared state.
    pub dir: PathBuf,
    /// How much is said on stderr.
    pub log: LogLevel,
    /// Path of the real `libcuda.so.1`, where it is not the one the loader finds.
    pub driver: Option<PathBuf>,
    /// `None`: no source sets a limit; interpose nothing.
    pub limits: Option<Limits>,
}

/// A container's name: 1 to 64 of `[A-Za-z0-9._-]`, not starting with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerName(String);

/// How much is said on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What makes enforcement impossible. The default.
    Error,
    /// What deserves attention.
    Warn,
    /// Attach, detach, refusals.
    Info,
    /// Every decision.
    Debug,
    /// Every hooked call.
    Trace,
}

/// The configured limits of a container, before its GPUs are known.
#[derive(Clone, Debug)]
pub struct Limits {}

/// The limits of a container on one GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuLimits {
    /// Most device memory, in bytes; `None`: no limit; 0: nothing may be allocated.
    pub memory_bytes_max: Option<Bytes>,
    /// Guaranteed share of SM time; `None`: none is.
    pub sm: Option<Percent>,
    /// The share never exceeded; `None`: no cap. Never below `sm`; equals it when only `sm` is set.
    pub sm_max: Option<Percent>,
}

/// A setting that is not accepted. Displays as the one line for stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {}

/// The settings of this process, from its environment and its config file.
pub fn load() -> Result<Settings, Refusal> {
    unimplemented!()
}

impl Limits {
    /// The limits on each of `devices`, in that order. Refused when a named GPU is not among them.
    pub fn bind(&self, _devices: &[DeviceUuid]) -> Result<Vec<GpuLimits>, Refusal> {
        unimplemented!()
    }
}

impl ContainerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl std::str::FromStr for ContainerName {
    type Err = crate::units::ParseError;
    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        unimplemented!()
    }
}
impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Display for Refusal {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}
impl std::error::Error for Refusal {}
