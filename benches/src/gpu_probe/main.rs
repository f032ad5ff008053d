//! `gpu-probe`: one question to a GPU a run, the answer as a line of JSON. `scripts/gpu-report` asks them all.
//!
//! Nothing in here knows whether the driver is real, simulated or limited, but for the one word `simulated`. Nothing is asserted: what
//! comes out is written down.

mod doors;
mod gpu;
mod identity;
mod launches;
mod memory;
mod nvml;
mod ring;
mod slices;
mod statistics;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value;

/// Ask the first visible GPU one question, through the driver API and NVML.
#[derive(Parser)]
#[command(version)]
struct CommandLine {
    #[command(subcommand)]
    question: Question,
}

#[derive(Subcommand)]
enum Question {
    /// What it is, and what drives it
    Identity,
    /// What launches, events and written words take the host, and how finely events tell the time
    Launches,
    /// How many launches are taken before one waits
    Queue,
    /// Kernels back to back for a while, an event behind each: how long they seem to take, and what came in between
    Kernels(slices::Kernels),
    /// Copies to the device back to back for a while
    Copies {
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// As that of kernels
        #[arg(long)]
        gate: bool,
    },
    /// One kernel that watches the device's own clock: when it did not run
    Clock {
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
    /// NVML's samples of processes: how often, how late, how exact; wants somebody else to be busy
    Ring {
        #[arg(long, default_value_t = 12.0)]
        seconds: f64,
    },
    /// Memory until it is refused: what is told, what is granted
    Quota {
        #[arg(long, default_value_t = 64)]
        chunk_mib: usize,
        /// Ends after so much, refused or not
        #[arg(long, default_value_t = 4096)]
        most_mib: usize,
    },
    /// What contexts and modules take of the device's memory
    Overhead,
    /// The statuses of a sequence of right and wrong calls
    Statuses,
    /// Which file the driver's functions are handed out from, by the loader and by cuGetProcAddress
    Doors,
}

fn main() -> ExitCode {
    let answer = match CommandLine::parse().question {
        Question::Identity => identity::ask(),
        Question::Launches => launches::costs(),
        Question::Queue => launches::queue_depth(),
        Question::Kernels(options) => slices::kernels(&options),
        Question::Copies { seconds, gate } => slices::copies(seconds, gate),
        Question::Clock { seconds } => slices::clock(seconds),
        Question::Ring { seconds } => ring::ask(seconds),
        Question::Quota {
            chunk_mib,
            most_mib,
        } => memory::quota(chunk_mib, most_mib),
        Question::Overhead => memory::overhead(),
        Question::Statuses => doors::statuses(),
        Question::Doors => doors::files(),
    };
    match answer.and_then(|answer| say(&answer)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when this fails.
            drop(writeln!(io::stderr(), "gpu-probe: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes a line at once: who waits for it may be a pipe's other end.
fn say(line: &Value) -> Result<(), String> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| format!("cannot write to standard output: {error}"))
}
