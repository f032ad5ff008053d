//! Under a quota: after every step the ledger says of each device what the device's own books say, and never more than the quota.

use super::{Failure, Fault, Patience, Sequence, Step, Tally, Telling};
use crate::MIB;
use crate::accounts::{self, Accounts, loads_at_first_use};
use crate::machine::Machine;
use crate::random::Random;
use crate::world::World;
use std::time::Instant;

/// The container that a sequence is played in.
const CONTAINER: &str = "fuzz";

/// A destroyed pool cannot be asked what its blocks still take: all of it stays charged until the last of them is freed. So in
/// four of five sequences pools are destroyed at the end only; in the fifth too much may be charged from then on, never too little.
const DESTROYS_A_POOL: &str = "cuMemPoolDestroy";

/// Images of a process's contexts may lie in one page of the simulated device. Whose it is then only the driver knows, so that
/// a sequence has either images or contexts of its own, by its seed.
const CONTEXTS: [&str; 4] = [
    "cuCtxCreate",
    "cuCtxAttach",
    "cuGreenCtxCreate",
    "cuCtxSetLimit",
];
const IMAGES: [&str; 2] = ["cuModuleLoad", "cuLibraryLoad"];

/// Whether `symbol` is left out of the sequence of a seed.
pub(super) fn is_left_out(symbol: &str, seed: u64) -> bool {
    let other = if seed.is_multiple_of(2) {
        &IMAGES[..]
    } else {
        &CONTEXTS[..]
    };
    let destroys_early = seed.is_multiple_of(5);
    let is_other = other.iter().any(|start| symbol.starts_with(start));
    is_other || (symbol == DESTROYS_A_POOL && !destroys_early)
}

/// A quota of whole pages that some sequences exhaust.
fn quota_bytes(seed: u64) -> u64 {
    (400 + 2 * Random::of(seed).below(400)) * MIB
}

/// What a container may hold of each device: the quota, and above it only what was loaded at its first use.
struct Ceiling {
    quota_bytes: u64,
    bytes: u64,
}

impl Ceiling {
    /// Whether `books` are within it after a step. What is above the quota may stay, and not grow.
    fn allows(&mut self, step: &Step, books: &[Accounts]) -> bool {
        let most = |books: &Accounts| books.charged_bytes.max(books.held_bytes);
        let most_bytes = books.iter().map(most).max().unwrap_or_default();
        let is_allowed = most_bytes <= self.bytes || step.symbols().any(loads_at_first_use);
        self.bytes = self.quota_bytes.max(most_bytes);
        is_allowed
    }
}

/// What NVML is told before a sequence begins: on a thread of the player, with variables that no handle has.
const MEETS_NVML: [&str; 2] = ["3 nvmlInit_v2", "3 nvmlDeviceGetHandleByIndex_v2 0 &1"];

/// How the program asks for memory, context or none: the driver then looks after what was freed in stream order, and the ledger
/// after what the driver has given back.
const ASKS_FOR_MEMORY: [&str; 3] = [
    "3 cuDeviceGetDefaultMemPool &5 0",
    "3 cuMemPoolGetAttribute $5 7 &6",
    "3 nvmlDeviceGetMemoryInfo $1 &2",
];

/// A player under a quota, on a machine of its own.
struct Audit {
    /// Dropped before its machine, which looks for programs that outlive it.
    told: Telling,
    machine: Machine,
    patience: Patience,
    ceiling: Ceiling,
    /// A pool was destroyed that may have blocks out.
    may_exceed: bool,
}

impl Audit {
    fn begin(seed: u64, patience: Patience) -> Result<Self, Failure> {
        let machine = Machine::with_every_feature(2);
        let quota_bytes = quota_bytes(seed);
        let world = World::memory(CONTAINER, &quota_bytes.to_string());
        let mut told = Telling::start(&machine, &world, patience);
        for call in MEETS_NVML {
            told.ask(0, call)?;
        }
        let ceiling = Ceiling {
            quota_bytes,
            bytes: quota_bytes,
        };
        Ok(Self {
            told,
            machine,
            patience,
            ceiling,
            may_exceed: false,
        })
    }

    /// Plays the step at `at`; the statuses of its calls, if the books are right after it.
    fn play(&mut self, at: usize, step: &Step) -> Result<String, Failure> {
        let statuses = self.told.play(at, step)?;
        let mut calls = step.symbols().zip(statuses.split(' '));
        self.may_exceed |= calls.any(|call| call == (DESTROYS_A_POOL, "0"));
        let books = self.settled(at)?;
        let fault = if !books.iter().all(|account| self.is_right(account)) {
            Fault::Books
        } else if !self.ceiling.allows(step, &books) {
            Fault::Quota
        } else {
            return Ok(statuses);
        };
        let quota_bytes = self.ceiling.quota_bytes;
        let what = format!("{step} = {statuses}: of a quota of {quota_bytes}, {books:?}");
        Err(Failure { at, fault, what })
    }

    fn is_right(&self, account: &Accounts) -> bool {
        account.agree() || (self.may_exceed && account.charged_bytes > account.held_bytes)
    }

    fn books(&self) -> Vec<Accounts> {
        accounts::of(&self.machine, CONTAINER)
    }

    /// The books of all devices when they are right, or, after the device has had its time, as they are. What a pool gives back
    /// behind the program's back comes off the ledger when the process next asks, and so it is made to ask where they are not.
    fn settled(&mut self, at: usize) -> Result<Vec<Accounts>, Failure> {
        let deadline = Instant::now() + self.patience.books;
        loop {
            let books = self.books();
            let are_right = books.iter().all(|account| self.is_right(account));
            if are_right || Instant::now() > deadline {
                return Ok(books);
            }
            for question in ASKS_FOR_MEMORY {
                self.told.ask(at, question)?;
            }
            std::thread::yield_now();
        }
    }
}

/// Plays a sequence under the quota of its seed.
pub(super) fn play(sequence: &Sequence, seed: u64, patience: Patience) -> Result<Tally, Failure> {
    let mut audit = Audit::begin(seed, patience)?;
    let mut tally = Tally::default();
    for (at, step) in sequence.steps().enumerate() {
        let statuses = audit.play(at, step)?;
        tally.count(step, &statuses);
    }
    let left = audit.books();
    // A descriptor keeps what it was made of for as long as the program lives; both accounts then say so.
    let is_exported = |step: &Step| step.0.iter().any(|call| call.contains("cuMemExport"));
    let may_stay = sequence.steps().any(is_exported);
    if may_stay || left.iter().all(|account| account.charged_bytes == 0) {
        return Ok(tally);
    }
    Err(Failure {
        at: sequence.steps().count(),
        fault: Fault::Leak,
        what: format!("all was freed, and there is left {left:?}"),
    })
}
