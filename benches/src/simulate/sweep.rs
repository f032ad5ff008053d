//! What the acceptance's shares become where a parameter of the model is another.

use crate::failed;
use benches::acceptance::{
    KERNEL_NS, block_tokens_30_70, block_tokens_cap_50, machine_of_188_sms, shares, two,
};
use benches::evaluator::Aggregation;
use benches::evaluator::controllers::{Native, Step};
use benches::table::{Table, percent};
use gpu_sim::parameters::Timing;
use gpu_sim::profile::MachineProfile;

/// A parameter's value, as the table says it, and how it is set.
type Setting = (&'static str, fn(&mut Timing));

/// Values from one end of the ranges to the other, where sources disagree most.
const SETTINGS: &[Setting] = &[
    ("as it is", |_| {}),
    ("slices of 0.3 ms", |timing| timing.slice_ns = 300_000),
    ("slices of 1.024 ms", |timing| timing.slice_ns = 1_024_000),
    ("slices of 5 ms", |timing| timing.slice_ns = 5_000_000),
    ("switches of 20 µs", |timing| {
        timing.switch_preemptive_ns = 20_000
    }),
    ("switches of 200 µs", |timing| {
        timing.switch_preemptive_ns = 200_000
    }),
    ("samples never late", |timing| timing.sample_jitter_ns = 0),
    ("samples up to 10 ms late", |timing| {
        timing.sample_jitter_ns = 10_000_000
    }),
    ("kernels that spread by 0.3", |timing| {
        timing.kernel_sigma = 0.3
    }),
];

/// The table, for 188 SMs and one seed.
pub(crate) fn sweep() -> Result<String, String> {
    let mut table = Table::new(&[
        "",
        "no controller: lost",
        "block tokens 30/70",
        "… linear step",
        "… cap of 50 %",
        "NVML the last sample: 30/70",
        "… linear step",
        "… cap of 50 %",
    ]);
    for (name, set) in SETTINGS {
        let mut machine = machine_of_188_sms().map_err(failed)?;
        set(&mut machine.timing);
        let mut cells = vec![(*name).to_owned()];
        cells.extend(figures(&machine));
        table.row(&cells);
    }
    Ok(table.into_text())
}

fn figures(machine: &MachineProfile) -> Vec<String> {
    let native = two(machine.clone(), [50.0; 2], [KERNEL_NS; 2], 10_000_000_000);
    let mut figures = vec![percent(1.0 - shares(&native, &mut Native).busy)];
    for aggregation in [Aggregation::MeanOfPeriod, Aggregation::LastSample] {
        for step in [Step::Quadratic, Step::Linear] {
            let shares = block_tokens_30_70(machine.clone(), step, aggregation, 1);
            figures.push(percent(shares.first_part));
        }
        figures.push(percent(block_tokens_cap_50(
            machine.clone(),
            aggregation,
            1,
        )));
    }
    figures
}
