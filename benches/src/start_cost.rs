//! What the preload costs a process that does not use CUDA: a program that does nothing is started and waited for, bare
//! and with libraries before it, in turn.
//!
//! Rounds alternate, so that a machine whose speed drifts drifts for all. Nothing is asserted: benches measure, tests
//! decide.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use clap::Parser;

/// Measure what starting a program takes with libraries preloaded, over starting it bare.
#[derive(Parser)]
struct Arguments {
    /// A library to preload; several are measured beside each other.
    #[arg(long, value_name = "PATH", required = true)]
    preload: Vec<PathBuf>,
    /// The program, which is given no arguments.
    #[arg(long, value_name = "PATH", default_value = "/bin/true")]
    program: PathBuf,
    /// Starts of each.
    #[arg(long, default_value_t = 1000)]
    rounds: usize,
}

/// Microseconds that each start took, by what is preloaded.
type Starts = Vec<(Option<PathBuf>, Vec<f64>)>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(starts) => {
            #[expect(clippy::print_stdout, reason = "the table is what this program is for")]
            {
                print!("{}", table(starts));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a program says why it fails")]
            {
                eprintln!("start-cost: {}: {error}", arguments.program.display());
            }
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> std::io::Result<Starts> {
    let preloads = arguments.preload.iter().cloned().map(Some);
    let mut starts: Starts = std::iter::once(None)
        .chain(preloads)
        .map(|preload| (preload, Vec::with_capacity(arguments.rounds)))
        .collect();
    for _ in 0..arguments.rounds {
        for (preload, microseconds) in &mut starts {
            microseconds.push(start(&arguments.program, preload.as_deref())?);
        }
    }
    Ok(starts)
}

/// How long one start takes until the program has been waited for, in µs.
fn start(program: &Path, preload: Option<&Path>) -> std::io::Result<f64> {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null());
    if let Some(preload) = preload {
        command.env("LD_PRELOAD", preload);
    }
    let began = Instant::now();
    command.status()?;
    Ok(began.elapsed().as_secs_f64() * 1e6)
}

fn table(mut starts: Starts) -> String {
    let mut text = String::from(
        "| preloaded | fastest, µs | a tenth, µs | median, µs |\n| --- | ---: | ---: | ---: |\n",
    );
    for (preload, microseconds) in &mut starts {
        microseconds.sort_by(f64::total_cmp);
        let at = |part: usize| {
            let index = microseconds.len().saturating_mul(part) / 10;
            microseconds.get(index).copied().unwrap_or(f64::NAN)
        };
        let name = preload.as_ref().and_then(|path| path.file_name());
        let name = name.map_or_else(|| "nothing".to_owned(), |name| name.display().to_string());
        text += &format!("| {name} | {:.0} | {:.0} | {:.0} |\n", at(0), at(1), at(5));
    }
    text
}
