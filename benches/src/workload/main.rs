//! Plays workloads, which are data, through the CUDA driver API, and says how fast they went.
//!
//! A workload states what its kernels compute and move, or how long they are to take; [`roofline`] makes times of that
//! for the device at hand, [`calibration`] kernels of those times, [`player`] plays them. Nothing in here knows whether
//! the driver is real, simulated or limited, but for the one word `simulated` in the report.

mod args;
mod arrivals;
mod calibration;
mod catalogue;
mod check;
mod cuda;
mod failure;
mod file;
mod interrupt;
mod network;
mod plan;
mod player;
mod report;
mod roofline;

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::json;

use args::{Command, CommandLine};
use arrivals::Arrivals;
use cuda::Gpu;
use failure::Failure;
use file::{Arrival, Workload};
use plan::Plan;
use player::{Length, Player};
use report::Report;

/// 128 + SIGINT, as a shell says it of a program that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let arguments = CommandLine::parse();
    let outcome = match &arguments.command {
        Some(Command::List) => list(),
        Some(Command::Show { name, network }) => show(name, *network),
        None => play(&arguments.play),
    };
    outcome.unwrap_or_else(|failure| {
        // Nobody is left to tell when this fails.
        drop(writeln!(io::stderr().lock(), "workload: {failure}"));
        ExitCode::from(failure.exit_status)
    })
}

/// Writes a line. A reader that has gone has what it wanted.
fn print(text: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::failed(format_args!(
            "cannot write to standard output: {error}"
        ))),
        _ => Ok(()),
    }
}

fn list() -> Result<ExitCode, Failure> {
    for (name, _) in catalogue::WORKLOADS {
        let workload = Workload::load(name).map_err(Failure::usage)?;
        print(format_args!("{name:<18} {}", workload.file.summary))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(name: &str, network: bool) -> Result<ExitCode, Failure> {
    let (text, kind, known) = if network {
        (
            catalogue::network(name),
            "network",
            catalogue::network_names(),
        )
    } else {
        (
            catalogue::workload(name),
            "workload",
            catalogue::workload_names(),
        )
    };
    let text = text.ok_or_else(|| {
        Failure::usage(format_args!(
            "no {kind} is called {name}; there are {known}"
        ))
    })?;
    print(text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// When iterations arrive: as the file says, unless the command line does.
fn arrival(workload: &Workload, arguments: &args::Play) -> Result<Arrival, Failure> {
    let (file_rate, file_seed) = match workload.file.arrival {
        Arrival::ClosedLoop => (None, 1),
        Arrival::Poisson { rate_per_s, seed } => (Some(rate_per_s), seed),
    };
    let seed = arguments.seed.unwrap_or(file_seed);
    let Some(rate_per_s) = arguments.rate.or(file_rate) else {
        return match arguments.seed {
            Some(_) => Err(Failure::usage(format_args!(
                "--seed is of random arrivals, which {} has none of; --rate makes some",
                workload.name
            ))),
            None => Ok(Arrival::ClosedLoop),
        };
    };
    let arrival = Arrival::Poisson { rate_per_s, seed };
    arrival.check("--rate").map_err(Failure::usage)?;
    Ok(arrival)
}

fn play(arguments: &args::Play) -> Result<ExitCode, Failure> {
    let name = arguments.workload.as_deref().unwrap_or_default();
    let workload = Workload::load(name).map_err(Failure::usage)?;
    let batch = workload.batch(arguments.batch).map_err(Failure::usage)?;
    let arrival = arrival(&workload, arguments)?;
    let length = arguments.iterations.map_or(
        Length::Time(Duration::from_secs_f64(arguments.seconds)),
        Length::Iterations,
    );
    let gpu = Gpu::open()?;
    let plan = Plan::new(&workload, batch, &gpu.attributes);
    let player = Player::new(&gpu, &plan, workload.file.play)?;
    let window = || -> Result<bool, Failure> {
        let measured = player.play(Arrivals::new(arrival), length)?;
        let interrupted = measured.interrupted;
        let report = Report::new(&gpu, &workload, batch, &player, measured);
        if arguments.json || arguments.gate {
            print(serde_json::to_string(&report).map_err(Failure::failed)?)?;
        } else {
            print(report.text().trim_end())?;
        }
        Ok(interrupted)
    };
    let interrupted = if arguments.gate {
        print(json!({ "ready": true, "device": gpu.name, "simulated": gpu.simulated }))?;
        windows_for_lines(window)?
    } else {
        window()?
    };
    Ok(ExitCode::from(if interrupted { INTERRUPTED } else { 0 }))
}

/// Plays a window for each line on standard input; whether one was interrupted, which ends it.
fn windows_for_lines(window: impl Fn() -> Result<bool, Failure>) -> Result<bool, Failure> {
    for line in io::stdin().lines() {
        line.map_err(|error| Failure::failed(format_args!("standard input: {error}")))?;
        if window()? {
            return Ok(true);
        }
    }
    Ok(false)
}
