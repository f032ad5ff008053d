//! The figures, as SVG.

use crate::results::{Calls, Quantiles, ResNet50, Results, Starts};
use crate::tables::{MEMORY, NO_LIMITS};
use benches::plots::{Line, Panel, draw_panels};
use std::path::Path;

/// All of them, into this folder.
pub(crate) fn draw(folder: &Path, results: &Results) -> Result<(), String> {
    draw_panels(
        &folder.join("memory-calls.svg"),
        &[memory_calls(&results.calls)],
    )?;
    draw_panels(&folder.join("starts.svg"), &[starts(&results.starts)])?;
    draw_panels(&folder.join("resnet50.svg"), &resnet50(&results.resnet50))
}

/// A tenth above the largest value, so that it does not lie on the edge.
fn up_to(lines: &[Line]) -> f64 {
    1.1 * lines.iter().map(Line::up_max).fold(0.1, f64::max)
}

/// What is added to memory calls over the number of blocks that are alive.
fn memory_calls(calls: &Calls) -> Panel {
    let series = [
        ("quota, the last first", MEMORY, "last in first out", false),
        ("… p99", MEMORY, "last in first out", true),
        ("quota, any of them", MEMORY, "random", false),
        ("… p99", MEMORY, "random", true),
        ("no limits, any of them", NO_LIMITS, "random", false),
    ];
    let lines: Vec<Line> = series
        .into_iter()
        .map(|(name, world, which, is_p99)| {
            let worlds = calls.worlds.iter();
            let rows = worlds
                .filter(|each| each.world == world && each.report.threads == 1)
                .flat_map(|each| &each.report.rows);
            let points = rows
                .filter(|row| row.call.ends_with(which))
                .filter_map(|row| {
                    // A logarithm has no place for none.
                    let alive = row.live_blocks?.max(1) as f64;
                    Some((
                        alive,
                        if is_p99 {
                            row.added_p99()
                        } else {
                            row.added_p50()
                        },
                    ))
                });
            Line::new(name, points.collect())
        })
        .collect();
    Panel {
        title: "Allocation and free: what is added to the driver's time".to_owned(),
        across: "blocks alive (1: none)",
        up: "ns a pair",
        is_log: true,
        range: (1.0..1_100_000.0, 0.0..up_to(&lines)),
        lines,
        are_points: false,
    }
}

/// What `cuInit` takes over the number of processes that call it at once.
fn starts(starts: &Starts) -> Panel {
    type Figure = fn(&Quantiles) -> f64;
    let series: [(_, _, Figure); 4] = [
        ("bare, p50", false, |ms| ms.p50),
        ("bare, p99", false, |ms| ms.p99),
        ("under a limit, p50", true, |ms| ms.p50),
        ("under a limit, p99", true, |ms| ms.p99),
    ];
    let lines: Vec<Line> = series
        .into_iter()
        .map(|(name, is_hooked, figure)| {
            let rows = starts.init.iter().filter(|row| row.hooked == is_hooked);
            let points = rows.map(|row| (f64::from(row.processes), figure(&row.init_ms)));
            Line::new(name, points.collect())
        })
        .collect();
    Panel {
        title: "cuInit of many processes at once (simulated T4)".to_owned(),
        across: "processes",
        up: "ms",
        is_log: true,
        range: (1.0..330.0, 0.0..up_to(&lines)),
        lines,
        are_points: false,
    }
}

/// What ResNet-50 loses over the size of its batches, one panel for each program.
fn resnet50(resnet50: &ResNet50) -> Vec<Panel> {
    let worlds = [
        ("preload, no limits", "preload, no limits"),
        ("quota", "memory"),
        ("quota and 100 %", "memory, 100 %"),
    ];
    let mut programs: Vec<&str> = Vec::new();
    for row in &resnet50.results {
        if !programs.contains(&&*row.framework) {
            programs.push(&row.framework);
        }
    }
    let panel = |program: &&str| {
        let lines = worlds.map(|(name, world)| {
            let rows = resnet50.results.iter();
            let rows = rows.filter(|row| row.framework == **program && row.world == world);
            let points = rows.map(|row| (f64::from(row.batch), row.lost_percent));
            Line::new(name, points.collect())
        });
        Panel {
            title: format!(
                "ResNet-50 in {program}: images a second lost, the middle of the rounds (simulated T4)"
            ),
            across: "batch",
            up: "%",
            is_log: true,
            range: (0.9..18.0, -3.0..up_to(&lines).max(5.0)),
            lines: lines.into(),
            are_points: false,
        }
    };
    programs.iter().map(panel).collect()
}
