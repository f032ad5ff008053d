//! Arrays: how they are laid out only the driver knows, and they are charged what it takes for them.
#![cfg(test)]

use shim_tests::accounts;
use shim_tests::player::Player;
use shim_tests::{MIB, Machine, Tenant, World};

const OUT_OF_MEMORY: u64 = 2;

/// A quota that leaves room whatever a context is charged, and is no multiple of anything.
const QUOTA_BYTES: u64 = 700 * MIB + 12_345;

fn tenant(machine: &Machine, container: &str) -> Tenant {
    Tenant::with_context(machine, &World::memory(container, &QUOTA_BYTES.to_string()))
}

/// Arrays whose rows fill no block of the device's layout, and bytes of their texels, those of the first level.
const PADDED: [(&str, u64); 3] = [
    ("cuArrayCreate_v2", 96 * MIB + 9 * 32_768),
    ("cuArray3DCreate_v2-slices", 96 * MIB),
    ("cuMipmappedArrayCreate-levels", 64 * MIB + 9 * 32_768),
];

/// Allocates an array and asserts that it is charged what the device gave for it; that.
#[track_caller]
fn assert_taken(machine: &Machine, tenant: &mut Tenant, (kind, bytes): (&str, u64)) -> u64 {
    let held_bytes = machine.truth_of(tenant.pid()).memory_bytes;
    let free_bytes = tenant.free_bytes();
    assert_eq!(tenant.alloc(kind, kind, bytes), 0, "{kind}");
    let taken_bytes = machine.truth_of(tenant.pid()).memory_bytes - held_bytes;
    assert_eq!(free_bytes - tenant.free_bytes(), taken_bytes, "{kind}");
    taken_bytes
}

/// How arrays are laid out only the driver knows: what the first of a shape is seen to take, all are charged.
#[test]
fn an_array_is_charged_what_the_driver_takes_for_it() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine, "one");
    let budget_bytes = tenant.free_bytes();
    for (kind, bytes) in PADDED {
        for when in ["seen", "known"] {
            let taken_bytes = assert_taken(&machine, &mut tenant, (kind, bytes));
            assert!(
                taken_bytes > bytes + 2 * MIB,
                "{kind}: nothing beside texels"
            );
            assert_eq!(tenant.status(&format!("free {kind}")), 0, "{kind}, {when}");
            assert_eq!(tenant.free_bytes(), budget_bytes, "{kind}, {when}");
        }
    }
}

/// Its texels have room in the quota, and it has not.
#[test]
fn an_array_that_turns_out_not_to_fit_is_destroyed_again() {
    for (kind, bytes) in PADDED {
        let machine = Machine::new();
        let mut elsewhere = tenant(&machine, "elsewhere");
        let taken_bytes = assert_taken(&machine, &mut elsewhere, (kind, bytes));
        let mut tenant = tenant(&machine, "one");
        let rest_bytes = tenant.free_bytes() - taken_bytes + 1;
        assert_eq!(tenant.alloc("rest", "cuMemAlloc_v2", rest_bytes), 0);
        let held_bytes = machine.truth_of(tenant.pid()).memory_bytes;
        for when in ["seen", "known"] {
            assert_eq!(
                tenant.alloc("a", kind, bytes),
                OUT_OF_MEMORY,
                "{kind}, {when}"
            );
            assert_eq!(tenant.free_bytes(), taken_bytes - 1, "{kind}, {when}");
            let holds_bytes = machine.truth_of(tenant.pid()).memory_bytes;
            assert_eq!(holds_bytes, held_bytes, "{kind}, {when}: it is gone");
        }
        assert_eq!(tenant.status("free rest"), 0);
        assert_eq!(tenant.alloc("a", kind, bytes), 0, "{kind}: now it fits");
    }
}

/// Blocks of 4 × 4 texels, and planes of brightness and colour, are charged by what they take; a plane is its array's.
#[test]
fn compressed_arrays_and_such_with_planes_are_charged_what_the_driver_takes() {
    let machine = Machine::new();
    let mut player = Player::start(&machine, &World::memory("one", "1GiB"));
    let mut charged_after = |calls: &[&str]| {
        for call in calls {
            assert_eq!(player.make(&format!("0 {call}")), "0", "{call}");
        }
        let books = accounts::of(&machine, "one")[0];
        assert!(books.agree(), "{books:?}");
        books.charged_bytes
    };
    let context = charged_after(&[
        "cuInit 0",
        "cuDevicePrimaryCtxRetain &8 0",
        "cuCtxSetCurrent $8",
    ]);
    let blocks = "cuArrayCreate_v2 &16 {d:8192,d:2048,w:145,w:4}";
    assert_eq!(charged_after(&[blocks]), context + 8 * MIB);
    let planes = [
        "cuArrayCreate_v2 &24 {d:4096,d:4096,w:176,w:3}",
        "cuArrayGetPlane &32 $24 1",
    ];
    assert_eq!(charged_after(&planes), context + 32 * MIB);
    let ends = ["cuArrayDestroy $16", "cuArrayDestroy $24"];
    assert_eq!(charged_after(&ends), context);
}
