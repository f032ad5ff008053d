//! Physical memory (`cuMemCreate`): charged for as long as anything keeps it, as the device's own books have it.
#![cfg(test)]

use shim_tests::accounts;
use shim_tests::player::Player;
use shim_tests::{Books, MIB, Machine, Tenant, World};

const QUOTA_BYTES: u64 = 1024 * MIB;
const BLOCK_BYTES: u64 = 64 * MIB;

fn tenant(machine: &Machine) -> Tenant {
    Tenant::with_context(machine, &World::memory("one", &QUOTA_BYTES.to_string()))
}

#[test]
fn what_a_retained_handle_keeps_stays_charged() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    tenant.ok(&format!("alloc a cuMemCreate {BLOCK_BYTES}"));
    tenant.ok(&format!("map a {BLOCK_BYTES}"));
    tenant.ok("retain b a");
    tenant.ok("free a");
    tenant.ok("unmap a");
    books.assert_more(&mut tenant, BLOCK_BYTES, "a handle is left");
    tenant.ok("free b");
    books.assert_more(&mut tenant, 0, "none is");
}

/// Where a descriptor goes, and when the last copy of it is closed, nobody sees: its memory stays charged to who made it.
#[test]
fn what_a_descriptor_keeps_stays_charged() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    tenant.ok(&format!("alloc a cuMemCreate {BLOCK_BYTES}"));
    tenant.ok("export a");
    tenant.ok("free a");
    books.assert_more(&mut tenant, BLOCK_BYTES, "the descriptor is left");
    tenant.ok("import b a");
    books.assert_more(&mut tenant, BLOCK_BYTES, "imported, charged once");
    tenant.ok("close a");
    books.assert_more(&mut tenant, BLOCK_BYTES, "the import is left");
    tenant.ok("free b");
    assert_eq!(
        tenant.free_bytes(),
        books.free_bytes() - BLOCK_BYTES,
        "charged, for nobody can know that there is no other copy"
    );
    let mut neighbour =
        Tenant::with_context(&machine, &World::memory("one", &QUOTA_BYTES.to_string()));
    let with_dead = neighbour.free_bytes();
    assert!(tenant.end().status.success());
    assert!(
        neighbour.free_bytes() >= with_dead + BLOCK_BYTES,
        "until the process ends"
    );
}

/// What is bound to a multicast object outlives its own handle; a binding ends by itself, or with the object.
#[test]
fn what_a_multicast_object_keeps_stays_charged() {
    let machine = Machine::with_every_feature(1);
    let mut player = Player::start(&machine, &World::memory("one", "1GiB"));
    let mut charged_after = |calls: &[&str]| {
        for call in calls {
            assert_eq!(player.make(&format!("0 {call}")), "0", "{call}");
        }
        let books = accounts::of(&machine, "one")[0];
        assert!(books.agree(), "{books:?}");
        books.charged_bytes
    };
    let team = [
        "cuInit 0",
        "cuMulticastCreate &32 {w:1,d:4194304,d:0,d:0}",
        "cuMulticastAddDevice $32 0",
    ];
    assert_eq!(charged_after(&team), 0, "an object has no memory");
    let memory = "cuMemCreate &64 2097152 {w:1,w:0,w:1,w:0} 0";
    let bound = [
        memory,
        "cuMulticastBindMem $32 0 $64 0 2097152 0",
        "cuMemRelease $64",
    ];
    assert_eq!(charged_after(&bound), 2 * MIB);
    assert_eq!(charged_after(&["cuMulticastUnbind $32 0 0 2097152"]), 0);
    let bound = [
        memory,
        "cuMulticastBindMem_v2 $32 0 2097152 $64 0 2097152 0",
        "cuMemRelease $64",
    ];
    assert_eq!(charged_after(&bound), 2 * MIB);
    assert_eq!(charged_after(&["cuMemRelease $32"]), 0);
}
