//! Which machine a process means: the only place that reads the environment.

use super::ConnectError;
use crate::profile::{self, MachineProfile};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Profile of a process that names none.
const PROFILE_DEFAULT: &str = "t4";

/// What names a machine.
#[derive(Clone, Debug)]
pub struct Environment {
    /// `GPU_SIM_PROFILE`: a built-in name, several (`2xa100,t4`) or the path of a TOML file.
    pub profile: String,
    /// `GPU_SIM_DIR`: the machine's folder.
    pub dir: PathBuf,
    /// `GPU_SIM_DEVICE`: path of `gpu-sim-device`; `None` = beside the library.
    pub device: Option<PathBuf>,
    /// `CUDA_HOOK_CONTAINER`: label in the usage table.
    pub container: String,
    /// `GPU_SIM_LINGER_MS`, as it is written: how long the machine that this process starts outlives its last user;
    /// `None` = 1 s.
    pub linger_ms: Option<String>,
    /// `GPU_SIM_ALLOC_US`, as it is written: how much longer this process waits for device memory, each time; `None` = not at all.
    pub alloc_us: Option<String>,
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
        let profile = text("GPU_SIM_PROFILE");
        let profile = profile::canonical_name(profile.as_deref().unwrap_or(PROFILE_DEFAULT));
        Self {
            dir: path("GPU_SIM_DIR").unwrap_or_else(|| default_dir(&profile)),
            profile,
            device: path("GPU_SIM_DEVICE"),
            container: text("CUDA_HOOK_CONTAINER").unwrap_or_default(),
            linger_ms: text("GPU_SIM_LINGER_MS"),
            alloc_us: text("GPU_SIM_ALLOC_US"),
            log: text("GPU_SIM_LOG"),
        }
    }

    /// Reads the profile; a path is made absolute, so that every process means the same file.
    pub(super) fn profile(&self) -> Result<MachineProfile, ConnectError> {
        Ok(MachineProfile::load(&profile::canonical_name(
            &self.profile,
        ))?)
    }

    /// Reads the linger time, in ms.
    pub(super) fn linger_ms(&self) -> Result<Option<u32>, ConnectError> {
        let wanted = "a number of milliseconds from 0 to 4294967295";
        number("GPU_SIM_LINGER_MS", self.linger_ms.as_ref(), wanted)
    }

    /// Reads how long a wait for device memory takes at least.
    pub(super) fn alloc_delay(&self) -> Result<Duration, ConnectError> {
        let wanted = "a number of microseconds from 0 to 4294967295";
        let delay_us: Option<u32> = number("GPU_SIM_ALLOC_US", self.alloc_us.as_ref(), wanted)?;
        Ok(Duration::from_micros(delay_us.unwrap_or(0).into()))
    }
}

/// Reads a number.
fn number(
    name: &'static str,
    text: Option<&String>,
    wanted: &'static str,
) -> Result<Option<u32>, ConnectError> {
    let read = |text: &String| {
        text.parse().map_err(|_| ConnectError::Setting {
            name,
            value: text.clone(),
            wanted,
        })
    };
    text.map(read).transpose()
}

/// One folder a user and profile, in memory: `/dev/shm/gpu-sim-<uid>-<profile>`. Of a file, its name and a hash of its
/// path: the path of a socket may have 107 bytes in all (unix(7)).
fn default_dir(profile: &str) -> PathBuf {
    let uid = rustix::process::getuid().as_raw();
    let name = match Path::new(profile).file_stem() {
        Some(stem) if profile.contains('/') => {
            let hash = profile::fnv1a(profile.bytes()) as u32;
            format!("{:.24}-{hash:08x}", stem.to_string_lossy())
        }
        _ => profile.to_owned(),
    };
    let harmless = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    let name = name.replace(|letter| !harmless(letter), "_");
    PathBuf::from(format!("/dev/shm/gpu-sim-{uid}-{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_of_one_name_are_two_machines_whose_sockets_have_short_paths() {
        let folder = "/a".repeat(500);
        let [one, other] = ["x", "y"].map(|sub| default_dir(&format!("{folder}/{sub}/mine.toml")));
        assert_ne!(one, other);
        assert!(one.as_os_str().len() < 90, "{one:?}");
        assert_ne!(default_dir("2xa100"), default_dir("a100"));
    }
}
