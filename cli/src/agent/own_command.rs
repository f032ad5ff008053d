//! This command again, as a process of its own, for what may be held up or killed by what a container does to its files.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::failure::Failure;

/// Programs have a file's lock for microseconds: who has not got it after so long never will.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs it with these arguments on the folder `dir`. It is killed when it takes too long, or when nobody waits for it any more.
///
/// # Errors
/// It cannot be started, or was killed.
pub(crate) async fn run(
    dir: &Path,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<Output, Failure> {
    // Not by its name, under which another version may stand by now.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("cuda-hook")
        .args(arguments)
        .env("CUDA_HOOK_DIR", dir)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = timeout(PATIENCE, command.output()).await;
    let output = ended.map_err(|_| {
        Failure::failed(format_args!(
            "no answer within {} s: a process of the container holds the lock of its file",
            PATIENCE.as_secs()
        ))
    })?;
    output.map_err(|error| Failure::failed(format_args!("cannot start /proc/self/exe: {error}")))
}

/// Its complaint, without the name before it.
pub(crate) fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.starts_with(NAME));
    line.map_or_else(
        || format!("{}: {}", output.status, text.trim_end()),
        |line| line.trim_start_matches(NAME).to_owned(),
    )
}

const NAME: &str = "cuda-hook: ";
