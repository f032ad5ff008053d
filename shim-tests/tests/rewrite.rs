//! A config file that is rewritten while programs run.
#![cfg(test)]

use shim_tests::child::DEADLINE;
use shim_tests::{MIB, Machine, Tenant, World};
use std::fs;
use std::time::Instant;

const OUT_OF_MEMORY: u64 = 2;

/// The container `one`, limited by a file.
fn world(machine: &Machine, limits: &str) -> World {
    rewrite(machine, limits);
    let path = machine.path("config.toml");
    let path = path.to_str().expect("a path in text");
    World::limited([("CUDA_HOOK_CONFIG", path), ("CUDA_HOOK_CONTAINER", "one")])
}

/// Puts another file in the place of the one that is there, as whoever changes it should.
fn rewrite(machine: &Machine, limits: &str) {
    let new = machine.path("config.toml.new");
    fs::write(&new, format!("[limits]\n{limits}\n")).expect("a config file");
    fs::rename(new, machine.path("config.toml")).expect("it can be moved");
}

/// Asks until the program sees so much memory in all.
#[track_caller]
fn until_total(tenant: &mut Tenant, bytes: u64) {
    let start = Instant::now();
    while tenant.memory_info().1 != bytes {
        assert!(start.elapsed() < DEADLINE, "{:?}", tenant.memory_info());
    }
}

#[test]
fn a_running_program_gets_more_memory_and_less() {
    let machine = Machine::new();
    let mut tenant = Tenant::with_context(&machine, &world(&machine, "memory = \"600MiB\""));
    assert_eq!(tenant.alloc("held", "cuMemAlloc_v2", 200 * MIB), 0);
    let (free_bytes, _) = tenant.memory_info();
    rewrite(&machine, "memory = \"1600MiB\"");
    until_total(&mut tenant, 1600 * MIB);
    assert_eq!(tenant.memory_info().0, free_bytes + 1000 * MIB);
    assert_eq!(tenant.alloc("more", "cuMemAlloc_v2", 800 * MIB), 0);
    rewrite(&machine, "memory = \"500MiB\"");
    until_total(&mut tenant, 500 * MIB);
    assert_eq!(tenant.alloc("last", "cuMemAlloc_v2", 1), OUT_OF_MEMORY);
    assert_eq!(tenant.status("free more"), 0, "what it holds is its own");
    assert_eq!(tenant.alloc("last", "cuMemAlloc_v2", 1), 0);
    assert_eq!(tenant.end().stderr, "");
}

/// Three seconds of GPU time take five minutes at 1 %: longer than the test waits.
#[test]
fn launches_that_wait_are_freed_by_a_greater_share() {
    let machine = Machine::new();
    let mut tenant = Tenant::with_context(&machine, &world(&machine, "sm = 100"));
    assert_eq!(tenant.status("kernel 20000"), 0);
    let kernel_ns = tenant.numbers("measure")[1];
    rewrite(&machine, "memory = \"1GiB\"\nsm = 1");
    until_total(&mut tenant, 1024 * MIB);
    tenant.tell(&format!("launch kernel {}", 3_000_000_000 / kernel_ns));
    rewrite(&machine, "sm = 100");
    assert_eq!(tenant.hear(), "0");
}

#[test]
fn a_file_that_cannot_be_obeyed_is_told_once_and_leaves_the_limits() {
    let machine = Machine::new();
    let mut tenant = Tenant::with_context(&machine, &world(&machine, "memory = \"600MiB\""));
    rewrite(&machine, "memory = \"much\"");
    let start = Instant::now();
    // It is noticed at some time; the next file after it is, too.
    while start.elapsed().as_millis() < 200 {
        assert_eq!(tenant.memory_info().1, 600 * MIB);
    }
    rewrite(&machine, "memory = \"700MiB\"");
    until_total(&mut tenant, 700 * MIB);
    let stderr = tenant.end().stderr;
    let lines: Vec<&str> = stderr.lines().collect();
    let [line] = lines[..] else {
        panic!("one line: {stderr}");
    };
    for part in [
        "config.toml:2",
        "limits.memory = \"much\"",
        "stay as they were",
    ] {
        assert!(line.contains(part), "{line}");
    }
}
