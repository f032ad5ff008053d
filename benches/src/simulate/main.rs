//! `simulate`: the simulator's acceptance in virtual time, and beside it in real time.

mod accept;
mod compare;
mod driver;
mod parameters;
mod play;
mod speed;
mod sweep;

use clap::{Parser, Subcommand};
use std::io::{self, Write};
use std::process::ExitCode;

/// Asks of the simulated GPU what hardware is reported to do.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The acceptance experiments in virtual time, as a Markdown table.
    Accept,
    /// Those that make sense in real time, through libcuda.so.1, beside virtual time.
    Compare {
        /// How long the two tenants run, in seconds.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(2..))]
        seconds: u64,
    },
    /// The shares of the acceptance where parameters of the model are others, as a Markdown table.
    Sweep,
    /// What simulated time costs in processor time, as a Markdown table.
    Speed {
        /// How much time is simulated, in seconds.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
    },
    /// Every parameter of the device and of the host, as Markdown tables.
    Parameters,
    /// One process of `compare`.
    #[command(subcommand, hide = true)]
    Play(play::Role),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Accept => accept::accept(),
        Command::Compare { seconds } => compare::compare(seconds),
        Command::Sweep => sweep::sweep(),
        Command::Speed { seconds } => speed::speed(seconds),
        Command::Parameters => Ok(parameters::parameters()),
        Command::Play(role) => play::play(&role).map(|()| String::new()),
    };
    let written = outcome.and_then(|text| io::stdout().write_all(text.as_bytes()).map_err(failed));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when this fails.
            drop(writeln!(io::stderr(), "simulate: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// A failure as the user reads it.
fn failed(failure: impl std::fmt::Display) -> String {
    failure.to_string()
}
