//! Fork: a child holds nothing of its parent's, gives nothing of it back, and keeps none of it alive.
#![cfg(test)]

use shim_tests::{MIB, Machine, Tenant, World};

const OUT_OF_MEMORY: u64 = 2;

fn container() -> World {
    World::memory("family", "700MiB")
}

/// What a child does with the driver of its parent is answered by the driver; the preload adds nothing.
#[test]
fn a_child_of_a_cuda_process_gets_the_drivers_own_answers() {
    let answers = |world: &World| {
        let machine = Machine::new();
        let mut parent = Tenant::with_context(&machine, world);
        assert_eq!(parent.alloc("a", "cuMemAlloc_v2", MIB), 0);
        parent.ask("fork init; alloc b cuMemAlloc_v2 4096; free a; context")
    };
    assert_eq!(answers(&World::Bare), answers(&container()));
}

#[test]
fn a_child_gives_none_of_its_parents_bytes_back() {
    let machine = Machine::new();
    let mut parent = Tenant::with_context(&machine, &container());
    assert_eq!(parent.alloc("a", "cuMemAlloc_v2", 200 * MIB), 0);
    let free_bytes = parent.free_bytes();
    for _ in 0..3 {
        parent.ask("fork free a; pid");
        assert_eq!(parent.free_bytes(), free_bytes);
    }
    let mut sibling = Tenant::with_context(&machine, &container());
    assert!(sibling.free_bytes() <= free_bytes);
    assert_eq!(parent.status("free a"), 0);
}

/// A process that forks before it uses CUDA: parent and child are two processes of the container.
#[test]
fn a_child_that_starts_cuda_itself_is_charged_itself() {
    let machine = Machine::new();
    let mut parent = Tenant::start(&machine, &container());
    let answer = parent.ask("fork context; alloc a cuMemAlloc_v2 314572800; info");
    let words: Vec<&str> = answer
        .split([' ', ';'])
        .filter(|word| !word.is_empty())
        .collect();
    assert_eq!(words[..3], ["0", "0", "314572800"], "{answer}");
    let child_free_bytes: u64 = words[4].parse().expect("free bytes");
    assert!(child_free_bytes <= 400 * MIB, "{answer}");
    assert_eq!(parent.status("context"), 0);
    assert!(
        parent.free_bytes() >= child_free_bytes + 300 * MIB,
        "the child is gone and its bytes with it"
    );
}

#[test]
fn parent_and_child_share_the_quota() {
    let machine = Machine::new();
    let mut parent = Tenant::start(&machine, &container());
    let mut elder = Tenant::with_context(&machine, &container());
    assert_eq!(elder.alloc("a", "cuMemAlloc_v2", 400 * MIB), 0);
    let answer = parent.ask(&format!(
        "fork context; alloc a cuMemAlloc_v2 {}",
        400 * MIB
    ));
    assert!(
        answer.ends_with(&format!("; {OUT_OF_MEMORY} 0")),
        "{answer}"
    );
}

/// A child that has neither exec'd nor ended inherits descriptors; it must not keep a dead parent's quota alive.
#[test]
fn an_orphan_does_not_keep_the_quota_of_its_parent() {
    let machine = Machine::new();
    let mut parent = Tenant::with_context(&machine, &container());
    let mut other = Tenant::with_context(&machine, &container());
    let left_bytes = parent.free_bytes();
    assert_eq!(parent.alloc("all", "cuMemAlloc_v2", left_bytes), 0);
    let _orphan_pid = parent.ask("orphan");
    assert_eq!(other.alloc("a", "cuMemAlloc_v2", MIB), OUT_OF_MEMORY);
    let orphans_input = parent.kill_keeping_input();
    assert_eq!(
        other.alloc("a", "cuMemAlloc_v2", left_bytes),
        0,
        "the orphan still lives"
    );
    drop(orphans_input);
}

/// A launcher that forks and execs, as every shell does: what counts is the program that came of it.
#[test]
fn a_program_started_by_a_shell_is_charged() {
    let machine = Machine::new();
    let program = shim_tests::program("tenant", shim_tests::Door::Linked);
    let mut shell = machine.command(&container(), "sh");
    shell
        .args(["-c", "true | cat; \"$0\" linked; exit 0"])
        .arg(program);
    let mut tenant = Tenant::spawn(&mut shell);
    assert_eq!(tenant.status("context"), 0);
    let left_bytes = tenant.free_bytes();
    assert_eq!(
        tenant.alloc("a", "cuMemAlloc_v2", left_bytes + 1),
        OUT_OF_MEMORY
    );
    assert!(tenant.end().status.success());
}
