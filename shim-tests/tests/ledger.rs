//! The ledger under many processes, in short: `scripts/ledger` plays longer.
#![cfg(test)]

use limiter::{clock, sample};
use shim_tests::ledger::{chaos, kills, races};
use shim_tests::{Door, Machine, Tenant, World, child, program};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// A quarter of the rounds overshoot where a quota is looked at, the driver called, and the books written after.
#[test]
fn of_processes_at_the_edge_one_is_granted_however_slow_the_driver() {
    for (delay_us, rounds) in [(0, 600), (100, 300), (300, 300)] {
        let races = races::run(4, rounds, delay_us).unwrap_or_else(|what| panic!("{what}"));
        assert_eq!(races.refused_to_all, 0, "{races:?}");
        assert!(races.peak_bytes > races.quota_bytes / 2, "{races:?}");
    }
}

#[test]
fn whenever_a_process_is_killed_what_comes_next_is_right() {
    let kills = kills::run(40, 11).unwrap_or_else(|what| panic!("{what}"));
    println!("{kills:?}");
}

#[test]
fn chaos_never_ends_with_books_that_are_wrong() {
    let chaos = chaos::run(24, 5, |phases| phases == 6).unwrap_or_else(|what| panic!("{what}"));
    println!("{chaos:?}");
    assert!(chaos.granted > 0 && chaos.kills > 0, "{chaos:?}");
}

const CLOSED: u64 = 1; // CUDA_ERROR_INVALID_VALUE

/// Asserts that a program under limits does not start, and says so in one line that has `reason` in it.
#[track_caller]
fn assert_closed(command: &mut Command, reason: &str) {
    let mut tenant = Tenant::spawn(command);
    assert_eq!(tenant.status("init"), CLOSED, "{reason}");
    let stderr = tenant.end().stderr;
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains("limits cannot be enforced") && stderr.contains(reason),
        "{stderr}"
    );
}

/// A machine on which a container has run, the container's ledger, and a further program of that container.
fn container_that_ran() -> (Machine, PathBuf, Command) {
    let machine = Machine::new();
    let world = World::memory("closed", "1GiB");
    let mut tenant = Tenant::start(&machine, &world);
    assert_eq!(tenant.status("init"), 0);
    assert!(tenant.end().status.success());
    let mut command = machine.command(&world, program("tenant", Door::Linked));
    command.arg(Door::Linked.name());
    let ledger = machine.hook_dir().join("closed/ledger");
    (machine, ledger, command)
}

#[test]
fn a_ledger_that_is_not_of_this_layout_closes() {
    let (_machine, ledger, mut command) = container_that_ran();
    let sound = fs::read(&ledger).expect("the ledger");
    let changed = |at: usize, to: u8| {
        let mut bytes = sound.clone();
        bytes[at] = to;
        bytes
    };
    let version = sound[8];
    for (bytes, reason) in [
        (changed(8, version - 1), "has layout"),
        (changed(8, version + 1), "has layout"),
        (changed(0, b'?'), "is not a file of cuda-hook"),
        (sound[..sound.len() - 1].to_vec(), "is too short"),
        (sound[..64].to_vec(), "is too short"),
    ] {
        fs::write(&ledger, &bytes).expect("another ledger");
        assert_closed(&mut command, reason);
        assert_eq!(fs::read(&ledger).expect("it"), bytes, "left alone");
    }
    fs::write(&ledger, sound).expect("the ledger");
    let mut tenant = Tenant::spawn(&mut command);
    assert_eq!(tenant.status("init"), 0, "it was sound");
}

#[test]
fn a_ledger_that_cannot_be_opened_closes() {
    let (_machine, ledger, mut command) = container_that_ran();
    fs::remove_file(&ledger).expect("the ledger");
    fs::create_dir(&ledger).expect("a folder in its place");
    assert_closed(&mut command, "closed/ledger: cannot open: Is a directory");
}

/// Root without its capabilities is a user as any other.
#[test]
fn a_ledger_that_may_not_be_read_closes() {
    let (machine, ledger, _) = container_that_ran();
    fs::set_permissions(&ledger, Permissions::from_mode(0o000)).expect("permissions");
    let world = World::memory("closed", "1GiB");
    let mut command = machine.command(&world, "setpriv");
    command
        .args(["--bounding-set=-all", "--inh-caps=-all"])
        .arg(program("tenant", Door::Linked))
        .arg(Door::Linked.name());
    assert_closed(
        &mut command,
        "closed/ledger: cannot open: Permission denied",
    );
}

/// Whatever little room a file system has: a program starts and is limited, or it does not start and says why. None is killed by
/// memory that has nothing behind it.
#[test]
fn a_full_file_system_closes() {
    if !child::can_mount() {
        return;
    }
    let mut closed = 0;
    for kib in (8..=80).step_by(8) {
        let machine = Machine::new();
        let mut command = machine.command(&World::memory("closed", "1GiB"), "unshare");
        let script = "mount -t tmpfs -o size=\"$KIB\"k none \"$CUDA_HOOK_DIR\" && exec \"$@\"";
        command
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(program("tenant", Door::Linked))
            .arg(Door::Linked.name())
            .env("KIB", kib.to_string());
        let mut tenant = Tenant::spawn(&mut command);
        let status = tenant.status("init");
        if status == 0 {
            assert_eq!(tenant.numbers("total"), [0, 1 << 30]);
            continue;
        }
        closed += 1;
        let stderr = tenant.end().stderr;
        assert_eq!((status, stderr.lines().count()), (CLOSED, 1), "{stderr}");
        assert!(stderr.contains("No space left on device"), "{stderr}");
    }
    assert!(
        (1..10).contains(&closed),
        "{closed} of 10 sizes are too small"
    );
}

/// One after the other starts until the room is used up: who finds no storage behind the next place does not start, and says why; those before live
/// on, and are limited.
#[test]
fn a_file_system_that_fills_up_closes() {
    if !child::can_mount() {
        return;
    }
    let world = World::memory("closed", "1GiB");
    for kib in (52..=80).step_by(4) {
        let machine = Machine::new();
        let tenant = |command: &str, arguments: &[&str]| {
            let mut command = machine.command(&world, command);
            command
                .args(arguments)
                .arg(program("tenant", Door::Linked))
                .arg(Door::Linked.name())
                .env("KIB", kib.to_string());
            Tenant::spawn(&mut command)
        };
        let script = "mount -t tmpfs -o size=\"$KIB\"k none \"$CUDA_HOOK_DIR\" && exec \"$@\"";
        let mut first = tenant("unshare", &["--mount", "sh", "-c", script, "sh"]);
        first.ok("init");
        let mounts = format!("--mount=/proc/{}/ns/mnt", first.pid());
        let mut living = vec![first];
        let stderr = loop {
            let mut next = tenant("nsenter", &[&mounts]);
            let status = next.status("init");
            if status != 0 {
                assert_eq!(status, CLOSED);
                break next.end().stderr;
            }
            living.push(next);
            assert!(living.len() < 64, "{kib} KiB are enough for 64");
        };
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("No space left on device"), "{stderr}");
        for tenant in &mut living {
            assert_eq!(tenant.numbers("total"), [0, 1 << 30]);
        }
    }
}

/// No place is lost, none is given twice, and nobody is refused.
#[test]
fn three_hundred_processes_may_start_at_once() {
    let machine = Machine::new();
    let world = World::memory("crowd", "1GiB");
    let mut crowd: Vec<Tenant> = (0..300).map(|_| Tenant::start(&machine, &world)).collect();
    for tenant in &mut crowd {
        tenant.tell("init");
    }
    for tenant in &mut crowd {
        assert_eq!(tenant.hear(), "0");
        assert_eq!(tenant.numbers("total"), [0, 1 << 30]);
    }
    let sample =
        sample::read(&machine.hook_dir(), clock::monotonic()).expect("the folder of the ledgers");
    let mut listed: Vec<u32> = sample.containers[0]
        .processes
        .iter()
        .map(|process| process.pid)
        .collect();
    let mut started: Vec<u32> = crowd.iter().map(Tenant::pid).collect();
    listed.sort_unstable();
    started.sort_unstable();
    assert_eq!(listed, started);
}
