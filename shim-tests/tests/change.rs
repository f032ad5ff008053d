//! Limits that change while programs run: `cuda-hook set`.
#![cfg(test)]

use shim_tests::child::run;
use shim_tests::{MIB, Machine, Outcome, Tenant, World, artefacts};

const OUT_OF_MEMORY: u64 = 2;

/// How far above its cap a share may be, in points.
const OVER_POINTS_MAX: f64 = 3.0;

/// Changes the limits of the container `one`.
fn set(machine: &Machine, options: &[&str]) -> Outcome {
    let mut command = machine.command(&World::memory("another", "1"), &artefacts().command);
    let outcome = run(command.args(["set", "one"]).args(options));
    assert!(outcome.status.success(), "{outcome:?}");
    outcome
}

#[test]
fn a_running_program_gets_more_memory_and_less() {
    let machine = Machine::new();
    let mut tenant = Tenant::with_context(&machine, &World::memory("one", "600MiB"));
    assert_eq!(tenant.alloc("held", "cuMemAlloc_v2", 200 * MIB), 0);
    assert_eq!(
        tenant.alloc("more", "cuMemAlloc_v2", 800 * MIB),
        OUT_OF_MEMORY
    );
    let (free_bytes, _) = tenant.memory_info();

    set(&machine, &["--memory", "1600MiB"]);
    assert_eq!(tenant.memory_info(), (free_bytes + 1000 * MIB, 1600 * MIB));
    assert_eq!(tenant.alloc("more", "cuMemAlloc_v2", 800 * MIB), 0);

    let outcome = set(&machine, &["--memory", "500MiB"]);
    assert!(outcome.stderr.contains("500 MiB allowed"), "{outcome:?}");
    assert_eq!(tenant.memory_info(), (0, 500 * MIB));
    assert_eq!(tenant.alloc("last", "cuMemAlloc_v2", 1), OUT_OF_MEMORY);
    assert_eq!(tenant.status("free more"), 0, "what it holds is its own");
    assert_eq!(tenant.alloc("last", "cuMemAlloc_v2", 1), 0);
}

/// A tenant of the container `one`, which may use all of the GPU, and how often it launches its kernel to use `gpu_ns`.
fn tenant(machine: &Machine, gpu_ns: u64) -> (Tenant, String) {
    let mut tenant = Tenant::with_context(machine, &World::sm("one", "100"));
    assert_eq!(tenant.status("kernel 20000"), 0);
    let kernel_ns = tenant.numbers("measure")[1];
    (tenant, format!("launch kernel {}", gpu_ns / kernel_ns))
}

/// Three seconds of GPU time take five minutes at 1 %: longer than the test waits.
#[test]
fn a_raised_share_frees_a_launch_that_waits() {
    let machine = Machine::new();
    let (mut tenant, launch) = tenant(&machine, 3_000_000_000);
    set(&machine, &["--sm", "1"]);
    tenant.tell(&launch);
    set(&machine, &["--sm", "100"]);
    assert_eq!(tenant.hear(), "0");
}

#[test]
fn a_lowered_share_holds_from_then_on() {
    let machine = Machine::new();
    let (mut tenant, launch) = tenant(&machine, 300_000_000);
    assert_eq!(tenant.status(&launch), 0);
    set(&machine, &["--sm", "20"]);
    let busy_ns = || machine.truth_of_container("one").gpu_busy_ns;
    let (busy_before, from_ns) = (busy_ns(), gpu_sim::clock::monotonic_ns());
    assert_eq!(tenant.status(&launch), 0);
    let took_ns = gpu_sim::clock::monotonic_ns() - from_ns;
    let percent = 100.0 * (busy_ns() - busy_before) as f64 / took_ns as f64;
    assert!(percent < 20.0 + OVER_POINTS_MAX, "{percent} %");
}
