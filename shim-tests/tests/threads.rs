//! Many threads of one process: nothing is lost, nothing is counted twice, nothing fails.
#![cfg(test)]

use shim_tests::{MIB, Machine, Tenant, World};

fn tenant(machine: &Machine, limits: &[(&str, &str)]) -> Tenant {
    let world = World::limited([&[("CUDA_HOOK_CONTAINER", "crew")], limits].concat());
    let mut tenant = Tenant::with_context(machine, &world);
    assert_eq!(tenant.status("kernel 200"), 0);
    tenant
}

#[test]
fn sixteen_threads_within_the_quota_are_never_refused() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine, &[("CUDA_HOOK_MEMORY", "1GiB")]);
    let budget_bytes = tenant.free_bytes();
    let held_bytes = machine.truth_of(tenant.pid()).memory_bytes;
    assert_eq!(
        tenant.numbers(&format!("threads 16 400 {}", 2 * MIB)),
        [6400, 0, 0]
    );
    assert_eq!(tenant.free_bytes(), budget_bytes, "nothing stays charged");
    assert_eq!(machine.truth_of(tenant.pid()).memory_bytes, held_bytes);
}

#[test]
fn sixteen_threads_at_the_quota_are_granted_or_refused() {
    let machine = Machine::new();
    let mut tenant = tenant(
        &machine,
        &[("CUDA_HOOK_MEMORY", "1GiB"), ("CUDA_HOOK_SM", "80")],
    );
    let budget_bytes = tenant.free_bytes();
    let counts = tenant.numbers(&format!("threads 16 400 {}", budget_bytes / 3));
    assert_eq!(counts.iter().sum::<u64>(), 6400);
    assert_eq!(
        counts[2], 0,
        "granted or out of memory, nothing else: {counts:?}"
    );
    assert!(counts[0] > 0, "{counts:?}");
    assert_eq!(tenant.free_bytes(), budget_bytes, "nothing stays charged");
}

#[test]
fn every_launch_of_sixteen_threads_reaches_the_device() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine, &[("CUDA_HOOK_SM", "50")]);
    let before = machine.truth_of(tenant.pid()).kernels;
    assert_eq!(tenant.numbers("threads 16 400 4096"), [6400, 0, 0]);
    assert_eq!(machine.truth_of(tenant.pid()).kernels - before, 6400);
}

#[test]
fn sixteen_threads_may_start_cuda_at_once() {
    let machine = Machine::new();
    let mut tenant = Tenant::start(&machine, &World::memory("crew", "1GiB"));
    assert_eq!(tenant.numbers("init-threads 16"), [0; 16]);
    assert_eq!(tenant.status("context"), 0);
    assert_eq!(tenant.end().stderr, "");
}
