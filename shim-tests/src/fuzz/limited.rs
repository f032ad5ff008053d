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

/// What is left out of the sequences under a quota: why, and how the symbols' names start. Each row is a promise that is not
/// kept yet.
pub const NOT_COMPARED: &[(&str, &[&str])] = &[(
    "what a pool gives back at a synchronisation comes off the books when the process next asks",
    &[
        "cuMemPool",
        "cuMemAllocAsync",
        "cuMemAllocFromPoolAsync",
        "cuMemFreeAsync",
        "cuDeviceGetMemPool",
        "cuDeviceGetDefaultMemPool",
        "cuDeviceSetMemPool",
        "cuMemSetMemPool",
    ],
)];

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
    let not_compared = NOT_COMPARED.iter().flat_map(|(_, starts)| *starts);
    not_compared
        .chain(other)
        .any(|start| symbol.starts_with(start))
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
        let symbols = step.0.iter().filter_map(|call| call.split(' ').nth(1));
        let is_allowed = most_bytes <= self.bytes || symbols.into_iter().any(loads_at_first_use);
        self.bytes = self.quota_bytes.max(most_bytes);
        is_allowed
    }
}

/// The books of all devices when they agree, or, after the device has had its time, as they are.
fn settled(machine: &Machine, patience: Patience) -> Vec<Accounts> {
    let deadline = Instant::now() + patience.books;
    loop {
        let books = accounts::of(machine, CONTAINER);
        if books.iter().all(Accounts::agree) || Instant::now() > deadline {
            return books;
        }
        std::thread::yield_now();
    }
}

/// Plays a sequence under the quota of its seed.
pub(super) fn play(sequence: &Sequence, seed: u64, patience: Patience) -> Result<Tally, Failure> {
    let machine = Machine::with_every_feature(2);
    let quota_bytes = quota_bytes(seed);
    let world = World::memory(CONTAINER, &quota_bytes.to_string());
    let mut told = Telling::start(&machine, &world, patience);
    let mut tally = Tally::default();
    let mut ceiling = Ceiling {
        quota_bytes,
        bytes: quota_bytes,
    };
    for (at, step) in sequence.steps().enumerate() {
        let statuses = told.play(at, step)?;
        tally.count(step, &statuses);
        let books = settled(&machine, patience);
        let fault = if !books.iter().all(Accounts::agree) {
            Fault::Books
        } else if !ceiling.allows(step, &books) {
            Fault::Quota
        } else {
            continue;
        };
        let what = format!("{step} = {statuses}: of a quota of {quota_bytes}, {books:?}");
        return Err(Failure { at, fault, what });
    }
    let left = accounts::of(&machine, CONTAINER);
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
