//! Why a program is refused, what is on nobody's books, and who escapes: `cuda-hook status --json`.
#![cfg(test)]

use serde_json::{Value, json};
use shim_tests::{MIB, Machine, Tenant, World, artefacts, child};
use std::fs;

const OUT_OF_MEMORY: u64 = 2;

/// What `cuda-hook status --json` says.
fn status(machine: &Machine) -> Value {
    let mut command = machine.command(&World::Bare, &artefacts().command);
    command
        .env("CUDA_HOOK_DIR", machine.hook_dir())
        .args(["status", "--json"]);
    let outcome = child::run(&mut command);
    assert_eq!(outcome.stderr, "");
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

/// Whether `/proc` is of this pid namespace: only then can somebody be found in it by number.
fn proc_is_ours() -> bool {
    fs::read_link("/proc/self").is_ok_and(|own| own.as_os_str() == &*std::process::id().to_string())
}

#[test]
fn a_refusal_says_which_call_asked_how_much_and_what_was_left() {
    let machine = Machine::new();
    let mut tenant = Tenant::with_context(&machine, &World::memory("one", "600MiB"));
    assert_eq!(tenant.alloc("held", "cuMemAlloc_v2", 200 * MIB), 0);
    let (free_bytes, _) = tenant.memory_info();
    for bytes in [900 * MIB, 800 * MIB] {
        assert_eq!(tenant.alloc("more", "cuMemAlloc_v2", bytes), OUT_OF_MEMORY);
    }
    assert_eq!(
        tenant.alloc("more", "cuMemAllocManaged", 700 * MIB),
        OUT_OF_MEMORY
    );
    let calls = json!([
        { "call": "cuMemAlloc_v2", "count": 2 },
        { "call": "cuMemAllocManaged", "count": 1 },
    ]);
    let status_now = status(&machine);
    let container = &status_now["containers"][0];
    let process = &container["processes"][0];
    for told in [container, process] {
        assert_eq!(told["refusals"], calls);
        let last = &told["last_refusal"];
        assert_eq!(last["call"], "cuMemAllocManaged");
        assert_eq!(last["memory_bytes_asked"], 700 * MIB);
        assert_eq!(last["memory_bytes_max"], 600 * MIB);
        assert_eq!(last["memory_bytes_left"], free_bytes);
        assert!(last["at_ns"].as_u64() <= status_now["now_ns"].as_u64());
    }
    assert_eq!(container["devices"][0]["refusals_total"], 3);
    assert_eq!(
        process["devices"][0]["memory_bytes_peak"],
        container["devices"][0]["memory_bytes_peak"]
    );
    assert!(tenant.end().status.success());
    let container = &status(&machine)["containers"][0];
    assert_eq!(container["refusals"], calls, "of the dead, too");
}

#[test]
fn what_the_device_holds_beyond_the_books_is_unaccounted() {
    let machine = Machine::new();
    // Without a memory quota contexts are not charged: they are what is on nobody's books.
    let mut tenant = Tenant::with_context(&machine, &World::sm("one", "50"));
    assert_eq!(tenant.alloc("held", "cuMemAlloc_v2", 64 * MIB), 0);
    let truth = machine.truth_of(tenant.pid()).memory_bytes;
    assert!(truth > 64 * MIB, "a context takes something");
    let container = &status(&machine)["containers"][0];
    for told in [container, &container["processes"][0]] {
        let device = &told["devices"][0];
        assert_eq!(device["memory_bytes_current"], 64 * MIB);
        assert_eq!(device["memory_bytes_listed"], truth, "{device}");
        assert_eq!(device["memory_bytes_unaccounted"], truth - 64 * MIB);
    }
}

#[test]
fn a_process_beside_the_limits_is_found_in_its_containers_cgroup() {
    let machine = Machine::new();
    let _limited = Tenant::with_context(&machine, &World::memory("one", "600MiB"));
    assert_eq!(status(&machine)["processes_without_slot"], json!([]));
    let mut escaped = Tenant::with_context(&machine, &World::Bare);
    assert_eq!(escaped.alloc("held", "cuMemAlloc_v2", 64 * MIB), 0);
    let told = &status(&machine)["processes_without_slot"];
    if !proc_is_ours() {
        assert_eq!(*told, json!([]), "nobody is named by another's number");
        return;
    }
    let [process] = &told.as_array().expect("a list")[..] else {
        panic!("one process: {told}");
    };
    assert_eq!(process["pid"], escaped.pid());
    assert_eq!(process["container"], "one");
    let truth = machine.truth_of(escaped.pid()).memory_bytes;
    assert_eq!(process["memory_bytes_listed"], truth);
}

/// A line a second at most: a thousand refusals take less than a thousand seconds.
#[test]
fn refusals_are_logged_at_a_limited_rate() {
    let machine = Machine::new();
    let mut command = machine.command(
        &World::memory("one", "600MiB"),
        shim_tests::program("tenant", shim_tests::Door::Linked),
    );
    command.env("CUDA_HOOK_LOG", "info").arg("linked");
    let mut tenant = Tenant::spawn(&mut command);
    assert_eq!(tenant.status("context"), 0);
    for _ in 0..1000 {
        assert_eq!(
            tenant.alloc("more", "cuMemAlloc_v2", 800 * MIB),
            OUT_OF_MEMORY
        );
    }
    let outcome = tenant.end();
    let lines = outcome.stderr.lines();
    let told = lines.filter(|line| line.contains("refused cuMemAlloc_v2: 800MiB asked"));
    let count = told.count();
    assert!((1..500).contains(&count), "{count} lines");
}
