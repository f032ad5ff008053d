//! The acceptance in virtual time.

use crate::failed;
use benches::acceptance::{
    KERNEL_NS, block_tokens_30_70, block_tokens_cap_50, event_pairs_ns, machine,
    machine_of_188_sms, nvml_figures, preemption, queue_experiment, shares, two,
};
use benches::evaluator::controllers::{Native, Step};
use benches::evaluator::{Aggregation, Program, Scenario};
use benches::table::{Table, percent};
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

/// What an experiment is and what should come out.
struct Wanted<'a> {
    experiment: &'a str,
    text: &'a str,
    band: RangeInclusive<f64>,
}

/// Adds a row about figures that are all to lie in a band, with so many decimals and this unit.
fn row(table: &mut Table, wanted: &Wanted, found: &[f64], decimals: usize, unit: &str) {
    let least = found.iter().copied().fold(f64::INFINITY, f64::min);
    let most = found.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let [low, high] = [least, most].map(|figure| format!("{figure:.decimals$}"));
    let text = match low == high {
        true => format!("{low} {unit}"),
        false => format!("{low} to {high} {unit}"),
    };
    let holds = wanted.band.contains(&least) && wanted.band.contains(&most);
    let verdict = if holds { "yes" } else { "**no**" };
    table.row(&[wanted.experiment, wanted.text, text.trim_end(), verdict]);
}

fn native(table: &mut Table) -> Result<(), ProfileError> {
    let mut found = Vec::new();
    for seed in SEEDS {
        let scenario = two(machine("h100")?, [50.0; 2], [KERNEL_NS; 2], 10_000_000_000);
        found.push(shares(&Scenario { seed, ..scenario }, &mut Native));
    }
    let parts: Vec<f64> = found
        .iter()
        .map(|shares| shares.first_part * 100.0)
        .collect();
    let lost: Vec<f64> = found
        .iter()
        .map(|shares| 100.0 - shares.busy * 100.0)
        .collect();
    let wanted = Wanted {
        experiment: "two tenants, no controller: part of one",
        text: "50 %",
        band: 49.5..=50.5,
    };
    row(table, &wanted, &parts, 1, "%");
    let wanted = Wanted {
        experiment: "… lost to switches",
        text: "1–5 %",
        band: 1.0..=5.0,
    };
    row(table, &wanted, &lost, 1, "%");
    Ok(())
}

fn queue(table: &mut Table) -> Result<(), ProfileError> {
    let found = queue_experiment(machine("h100")?);
    let wanted = Wanted {
        experiment: "launches of 190 µs before one waits",
        text: "about 1000",
        band: 900.0..=1_100.0,
    };
    row(table, &wanted, &[found.fast_launches as f64], 0, "");
    let wanted = Wanted {
        experiment: "… and then each takes",
        text: "190 µs",
        band: 185.0..=195.0,
    };
    row(table, &wanted, &[found.slow_ns_mean as f64 / 1e3], 1, "µs");
    Ok(())
}

fn events(table: &mut Table) -> Result<(), ProfileError> {
    for (others, experiment) in [
        "event pair around a kernel of 1.25 ms, alone",
        "… beside a saturating tenant",
        "… beside two",
    ]
    .into_iter()
    .enumerate()
    {
        let ns = event_pairs_ns(machine("h100")?, KERNEL_NS, others);
        let times = others as f64 + 1.0;
        let wanted = Wanted {
            experiment,
            text: &format!("{times} times its time, and the switches"),
            band: times - 0.05..=times + 0.2,
        };
        row(table, &wanted, &[ns as f64 / KERNEL_NS as f64], 2, "times");
    }
    Ok(())
}

fn nvml(table: &mut Table) -> Result<(), ProfileError> {
    for tenants in [2, 3] {
        let program = Program::saturating(KERNEL_NS);
        let found = nvml_figures(machine("h100")?, &program, tenants);
        let sigma = found.sigma_of_seven();
        let wanted = Wanted {
            experiment: &format!("σ of NVML's figure of a second, {tenants} tenants"),
            text: &format!("√(p(1−p)/7) = {}", percent(sigma)),
            band: 85.0 * sigma..=115.0 * sigma,
        };
        row(table, &wanted, &[found.sigma * 100.0], 1, "%");
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
            costs.push(found.cost * 100.0);
        }
        let kernel_ms = kernel_ns as f64 / 1e6;
        let kernels = threshold as f64;
        let wanted = Wanted {
            experiment: &format!(
                "window of {threshold} kernels of {kernel_ms} ms: preempted within (P99)"
            ),
            text: &format!("about {threshold} kernels"),
            band: 0.9 * kernels..=1.1 * kernels,
        };
        row(table, &wanted, &p99, 1, "kernels");
        if threshold >= 10 {
            let wanted = Wanted {
                experiment: "… its cost",
                text: "< 1 %",
                band: 0.0..=1.0,
            };
            row(table, &wanted, &costs, 1, "%");
        }
    }
    Ok(())
}

fn block_tokens(table: &mut Table, aggregation: Aggregation) -> Result<(), ProfileError> {
    let nvml = match aggregation {
        Aggregation::MeanOfPeriod => "NVML's figure the mean of the second",
        Aggregation::LastSample => "NVML's figure the last sample",
    };
    let machine = machine_of_188_sms()?;
    let parts = |step| {
        SEEDS.map(|seed| {
            let shares = block_tokens_30_70(machine.clone(), step, aggregation, seed);
            shares.first_part * 100.0
        })
    };
    let wanted = Wanted {
        experiment: &format!(
            "block tokens, caps of 30 and 70 %, 188 SMs, {nvml}: part of the first"
        ),
        text: "44–52 %",
        band: 44.0..=52.0,
    };
    row(table, &wanted, &parts(Step::Quadratic), 1, "%");
    let wanted = Wanted {
        experiment: "… with the linear step",
        text: "25–37 %",
        band: 25.0..=37.0,
    };
    row(table, &wanted, &parts(Step::Linear), 1, "%");
    let used = SEEDS.map(|seed| block_tokens_cap_50(machine.clone(), aggregation, seed) * 100.0);
    let wanted = Wanted {
        experiment: "… a cap of 50 % alone: used",
        text: "≥ 90 %",
        band: 90.0..=100.0,
    };
    row(table, &wanted, &used, 1, "%");
    Ok(())
}
