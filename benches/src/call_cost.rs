//! What a hooked call costs over the driver's own: both in one process, batch by batch in turn.
//!
//! The driver and the preload are opened side by side. `A` is the driver's function, `B` the preload's of the same name,
//! which ends in `A`. Batches alternate, so that a machine whose speed drifts drifts for both; the medians over the
//! batches are printed, and their difference. Nothing is asserted: benches measure, tests decide.
#![expect(unsafe_code, reason = "calls the driver API, which is C")]

mod driver;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use driver::{Calls, Context};

/// Measure what hooked driver calls cost over bare ones, on whatever driver the loader finds.
#[derive(Parser)]
struct Arguments {
    /// The preload to measure.
    #[arg(long, value_name = "PATH")]
    hook: std::path::PathBuf,
    /// The driver to measure it against.
    #[arg(long, value_name = "PATH", default_value = "libcuda.so.1")]
    driver: std::path::PathBuf,
    /// Batches of each side.
    #[arg(long, default_value_t = 101)]
    batches: usize,
    /// Calls in a batch.
    #[arg(long, default_value_t = 500)]
    calls: u32,
}

/// A call that is measured.
struct Case {
    name: &'static str,
    run: fn(&Calls, &Context, u32),
}

const CASES: &[Case] = &[
    Case {
        name: "cuMemGetInfo_v2",
        run: driver::memory_info,
    },
    Case {
        name: "cuMemAlloc_v2 + cuMemFree_v2",
        run: driver::allocate_and_free,
    },
    Case {
        name: "cuLaunchKernel",
        run: driver::launch,
    },
];

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(table) => {
            #[expect(clippy::print_stdout, reason = "the table is what this program is for")]
            {
                print!("{table}");
            }
            ExitCode::SUCCESS
        }
        Err(reason) => {
            #[expect(clippy::print_stderr, reason = "a command's errors go there")]
            {
                eprintln!("call-cost: {reason}");
            }
            ExitCode::FAILURE
        }
    }
}

/// The table, in Markdown.
fn measure(arguments: &Arguments) -> Result<String, String> {
    let bare = Calls::open(&arguments.driver)?;
    let hooked = Calls::open(&arguments.hook)?;
    let context = Context::new(&hooked)?;
    let mut table = format!(
        "{}: ns per call, median of {} batches of {} calls, A and B in turn\n\n\
         | call | driver (A) | hooked (B) | added | B/A |\n| --- | ---: | ---: | ---: | ---: |\n",
        context.device_name, arguments.batches, arguments.calls
    );
    for case in CASES {
        let (a, b) = alternate(arguments, case, &bare, &hooked, &context);
        table.push_str(&format!(
            "| {} | {a:.0} | {b:.0} | {:.0} | {:.3} |\n",
            case.name,
            b - a,
            b / a
        ));
    }
    Ok(table)
}

/// Medians of A and B, in ns per call.
fn alternate(
    arguments: &Arguments,
    case: &Case,
    bare: &Calls,
    hooked: &Calls,
    context: &Context,
) -> (f64, f64) {
    let batch = |calls: &Calls| {
        let start = Instant::now();
        (case.run)(calls, context, arguments.calls);
        let elapsed = start.elapsed().as_secs_f64() * 1e9 / f64::from(arguments.calls);
        context.drain(calls);
        elapsed
    };
    batch(bare);
    batch(hooked);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..arguments.batches.max(1) {
        a.push(batch(bare));
        b.push(batch(hooked));
    }
    (median(a), median(b))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value_whatever_the_order() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
    }
}
