//! What is wanted, what was measured, and what the best peer that enforces anything has.

use crate::results::Results;
use crate::tables::{MEMORY, NO_LIMITS, SHARE, lost};
use benches::table::Table;

/// One figure beside what is wanted of it.
struct Row {
    what: String,
    target: String,
    measured: String,
    /// Whether it is what was wanted, where there is a figure.
    is_met: Option<bool>,
    peer: &'static str,
}

/// Most nanoseconds that may be added to a call: to the median, and to the slowest in a hundred where that is asked for.
struct Wanted {
    p50_ns: f64,
    p99_ns: Option<f64>,
}

/// The table.
pub(crate) fn table(results: &Results) -> String {
    let mut table = Table::new(&["", "target", "measured", "", "best peer that enforces"]);
    let rows = call_rows(results)
        .into_iter()
        .chain(start_rows(results))
        .chain(resnet50_rows(results));
    for row in rows {
        let verdict = match row.is_met {
            None => "–",
            Some(true) => "met",
            Some(false) => "**missed**",
        };
        table.row(&[&*row.what, &row.target, &row.measured, verdict, row.peer]);
    }
    table.into_text()
}

const PAIR: &str = "cuMemAlloc_v2 + cuMemFree_v2, last in first out";
const RANDOM: &str = "cuMemFree_v2 + cuMemAlloc_v2, random";
/// What the best peer that enforces adds to a launch: HAMi-core.
const LAUNCH_PEER: &str = "+37 ns (HAMi-core)";

fn call_rows(results: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    let launch = Wanted {
        p50_ns: 5.0,
        p99_ns: Some(15.0),
    };
    for call in ["cuLaunchKernel", "cuLaunchKernelEx"] {
        let paced = format!("{call}, one in 20 µs");
        for (world, call_there, what) in [
            (NO_LIMITS, call, "no limits"),
            (MEMORY, call, "memory quota"),
            (SHARE, &paced, "quota and share, one in 20 µs"),
        ] {
            for threads in [1, 2] {
                let threads_told = ["1 thread", "2 threads"][usize::from(threads == 2)];
                let what = format!("`{call}`, {what}, {threads_told}");
                let found = (world, threads, call_there, None);
                rows.push(call_row(results, what, found, &launch, LAUNCH_PEER));
            }
        }
    }
    for (what, found, p50_ns, peer) in [
        (
            "allocation and free, quota",
            (MEMORY, 1, PAIR, Some(0)),
            60.0,
            "+1,088 ns",
        ),
        (
            "… any of 100,000 alive",
            (MEMORY, 1, RANDOM, Some(100_000)),
            700.0,
            "+448,000 ns",
        ),
        (
            "`cuMemGetInfo_v2`, quota",
            (MEMORY, 1, "cuMemGetInfo_v2", None),
            5.0,
            "+853 ns",
        ),
    ] {
        let wanted = Wanted {
            p50_ns,
            p99_ns: None,
        };
        rows.push(call_row(results, what.to_owned(), found, &wanted, peer));
    }
    rows.push(unhooked_row(results));
    rows
}

/// World, threads, call, and blocks alive.
type Found<'a> = (&'a str, u32, &'a str, Option<u64>);

fn call_row(
    results: &Results,
    what: String,
    (world, threads, call, live): Found,
    wanted: &Wanted,
    peer: &'static str,
) -> Row {
    let row = results.calls.row(world, threads, call, live);
    let p99_target = wanted.p99_ns.map(|ns| format!(", p99 ≤ +{ns} ns"));
    Row {
        what,
        target: format!("≤ +{} ns{}", wanted.p50_ns, p99_target.unwrap_or_default()),
        measured: row.map_or_else(not_measured, |row| {
            let p99 = wanted
                .p99_ns
                .map(|_| format!(", p99 {:+.0}", row.added_p99()));
            format!("{:+.1} ns{}", row.added_p50(), p99.unwrap_or_default())
        }),
        is_met: row.map(|row| {
            row.added_p50() <= wanted.p50_ns && wanted.p99_ns.is_none_or(|ns| row.added_p99() <= ns)
        }),
        peer,
    }
}

/// A call that is not hooked is the driver's own function; half a nanosecond is what two measurements of it differ by.
fn unhooked_row(results: &Results) -> Row {
    const SAME_NS: f64 = 0.5;
    let call = "cuMemcpyHtoD_v2, not hooked";
    let row = results.calls.row(MEMORY, 1, call, None);
    Row {
        what: "a call that is not hooked".to_owned(),
        target: "+0 (the same function)".to_owned(),
        measured: row.map_or_else(not_measured, |row| format!("{:+.1} ns", row.added_p50())),
        is_met: row.map(|row| row.added_p50() <= SAME_NS),
        peer: "+4 ns",
    }
}

fn not_measured() -> String {
    "not measured".to_owned()
}

/// Most that may be added to a lone `cuInit`, in ms.
const INIT_ADDED_MS_MAX: f64 = 0.2;
/// Most that eight at once may take of what they take bare.
const EIGHT_RATIO_MAX: f64 = 1.1;
/// Most of the start of a program that does nothing, in percent.
const TRUE_ADDED_PERCENT_MAX: f64 = 1.0;
/// What `start-cost` calls the shipped preload, and a start without one.
const PRELOAD: &str = "libcuda_hook.so";
const NOTHING: &str = "nothing";

fn start_rows(results: &Results) -> Vec<Row> {
    let starts = &results.starts;
    let alone = starts.of(1);
    let added_ms = alone.map(|[bare, hooked]| hooked.init_ms.p50 - bare.init_ms.p50);
    let eight = starts.of(8);
    let ratio = eight.map(|[bare, hooked]| hooked.init_ms.p50 / bare.init_ms.p50);
    let fastest = |name: &str| {
        let mut rows = starts.without_cuda.iter();
        rows.find(|row| row.preloaded == name)
            .map(|row| row.fastest_us)
    };
    let percent = fastest(NOTHING)
        .zip(fastest(PRELOAD))
        .map(|(bare, hooked)| 100.0 * (hooked / bare - 1.0));
    vec![
        Row {
            what: "`cuInit` under a limit, p50".to_owned(),
            target: format!("≤ +{INIT_ADDED_MS_MAX} ms"),
            measured: added_ms.map_or_else(not_measured, |ms| format!("{ms:+.2} ms")),
            is_met: added_ms.map(|ms| ms <= INIT_ADDED_MS_MAX),
            peer: "+0.44 to +0.75 ms",
        },
        Row {
            what: "… 8 at once, p50".to_owned(),
            target: format!("≤ {EIGHT_RATIO_MAX} × bare"),
            measured: ratio.map_or_else(not_measured, |ratio| format!("{ratio:.1} ×")),
            is_met: ratio.map(|ratio| ratio <= EIGHT_RATIO_MAX),
            peer: "one after another",
        },
        Row {
            what: "preload into `true`, fastest start".to_owned(),
            target: format!("≤ +{TRUE_ADDED_PERCENT_MAX} %"),
            measured: percent.map_or_else(not_measured, |percent| format!("{percent:+.0} %")),
            is_met: percent.map(|percent| percent <= TRUE_ADDED_PERCENT_MAX),
            peer: "–",
        },
    ]
}

/// The world of the target in `scripts/resnet50.py`.
const QUOTA_AND_SHARE: &str = "memory, 100 %";

fn resnet50_rows(results: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    for (batch, percent_max, peer) in [
        (1, 0.3, "1.3 % (AIStation, T4)"),
        (4, 0.1, "0.37 %"),
        (16, 0.1, "0.7 %"),
    ] {
        for framework in ["workload", "tinygrad"] {
            let row = results.resnet50.row(framework, batch, QUOTA_AND_SHARE);
            rows.push(Row {
                what: format!("ResNet-50, batch {batch}, quota and 100 %, {framework} (simulated)"),
                target: format!("≤ {percent_max} % lost"),
                measured: row.map_or_else(not_measured, |row| format!("{} %", lost(row))),
                is_met: row.map(|row| row.lost_percent <= percent_max),
                peer,
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{
        CallFigures, CallReport, CallRow, Calls, CallsOfWorld, Machine, ResNet50, Starts,
        SystemCalls,
    };

    fn machine() -> Machine {
        Machine {
            measured: "2026-11-22".to_owned(),
            processors: 2,
            model: "none".to_owned(),
            load_before: 0.0,
            load_after: 0.0,
        }
    }

    /// A launch with this added to its median and to its slowest in a hundred, and nothing else.
    fn results(p50: f64, p99: f64) -> Results {
        let row = CallRow {
            call: "cuLaunchKernel".to_owned(),
            live_blocks: None,
            driver_ns: CallFigures {
                p50: 2.0,
                p99: 40.0,
            },
            hooked_ns: CallFigures {
                p50: 2.0 + p50,
                p99: 40.0 + p99,
            },
        };
        let report = CallReport {
            batches: 1,
            calls: 1,
            threads: 1,
            rows: vec![row],
        };
        let worlds = vec![CallsOfWorld {
            world: NO_LIMITS.to_owned(),
            report,
        }];
        Results {
            calls: Calls {
                machine: machine(),
                worlds,
            },
            system_calls: SystemCalls { rows: Vec::new() },
            starts: Starts {
                machine: machine(),
                init: Vec::new(),
                without_cuda: Vec::new(),
            },
            resnet50: ResNet50 {
                machine: machine(),
                device: String::new(),
                rounds: 0,
                window_seconds: 0.0,
                results: Vec::new(),
            },
            instructions: Vec::new(),
        }
    }

    fn first_verdict(results: &Results) -> Option<bool> {
        call_rows(results).into_iter().next().unwrap().is_met
    }

    #[test]
    fn a_target_is_met_where_both_of_its_figures_are() {
        assert_eq!(first_verdict(&results(5.0, 15.0)), Some(true));
        assert_eq!(first_verdict(&results(5.1, 15.0)), Some(false));
        assert_eq!(first_verdict(&results(5.0, 15.1)), Some(false));
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let results = results(0.0, 0.0);
        let rows = start_rows(&results);
        assert!(
            rows.iter()
                .all(|row| row.is_met.is_none() && row.measured == "not measured")
        );
        assert!(table(&results).contains("| not measured | – |"));
    }
}
