//! The figures, as SVG.

use crate::failed;
use crate::tables::{of, worst};
use benches::evaluation::{Axis, Case, Outcome, Part, Row, SEED_FIRST, SETTINGS, Variant, matrix};
use benches::evaluator::controllers::Step;
use benches::evaluator::{Report, run};
use benches::plots::{Line, Panel, draw_panels};
use std::path::Path;

const MS: u64 = 1_000_000;

/// All of them, into this folder.
pub(crate) fn draw(dir: &Path, outcomes: &[Outcome]) -> Result<(), String> {
    over_time(&dir.join("share-over-time.svg"))?;
    by_length_and_grid(&dir.join("error-by-length-and-grid.svg"), outcomes)?;
    latencies(&dir.join("latency.svg"))?;
    cost_and_accuracy(&dir.join("cost-and-accuracy.svg"), outcomes)
}

fn case(name: &str) -> Result<Case, String> {
    let found = matrix().into_iter().find(|case| case.name == name);
    found.ok_or_else(|| format!("no scenario is called {name}"))
}

/// A run of a case as it is, or alone with its first process.
fn report(case: &Case, variant: Variant, is_alone: bool) -> Result<Report, String> {
    let mut scenario = SETTINGS[0].scenario(case).map_err(failed)?;
    scenario.seed = SEED_FIRST;
    if is_alone {
        scenario.processes.truncate(1);
    }
    let mut policy = variant.policy(SEED_FIRST).map_err(failed)?;
    Ok(run(&scenario, policy.as_mut()))
}

/// Shares of two tenants, of which one joins and leaves, under several controllers.
fn over_time(path: &Path) -> Result<(), String> {
    let mut panels = Vec::new();
    for (what, name, variant) in [
        (
            "cuda-hook, guarantees of 30 and 70 %",
            "300 µs joins 1 ms, guarantees",
            Variant::Limiter,
        ),
        (
            "cuda-hook, caps of 30 and 60 %",
            "300 µs joins 1 ms, caps",
            Variant::Limiter,
        ),
        (
            "block tokens, caps of 30 and 60 %",
            "300 µs joins 1 ms, caps",
            Variant::BlockTokens(Step::Quadratic),
        ),
        (
            "exclusive lease, caps of 30 and 60 %",
            "300 µs joins 1 ms, caps",
            Variant::ExclusiveLease,
        ),
    ] {
        let case = case(name)?;
        let report = report(&case, variant, false)?;
        let lines = ["30 %, kernels of 1 ms", "joins at 5 s, leaves at 9 s"]
            .into_iter()
            .enumerate();
        let lines = lines.map(|(container, name)| {
            let shares = report.shares(container, 0..case.duration_ns, 100 * MS);
            let points = shares
                .iter()
                .zip(1..)
                .map(|(share, number)| (f64::from(number) * 0.1, 100.0 * share));
            Line::new(name, points.collect())
        });
        panels.push(Panel {
            title: format!("{what} (simulated)"),
            across: "seconds; windows of 100 ms",
            up: "share, %",
            is_log: false,
            range: (0.0..12.0, 0.0..105.0),
            lines: lines.collect(),
            are_points: false,
        });
    }
    draw_panels(path, &panels)
}

/// Worst errors of the mean over the length of kernels and the size of grids.
fn by_length_and_grid(path: &Path, outcomes: &[Outcome]) -> Result<(), String> {
    let lines = |axis: Axis, series: &[(&'static str, &str)], number: fn(&str) -> Option<f64>| {
        let line = |&(title, ending): &(&'static str, &str)| {
            let mut points: Vec<(f64, f64)> = Vec::new();
            let of_axis =
                of(outcomes, Part::Matrix).filter(|outcome| outcome.job.case.axis == axis);
            for outcome in of_axis {
                let name = outcome.job.case.name.as_str();
                let error = outcome
                    .judged
                    .figures
                    .iter()
                    .find(|figure| figure.row == Row::MeanShort);
                let (Some(at), Some(error), true) = (number(name), error, matches(name, ending))
                else {
                    continue;
                };
                match points.iter_mut().find(|point| point.0 == at) {
                    Some(point) => point.1 = point.1.max(error.value),
                    None => points.push((at, error.value)),
                }
            }
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Line::new(title, points)
        };
        series.iter().map(line).collect()
    };
    let of_length = [
        ("2 tenants, caps", "2 × …, caps"),
        ("8 tenants, caps", "8 × …, caps"),
        ("2 tenants, guarantees", "2 × …, guarantees"),
        ("8 tenants, guarantees", "8 × …, guarantees"),
    ];
    let of_grid = [
        ("20 µs, caps", "… blocks of 20 µs beside 500 µs, caps"),
        ("2 ms, caps", "… blocks of 2 ms beside 500 µs, caps"),
        (
            "20 µs, guarantees",
            "… blocks of 20 µs beside 500 µs, guarantees",
        ),
        (
            "2 ms, guarantees",
            "… blocks of 2 ms beside 500 µs, guarantees",
        ),
    ];
    let panel = |title: &str, across, range, lines| Panel {
        title: format!("{title} (simulated, worst of the seeds)"),
        across,
        up: "error of the mean share, points",
        is_log: true,
        range: (range, 0.0..3.0),
        lines,
        are_points: false,
    };
    let panels = [
        panel(
            "Error by length of kernels",
            "kernel, µs",
            4.0..2_500.0,
            lines(Axis::Length, &of_length, length_us),
        ),
        panel(
            "Error by grid",
            "blocks",
            0.9..4_500.0,
            lines(Axis::Grid, &of_grid, blocks),
        ),
    ];
    draw_panels(path, &panels)
}

/// Whether a name is what stands before and behind the dots.
fn matches(name: &str, pattern: &str) -> bool {
    let (before, behind) = pattern.split_once('…').unwrap_or((pattern, ""));
    name.starts_with(before) && name.ends_with(behind)
}

/// The length of kernels in `2 × 50 µs, caps`, in µs.
fn length_us(name: &str) -> Option<f64> {
    let (_, length) = name.split_once(" × ")?;
    let (length, _) = length.split_once(',')?;
    let (number, unit) = length.split_once(' ')?;
    let number: f64 = number.parse().ok()?;
    Some(if unit == "ms" {
        number * 1_000.0
    } else {
        number
    })
}

/// The blocks in `500 blocks of …`.
fn blocks(name: &str) -> Option<f64> {
    name.split_once(" blocks")?.0.parse().ok()
}

/// Cumulative distributions of an inference's latency.
fn latencies(path: &Path) -> Result<(), String> {
    let (capped, guaranteed) = (
        case("50 % beside 1 ms, caps")?,
        case("50 % beside 1 ms, guarantees")?,
    );
    let mut lines = Vec::new();
    for (title, case, variant, is_alone) in [
        ("alone, no controller", &guaranteed, Variant::Native, true),
        ("no controller", &guaranteed, Variant::Native, false),
        (
            "cuda-hook, guarantees",
            &guaranteed,
            Variant::Limiter,
            false,
        ),
        ("cuda-hook, caps", &capped, Variant::Limiter, false),
        (
            "exclusive lease of 100 ms",
            &guaranteed,
            Variant::ExclusiveLease,
            false,
        ),
        (
            "block tokens, caps",
            &capped,
            Variant::BlockTokens(Step::Quadratic),
            false,
        ),
    ] {
        let mut latencies_ns = report(case, variant, is_alone)?.processes[0]
            .latencies_ns
            .clone();
        latencies_ns.sort_unstable();
        lines.push(Line::new(title, distribution(&latencies_ns)));
    }
    let panel = Panel {
        title: "Latency of a 2 ms inference, 100 a second, beside a saturating tenant of 1 ms kernels (simulated)".to_owned(),
        across: "ms from arrival to completion",
        up: "requests that took no longer, %",
        is_log: true,
        range: (1.8..400.0, 0.0..101.0),
        lines,
        are_points: false,
    };
    draw_panels(path, &[panel])
}

/// In percent, at 201 places.
fn distribution(sorted_ns: &[u64]) -> Vec<(f64, f64)> {
    const PLACES: usize = 200;
    let last = sorted_ns.len().saturating_sub(1);
    let point = |place: usize| {
        let ns = sorted_ns.get(last * place / PLACES)?;
        Some((*ns as f64 / MS as f64, 100.0 * place as f64 / PLACES as f64))
    };
    (0..=PLACES).filter_map(point).collect()
}

/// Errors of the mean that have a target.
const MEANS: [Row; 4] = [
    Row::MeanShort,
    Row::MeanLong,
    Row::MeanGraphs,
    Row::MeanMixed,
];

/// What is lost to a controller over how far from their shares tenants are.
fn cost_and_accuracy(path: &Path, outcomes: &[Outcome]) -> Result<(), String> {
    let ours = of(outcomes, Part::Matrix).filter(|outcome| outcome.job.case.is_representative);
    let mut found = vec![("cuda-hook", worst(ours))];
    for variant in Variant::BASELINES.into_iter().chain(Variant::ABLATIONS) {
        let runs =
            of(outcomes, Part::Comparison).filter(move |outcome| outcome.job.variant == variant);
        found.push((variant.name(), worst(runs)));
    }
    let lines = found.into_iter().filter_map(|(name, rows)| {
        let errors = MEANS.iter().filter_map(|row| rows.get(row));
        let error = errors.map(|worst| worst.value).fold(0.0, f64::max);
        let lost = rows.get(&Row::LostContended)?.value;
        Some(Line::new(name, vec![(lost, error.min(60.0))]))
    });
    let panel = Panel {
        title: "Cost against accuracy, the worst of the representative scenarios (simulated)"
            .to_owned(),
        across: "GPU time lost contended, % of what is used without a controller",
        up: "error of the mean share, points",
        is_log: false,
        range: (-2.0..14.0, 0.0..62.0),
        lines: lines.collect(),
        are_points: true,
    };
    draw_panels(path, &[panel])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_found_in_the_names_of_scenarios() {
        assert_eq!(length_us("2 × 50 µs, caps"), Some(50.0));
        assert_eq!(length_us("8 × 2 ms, guarantees"), Some(2_000.0));
        assert_eq!(length_us("caps of 30 and 70 %, 1 ms, all of the GPU"), None);
        assert_eq!(
            blocks("4000 blocks of 2 ms beside 500 µs, caps"),
            Some(4_000.0)
        );
        for (axis, number) in [
            (Axis::Length, length_us as fn(&str) -> _),
            (Axis::Grid, blocks),
        ] {
            let of_axis = matrix().into_iter().filter(|case| case.axis == axis);
            assert!(of_axis.filter_map(|case| number(&case.name)).count() > 30);
        }
    }

    #[test]
    fn a_distribution_goes_from_the_least_to_the_most() {
        let points = distribution(&[MS, 2 * MS, 3 * MS]);
        assert_eq!((points[0], points[200]), ((1.0, 0.0), (3.0, 100.0)));
        assert_eq!(points[100], (2.0, 50.0));
    }
}
