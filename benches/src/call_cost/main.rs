//! What a hooked call costs over the driver's own: both in one process, batch by batch in turn.
//!
//! The driver and the preload are opened side by side. `A` is the driver's function, `B` the preload's of the same name,
//! which ends in `A`. Batches alternate, so that a machine whose speed drifts drifts for both; the medians over the
//! batches are printed, and their difference. Then both are called one call at a time, for what the slowest in a hundred take. Nothing
//! is asserted: benches measure, tests decide.
#![expect(unsafe_code, reason = "calls the driver API, which is C")]

mod cases;
mod driver;

use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use serde::Serialize;

use cases::{CASES, Case, Side};
use driver::{Calls, Context};

/// Measure what hooked driver calls cost over bare ones.
#[derive(Parser)]
struct Arguments {
    /// The preload to measure.
    #[arg(long, value_name = "PATH")]
    hook: std::path::PathBuf,
    /// The driver to measure it against; the preload must be told of the same (CUDA_HOOK_DRIVER).
    #[arg(long, value_name = "PATH", default_value = "libcuda.so.1")]
    driver: std::path::PathBuf,
    /// Batches of each side.
    #[arg(long, default_value_t = 101, value_parser = clap::value_parser!(u32).range(1..))]
    batches: u32,
    /// Calls in a batch.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
    /// Single calls of each side that are looked at one by one.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..))]
    singles: u32,
    /// Threads that call at the same time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// How many blocks are alive while others are allocated and freed, one row for each.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    live: Vec<usize>,
    /// Only the case of this name, or else those whose names have this in them.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Measure nothing: make --calls calls of this side, twice. For a profiler, which does the counting.
    #[arg(long, value_name = "SIDE")]
    side: Option<Library>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Whose functions are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Library {
    /// The driver's.
    Driver,
    /// The preload's.
    Hooked,
}

/// What was measured of a case, in ns per call (a pair counts as one).
#[derive(Clone, Copy, Debug, Serialize)]
struct Figures {
    /// Median of the batches. Where each call waits, the mean of the middle half of single calls, with the clock's own time in it.
    p50: f64,
    /// Of single calls, the slowest in a hundred; the clock's own time is in it.
    p99: f64,
}

#[derive(Debug, Serialize)]
struct Row {
    call: &'static str,
    live_blocks: Option<usize>,
    driver_ns: Figures,
    hooked_ns: Figures,
}

#[derive(Debug, Serialize)]
struct Report {
    device: String,
    batches: u32,
    calls: u32,
    threads: u32,
    rows: Vec<Row>,
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table is what this program is for, and errors go to stderr"
)]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(_) if arguments.side.is_some() => ExitCode::SUCCESS,
        Ok(report) if arguments.json => {
            println!("{}", serde_json::json!(report));
            ExitCode::SUCCESS
        }
        Ok(report) => {
            print!("{}", table(&report));
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("call-cost: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// In Markdown.
fn table(report: &Report) -> String {
    let Report {
        device,
        batches,
        calls,
        threads,
        rows,
    } = report;
    let mut table = format!(
        "{device}: ns per call, {batches} batches of {calls} calls by {threads} thread(s), A and B in turn\n\n\
         | call | alive | driver (A) | hooked (B) | added | B/A | added p99 |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    );
    for Row {
        call,
        live_blocks,
        driver_ns: a,
        hooked_ns: b,
    } in rows
    {
        let live = live_blocks
            .map(|count| count.to_string())
            .unwrap_or_default();
        table.push_str(&format!(
            "| `{call}` | {live} | {:.1} | {:.1} | {:+.1} | {:.3} | {:+.0} |\n",
            a.p50,
            b.p50,
            b.p50 - a.p50,
            b.p50 / a.p50,
            b.p99 - a.p99
        ));
    }
    table
}

fn measure(arguments: &Arguments) -> Result<Report, String> {
    let bare = Calls::open(&arguments.driver, None)?;
    let hooked = Calls::open(&arguments.hook, Some(&bare))?;
    let context = Context::new(&bare, &hooked)?;
    let mut rows = Vec::new();
    for case in wanted(&arguments.only) {
        let live_blocks = if case.beside_live {
            &*arguments.live
        } else {
            &[0]
        };
        for &live in live_blocks {
            let world = World {
                arguments,
                case,
                context: &context,
                sides: [&bare, &hooked],
                live,
            };
            if let Some(side) = arguments.side {
                world.call(side)?;
                continue;
            }
            let [driver_ns, hooked_ns] = world.measure()?;
            rows.push(Row {
                call: case.name,
                live_blocks: case.beside_live.then_some(live),
                driver_ns,
                hooked_ns,
            });
        }
    }
    Ok(Report {
        device: context.device_name.clone(),
        batches: arguments.batches,
        calls: arguments.calls,
        threads: arguments.threads,
        rows,
    })
}

/// The case of that name, or else those that have it in theirs.
fn wanted(name: &str) -> impl Iterator<Item = &'static Case> {
    let is_one = CASES.iter().any(|case| case.name == name);
    CASES.iter().filter(move |case| {
        if is_one {
            case.name == name
        } else {
            case.name.contains(name)
        }
    })
}

/// Of single calls, before the other side has its turn.
const SINGLE_CALLS_IN_TURN: u32 = 100;

/// A case, and what it runs in.
struct World<'a> {
    arguments: &'a Arguments,
    case: &'a Case,
    context: &'a Context,
    /// The driver's functions, and the preload's.
    sides: [&'a Calls; 2],
    live: usize,
}

impl<'a> World<'a> {
    /// Calls one side alone: once to warm up, once to be looked at.
    fn call(&self, side: Library) -> Result<(), String> {
        let [bare, hooked] = self.sides;
        self.context.enter(bare)?;
        let mut side = self.side(match side {
            Library::Driver => bare,
            Library::Hooked => hooked,
        });
        side.keep(self.live);
        for _ in 0..2 {
            self.case.run(&mut side, self.of(self.arguments.calls));
            self.context.drain(bare)?;
        }
        side.keep(0);
        Ok(())
    }

    /// How many times the case is run for so many calls.
    fn of(&self, calls: u32) -> u32 {
        (calls / self.case.driver_calls).max(1)
    }

    fn side(&self, calls: &'a Calls) -> Side<'a> {
        Side {
            calls,
            context: self.context,
            live: Vec::new(),
            random: 0x9E37_79B9_7F4A_7C15,
        }
    }

    /// The driver's figures and the preload's.
    fn measure(&self) -> Result<[Figures; 2], String> {
        let count = usize::try_from(self.arguments.threads).map_err(|e| e.to_string())?;
        let together = Barrier::new(count);
        let threads: Vec<_> = thread::scope(|scope| {
            let started: Vec<_> = (0..count)
                .map(|_| scope.spawn(|| self.in_one_thread(&together)))
                .collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread
                    .join()
                    .map_err(|_panic| "a thread panicked".to_owned())?
            };
            started.into_iter().map(join).collect::<Result<_, String>>()
        })?;
        Ok([0, 1].map(|side| {
            let of = |figure: fn(&Figures) -> f64| {
                median(
                    threads
                        .iter()
                        .filter_map(|thread: &[Figures; 2]| thread.get(side))
                        .map(figure)
                        .collect(),
                )
            };
            Figures {
                p50: of(|figures| figures.p50),
                p99: of(|figures| figures.p99),
            }
        }))
    }

    fn in_one_thread(&self, together: &Barrier) -> Result<[Figures; 2], String> {
        let [bare, _] = self.sides;
        self.context.enter(bare)?;
        let mut sides = self.sides.map(|calls| self.side(calls));
        for side in &mut sides {
            side.keep(self.live);
            self.case.run(side, self.of(self.arguments.calls)); // warm
        }
        let calls = self.of(self.arguments.calls);
        let (mut batches, mut singles) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
        let is_paced = !self.case.pause.is_zero();
        for _ in 0..if is_paced { 0 } else { self.arguments.batches } {
            for (side, batches) in sides.iter_mut().zip(&mut batches) {
                together.wait();
                batches.push(self.timed(side, calls));
                self.context.drain(bare)?;
            }
        }
        let in_turn = self.of(SINGLE_CALLS_IN_TURN);
        for _ in 0..self.arguments.singles / SINGLE_CALLS_IN_TURN {
            for (side, singles) in sides.iter_mut().zip(&mut singles) {
                together.wait();
                singles.extend((0..in_turn).map(|_| self.timed(side, 1)));
                self.context.drain(bare)?;
            }
        }
        for side in &mut sides {
            side.keep(0);
        }
        let [a, b] = match is_paced {
            true => singles.clone().map(middle),
            false => batches.map(median),
        };
        let [a99, b99] = singles.map(|all| quantile(all, 99));
        Ok([Figures { p50: a, p99: a99 }, Figures { p50: b, p99: b99 }])
    }

    /// ns per call.
    fn timed(&self, side: &mut Side, calls: u32) -> f64 {
        self.case.wait();
        let start = Instant::now();
        (self.case.run)(side, calls);
        start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
    }
}

/// The mean of the middle half, which is finer than the clock that single calls are read off.
fn middle(values: Vec<f64>) -> f64 {
    let values = sorted(values);
    let quarter = values.len() / 4;
    let half = &values[quarter..values.len() - quarter];
    half.iter().sum::<f64>() / half.len() as f64
}

fn median(values: Vec<f64>) -> f64 {
    quantile(values, 50)
}

/// The value that so many in a hundred do not exceed.
fn quantile(values: Vec<f64>, percent: usize) -> f64 {
    let values = sorted(values);
    let index = values.len().saturating_mul(percent) / 100;
    values
        .get(index.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value_whatever_the_order() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
    }

    #[test]
    fn the_middle_is_the_mean_of_what_is_neither_among_the_least_nor_among_the_greatest_quarter() {
        assert_eq!(middle(vec![900.0, 30.0, 0.0, 40.0]), 35.0);
        assert_eq!(middle(vec![7.0]), 7.0);
    }

    #[test]
    fn a_whole_name_is_one_case_and_a_part_of_it_several() {
        assert_eq!(wanted("cuLaunchKernel").count(), 1);
        assert_eq!(wanted("LaunchKernel").count(), 4);
        assert_eq!(wanted("").count(), CASES.len());
    }

    #[test]
    fn one_in_a_hundred_is_slower_than_the_slowest_but_one_in_a_hundred() {
        let values = (0..100).rev().map(f64::from).collect();
        assert_eq!(quantile(values, 99), 99.0);
        assert_eq!(quantile(vec![7.0], 99), 7.0);
    }
}
