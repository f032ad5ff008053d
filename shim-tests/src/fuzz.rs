//! Random sequences of driver calls, legal and illegal: bare against preloaded, and the ledger against the device's books.
//!
//! A sequence follows from its seed. `programs/player.c` makes its calls; what fails is made as short as it goes and printed
//! with the way to repeat it.

mod generate;
mod limited;
mod shrink;
mod unlimited;

use crate::child::DEADLINE;
use crate::machine::Machine;
use crate::player::Player;
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

pub use generate::{TIMELY, sequence};

/// What a sequence is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No limits: bare and preloaded, the same statuses and the same calls.
    Unlimited,
    /// A quota: after every step the ledger says what the device's own books say.
    Limited,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Unlimited, Self::Limited];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unlimited => "unlimited",
            Self::Limited => "limited",
        }
    }
}

/// What the player is told at once: a call on one thread, or several threads' calls that run beside each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step(pub Vec<String>);

impl Step {
    fn one(thread: u64, call: &str) -> Self {
        Self(vec![format!("{thread} {call}")])
    }

    /// The functions that it calls.
    pub fn symbols(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|call| call.split(' ').nth(1))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join(" | "))
    }
}

/// What is played: shortened where it fails is only the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Start-up and random calls.
    pub body: Vec<Step>,
    /// The end of all that may hold memory.
    pub end: Vec<Step>,
}

impl Sequence {
    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.body.iter().chain(&self.end)
    }
}

/// How often each function was called, and how often with success: a fuzzer whose calls are all refused shows nothing.
#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<String, (u64, u64)>);

impl Tally {
    fn count(&mut self, step: &Step, statuses: &str) {
        for (symbol, status) in step.symbols().zip(statuses.split(' ')) {
            let (calls, successes) = self.0.entry(symbol.to_owned()).or_default();
            *calls += 1;
            *successes += u64::from(status == "0");
        }
    }

    /// Adds another's figures.
    pub fn add(&mut self, other: Self) {
        for (symbol, (calls, successes)) in other.0 {
            let sum = self.0.entry(symbol).or_default();
            sum.0 += calls;
            sum.1 += successes;
        }
    }

    /// Those of `functions` that were never called, and those that never succeeded.
    pub fn lacking<'a>(&self, functions: &'a BTreeSet<String>) -> [Vec<&'a str>; 2] {
        let count = |name: &String| self.0.get(name).copied().unwrap_or_default();
        [|(calls, _)| calls == 0, |(_, successes)| successes == 0].map(
            |is_lacking: fn((u64, u64)) -> bool| {
                let lacking = functions.iter().filter(|name| is_lacking(count(name)));
                lacking.map(String::as_str).collect()
            },
        )
    }

    /// Functions, calls and successes.
    pub fn rows(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.0
            .iter()
            .map(|(symbol, (calls, successes))| (symbol.as_str(), *calls, *successes))
    }
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The program died, or waits.
    Silence,
    /// It was answered otherwise.
    Status,
    /// It called the driver otherwise.
    Trace,
    /// The ledger says what the device does not.
    Books,
    /// More than the quota.
    Quota,
    /// All was freed, and not all was given back.
    Leak,
}

/// A step after which something was wrong, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its place in the sequence.
    pub at: usize,
    /// In what way it was wrong.
    pub fault: Fault,
    /// What was wrong.
    pub what: String,
}

/// How long something may take before it counts as wrong. What is wrong stays wrong: patience only costs time.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Until a call returns.
    answer: Duration,
    /// Until the device has finished what was submitted to it.
    books: Duration,
}

impl Patience {
    /// To find out whether a sequence fails, on a machine that may be busy.
    const LONG: Self = Self {
        answer: DEADLINE,
        books: Duration::from_secs(20),
    };
    /// To make shorter what has failed.
    const SHORT: Self = Self {
        answer: Duration::from_secs(3),
        books: Duration::from_millis(500),
    };
}

/// A player that is told a sequence.
struct Telling {
    player: Player,
    patience: Patience,
}

impl Telling {
    fn start(machine: &Machine, world: &World, patience: Patience) -> Self {
        Self {
            player: Player::start(machine, world),
            patience,
        }
    }

    /// The statuses of a step's calls; a failure of the step at `at` where there are none.
    fn play(&mut self, at: usize, step: &Step) -> Result<String, Failure> {
        match step.0.as_slice() {
            [call] => self.ask(at, call),
            calls => {
                let answer = self.player.make_at_once(calls, self.patience.answer);
                answer.map_err(|error| silence(at, step, error))
            }
        }
    }

    /// The status of a call, beside the sequence or of its step at `at`.
    fn ask(&mut self, at: usize, call: &str) -> Result<String, Failure> {
        let answer = self.player.make_within(call, self.patience.answer);
        answer.map_err(|error| silence(at, call, error))
    }
}

fn silence(at: usize, asked: impl fmt::Display, error: RecvTimeoutError) -> Failure {
    Failure {
        at,
        fault: Fault::Silence,
        what: format!("{asked}: no answer: {error}"),
    }
}

/// Plays the sequence of a seed; what is wrong with it, for a person to read, and how to repeat it.
///
/// # Errors
/// The shortest sequence found that fails, and in what.
pub fn check(mode: Mode, seed: u64, steps: usize) -> Result<Tally, String> {
    let play = |sequence: &Sequence, patience| match mode {
        Mode::Unlimited => unlimited::play(sequence, patience),
        Mode::Limited => limited::play(sequence, seed, patience),
    };
    let sequence = sequence(mode, seed, steps);
    let failure = match play(&sequence, Patience::LONG) {
        Ok(tally) => return Ok(tally),
        Err(failure) => failure,
    };
    let (shortest, last) =
        shrink::shortest(&sequence, &failure, |steps| play(steps, Patience::SHORT));
    let lines: Vec<String> = shortest
        .body
        .iter()
        .map(|step| format!("    {step}\n"))
        .collect();
    Err(format!(
        "{} sequence of seed {seed}, step {} of {}: {}\n\
         the shortest found that fails, {} steps: {}\n{}\
         repeat it: scripts/fuzz --mode {0} --seed {seed} --steps {steps}",
        mode.name(),
        failure.at,
        sequence.steps().count(),
        failure.what,
        shortest.body.len(),
        last.what,
        lines.concat(),
    ))
}
