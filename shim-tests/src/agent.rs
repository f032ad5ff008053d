//! `cuda-hook agent` on a machine: started, asked, ended.

use crate::build::artefacts;
use crate::child::{DEADLINE, Outcome, Running};
use crate::machine::Machine;
use crate::world::World;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// A running agent. Killed when dropped.
pub struct Agent {
    running: Running,
    address: SocketAddr,
    socket: PathBuf,
    log: Receiver<String>,
}

/// What it answered.
#[derive(Debug)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// All header lines.
    pub head: String,
    /// What follows them.
    pub body: String,
}

/// What starts the agent of a machine.
pub fn command(machine: &Machine) -> Command {
    let mut command = machine.command(&World::Bare, &artefacts().command);
    command
        .arg("agent")
        .arg("--dir")
        .arg(machine.hook_dir())
        .args(["--listen", "127.0.0.1:0", "--socket"])
        .arg(socket(machine));
    command
}

/// Its unix socket.
pub fn socket(machine: &Machine) -> PathBuf {
    machine.path("agent/socket")
}

impl Agent {
    /// Starts the agent of a machine, and waits until it answers.
    #[track_caller]
    pub fn start(machine: &Machine) -> Self {
        Self::start_with(machine, &[])
    }

    /// The same, with these options.
    #[track_caller]
    pub fn start_with(machine: &Machine, options: &[&str]) -> Self {
        let (reader, writer) = pipe().expect("a pipe");
        let mut command = command(machine);
        command.args(options);
        let running = Running::start(command.stdout(Stdio::null()).stderr(writer));
        drop(command); // its end of the pipe
        let (sender, log) = channel();
        std::thread::spawn(move || {
            BufReader::new(reader)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let hear = |part: &str| hear(&log, part);
        let address = hear("metrics on http://");
        let address = address
            .split(['/', ' '])
            .find_map(|word| word.parse().ok())
            .expect("an address");
        hear("status and set on ");
        Self {
            running,
            address,
            socket: socket(machine),
            log,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Where it serves metrics.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for a line of its log with these words.
    #[track_caller]
    pub fn hear(&self, part: &str) -> String {
        hear(&self.log, part)
    }

    /// Asks by the network, with header lines.
    #[track_caller]
    pub fn get(&self, path: &str, headers: &str) -> Answer {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        ask(stream, "GET", path, headers, "")
    }

    /// The metrics, in Prometheus's own form.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let answer = self.get("/metrics", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// The value of the series that is written so.
    #[track_caller]
    pub fn value(&self, series: &str) -> Option<f64> {
        let metrics = self.metrics();
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        metrics.lines().find_map(value)
    }

    /// Asks by the socket.
    #[track_caller]
    pub fn ask_privately(&self, method: &str, path: &str, body: &str) -> Answer {
        ask_by_socket(&self.socket, method, path, body)
    }

    /// Kills it, so that it tidies nothing up.
    pub fn kill(self) {
        self.running.kill();
    }

    /// Sends a signal and waits for its end.
    #[track_caller]
    pub fn end_by(self, signal: Signal) -> Outcome {
        let pid = i32::try_from(self.running.pid()).expect("a pid fits");
        let pid = Pid::from_raw(pid).expect("a pid");
        kill_process(pid, signal).expect("it is there");
        self.running.wait(DEADLINE)
    }
}

/// Asks the agent whose unix socket it is.
#[track_caller]
pub fn ask_by_socket(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    let stream = UnixStream::connect(socket).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    ask(stream, method, path, "", body)
}

#[track_caller]
fn hear(log: &Receiver<String>, part: &str) -> String {
    loop {
        match log.recv_timeout(DEADLINE) {
            Ok(line) if line.contains(part) => return line,
            Ok(_) => {}
            Err(error) => panic!("the agent says nothing of {part:?}: {error}"),
        }
    }
}

#[track_caller]
fn ask(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Answer {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream
        .write_all(request.as_bytes())
        .expect("it reads the request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer of HTTP");
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Answer {
        status: status.expect("a status"),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}
