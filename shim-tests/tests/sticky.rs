//! Kernels that fault under limits: the program gets the driver's own errors, as without the preload, and what it had is not lost.
#![cfg(test)]

use shim_tests::accounts::{self, Accounts};
use shim_tests::{MIB, Machine, Tenant, World};
use std::time::{Duration, Instant};

/// `CUDA_ERROR_ASSERT`
const ASSERT: u64 = 710;

/// `CUDA_ERROR_LAUNCH_FAILED`
const FAILED: u64 = 719;

const CONTAINER: &str = "ruined";

/// A quota and a share: allocations are charged, launches wait for their turn and are watched.
fn limits() -> World {
    World::limited([
        ("CUDA_HOOK_CONTAINER", CONTAINER),
        ("CUDA_HOOK_MEMORY", "2GiB"),
        ("CUDA_HOOK_SM", "50"),
    ])
}

/// The books of the first device when they say `wanted`, or as they are when they have not for long.
fn books(machine: &Machine, wanted: impl Fn(&Accounts) -> bool) -> Accounts {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let books = accounts::of(machine, CONTAINER)[0];
        if wanted(&books) || Instant::now() > deadline {
            return books;
        }
        std::thread::yield_now();
    }
}

/// What a program is answered after a fault, twice.
fn answers_after(tenant: &mut Tenant, fault: &str) -> Vec<u64> {
    assert_eq!(tenant.alloc("held", "cuMemAlloc_v2", 64 * MIB), 0);
    tenant.ok("kernel 1000");
    tenant.ok("launch kernel 20");
    tenant.ok(&format!("doomed {fault}"));
    let calls = [
        "launch kernel 30",
        "launch ex 1",
        "launch graph 1",
        "launch capture 1",
        "info",
        "alloc more cuMemAlloc_v2 4096",
        "free held",
    ];
    let twice = calls.iter().chain(&calls);
    twice.map(|call| tenant.status(call)).collect()
}

#[test]
fn a_context_that_a_failed_assertion_ruined_can_be_made_anew_with_the_whole_quota() {
    let machine = Machine::new();
    for world in [World::Bare, limits()] {
        let mut tenant = Tenant::with_context(&machine, &world);
        assert_eq!(answers_after(&mut tenant, "assertion"), [ASSERT; 14]);
        tenant.ok("leave");
        let left = books(&machine, |books| books.charged_bytes == 0);
        assert!(left.agree() && left.charged_bytes == 0, "{left:?}");
        tenant.ok("context");
        let (free, total) = tenant.memory_info();
        assert_eq!(tenant.alloc("all", "cuMemAlloc_v2", free), 0, "of {total}");
        tenant.ok("free all");
        tenant.ok("kernel 1000");
        tenant.ok("launch kernel 20");
        assert!(tenant.end().status.success());
    }
}

#[test]
fn a_process_that_a_trap_ruined_keeps_its_charge_until_it_ends_and_holds_nobody_up() {
    let machine = Machine::new();
    let mut bare = Tenant::with_context(&machine, &World::Bare);
    assert_eq!(answers_after(&mut bare, "trap"), [FAILED; 14]);
    drop(bare);
    let mut ruined = Tenant::with_context(&machine, &limits());
    let mut neighbour = Tenant::with_context(&machine, &limits());
    assert_eq!(answers_after(&mut ruined, "trap"), [FAILED; 14]);
    assert_eq!(ruined.status("leave"), FAILED);
    let held = books(&machine, Accounts::agree);
    assert!(held.agree() && held.charged_bytes >= 64 * MIB, "{held:?}");
    neighbour.ok("kernel 1000");
    neighbour.ok("launch kernel 50");
    let outcome = ruined.end();
    assert!(outcome.status.success(), "{outcome:?}");
    assert_eq!(neighbour.alloc("fits", "cuMemAlloc_v2", 1024 * MIB), 0);
    neighbour.ok("free fits");
    let gone = held.charged_bytes - 64 * MIB;
    let left = books(&machine, |books| {
        books.agree() && books.charged_bytes < gone
    });
    assert!(left.agree() && left.charged_bytes < gone, "{left:?}");
    neighbour.ok("launch kernel 5");
}
