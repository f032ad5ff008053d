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

/// Whichever of two threads the driver obeys: the block is on nobody's books afterwards.
#[test]
fn a_block_that_two_threads_free_is_given_back_once() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine, &[("CUDA_HOOK_MEMORY", "1GiB")]);
    let budget_bytes = tenant.free_bytes();
    let held_bytes = machine.truth_of(tenant.pid()).memory_bytes;
    for kind in [
        "cuMemAlloc_v2",
        "cuMemAllocManaged",
        "cuMemAllocAsync",
        "cuMemCreate",
        "cuArrayCreate_v2",
        "cuMipmappedArrayCreate",
    ] {
        let race = format!("free-twice {kind} 1000 {}", 2 * MIB);
        assert_eq!(tenant.numbers(&race), [0, 1000, 0], "{kind}");
        assert_eq!(tenant.free_bytes(), budget_bytes, "{kind}");
        let holds_bytes = machine.truth_of(tenant.pid()).memory_bytes;
        assert_eq!(holds_bytes, held_bytes, "{kind}");
    }
}

/// What a thread is taking in a context while another ends it has ended with it: also where it comes to its books last.
#[test]
fn what_is_allocated_while_its_context_ends_is_given_back() {
    for dawdles_in in ["nothing", "cuMemAlloc_v2:after", "cuCtxDestroy_v2:after"] {
        let machine = Machine::new();
        let limits = [("CUDA_HOOK_MEMORY", "1GiB"), ("DAWDLE_IN_HOOK", dawdles_in)];
        let mut tenant = tenant(&machine, &limits);
        let budget_bytes = tenant.free_bytes();
        let held_bytes = machine.truth_of(tenant.pid()).memory_bytes;
        tenant.ok("end-contexts 50");
        assert_eq!(tenant.free_bytes(), budget_bytes, "{dawdles_in}");
        let holds_bytes = machine.truth_of(tenant.pid()).memory_bytes;
        assert_eq!(holds_bytes, held_bytes, "{dawdles_in}");
    }
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
