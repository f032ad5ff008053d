//! The second door: no preload, but the library itself where programs look for the driver, by whatever way a file comes
//! there, with the real driver named to it.
#![cfg(test)]

use shim_tests::{
    Door, MIB, Machine, Outcome, Tenant, Trace, World, artefacts, child, program, shared_object,
};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const INVALID_VALUE: u64 = 1;
const OUT_OF_MEMORY: u64 = 2;
const NO_DRIVER: u64 = 303;
const QUOTA_BYTES: u64 = 512 * MIB;

fn limited() -> World {
    World::memory("door", "512MiB").by_second_door()
}

fn second_door() -> PathBuf {
    artefacts().second_door.join("libcuda.so.1")
}

fn simulated_driver() -> PathBuf {
    artefacts().sim.join("libcuda.so.1")
}

/// `command` with another folder before the simulation's on its search path.
fn looking_in<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    let (folder, sim) = (folder.display(), artefacts().sim.display());
    command.env("LD_LIBRARY_PATH", format!("{folder}:{sim}"))
}

/// Asserts that a quota holds to the byte for a tenant that is started so.
#[track_caller]
fn assert_limited(command: &mut Command) {
    let mut tenant = Tenant::spawn(command);
    assert_eq!(tenant.status("context"), 0, "{command:?}");
    let (budget_bytes, total_bytes) = tenant.memory_info();
    assert_eq!(total_bytes, QUOTA_BYTES, "{command:?}");
    assert!(budget_bytes < QUOTA_BYTES, "{command:?}");
    let more = tenant.alloc("a", "cuMemAlloc_v2", budget_bytes + 1);
    assert_eq!(more, OUT_OF_MEMORY, "{command:?}");
    let all = tenant.alloc("a", "cuMemAllocAsync", budget_bytes);
    assert_eq!(all, 0, "{command:?}");
    assert_eq!(tenant.status("free a"), 0, "{command:?}");
    assert_eq!(tenant.free_bytes(), budget_bytes, "{command:?}");
    assert_eq!(tenant.end().stderr, "", "{command:?}");
}

/// What a tool says of a library.
#[track_caller]
fn told(tool: &str, arguments: &[&str], library: &Path) -> String {
    let outcome = child::run(Command::new(tool).args(arguments).arg(library));
    outcome.lines().join("\n")
}

/// Names of the functions that a library exports, and of everything that it exports.
#[track_caller]
fn exports(library: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let listing = told("nm", &["-D", "--defined-only", "--format=posix"], library);
    let of_kinds = |kinds: &str| {
        listing
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(_, kind)| kind.starts_with(|kind| kinds.contains(kind)))
            .map(|(name, _)| name.to_owned())
            .collect()
    };
    (of_kinds("T"), of_kinds("TDRB"))
}

/// The simulated driver exports what any known driver does.
#[test]
fn it_is_named_and_exports_as_the_driver() {
    let (functions, all) = exports(&simulated_driver());
    let (ours, all_ours) = exports(&second_door());
    assert!(functions.len() > 700 && all.len() > functions.len());
    let missing: Vec<_> = functions.difference(&ours).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let beyond: Vec<_> = all_ours.difference(&functions).collect();
    let lookups = ["dlsym", "dlvsym"];
    assert!(
        beyond
            .iter()
            .all(|name| lookups.contains(&name.as_str()) || name.starts_with("nvml")),
        "{beyond:?}"
    );
    let dynamic = told("readelf", &["--dynamic", "--wide"], &second_door());
    for mark in ["soname: [libcuda.so.1]", "NODELETE", "SYMBOLIC"] {
        assert!(dynamic.contains(mark), "{mark}: {dynamic}");
    }
    assert!(!dynamic.contains("TEXTREL"), "{dynamic}");
    let needed = dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split(['[', ']']).nth(1));
    let every_process_has = ["ld-linux-x86-64.so.2", "libc.so.6"];
    assert_eq!(
        needed.collect::<BTreeSet<_>>(),
        BTreeSet::from(every_process_has)
    );
}

#[test]
fn limits_hold_through_every_door() {
    for door in Door::ALL {
        let machine = Machine::new();
        let mut command = machine.command(&limited(), program("tenant", door));
        assert_limited(command.arg(door.name()));
    }
}

/// What a program that uses one of everything wrote, and the calls that reached the driver.
fn observe(world: &World, door: Door) -> (Outcome, Trace) {
    let machine = Machine::new();
    let mut command = machine.command(world, program("body", door));
    let outcome = child::run(command.arg(door.name()));
    let trace = machine.trace();
    (outcome, trace)
}

#[test]
fn without_limits_a_program_makes_the_same_calls_through_every_door() {
    for door in Door::ALL {
        let (bare, calls) = observe(&World::Bare, door);
        let (behind, calls_behind) = observe(&World::Transparent.by_second_door(), door);
        assert_eq!(calls.difference(&calls_behind), None, "{door:?}");
        assert_eq!(bare.lines(), behind.lines(), "{door:?}");
        assert!(calls.calls().len() > 120, "{door:?}: {calls:?}");
    }
}

#[test]
fn a_copy_and_a_link_are_doors_too() {
    let machine = Machine::new();
    let [copied, linked, unversioned] = ["copied", "linked", "unversioned"].map(|name| {
        let folder = machine.path(name);
        fs::create_dir(&folder).expect("a folder");
        folder
    });
    fs::copy(second_door(), copied.join("libcuda.so.1")).expect("a copy");
    symlink(second_door(), linked.join("libcuda.so.1")).expect("a link");
    symlink(second_door(), unversioned.join("libcuda.so.535.1")).expect("a link");
    symlink("libcuda.so.535.1", unversioned.join("libcuda.so.1")).expect("a link");
    for folder in [copied, linked, unversioned] {
        for door in [Door::Linked, Door::Dlopen] {
            let mut command = machine.command(&limited(), program("tenant", door));
            assert_limited(looking_in(&mut command, &folder).arg(door.name()));
        }
    }
}

/// As a container runtime puts a file over another: in a mount namespace of the program's own, which takes root.
#[test]
fn a_mounted_file_is_a_door_too() {
    if !child::can_mount() {
        return;
    }
    let machine = Machine::new();
    let folder = machine.path("driver");
    fs::create_dir(&folder).expect("a folder");
    fs::copy(simulated_driver(), folder.join("libcuda.so.1")).expect("a copy");
    let script = "mount --bind \"$DOOR\" \"$PLACE\" && exec \"$@\"";
    let mut command = machine.command(&limited(), "unshare");
    command
        .env("DOOR", second_door())
        .env("PLACE", folder.join("libcuda.so.1"))
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(program("tenant", Door::Dlopen))
        .arg(Door::Dlopen.name());
    assert_limited(looking_in(&mut command, &folder));
}

/// The one line and the status with which a program that was started so begins, and ends.
#[track_caller]
fn refusal(command: &mut Command) -> (u64, String) {
    let mut tenant = Tenant::spawn(command);
    let status = tenant.status("init");
    let outcome = tenant.end();
    (status, outcome.stderr)
}

#[test]
fn without_a_named_driver_it_fails_closed_and_says_so() {
    for world in [limited(), World::Transparent.by_second_door()] {
        let machine = Machine::new();
        let mut command = machine.command(&world, program("tenant", Door::Linked));
        let (status, line) = refusal(command.env_remove("CUDA_HOOK_DRIVER").arg("linked"));
        assert_eq!(status, INVALID_VALUE, "{world:?}");
        assert!(line.contains("CUDA_HOOK_DRIVER must name"), "{line:?}");
        assert_eq!(line.lines().count(), 1, "{line:?}");
    }
}

#[test]
fn a_named_driver_that_is_none_fails_closed_and_is_named() {
    let machine = Machine::new();
    let text = machine.path("text");
    fs::write(&text, "no library").expect("a file");
    for driver in [machine.path("missing"), text, second_door()] {
        let mut command = machine.command(&limited(), program("tenant", Door::Linked));
        let (status, line) = refusal(command.env("CUDA_HOOK_DRIVER", &driver).arg("linked"));
        assert_eq!(status, INVALID_VALUE, "{driver:?}");
        assert!(line.contains(&*driver.to_string_lossy()), "{line:?}");
        assert_eq!(line.lines().count(), 1, "{line:?}");
    }
}

/// Nothing but the start says so; what is not hooked has no driver to go to.
#[test]
fn without_a_driver_every_other_call_answers_that() {
    let machine = Machine::new();
    let mut command = machine.command(&limited(), program("lacking", Door::Linked));
    let outcome = child::run(command.env_remove("CUDA_HOOK_DRIVER"));
    let expected = format!("{NO_DRIVER} {INVALID_VALUE} {NO_DRIVER} {INVALID_VALUE}\n1 1\n");
    assert_eq!(outcome.stdout, expected, "{outcome:#?}");
}

/// An older driver's gaps are gaps behind the second door: not found where they can be hidden, and no call goes astray.
#[test]
fn what_the_driver_lacks_is_lacking() {
    let machine = Machine::new();
    let old = shared_object("old_driver", "libcuda.so.1");
    let world = World::Transparent.by_second_door();
    let mut command = machine.command(&world, program("lacking", Door::Linked));
    let outcome = child::run(command.env("CUDA_HOOK_DRIVER", old));
    assert_eq!(outcome.lines(), ["0 100 500 500", "0 0"]);
}

#[test]
fn get_proc_address_behind_it_answers_as_the_driver() {
    let machine = Machine::new();
    let requests = [
        "gpa2:cuMemAlloc@3020/0",
        "gpa2:cuMemAlloc@3019/0",
        "gpa1:cuLaunchKernel@12000/2",
        "gpa2:cuGetProcAddress@12000/0",
        "gpa1:cuGetProcAddress@11030/0",
        "gpa2:cuStreamCreate@12000/0",
        "gpa2:cuNoSuchFunction@12000/0",
        "gpa1:cuMemAlloc_v2@12000/0",
        "gpa2:cuMemAlloc@99990/1",
        "gpa2:cuMemAlloc@12000/4",
        "gpa2:@0/0",
    ];
    let lookups = |world: &World| {
        let mut command = machine.command(world, program("lookup", Door::Next));
        let outcome = child::run(command.args(requests));
        outcome.lines().join("\n")
    };
    assert_eq!(lookups(&World::Bare), lookups(&limited()));
}

#[test]
fn a_first_call_keeps_every_argument() {
    let machine = Machine::new();
    let driver = shared_object("register_driver", "libcuda.so.1");
    let run = |world: &World| {
        let mut command = machine.command(world, program("registers", Door::Linked));
        if *world == World::Bare {
            looking_in(&mut command, driver.parent().expect("a folder"));
        }
        child::run(command.env("CUDA_HOOK_DRIVER", &driver))
    };
    let bare = run(&World::Bare);
    assert_eq!(bare.lines(), ["22650", "705", "145678", "876543"]);
    let behind = run(&World::Transparent.by_second_door());
    assert_eq!(bare.lines(), behind.lines());
}
