//! Memory past a container's guarantee: who borrows, and who is refused first when the GPU is full.
#![cfg(test)]

use serde_json::Value;
use shim_tests::child::run;
use shim_tests::{MIB, Machine, Tenant, World, artefacts};

const GIB: u64 = 1024 * MIB;
const OUT_OF_MEMORY: u64 = 2;

/// A container that is guaranteed so much, and may have all of the GPU.
fn borrower(name: &str, soft: &str) -> World {
    World::limited([
        ("CUDA_HOOK_CONTAINER", name),
        ("CUDA_HOOK_MEMORY_SOFT", soft),
    ])
}

/// Allocates blocks of that size until one is refused; how many there were.
#[track_caller]
fn fill(tenant: &mut Tenant, kind: &str, block_bytes: u64) -> usize {
    let names = (0..).map(|number| format!("{kind}{number}"));
    let mut granted = names.map(|name| tenant.alloc(&name, kind, block_bytes));
    let count = granted.by_ref().take_while(|status| *status == 0).count();
    assert!(count < 60, "nothing was refused");
    count
}

/// `cuda-hook status`, as text and as JSON.
fn status(machine: &Machine) -> (String, Value) {
    let look = |options: &[&str]| {
        let mut command = machine.command(&World::Bare, &artefacts().command);
        let outcome = run(command.arg("status").args(options));
        assert!(outcome.status.success(), "{outcome:?}");
        outcome.stdout
    };
    let json = serde_json::from_str(&look(&["--json"])).expect("JSON");
    (look(&[]), json)
}

fn device_of<'a>(json: &'a Value, container: &str) -> &'a Value {
    let containers = json["containers"].as_array().expect("a list");
    let found = containers.iter().find(|one| one["container"] == container);
    &found.expect("the container")["devices"][0]
}

#[test]
fn the_borrower_is_refused_first_and_who_is_guaranteed_has_all_of_it() {
    let machine = Machine::new();
    let mut guaranteed = Tenant::with_context(&machine, &World::memory("guaranteed", "6GiB"));
    let mut greedy = Tenant::with_context(&machine, &borrower("greedy", "2GiB"));
    let granted = fill(&mut greedy, "cuMemAlloc_v2", 512 * MIB);
    let rest = fill(&mut greedy, "cuMemCreate", 64 * MIB);
    assert!(granted > 4 && rest < 8, "{granted} and {rest}");
    let pools = greedy.alloc("pooled", "cuMemAllocAsync", 512 * MIB);
    assert_eq!(pools, OUT_OF_MEMORY);

    let (text, json) = status(&machine);
    assert!(text.contains("greedy: borrows "), "{text}");
    let device = device_of(&json, "greedy");
    let [current, borrowed] = ["memory_bytes_current", "memory_bytes_borrowed"]
        .map(|field| device[field].as_u64().expect("bytes"));
    assert_eq!(current, borrowed + 2 * GIB);
    assert_eq!(device_of(&json, "guaranteed")["memory_bytes_borrowed"], 0);
    assert_eq!(json["gpus"][0]["memory_bytes_borrowed"], borrowed);
    assert_eq!(json["gpus"][0]["memory_bytes_guaranteed"], 8 * GIB);
    assert_eq!(
        json["gpus"][0]["memory_bytes_total"],
        machine.memory_bytes()
    );

    let own = guaranteed.free_bytes();
    assert!(own > 5 * GIB, "{own}");
    assert_eq!(guaranteed.alloc("all", "cuMemAlloc_v2", own), 0);
    assert_eq!(guaranteed.alloc("more", "cuMemAlloc_v2", 1), OUT_OF_MEMORY);
    assert_eq!(
        greedy.alloc("late", "cuMemAlloc_v2", 512 * MIB),
        OUT_OF_MEMORY
    );
}

/// What a program is told is what it can have, to the byte.
#[test]
fn a_borrower_is_told_what_it_can_have() {
    let machine = Machine::new();
    let _guaranteed = Tenant::with_context(&machine, &World::memory("guaranteed", "6GiB"));
    let mut greedy = Tenant::with_context(&machine, &borrower("greedy", "2GiB"));
    let free = greedy.free_bytes() / MIB * MIB;
    assert!(free < machine.memory_bytes() - 6 * GIB, "{free}");
    assert_eq!(
        greedy.alloc("a", "cuMemAlloc_v2", free + 4 * MIB),
        OUT_OF_MEMORY
    );
    assert_eq!(greedy.alloc("a", "cuMemAlloc_v2", free), 0);
}

#[test]
fn what_a_killed_borrower_had_is_lent_again() {
    let machine = Machine::new();
    let world = borrower("greedy", "1GiB");
    let mut greedy = Tenant::with_context(&machine, &world);
    assert!(fill(&mut greedy, "cuMemAlloc_v2", GIB) > 8);
    let mut next = Tenant::with_context(&machine, &borrower("next", "1GiB"));
    assert_eq!(next.alloc("early", "cuMemAlloc_v2", 2 * GIB), OUT_OF_MEMORY);
    greedy.kill();
    // The device gives its memory back a little later than the kernel its locks.
    let mut granted = || next.alloc("late", "cuMemAlloc_v2", 8 * GIB) == 0;
    assert!((0..2_000).any(|_| granted()), "nothing came back");
    let (text, _) = status(&machine);
    assert!(text.contains("next: borrows 7."), "{text}");
}

/// A program without limits is on nobody's books: what it has is seen, and not lent.
#[test]
fn what_a_program_without_limits_has_is_not_lent() {
    let machine = Machine::new();
    let mut outside = Tenant::with_context(&machine, &World::Bare);
    assert_eq!(outside.alloc("held", "cuMemAlloc_v2", 4 * GIB), 0);
    let mut guaranteed = Tenant::with_context(&machine, &World::memory("guaranteed", "3GiB"));
    let mut greedy = Tenant::with_context(&machine, &borrower("greedy", "1GiB"));
    fill(&mut greedy, "cuMemAlloc_v2", 256 * MIB);
    let own = guaranteed.free_bytes();
    assert_eq!(guaranteed.alloc("all", "cuMemAlloc_v2", own), 0);
    let (_, json) = status(&machine);
    let seen = json["gpus"][0]["memory_bytes_outside"].as_u64();
    assert!(seen.is_some_and(|bytes| bytes >= 4 * GIB), "{seen:?}");
}

#[test]
fn more_guarantees_than_the_gpu_has_are_said() {
    let machine = Machine::new();
    let _tenants = ["a", "b"].map(|name| {
        let mut tenant = Tenant::start(&machine, &World::memory(name, "12GiB"));
        assert_eq!(tenant.status("init"), 0);
        tenant
    });
    let (text, _) = status(&machine);
    assert!(
        text.contains("24 GiB of GPU-") && text.contains("no guarantee is sure"),
        "{text}"
    );
}

#[test]
fn a_guarantee_changes_while_programs_run() {
    let machine = Machine::new();
    let mut one = Tenant::with_context(&machine, &borrower("one", "1GiB"));
    let _other = Tenant::with_context(&machine, &World::memory("other", "10GiB"));
    assert_eq!(one.alloc("a", "cuMemAlloc_v2", 6 * GIB), OUT_OF_MEMORY);
    let mut command = machine.command(&World::Bare, &artefacts().command);
    let outcome = run(command.args(["set", "other", "--memory-soft", "2GiB"]));
    assert!(
        outcome.stdout.contains("memory_soft all -> 2 GiB"),
        "{outcome:?}"
    );
    assert_eq!(one.alloc("a", "cuMemAlloc_v2", 6 * GIB), 0);
}

/// A container that is guaranteed 1 GiB, may have 4, and spills.
fn spilling() -> World {
    World::limited([
        ("CUDA_HOOK_CONTAINER", "spilling"),
        ("CUDA_HOOK_MEMORY", "4GiB"),
        ("CUDA_HOOK_MEMORY_SOFT", "1GiB"),
        ("CUDA_HOOK_SPILL", "true"),
    ])
}

#[test]
fn what_is_past_the_guarantee_lies_on_the_host_and_is_counted_apart() {
    let machine = Machine::new();
    let mut tenant = Tenant::with_context(&machine, &spilling());
    assert_eq!(tenant.alloc("own", "cuMemAlloc_v2", 512 * MIB), 0);
    let on_device = machine.truth_of(tenant.pid()).memory_bytes;
    let free = tenant.free_bytes();
    assert_eq!(tenant.alloc("past", "cuMemAlloc_v2", GIB), 0);
    assert_eq!(machine.truth_of(tenant.pid()).memory_bytes, on_device);
    assert_eq!(tenant.free_bytes(), free - GIB, "the quota bounds both");
    let (text, json) = status(&machine);
    assert!(text.contains("spilling: 1 GiB beside GPU-"), "{text}");
    let device = device_of(&json, "spilling");
    assert_eq!(device["memory_bytes_spilled"], GIB);
    assert_eq!(device["memory_bytes_borrowed"], 0);

    assert_eq!(tenant.alloc("rest", "cuMemAlloc_v2", free - GIB), 0);
    assert_eq!(tenant.alloc("more", "cuMemAlloc_v2", GIB), OUT_OF_MEMORY);
    for name in ["past", "rest"] {
        assert_eq!(tenant.status(&format!("free {name}")), 0);
    }
    assert_eq!(tenant.free_bytes(), free);
    let (_, json) = status(&machine);
    assert_eq!(device_of(&json, "spilling")["memory_bytes_spilled"], 0);
}

/// What cannot be managed memory is borrowed, as without a spill.
#[test]
fn what_cannot_be_spilled_is_borrowed() {
    let machine = Machine::new();
    let mut tenant = Tenant::with_context(&machine, &spilling());
    for (name, kind) in [
        ("a", "cuMemCreate"),
        ("b", "cuMemAllocAsync"),
        ("c", "cuMemAllocManaged"),
    ] {
        assert_eq!(tenant.alloc(name, kind, 512 * MIB), 0, "{kind}");
    }
    let (_, json) = status(&machine);
    let device = device_of(&json, "spilling");
    assert_eq!(device["memory_bytes_spilled"], 0);
    assert!(
        device["memory_bytes_borrowed"].as_u64() > Some(512 * MIB),
        "{device}"
    );
}

/// On a full GPU, too: that is what it is for.
#[test]
fn a_full_gpu_is_spilled_beside() {
    let machine = Machine::new();
    let mut tenant = Tenant::with_context(&machine, &spilling());
    let mut outside = Tenant::with_context(&machine, &World::Bare);
    let rest = outside.free_bytes();
    assert_eq!(outside.alloc("all", "cuMemAlloc_v2", rest), 0);
    assert_eq!(tenant.alloc("past", "cuMemAlloc_v2", 2 * GIB), 0);
    tenant.kill();
}
