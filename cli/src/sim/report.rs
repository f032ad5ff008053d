//! The machine's books at one time, as JSON and as tables.

use gpu_sim::client::{Machine, RequestError};
use gpu_sim::clock;
use gpu_sim::command::{ContainerUsage, CopiedBytes, ProcessUsage};
use gpu_sim::profile::Profile;
use serde::Serialize;

use crate::quantity;
use crate::status::short_uuid;
use crate::table::{Align, Table};

/// Version of the JSON form, which gpu-sim/README.md describes.
const SCHEMA: u32 = 1;

/// The machine at one time. Totals count from the machine's start and never fall.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema: u32,
    /// `CLOCK_MONOTONIC` in ns, which is also the simulated devices' clock.
    pub(super) now_ns: u64,
    pub(super) devices: Vec<Device>,
    /// One entry a container and device that it used, ended processes included.
    pub(super) containers: Vec<Container>,
    /// One entry a process and device that it used, the last 1024 ended processes included.
    processes: Vec<Process>,
}

#[derive(Debug, Serialize)]
pub(super) struct Device {
    pub(super) uuid: String,
    name: String,
    /// Always true: no figure of this report is a real GPU's.
    simulated: bool,
    compute_capability: String,
    sm_count: u32,
    memory_bytes_total: u64,
    memory_bytes_used: u64,
    /// Time for which kernels occupied the compute engine.
    pub(super) busy_ns_total: u64,
    /// Time spent switching between processes; part of no process's time.
    switch_ns_total: u64,
    switches_preemptive_total: u64,
    switches_voluntary_total: u64,
    h2d_busy_ns_total: u64,
    d2h_busy_ns_total: u64,
    #[serde(flatten)]
    copied: CopiedBytes,
}

/// What a container did on a device.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Container {
    pub(super) container: String,
    pub(super) device_uuid: String,
    pub(super) processes_alive: u32,
    processes_total: u64,
    pub(super) memory_bytes_current: u64,
    memory_bytes_peak: u64,
    pub(super) gpu_busy_ns_total: u64,
    pub(super) gpu_wait_ns_total: u64,
    copy_busy_ns_total: u64,
    pub(super) kernels_total: u64,
    #[serde(flatten)]
    pub(super) copied: CopiedBytes,
}

#[derive(Debug, Serialize)]
struct Process {
    pid: u32,
    start_time_ticks: u64,
    container: String,
    device_uuid: String,
    alive: bool,
    contexts: u32,
    gpu_busy_ns_total: u64,
    gpu_wait_ns_total: u64,
    copy_busy_ns_total: u64,
    memory_bytes_current: u64,
    memory_bytes_peak: u64,
    kernels_total: u64,
    #[serde(flatten)]
    copied: CopiedBytes,
}

impl Report {
    pub(super) fn of(machine: &Machine) -> Result<Self, RequestError> {
        let uuids: Vec<_> = machine.devices().iter().map(Profile::uuid_text).collect();
        let devices = (0..).zip(machine.devices());
        let devices = devices.map(|(ordinal, profile)| Device::of(machine, ordinal, profile));
        let containers = machine.containers()?.into_iter();
        let processes = machine.usage()?.into_iter();
        Ok(Self {
            schema: SCHEMA,
            now_ns: clock::monotonic_ns(),
            devices: devices.collect::<Result<_, _>>()?,
            containers: containers
                .map(|usage| Container::of(usage, &uuids))
                .collect(),
            processes: processes.map(|usage| Process::of(usage, &uuids)).collect(),
        })
    }
}

impl Device {
    fn of(machine: &Machine, ordinal: u32, profile: &Profile) -> Result<Self, RequestError> {
        let engine = machine.engine_usage(ordinal)?;
        Ok(Self {
            uuid: profile.uuid_text(),
            name: profile.name.clone(),
            simulated: true,
            compute_capability: compute_capability(profile),
            sm_count: profile.sm_count,
            memory_bytes_total: profile.memory_bytes,
            memory_bytes_used: machine.memory(ordinal)?.used_bytes,
            busy_ns_total: engine.gpu_busy_ns_total,
            switch_ns_total: engine.switch_ns_total,
            switches_preemptive_total: engine.switches_preemptive_total,
            switches_voluntary_total: engine.switches_voluntary_total,
            h2d_busy_ns_total: engine.h2d_busy_ns_total,
            d2h_busy_ns_total: engine.d2h_busy_ns_total,
            copied: engine.copied,
        })
    }
}

impl Container {
    fn of(usage: ContainerUsage, uuids: &[String]) -> Self {
        Self {
            container: usage.container,
            device_uuid: uuid(uuids, usage.device),
            processes_alive: usage.processes_alive,
            processes_total: usage.processes_total,
            memory_bytes_current: usage.memory_bytes_current,
            memory_bytes_peak: usage.memory_bytes_peak,
            gpu_busy_ns_total: usage.gpu_busy_ns_total,
            gpu_wait_ns_total: usage.gpu_wait_ns_total,
            copy_busy_ns_total: usage.copy_busy_ns_total,
            kernels_total: usage.kernels_total,
            copied: usage.copied,
        }
    }
}

impl Process {
    fn of(usage: ProcessUsage, uuids: &[String]) -> Self {
        Self {
            pid: usage.pid,
            start_time_ticks: usage.start_time_ticks,
            container: usage.container,
            device_uuid: uuid(uuids, usage.device),
            alive: usage.alive,
            contexts: usage.contexts,
            gpu_busy_ns_total: usage.gpu_busy_ns_total,
            gpu_wait_ns_total: usage.gpu_wait_ns_total,
            copy_busy_ns_total: usage.copy_busy_ns_total,
            memory_bytes_current: usage.memory_bytes_current,
            memory_bytes_peak: usage.memory_bytes_peak,
            kernels_total: usage.kernels_total,
            copied: usage.copied,
        }
    }
}

fn uuid(uuids: &[String], device: u32) -> String {
    uuids.get(device as usize).cloned().unwrap_or_default()
}

pub(super) fn compute_capability(profile: &Profile) -> String {
    let (major, minor) = profile.compute_capability;
    format!("{major}.{minor}")
}

/// A name for a table: processes outside any container have none.
pub(super) fn shown(container: &str) -> String {
    if container.is_empty() { "-" } else { container }.to_owned()
}

/// The books as tables; those of ended processes are in their containers' rows.
pub(super) fn text(report: &Report) -> String {
    let devices = devices(report);
    if report.containers.is_empty() {
        return format!("{devices}\n\nNo process has used it.");
    }
    format!(
        "{devices}\n\n{}\n\n{}",
        containers(report),
        processes(report)
    )
}

fn devices(report: &Report) -> Table<6> {
    let mut table = Table::new([
        ("SIMULATED GPU", Align::Left),
        ("UUID", Align::Left),
        ("MEMORY", Align::Right),
        ("OF", Align::Right),
        ("BUSY", Align::Right),
        ("SWITCHING", Align::Right),
    ]);
    for device in &report.devices {
        table.push([
            device.name.clone(),
            device.uuid.clone(),
            quantity::bytes(device.memory_bytes_used),
            quantity::bytes(device.memory_bytes_total),
            quantity::nanoseconds(device.busy_ns_total),
            quantity::nanoseconds(device.switch_ns_total),
        ]);
    }
    table
}

fn containers(report: &Report) -> Table<9> {
    let mut table = Table::new([
        ("CONTAINER", Align::Left),
        ("GPU", Align::Left),
        ("PROCESSES", Align::Right),
        ("MEMORY", Align::Right),
        ("PEAK", Align::Right),
        ("BUSY", Align::Right),
        ("WAITED", Align::Right),
        ("COPIED", Align::Right),
        ("KERNELS", Align::Right),
    ]);
    for row in &report.containers {
        let copied = row.copied;
        let over_bus = copied
            .h2d_bytes_total
            .saturating_add(copied.d2h_bytes_total);
        table.push([
            shown(&row.container),
            short_uuid(&row.device_uuid).to_owned(),
            format!("{} of {}", row.processes_alive, row.processes_total),
            quantity::bytes(row.memory_bytes_current),
            quantity::bytes(row.memory_bytes_peak),
            quantity::nanoseconds(row.gpu_busy_ns_total),
            quantity::nanoseconds(row.gpu_wait_ns_total),
            quantity::bytes(over_bus.saturating_add(copied.d2d_bytes_total)),
            row.kernels_total.to_string(),
        ]);
    }
    table
}

fn processes(report: &Report) -> Table<9> {
    let mut table = Table::new([
        ("PID", Align::Right),
        ("CONTAINER", Align::Left),
        ("GPU", Align::Left),
        ("STATE", Align::Left),
        ("MEMORY", Align::Right),
        ("PEAK", Align::Right),
        ("BUSY", Align::Right),
        ("WAITED", Align::Right),
        ("KERNELS", Align::Right),
    ]);
    for process in &report.processes {
        table.push([
            process.pid.to_string(),
            shown(&process.container),
            short_uuid(&process.device_uuid).to_owned(),
            if process.alive { "running" } else { "ended" }.to_owned(),
            quantity::bytes(process.memory_bytes_current),
            quantity::bytes(process.memory_bytes_peak),
            quantity::nanoseconds(process.gpu_busy_ns_total),
            quantity::nanoseconds(process.gpu_wait_ns_total),
            process.kernels_total.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const UUID: &str = "GPU-7c6c3c6e-0000-0000-0000-000000000000";

    fn device() -> Device {
        Device {
            uuid: UUID.into(),
            name: "Tesla T4".into(),
            simulated: true,
            compute_capability: "7.5".into(),
            sm_count: 40,
            memory_bytes_total: 15 << 30,
            memory_bytes_used: 1 << 30,
            busy_ns_total: 3_000_000_000,
            switch_ns_total: 0,
            switches_preemptive_total: 0,
            switches_voluntary_total: 0,
            h2d_busy_ns_total: 0,
            d2h_busy_ns_total: 0,
            copied: CopiedBytes::default(),
        }
    }

    fn ended() -> ProcessUsage {
        ProcessUsage {
            pid: 4711,
            start_time_ticks: 1,
            container: String::new(),
            device: 0,
            alive: false,
            contexts: 0,
            context_begun_ns: 1,
            context_ns_total: 4_000_000,
            memory_bytes_current: 0,
            memory_bytes_peak: 1 << 20,
            gpu_busy_ns_total: 1_000_000,
            gpu_wait_ns_total: 2_000_000,
            copy_busy_ns_total: 0,
            kernels_total: 12,
            copied: CopiedBytes {
                h2d_bytes_total: 1 << 20,
                d2h_bytes_total: 2 << 20,
                d2d_bytes_total: 4 << 20,
            },
        }
    }

    /// A T4 whose one container's totals are these.
    pub(in super::super) fn report(now_ns: u64, busy_ns: u64, waits_ns: u64) -> Report {
        let container = Container {
            container: "a".into(),
            device_uuid: UUID.into(),
            gpu_busy_ns_total: busy_ns,
            gpu_wait_ns_total: waits_ns,
            ..Container::default()
        };
        Report {
            schema: SCHEMA,
            now_ns,
            devices: vec![device()],
            containers: vec![container],
            processes: Vec::new(),
        }
    }

    fn words(line: &str) -> String {
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_report_names_gpus_containers_and_processes() {
        let mut report = report(1, 0, 0);
        report.containers.clear();
        assert!(text(&report).contains("No process has used it"));
        let mut sum = ContainerUsage::default();
        sum.add(&ended());
        let uuids = [UUID.to_owned()];
        report.containers.push(Container::of(sum, &uuids));
        report.processes.push(Process::of(ended(), &uuids));
        let text = text(&report);
        let lines: Vec<_> = text.lines().map(words).collect();
        assert_eq!(lines[4], "- GPU-7c6c3c6e 0 of 1 0 B 0 B 1 ms 2 ms 7 MiB 12");
        assert_eq!(lines[7], "4711 - GPU-7c6c3c6e ended 0 B 1 MiB 1 ms 2 ms 12");
    }

    #[test]
    fn the_json_has_the_directions_of_copies_beside_the_other_figures() {
        let json = serde_json::to_value(Process::of(ended(), &[])).unwrap();
        assert_eq!(json["h2d_bytes_total"], 1 << 20);
        assert_eq!(json["d2h_bytes_total"], 2 << 20);
        assert_eq!(json["gpu_wait_ns_total"], 2_000_000);
    }
}
