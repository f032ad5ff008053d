//! What containers get of their caps under the limiter, over the range of what is not known of hardware.

use crate::failed;
use crate::sweep::{SETTINGS, Setting};
use crate::table::Table;
use benches::evaluator::controllers::Limited;
use benches::evaluator::{Container, Kernel, Operation, Pace, Program, Scenario, Work, run};
use gpu_sim::profile::MachineProfile;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;
/// The limiter's constants were chosen on seeds from 1 on and the T4.
const SEEDS: std::ops::RangeInclusive<u64> = 101..=105;
const PROFILE: &str = "h100";

/// Kernels without end, at most 64 of them in flight.
fn kernels(duration_ns: u64) -> Program {
    Program::new(Work::kernel(Kernel::of_ns(duration_ns)), Pace::Window(64))
}

/// Graphs of 20 kernels without end, at most two in flight.
fn graphs(duration_ns: u64) -> Program {
    let nodes = (0..20).map(|_| Kernel::of_ns(duration_ns / 20)).collect();
    let work = Work::Sequence(vec![Operation::Graph(nodes)]);
    Program::new(work, Pace::Window(2))
}

/// Containers of a scenario: caps in percent, and what they run.
fn scenarios() -> Vec<(&'static str, Vec<(f64, Program)>)> {
    let alike = |caps: &[f64], program: Program| -> Vec<_> {
        caps.iter().map(|&cap| (cap, program.clone())).collect()
    };
    vec![
        ("30: 1 ms", alike(&[30.0], kernels(MS))),
        ("30 60: 1.25 ms", alike(&[30.0, 60.0], kernels(1_250 * US))),
        ("30 60: 2.3 ms", alike(&[30.0, 60.0], kernels(2_300 * US))),
        ("4 × 22: 1.4 ms", alike(&[22.0; 4], kernels(1_400 * US))),
        (
            "60 30: graphs of 2 ms",
            alike(&[60.0, 30.0], graphs(2 * MS)),
        ),
        (
            "60 30: graphs of 8 ms",
            alike(&[60.0, 30.0], graphs(8 * MS)),
        ),
        (
            "30 60: 50 µs, 10 ms",
            vec![(30.0, kernels(50 * US)), (60.0, kernels(10 * MS))],
        ),
        (
            "40 50: 5 ms, 0.3 ms",
            vec![(40.0, kernels(5 * MS)), (50.0, kernels(300 * US))],
        ),
        (
            "20 75: 50 ms, 20 µs",
            vec![(20.0, kernels(50 * MS)), (75.0, kernels(20 * US))],
        ),
    ]
}

/// How far, in points, the containers were below and above their caps at the worst.
fn worst((_, set): &Setting, tenants: &[(f64, Program)]) -> Result<(f64, f64), String> {
    let (mut below, mut above) = (0.0_f64, 0.0_f64);
    for seed in SEEDS {
        let mut machine = MachineProfile::load(PROFILE).map_err(failed)?;
        set(&mut machine.timing);
        let mut scenario = Scenario::new(machine, 12 * S);
        scenario.seed = seed;
        for (index, (cap, program)) in tenants.iter().enumerate() {
            let container = Container::capped(&format!("tenant-{index}"), *cap);
            scenario = scenario.with(container, program.clone());
        }
        let report = run(&scenario, &mut Limited::new(seed).map_err(failed)?);
        for (index, (cap, _)) in tenants.iter().enumerate() {
            let beside = 100.0 * report.share(index, 2 * S..12 * S) - cap;
            (below, above) = (below.min(beside), above.max(beside));
        }
    }
    Ok((below, above))
}

/// One row per setting, one column per scenario.
pub(crate) fn share() -> Result<String, String> {
    let scenarios = scenarios();
    let mut head = vec![""];
    head.extend(scenarios.iter().map(|(what, _)| *what));
    let mut table = Table::new(&head);
    for setting in SETTINGS {
        let mut row = vec![setting.0.to_owned()];
        for (_, tenants) in &scenarios {
            let (below, above) = worst(setting, tenants)?;
            row.push(format!("{below:+.1} … {above:+.1}"));
        }
        table.row(&row);
    }
    Ok(table.into_text())
}
