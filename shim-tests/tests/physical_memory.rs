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

/// What is charged when calls were made that are all granted: as much as the device holds.
#[track_caller]
fn charged_after(machine: &Machine, player: &mut Player, calls: &[&str]) -> u64 {
    for call in calls {
        assert_eq!(player.make(&format!("0 {call}")), "0", "{call}");
    }
    let books = accounts::of(machine, "one")[0];
    assert!(books.agree(), "{books:?}");
    books.charged_bytes
}

/// What is bound to a multicast object outlives its own handle; a binding ends by itself, or with the object.
#[test]
fn what_a_multicast_object_keeps_stays_charged() {
    let machine = Machine::with_every_feature(1);
    let mut player = Player::start(&machine, &World::memory("one", "1GiB"));
    let mut charged_after = |calls: &[&str]| charged_after(&machine, &mut player, calls);
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

/// Who else holds an object that was given to others, and until when, nobody sees: what is bound to it stays charged when this
/// process lets go of it.
#[test]
fn what_a_shared_multicast_object_keeps_stays_charged() {
    let machine = Machine::with_every_feature(1);
    let mut player = Player::start(&machine, &World::memory("one", "1GiB"));
    let mut charged_after = |calls: &[&str]| charged_after(&machine, &mut player, calls);
    let shared = [
        "cuInit 0",
        "cuMulticastCreate &32 {w:1,d:4194304,d:1,d:0}",
        "cuMulticastAddDevice $32 0",
        "cuMemExportToShareableHandle &40 $32 1 0",
        "cuMemCreate &64 2097152 {w:1,w:1,w:1,w:0} 0",
        "cuMulticastBindMem $32 0 $64 0 2097152 0",
        "cuMemRelease $64",
    ];
    assert_eq!(charged_after(&shared), 2 * MIB);
    assert_eq!(charged_after(&["cuMemRelease $32"]), 2 * MIB);
}

/// The driver counts no more what a pool has given back; what a binding keeps of it is there all the same.
#[test]
fn what_a_multicast_object_keeps_of_a_pool_stays_charged() {
    let machine = Machine::with_every_feature(1);
    let mut player = Player::start(&machine, &World::memory("one", "1GiB"));
    let mut charged_after = |calls: &[&str]| charged_after(&machine, &mut player, calls);
    let first = charged_after(&[
        "cuInit 0",
        "cuCtxCreate_v2 &16 0 0",
        "cuMulticastCreate &32 {w:1,d:8388608,d:0,d:0}",
        "cuMulticastAddDevice $32 0",
    ]);
    let bound = [
        "cuMemPoolCreate &96 {w:1,w:0,w:1,w:0}",
        "cuMemAllocFromPoolAsync &128 8388608 $96 0",
        "cuMulticastBindAddr $32 0 $128 2097152 0",
    ];
    let freed = ["cuMemFreeAsync $128 0", "cuStreamSynchronize 0"];
    assert_eq!(charged_after(&bound), first + 8 * MIB);
    assert_eq!(charged_after(&freed), first + 8 * MIB);
    assert_eq!(charged_after(&["cuMemPoolTrimTo $96 0"]), first + 8 * MIB);
    assert_eq!(charged_after(&["cuMulticastUnbind $32 0 0 2097152"]), first);
    assert_eq!(charged_after(&bound), first + 8 * MIB);
    assert_eq!(charged_after(&freed), first + 8 * MIB);
    assert_eq!(charged_after(&["cuMemPoolDestroy $96"]), first + 8 * MIB);
    assert_eq!(charged_after(&["cuMemRelease $32"]), first);
}

/// Each process is charged for what it has bound to an object of several, until it unbinds that itself, or ends.
#[test]
fn an_object_of_two_containers_charges_each_for_what_it_has_bound() {
    let machine = Machine::with_every_feature(1);
    let [mut one, mut two] =
        ["one", "two"].map(|name| Player::start(&machine, &World::memory(name, "1GiB")));
    let make = |player: &mut Player, calls: &[&str]| {
        for call in calls {
            assert_eq!(player.make(&format!("0 {call}")), "0", "{call}");
        }
    };
    let books = || {
        ["one", "two"].map(|name| {
            let books = accounts::of(&machine, name)[0];
            (books.charged_bytes / MIB, books.held_bytes / MIB)
        })
    };
    make(
        &mut one,
        &[
            "cuInit 0",
            "cuMulticastCreate &32 {w:1,d:4194304,d:1,d:0}",
            "cuMulticastAddDevice $32 0",
            "cuMemExportToShareableHandle &40 $32 1 0",
        ],
    );
    let descriptor = one.value(40, 0);
    two.receive(40, &one, descriptor);
    let imported = ["cuInit 0", "cuMemImportFromShareableHandle &32 $40 1"];
    let bound = [
        "cuMemCreate &64 2097152 {w:1,w:1,w:1,w:0} 0",
        "cuMulticastBindMem $32 0 $64 0 2097152 0",
        "cuMemRelease $64",
    ];
    let unbound = ["cuMulticastUnbind $32 0 0 2097152"];
    make(&mut two, &imported);
    make(&mut two, &bound);
    assert_eq!(books(), [(0, 0), (2, 2)]);
    make(&mut one, &unbound);
    assert_eq!(books(), [(0, 0), (2, 0)], "somebody else has unbound it");
    make(&mut two, &bound);
    assert_eq!(books(), [(0, 0), (4, 2)]);
    make(&mut two, &unbound);
    assert_eq!(books(), [(0, 0), (0, 0)]);
    make(&mut one, &bound);
    assert_eq!(books(), [(2, 2), (0, 0)]);
    make(&mut two, &unbound);
    assert_eq!(books(), [(2, 0), (0, 0)]);
}

/// An operation on the tile of 256 × 256 bytes in this column of an array or a level: memory from variable 64, or none.
fn tile(is_of_mipmap: bool, column: u32, is_mapped: bool) -> String {
    let [kind, resource] = if is_of_mipmap {
        ["1", "$33"]
    } else {
        ["0", "$32"]
    };
    let [operation, memory] = if is_mapped { ["1", "$64"] } else { ["2", "0"] };
    let part = format!("w:0,w:0,w:0,w:0,w:{},w:0,w:0,w:256,w:256,w:1", 256 * column);
    let how = format!("w:{operation},w:0,d:{memory},d:0,w:1,w:0,w:0,w:0");
    format!("cuMemMapArrayAsync {{w:{kind},d:{resource},{part},{how}}} 1 0")
}

const SPARSE_ARRAY: &str = "cuArray3DCreate_v2 &32 {d:512,d:256,d:0,w:1,w:1,w:64}";
const TILE_POOL: &str = "cuMemCreate &64 2097152 {w:1,w:0,w:1,w:0,d:0,w:65536,w:0} 0";
/// What an unmapped tile had is let go when the stream has come there, and somebody looks.
const LOOK: [&str; 2] = ["cuCtxSynchronize", "cuMemGetInfo_v2 & &"];

/// What is mapped to a sparse array outlives its own handle; tiles let go one by one, or with the array, or with its context.
#[test]
fn what_a_tile_of_a_sparse_array_keeps_stays_charged() {
    let machine = Machine::new();
    let mut player = Player::start(&machine, &World::memory("one", "1GiB"));
    let mut charged_after = |calls: &[&str]| charged_after(&machine, &mut player, calls);
    let first = charged_after(&["cuInit 0", "cuCtxCreate_v2 &16 0 0", LOOK[0], LOOK[1]]);
    assert_eq!(charged_after(&[SPARSE_ARRAY]), first, "it has no memory");
    let [left, right] = [0, 1].map(|column| tile(false, column, true));
    let mapped = [TILE_POOL, &left, &right, "cuMemRelease $64"];
    assert_eq!(charged_after(&mapped), first + 2 * MIB);
    let [left, right] = [0, 1].map(|column| tile(false, column, false));
    let one_less = charged_after(&[&left, LOOK[0], LOOK[1]]);
    assert_eq!(one_less, first + 2 * MIB, "the other tile keeps it");
    assert_eq!(charged_after(&[&right, LOOK[0], LOOK[1]]), first);
    let left = tile(false, 0, true);
    let again = [TILE_POOL, &left, "cuMemRelease $64"];
    assert_eq!(charged_after(&again), first + 2 * MIB);
    assert_eq!(charged_after(&["cuArrayDestroy $32"]), first);
    let mipmap = "cuMipmappedArrayCreate &33 {d:512,d:512,d:0,w:1,w:1,w:64} 2";
    let of_level = tile(true, 0, true);
    let in_both = [
        SPARSE_ARRAY,
        mipmap,
        TILE_POOL,
        &left,
        &of_level,
        "cuMemRelease $64",
    ];
    assert_eq!(charged_after(&in_both), first + 2 * MIB);
    let one_less = charged_after(&["cuMipmappedArrayDestroy $33"]);
    assert_eq!(one_less, first + 2 * MIB, "the array keeps it");
    assert_eq!(charged_after(&["cuCtxDestroy_v2 $16"]), 0);
}
