//! Compares a real driver with the simulated one, and with itself behind the preload. See `scripts/test-real`.

use shim_tests::{Door, real};
use std::io::{self, Write};
use std::process::ExitCode;

const DIFFERENT: u8 = 1;
const USAGE: u8 = 2;
const NOT_RUN: u8 = 3;

/// What the command line says.
struct Arguments {
    simulation_will_do: bool,
    doors: Vec<Door>,
}

impl Arguments {
    fn read(words: impl Iterator<Item = String>) -> Option<Self> {
        let (options, names): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with('-'));
        let simulation_will_do = !options.is_empty();
        if options
            .iter()
            .any(|option| option != "--simulation-will-do")
        {
            return None;
        }
        let doors = names.iter().map(|name| Door::by_name(name));
        let mut doors = doors.collect::<Option<Vec<_>>>()?;
        if doors.is_empty() {
            doors.extend(Door::ALL);
        }
        Some(Self {
            simulation_will_do,
            doors,
        })
    }
}

fn main() -> io::Result<ExitCode> {
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let Some(arguments) = Arguments::read(std::env::args().skip(1)) else {
        let doors = Door::ALL.map(Door::name).join(" ");
        writeln!(
            stderr,
            "usage: test-real [--simulation-will-do] [DOOR …]\ndoors: {doors}"
        )?;
        return Ok(ExitCode::from(USAGE));
    };
    if !arguments.simulation_will_do
        && let Some(why) = real::absence()
    {
        writeln!(stderr, "test-real: not run, as there is no real GPU: {why}")?;
        return Ok(ExitCode::from(NOT_RUN));
    }
    let mut different = 0;
    for comparison in real::comparisons(arguments.doors) {
        different += u32::from(comparison.difference.is_some());
        let verdict = comparison.difference.map_or_else(
            || "the same".to_owned(),
            |difference| format!("DIFFERENT\n{difference}"),
        );
        writeln!(stdout, "{}: {verdict}", comparison.what)?;
    }
    Ok(ExitCode::from(if different == 0 { 0 } else { DIFFERENT }))
}
