//! Under a quota: after every step the ledger says of each device what the device's own books say, and never more than the quota.

use super::{Failure, Fault, Patience, Player, Sequence, Tally};
use crate::MIB;
use crate::machine::Machine;
use crate::random::Random;
use crate::world::World;
use limiter::sample;
use std::time::Instant;

/// The container that a sequence is played in.
const CONTAINER: &str = "fuzz";

/// What is left out of the sequences under a quota: why, and how the symbols' names start. Each row is a promise that is not
/// kept yet.
pub const NOT_COMPARED: &[(&str, &[&str])] = &[
    (
        "images of modules are not charged",
        &["cuModuleLoad", "cuLibraryLoad"],
    ),
    (
        "greater limits of a context, and green contexts, are not charged",
        &["cuCtxSetLimit", "cuGreenCtxCreate"],
    ),
    (
        "what a pool holds beyond the blocks that are out is not charged",
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
    ),
    (
        "memory of a graph's own allocation nodes is not charged",
        &["cuGraphAddMemAllocNode"],
    ),
    (
        "references by descriptors and imports are not counted",
        &[
            "cuMemExportToShareableHandle",
            "cuMemImportFromShareableHandle",
        ],
    ),
];

/// Whether `symbol` is left out.
pub(super) fn is_left_out(symbol: &str) -> bool {
    NOT_COMPARED
        .iter()
        .any(|(_, starts)| starts.iter().any(|start| symbol.starts_with(start)))
}

/// A quota of whole pages that some sequences exhaust.
fn quota_bytes(seed: u64) -> u64 {
    (400 + 2 * Random::of(seed).below(400)) * MIB
}

/// Bytes on each device: as the ledger has them, and as the device has.
fn books(machine: &Machine) -> Vec<(u64, u64)> {
    let sample = sample::read(&machine.hook_dir()).expect("the folder of the ledgers");
    let container = sample
        .containers
        .iter()
        .find(|container| container.container == CONTAINER);
    let usage = machine.usage();
    let devices = machine
        .device_uuids()
        .into_iter()
        .zip(0..)
        .map(|(uuid, ordinal)| {
            let charged = container
                .and_then(|container| container.devices.iter().find(|row| row.device_uuid == uuid))
                .map_or(0, |device| device.memory_bytes_current);
            let held = usage
                .iter()
                .filter(|usage| usage.container == CONTAINER && usage.device == ordinal)
                .map(|usage| usage.memory_bytes_current)
                .sum();
            (charged, held)
        });
    devices.collect()
}

/// What is wrong with the books, once the device has had its time.
fn wrong(machine: &Machine, quota_bytes: u64, patience: Patience) -> Option<(Fault, String)> {
    let deadline = Instant::now() + patience.books;
    loop {
        let books = books(machine);
        let above = |&(charged, held): &(u64, u64)| charged.max(held) > quota_bytes;
        if books.iter().any(above) {
            let what = format!("above the quota of {quota_bytes}: charged and held {books:?}");
            return Some((Fault::Quota, what));
        }
        if books.iter().all(|(charged, held)| charged == held) {
            return None;
        }
        if Instant::now() > deadline {
            return Some((Fault::Books, format!("charged and held {books:?}")));
        }
        std::thread::yield_now();
    }
}

/// Plays a sequence under the quota of its seed.
pub(super) fn play(sequence: &Sequence, seed: u64, patience: Patience) -> Result<Tally, Failure> {
    let machine = Machine::with_profile("2xt4");
    let quota_bytes = quota_bytes(seed);
    let world = World::memory(CONTAINER, &quota_bytes.to_string());
    let mut player = Player::start(&machine, &world, patience);
    let (mut at, mut tally) = (0, Tally::default());
    for step in sequence.steps() {
        let statuses = player.play(at, step)?;
        if let Some((fault, what)) = wrong(&machine, quota_bytes, patience) {
            let what = format!("{step} = {statuses}: {what}");
            return Err(Failure { at, fault, what });
        }
        tally.count(step, &statuses);
        at += 1;
    }
    let left = books(&machine);
    if left.iter().all(|&(charged, _)| charged == 0) {
        return Ok(tally);
    }
    let what = format!("all was freed, and charged and held are {left:?}");
    Err(Failure {
        at,
        fault: Fault::Leak,
        what,
    })
}
