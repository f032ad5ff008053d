//! Which machine a process means: the only place that reads the environment.

use super::ConnectError;
use crate::profile::MachineProfile;
use std::path::PathBuf;
use std::time::Duration;

/// Profile of a process that names none.
const PROFILE_DEFAULT: &str = "t4";

/// What names a machine.
#[derive(Clone, Debug)]
pub struct Environment {
    /// `GPU_SIM_PROFILE`: a built-in name or the path of a TOML file.
    pub profile: String,
    /// `GPU_SIM_DIR`: the machine's folder.
    pub dir: PathBuf,
    /// `GPU_SIM_DEVICE`: path of `gpu-sim-device`; `None` = beside the library.
    pub device: Option<PathBuf>,
    /// `CUDA_HOOK_CONTAINER`: label in the usage table.
    pub container: String,
    /// `GPU_SIM_LINGER_MS`: how long the machine that this process starts outlives its last user;
    /// `None` = 1 s.
    pub linger: Option<Duration>,
    /// `GPU_SIM_LOG` for the device process.
    pub log: Option<String>,
}

impl Environment {
    /// As the process's environment variables say.
    pub fn from_process() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let profile = text("GPU_SIM_PROFILE").unwrap_or_else(|| PROFILE_DEFAULT.to_owned());
        Self {
            dir: path("GPU_SIM_DIR").unwrap_or_else(|| default_dir(&profile)),
            profile,
            device: path("GPU_SIM_DEVICE"),
            container: text("CUDA_HOOK_CONTAINER").unwrap_or_default(),
            linger: text("GPU_SIM_LINGER_MS")
                .and_then(|text| text.parse().ok())
                .map(Duration::from_millis),
            log: text("GPU_SIM_LOG"),
        }
    }

    /// Reads the profile; a path is made absolute, so that every process means the same file.
    pub(super) fn profile(&self) -> Result<MachineProfile, ConnectError> {
        let absolute = std::fs::canonicalize(&self.profile)
            .ok()
            .filter(|_| self.profile.contains('/'));
        let name = absolute.map_or_else(|| self.profile.clone(), |path| path.display().to_string());
        Ok(MachineProfile::load(&name)?)
    }
}

/// One folder a user and profile, in memory: `/dev/shm/gpu-sim-<uid>-<profile>`.
fn default_dir(profile: &str) -> PathBuf {
    let name: String = profile
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '_'
            }
        })
        .collect();
    let uid = rustix::process::getuid().as_raw();
    PathBuf::from(format!("/dev/shm/gpu-sim-{uid}-{name}"))
}
