//! What the library may not do to the processes that it is loaded into, and the places in which it has to hold: containers
//! without a writable root, shared memory, descriptors to spare, privileges, or all system calls.
#![cfg(test)]

use shim_tests::build::{shared_object, shared_object_with};
use shim_tests::{Door, MIB, Machine, Tenant, Trace, World, artefacts, child, nobody, program};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const QUOTA_BYTES: u64 = 512 * MIB;
const INVALID_VALUE: u64 = 1;
const OUT_OF_MEMORY: u64 = 2;

fn limited() -> World {
    World::memory("harm", "512MiB")
}

/// The system calls of a program with `preload` before it, in order, the files that it opens by name.
#[track_caller]
fn system_calls(machine: &Machine, preload: &Path, arguments: &[&str]) -> Vec<String> {
    let listing = machine.path("calls");
    let mut command = machine.command(&limited(), "sh");
    let outcome = child::run(
        command
            .env("LD_PRELOAD", preload)
            .env("LISTING", &listing)
            .args(["-c", "exec \"$@\" 3> \"$LISTING\"", "sh"])
            .arg(program("syscalls", Door::Dlopen))
            .args(arguments),
    );
    assert!(
        outcome.status.success() && outcome.stderr.is_empty(),
        "{outcome:#?}"
    );
    let calls = fs::read_to_string(&listing).expect("the list of calls");
    let named = calls.replace(&preload.display().to_string(), "PRELOAD");
    named.lines().map(str::to_owned).collect()
}

/// No constructor, no destructor: whatever the limits are, loading the library takes the loader's calls for any library
/// that needs nothing, and from the program's first instruction to its end there is none more. Nor is there a thread, a
/// signal, a mask or a descriptor.
#[test]
fn a_program_without_cuda_makes_no_system_call_more() {
    let empty = shared_object("empty", "libempty.so");
    let machine = Machine::new();
    for arguments in [
        ["true"].as_slice(),
        &["ls", "/proc/self"],
        &[
            "sh",
            "-c",
            "umask; trap : TERM; ulimit -n; exec grep root /etc/passwd",
        ],
    ] {
        let [with_empty, with_hook] = [&empty, &artefacts().hook]
            .map(|preload| without_memory(&system_calls(&machine, preload, arguments)));
        assert!(
            with_empty.calls().len() > 20,
            "{arguments:?}: {with_empty:?}"
        );
        let difference = with_empty.difference(&with_hook);
        assert_eq!(difference, None, "{arguments:?}");
    }
}

/// Starts in turn, so that a slow moment of the machine's is slow for both: what the fastest of a thousand starts took, in
/// seconds, bare and preloaded.
fn fastest_starts(machine: &Machine) -> [f64; 2] {
    let mut seconds = [f64::INFINITY; 2];
    for _ in 0..1000 {
        for (world, fastest) in [World::Bare, limited()].iter().zip(&mut seconds) {
            let mut command = machine.command(world, "true");
            let begun = Instant::now();
            let status = command.status().expect("it starts");
            *fastest = fastest.min(begun.elapsed().as_secs_f64());
            assert!(status.success(), "{status} in {world:?}");
        }
    }
    seconds
}

/// What the loader does for any library is seen in `docs/figures.md`; nothing that a user would notice is added to it.
#[test]
fn a_thousand_preloaded_processes_start_about_as_fast_as_bare_ones() {
    let [bare, preloaded] = fastest_starts(&Machine::new());
    assert!(preloaded < 2.0 * bare, "{preloaded} s, bare {bare} s");
}

/// Without the calls that depend on sizes and addresses: mmap, mprotect, munmap and brk.
fn without_memory(calls: &[String]) -> Trace {
    let of_memory = ["9 ", "10 ", "11 ", "12 "];
    calls
        .iter()
        .map(String::as_str)
        .filter(|call| !of_memory.contains(call))
        .collect()
}

/// What the kernel knows of a process that a library could have changed.
fn state(pid: u32) -> BTreeMap<String, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let kept = [
        "Umask",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "Threads",
        "NoNewPrivs",
        "Seccomp",
    ];
    let fields = status.lines().filter_map(|line| line.split_once(':'));
    let mut state: BTreeMap<_, _> = fields
        .filter(|(name, _)| kept.contains(name))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    assert_eq!(state.len(), kept.len(), "{status}");
    for file in ["limits", "cwd", "root"] {
        let path = format!("/proc/{pid}/{file}");
        let value = fs::read_link(&path).map_or_else(
            |_| fs::read_to_string(&path).expect("readable"),
            |link| link.display().to_string(),
        );
        state.insert(file.to_owned(), value);
    }
    state
}

/// Open descriptors: number and what stands behind it.
fn descriptors(pid: u32) -> BTreeMap<u32, PathBuf> {
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    folder
        .filter_map(|entry| {
            let entry = entry.expect("an entry");
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?))
        })
        .collect()
}

/// A program that uses CUDA and has a memory quota keeps its signals, umask, threads and limits. What is opened for it is
/// out of its way, and not its children's.
#[test]
fn a_limited_program_keeps_its_signals_umask_threads_and_low_descriptors() {
    let observe = |world: &World| {
        let machine = Machine::new();
        let mut tenant = Tenant::with_context(&machine, world);
        assert_eq!(tenant.alloc("a", "cuMemAlloc_v2", MIB), 0);
        let pid = tenant.pid();
        let ours: BTreeMap<_, _> = descriptors(pid)
            .into_iter()
            .filter(|(_, path)| path.starts_with(machine.hook_dir()))
            .collect();
        for number in ours.keys() {
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).expect("info");
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = u32::from_str_radix(flags.expect("flags").trim(), 8).expect("octal");
            const CLOSE_ON_EXEC: u32 = 0o2_000_000;
            assert!(
                *number >= 512 && flags & CLOSE_ON_EXEC != 0,
                "{number}: {info}"
            );
        }
        let low = descriptors(pid).into_keys().filter(|number| *number < 512);
        (state(pid), low.collect::<Vec<_>>(), ours.len())
    };
    let (bare, bare_descriptors, none) = observe(&World::Bare);
    let (limited, low_descriptors, ours) = observe(&limited());
    assert_eq!(bare, limited);
    assert_eq!(bare_descriptors, low_descriptors);
    assert!(none == 0 && ours > 0, "{none} {ours}");
}

/// A thread that is cancelled inside the driver, or ended by it, ends as it does without us: what it has to clean up is cleaned up,
/// on its way through our frames too.
#[test]
fn a_thread_that_ends_inside_the_driver_ends_as_without_us() {
    let machine = Machine::new();
    let driver = shared_object_with("waiting_driver", "libcuda.so.1", &["-fexceptions"]);
    let end = |world: &World| {
        let mut command = machine.command(world, program("cancel", Door::Dlopen));
        command.env("LD_LIBRARY_PATH", driver.parent().expect("a folder"));
        child::run(&mut command)
    };
    let bare = end(&World::Bare);
    assert_eq!(
        bare.stdout.matches("thread cleaned up").count(),
        3,
        "{bare:#?}"
    );
    assert_eq!(end(&World::Transparent), bare);
}

/// Counts of `allocations`, by batch: those of everybody, and those of the hook.
#[track_caller]
fn allocations(world: &World) -> BTreeMap<String, (u64, u64)> {
    let machine = Machine::new();
    let mut command = machine.command(world, program("allocations", Door::Linked));
    let outcome = child::run(&mut command);
    let numbers = outcome.lines().into_iter().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let count = |at: usize| words[at].parse().expect("a count");
        (words[0].to_owned(), (count(1), count(2)))
    });
    numbers.collect()
}

#[test]
fn look_ups_and_steady_calls_allocate_nothing() {
    let world = World::limited([
        ("CUDA_HOOK_CONTAINER", "harm"),
        ("CUDA_HOOK_MEMORY", "512MiB"),
        ("CUDA_HOOK_SM", "90"),
    ]);
    let batches = allocations(&world);
    // A list of launches in flight doubles now and then; of 10 000 launches none allocates of its own.
    const GROWTHS_MAX: u64 = 16;
    for (batch, (all, hooks)) in &batches {
        match batch.as_str() {
            "launch" => assert!(*hooks <= GROWTHS_MAX, "{batch}: {hooks}"),
            _ if batch.starts_with("dlsym") => assert_eq!(*all, 0, "{batch}"),
            _ => assert_eq!(*hooks, 0, "{batch}"),
        }
    }
    assert_eq!(batches.len(), 8, "{batches:?}");
    assert!(
        batches["launch"].0 > 0,
        "the simulated driver's own are seen"
    );
}

/// Asserts that a quota holds for a tenant that `command` becomes.
#[track_caller]
fn assert_limited(command: &mut Command) {
    let mut tenant = Tenant::spawn(command);
    assert_eq!(tenant.status("context"), 0, "{command:?}");
    let (budget_bytes, total_bytes) = tenant.memory_info();
    assert_eq!(total_bytes, QUOTA_BYTES, "{command:?}");
    let more = tenant.alloc("a", "cuMemAlloc_v2", budget_bytes + 1);
    assert_eq!(more, OUT_OF_MEMORY, "{command:?}");
    let all = tenant.alloc("a", "cuMemAlloc_v2", budget_bytes);
    assert_eq!(all, 0, "{command:?}");
    assert_eq!(tenant.end().stderr, "", "{command:?}");
}

/// `wrapper`, which becomes a tenant of `machine` under limits.
fn wrapped(machine: &Machine, wrapper: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let mut command = machine.command(&limited(), wrapper);
    command
        .args(arguments)
        .arg(program("tenant", Door::Linked))
        .arg(Door::Linked.name());
    command
}

#[test]
fn a_quota_holds_with_few_descriptors() {
    let machine = Machine::new();
    let few = ["-c", "ulimit -n 64 && exec \"$@\"", "sh"];
    assert_limited(&mut wrapped(&machine, "sh", &few));
}

#[test]
fn a_quota_holds_under_a_containers_seccomp_filter() {
    let machine = Machine::new();
    let confined = program("confined", Door::Dlopen);
    assert_limited(&mut wrapped(&machine, confined, &[]));
}

/// Nobody, without groups and without the way to more rights that set-user-id programs are.
#[test]
fn a_quota_holds_for_nobody_in_particular() {
    if !rustix::process::geteuid().is_root() {
        child::say_skipped("only root can become somebody else");
        return;
    }
    let machine = Machine::new();
    assert_limited(&mut nobody::tenant(&machine, &limited(), &[]));
}

/// A container with a read-only root and nothing in `/dev/shm` but the machine's own folder, which is given to it.
fn without_writable_folders(machine: &Machine) -> Command {
    let script = "mount --bind \"$MACHINE\" /mnt && mount -t tmpfs none /dev/shm && mkdir \"$MACHINE\" \
        && mount --move /mnt \"$MACHINE\" && mount -o remount,ro /dev/shm && mount -o remount,ro,bind / && exec \"$@\"";
    let mut command = wrapped(machine, "unshare", &["--mount", "sh", "-c", script, "sh"]);
    command.env("MACHINE", machine.path(""));
    command
}

#[test]
fn a_quota_holds_on_a_read_only_root_without_shared_memory() {
    if child::can_mount() {
        assert_limited(&mut without_writable_folders(&Machine::new()));
    }
}

/// Where nothing can be shared nothing can be enforced: closed, and said.
#[test]
fn without_a_place_for_shared_state_it_fails_closed_and_says_so() {
    if !child::can_mount() {
        return;
    }
    let machine = Machine::new();
    let mut command = without_writable_folders(&machine);
    let mut tenant = Tenant::spawn(command.env_remove("CUDA_HOOK_DIR"));
    assert_eq!(tenant.status("init"), INVALID_VALUE);
    let stderr = tenant.end().stderr;
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("limits cannot be enforced"), "{stderr}");
}
