//! How fast the model is: what simulated time costs in processor time.

use crate::failed;
use benches::acceptance::{machine, two};
use benches::evaluator::controllers::Native;
use benches::evaluator::{Report, run};
use benches::table::Table;
use rustix::time::{ClockId, clock_gettime};

const S: u64 = 1_000_000_000;
const DAY_S: f64 = 86_400.0;

/// Lengths of kernels, as the table says them and in ns.
const KERNELS: [(&str, u64); 4] = [
    ("1.25 ms", 1_250_000),
    ("200 µs", 200_000),
    ("50 µs", 50_000),
    ("20 µs", 20_000),
];

/// Processor time of this thread so far, in ns. Unlike the clock it does not go on while others have the processor.
fn processor_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * S + time.tv_nsec as u64
}

/// Two tenants that saturate an H100 with kernels of this length for so long; what came out, and what it cost in ns.
fn two_tenants(kernel_ns: u64, seconds: u64) -> Result<(Report, u64), String> {
    let machine = machine("h100").map_err(failed)?;
    let scenario = two(machine, [100.0; 2], [kernel_ns; 2], seconds * S);
    let before_ns = processor_ns();
    let report = run(&scenario, &mut Native);
    Ok((report, processor_ns() - before_ns))
}

/// One row per length of kernels.
pub(crate) fn speed(seconds: u64) -> Result<String, String> {
    let mut table = Table::new(&[
        "two tenants, kernels of",
        "kernels a second",
        "processor time of a kernel",
        "as fast as real time",
        "a day in",
    ]);
    for (length, kernel_ns) in KERNELS {
        let (report, cost_ns) = two_tenants(kernel_ns, seconds)?;
        let kernels: u64 = report.processes.iter().map(|process| process.kernels).sum();
        let factor = (seconds * S) as f64 / cost_ns as f64;
        table.row(&[
            length.to_owned(),
            (kernels / seconds).to_string(),
            format!("{} ns", cost_ns / kernels.max(1)),
            format!("{factor:.0} ×"),
            format!("{:.1} min", DAY_S / 60.0 / factor),
        ]);
    }
    Ok(table.into_text())
}
