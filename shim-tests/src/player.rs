//! `programs/player.c`: a program that makes whatever driver call a test tells it to.

use crate::build::{Door, program};
use crate::child::{DEADLINE, Outcome};
use crate::machine::Machine;
use crate::tenant::Tenant;
use crate::world::World;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// A running player. Killed when dropped.
pub struct Player(Tenant);

impl Player {
    /// Starts a player that asks the handle of each library for its functions.
    pub fn start(machine: &Machine, world: &World) -> Self {
        let door = Door::Dlopen;
        let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/kernels.ptx");
        let mut command = machine.command(world, program("player", door));
        Self(Tenant::spawn(command.arg(door.name()).arg(kernels)))
    }

    /// The status of a call, `THREAD SYMBOL ARGUMENT …`; `-` where there is no such function.
    #[track_caller]
    pub fn make(&mut self, call: &str) -> String {
        self.make_within(call, DEADLINE)
            .unwrap_or_else(|error| panic!("{call}: {error}"))
    }

    /// The same, until `deadline`.
    ///
    /// # Errors
    /// There is no answer in that time, or the player has ended.
    pub fn make_within(
        &mut self,
        call: &str,
        deadline: Duration,
    ) -> Result<String, RecvTimeoutError> {
        self.0.ask_within(call, deadline)
    }

    /// The statuses of calls that are made by all their threads at once.
    ///
    /// # Errors
    /// There is no answer until `deadline`, or the player has ended.
    pub fn make_at_once(
        &mut self,
        calls: &[String],
        deadline: Duration,
    ) -> Result<String, RecvTimeoutError> {
        for call in calls {
            self.0.tell(&format!("| {call}"));
        }
        self.0.ask_within(".", deadline)
    }

    /// The 8 bytes at so many bytes behind a variable.
    #[track_caller]
    pub fn value(&mut self, variable: u32, offset: u64) -> u64 {
        self.0.numbers(&format!("? {variable} {offset}"))[0]
    }

    /// Opens what a descriptor of another player leads to, as if it had been sent one: `variable` becomes the number of ours.
    #[track_caller]
    pub fn receive(&mut self, variable: u32, sender: &Self, descriptor: u64) {
        let file = format!("/proc/{}/fd/{descriptor}", sender.pid());
        self.0.numbers(&format!("= {variable} {file}"));
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Ends it.
    #[track_caller]
    pub fn end(self) -> Outcome {
        self.0.end()
    }
}
