//! `cuda-hook top`, seen from outside: on a terminal, on a dumb one, on none.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use limiter::ledger::Ledger;
use limiter::units::{Bytes, DeviceUuid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use support::{Sandbox, stderr, stdout};

/// As long as it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program of the container `trainer-7` that holds 1 GiB of 4.
fn attach(sandbox: &Sandbox) -> Ledger {
    let device = DeviceUuid::from_bytes([7; 16]);
    let quota = Some(Bytes::new(4 << 30));
    let name = "trainer-7".parse().unwrap();
    let ledger = Ledger::attach(&sandbox.path("state"), &name, &[(device, quota)]).unwrap();
    ledger.charge(0, Bytes::new(1 << 30));
    ledger
}

/// A terminal of 160 by 24, and what runs on it.
struct Terminal {
    master: File,
    child: Child,
    shown: String,
}

impl Terminal {
    fn start(command: &mut Command) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let mut open = OpenOptions::new();
        let slave = open.read(true).write(true).open(name.to_str().unwrap());
        let slave: OwnedFd = slave.unwrap().into();
        let size = Winsize {
            ws_col: 160,
            ws_row: 24,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&slave, size).unwrap();
        let command = command.stdin(slave.try_clone().unwrap()).stdout(slave);
        let child = command.spawn().unwrap();
        // With the command goes the last descriptor of the slave that is ours.
        Self {
            master: master.into(),
            child,
            shown: String::new(),
        }
    }

    /// Reads until that is shown.
    fn until(&mut self, text: &str) {
        let start = Instant::now();
        while !self.shown.contains(text) {
            let mut wanted = [PollFd::new(&self.master, PollFlags::IN)];
            let second = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            let is_ready = poll(&mut wanted, Some(&second)).unwrap() > 0;
            assert!(start.elapsed() < PATIENCE, "{text:?}: {:?}", self.shown);
            if !is_ready {
                continue;
            }
            let mut bytes = [0; 4096];
            let count = self.master.read(&mut bytes).unwrap();
            self.shown
                .push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }
}

impl Drop for Terminal {
    /// A failed test leaves nobody behind.
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_terminal_is_drawn_on_until_q_and_left_as_it_was() {
    let sandbox = Sandbox::new();
    let _ledger = attach(&sandbox);
    let mut command = sandbox.command(&["top", "--every", "50ms"]);
    let mut terminal = Terminal::start(command.env("TERM", "xterm"));
    drop(command);
    terminal.until("trainer-7");
    // Spaces are skipped by moving the cursor: only words can be looked for.
    terminal.until("GPU-07070707");
    terminal.master.write_all(b"nq").unwrap();
    terminal.until("\x1b[?1049l");
    assert!(terminal.child.wait().unwrap().success());
}

#[test]
fn a_dumb_terminal_is_told_what_to_do_instead() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["top"]);
    let errors = sandbox.path("errors");
    command
        .env("TERM", "dumb")
        .stderr(File::create(&errors).unwrap());
    let mut terminal = Terminal::start(&mut command);
    // Were it drawn on, that would end it.
    terminal.master.write_all(b"q").unwrap();
    let status = terminal.child.wait().unwrap();
    let told = std::fs::read_to_string(errors).unwrap();
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("`cuda-hook top --once`"), "{told}");
}

#[test]
fn where_there_is_no_terminal_one_frame_is_printed() {
    let sandbox = Sandbox::new();
    let _ledger = attach(&sandbox);
    let output = sandbox.run(&["top", "--every", "1ms"]);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<_> = stdout(&output).lines().collect();
    assert!(lines[0].starts_with("CONTAINER"), "{lines:?}");
    let row = "trainer-7  GPU-07070707  [###       ]  1 GiB of 4 GiB  [          ]  0 % of max";
    assert!(lines[1].starts_with(row), "{lines:?}");
    assert_eq!((lines.len(), stderr(&output)), (2, ""));
}
