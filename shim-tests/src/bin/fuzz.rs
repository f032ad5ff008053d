//! Plays random sequences of driver calls until a number of them or a time is over: `scripts/fuzz --help`.

use shim_tests::coverage::hooked;
use shim_tests::fuzz::{self, Mode, Tally};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
usage: fuzz [--mode unlimited|limited] [--seed N] [--sequences N | --minutes N] [--steps N]

Plays sequences of N steps (default 200), of the seeds from N on (default: by the clock), in both modes unless one is named.
Ends after that many sequences a mode (default 1) or minutes, or with the first failure, which is exit status 1.";

struct Arguments {
    modes: Vec<Mode>,
    seed: u64,
    sequences: Option<u64>,
    time: Option<Duration>,
    steps: usize,
}

fn parsed() -> Option<Arguments> {
    let mut arguments = Arguments {
        modes: Mode::ALL.to_vec(),
        seed: std::time::UNIX_EPOCH.elapsed().ok()?.as_secs(),
        sequences: None,
        time: None,
        steps: 200,
    };
    let mut words = std::env::args().skip(1);
    while let Some(option) = words.next() {
        let value = words.next()?;
        match option.as_str() {
            "--mode" => arguments.modes.retain(|mode| mode.name() == value),
            "--seed" => arguments.seed = value.parse().ok()?,
            "--sequences" => arguments.sequences = Some(value.parse().ok()?),
            "--minutes" => {
                arguments.time = Some(Duration::from_secs(60 * value.parse::<u64>().ok()?))
            }
            "--steps" => arguments.steps = value.parse().ok().filter(|&steps| steps > 0)?,
            _ => return None,
        }
    }
    (!arguments.modes.is_empty()).then_some(arguments)
}

/// How often it says how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Sequences played, and their calls; or the first failure.
#[expect(clippy::print_stderr, reason = "progress")]
fn play(arguments: &Arguments) -> Result<(u64, Tally), String> {
    let began = Instant::now();
    let mut told = began;
    let sequences_max = arguments.sequences.unwrap_or(if arguments.time.is_some() {
        u64::MAX
    } else {
        1
    });
    let (mut sequences, mut tally) = (0, Tally::default());
    let is_over = |sequences| {
        sequences == sequences_max || arguments.time.is_some_and(|time| began.elapsed() >= time)
    };
    while !is_over(sequences) {
        for &mode in &arguments.modes {
            let seed = arguments.seed.wrapping_add(sequences);
            tally.add(fuzz::check(mode, seed, arguments.steps)?);
        }
        sequences += 1;
        if told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            eprintln!("{sequences} sequences, {} s", began.elapsed().as_secs());
        }
    }
    Ok((sequences, tally))
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "its results")]
fn main() -> ExitCode {
    let Some(arguments) = parsed() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    println!("seed {}", arguments.seed);
    match play(&arguments) {
        Ok((sequences, tally)) => {
            for (symbol, calls, successes) in tally.rows() {
                println!("{calls:>8} {successes:>8} {symbol}");
            }
            let steps = arguments.steps;
            println!("{sequences} sequences of {steps} steps; above: calls, successes, function");
            let hooked = hooked();
            let [uncalled, refused] = tally.lacking(&hooked);
            println!(
                "of {} hooked functions never called: {uncalled:?}",
                hooked.len()
            );
            println!("never granted: {refused:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
