//! Finding the machine, and starting it when nobody has.

use super::{ConnectError, Environment};
use crate::folder::{self, READY, SOCKET_FILE};
use crate::profile::MachineProfile;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
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

/// Connects to the device, which is started if it does not run. Under the lock: the device ends only when it
/// holds the lock and nobody waits to be accepted.
pub(super) fn connect(
    environment: &Environment,
    profile: &MachineProfile,
) -> Result<OwnedFd, ConnectError> {
    let lock = folder::lock(&environment.dir).map_err(|error| io(&environment.dir, error))?;
    if let Some(socket) = connect_existing(environment)? {
        return Ok(socket);
    }
    if let Err(error) = start(environment, profile, &lock) {
        // Nobody listens here and nobody will. What cannot be removed is in nobody's way.
        let _ = folder::remove(&environment.dir);
        return Err(error);
    }
    let socket_path = environment.dir.join(SOCKET_FILE);
    dial(&socket_path).map_err(|error| io(&socket_path, error))
}

/// Connects to the device if it listens. Without the lock, one that is just ending may still answer.
pub(super) fn connect_existing(environment: &Environment) -> Result<Option<OwnedFd>, ConnectError> {
    let socket_path = environment.dir.join(SOCKET_FILE);
    match dial(&socket_path) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
        Err(error) => Err(io(&socket_path, error)),
    }
}

fn io(path: &Path, error: Errno) -> ConnectError {
    ConnectError::Io {
        what: path.display().to_string(),
        source: error.into(),
    }
}

fn dial(path: &Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Err(Errno::INTR) => {}
            other => return other.map(|()| socket),
        }
    }
}

/// Starts the device and waits until it listens. It detaches itself; the child we wait for is the shell it
/// leaves behind, so the host program never gets a zombie nor a lasting child. Its standard input is the folder's lock,
/// which it holds until it listens, though we should die before: nobody starts a second one meanwhile.
fn start(
    environment: &Environment,
    profile: &MachineProfile,
    lock: &OwnedFd,
) -> Result<(), ConnectError> {
    let path = find(environment)?;
    let not_started =
        |error: std::io::Error| ConnectError::NotStarted(format!("{}: {error}", path.display()));
    let mut command = Command::new(&path);
    // The host's environment may hold a preload that must not get into the device.
    command
        .env_clear()
        .arg("--dir")
        .arg(&environment.dir)
        .arg("--profile")
        .arg(&profile.name);
    if let Some(linger) = environment.linger {
        command
            .arg("--linger-ms")
            .arg(linger.as_millis().to_string());
    }
    command.envs(environment.log.as_ref().map(|level| ("GPU_SIM_LOG", level)));
    command
        .stdin(lock.try_clone().map_err(not_started)?)
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
