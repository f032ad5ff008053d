//! `cost-page`: `docs/cost.md` and its figures, of the results that lie beside it. Measures nothing.

mod document;
mod plots;
mod results;
mod tables;
mod targets;

use clap::Parser;
use results::Results;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Makes docs/cost.md of docs/cost/*.json and benches/instructions.tsv, which scripts/bench cost and scripts/check-instructions write.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The results.
    #[arg(long, value_name = "DIR", default_value = "docs/cost")]
    results: PathBuf,
    /// The instructions of hooked calls.
    #[arg(long, value_name = "FILE", default_value = "benches/instructions.tsv")]
    instructions: PathBuf,
    /// Where `cost.md` is written, and its figures into `cost/`.
    #[arg(long, value_name = "DIR", default_value = "docs")]
    into: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let written = Results::read(&arguments.results, &arguments.instructions)
        .and_then(|results| document::write(&arguments.into, &results));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when this fails.
            drop(writeln!(io::stderr(), "cost-page: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// A failure as the user reads it.
fn failed(failure: impl std::fmt::Display) -> String {
    failure.to_string()
}
