//! `cuda-hook sim`: the simulated machine's own books, which know nothing of any limit.

use std::ffi::OsString;
use std::process::ExitCode;

use gpu_sim::client::{Environment, Machine};
use gpu_sim::clock;
use gpu_sim::command::ProcessUsage;
use gpu_sim::profile::{BUILT_IN, MachineProfile, Profile};
use serde::Serialize;

use crate::failure::Failure;
use crate::output;
use crate::quantity;
use crate::status::short_uuid;
use crate::table::{Align, Table};

/// Version of the JSON form.
const SCHEMA: u32 = 1;

/// The machine at one time.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    /// `CLOCK_MONOTONIC` in ns, which is also the simulated devices' clock.
    now_ns: u64,
    devices: Vec<Device>,
    /// One entry a process and device, ended processes included.
    processes: Vec<Process>,
}

#[derive(Debug, Serialize)]
struct Device {
    uuid: String,
    name: String,
    /// Always true: no figure of this report is a real GPU's.
    simulated: bool,
    compute_capability: String,
    sm_count: u32,
    memory_bytes_total: u64,
    memory_bytes_used: u64,
    /// Time for which kernels occupied the compute engine.
    busy_ns_total: u64,
    /// Time spent switching between processes; part of no process's time.
    switch_ns_total: u64,
}

#[derive(Debug, Serialize)]
struct Process {
    pid: u32,
    start_time_ticks: u64,
    container: String,
    device_uuid: String,
    alive: bool,
    gpu_busy_ns_total: u64,
    copy_busy_ns_total: u64,
    memory_bytes_current: u64,
    memory_bytes_peak: u64,
    kernels_total: u64,
}

/// Prints what the running machine has counted; starts none.
pub(crate) fn status(json: bool) -> Result<ExitCode, Failure> {
    let environment = Environment::from_process();
    let existing = Machine::connect_existing(&environment).map_err(Failure::failed)?;
    let machine = existing.ok_or_else(|| {
        Failure::failed(format_args!(
            "no simulated machine is running in {}; one starts with its first program (cuda-hook run --sim t4 -- PROGRAM) \
             and ends with its last; GPU_SIM_PROFILE and GPU_SIM_DIR say which is meant",
            environment.dir.display()
        ))
    })?;
    let report = report(&machine).map_err(Failure::failed)?;
    if json {
        output::print_json(&report)?;
    } else {
        output::print(text(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the profiles that `--sim` takes by name.
pub(crate) fn profiles() -> Result<ExitCode, Failure> {
    let mut table = Table::new([
        ("PROFILE", Align::Left),
        ("GPU", Align::Left),
        ("MEMORY", Align::Right),
        ("SMS", Align::Right),
        ("COMPUTE CAPABILITY", Align::Right),
    ]);
    for (name, text) in BUILT_IN {
        for device in &MachineProfile::parse(name, text)
            .map_err(Failure::failed)?
            .devices
        {
            table.push([
                (*name).to_owned(),
                device.name.clone(),
                quantity::bytes(device.memory_bytes),
                device.sm_count.to_string(),
                compute_capability(device),
            ]);
        }
    }
    output::print(table)?;
    Ok(ExitCode::SUCCESS)
}

/// The value of `GPU_SIM_PROFILE` for `--sim`: a built-in name, or the absolute path of a file, as programs change
/// their folder.
pub(crate) fn profile_variable(profile: &str) -> Result<OsString, Failure> {
    let is_file = profile.contains('/') || profile.ends_with(".toml");
    MachineProfile::load(profile)
        .map_err(|error| Failure::usage(format_args!("--sim {profile}: {error}")))?;
    if !is_file {
        return Ok(profile.into());
    }
    let path = std::path::absolute(profile);
    path.map(OsString::from)
        .map_err(|error| Failure::usage(format_args!("--sim {profile}: {error}")))
}

fn report(machine: &Machine) -> Result<Report, gpu_sim::client::RequestError> {
    let uuids: Vec<_> = machine.devices().iter().map(Profile::uuid_text).collect();
    let uuid_of = |usage: &ProcessUsage| {
        uuids
            .get(usage.device as usize)
            .cloned()
            .unwrap_or_default()
    };
    let mut devices = Vec::new();
    for (ordinal, profile) in (0..).zip(machine.devices()) {
        let engine = machine.engine_usage(ordinal)?;
        devices.push(Device {
            uuid: profile.uuid_text(),
            name: profile.name.clone(),
            simulated: true,
            compute_capability: compute_capability(profile),
            sm_count: profile.sm_count,
            memory_bytes_total: profile.memory_bytes,
            memory_bytes_used: machine.memory(ordinal)?.used_bytes,
            busy_ns_total: engine.gpu_busy_ns_total,
            switch_ns_total: engine.switch_ns_total,
        });
    }
    let usage = machine.usage()?;
    let processes = usage.iter().map(|usage| Process {
        pid: usage.pid,
        start_time_ticks: usage.start_time_ticks,
        container: usage.container.clone(),
        device_uuid: uuid_of(usage),
        alive: usage.alive,
        gpu_busy_ns_total: usage.gpu_busy_ns_total,
        copy_busy_ns_total: usage.copy_busy_ns_total,
        memory_bytes_current: usage.memory_bytes_current,
        memory_bytes_peak: usage.memory_bytes_peak,
        kernels_total: usage.kernels_total,
    });
    let processes = processes.collect();
    Ok(Report {
        schema: SCHEMA,
        now_ns: clock::monotonic_ns(),
        devices,
        processes,
    })
}

fn compute_capability(profile: &Profile) -> String {
    let (major, minor) = profile.compute_capability;
    format!("{major}.{minor}")
}

fn text(report: &Report) -> String {
    let mut devices = Table::new([
        ("SIMULATED GPU", Align::Left),
        ("UUID", Align::Left),
        ("MEMORY", Align::Right),
        ("OF", Align::Right),
        ("BUSY", Align::Right),
        ("SWITCHING", Align::Right),
    ]);
    for device in &report.devices {
        devices.push([
            device.name.clone(),
            device.uuid.clone(),
            quantity::bytes(device.memory_bytes_used),
            quantity::bytes(device.memory_bytes_total),
            quantity::nanoseconds(device.busy_ns_total),
            quantity::nanoseconds(device.switch_ns_total),
        ]);
    }
    let mut processes = Table::new([
        ("PID", Align::Right),
        ("CONTAINER", Align::Left),
        ("GPU", Align::Left),
        ("STATE", Align::Left),
        ("MEMORY", Align::Right),
        ("PEAK", Align::Right),
        ("BUSY", Align::Right),
        ("KERNELS", Align::Right),
    ]);
    for process in &report.processes {
        processes.push([
            process.pid.to_string(),
            if process.container.is_empty() {
                "-".to_owned()
            } else {
                process.container.clone()
            },
            short_uuid(&process.device_uuid).to_owned(),
            if process.alive { "running" } else { "ended" }.to_owned(),
            quantity::bytes(process.memory_bytes_current),
            quantity::bytes(process.memory_bytes_peak),
            quantity::nanoseconds(process.gpu_busy_ns_total),
            process.kernels_total.to_string(),
        ]);
    }
    if report.processes.is_empty() {
        return format!("{devices}\n\nNo process has used it.");
    }
    format!("{devices}\n\n{processes}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_profile_is_answered_with_the_known_ones() {
        let refused = profile_variable("t5").unwrap_err();
        assert_eq!(refused.exit_status, 2);
        assert!(refused.to_string().contains("a100, h100"), "{refused}");
    }

    #[test]
    fn a_report_names_gpus_and_processes() {
        let uuid = "GPU-7c6c3c6e-0000-0000-0000-000000000000".to_owned();
        let device = Device {
            uuid: uuid.clone(),
            name: "Tesla T4".into(),
            simulated: true,
            compute_capability: "7.5".into(),
            sm_count: 40,
            memory_bytes_total: 15 << 30,
            memory_bytes_used: 1 << 30,
            busy_ns_total: 3_000_000_000,
            switch_ns_total: 0,
        };
        let process = Process {
            pid: 4711,
            start_time_ticks: 1,
            container: String::new(),
            device_uuid: uuid,
            alive: false,
            gpu_busy_ns_total: 1_000_000,
            copy_busy_ns_total: 0,
            memory_bytes_current: 0,
            memory_bytes_peak: 1 << 20,
            kernels_total: 12,
        };
        let mut report = Report {
            schema: SCHEMA,
            now_ns: 1,
            devices: vec![device],
            processes: Vec::new(),
        };
        assert!(text(&report).contains("No process has used it"));
        report.processes.push(process);
        let last = text(&report)
            .lines()
            .last()
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(last, "4711 - GPU-7c6c3c6e ended 0 B 1 MiB 1 ms 12");
    }
}
