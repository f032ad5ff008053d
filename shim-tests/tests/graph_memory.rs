//! Graphs that allocate: charged when they are launched or uploaded, as the device's own books have it.
#![cfg(test)]

use shim_tests::{Books, MIB, Machine, Tenant, World};

const OUT_OF_MEMORY: u64 = 2;
const QUOTA_BYTES: u64 = 1024 * MIB;
const BLOCK_BYTES: u64 = 64 * MIB;

fn tenant(machine: &Machine) -> Tenant {
    Tenant::with_context(machine, &World::memory("one", &QUOTA_BYTES.to_string()))
}

#[test]
fn a_graph_is_charged_when_it_is_launched_and_until_a_trim() {
    for how in ["nodes", "managed", "capture"] {
        let machine = Machine::new();
        let mut tenant = tenant(&machine);
        let books = Books::open(&machine, &mut tenant);
        tenant.ok(&format!("graph g {how} {BLOCK_BYTES}"));
        books.assert_more(&mut tenant, 0, &format!("{how}: made"));
        for launch in ["first", "second"] {
            tenant.ok("graph-launch g");
            books.assert_more(&mut tenant, BLOCK_BYTES, &format!("{how}: {launch} launch"));
        }
        tenant.ok("graph-end g");
        books.assert_more(
            &mut tenant,
            BLOCK_BYTES,
            &format!("{how}: kept by the device"),
        );
        tenant.ok("graph-trim");
        books.assert_more(&mut tenant, 0, &format!("{how}: trimmed"));
    }
}

#[test]
fn a_graph_is_charged_when_it_is_uploaded() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    tenant.ok(&format!("graph g uploaded {BLOCK_BYTES}"));
    books.assert_more(&mut tenant, BLOCK_BYTES, "with its instantiation");
    tenant.ok(&format!("graph h nodes {BLOCK_BYTES}"));
    tenant.ok("graph-upload h");
    books.assert_more(&mut tenant, 2 * BLOCK_BYTES, "by itself");
    tenant.ok("graph-launch h");
    books.assert_more(&mut tenant, 2 * BLOCK_BYTES, "launched");
}

/// Asserts that what gives a graph its memory is refused beyond the quota, leaves nothing behind, and is granted what fits.
#[track_caller]
fn assert_refused(how: &str, command: Option<&str>) {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    let rest_bytes = books.free_bytes() - BLOCK_BYTES + 1;
    tenant.ok(&format!(
        "alloc rest cuMemCreate {}",
        rest_bytes.next_multiple_of(2 * MIB)
    ));
    let held_bytes = books.free_bytes() - tenant.free_bytes();
    let graph = format!("graph g {how} {BLOCK_BYTES}");
    let refused = if let Some(command) = command {
        tenant.ok(&graph);
        command
    } else {
        &graph
    };
    assert_eq!(tenant.status(refused), OUT_OF_MEMORY, "{refused}");
    books.assert_more(&mut tenant, held_bytes, refused);
    tenant.ok("free rest");
    tenant.ok(refused);
    books.assert_more(&mut tenant, BLOCK_BYTES, refused);
}

#[test]
fn a_graph_that_does_not_fit_is_refused() {
    assert_refused("nodes", Some("graph-launch g"));
    assert_refused("capture", Some("graph-launch g"));
    assert_refused("nodes", Some("graph-upload g"));
    assert_refused("uploaded", None);
}

/// What one graph has left is there for another, for other allocations, and at the next launch of a graph that has its own.
#[test]
fn what_a_device_keeps_for_graphs_stands_in_nobodys_way() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    let all_bytes = books.free_bytes() / (2 * MIB) * (2 * MIB);
    tenant.ok(&format!("graph g nodes {all_bytes}"));
    tenant.ok("graph-launch g");
    tenant.ok("graph-trim");
    tenant.ok("graph-launch g");
    tenant.ok("graph-end g");
    books.assert_more(&mut tenant, all_bytes, "kept");
    tenant.ok(&format!("graph h nodes {all_bytes}"));
    tenant.ok("graph-launch h");
    tenant.ok("graph-end h");
    books.assert_more(&mut tenant, all_bytes, "handed on");
    tenant.ok(&format!("alloc a cuMemAlloc_v2 {all_bytes}"));
    books.assert_more(&mut tenant, all_bytes, "given back");
}
