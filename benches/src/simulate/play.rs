//! One process of the comparison: what it does on the real timeline.

use crate::driver::Kernel;
use crate::failed;
use clap::Subcommand;
use gpu_sim::client::Environment;
use gpu_sim::profile::MachineProfile;
use std::io::{self, BufRead, Write};
use std::time::Instant;

/// Kernels in flight while pairs of events time them.
const TIMED_IN_FLIGHT: usize = 4;

/// What the process does.
#[derive(Clone, Copy, Subcommand)]
pub(crate) enum Role {
    /// Launches without a wait until it is killed; begins when it reads a line.
    Saturate {
        /// Length of its kernels, in ns.
        kernel_ns: u64,
    },
    /// Launches without a wait, and prints how long each call took, in ns.
    Queue {
        /// Length of its kernels, in ns.
        kernel_ns: u64,
        /// How many.
        launches: usize,
    },
    /// Puts a pair of events around every launch, and prints the times between them, in ns.
    Time {
        /// Length of its kernels, in ns.
        kernel_ns: u64,
        /// How many.
        launches: usize,
    },
}

/// Plays a role.
pub(crate) fn play(role: &Role) -> Result<(), String> {
    match *role {
        Role::Saturate { kernel_ns } => saturate(&kernel(kernel_ns)?),
        Role::Queue {
            kernel_ns,
            launches,
        } => print(&queue(&kernel(kernel_ns)?, launches)?),
        Role::Time {
            kernel_ns,
            launches,
        } => print(&time(&kernel(kernel_ns)?, launches)?),
    }
}

/// A kernel of this length, which has run once.
fn kernel(kernel_ns: u64) -> Result<Kernel, String> {
    let machine = MachineProfile::load(&Environment::from_process().profile).map_err(failed)?;
    let cost = benches::evaluator::Kernel::of_ns(kernel_ns).cost(&machine);
    let kernel = Kernel::load(cost.grid[0], cost.block[0], cost.instructions_per_thread)?;
    kernel.launch()?;
    kernel.synchronize()?;
    Ok(kernel)
}

fn print(times_ns: &[u64]) -> Result<(), String> {
    let text: Vec<String> = times_ns.iter().map(u64::to_string).collect();
    writeln!(io::stdout(), "{}", text.join(" ")).map_err(failed)
}

fn saturate(kernel: &Kernel) -> Result<(), String> {
    writeln!(io::stdout(), "ready").map_err(failed)?;
    io::stdin()
        .lock()
        .read_line(&mut String::new())
        .map_err(failed)?;
    loop {
        kernel.launch()?;
    }
}

fn queue(kernel: &Kernel, launches: usize) -> Result<Vec<u64>, String> {
    let launch = |_| {
        let called = Instant::now();
        kernel.launch()?;
        Ok(called.elapsed().as_nanos() as u64)
    };
    (0..launches).map(launch).collect()
}

fn time(kernel: &Kernel, launches: usize) -> Result<Vec<u64>, String> {
    let mut events = Vec::with_capacity(TIMED_IN_FLIGHT);
    for _ in 0..TIMED_IN_FLIGHT {
        events.push((kernel.event()?, kernel.event()?));
    }
    let mut times_ns = Vec::with_capacity(launches);
    for launch in 0..launches + TIMED_IN_FLIGHT {
        let (from, to) = events[launch % TIMED_IN_FLIGHT];
        if launch >= TIMED_IN_FLIGHT {
            times_ns.push(kernel.elapsed_ns(from, to)?);
        }
        kernel.record(from)?;
        kernel.launch()?;
        kernel.record(to)?;
    }
    Ok(times_ns)
}
