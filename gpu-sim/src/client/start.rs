//! Finding the machine, and starting it when nobody has.

use super::{ConnectError, Environment};
use crate::folder::{self, READY, SOCKET_FILE};
use crate::profile::MachineProfile;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How long a device that hung up may take to end.
const END_TIMEOUT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Devices that may be gone again before we have connected to them.
const STARTS_MAX: u32 = 3;

/// Connects to the device, which is started if it does not run. Nobody is kept waiting meanwhile: who comes at the same time starts
/// one, too, and they agree which of them stays ([`folder`]). A device waits for its first user for a while, but one that lies
/// still for longer than that may find it gone.
pub(super) fn connect(
    environment: &Environment,
    profile: &MachineProfile,
) -> Result<OwnedFd, ConnectError> {
    for _ in 0..STARTS_MAX {
        if let Some(socket) = connect_existing(environment)? {
            return Ok(socket);
        }
        start(environment, profile)?;
    }
    connect_existing(environment)?
        .ok_or_else(|| ConnectError::NotStarted("it was gone before we had connected".to_owned()))
}

/// Connects to the device if it listens.
pub(super) fn connect_existing(environment: &Environment) -> Result<Option<OwnedFd>, ConnectError> {
    match folder::dial(&environment.dir) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
        Err(error) => Err(ConnectError::Io {
            what: environment.dir.join(SOCKET_FILE).display().to_string(),
            source: error.into(),
        }),
    }
}

/// Starts a device and waits until one listens. It detaches itself; the child we wait for is the shell it
/// leaves behind, so the host program never gets a zombie nor a lasting child.
fn start(environment: &Environment, profile: &MachineProfile) -> Result<(), ConnectError> {
    let path = find(environment)?;
    let not_started =
        |error: std::io::Error| ConnectError::NotStarted(format!("{}: {error}", path.display()));
    // The device goes to another folder.
    let dir = std::path::absolute(&environment.dir).map_err(not_started)?;
    let mut command = Command::new(&path);
    // The host's environment may hold a preload that must not get into the device.
    command
        .env_clear()
        .arg("--dir")
        .arg(dir)
        .arg("--profile")
        .arg(&profile.name);
    if let Some(linger_ms) = environment.linger_ms()? {
        command.arg("--linger-ms").arg(linger_ms.to_string());
    }
    command.envs(environment.log.as_ref().map(|level| ("GPU_SIM_LOG", level)));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().map_err(not_started)?;
    let mut said = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut said).map_err(not_started)?;
    }
    // ECHILD: the host program ignores SIGCHLD or reaps everybody's children. Fine with us.
    let _ = child.wait();
    if said == READY {
        Ok(())
    } else {
        Err(ConnectError::NotStarted(said.trim_end().to_owned()))
    }
}

/// Waits for the end of a device that hung up; false where it lives on, or lies outside our pid namespace.
pub(super) fn wait_for_end(device: u32) -> bool {
    let Some(pid) = i32::try_from(device).ok().and_then(Pid::from_raw) else {
        return false;
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(end) => poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&END_TIMEOUT)) == Ok(1),
        Err(error) => error == Errno::SRCH,
    }
}

/// `GPU_SIM_DEVICE`, else beside the library or program that holds this code, else one folder up
/// (Cargo's `deps`) or in `gpu-sim/` (the layout of `scripts/build`, seen from the command).
fn find(environment: &Environment) -> Result<PathBuf, ConnectError> {
    if let Some(path) = &environment.device {
        return Ok(path.clone());
    }
    let own = crate::own_path::own_path();
    let beside = own
        .as_deref()
        .and_then(Path::parent)
        .unwrap_or(Path::new("."));
    let places = [beside.to_owned(), beside.join(".."), beside.join("gpu-sim")];
    let mut candidates = places.iter().map(|place| place.join("gpu-sim-device"));
    candidates
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| ConnectError::NoDevice {
            beside: beside.display().to_string(),
        })
}
