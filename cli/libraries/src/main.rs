//! `cuda-hook-libraries`: answers what the `cuda-hook` command asks of NVIDIA's libraries and of glibc.

mod driver;
mod mapped;
mod nvml;

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use cuda_hook_libraries::{FILE, Gpu, Question, Unusable};
use nvml::Nvml;
use serde::Serialize;

fn main() -> ExitCode {
    let told = if std::env::args_os().len() == 1 {
        answer_all(io::stdin().lock(), io::stdout().lock())
    } else {
        Err(io::Error::other(
            "takes no arguments: the cuda-hook command starts it, and asks on its standard input",
        ))
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when that fails.
            drop(writeln!(io::stderr().lock(), "{FILE}: {error}"));
            ExitCode::from(2)
        }
    }
}

/// A line for each line, until there are no more.
fn answer_all(questions: impl BufRead, mut answers: impl Write) -> io::Result<()> {
    let mut nvml = None;
    for line in questions.lines() {
        let answer = match serde_json::from_str(&line?)? {
            Question::CLibrary => json(&driver::glibc_version()),
            Question::Driver(name) => json(&driver::open(&name)),
            Question::Processes(uuids) => json(&processes(&mut nvml, &uuids)),
        };
        writeln!(answers, "{}", answer?)?;
        answers.flush()?;
    }
    Ok(())
}

fn json(answer: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(answer)?)
}

/// NVML is opened for the first who asks, and stays open: to initialise it may take seconds.
fn processes(
    nvml: &mut Option<Result<Nvml, Unusable>>,
    uuids: &[String],
) -> Result<Vec<Gpu>, Unusable> {
    match nvml.get_or_insert_with(Nvml::open) {
        Ok(nvml) => Ok(uuids.iter().filter_map(|uuid| nvml.list(uuid)).collect()),
        Err(unusable) => Err(unusable.clone()),
    }
}
