//! Puts the ledger under many processes for as long as one likes: `scripts/ledger --help`.

use shim_tests::ledger::{chaos, kills, races};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
usage: ledger races [--rounds N] [--processes N]
       ledger kills [--count N] [--seed N]
       ledger chaos [--minutes N | --phases N] [--processes N] [--seed N]

races  N processes (default 4) want the last block of a quota at once, N times (default 10000) each with a driver slowed by 0, 100 and 300 us.
kills  N processes (default 1000) are killed, each at a random moment of its start or its work.
chaos  N processes (default 64) allocate, free, are killed and stopped, fork and exec, for N minutes (default 1).

The first thing that is not right ends it, is printed, and is exit status 1.";

struct Arguments {
    verb: String,
    rounds: u64,
    processes: Option<u32>,
    count: u64,
    seed: u64,
    minutes: u64,
    phases: Option<u64>,
}

fn parsed() -> Option<Arguments> {
    let mut words = std::env::args().skip(1);
    let mut arguments = Arguments {
        verb: words.next()?,
        rounds: 10_000,
        processes: None,
        count: 1_000,
        seed: std::time::UNIX_EPOCH.elapsed().ok()?.as_secs(),
        minutes: 1,
        phases: None,
    };
    while let Some(option) = words.next() {
        let value: u64 = words.next()?.parse().ok()?;
        match (arguments.verb.as_str(), option.as_str()) {
            ("races", "--rounds") => arguments.rounds = value,
            ("races" | "chaos", "--processes") => {
                arguments.processes = Some(value.try_into().ok().filter(|&count| count > 1)?);
            }
            ("kills", "--count") => arguments.count = value,
            ("kills" | "chaos", "--seed") => arguments.seed = value,
            ("chaos", "--minutes") => arguments.minutes = value,
            ("chaos", "--phases") => arguments.phases = Some(value),
            _ => return None,
        }
    }
    Some(arguments)
}

/// What is to be printed of it, or what was not right.
fn play(arguments: &Arguments) -> Option<Result<String, String>> {
    match arguments.verb.as_str() {
        "races" => Some(play_races(arguments)),
        "kills" => Some(play_kills(arguments)),
        "chaos" => Some(play_chaos(arguments)),
        _ => None,
    }
}

fn play_races(arguments: &Arguments) -> Result<String, String> {
    let processes = arguments.processes.unwrap_or(4);
    let rows = [0, 100, 300].map(|delay_us| {
        let races = races::run(processes, arguments.rounds, delay_us)?;
        Ok(format!("driver slowed by {delay_us} us: {races:?}"))
    });
    let rows: Result<Vec<String>, String> = rows.into_iter().collect();
    rows.map(|rows| rows.join("\n"))
}

fn play_kills(arguments: &Arguments) -> Result<String, String> {
    let kills = kills::run(arguments.count, arguments.seed)?;
    let at: Vec<String> = kills::STAGES
        .iter()
        .zip(kills.at)
        .map(|(stage, count)| format!("{stage} {count}"))
        .collect();
    let (seed, longest) = (arguments.seed, kills.longest);
    Ok(format!(
        "seed {seed}; died at: {}; longest from a death to all of its memory allocated by another: {longest:?}",
        at.join(", ")
    ))
}

fn play_chaos(arguments: &Arguments) -> Result<String, String> {
    let began = Instant::now();
    let time = Duration::from_secs(60 * arguments.minutes);
    let members = arguments.processes.unwrap_or(64) as usize;
    let is_over = |phases| match arguments.phases {
        Some(wanted) => phases >= wanted,
        None => began.elapsed() >= time,
    };
    let chaos = chaos::run(members, arguments.seed, is_over)?;
    Ok(format!("seed {}: {chaos:#?}", arguments.seed))
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "its results")]
fn main() -> ExitCode {
    let Some(played) = parsed().as_ref().and_then(play) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match played {
        Ok(result) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
