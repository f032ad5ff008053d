//! A driver newer than this version: what nobody here knows passes, unless the operator is strict.
#![cfg(test)]

use shim_tests::{Door, Machine, Outcome, World, artefacts, child, program, shared_object};
use std::fs;

/// What is asked, what the driver answers, and what it seems to answer under limits and `strict`.
const REQUESTS: [(&str, &str, &str); 13] = [
    ("handle:cuMemAllocNew", "libcuda.so.1 cuMemAllocNew", "null"),
    (
        "default:cuMemAllocNew",
        "libcuda.so.1 cuMemAllocNew",
        "null",
    ),
    ("next:cuMemAllocNew", "libcuda.so.1 cuMemAllocNew", "null"),
    ("dlvsym:cuMemAllocNew", "libcuda.so.1 cuMemAllocNew", "null"),
    ("handle:cuMemAlloc_v3", "libcuda.so.1 cuMemAlloc_v3", "null"),
    (
        "gpa1:cuMemAllocNew@15000/0",
        "0 libcuda.so.1 cuMemAllocNew",
        "500 untouched",
    ),
    (
        "gpa2:cuMemAllocNew@15000/2",
        "0 0 libcuda.so.1 cuMemAllocNew",
        "0 1 null",
    ),
    (
        "gpa1:cuMemAlloc@15000/0",
        "0 libcuda.so.1 cuMemAlloc_v3",
        "500 untouched",
    ),
    (
        "gpa2:cuMemAlloc@15000/0",
        "0 0 libcuda.so.1 cuMemAlloc_v3",
        "0 1 null",
    ),
    (
        "handle:cuDeviceGetNews",
        "libcuda.so.1 cuDeviceGetNews",
        "libcuda.so.1 cuDeviceGetNews",
    ),
    (
        "gpa2:cuDeviceGetNews@15000/0",
        "0 0 libcuda.so.1 cuDeviceGetNews",
        "0 0 libcuda.so.1 cuDeviceGetNews",
    ),
    ("handle:cuMemAllocOfNobody", "null", "null"),
    ("gpa2:cuMemAllocOfNobody@15000/0", "0 1 null", "0 1 null"),
];

/// Known names, which are ours under limits, strict or not.
const KNOWN: [(&str, &str); 2] = [
    ("handle:cuMemAlloc_v2", "libcuda_hook.so cuMemAlloc_v2"),
    (
        "gpa2:cuMemAlloc@12000/0",
        "0 0 libcuda_hook.so cuMemAlloc_v2",
    ),
];

fn look_up(machine: &Machine, world: &World) -> Outcome {
    let newer = shared_object("newer_driver", "libcuda.so.1");
    let (folder, sim) = (newer.parent().expect("a folder"), &artefacts().sim);
    let mut command = machine.command(world, program("lookup", Door::Next));
    let requests = REQUESTS.iter().map(|(request, ..)| request);
    command
        .env(
            "LD_LIBRARY_PATH",
            format!("{}:{}", folder.display(), sim.display()),
        )
        .args(requests)
        .args(KNOWN.map(|(request, _)| request));
    child::run(&mut command)
}

/// The answers to what is not known, and to what is.
fn answers(outcome: &Outcome) -> (Vec<String>, Vec<String>) {
    assert!(outcome.status.success(), "{outcome:#?}");
    let mut answers: Vec<_> = outcome
        .stdout
        .lines()
        .map(|line| line.split_once(' ').expect("an answer").1.to_owned())
        .collect();
    let known = answers.split_off(REQUESTS.len());
    (answers, known)
}

fn strict(limits: &[(&str, &str)]) -> World {
    World::limited([&[("CUDA_HOOK_STRICT", "true")], limits].concat())
}

#[test]
fn what_nobody_knows_passes_by_default() {
    let machine = Machine::new();
    for world in [
        World::Bare,
        World::Transparent,
        World::memory("newer", "1GiB"),
        strict(&[]),
    ] {
        let outcome = look_up(&machine, &world);
        assert_eq!(
            answers(&outcome).0,
            REQUESTS.map(|(_, bare, _)| bare),
            "{world:?}"
        );
        assert_eq!(outcome.stderr, "", "{world:?}");
    }
}

/// Whoever sets limits and says `strict` would rather have a program fail than be used by functions that nobody watches.
#[test]
fn under_strict_what_sounds_like_use_is_not_found_and_that_is_said_once() {
    let machine = Machine::new();
    let path = machine.path("config.toml");
    fs::write(&path, "strict = true\n[limits]\nmemory = \"1GiB\"\n").expect("a config file");
    let path = path.to_str().expect("a path in text");
    for world in [
        strict(&[("CUDA_HOOK_MEMORY", "1GiB")]),
        World::limited([("CUDA_HOOK_CONFIG", path)]),
        World::limited([("CUDA_HOOK_CONFIG", path), ("CUDA_HOOK_STRICT", "false")]),
    ] {
        let outcome = look_up(&machine, &world);
        let (unknown, known) = answers(&outcome);
        assert_eq!(unknown, REQUESTS.map(|(.., strict)| strict), "{world:?}");
        assert_eq!(known, KNOWN.map(|(_, ours)| ours), "{world:?}");
        let said: Vec<&str> = outcome.stderr.lines().collect();
        assert!(
            said.len() == 1 && said[0].contains("strict") && said[0].contains("cuMemAllocNew"),
            "{said:?}"
        );
    }
}
