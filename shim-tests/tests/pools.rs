//! Pools: charged for what they reserve of a device, as the device's own books have it.
#![cfg(test)]

use shim_tests::player::Player;
use shim_tests::{Books, MIB, Machine, Tenant, World, accounts};

const OUT_OF_MEMORY: u64 = 2;
const QUOTA_BYTES: u64 = 1024 * MIB;
const BLOCK_BYTES: u64 = 64 * MIB;
const ALWAYS: u64 = u64::MAX;

fn tenant(machine: &Machine) -> Tenant {
    Tenant::with_context(machine, &World::memory("one", &QUOTA_BYTES.to_string()))
}

#[test]
fn a_pool_is_charged_for_what_it_keeps() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    tenant.ok(&format!("keep {ALWAYS}"));
    tenant.ok(&format!("alloc a cuMemAllocAsync {BLOCK_BYTES}"));
    books.assert_more(&mut tenant, BLOCK_BYTES, "allocated");
    tenant.ok("free a");
    books.assert_more(&mut tenant, BLOCK_BYTES, "freed, and kept by the pool");
    tenant.ok(&format!("alloc a cuMemAllocAsync {BLOCK_BYTES}"));
    books.assert_more(&mut tenant, BLOCK_BYTES, "the same block again");
    tenant.ok("free a");
    tenant.ok("pool-trim");
    books.assert_more(&mut tenant, 0, "trimmed");
}

/// Nobody tells us when the driver gives memory back: it is asked when it matters.
#[test]
fn what_a_pool_gives_back_behind_our_back_is_seen() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    let all_bytes = books.free_bytes();
    tenant.ok(&format!("alloc a cuMemAllocAsync {all_bytes}"));
    tenant.ok("retire a");
    tenant.ok("wait");
    let nvml = tenant.numbers("nvml");
    assert_eq!(nvml[2], all_bytes, "free, as NVML reports it");
    books.assert_more(&mut tenant, 0, "reported");
    tenant.ok(&format!("alloc a cuMemAllocAsync {all_bytes}"));
    tenant.ok("retire a");
    tenant.ok("wait");
    tenant.ok(&format!("alloc b cuMemAlloc_v2 {all_bytes}"));
    books.assert_more(&mut tenant, all_bytes, "not refused");
}

/// A driver whose board is full gives back what its pools keep before it refuses: a full quota is no other.
#[test]
fn what_a_pool_keeps_stands_in_nobodys_way() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    let all_bytes = books.free_bytes() / (2 * MIB) * (2 * MIB);
    tenant.ok(&format!("keep {ALWAYS}"));
    for kind in [
        "cuMemAlloc_v2",
        "cuMemCreate",
        "cuArrayCreate_v2",
        "cuMemAllocFromPoolAsync",
    ] {
        tenant.ok(&format!("alloc kept cuMemAllocAsync {BLOCK_BYTES}"));
        tenant.ok("free kept");
        books.assert_more(&mut tenant, BLOCK_BYTES, kind);
        tenant.ok(&format!("alloc {kind} {kind} {all_bytes}"));
        books.assert_more(&mut tenant, all_bytes, kind);
        tenant.ok(&format!("free {kind}"));
        books.assert_more(&mut tenant, 0, kind);
    }
    // One that fits none of its own spare blocks, which is only known when it has been allocated.
    tenant.ok(&format!("alloc kept cuMemAllocAsync {}", all_bytes / 4));
    tenant.ok("free kept");
    tenant.ok(&format!("alloc large cuMemAllocAsync {all_bytes}"));
    books.assert_more(&mut tenant, all_bytes, "its own spare block made room");
}

/// What was freed in the order of a stream is there for the next allocation of that stream.
#[test]
fn memory_freed_in_stream_order_is_there_for_the_same_stream() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    let most_bytes = books.free_bytes() / (2 * MIB) * (2 * MIB);
    tenant.ok("kernel 30000");
    let code_bytes = books.free_bytes() - tenant.free_bytes();
    let most_bytes = (most_bytes - code_bytes) / 3 * 2;
    for _ in 0..4 {
        tenant.ok(&format!("alloc a cuMemAllocAsync {most_bytes}"));
        tenant.ok("submit");
        tenant.ok("retire a");
    }
    assert_eq!(
        tenant.alloc("b", "cuMemAllocAsync", QUOTA_BYTES),
        OUT_OF_MEMORY
    );
    let usage = machine.usage();
    let peak = usage.iter().find(|usage| usage.pid == tenant.pid());
    let peak_bytes = peak.expect("it was on the device").memory_bytes_peak;
    assert!(peak_bytes <= QUOTA_BYTES, "{peak_bytes} on the device");
}

#[test]
fn the_pool_that_is_current_is_the_one_that_is_charged() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    tenant.ok("pool own device");
    tenant.ok(&format!("pool-keep own {ALWAYS}"));
    tenant.ok("pool-use own");
    tenant.ok(&format!("alloc a cuMemAllocAsync {BLOCK_BYTES}"));
    tenant.ok("free a");
    books.assert_more(&mut tenant, BLOCK_BYTES, "kept by the current pool");
    tenant.ok("pool-trim");
    books.assert_more(&mut tenant, BLOCK_BYTES, "the default pool has nothing");
    tenant.ok("pool-trim own");
    books.assert_more(&mut tenant, 0, "trimmed");
    let beyond_bytes = books.free_bytes() + 1;
    assert_eq!(
        tenant.alloc("a", "cuMemAllocAsync", beyond_bytes),
        OUT_OF_MEMORY
    );
    books.assert_more(&mut tenant, 0, "refused");
}

#[test]
fn a_destroyed_pool_counts_until_its_last_block_is_freed() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    tenant.ok("pool a device");
    tenant.ok(&format!("pool-keep a {ALWAYS}"));
    let alloc = format!("alloc a cuMemAllocFromPoolAsync {BLOCK_BYTES}");
    tenant.ok(&alloc);
    tenant.ok("free a");
    tenant.ok(&alloc);
    tenant.ok("pool-destroy a");
    books.assert_more(&mut tenant, BLOCK_BYTES, "a block is out");
    tenant.ok("free a");
    books.assert_more(&mut tenant, 0, "none is");
    tenant.ok("pool b device");
    tenant.ok(&format!("pool-keep b {ALWAYS}"));
    tenant.ok(&format!("alloc b cuMemAllocFromPoolAsync {BLOCK_BYTES}"));
    tenant.ok("free b");
    tenant.ok("pool-destroy b");
    books.assert_more(&mut tenant, 0, "what it kept went with it");
    assert_eq!(
        tenant.status("pool-destroy b"),
        1,
        "the driver's own answer"
    );
}

/// A pool's block may be freed by `cuMemFree` too.
#[test]
fn cu_mem_free_of_a_pools_block_gives_it_back() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    tenant.ok(&format!("alloc a cuMemAllocAsync {BLOCK_BYTES}"));
    tenant.ok("free-now a");
    books.assert_more(&mut tenant, 0, "freed");
    assert_eq!(tenant.status("free-now a"), 1, "the driver's own answer");
    books.assert_more(&mut tenant, 0, "freed once");
}

#[test]
fn a_pool_of_the_host_is_never_charged() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    for place in ["host", "node"] {
        tenant.ok(&format!("pool a {place}"));
        tenant.ok(&format!("alloc a cuMemAllocFromPoolAsync {}", 8 * MIB));
        books.assert_more(&mut tenant, 0, &format!("{place}: allocated"));
        tenant.ok("free a");
        books.assert_more(&mut tenant, 0, &format!("{place}: freed"));
    }
}

/// Managed memory may come to the device, wherever it lies at first: it counts as that of `cuMemAllocManaged` does.
#[test]
fn a_pool_of_managed_memory_is_charged_wherever_it_lies() {
    for kind in ["managed", "default"] {
        let machine = Machine::new();
        let mut tenant = tenant(&machine);
        let books = Books::open(&machine, &mut tenant);
        tenant.ok(&format!("pool a {kind}"));
        tenant.ok(&format!("alloc a cuMemAllocFromPoolAsync {BLOCK_BYTES}"));
        books.assert_more(&mut tenant, BLOCK_BYTES, kind);
        tenant.ok("free a");
        books.assert_more(&mut tenant, 0, "freed");
    }
}

#[test]
fn a_pool_is_charged_to_the_device_that_it_lies_on() {
    let machine = Machine::with_profile(&shim_tests::two_gpus());
    let world = World::memory("two", &QUOTA_BYTES.to_string());
    let (mut here, mut there) = (
        Tenant::start(&machine, &world),
        Tenant::start(&machine, &world),
    );
    here.ok("context 0");
    there.ok("context 1");
    let (here_bytes, there_bytes) = (here.free_bytes(), there.free_bytes());
    here.ok("on 1");
    here.ok("pool a device");
    here.ok(&format!("pool-keep a {ALWAYS}"));
    here.ok(&format!("alloc a cuMemAllocFromPoolAsync {BLOCK_BYTES}"));
    here.ok("free a");
    assert_eq!(
        (here.free_bytes(), there.free_bytes()),
        (here_bytes, there_bytes - BLOCK_BYTES)
    );
    here.ok("pool-trim a");
    assert_eq!(
        (here.free_bytes(), there.free_bytes()),
        (here_bytes, there_bytes)
    );
}

/// Plays calls that all succeed; what both accounts then say of each device.
#[track_caller]
fn played(machine: &Machine, player: &mut Player, calls: &[&str]) -> Vec<(u64, u64)> {
    for call in calls {
        assert_eq!(player.make(call), "0", "{call}");
    }
    let books = accounts::of(machine, "two");
    let bytes = books.iter().map(|one| (one.charged_bytes, one.held_bytes));
    bytes.collect()
}

/// A pool lies on a device, and what comes out of it belongs to no context (CUDA Driver API, `cuCtxDestroy`).
#[test]
fn a_block_of_a_pool_outlives_the_context_that_it_was_allocated_in() {
    let machine = Machine::with_profile(&shim_tests::two_gpus());
    let world = World::memory("two", &QUOTA_BYTES.to_string());
    let mut player = Player::start(&machine, &world);
    let left = [
        "0 cuInit 0",
        "0 cuCtxCreate_v2 &64 0 1",
        "0 cuMemPoolCreate &96 {w:1,w:0,w:1,w:0}",
        "0 cuMemAllocFromPoolAsync &128 67108864 $96 0",
        "0 cuCtxDestroy_v2 $64",
    ];
    let left = played(&machine, &mut player, &left);
    assert_eq!(left, [(BLOCK_BYTES, BLOCK_BYTES), (0, 0)]);
    let freed = [
        "0 cuCtxCreate_v2 &64 0 0",
        "0 cuMemFree_v2 $128",
        "0 cuCtxDestroy_v2 $64",
    ];
    let left = played(&machine, &mut player, &freed);
    assert_eq!(left, [(0, 0); 2]);
}

/// The last release resets the device (CUDA Driver API, `cuDevicePrimaryCtxRelease`): what pools had out there is gone, also out of
/// a pool that is destroyed, and what comes to lie at its address is a block like any other.
#[test]
fn what_the_end_of_a_primary_context_frees_is_no_longer_a_pools() {
    for destroy in ["0 cuCtxSynchronize", "0 cuMemPoolDestroy $96"] {
        let machine = Machine::with_profile(&shim_tests::two_gpus());
        let world = World::memory("two", &QUOTA_BYTES.to_string());
        let mut player = Player::start(&machine, &world);
        let reset = [
            "0 cuInit 0",
            "0 cuDevicePrimaryCtxRetain &64 0",
            "0 cuCtxSetCurrent $64",
            "0 cuMemPoolCreate &96 {w:1,w:0,w:1,w:0}",
            "0 cuMemAllocFromPoolAsync &128 67108864 $96 0",
            destroy,
            "0 cuDevicePrimaryCtxRelease_v2 0",
        ];
        assert_eq!(played(&machine, &mut player, &reset), [(0, 0); 2]);
        let again = [
            "0 cuCtxCreate_v2 &160 0 0",
            "0 cuMemAlloc_v2 &192 67108864",
            "0 cuMemFree_v2 $128", // the same address
            "0 cuCtxDestroy_v2 $160",
        ];
        assert_eq!(played(&machine, &mut player, &again), [(0, 0); 2]);
    }
}

/// Threads that allocate from one pool at once are each charged once, and none is refused what fits.
#[test]
fn threads_at_one_pool_are_charged_once() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let books = Books::open(&machine, &mut tenant);
    let (threads, rounds) = (8, 50);
    let each_bytes = books.free_bytes() / threads / MIB * MIB;
    tenant.ok(&format!("pool-threads {threads} {rounds} {each_bytes}"));
    books.assert_more(&mut tenant, 0, "afterwards");
}
