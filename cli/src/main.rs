//! The `cuda-hook` command.
#![forbid(unsafe_code)]

mod agent;
mod args;
mod artefacts;
mod doctor;
mod failure;
mod folders;
mod inject;
mod libraries;
mod listed;
mod manual;
mod notes;
mod output;
mod quantity;
mod run;
mod set;
mod settings;
mod sim;
mod status;
mod table;
mod ticks;
mod top;

use std::process::ExitCode;

use clap::Parser;

use args::{CdiCommand, Command, CommandLine};
use failure::Failure;

fn main() -> ExitCode {
    let command = CommandLine::parse().command;
    carry_out(&command).unwrap_or_else(|failure| {
        let usage = if failure.is_usage() {
            format!("\n{}", command.usage())
        } else {
            String::new()
        };
        output::complain(format_args!("{failure}{usage}"));
        ExitCode::from(failure.exit_status)
    })
}

fn carry_out(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(args) => match run::run(args)? {},
        Command::Status(args) => status::status(args),
        Command::Top(args) => top::top(args),
        Command::Set(args) => set::set(args),
        Command::Doctor(args) => doctor::doctor(args),
        Command::Sim(command) => sim::sim(command).map(|()| ExitCode::SUCCESS),
        Command::Cdi(CdiCommand::Generate(args)) => {
            inject::cdi::generate(args).map(|()| ExitCode::SUCCESS)
        }
        Command::Agent(args) => agent::agent(args).map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => manual::completions(args).map(|()| ExitCode::SUCCESS),
        Command::Manual(args) => manual::manual(args).map(|()| ExitCode::SUCCESS),
        Command::OciHook(args) => inject::hook::hook(args).map(|()| ExitCode::SUCCESS),
    }
}
