//! Child processes that end: each has a deadline, and is waited for, never polled.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a child may take unless a test says otherwise. Long, for a busy machine: nothing measures itself by it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What a process left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Outcome {
    /// The lines of standard output; fails the test unless the process succeeded and kept standard error empty.
    #[track_caller]
    pub fn lines(&self) -> Vec<&str> {
        assert!(self.status.success() && self.stderr.is_empty(), "{self:#?}");
        self.stdout.lines().collect()
    }
}

/// A running child with its output being collected. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pidfd: OwnedFd,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts a command, in a process group of its own, collecting whatever of its output is piped.
    pub fn start(command: &mut Command) -> Self {
        let mut running = Self::start_talking(command);
        running.stdout = running.child.stdout.take().map(collect);
        running
    }

    /// As [`Running::start`], but standard output is left to the caller.
    pub fn start_talking(command: &mut Command) -> Self {
        let mut child = command
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let pidfd = open_pidfd(child.id());
        let stderr = child.stderr.take().map(collect);
        Self {
            child,
            pidfd,
            stdout: None,
            stderr,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Kills it and waits until it is gone. Its output is lost: a child of its own may still hold the pipes.
    pub fn kill(mut self) {
        self.child
            .kill()
            .expect("a child that has not been waited for can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Waits for its end; kills it and fails the test when that takes longer than `deadline`.
    #[track_caller]
    pub fn wait(mut self, deadline: Duration) -> Outcome {
        let in_time = ends_within(&self.pidfd, deadline);
        if !in_time {
            self.child
                .kill()
                .expect("a child that has not been waited for can be killed");
        }
        let status = self.child.wait().expect("a child can be waited for");
        let outcome = Outcome {
            status,
            stdout: joined(self.stdout.take()),
            stderr: joined(self.stderr.take()),
        };
        assert!(in_time, "killed after {deadline:?}: {outcome:#?}");
        outcome
    }
}

impl Drop for Running {
    /// A test that failed leaves no process behind. Both calls are refused for a child that was waited for.
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            let _reaped = self.child.wait();
        }
    }
}

/// Runs a command to its end, within [`DEADLINE`].
#[track_caller]
pub fn run(command: &mut Command) -> Outcome {
    run_within(command, DEADLINE)
}

/// Runs a command to its end, within `deadline`.
#[track_caller]
pub fn run_within(command: &mut Command, deadline: Duration) -> Outcome {
    Running::start(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    )
    .wait(deadline)
}

/// Whether a process may have mounts of its own here, which takes root and a sandbox that allows it. Says so where not.
pub fn can_mount() -> bool {
    can_unshare("--mount", "mounts")
}

/// Whether processes may have numbers of their own here, which takes the same.
pub fn can_number() -> bool {
    can_unshare("--pid", "process numbers")
}

/// Whether processes may have clocks of their own here, which takes the same.
pub fn can_shift_time() -> bool {
    can_unshare("--time", "clocks")
}

/// Says that the test that runs on this thread is skipped. Not by `println!`, which the harness shows of failed tests only; `scripts/test`
/// counts these lines.
pub fn say_skipped(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("of a thread without a name");
    let line = format!("NOT CHECKED: test {test}: {why}\n");
    let written = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    written.expect("standard error");
}

/// Whether `/proc` is of this very pid namespace: then processes are found there by their numbers. Says so where not.
pub fn can_look_up() -> bool {
    let can = finds_itself();
    if !can {
        say_skipped("/proc is not mounted, or that of other process numbers");
    }
    can
}

/// The same, silently.
pub(crate) fn finds_itself() -> bool {
    let own = std::fs::read_link("/proc/self");
    own.is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str())
}

fn can_unshare(option: &str, what: &str) -> bool {
    let tried = Command::new("unshare")
        .args([option, "--fork", "true"])
        .output();
    let can = tried.is_ok_and(|tried| tried.status.success());
    if !can {
        say_skipped(&format!("no process can have {what} of its own here"));
    }
    can
}

/// A descriptor of a process that exists.
pub(crate) fn open_pidfd(pid: u32) -> OwnedFd {
    try_open_pidfd(pid).unwrap_or_else(|| panic!("process {pid} is gone before it was waited for"))
}

/// A descriptor of a process, or nothing if there is none.
pub(crate) fn try_open_pidfd(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid fits"))?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Whether a process ends within a time.
pub(crate) fn ends_within(pidfd: &OwnedFd, deadline: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: i64::try_from(deadline.as_secs()).expect("a deadline fits"),
        tv_nsec: deadline.subsec_nanos().into(),
    };
    loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll on a process: {error}"),
        }
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn joined(reader: Option<JoinHandle<String>>) -> String {
    reader.map_or_else(String::new, |thread| {
        thread.join().expect("a reader does not panic")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "killed after 50ms")]
    fn a_child_that_does_not_end_fails_the_test() {
        run_within(
            Command::new("sh").args(["-c", "echo begun; read nothing < /dev/zero"]),
            Duration::from_millis(50),
        );
    }

    #[test]
    #[should_panic(expected = "to stderr")]
    fn a_child_that_complains_has_no_lines() {
        run(Command::new("sh").args(["-c", "echo out; echo to stderr >&2"])).lines();
    }
}
