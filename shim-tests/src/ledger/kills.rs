//! A process is killed at any moment, inside `cuInit` too: what comes next is right.

use super::{CONTAINER, machine, report};
use crate::build::{Door, program};
use crate::child::{Running, ends_within, open_pidfd};
use crate::machine::Machine;
use crate::random::Random;
use crate::tenant::Tenant;
use crate::world::World;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// What a victim was at, by the number that it leaves.
pub const STAGES: [&str; 5] = ["before cuInit", "cuInit", "context", "allocation", "free"];

/// What the kills came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kills {
    /// Victims that died at each of [`STAGES`].
    pub at: [u64; STAGES.len()],
    /// From a victim's death to the next allocation of everything that it might have held, the longest.
    pub longest: Duration,
}

/// Kills so many processes, each at a moment that follows from `seed`.
///
/// # Errors
/// After a death the next allocation, report or start was not right.
pub fn run(count: u64, seed: u64) -> Result<Kills, String> {
    let machine = machine();
    let world = World::memory(CONTAINER, "1GiB");
    let mut stays = Tenant::with_context(&machine, &world);
    let (alone_bytes, mut random) = (stays.free_bytes(), Random::of(seed));
    let mut kills = Kills::default();
    // As long as it takes a process here to come to its first allocation, and half as long again.
    let starts = [(); 3].map(|()| time_to_stage(&machine, &world, 3));
    let start = starts.into_iter().min().unwrap_or_default();
    let span_us = u64::try_from((start * 3 / 2).as_micros()).unwrap_or(u64::MAX);
    for number in 0..count {
        let delay = Duration::from_micros(random.below(span_us.max(1)));
        let (stage, died) = kill_after(&machine, &world, delay);
        kills.at[usize::from(stage).min(STAGES.len() - 1)] += 1;
        let status = stays.alloc("all", "cuMemAlloc_v2", alone_bytes);
        kills.longest = kills.longest.max(died.elapsed());
        let wrong = |what: String| format!("kill {number}, seed {seed}, at stage {stage}: {what}");
        if status != 0 {
            return Err(wrong(format!("the next allocation answers {status}")));
        }
        stays.ok("free all");
        check_report(&machine, &mut stays).map_err(wrong)?;
    }
    let late = Tenant::with_context(&machine, &world).free_bytes();
    (late < alone_bytes && stays.free_bytes() >= late)
        .then_some(kills)
        .ok_or_else(|| format!("the next start finds {late} bytes of {alone_bytes}"))
}

/// The one who stays is the only one who is reported, with what it has.
fn check_report(machine: &Machine, stays: &mut Tenant) -> Result<(), String> {
    let report = report(machine).ok_or("the container is not reported")?;
    let pids: Vec<u32> = report.processes.iter().map(|process| process.pid).collect();
    let current = report.devices[0].memory_bytes_current;
    let (free_bytes, total_bytes) = stays.memory_info();
    if pids.len() == 1 && current == total_bytes - free_bytes {
        return Ok(());
    }
    Err(format!(
        "{current} bytes in use by processes {pids:?} are reported, {free_bytes} of {total_bytes} are free"
    ))
}

/// A victim, and the file in which it says what it is at.
fn start(machine: &Machine, world: &World) -> (Running, std::path::PathBuf) {
    let file = machine.path("stage");
    fs::write(&file, [0]).expect("a file in the machine's folder");
    let mut command = machine.command(world, program("victim", Door::Linked));
    let running = Running::start(
        command
            .arg(Door::Linked.name())
            .arg(&file)
            .env_remove("GPU_SIM_TRACE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    (running, file)
}

fn stage_in(file: &std::path::Path) -> u8 {
    fs::read(file).expect("the victim's file")[0]
}

/// How long a victim takes until it is at that stage.
fn time_to_stage(machine: &Machine, world: &World, stage: u8) -> Duration {
    let began = Instant::now();
    let (running, file) = start(machine, world);
    let pidfd = open_pidfd(running.pid());
    while stage_in(&file) < stage {
        let ended = ends_within(&pidfd, Duration::from_micros(200));
        assert!(!ended, "the victim ends by itself");
    }
    let elapsed = began.elapsed();
    running.kill();
    elapsed
}

/// Starts a victim and kills it so long after; what it was at, and when it was gone.
fn kill_after(machine: &Machine, world: &World, delay: Duration) -> (u8, Instant) {
    let (running, file) = start(machine, world);
    let ended = ends_within(&open_pidfd(running.pid()), delay);
    assert!(!ended, "the victim ends by itself");
    running.kill();
    (stage_in(&file), Instant::now())
}
