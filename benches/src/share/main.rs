//! `evaluate-share`: does each container get its share? In virtual time, on the modelled GPU and host.

mod document;
mod plots;
mod progress;
mod real;
mod results;
mod tables;

use benches::evaluation::{Case, jobs, only, run_jobs};
use clap::{Parser, Subcommand};
use progress::Progress;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs the limiter through every declared scenario in virtual time and tells what was met of what is wanted.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Played>,
    /// In real time instead: processes, the preload beside this program, and the simulated device. One scenario after the other.
    #[arg(long, conflicts_with = "quick")]
    real: bool,
    /// A part of the scenarios, one seed, no sweep, no comparison.
    #[arg(long)]
    quick: bool,
    /// So many seeds of everything that has several; the worst counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// One line of JSON for each run instead of tables.
    #[arg(long)]
    json: bool,
    /// The scenarios whose names contain one of these only, without sweep and comparison.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Writes `share.md` and its figures into this folder instead of printing tables.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["quick", "json", "only"])]
    write: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Played {
    /// One process of a scenario, in real time; begins at the time that a line says.
    #[command(hide = true)]
    Play {
        axis: String,
        scenario: String,
        process: usize,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let written = evaluate(&arguments)
        .and_then(|text| io::stdout().write_all(text.as_bytes()).map_err(failed));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when this fails.
            drop(writeln!(io::stderr(), "evaluate-share: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn evaluate(arguments: &Arguments) -> Result<String, String> {
    if let Some(Played::Play {
        axis,
        scenario,
        process,
    }) = &arguments.part
    {
        return real::play_process(axis, scenario, *process).map(|()| String::new());
    }
    if arguments.real {
        return in_real_time(arguments);
    }
    let mut jobs = jobs(arguments.seeds, arguments.quick);
    if !arguments.only.is_empty() {
        jobs = only(jobs, &arguments.only);
        check_names(&arguments.only, jobs.iter().map(|job| &job.case))?;
    }
    let progress = Progress::of(jobs.len());
    let outcomes = run_jobs(jobs, |done| progress.tell(done))?;
    if arguments.json {
        return outcomes.iter().map(results::line).collect();
    }
    match &arguments.write {
        Some(dir) => document::write(dir, &outcomes, arguments.seeds).map(|()| String::new()),
        None => Ok(tables::all(&outcomes)),
    }
}

fn in_real_time(arguments: &Arguments) -> Result<String, String> {
    let cases = real::cases(&arguments.only);
    check_names(&arguments.only, cases.iter())?;
    let (outcomes, stolen) = real::run(cases)?;
    if arguments.json {
        return outcomes.iter().map(results::line).collect();
    }
    match &arguments.write {
        Some(dir) => real::write(dir, &outcomes, stolen).map(|()| String::new()),
        None => Ok(tables::all(&outcomes)),
    }
}

/// Whether each of these texts is in the name of one of the scenarios.
fn check_names<'a>(
    texts: &[String],
    cases: impl Iterator<Item = &'a Case> + Clone,
) -> Result<(), String> {
    let is_of_none = |text: &&String| !cases.clone().any(|case| case.name.contains(text.as_str()));
    texts.iter().find(is_of_none).map_or(Ok(()), |text| {
        Err(format!(
            "no scenario that is to be played has a name that contains {text:?}: docs/share.md names them"
        ))
    })
}

/// A failure as the user reads it.
fn failed(failure: impl std::fmt::Display) -> String {
    failure.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_in_no_scenarios_name_is_told() {
        let told = |texts: &[&str]| {
            let arguments = texts.iter().flat_map(|text| ["--only", text]);
            evaluate(&Arguments::parse_from(
                ["evaluate-share"].into_iter().chain(arguments),
            ))
        };
        let failure = told(&["2 × 1 ms, caps", "nothing like it"]).unwrap_err();
        assert!(failure.contains("\"nothing like it\""), "{failure}");
        let real = Arguments::parse_from(["evaluate-share", "--real", "--only", "no such"]);
        assert!(evaluate(&real).unwrap_err().contains("\"no such\""));
    }
}
