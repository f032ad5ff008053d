//! Many processes allocate and free at random; meanwhile some are killed, stopped, fork, or become another program.
//!
//! In phases: all are told to stir, things happen to them, all have answered. Then nothing is in flight, and the ledger must say to the
//! byte what the device holds, grant all of what is left, and not a page more.

use super::spread::Spread;
use super::{CONTAINER, machine, report};
use crate::MIB;
use crate::build::{Door, program};
use crate::child::{can_look_up, ends_within, open_pidfd};
use crate::machine::Machine;
use crate::random::Random;
use crate::tenant::Tenant;
use crate::world::World;
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};

const QUOTA_BYTES: u64 = 10 << 30;
const PAGE_BYTES: u64 = 2 * MIB;
/// Pages of the largest block.
const PAGES_MAX: u64 = 16;
/// Blocks that each asks for in a phase.
const ROUNDS: u64 = 60;
/// Things that happen in a phase.
const EVENTS: u64 = 24;
/// How long books may differ before it counts as for ever.
const PATIENCE: Duration = Duration::from_secs(20);
const OUT_OF_MEMORY: u64 = 2;

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chaos {
    /// How often everything came to rest and was looked at.
    pub phases: u64,
    /// Processes that began a phase together, the fewest.
    pub members_least: usize,
    /// Allocations that were granted.
    pub granted: u64,
    /// Allocations that were refused.
    pub refused: u64,
    /// Processes that were started.
    pub starts: u64,
    /// Processes that were killed.
    pub kills: u64,
    /// Processes that were stopped, and went on.
    pub stops: u64,
    /// Children that played on with what they had inherited.
    pub forks: u64,
    /// Processes that started anew by exec.
    pub execs: u64,
    /// The most that the container held at any one time, as the device counted it, in bytes.
    pub peak_bytes: u64,
    /// From a last death until ledger and device were seen to say the same.
    pub settled: Spread,
}

struct Run {
    members: Vec<Tenant>,
    wanted: usize,
    context_bytes: u64,
    world: World,
    random: Random,
    so_far: Chaos,
    settled: Vec<Duration>,
    machine: Machine, // ends when the last of them has
}

/// Plays with so many processes, by what follows from `seed`, until `is_over` says so of the phases played.
///
/// # Errors
/// What was not as it must be, and the seed.
pub fn run(members: usize, seed: u64, is_over: impl Fn(u64) -> bool) -> Result<Chaos, String> {
    let machine = machine();
    machine.usage(); // its books begin before the first of them
    let mut run = Run {
        machine,
        world: World::memory(CONTAINER, &QUOTA_BYTES.to_string()),
        random: Random::of(seed),
        members: Vec::new(),
        wanted: members,
        context_bytes: 0,
        settled: Vec::new(),
        so_far: Chaos {
            members_least: members,
            ..Chaos::default()
        },
    };
    let first = run.start().ok_or("the first process gets no context")?;
    run.context_bytes = run.machine.truth_of(first.pid()).memory_bytes;
    run.members.push(first);
    while !is_over(run.so_far.phases) {
        run.phase()
            .map_err(|what| format!("phase {}, seed {seed}: {what}", run.so_far.phases))?;
        run.so_far.phases += 1;
    }
    run.so_far.settled = Spread::of(run.settled);
    Ok(run.so_far)
}

impl Run {
    fn phase(&mut self) -> Result<(), String> {
        self.fill_up()?;
        self.become_anew();
        self.so_far.members_least = self.so_far.members_least.min(self.members.len());
        let forking = self.tell_all();
        let killed = self.let_things_happen();
        self.hear_all(&forking, &killed)?;
        self.kill_one(); // the last death, from which time counts
        self.check_balance(Instant::now())?;
        self.check_edge()?;
        self.check_peak()
    }

    /// A process with a context, if the quota has room for that.
    fn start(&mut self) -> Option<Tenant> {
        self.so_far.starts += 1;
        let mut command = self
            .machine
            .command(&self.world, program("tenant", Door::Linked));
        let mut tenant =
            Tenant::spawn(command.arg(Door::Linked.name()).env_remove("GPU_SIM_TRACE"));
        self.get_context(&mut tenant).then_some(tenant)
    }

    fn get_context(&mut self, tenant: &mut Tenant) -> bool {
        let status = tenant.status("context");
        assert!(
            matches!(status, 0 | OUT_OF_MEMORY),
            "a context answers {status}"
        );
        status == 0
    }

    /// Starts who is missing. Where there is no room for a context, one after another gives its blocks back. Nothing else is going on.
    fn fill_up(&mut self) -> Result<(), String> {
        let mut full = self.members.len();
        while self.members.len() < self.wanted {
            let left_bytes = self
                .members
                .first_mut()
                .map_or(QUOTA_BYTES, Tenant::free_bytes);
            let fits = left_bytes >= self.context_bytes;
            match self.start() {
                Some(tenant) if fits => self.members.push(tenant),
                None if !fits && full > 0 => {
                    full -= 1;
                    self.members[full].ask("churn 1 0 1 1");
                }
                None if !fits => return Ok(()),
                started => {
                    let verdict = if started.is_some() {
                        "granted"
                    } else {
                        "refused"
                    };
                    return Err(format!(
                        "a context is {verdict} with {left_bytes} bytes left"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Some become new programs, which hold nothing. Who then gets no context ends.
    fn become_anew(&mut self) {
        for at in (0..self.members.len()).rev() {
            if !self.random.once_in(16) {
                continue;
            }
            self.so_far.execs += 1;
            let mut member = self.members.swap_remove(at);
            member.ok("become");
            if self.get_context(&mut member) {
                self.members.push(member);
            }
        }
    }

    /// Has everybody stir; for each member whether a child of it does.
    fn tell_all(&mut self) -> Vec<bool> {
        let mut forking = Vec::new();
        for member in &mut self.members {
            let seed = self.random.below(1 << 31);
            let stir = format!("stir {seed} {ROUNDS} {PAGE_BYTES} {PAGES_MAX}");
            forking.push(self.random.once_in(8));
            match forking.last() {
                Some(true) => member.tell(&format!("fork {stir}")),
                _ => member.tell(&stir),
            }
        }
        self.so_far.forks += forking.iter().map(|&forks| u64::from(forks)).sum::<u64>();
        forking
    }

    /// Stops some and kills some while they are at it; who was killed.
    fn let_things_happen(&mut self) -> Vec<u32> {
        let myself = open_pidfd(std::process::id());
        let (mut stopped, mut killed) = (Vec::new(), Vec::new());
        for _ in 0..EVENTS {
            // Nobody ends here: it only takes its time.
            ends_within(&myself, Duration::from_micros(self.random.below(2_000)));
            let pids: Vec<u32> = self.members.iter().map(Tenant::pid).collect();
            let Some(&pid) = self.random.choose(&pids) else {
                break;
            };
            if self.random.once_in(4) {
                signal(pid, Signal::KILL);
                killed.push(pid);
            } else {
                signal(pid, Signal::STOP);
                stopped.push(pid);
                self.so_far.stops += 1;
            }
            if self.random.once_in(2)
                && let Some(pid) = stopped.pop()
            {
                signal(pid, Signal::CONT);
            }
        }
        for pid in stopped {
            signal(pid, Signal::CONT);
        }
        killed
    }

    /// Waits until everybody has answered or is gone.
    fn hear_all(&mut self, forking: &[bool], killed: &[u32]) -> Result<(), String> {
        for (mut member, &forks) in std::mem::take(&mut self.members).into_iter().zip(forking) {
            if killed.contains(&member.pid()) {
                member.kill();
                self.so_far.kills += 1;
                continue;
            }
            let answer = member.hear();
            let counts: Vec<u64> = answer.split(' ').flat_map(str::parse).collect();
            let &[granted, refused, other] = &counts[..] else {
                return Err(format!("a process answers {answer}"));
            };
            // A child of a CUDA process is refused by the driver, with an answer of its own.
            if forks == (other == 0) || forks && granted > 0 {
                return Err(format!("of a process that forks ({forks}): {answer}"));
            }
            self.so_far.granted += granted;
            self.so_far.refused += refused;
            self.members.push(member);
        }
        Ok(())
    }

    fn kill_one(&mut self) {
        if self.members.len() > 1 {
            let at = self.random.below(self.members.len() as u64);
            self.members.swap_remove(at as usize).kill();
            self.so_far.kills += 1;
        }
    }

    /// The device has never held more than the quota for them, not for a moment. Where processes cannot look each other up, locks alone
    /// say who lives, which a dying one loses before its descriptors of the driver.
    fn check_peak(&mut self) -> Result<(), String> {
        let peak_bytes = self.machine.peak_bytes_of_container(CONTAINER);
        self.so_far.peak_bytes = peak_bytes;
        (peak_bytes <= QUOTA_BYTES || !can_look_up())
            .then_some(())
            .ok_or_else(|| {
                let over_bytes = peak_bytes - QUOTA_BYTES;
                format!(
                    "the device once held {over_bytes} bytes more than the quota of {QUOTA_BYTES}"
                )
            })
    }

    /// The ledger says what the device holds, as soon as both have noticed the last death.
    fn check_balance(&mut self, last_death: Instant) -> Result<(), String> {
        loop {
            let device_bytes = self.machine.truth_of_container(CONTAINER).memory_bytes;
            let report = report(&self.machine).ok_or("the container is not reported")?;
            let ledger_bytes = report.devices[0].memory_bytes_current;
            let took = last_death.elapsed();
            if ledger_bytes == device_bytes && report.processes.len() == self.members.len() {
                self.settled.push(took);
                return Ok(());
            }
            if took > PATIENCE {
                let (listed, living) = (report.processes.len(), self.members.len());
                return Err(format!(
                    "{ledger_bytes} bytes of {listed} processes by the ledger, {device_bytes} of {living} by the device"
                ));
            }
        }
    }

    /// Nothing is in flight: all of what is left is granted, and not a page more.
    fn check_edge(&mut self) -> Result<(), String> {
        let Some(member) = self.members.last_mut() else {
            return Ok(());
        };
        let left_bytes = member.free_bytes();
        let all = match left_bytes {
            0 => 0,
            _ => member.alloc("all", "cuMemAlloc_v2", left_bytes),
        };
        let more = member.alloc("more", "cuMemAlloc_v2", PAGE_BYTES);
        if left_bytes > 0 {
            member.ok("free all");
        }
        (all == 0 && more == OUT_OF_MEMORY)
            .then_some(())
            .ok_or_else(|| format!("of {left_bytes} bytes left, all: {all}, a page more: {more}"))
    }
}

/// Signals a child that has not been waited for.
fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid fits")).expect("no process is 0");
    kill_process(pid, signal).expect("a child can be signalled");
}
