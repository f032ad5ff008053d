//! Who is who, without numbers of processes, users or the time: two programs of one container have one quota wherever they run, neither
//! is taken for dead while it lives, and both are when they are.
#![cfg(test)]

use limiter::{clock, sample};
use rustix::process::{Pid, Signal, kill_process};
use shim_tests::build::shared_object;
use shim_tests::{Door, MIB, Machine, Tenant, World, artefacts, child, nobody, program};
use std::process::Command;

const OUT_OF_MEMORY: u64 = 2;
const PAGE_BYTES: u64 = 2 * MIB;

fn world() -> World {
    World::memory("identity", "1GiB")
}

/// `wrapper`, which becomes a tenant, or has one as its child and ends with it.
fn wrapped(machine: &Machine, wrapper: &[&str]) -> Command {
    let mut command = machine.command(&world(), wrapper[0]);
    command
        .args(&wrapper[1..])
        .arg(program("tenant", Door::Linked))
        .arg(Door::Linked.name());
    command
}

fn plain(machine: &Machine) -> Command {
    wrapped(machine, &["env"])
}

/// A tenant with a context, and its number for who is outside of all namespaces.
fn start(machine: &Machine, command: &mut Command) -> (Tenant, Pid) {
    let mut tenant = Tenant::spawn(command);
    tenant.ok("context");
    let before: Vec<u32> = listed_by_device(machine);
    let pid = i32::try_from(*before.last().expect("it has a context")).expect("a pid fits");
    (tenant, Pid::from_raw(pid).expect("the device sees it"))
}

/// In the order of connection.
fn listed_by_device(machine: &Machine) -> Vec<u32> {
    let usage = machine.usage();
    usage
        .iter()
        .filter(|row| row.alive)
        .map(|row| row.pid)
        .collect()
}

fn processes_reported(machine: &Machine) -> usize {
    let sample = sample::read(&machine.hook_dir(), clock::monotonic()).expect("the ledgers");
    sample.containers[0].processes.len()
}

/// Asserts that two programs share one quota: each counts the other's bytes as long as it lives, and no longer.
#[track_caller]
fn assert_one_quota(machine: &Machine, first: &mut Command, second: &mut Command) {
    let (mut first, first_pid) = start(machine, first);
    let (mut second, second_pid) = start(machine, second);
    assert_ne!(first_pid, second_pid);
    let half = second.free_bytes() / 2 / PAGE_BYTES * PAGE_BYTES;
    assert_eq!(first.alloc("half", "cuMemAlloc_v2", half), 0);
    let rest = second.free_bytes();
    assert_eq!(second.alloc("rest", "cuMemAlloc_v2", rest), 0);
    for tenant in [&mut first, &mut second] {
        // Who is refused has looked for the dead before.
        assert_eq!(
            tenant.alloc("more", "cuMemAlloc_v2", PAGE_BYTES),
            OUT_OF_MEMORY
        );
        assert_eq!(tenant.free_bytes(), 0);
    }
    assert_eq!(processes_reported(machine), 2);
    kill_process(first_pid, Signal::KILL).expect("it can be killed");
    first.end();
    assert_eq!(processes_reported(machine), 1);
    let freed = second.free_bytes();
    assert!(freed > half, "its context too: {freed}");
    assert_eq!(second.alloc("all", "cuMemAlloc_v2", freed), 0);
    assert_eq!(
        second.alloc("more", "cuMemAlloc_v2", PAGE_BYTES),
        OUT_OF_MEMORY
    );
    assert_eq!(second.end().stderr, "");
}

/// In each its tenant is number 1 or close to it, and `/proc` shows its own processes.
#[test]
fn programs_of_two_pid_namespaces_share_one_quota() {
    if !child::can_number() {
        return;
    }
    let machine = Machine::new();
    machine.usage(); // the device is ours, and sees everybody
    let apart = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let (mut first, mut second) = (wrapped(&machine, &apart), wrapped(&machine, &apart));
    assert_one_quota(&machine, &mut first, &mut second);
    assert_one_quota(
        &machine,
        &mut wrapped(&machine, &apart),
        &mut plain(&machine),
    );
    assert_one_quota(
        &machine,
        &mut plain(&machine),
        &mut wrapped(&machine, &apart),
    );
}

/// Both in one pid namespace, and `/proc` is that of another: what has their numbers there are other processes, low ones often the kernel's,
/// of which nothing is mapped.
#[test]
fn programs_share_one_quota_where_proc_shows_other_numbers() {
    if !child::can_number() {
        return;
    }
    let machine = Machine::new();
    machine.usage();
    let first_of_all = Tenant::spawn(&mut wrapped(
        &machine,
        &["unshare", "--pid", "--fork", "--kill-child"],
    ));
    let namespace = format!("--pid=/proc/{}/ns/pid_for_children", first_of_all.pid());
    let [mut first, mut second] = [(); 2].map(|()| wrapped(&machine, &["nsenter", &namespace]));
    assert_one_quota(&machine, &mut first, &mut second);
    first_of_all.end();
}

/// Root without the right to look at other users' processes, and nobody, with `hidepid=2`: neither finds the other in `/proc`.
#[test]
fn programs_of_two_users_that_do_not_see_each_other_share_one_quota() {
    if !child::can_mount() {
        return;
    }
    let machine = Machine::new();
    let script = "mount -t proc -o hidepid=2 none /proc && exec \"$@\"";
    let blind = ["unshare", "--mount", "sh", "-c", script, "sh"];
    let mut first = nobody::tenant(&machine, &world(), &blind);
    let root = [
        "setpriv",
        "--bounding-set=-all,+dac_override",
        "--inh-caps=-all",
    ];
    let mut second = wrapped(&machine, &[&blind[..], &root].concat());
    assert_one_quota(&machine, &mut first, &mut second);
}

/// A container that was moved here from a machine that ran longer, as checkpoints are restored.
#[test]
fn programs_whose_monotonic_clocks_differ_share_one_quota() {
    if !child::can_shift_time() {
        return;
    }
    let machine = Machine::new();
    machine.usage();
    let later = [
        "unshare",
        "--time",
        "--monotonic",
        "100000",
        "--boottime",
        "100000",
        "--fork",
        "--kill-child",
    ];
    assert_one_quota(
        &machine,
        &mut wrapped(&machine, &later),
        &mut plain(&machine),
    );
    assert_one_quota(
        &machine,
        &mut plain(&machine),
        &mut wrapped(&machine, &later),
    );
}

#[test]
fn programs_share_one_quota_while_the_date_jumps() {
    let jumping = shared_object("jumping_clock", "libjumping_clock.so");
    let years = child::run(
        Command::new("sh")
            .env("LD_PRELOAD", &jumping)
            .args(["-c", "date +%Y; date +%Y"]),
    );
    let this_year = child::run(Command::new("date").arg("+%Y"));
    assert!(!years.lines().contains(&this_year.lines()[0]), "{years:?}");
    let machine = Machine::new();
    machine.usage();
    let [mut first, mut second] = [(); 2].map(|()| {
        let mut command = plain(&machine);
        let preloads = format!("{}:{}", jumping.display(), artefacts().hook.display());
        command.env("LD_PRELOAD", preloads);
        command
    });
    assert_one_quota(&machine, &mut first, &mut second);
}
