//! `cuda-hook sim watch`: the machine's books again and again, for plots.

use gpu_sim::client::{Environment, Lost, Machine, RequestError};

use super::no_machine;
use super::report::{Container, Report, shown};
use crate::args::WatchArgs;
use crate::failure::Failure;
use crate::output::{self, Reader};
use crate::quantity;
use crate::status::short_uuid;
use crate::ticks::Ticks;

/// Prints the books at every tick until the machine ends or nobody reads any more.
pub(crate) fn watch(args: &WatchArgs) -> Result<(), Failure> {
    let environment = Environment::from_process();
    let ticks = Ticks::every(args.every).map_err(Failure::failed)?;
    let Some(machine) = find(&environment, args.wait, &ticks)? else {
        return Err(no_machine(&environment));
    };
    let mut before = None;
    loop {
        let report = match Report::of(&machine) {
            Ok(report) => report,
            Err(RequestError::Lost(Lost::Device)) => return Ok(()),
            Err(error) => return Err(Failure::failed(error)),
        };
        let reader = if args.json {
            output::print_json_line(&report)?
        } else {
            output::print_line(lines(before.as_ref(), &report))?
        };
        if reader == Reader::Gone {
            return Ok(());
        }
        before = Some(report);
        ticks.wait().map_err(Failure::failed)?;
    }
}

/// The machine that runs, or with `wait` the one that will.
fn find(environment: &Environment, wait: bool, ticks: &Ticks) -> Result<Option<Machine>, Failure> {
    loop {
        let running = Machine::observe(environment).map_err(Failure::failed)?;
        if running.is_some() || !wait {
            return Ok(running);
        }
        ticks.wait().map_err(Failure::failed)?;
    }
}

/// One line a container and device: what it did since the report before, in percent of the time and per second. The
/// first report, which has none before it, is the heading.
fn lines(before: Option<&Report>, now: &Report) -> String {
    let Some(before) = before else {
        return row([
            "TIME",
            "CONTAINER",
            "GPU",
            "BUSY",
            "WAITING",
            "MEMORY",
            "KERNELS/s",
        ]);
    };
    let elapsed_ns = now.now_ns.saturating_sub(before.now_ns).max(1);
    let line = |container: &Container| {
        let same = |other: &&Container| {
            (&other.container, &other.device_uuid) == (&container.container, &container.device_uuid)
        };
        let none = Container::default();
        let before = before.containers.iter().find(same).unwrap_or(&none);
        let of_time = |now: u64, before: u64| {
            quantity::percent(100.0 * ratio(now.saturating_sub(before), elapsed_ns))
        };
        let kernels = container.kernels_total.saturating_sub(before.kernels_total);
        row([
            &quantity::nanoseconds(now.now_ns),
            &shown(&container.container),
            short_uuid(&container.device_uuid),
            &of_time(container.gpu_busy_ns_total, before.gpu_busy_ns_total),
            &of_time(container.gpu_wait_ns_total, before.gpu_wait_ns_total),
            &quantity::bytes(container.memory_bytes_current),
            &format!("{:.0}", 1e9 * ratio(kernels, elapsed_ns)),
        ])
    };
    let lines: Vec<_> = now.containers.iter().map(line).collect();
    lines.join("\n")
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn ratio(part: u64, of: u64) -> f64 {
    part as f64 / of as f64
}

/// Columns of a fixed width: what comes next is not known yet.
fn row([time, container, gpu, busy, waiting, memory, kernels]: [&str; 7]) -> String {
    format!(
        "{time:>12}  {container:<24}  {gpu:<12}  {busy:>8}  {waiting:>8}  {memory:>11}  {kernels:>9}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_line_says_what_happened_since_the_one_before() {
        let (before, now) = (
            report(1_000_000_000, 500, 0),
            report(2_000_000_000, 250_000_500, 600_000_000),
        );
        assert!(lines(None, &before).contains("CONTAINER"));
        let line = lines(Some(&before), &now);
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[..8].join(" "), "2 s a GPU-7c6c3c6e 25 % 60 %");
    }
}
