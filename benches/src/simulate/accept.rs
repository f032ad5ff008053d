//! The acceptance in virtual time.

use crate::failed;
use crate::table::{Table, microseconds, percent};
use benches::acceptance::{
    KERNEL_NS, QUEUE_KERNEL_NS, block_tokens_30_70, block_tokens_cap_50, event_pairs_ns, machine,
    nvml_figures, preemption, queue_experiment, shares, two,
};
use benches::evaluator::controllers::{Native, Step};
use benches::evaluator::{Aggregation, Program, Scenario};
use gpu_sim::profile::ProfileError;
use std::ops::RangeInclusive;

/// Seeds of every experiment that depends on one.
const SEEDS: [u64; 3] = [1, 2, 3];

/// The table of experiments.
pub(crate) fn accept() -> Result<String, String> {
    let mut table = Table::new(&["experiment", "wanted", "simulated", ""]);
    native(&mut table).map_err(failed)?;
    queue(&mut table).map_err(failed)?;
    events(&mut table).map_err(failed)?;
    nvml(&mut table).map_err(failed)?;
    preemptions(&mut table).map_err(failed)?;
    for aggregation in [Aggregation::MeanOfPeriod, Aggregation::LastSample] {
        block_tokens(&mut table, aggregation).map_err(failed)?;
    }
    Ok(table.into_text())
}

/// Adds a row about figures that are all to lie in a band.
fn row(
    table: &mut Table,
    experiment: &str,
    wanted: &str,
    band: RangeInclusive<f64>,
    found: &[f64],
    shown: impl Fn(f64) -> String,
) {
    let least = found.iter().copied().fold(f64::INFINITY, f64::min);
    let most = found.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let text = match (shown(least), shown(most)) {
        (least, most) if least == most => least,
        (least, most) => format!("{least} to {most}"),
    };
    let holds = band.contains(&least) && band.contains(&most);
    let verdict = if holds { "yes" } else { "**no**" };
    table.row(&[experiment, wanted, &text, verdict]);
}

fn native(table: &mut Table) -> Result<(), ProfileError> {
    let mut found = Vec::new();
    for seed in SEEDS {
        let scenario = two(machine("h100")?, [50.0; 2], [KERNEL_NS; 2], 10_000_000_000);
        found.push(shares(&Scenario { seed, ..scenario }, &mut Native));
    }
    let parts: Vec<f64> = found.iter().map(|shares| shares.first_part).collect();
    let lost: Vec<f64> = found.iter().map(|shares| 1.0 - shares.busy).collect();
    row(
        table,
        "two tenants, no controller: part of one",
        "50 %",
        0.495..=0.505,
        &parts,
        percent,
    );
    row(
        table,
        "… lost to switches",
        "1–5 %",
        0.01..=0.05,
        &lost,
        percent,
    );
    Ok(())
}

fn queue(table: &mut Table) -> Result<(), ProfileError> {
    let found = queue_experiment(machine("h100")?);
    let launches = [found.fast_launches as f64];
    let slow_us = [found.slow_ns_mean as f64 / 1e3];
    let whole = |count: f64| format!("{count:.0}");
    let time = |us: f64| microseconds((us * 1e3) as u64);
    row(
        table,
        "launches of 190 µs before one waits",
        "about 1000",
        900.0..=1_100.0,
        &launches,
        whole,
    );
    let kernel_us = QUEUE_KERNEL_NS as f64 / 1e3;
    row(
        table,
        "… and then each takes",
        "190 µs",
        kernel_us - 5.0..=kernel_us + 5.0,
        &slow_us,
        time,
    );
    Ok(())
}

fn events(table: &mut Table) -> Result<(), ProfileError> {
    for others in 0..=2 {
        let ns = event_pairs_ns(machine("h100")?, KERNEL_NS, others);
        let times = ns as f64 / KERNEL_NS as f64;
        let wanted = others as f64 + 1.0;
        let experiment = format!("event pair around 1.25 ms beside {others} saturating tenants");
        let shown = |times: f64| format!("{times:.2} times its own");
        let band = wanted - 0.05..=wanted + 0.2;
        row(
            table,
            &experiment,
            &format!("{wanted} times its own"),
            band,
            &[times],
            shown,
        );
    }
    Ok(())
}

fn nvml(table: &mut Table) -> Result<(), ProfileError> {
    for tenants in [2, 3] {
        let program = Program::saturating(KERNEL_NS);
        let found = nvml_figures(machine("h100")?, &program, tenants);
        let wanted = found.sigma_of_seven();
        let experiment = format!("σ of NVML's figure of a second, {tenants} tenants");
        let text = format!("√(p(1−p)/7) = {}", percent(wanted));
        let band = 0.85 * wanted..=1.15 * wanted;
        row(table, &experiment, &text, band, &[found.sigma], percent);
    }
    Ok(())
}

fn preemptions(table: &mut Table) -> Result<(), ProfileError> {
    for (threshold, kernel_ns) in [(4, 100_000), (10, 100_000), (16, 100_000), (10, 1_000_000)] {
        let mut p99 = Vec::new();
        let mut costs = Vec::new();
        for seed in SEEDS {
            let found = preemption(machine("h100")?, threshold, kernel_ns, seed);
            p99.push(found.p99_ns as f64 / kernel_ns as f64);
            costs.push(found.cost);
        }
        let what = format!(
            "window of {threshold} kernels of {} ms",
            kernel_ns as f64 / 1e6
        );
        let threshold = threshold as f64;
        let shown = |kernels: f64| format!("{kernels:.1} kernels");
        let band = 0.9 * threshold..=1.1 * threshold;
        let wanted = format!("about {threshold} kernels");
        row(
            table,
            &format!("{what}: preempted within (P99)"),
            &wanted,
            band,
            &p99,
            shown,
        );
        if threshold >= 10.0 {
            row(table, "… its cost", "< 1 %", 0.0..=0.01, &costs, percent);
        }
    }
    Ok(())
}

fn block_tokens(table: &mut Table, aggregation: Aggregation) -> Result<(), ProfileError> {
    let nvml = match aggregation {
        Aggregation::MeanOfPeriod => "NVML: mean of the second",
        Aggregation::LastSample => "NVML: last sample",
    };
    let mut parts = |step, name: &str, wanted, band| {
        let found: Result<Vec<_>, _> = SEEDS
            .iter()
            .map(|&seed| block_tokens_30_70(step, aggregation, seed))
            .collect();
        let found: Vec<f64> = found?.iter().map(|shares| shares.first_part).collect();
        let experiment = format!("{name}, 30/70 on 188 SMs, part of the first; {nvml}");
        row(table, &experiment, wanted, band, &found, percent);
        Ok::<(), ProfileError>(())
    };
    parts(Step::Quadratic, "block tokens", "44–52 %", 0.44..=0.52)?;
    parts(Step::Linear, "… with a linear step", "25–37 %", 0.25..=0.37)?;
    let caps: Result<Vec<f64>, _> = SEEDS
        .iter()
        .map(|&seed| block_tokens_cap_50(aggregation, seed))
        .collect();
    let experiment = format!("block tokens, cap of 50 % alone; {nvml}");
    row(table, &experiment, "≥ 90 %", 0.9..=1.0, &caps?, percent);
    Ok(())
}
