//! The memory quota: exact, shared by a container's processes, and what a program is told about it.
#![cfg(test)]

use shim_tests::child::can_number;
use shim_tests::{Door, MIB, Machine, Tenant, World, program, two_gpus};
use std::sync::atomic::{AtomicBool, Ordering};

const OUT_OF_MEMORY: u64 = 2;

/// A quota that leaves room whatever a context is charged, and is no multiple of anything.
const QUOTA_BYTES: u64 = 700 * MIB + 12_345;

fn container(name: &str) -> World {
    World::memory(name, &QUOTA_BYTES.to_string())
}

fn tenant(machine: &Machine) -> Tenant {
    Tenant::with_context(machine, &container("one"))
}

/// Fills what is left of the quota to the last byte and asserts that it was the last.
#[track_caller]
fn assert_fills_up(tenant: &mut Tenant) {
    let left_bytes = tenant.free_bytes();
    assert_eq!(tenant.alloc("rest", "cuMemAlloc_v2", left_bytes), 0);
    assert_eq!(tenant.free_bytes(), 0);
    assert_eq!(tenant.alloc("too-much", "cuMemAlloc_v2", 1), OUT_OF_MEMORY);
    assert_eq!(tenant.status("free rest"), 0);
    assert_eq!(tenant.free_bytes(), left_bytes);
}

/// Asserts that an allocator grants the whole quota, in its units, and not a unit more.
#[track_caller]
fn assert_exact(kind: &str, unit_bytes: u64) {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let budget_bytes = tenant.free_bytes();
    let most_bytes = budget_bytes / unit_bytes * unit_bytes;
    assert_eq!(
        tenant.alloc("a", kind, most_bytes + unit_bytes),
        OUT_OF_MEMORY,
        "{kind}: a unit more than the quota"
    );
    assert_eq!(
        tenant.free_bytes(),
        budget_bytes,
        "{kind}: a refusal charges nothing"
    );
    assert_eq!(
        tenant.alloc("a", kind, most_bytes),
        0,
        "{kind}: the whole quota"
    );
    assert_eq!(tenant.free_bytes(), budget_bytes - most_bytes, "{kind}");
    assert_eq!(
        tenant.alloc("b", kind, unit_bytes),
        OUT_OF_MEMORY,
        "{kind}: a unit more"
    );
    assert_eq!(tenant.status("free a"), 0, "{kind}");
    assert_eq!(
        tenant.free_bytes(),
        budget_bytes,
        "{kind}: a free gives back"
    );
    assert_eq!(
        tenant.alloc("b", kind, most_bytes),
        0,
        "{kind}: what was given back"
    );
}

#[test]
fn the_quota_is_exact_to_the_byte() {
    for kind in [
        "cuMemAlloc_v2",
        "cuMemAllocManaged",
        "cuMemAllocAsync",
        "cuMemAllocFromPoolAsync",
    ] {
        assert_exact(kind, 1);
    }
}

#[test]
fn the_quota_is_exact_for_physical_memory() {
    assert_exact("cuMemCreate", 2 * MIB);
}

/// A process outside of all containers, and what the device counts for its context. It stays: what its end gave back
/// would disturb those who measure.
fn bystander(machine: &Machine) -> (Tenant, u64) {
    let bare = Tenant::with_context(machine, &World::Bare);
    let context_bytes = machine.truth_of(bare.pid()).memory_bytes;
    (bare, context_bytes)
}

/// Nobody says beforehand what a context takes: the first is measured, and the container is told of it as of any memory.
#[test]
fn a_context_is_charged_what_it_takes() {
    let machine = Machine::new();
    let (_bystander, context_bytes) = bystander(&machine);
    let mut tenant = tenant(&machine);
    assert_eq!(tenant.free_bytes(), QUOTA_BYTES - context_bytes);
    for kind in ["cuCtxCreate_v2", "cuCtxAttach"] {
        assert_eq!(tenant.alloc("other", kind, 0), 0, "{kind}");
        assert_eq!(
            tenant.free_bytes(),
            QUOTA_BYTES - 2 * context_bytes,
            "{kind}"
        );
        if kind == "cuCtxAttach" {
            assert_eq!(tenant.status("free other"), 0, "the first of two");
            assert_eq!(tenant.free_bytes(), QUOTA_BYTES - 2 * context_bytes);
        }
        assert_eq!(tenant.status("free other"), 0, "{kind}");
        assert_eq!(tenant.free_bytes(), QUOTA_BYTES - context_bytes, "{kind}");
    }
    let mut second = Tenant::with_context(&machine, &container("one"));
    assert_eq!(second.free_bytes(), QUOTA_BYTES - 2 * context_bytes);
    assert_eq!(tenant.status("leave"), 0);
    assert_eq!(second.free_bytes(), QUOTA_BYTES - context_bytes);
}

/// The first context of a board is ended again when it turns out not to fit; later ones are not even made.
#[test]
fn a_context_that_does_not_fit_is_refused() {
    let machine = Machine::new();
    let (_bystander, context_bytes) = bystander(&machine);
    let small = World::memory("small", &(context_bytes - 1).to_string());
    for attempt in ["measured", "known"] {
        let mut tenant = Tenant::start(&machine, &small);
        assert_eq!(tenant.status("context"), OUT_OF_MEMORY, "{attempt}");
        let held = machine.truth_of(tenant.pid()).memory_bytes;
        assert_eq!(held, 0, "{attempt}: nothing is left of it");
    }
    let exact = World::memory("exact", &context_bytes.to_string());
    assert_eq!(Tenant::with_context(&machine, &exact).free_bytes(), 0);
}

/// Several that start at once on a board where nothing is known: one measures, and none is charged for another's context.
#[test]
fn contexts_made_at_once_are_each_charged_their_own() {
    let machine = Machine::new();
    let (_bystander, context_bytes) = bystander(&machine);
    let names: Vec<String> = (0..8).map(|at| format!("starter-{at}")).collect();
    let mut tenants: Vec<Tenant> = names
        .iter()
        .map(|name| Tenant::start(&machine, &container(name)))
        .collect();
    for tenant in &mut tenants {
        tenant.tell("context");
    }
    for tenant in &mut tenants {
        assert_eq!(tenant.hear(), "0");
    }
    let mut latest = Tenant::with_context(&machine, &container("latest"));
    assert_eq!(latest.free_bytes(), QUOTA_BYTES - context_bytes);
}

/// The same in containers, where NVML lists none of them by its own number and what a context takes shows only as the board's difference.
#[test]
fn contexts_made_at_once_in_containers_are_each_charged_their_own() {
    if !can_number() {
        return;
    }
    for _ in 0..3 {
        let machine = Machine::new();
        let (_bystander, context_bytes) = bystander(&machine);
        let start = |at: usize| {
            let mut command = machine.command(&container(&format!("starter-{at}")), "unshare");
            command
                .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
                .arg(program("tenant", Door::Linked))
                .arg(Door::Linked.name());
            Tenant::spawn(&mut command)
        };
        let mut tenants: Vec<Tenant> = (0..8).map(start).collect();
        for tenant in &mut tenants {
            tenant.tell("context");
        }
        for tenant in &mut tenants {
            assert_eq!(tenant.hear(), "0");
        }
        let charged: Vec<u64> = tenants
            .iter_mut()
            .map(|tenant| QUOTA_BYTES - tenant.free_bytes())
            .collect();
        assert_eq!(charged, [context_bytes; 8]);
    }
}

/// Physical memory lives on after its release for as long as it is mapped, and so does its charge.
#[test]
fn what_is_mapped_stays_charged_after_its_release() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let budget_bytes = tenant.free_bytes();
    let (pid, idle_bytes) = (tenant.pid(), machine.truth_of(tenant.pid()).memory_bytes);
    assert_eq!(tenant.alloc("a", "cuMemCreate", 100 * MIB), 0);
    assert_eq!(tenant.status(&format!("map a {}", 100 * MIB)), 0);
    assert_eq!(tenant.status("free a"), 0);
    assert_eq!(tenant.free_bytes(), budget_bytes - 100 * MIB);
    assert_eq!(machine.truth_of(pid).memory_bytes, idle_bytes + 100 * MIB);
    assert_eq!(tenant.status("unmap a"), 0);
    assert_eq!(tenant.free_bytes(), budget_bytes);
    assert_eq!(machine.truth_of(pid).memory_bytes, idle_bytes);
}

/// Asserts that an allocator whose charge is known only afterwards is charged what it took, and undone beyond the quota.
#[track_caller]
fn assert_settled(kind: &str) {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let pid = tenant.pid();
    let (budget_bytes, held_bytes) = (tenant.free_bytes(), machine.truth_of(pid).memory_bytes);
    let told = tenant.numbers(&format!("alloc a {kind} {}", 96 * MIB));
    assert_eq!(told[0], 0, "{kind}");
    let charged_bytes = budget_bytes - tenant.free_bytes();
    assert!(
        charged_bytes >= told[1],
        "{kind}: charged {charged_bytes} for {} bytes",
        told[1]
    );
    if kind == "cuMemAllocPitch_v2" {
        assert_eq!(charged_bytes, told[1], "pitch times height");
    } else {
        let taken_bytes = machine.truth_of(pid).memory_bytes - held_bytes;
        assert_eq!(charged_bytes, taken_bytes, "{kind}: charged, and taken");
    }
    assert_fills_up(&mut tenant);
    assert_eq!(tenant.status("free a"), 0, "{kind}");
    assert_eq!(
        tenant.free_bytes(),
        budget_bytes,
        "{kind}: a free gives back"
    );
    let beyond_bytes = budget_bytes / MIB * MIB + 2 * MIB;
    assert_eq!(
        tenant.alloc("b", kind, beyond_bytes),
        OUT_OF_MEMORY,
        "{kind}"
    );
    assert_eq!(
        tenant.free_bytes(),
        budget_bytes,
        "{kind}: a refusal charges nothing"
    );
    assert_eq!(
        machine.truth_of(pid).memory_bytes,
        held_bytes,
        "{kind}: a refusal holds nothing on the device"
    );
}

#[test]
fn the_pitch_of_a_pitched_block_is_charged() {
    assert_settled("cuMemAllocPitch_v2");
}

#[test]
fn arrays_are_charged() {
    for kind in [
        "cuArrayCreate_v2",
        "cuArray3DCreate_v2",
        "cuMipmappedArrayCreate",
    ] {
        assert_settled(kind);
    }
}

#[test]
fn the_quota_holds_through_every_door() {
    for door in Door::ALL {
        let machine = Machine::new();
        let mut tenant = Tenant::start_by(&machine, &container("one"), door);
        assert_eq!(tenant.status("context"), 0, "{door:?}");
        let budget_bytes = tenant.free_bytes();
        assert!(budget_bytes <= QUOTA_BYTES, "{door:?}");
        for kind in ["cuMemAlloc_v2", "cuMemAllocAsync"] {
            assert_eq!(
                tenant.alloc("a", kind, budget_bytes + 1),
                OUT_OF_MEMORY,
                "{door:?} {kind}"
            );
            assert_eq!(tenant.alloc("a", kind, budget_bytes), 0, "{door:?} {kind}");
            assert_eq!(tenant.status("free a"), 0, "{door:?} {kind}");
        }
        assert_eq!(tenant.free_bytes(), budget_bytes, "{door:?}");
    }
}

#[test]
fn host_memory_is_not_charged() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let budget_bytes = tenant.free_bytes();
    assert_eq!(tenant.alloc("a", "cuMemAllocHost_v2", 8 * MIB), 0);
    assert_eq!(tenant.free_bytes(), budget_bytes);
}

/// What the limiter grants, the device really gave: the ledger is not a story of its own.
#[test]
fn the_device_holds_what_was_granted() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let pid = tenant.pid();
    let before = machine.truth_of(pid).memory_bytes;
    assert_eq!(tenant.alloc("a", "cuMemAlloc_v2", 64 * MIB), 0);
    assert_eq!(machine.truth_of(pid).memory_bytes, before + 64 * MIB);
    assert_eq!(
        tenant.alloc("b", "cuMemAlloc_v2", QUOTA_BYTES),
        OUT_OF_MEMORY
    );
    assert_eq!(machine.truth_of(pid).memory_bytes, before + 64 * MIB);
    assert_eq!(tenant.status("free a"), 0);
    assert_eq!(machine.truth_of(pid).memory_bytes, before);
}

/// Frees that the driver refuses are its to answer, and give nothing back.
#[test]
fn a_wrong_free_gets_the_drivers_own_answer() {
    let answers = |world: &World| {
        let machine = Machine::new();
        let mut tenant = Tenant::with_context(&machine, world);
        assert_eq!(tenant.alloc("kept", "cuMemAlloc_v2", MIB), 0);
        assert_eq!(tenant.alloc("freed", "cuMemAlloc_v2", MIB), 0);
        let frees = [
            "free freed",
            "free freed",
            "free-address 0",
            "free-address 4660",
            "free freed",
        ];
        let statuses = frees.map(|command| tenant.status(command));
        (statuses, tenant.free_bytes())
    };
    let (bare, _) = answers(&World::Bare);
    let (limited, free_bytes) = answers(&container("one"));
    assert_eq!(bare, limited);
    let machine = Machine::new();
    assert_eq!(
        free_bytes,
        tenant(&machine).free_bytes() - MIB,
        "only one of two blocks came back"
    );
}

#[test]
fn processes_of_a_container_share_its_quota() {
    let machine = Machine::new();
    let (mut first, mut second) = (tenant(&machine), tenant(&machine));
    let budget_bytes = first.free_bytes();
    assert_eq!(
        second.free_bytes(),
        budget_bytes,
        "both see what the container has left"
    );
    assert_eq!(first.alloc("a", "cuMemAlloc_v2", 200 * MIB), 0);
    assert_eq!(second.free_bytes(), budget_bytes - 200 * MIB);
    assert_eq!(
        second.alloc("b", "cuMemAlloc_v2", budget_bytes - 200 * MIB + 1),
        OUT_OF_MEMORY
    );
    assert_eq!(
        second.alloc("b", "cuMemAlloc_v2", budget_bytes - 200 * MIB),
        0
    );
    assert_eq!(first.alloc("c", "cuMemAlloc_v2", 1), OUT_OF_MEMORY);
    assert_eq!(first.status("free a"), 0);
    assert_eq!(second.free_bytes(), 200 * MIB);
}

#[test]
fn a_process_that_ends_gives_its_memory_back() {
    let machine = Machine::new();
    let mut stays = tenant(&machine);
    let alone_bytes = stays.free_bytes();
    let mut ends = tenant(&machine);
    let left_bytes = ends.free_bytes();
    assert_eq!(ends.alloc("all", "cuMemAlloc_v2", left_bytes), 0);
    assert!(ends.end().status.success());
    assert_eq!(stays.alloc("all", "cuMemAlloc_v2", alone_bytes), 0);
}

#[test]
fn a_killed_process_gives_its_memory_back_at_the_next_attempt() {
    let machine = Machine::new();
    let mut stays = tenant(&machine);
    let alone_bytes = stays.free_bytes();
    let mut killed = tenant(&machine);
    let left_bytes = killed.free_bytes();
    assert_eq!(killed.alloc("all", "cuMemAlloc_v2", left_bytes), 0);
    assert_eq!(stays.alloc("some", "cuMemAlloc_v2", MIB), OUT_OF_MEMORY);
    killed.kill();
    assert_eq!(
        stays.alloc("all", "cuMemAlloc_v2", alone_bytes),
        0,
        "the first attempt after the kill"
    );
}

#[test]
fn containers_do_not_touch_each_other() {
    let machine = Machine::new();
    let mut one = Tenant::with_context(&machine, &container("one"));
    let mut other = Tenant::with_context(&machine, &container("other"));
    let (one_bytes, other_bytes) = (one.free_bytes(), other.free_bytes());
    assert_eq!(one.alloc("all", "cuMemAlloc_v2", one_bytes), 0);
    assert_eq!(other.free_bytes(), other_bytes);
    assert_eq!(other.alloc("all", "cuMemAlloc_v2", other_bytes), 0);
    assert_eq!(one.alloc("more", "cuMemAlloc_v2", 1), OUT_OF_MEMORY);
    assert_eq!(other.status("free all"), 0);
    assert_eq!(
        one.alloc("more", "cuMemAlloc_v2", 1),
        OUT_OF_MEMORY,
        "another container's free bytes are not ours"
    );
}

/// Eight processes race for a quota that a few of their blocks fill; the device is asked all the while.
#[test]
fn a_race_never_exceeds_the_quota() {
    let machine = Machine::new();
    // Large blocks in whole pages: what the device backs is then what was asked for.
    let quota_bytes = 2048 * MIB;
    let world = World::memory("racers", &quota_bytes.to_string());
    let mut racers: Vec<Tenant> = (0..8)
        .map(|_| Tenant::with_context(&machine, &world))
        .collect();
    let budget_bytes = racers[0].free_bytes();
    let idle_bytes = machine.truth_of_container("racers").memory_bytes;
    let finished = AtomicBool::new(false);
    let (peak_bytes, samples) = std::thread::scope(|scope| {
        scope.spawn(|| {
            for (seed, racer) in (1..).zip(&mut racers) {
                racer.tell(&format!("churn {seed} 400 {} 16", 8 * MIB));
            }
            let sum = racers
                .iter_mut()
                .map(Tenant::hear)
                .fold([0; 3], |sum: [u64; 3], answer| {
                    let counts: Vec<u64> = answer
                        .split(' ')
                        .map(|word| word.parse().expect("a count"))
                        .collect();
                    [sum[0] + counts[0], sum[1] + counts[1], sum[2] + counts[2]]
                });
            finished.store(true, Ordering::Release);
            assert!(
                sum[0] > 0 && sum[1] > 0,
                "the race is for something: {sum:?}"
            );
            assert_eq!(sum[2], 0, "granted or out of memory, nothing else: {sum:?}");
        });
        let (mut peak_bytes, mut samples) = (0, 0);
        while !finished.load(Ordering::Acquire) {
            peak_bytes = machine
                .truth_of_container("racers")
                .memory_bytes
                .saturating_sub(idle_bytes)
                .max(peak_bytes);
            samples += 1;
        }
        (peak_bytes, samples)
    });
    assert!(
        peak_bytes <= budget_bytes,
        "{peak_bytes} bytes on the device, {budget_bytes} granted to all"
    );
    assert!(
        peak_bytes > budget_bytes / 2,
        "the race came near the quota: {peak_bytes} of {budget_bytes} in {samples} samples"
    );
    assert_eq!(
        racers[0].free_bytes(),
        budget_bytes,
        "nothing stays charged"
    );
    assert_eq!(
        machine.truth_of_container("racers").memory_bytes,
        idle_bytes
    );
}

/// One process whose blocks all fit is never refused.
#[test]
fn a_refusal_is_never_spurious() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let counts = tenant.numbers(&format!("churn 7 2000 {MIB} 60"));
    assert_eq!(counts, [2000, 0, 0]);
}

#[test]
fn a_program_sees_its_quota_as_the_board() {
    let machine = Machine::new();
    let mut tenant = Tenant::with_context(&machine, &World::memory("view", "4GiB"));
    let before_bytes = tenant.free_bytes();
    assert_eq!(tenant.alloc("a", "cuMemAlloc_v2", 1 << 30), 0);
    let (free_bytes, total_bytes) = tenant.memory_info();
    assert_eq!(
        (free_bytes, total_bytes),
        (before_bytes - (1 << 30), 4 << 30)
    );
    assert_eq!(tenant.numbers("total"), [0, 4 << 30]);
    let nvml = tenant.numbers("nvml");
    assert_eq!(nvml[0], 0);
    for view in [&nvml[1..4], &nvml[4..7]] {
        assert_eq!(view[0], 4 << 30, "total of {nvml:?}");
        assert_eq!(view[1], free_bytes, "free of {nvml:?}");
        assert!(
            view[2] >= 1 << 30 && view[1] + view[2] <= 4 << 30,
            "used of {nvml:?}"
        );
    }
}

/// As `nvidia-smi` does: NVML without a CUDA context.
#[test]
fn nvml_alone_shows_the_quota() {
    let machine = Machine::new();
    let mut holder = tenant(&machine);
    assert_eq!(holder.alloc("a", "cuMemAlloc_v2", 100 * MIB), 0);
    let free_bytes = holder.free_bytes();
    let mut looker = Tenant::start(&machine, &container("one"));
    let nvml = looker.numbers("nvml");
    assert_eq!([nvml[0], nvml[1], nvml[2]], [0, QUOTA_BYTES, free_bytes]);
}

#[test]
fn a_quota_above_the_board_shows_the_board() {
    let machine = Machine::new();
    let mut tenant = Tenant::with_context(&machine, &World::memory("large", "1TiB"));
    let physical_bytes = machine.memory_bytes();
    assert_eq!(tenant.memory_info().1, physical_bytes);
    assert_eq!(tenant.numbers("total"), [0, physical_bytes]);
    let nvml = tenant.numbers("nvml");
    let mut bare = Tenant::with_context(&machine, &World::Bare);
    let board = bare.numbers("nvml");
    assert_eq!(
        (nvml[1], nvml[4]),
        (board[1], board[4]),
        "NVML's totals are the board's"
    );
}

/// Free is what is left of the quota, unless the board itself has less.
#[test]
fn a_neighbour_that_fills_the_board_shows_as_less_free_memory() {
    let machine = Machine::new();
    let mut neighbour = Tenant::with_context(&machine, &World::Bare);
    let mut tenant = Tenant::with_context(&machine, &World::memory("squeezed", "8GiB"));
    let board_bytes = neighbour.free_bytes();
    assert_eq!(
        neighbour.alloc(
            "most",
            "cuMemAlloc_v2",
            (board_bytes - (1 << 30)) / MIB * MIB
        ),
        0
    );
    let (free_bytes, total_bytes) = tenant.memory_info();
    assert_eq!(total_bytes, 8 << 30);
    assert_eq!(
        free_bytes,
        neighbour.free_bytes(),
        "what the board has left"
    );
    assert_eq!(
        tenant.alloc("a", "cuMemAlloc_v2", 2 << 30),
        OUT_OF_MEMORY,
        "the driver's own refusal"
    );
    assert_eq!(tenant.free_bytes(), free_bytes, "charges nothing");
}

/// Memory is charged to the device that holds it, whatever device is current.
#[test]
fn the_device_that_holds_the_bytes_is_charged() {
    let machine = Machine::with_profile(&two_gpus());
    let world = World::memory("two", &QUOTA_BYTES.to_string());
    let (mut here, mut there) = (
        Tenant::start(&machine, &world),
        Tenant::start(&machine, &world),
    );
    assert_eq!(
        (here.status("context 0"), there.status("context 1")),
        (0, 0)
    );
    let (here_bytes, there_bytes) = (here.free_bytes(), there.free_bytes());
    assert_eq!(here.status("on 1"), 0);
    assert_eq!(here.alloc("a", "cuMemCreate", 100 * MIB), 0);
    assert_eq!(
        (here.free_bytes(), there.free_bytes()),
        (here_bytes, there_bytes - 100 * MIB)
    );
    assert_eq!(
        there.alloc("b", "cuMemAlloc_v2", there_bytes - 100 * MIB + 1),
        OUT_OF_MEMORY
    );
    assert_eq!(here.status("free a"), 0);
    assert_eq!(
        (here.free_bytes(), there.free_bytes()),
        (here_bytes, there_bytes)
    );
}
