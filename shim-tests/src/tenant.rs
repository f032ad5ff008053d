//! `programs/tenant.c`: a CUDA program that a test talks to, line by line.

use crate::build::{Door, program};
use crate::child::{DEADLINE, Outcome, Running};
use crate::machine::Machine;
use crate::world::World;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// A running tenant. Killed when dropped.
pub struct Tenant {
    running: Running,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Tenant {
    /// Starts a tenant that is linked with the driver.
    pub fn start(machine: &Machine, world: &World) -> Self {
        Self::start_by(machine, world, Door::Linked)
    }

    /// Starts a tenant that reaches the driver through `door`.
    pub fn start_by(machine: &Machine, world: &World, door: Door) -> Self {
        let mut command = machine.command(world, program("tenant", door));
        Self::spawn(command.arg(door.name()))
    }

    /// Starts a command that is, or becomes, a tenant.
    pub fn spawn(command: &mut Command) -> Self {
        let mut running = Running::start_talking(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        let input = running.child().stdin.take();
        let output = running.child().stdout.take().expect("its output is piped");
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self {
            running,
            input,
            answers,
        }
    }

    /// Starts a tenant with a current context; fails the test if it does not get one.
    #[track_caller]
    pub fn with_context(machine: &Machine, world: &World) -> Self {
        let mut tenant = Self::start(machine, world);
        assert_eq!(tenant.status("context"), 0);
        tenant
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Says something without waiting for the answer.
    #[track_caller]
    pub fn tell(&mut self, command: &str) {
        let input = self.input.as_mut().expect("its input is open");
        writeln!(input, "{command}")
            .and_then(|()| input.flush())
            .unwrap_or_else(|error| panic!("{command}: {error}"));
    }

    /// Waits for an answer to something said.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        self.answers.recv_timeout(DEADLINE).unwrap_or_else(|error| {
            panic!("the tenant does not answer: {error}; {:?}", self.running)
        })
    }

    /// Says something and waits for the answer until `deadline`.
    ///
    /// # Errors
    /// There is none in that time, or the tenant has ended.
    pub fn ask_within(
        &mut self,
        command: &str,
        deadline: Duration,
    ) -> Result<String, RecvTimeoutError> {
        let input = self.input.as_mut().expect("its input is open");
        // A tenant that has ended says so by its output's end.
        let _told = writeln!(input, "{command}").and_then(|()| input.flush());
        self.answers.recv_timeout(deadline)
    }

    /// Says something and waits for the answer.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.hear()
    }

    /// The answer as numbers.
    #[track_caller]
    pub fn numbers(&mut self, command: &str) -> Vec<u64> {
        let answer = self.ask(command);
        answer
            .split(' ')
            .map(|word| {
                word.parse()
                    .unwrap_or_else(|_| panic!("{command}: {answer}"))
            })
            .collect()
    }

    /// The driver status that the answer begins with.
    #[track_caller]
    pub fn status(&mut self, command: &str) -> u64 {
        self.numbers(command)[0]
    }

    /// Says something that has to succeed.
    #[track_caller]
    pub fn ok(&mut self, command: &str) {
        assert_eq!(self.status(command), 0, "{command}");
    }

    /// Allocates; the driver status.
    #[track_caller]
    pub fn alloc(&mut self, name: &str, kind: &str, bytes: u64) -> u64 {
        self.status(&format!("alloc {name} {kind} {bytes}"))
    }

    /// Free and total bytes as `cuMemGetInfo` reports them.
    #[track_caller]
    pub fn memory_info(&mut self) -> (u64, u64) {
        let answer = self.numbers("info");
        assert_eq!(answer[0], 0, "cuMemGetInfo");
        (answer[1], answer[2])
    }

    /// Free bytes as `cuMemGetInfo` reports them.
    #[track_caller]
    pub fn free_bytes(&mut self) -> u64 {
        self.memory_info().0
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(self) {
        self.running.kill();
    }

    /// As [`Tenant::kill`], but keeps its standard input open for those that inherited it.
    pub fn kill_keeping_input(mut self) -> ChildStdin {
        let input = self.input.take().expect("its input is open");
        self.kill();
        input
    }

    /// Ends its input and waits for its end; what is left to hear is lost.
    #[track_caller]
    pub fn end(mut self) -> Outcome {
        drop(self.input.take());
        self.running.wait(DEADLINE)
    }
}
