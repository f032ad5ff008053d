//! Other processes: this test program again, where `GPU_SIM_TEST_PROGRAM` says what they do.
#![allow(dead_code, reason = "each test program uses a part of it")]

use super::{PATIENCE, kernel};
use gpu_sim::client::{Environment, Machine};
use gpu_sim::command::Command as GpuCommand;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

pub(crate) const GIB: u64 = 1 << 30;

pub(crate) fn say(line: impl std::fmt::Display) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "# {line}").unwrap();
    output.flush().unwrap();
}

pub(crate) fn wait_for_end_of_input() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Another process, ended with the test.
pub(crate) struct Program {
    pub(crate) child: Child,
    output: BufReader<ChildStdout>,
}

impl Program {
    pub(crate) fn start(environment: &Environment, name: &str) -> Self {
        Self::start_as(environment, name, std::env::current_exe().unwrap(), None)
    }

    pub(crate) fn start_as(
        environment: &Environment,
        name: &str,
        path: PathBuf,
        user: Option<u32>,
    ) -> Self {
        let mut command = Command::new(path);
        command.args(["--exact", "program", "--nocapture"]);
        command.env("GPU_SIM_TEST_PROGRAM", name);
        command.env("GPU_SIM_DIR", &environment.dir);
        command.env("GPU_SIM_PROFILE", &environment.profile);
        command.env("GPU_SIM_DEVICE", environment.device.as_ref().unwrap());
        command.env("GPU_SIM_LINGER_MS", environment.linger_ms.as_ref().unwrap());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        user.map(|user| command.uid(user).gid(user));
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// Its next line.
    pub(crate) fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(
                self.output.read_line(&mut line).unwrap(),
                0,
                "it ended early"
            );
            // The test harness writes its own lines, one of them without an end.
            if let Some((_, said)) = line.split_once("# ") {
                return said.trim_end().to_owned();
            }
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Ends its input and waits for it.
    pub(crate) fn finish(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn wait_for_end(pid: u32) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    // An error says that it has ended already.
    if let Ok(end) = pidfd_open(pid, PidfdFlags::empty()) {
        let patience = PATIENCE.try_into().unwrap();
        let ended = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&patience)).unwrap();
        assert_eq!(ended, 1, "process {pid} still lives");
    }
}

pub(crate) fn run_kernels(machine: &Machine, count: u64) {
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    for _ in 0..count {
        let last = machine
            .submit(&stream, GpuCommand::Kernel(kernel(100)))
            .unwrap();
        machine.wait_stream(&stream, last).unwrap();
    }
    machine.destroy_context(context).unwrap();
}
