//! The simulated device: one process that owns the memory and the timeline of one machine.
//!
//! Started by the first users, each one of its own, with `--dir DIR --profile NAME [--linger-ms N]`. Detaches itself; takes the
//! folder's lock; says `ready` on standard output once it listens, or at once, and ends, where another does; or says why it does
//! not.

use gpu_sim::device::{Device, Level, Log, detach};
use gpu_sim::folder::{self, LOG_FILE, READY};
use gpu_sim::profile::MachineProfile;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Time for which a machine outlives its last user.
const LINGER_DEFAULT: Duration = Duration::from_secs(1);

/// What the command line says.
struct Arguments {
    dir: PathBuf,
    profile: String,
    linger: Duration,
}

fn arguments(mut words: impl Iterator<Item = OsString>) -> Result<Arguments, String> {
    let usage =
        "usage: gpu-sim-device --dir DIR --profile NAME [--linger-ms N] (started by the library)";
    let (mut dir, mut profile, mut linger) = (None, None, LINGER_DEFAULT);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(usage)?;
        match word.to_str() {
            Some("--dir") => dir = Some(PathBuf::from(value)),
            Some("--profile") => profile = value.into_string().ok(),
            Some("--linger-ms") => {
                let milliseconds = value.to_str().and_then(|text| text.parse::<u32>().ok());
                linger = Duration::from_millis(milliseconds.ok_or(usage)?.into());
            }
            _ => return Err(usage.to_owned()),
        }
    }
    let (dir, profile) = dir.zip(profile).ok_or(usage)?;
    let dir = std::path::absolute(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    Ok(Arguments {
        dir,
        profile,
        linger,
    })
}

/// Standard error becomes the log, standard output and input nothing: the host's are not ours to write to.
fn leave_standard_streams(dir: &Path) -> Result<(), rustix::io::Errno> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    let log = rustix::fs::open(dir.join(LOG_FILE), flags, Mode::RUSR | Mode::WUSR)?;
    rustix::stdio::dup2_stderr(&log)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stdin(&null)
}

/// As many descriptors as the system allows: each process takes some, and hundreds may come.
fn allow_many_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer we run as long as they last.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Says that there is a device. Who started us may be dead; it is there all the same, for others or until its time is over.
fn say_ready() {
    let _ = std::io::stdout().write_all(READY.as_bytes());
}

/// Comes up, unless there is a device already.
fn start(log: Log) -> Result<Option<Device>, Box<dyn Error>> {
    let arguments = arguments(std::env::args_os().skip(1))?;
    let dir = &arguments.dir;
    let _lock = folder::lock(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    if folder::dial(dir).is_ok() {
        say_ready();
        return Ok(None);
    }
    let device = come_up(&arguments, log).inspect_err(|_| {
        // Nobody listens here and nobody will. What cannot be removed is in nobody's way.
        let _ = folder::remove(dir);
    })?;
    Ok(Some(device))
}

fn come_up(arguments: &Arguments, log: Log) -> Result<Device, Box<dyn Error>> {
    let Arguments {
        dir,
        profile,
        linger,
    } = arguments;
    let device = Device::new(dir, MachineProfile::load(profile)?, *linger, log)?;
    // Completions on time matter more than throughput; without the right to it we run as we are.
    let _ = rustix::process::nice(-10);
    allow_many_descriptors();
    say_ready();
    leave_standard_streams(dir)?;
    Ok(device)
}

fn main() -> ExitCode {
    if let Err(error) = detach() {
        // The host reads this as the reason why there is no device.
        let _ = writeln!(std::io::stdout(), "detaching: {error}");
        return ExitCode::FAILURE;
    }
    let log = Log::from_name(std::env::var("GPU_SIM_LOG").ok().as_deref());
    let device = match start(log) {
        Ok(Some(device)) => device,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stdout(), "{error}");
            return ExitCode::FAILURE;
        }
    };
    match device.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.say(Level::Error, format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}
