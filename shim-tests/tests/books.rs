//! The device's own books, as `cuda-hook sim` prints them.
#![cfg(test)]

use serde_json::Value;
use shim_tests::child::{DEADLINE, Running};
use shim_tests::{Door, MIB, Machine, Tenant, World, artefacts, child, program};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const HELD_BYTES: u64 = 64 * MIB;
const LAUNCHES: u64 = 50;

fn sim(machine: &Machine, arguments: &[&str]) -> Command {
    let mut command = machine.command(&World::Bare, &artefacts().command);
    command.arg("sim").args(arguments);
    command
}

/// A tenant of a container with memory and kernels.
fn tenant(machine: &Machine, container: &str) -> Tenant {
    let mut command = machine.command(&World::Bare, program("tenant", Door::Linked));
    command.env("CUDA_HOOK_CONTAINER", container).arg("linked");
    let mut tenant = Tenant::spawn(&mut command);
    assert_eq!(tenant.status("context"), 0);
    assert_eq!(tenant.alloc("held", "cuMemAlloc_v2", HELD_BYTES), 0);
    assert_eq!(tenant.status("kernel 1000"), 0);
    assert_eq!(tenant.status(&format!("launch kernel {LAUNCHES}")), 0);
    tenant
}

/// The lines of JSON that are complete.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("what was printed");
    let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let line = |line: &str| serde_json::from_str(line).expect("a line is JSON");
    complete.lines().map(line).collect()
}

/// A container's entry of a report.
fn container<'a>(report: &'a Value, name: &str) -> Option<&'a Value> {
    let containers = report["containers"].as_array().expect("a list");
    containers.iter().find(|entry| entry["container"] == name)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn the_books_are_printed_over_time_until_the_machine_ends() {
    let machine = Machine::new();
    let path = machine.path("books.jsonl");
    let mut command = sim(&machine, &["watch", "--wait", "--json", "--every", "5ms"]);
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let watch = Running::start_talking(command.stdout(File::create(&path).expect("a file")));

    let (first, second) = (tenant(&machine, "first"), tenant(&machine, "second"));
    first.kill();
    until("the first is torn down", || {
        let lines = lines(&path);
        let report = lines.last().and_then(|report| container(report, "first"));
        report.is_some_and(|first| {
            first["memory_bytes_current"] == 0 && first["processes_alive"] == 0
        })
    });
    assert!(second.end().status.success());
    let outcome = watch.wait(DEADLINE);
    assert!(
        outcome.status.success() && outcome.stderr.is_empty(),
        "{outcome:?}"
    );

    let reports = lines(&path);
    let last = reports.last().expect("a line");
    for name in ["first", "second"] {
        let entry = container(last, name).expect("a container stays in the books");
        assert_eq!(entry["kernels_total"], LAUNCHES, "{entry}");
        assert_eq!(entry["processes_total"], 1, "{entry}");
        assert!(
            entry["memory_bytes_peak"].as_u64() > Some(HELD_BYTES),
            "{entry}"
        );
        let busy = reports
            .iter()
            .filter_map(|report| container(report, name)?["gpu_busy_ns_total"].as_u64());
        assert!(busy.is_sorted(), "{name}'s time fell");
    }
    let times = reports.iter().map(|report| report["now_ns"].as_u64());
    assert!(times.is_sorted());
}

#[test]
fn one_look_has_devices_containers_and_processes_in_the_same_form() {
    let machine = Machine::with_profile("2xt4");
    let mut tenant = tenant(&machine, "looked-at");
    let report = child::run(&mut sim(&machine, &["status", "--json"]));
    let report: Value = serde_json::from_str(&report.lines().join("\n")).expect("JSON");
    assert_eq!(report["schema"], 1);
    let uuids = machine.device_uuids();
    for (device, uuid) in report["devices"]
        .as_array()
        .expect("a list")
        .iter()
        .zip(&uuids)
    {
        assert_eq!(device["uuid"], *uuid);
        assert_eq!(device["simulated"], true);
    }
    let entry = container(&report, "looked-at").expect("the tenant's container");
    assert_eq!(entry["device_uuid"], uuids[0]);
    let [process] = &report["processes"].as_array().expect("a list")[..] else {
        panic!("one process: {report}");
    };
    assert_eq!(process["pid"], tenant.pid());
    let shared = [
        "device_uuid",
        "gpu_busy_ns_total",
        "gpu_wait_ns_total",
        "copy_busy_ns_total",
        "memory_bytes_current",
        "memory_bytes_peak",
        "kernels_total",
        "h2d_bytes_total",
        "d2h_bytes_total",
        "d2d_bytes_total",
    ];
    for field in shared {
        assert!(
            !entry[field].is_null() && entry[field] == process[field],
            "{field}: {report}"
        );
    }
    assert_eq!(
        tenant.free_bytes()
            + report["devices"][0]["memory_bytes_used"]
                .as_u64()
                .expect("bytes"),
        machine.memory_bytes()
    );
}

#[test]
fn without_a_machine_there_is_nothing_to_watch() {
    let machine = Machine::new();
    let outcome = child::run(&mut sim(&machine, &["watch"]));
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(
        outcome.stderr.contains("no simulated machine is running"),
        "{outcome:?}"
    );
    assert!(!machine.sim_dir().exists());
}
