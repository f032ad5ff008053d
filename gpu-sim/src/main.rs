//! The simulated device: one process that owns the memory and the timeline of one machine.
//!
//! Started by the first user with `--dir DIR --profile NAME [--linger-ms N]`, and with the folder's lock, held, as its standard
//! input. Says `ready` on standard output once it listens, or why it does not, and detaches itself.

use gpu_sim::device::{Device, Level, Log, detach};
use gpu_sim::folder::{LOG_FILE, READY};
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
                let milliseconds = value
                    .to_str()
                    .and_then(|text| text.parse().ok())
                    .ok_or(usage)?;
                linger = Duration::from_millis(milliseconds);
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

/// Standard error becomes the log, standard output and input nothing: the host's are not ours to write to, and the
/// folder's lock is not ours to keep.
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

fn start(log: Log) -> Result<Device, Box<dyn Error>> {
    let Arguments {
        dir,
        profile,
        linger,
    } = arguments(std::env::args_os().skip(1))?;
    let device = Device::new(&dir, MachineProfile::load(&profile)?, linger, log)?;
    // Completions on time matter more than throughput; without the right to it we run as we are.
    let _ = rustix::process::nice(-10);
    allow_many_descriptors();
    // Who started us may be dead. The machine is there all the same, for others or until its linger time is over.
    let _ = std::io::stdout().write_all(READY.as_bytes());
    leave_standard_streams(&dir)?;
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
        Ok(device) => device,
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
