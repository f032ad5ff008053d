//! `cuda-hook status`: what every container may use, uses, waited for, and was refused.

use std::path::Path;
use std::process::ExitCode;

use limiter::sample::{self, BoardSample, ContainerSample, DeviceSample, Sample};

use crate::args::StatusArgs;
use crate::failure::Failure;
use crate::listed::Lists;
use crate::notes;
use crate::output;
use crate::quantity;
use crate::settings;
use crate::table::{Align, Table};

/// Process ids shown of one container; the rest is counted.
const PIDS_SHOWN_MAX: usize = 4;

/// Reads the state folder and prints it.
pub(crate) fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let folder = settings::of(&settings::environment())
        .map_err(Failure::failed)?
        .dir;
    let sample = sample_of(&folder, &mut Lists::default())?;
    for entry in &sample.skipped {
        output::complain(format_args!("warning: {entry}"));
    }
    if args.json {
        output::print_json(&sample)?;
    } else {
        output::print(text(sample, &folder))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the ledgers in `folder` say, beside what the GPUs' driver lists.
pub(crate) fn sample_of(folder: &Path, lists: &mut Lists) -> Result<Sample, Failure> {
    let sample = sample::read(folder, limiter::clock::monotonic());
    let mut sample = sample.map_err(|error| {
        Failure::failed(format_args!(
            "{}: {error}; CUDA_HOOK_DIR names another folder",
            folder.display()
        ))
    })?;
    lists.explain(&mut sample);
    Ok(sample)
}

fn text(mut sample: Sample, folder: &Path) -> String {
    if sample.containers.is_empty() {
        return format!(
            "No container in {}: no program has run under limits here. CUDA_HOOK_DIR names another folder.",
            folder.display()
        );
    }
    sample
        .containers
        .sort_by(|a, b| a.container.cmp(&b.container));
    let mut table = Table::new([
        ("CONTAINER", Align::Left),
        ("GPU", Align::Left),
        ("MEMORY", Align::Right),
        ("PEAK", Align::Right),
        ("QUOTA", Align::Right),
        ("SOFT", Align::Right),
        ("SPILLED", Align::Right),
        ("UNACCOUNTED", Align::Right),
        ("REFUSED", Align::Right),
        ("SM", Align::Right),
        ("SM MAX", Align::Right),
        ("GPU TIME", Align::Right),
        ("WAITED", Align::Right),
        ("WAITS", Align::Right),
        ("WAITED FOR", Align::Left),
        ("PROCESSES", Align::Left),
    ]);
    for container in &mut sample.containers {
        container
            .devices
            .sort_by(|a, b| a.device_uuid.cmp(&b.device_uuid));
        for device in &container.devices {
            table.push(row(container, device));
        }
    }
    let lines = [table.to_string()]
        .into_iter()
        .chain(notes::of(&sample))
        .chain(sample.boards.iter().map(context_cost));
    lines.collect::<Vec<_>>().join("\n")
}

/// What a context takes of a GPU, as a line.
pub(crate) fn context_cost(board: &BoardSample) -> String {
    let (major, minor) = (board.cuda_version / 1000, board.cuda_version % 1000 / 10);
    format!(
        "A context takes {} of {}, as measured (CUDA {major}.{minor}).",
        quantity::bytes(board.context_bytes),
        short_uuid(&board.device_uuid),
    )
}

fn row(container: &ContainerSample, device: &DeviceSample) -> [String; 16] {
    let percent = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), quantity::percent);
    [
        container.container.clone(),
        short_uuid(&device.device_uuid).to_owned(),
        quantity::bytes(device.memory_bytes_current),
        quantity::bytes(device.memory_bytes_peak),
        device
            .memory_bytes_max
            .map_or_else(|| "max".to_owned(), quantity::bytes),
        device
            .memory_bytes_soft
            .map_or_else(|| "all".to_owned(), quantity::bytes),
        quantity::bytes(device.memory_bytes_spilled),
        device
            .memory_bytes_unaccounted
            .map_or_else(|| "?".to_owned(), quantity::bytes),
        device.refusals_total.to_string(),
        percent(device.sm_percent),
        percent(device.sm_percent_max),
        quantity::nanoseconds(device.charged_ns_total),
        quantity::nanoseconds(device.throttled_ns_total),
        device.throttled_count_total.to_string(),
        waited_for(device),
        processes(container),
    ]
}

/// What was in the way of launches, in percent of the time for which they waited; `-`: nothing was.
pub(crate) fn waited_for(device: &DeviceSample) -> String {
    let parts = [
        ("cap", device.throttled_by_cap_ns_total),
        ("share", device.throttled_by_share_ns_total),
        ("window", device.throttled_by_window_ns_total),
    ];
    let percent = |ns: u64| {
        let hundredfold = u128::from(ns).saturating_mul(100);
        hundredfold.checked_div(u128::from(device.throttled_ns_total))
    };
    let told = parts.iter().filter_map(|(what, ns)| match percent(*ns) {
        None | Some(0) => None,
        Some(percent) => Some(format!("{what} {percent} %")),
    });
    match told.collect::<Vec<_>>() {
        told if told.is_empty() => "-".to_owned(),
        told => told.join(", "),
    }
}

/// The first group of a UUID: as `nvidia-smi -L` and `CUDA_VISIBLE_DEVICES` allow it to be shortened.
pub(crate) fn short_uuid(uuid: &str) -> &str {
    uuid.match_indices('-')
        .nth(1)
        .map_or(uuid, |(end, _)| uuid.get(..end).unwrap_or(uuid))
}

pub(crate) fn processes(container: &ContainerSample) -> String {
    let mut pids: Vec<_> = container
        .processes
        .iter()
        .map(|process| process.pid)
        .collect();
    pids.sort_unstable();
    let shown: Vec<_> = pids
        .iter()
        .take(PIDS_SHOWN_MAX)
        .map(u32::to_string)
        .collect();
    match pids.len().saturating_sub(PIDS_SHOWN_MAX) {
        0 if pids.is_empty() => "all ended".to_owned(),
        0 => shown.join(" "),
        rest => format!("{} +{rest}", shown.join(" ")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use limiter::sample::ProcessSample;

    use super::*;

    pub(crate) fn container(name: &str, pids: &[u32]) -> ContainerSample {
        let device = DeviceSample {
            device_uuid: "GPU-7c6c3c6e-0000-0000-0000-000000000000".into(),
            memory_bytes_current: 1 << 30,
            memory_bytes_peak: 3 << 29,
            memory_bytes_max: Some(2 << 30),
            memory_bytes_soft: Some(3 << 29),
            memory_bytes_borrowed: 0,
            memory_bytes_spilled: 0,
            memory_bytes_listed: Some(5 << 28),
            memory_bytes_unaccounted: Some(1 << 28),
            refusals_total: 4,
            sm_percent: Some(30.0),
            sm_percent_max: None,
            charged_ns_total: 2_000_000_000,
            launches_total: 7,
            throttled_ns_total: 1_500_000,
            throttled_count_total: 3,
            throttled_by_cap_ns_total: 1_000_000,
            throttled_by_share_ns_total: 0,
            throttled_by_window_ns_total: 500_000,
        };
        let process = |pid: &u32| ProcessSample {
            pid: *pid,
            start_time_ticks: 0,
            pid_namespace: 0,
            devices: Vec::new(),
            refusals: Vec::new(),
            last_refusal: None,
        };
        ContainerSample {
            container: name.into(),
            devices: vec![device],
            processes: pids.iter().map(process).collect(),
            refusals: Vec::new(),
            last_refusal: None,
        }
    }

    pub(crate) fn sample(containers: Vec<ContainerSample>) -> Sample {
        Sample {
            schema: sample::SCHEMA,
            now_ns: 10_000_000_000,
            containers,
            processes_without_slot: Vec::new(),
            boards: vec![BoardSample {
                device_uuid: "GPU-7c6c3c6e-0000-0000-0000-000000000000".into(),
                context_bytes: 104 << 20,
                cuda_version: 12_020,
            }],
            gpus: Vec::new(),
            skipped: Vec::new(),
        }
    }

    #[test]
    fn containers_stand_by_name_whatever_the_order_they_were_read_in() {
        let text = text(
            sample(vec![container("b", &[2, 1]), container("a", &[])]),
            Path::new("/state"),
        );
        let rows: Vec<Vec<_>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(
            rows[1],
            [
                "a",
                "GPU-7c6c3c6e",
                "1 GiB",
                "1.5 GiB",
                "2 GiB",
                "1.5 GiB",
                "0 B",
                "256 MiB",
                "4",
                "30 %",
                "-",
                "2 s",
                "1.5 ms",
                "3",
                "cap 66 %, window 33 %",
                "all ended"
            ]
        );
        assert_eq!(rows[2][0], "b");
        assert_eq!(rows[2][15], "1 2");
    }

    #[test]
    fn what_a_context_takes_stands_below() {
        let text = text(sample(vec![container("a", &[])]), Path::new("/state"));
        let last = text.lines().last();
        let wanted = "A context takes 104 MiB of GPU-7c6c3c6e, as measured (CUDA 12.2).";
        assert_eq!(last, Some(wanted), "{text}");
    }

    #[test]
    fn an_empty_folder_is_said_to_be_empty() {
        assert!(
            text(sample(Vec::new()), Path::new("/state")).starts_with("No container in /state")
        );
    }

    #[test]
    fn many_processes_are_counted() {
        assert_eq!(
            processes(&container("a", &[1, 2, 3, 4, 5, 6])),
            "1 2 3 4 +2"
        );
    }
}
