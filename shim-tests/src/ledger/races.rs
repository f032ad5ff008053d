//! Several processes want the last block of a quota at the same moment: one gets it, by a driver of any speed.

use super::{CONTAINER, machine};
use crate::build::{Door, program};
use crate::child::run_within;
use crate::world::World;
use std::time::Duration;

/// What is raced for.
const QUOTA_BYTES: u64 = 3 << 30;

/// How long a round may take before something hangs.
const ROUND: Duration = Duration::from_secs(1);

/// What races came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Races {
    /// How often all asked at once.
    pub rounds: u64,
    /// Rounds in which nobody was granted the block.
    pub refused_to_all: u64,
    /// Bytes of the block.
    pub block_bytes: u64,
    /// The most that the container held, as the device counted it, in bytes.
    pub peak_bytes: u64,
    /// The quota.
    pub quota_bytes: u64,
}

/// So many races of so many processes, with a driver that takes `delay_us` longer for each allocation.
///
/// # Errors
/// What was not as it must be: in each round exactly one is granted the block, and the device never held more than the quota.
pub fn run(processes: u32, rounds: u64, delay_us: u32) -> Result<Races, String> {
    let machine = machine();
    machine.usage(); // a user from the beginning to the end, so that its books outlive the racers
    let world = World::memory(CONTAINER, &QUOTA_BYTES.to_string());
    let mut command = machine.command(&world, program("racers", Door::Linked));
    command
        .arg(Door::Linked.name())
        .args([processes.to_string(), rounds.to_string()])
        .env("GPU_SIM_ALLOC_US", delay_us.to_string())
        .env_remove("GPU_SIM_TRACE");
    let deadline = ROUND * u32::try_from(rounds).unwrap_or(u32::MAX).saturating_add(60);
    let outcome = run_within(&mut command, deadline);
    let numbers: Option<Vec<u64>> = outcome
        .stdout
        .split_whitespace()
        .map(|word| word.parse().ok())
        .collect();
    let Some([none, one, several, other, block_bytes]) = numbers.as_deref() else {
        return Err(format!("no result: {outcome:#?}"));
    };
    let races = Races {
        rounds,
        refused_to_all: *none,
        block_bytes: *block_bytes,
        peak_bytes: machine.peak_bytes_of_container(CONTAINER),
        quota_bytes: QUOTA_BYTES,
    };
    let is_right = (*one, *several, *other) == (rounds, 0, 0) && races.peak_bytes <= QUOTA_BYTES;
    is_right.then_some(races).ok_or_else(|| {
        format!("{several} rounds granted more than one, {other} calls answered something else: {races:?}")
    })
}
