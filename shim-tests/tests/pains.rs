//! What users of other GPU-sharing systems suffer from, where no other test shows it: `docs/pains-tested.md`.
#![cfg(test)]

use shim_tests::accounts::{self, Accounts};
use shim_tests::player::Player;
use shim_tests::{MIB, Machine, World};

const QUOTA: &str = "1GiB";
const CONTAINER: &str = "one";

/// A machine with two devices.
fn two_devices() -> Machine {
    Machine::with_profile("2xt4")
}

/// A player under a quota.
fn player(machine: &Machine) -> Player {
    Player::start(machine, &World::memory(CONTAINER, QUOTA))
}

/// Makes calls that must all succeed.
#[track_caller]
fn make_all(player: &mut Player, calls: &[&str]) {
    for call in calls {
        assert_eq!(player.make(call), "0", "{call}");
    }
}

/// What is charged and held on each device, which must be the same.
#[track_caller]
fn charged_bytes(machine: &Machine) -> Vec<u64> {
    let books = accounts::of(machine, CONTAINER);
    assert!(books.iter().all(Accounts::agree), "{books:?}");
    books.iter().map(|books| books.charged_bytes).collect()
}

/// Variable 32 is device 0's primary context, which is current; 64 is device 1's.
fn contexts_of_both(player: &mut Player) {
    make_all(
        player,
        &[
            "0 cuInit 0",
            "0 cuDevicePrimaryCtxRetain &64 1",
            "0 cuDevicePrimaryCtxRetain &32 0",
            "0 cuCtxSetCurrent $32",
        ],
    );
}

/// Rows 1 of both lists: the device comes from the properties, not from a context that may not be there.
#[test]
fn physical_memory_is_charged_where_it_is_put_without_any_context() {
    let machine = two_devices();
    let mut player = player(&machine);
    let call = "0 cuMemCreate &32 4194304 {w:1,w:0,w:1,w:1} 0";
    make_all(&mut player, &["0 cuInit 0", call]);
    assert_eq!(charged_bytes(&machine), [0, 4 * MIB]);
    // CU_MEM_LOCATION_TYPE_HOST.
    let of_host = player.make("0 cuMemCreate &64 4194304 {w:1,w:0,w:2,w:0} 0");
    assert_eq!(
        charged_bytes(&machine),
        [0, 4 * MIB],
        "host memory = {of_host}"
    );
    make_all(&mut player, &["0 cuMemRelease $32"]);
    assert_eq!(charged_bytes(&machine), [0, 0]);
}

/// Row 14: what a context takes is measured, and what was there before is no part of it.
#[test]
fn physical_memory_before_the_first_context_is_not_taken_for_it() {
    let machine = two_devices();
    let mut player = player(&machine);
    let before = "0 cuMemCreate &32 4194304 {w:1,w:0,w:1,w:1} 0";
    make_all(&mut player, &["0 cuInit 0", before]);
    make_all(&mut player, &["0 cuDevicePrimaryCtxRetain &64 1"]);
    let bytes = charged_bytes(&machine);
    make_all(&mut player, &["0 cuMemRelease $32"]);
    assert_eq!(charged_bytes(&machine), [0, bytes[1] - 4 * MIB]);
}

/// Rows 7 and 10: nothing is probed by a context when a program starts, and no device is special.
#[test]
fn starting_under_limits_makes_no_context() {
    let machine = two_devices();
    let mut player = player(&machine);
    make_all(&mut player, &["0 cuInit 0", "0 cuDeviceGetCount &"]);
    assert_eq!(charged_bytes(&machine), [0, 0]);
    let contexts: u32 = machine.usage().iter().map(|usage| usage.contexts).sum();
    assert_eq!(contexts, 0);
}

/// Makes something of so many bytes on device 0 and ends it while device 1's context is current.
#[track_caller]
fn assert_given_back_to_its_own_device(make: &str, bytes: u64, end: &str) {
    let machine = two_devices();
    let mut player = player(&machine);
    contexts_of_both(&mut player);
    let idle = charged_bytes(&machine);
    make_all(&mut player, &[make, "0 cuCtxSetCurrent $64"]);
    assert_eq!(charged_bytes(&machine), [idle[0] + bytes, idle[1]]);
    make_all(&mut player, &[end]);
    assert_eq!(charged_bytes(&machine), idle);
}

/// Row 12: a free is booked where the block lies, whatever is current.
#[test]
fn a_block_is_given_back_to_its_own_device_whatever_is_current() {
    let make = "0 cuMemAlloc_v2 &96 4194304";
    assert_given_back_to_its_own_device(make, 4 * MIB, "0 cuMemFree_v2 $96");
}

/// Row 12, of images: a module goes back to the context that it was loaded into.
#[test]
fn a_module_is_given_back_to_its_own_device_whatever_is_current() {
    let make = "0 cuModuleLoadData &96 @ptx";
    assert_given_back_to_its_own_device(make, 2 * MIB, "0 cuModuleUnload $96");
}

/// An attribute of a kernel is set, which takes no image; `call` then loads one.
#[track_caller]
fn assert_an_image_is_charged(call: &str) {
    let machine = two_devices();
    let mut player = player(&machine);
    contexts_of_both(&mut player);
    let idle = charged_bytes(&machine);
    make_all(
        &mut player,
        &[
            "0 cuLibraryLoadData &96 @ptx 0 0 0 0 0 0",
            "0 cuLibraryGetKernel &128 $96 'spin'",
            "0 cuKernelSetAttribute 8 1024 $128 0",
            call,
        ],
    );
    assert_eq!(charged_bytes(&machine), [idle[0] + 2 * MIB, idle[1]]);
}

/// Row 14: the attributes of a kernel can be had without its image, which the launch then loads.
#[test]
fn an_image_that_only_a_launch_loads_is_charged() {
    assert_an_image_is_charged("0 cuLaunchKernel $128 1 1 1 32 1 1 0 0 {d:{w:4}} 0");
}

/// Row 14, the other way round: an attribute can be set without the image that asking for one loads, of whichever device.
#[test]
fn an_image_that_only_a_question_loads_is_charged() {
    for device in [0, 1] {
        assert_an_image_is_charged(&format!("0 cuKernelGetAttribute & 4 $128 {device}"));
    }
}

/// What a call wrote behind variable 96, bare and under a quota.
#[track_caller]
fn assert_answered_as_bare(preparation: &[&str], calls: &[&str]) {
    let answers = |world: &World| -> Vec<(String, u64)> {
        let machine = two_devices();
        let mut player = Player::start(&machine, world);
        contexts_of_both(&mut player);
        make_all(&mut player, preparation);
        let answer = |call: &&str| (player.make(call), player.value(96, 0));
        calls.iter().map(answer).collect()
    };
    let bare = answers(&World::Bare);
    assert!(bare.iter().all(|(status, _)| status == "0"), "{bare:?}");
    assert_eq!(bare, answers(&World::memory(CONTAINER, QUOTA)));
}

/// Row 24: what decides on NVLink, peer-to-peer and symmetric memory is the driver's own answer, under limits, too.
#[test]
fn peers_and_capabilities_are_the_drivers_own_under_a_quota() {
    assert_answered_as_bare(
        &[],
        &[
            "0 cuDeviceCanAccessPeer &96 0 1",
            // Performance rank, access, native atomics.
            "0 cuDeviceGetP2PAttribute &96 1 0 1",
            "0 cuDeviceGetP2PAttribute &96 2 0 1",
            "0 cuDeviceGetP2PAttribute &96 3 0 1",
            // Virtual memory management, multicast, pools, SM count.
            "0 cuDeviceGetAttribute &96 102 0",
            "0 cuDeviceGetAttribute &96 132 0",
            "0 cuDeviceGetAttribute &96 115 0",
            "0 cuDeviceGetAttribute &96 16 0",
        ],
    );
}

/// Latent defect 4: managed memory is said to be managed, and other memory not.
#[test]
fn attributes_of_pointers_are_the_drivers_own_under_a_quota() {
    assert_answered_as_bare(
        &[
            "0 cuMemAllocManaged &128 4194304 1",
            "0 cuMemAlloc_v2 &160 4194304",
        ],
        &[
            "0 cuPointerGetAttribute &96 8 $128",
            "0 cuPointerGetAttribute &96 8 $160",
            "0 cuPointerGetAttribute &96 9 $160",
        ],
    );
}

/// Row 25: a device is its UUID, whatever number `CUDA_VISIBLE_DEVICES` gives it.
#[test]
fn renumbered_devices_keep_their_quotas_and_charges() {
    let machine = two_devices();
    let uuids = machine.device_uuids();
    let quota = format!("{}=600MiB,1GiB", uuids[1]);
    let world = World::limited([
        ("CUDA_HOOK_CONTAINER", CONTAINER),
        ("CUDA_HOOK_MEMORY", quota.as_str()),
        ("CUDA_VISIBLE_DEVICES", "1,0"),
    ]);
    let mut player = Player::start(&machine, &world);
    make_all(
        &mut player,
        &[
            "0 cuInit 0",
            "0 cuDeviceTotalMem_v2 &96 0",
            "0 cuDeviceTotalMem_v2 &128 1",
            "0 cuMemCreate &32 4194304 {w:1,w:0,w:1,w:0} 0",
        ],
    );
    assert_eq!(
        player.value(96, 0),
        600 * MIB,
        "the second board is number 0"
    );
    assert_eq!(player.value(128, 0), 1024 * MIB);
    assert_eq!(charged_bytes(&machine), [0, 4 * MIB]);
}

/// Row 8 and latent defect 7 are the ledger's; row 15: whoever comes second is told the same.
#[test]
fn many_processes_of_a_container_are_each_charged_and_told_the_same() {
    let machine = Machine::new();
    let mut players: Vec<Player> = (0..16).map(|_| player(&machine)).collect();
    for player in &mut players {
        make_all(
            player,
            &[
                "0 cuInit 0",
                "0 cuMemCreate &32 4194304 {w:1,w:0,w:1,w:0} 0",
                "0 cuDeviceTotalMem_v2 &96 0",
            ],
        );
    }
    assert_eq!(charged_bytes(&machine), [16 * 4 * MIB]);
    for player in &mut players {
        assert_eq!(player.value(96, 0), 1024 * MIB);
    }
    players.truncate(4);
    let left: Vec<u64> = accounts::of(&machine, CONTAINER)
        .iter()
        .map(|books| books.charged_bytes)
        .collect();
    assert_eq!(left, [4 * 4 * MIB], "the killed are not counted");
}
