//! What stands in a frame: one line a container and GPU, of two looks.

use std::cmp::Reverse;

use limiter::sample::{ContainerSample, DeviceSample, Sample};

use crate::args::Sort;
use crate::quantity;
use crate::status::{processes, short_uuid, waited_for};
use crate::table::{Align, Table};

/// Cells of a bar.
pub(super) const BAR_CELLS: usize = 10;

/// A container on one GPU, since the look before.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Line {
    pub(super) container: String,
    pub(super) gpu: String,
    pub(super) memory_bytes_current: u64,
    /// `None`: no limit.
    pub(super) memory_bytes_max: Option<u64>,
    /// What of it is past the container's guarantee.
    pub(super) memory_bytes_borrowed: u64,
    pub(super) memory_bytes_unaccounted: Option<u64>,
    /// GPU time charged, in percent of the time since; `None`: this is the first look.
    pub(super) gpu_percent: Option<f64>,
    /// What it may be at most.
    pub(super) gpu_percent_max: Option<f64>,
    /// Time for which launches waited, of all threads together, in percent of the time since.
    pub(super) waiting_percent: Option<f64>,
    /// What for.
    pub(super) waited_for: String,
    pub(super) refusals_total: u64,
    pub(super) processes: String,
}

impl Line {
    /// How much of the quota is in use, 1 for all of it; `None` without a quota.
    pub(super) fn memory_part(&self) -> Option<f64> {
        self.memory_bytes_max
            .map(|max| ratio(self.memory_bytes_current, max))
    }

    /// How much of the cap was used; `None` at the first look. Without a cap, of the whole GPU.
    pub(super) fn gpu_part(&self) -> Option<f64> {
        Some(self.gpu_percent? / self.gpu_percent_max.unwrap_or(100.0))
    }

    /// `1 GiB of 2 GiB`; `1.5 GiB of 2 GiB, 512 MiB lent`.
    pub(super) fn memory_text(&self) -> String {
        let max = self
            .memory_bytes_max
            .map_or_else(|| "max".to_owned(), quantity::bytes);
        let lent = match self.memory_bytes_borrowed {
            0 => String::new(),
            bytes => format!(", {} lent", quantity::bytes(bytes)),
        };
        format!(
            "{} of {max}{lent}",
            quantity::bytes(self.memory_bytes_current)
        )
    }

    /// `12.5 % of 30 %`.
    pub(super) fn gpu_text(&self) -> String {
        let max = self
            .gpu_percent_max
            .map_or_else(|| "max".to_owned(), quantity::percent);
        format!("{} of {max}", percent(self.gpu_percent))
    }

    /// What stands in the columns that have no bar: unaccounted, waiting, waited for, refused, processes.
    pub(super) fn rest(&self) -> [String; 5] {
        [
            self.memory_bytes_unaccounted
                .map_or_else(|| "?".to_owned(), quantity::bytes),
            percent(self.waiting_percent),
            self.waited_for.clone(),
            self.refusals_total.to_string(),
            self.processes.clone(),
        ]
    }
}

fn percent(percent: Option<f64>) -> String {
    percent.map_or_else(|| "-".to_owned(), quantity::percent)
}

/// How many cells of a bar are full: none only for nothing, all only for all.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a small number of cells"
)]
pub(super) fn full_cells(part: f64) -> usize {
    let cells = BAR_CELLS as f64;
    if part >= 1.0 {
        BAR_CELLS
    } else if part > 0.0 {
        (part * cells).round().clamp(1.0, cells - 1.0) as usize
    } else {
        0
    }
}

/// The lines of a frame, sorted.
pub(super) fn of(before: Option<&Sample>, now: &Sample, sort: Sort) -> Vec<Line> {
    let elapsed_ns = before.map(|before| now.now_ns.saturating_sub(before.now_ns).max(1));
    let containers = now.containers.iter();
    let mut lines: Vec<Line> = containers
        .flat_map(|container| {
            let devices = container.devices.iter();
            devices.map(move |device| {
                let before = before.and_then(|before| find(before, container, device));
                line(container, device, before, elapsed_ns)
            })
        })
        .collect();
    lines.sort_by(|a, b| (&a.container, &a.gpu).cmp(&(&b.container, &b.gpu)));
    // The most first; of equals, by name.
    let thousandths = |percent: Option<f64>| percent.map(|percent| (percent * 1e3).round() as i64);
    match sort {
        Sort::Name => {}
        Sort::Memory => lines.sort_by_key(|line| Reverse(line.memory_bytes_current)),
        Sort::Gpu => lines.sort_by_key(|line| Reverse(thousandths(line.gpu_percent))),
        Sort::Waiting => lines.sort_by_key(|line| Reverse(thousandths(line.waiting_percent))),
        Sort::Refusals => lines.sort_by_key(|line| Reverse(line.refusals_total)),
    }
    lines
}

fn find<'a>(
    before: &'a Sample,
    container: &ContainerSample,
    device: &DeviceSample,
) -> Option<&'a DeviceSample> {
    let mut containers = before.containers.iter();
    let same = containers.find(|other| other.container == container.container)?;
    let mut devices = same.devices.iter();
    devices.find(|other| other.device_uuid == device.device_uuid)
}

fn line(
    container: &ContainerSample,
    device: &DeviceSample,
    before: Option<&DeviceSample>,
    elapsed_ns: Option<u64>,
) -> Line {
    // A container that was not there before began at nothing.
    let since = |total: fn(&DeviceSample) -> u64| {
        let of = total(device).saturating_sub(before.map_or(0, total));
        Some(100.0 * ratio(of, elapsed_ns?))
    };
    Line {
        container: container.container.clone(),
        gpu: short_uuid(&device.device_uuid).to_owned(),
        memory_bytes_current: device.memory_bytes_current,
        memory_bytes_max: device.memory_bytes_max,
        memory_bytes_borrowed: match device.memory_bytes_soft {
            Some(_) => device.memory_bytes_borrowed,
            None => 0,
        },
        memory_bytes_unaccounted: device.memory_bytes_unaccounted,
        gpu_percent: since(|device| device.charged_ns_total),
        gpu_percent_max: device.sm_percent_max,
        waiting_percent: since(|device| device.throttled_ns_total),
        waited_for: waited_for(&waits_since(device, before)),
        refusals_total: device.refusals_total,
        processes: processes(container),
    }
}

/// The device as it is, with the waits since the look before alone.
fn waits_since(device: &DeviceSample, before: Option<&DeviceSample>) -> DeviceSample {
    let since = |total: fn(&DeviceSample) -> u64| {
        total(device).saturating_sub(before.map_or_else(|| total(device), total))
    };
    DeviceSample {
        throttled_ns_total: since(|device| device.throttled_ns_total),
        throttled_by_cap_ns_total: since(|device| device.throttled_by_cap_ns_total),
        throttled_by_share_ns_total: since(|device| device.throttled_by_share_ns_total),
        throttled_by_window_ns_total: since(|device| device.throttled_by_window_ns_total),
        ..device.clone()
    }
}

/// Of nothing, nothing is nothing and anything is too much.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn ratio(part: u64, of: u64) -> f64 {
    match (part, of) {
        (0, _) => 0.0,
        (_, 0) => f64::INFINITY,
        _ => part as f64 / of as f64,
    }
}

/// A frame as text.
pub(super) fn table(lines: &[Line]) -> Table<11> {
    let mut table = Table::new([
        ("CONTAINER", Align::Left),
        ("GPU", Align::Left),
        ("MEMORY", Align::Left),
        ("", Align::Right),
        ("GPU TIME", Align::Left),
        ("", Align::Right),
        ("UNACCOUNTED", Align::Right),
        ("WAITING", Align::Right),
        ("WAITED FOR", Align::Left),
        ("REFUSED", Align::Right),
        ("PROCESSES", Align::Left),
    ]);
    for line in lines {
        let [unaccounted, waiting, waited_for, refused, processes] = line.rest();
        table.push([
            line.container.clone(),
            line.gpu.clone(),
            bar(line.memory_part()),
            line.memory_text(),
            bar(line.gpu_part()),
            line.gpu_text(),
            unaccounted,
            waiting,
            waited_for,
            refused,
            processes,
        ]);
    }
    table
}

/// `[####      ]`.
fn bar(part: Option<f64>) -> String {
    let full = full_cells(part.unwrap_or_default());
    format!("[{:<BAR_CELLS$}]", "#".repeat(full))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::{container, sample};

    /// The same container a second later.
    fn looks(charged_ms: u64, waited_ms: u64) -> (Sample, Sample) {
        let before = sample(vec![container("a", &[7])]);
        let mut now = before.clone();
        now.now_ns += 1_000_000_000;
        let device = &mut now.containers[0].devices[0];
        device.charged_ns_total += charged_ms * 1_000_000;
        device.throttled_ns_total += waited_ms * 1_000_000;
        (before, now)
    }

    #[test]
    fn shares_are_of_the_time_between_two_looks() {
        let (before, now) = looks(250, 600);
        let [line] = &of(Some(&before), &now, Sort::Name)[..] else {
            panic!("one line");
        };
        assert_eq!(
            (line.gpu_percent, line.waiting_percent),
            (Some(25.0), Some(60.0))
        );
        assert_eq!(line.memory_part(), Some(0.5));
        let [first] = &of(None, &now, Sort::Name)[..] else {
            panic!("one line");
        };
        assert_eq!((first.gpu_percent, first.waiting_percent), (None, None));
    }

    /// The container has waited before, for its cap twice as long as because of its window.
    #[test]
    fn what_launches_waited_for_is_of_the_time_between_two_looks() {
        let (before, mut now) = looks(250, 600);
        let device = &mut now.containers[0].devices[0];
        device.throttled_by_share_ns_total += 450_000_000;
        device.throttled_by_window_ns_total += 150_000_000;
        let told = |before| of(before, &now, Sort::Name)[0].waited_for.clone();
        assert_eq!(told(Some(&before)), "share 75 %, window 25 %");
        assert_eq!(told(None), "-", "the first look");
    }

    #[test]
    fn what_is_borrowed_stands_beside_what_is_in_use() {
        let mut sample = sample(vec![container("a", &[7])]);
        let text = |sample: &Sample| of(None, sample, Sort::Name)[0].memory_text();
        assert_eq!(text(&sample), "1 GiB of 2 GiB");
        sample.containers[0].devices[0].memory_bytes_borrowed = 1 << 28;
        assert_eq!(text(&sample), "1 GiB of 2 GiB, 256 MiB lent");
    }

    #[test]
    fn the_most_stands_first_and_equals_by_name() {
        let mut sample = sample(["b", "a", "c"].map(|name| container(name, &[])).into());
        let names = |sample: &Sample, sort| -> String {
            let lines = of(None, sample, sort).into_iter();
            lines.map(|line| line.container).collect()
        };
        assert_eq!(names(&sample, Sort::Memory), "abc");
        sample.containers[2].devices[0].memory_bytes_current += 1;
        sample.containers[0].devices[0].refusals_total += 1;
        assert_eq!(names(&sample, Sort::Memory), "cab");
        assert_eq!(names(&sample, Sort::Refusals), "bac");
        assert_eq!(names(&sample, Sort::Name), "abc");
    }

    #[test]
    fn a_bar_is_empty_only_for_nothing_and_full_only_for_all() {
        let cells = [0.0, 0.001, 0.5, 0.999, 1.0, f64::INFINITY].map(full_cells);
        assert_eq!(cells, [0, 1, 5, 9, 10, 10]);
    }

    #[test]
    fn a_frame_as_text_has_bars_of_plain_letters() {
        let (before, now) = looks(500, 0);
        let mut lines = of(Some(&before), &now, Sort::Name);
        lines[0].gpu_percent_max = None;
        let text = table(&lines).to_string();
        let row = text.lines().nth(1).unwrap();
        assert!(
            row.starts_with(
                "a          GPU-7c6c3c6e  [#####     ]  1 GiB of 2 GiB  [#####     ]  50 % of max"
            ),
            "{row}"
        );
    }
}
