//! What NVML shows a container of who uses the GPU: its own processes, with what its ledger says, and nobody else's.
#![cfg(test)]

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use shim_tests::player::Player;
use shim_tests::{Door, MIB, Machine, Tenant, World, artefacts, program, shared_object};

const NOT_FOUND: u64 = 6;
const INSUFFICIENT_SIZE: u64 = 7;

/// How long is waited for what the device samples a few times a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// The answers of one call: its status, the count, and the figure of each process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Answer {
    status: u64,
    count: u64,
    processes: BTreeMap<u32, u64>,
}

/// Everything that `programs/view.c` says, by call.
fn view(machine: &Machine, world: &World) -> BTreeMap<String, Answer> {
    view_of(machine, world, &[])
}

/// The same, and of the accounts of these processes.
fn view_of(machine: &Machine, world: &World, tenants: &[&Tenant]) -> BTreeMap<String, Answer> {
    let mut command: Command = machine.command(world, program("view", Door::Linked));
    command.args(tenants.iter().map(|tenant| tenant.pid().to_string()));
    let output = command.stderr(Stdio::inherit()).output().expect("it runs");
    assert!(output.status.success(), "{:?}", output.status);
    let text = String::from_utf8(output.stdout).expect("numbers and names");
    text.lines().map(answer).collect()
}

fn answer(line: &str) -> (String, Answer) {
    let mut words = line.split(' ');
    let name = words.next().expect("a name").to_owned();
    let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let (status, count) = (number(), number());
    let process = |word: &str| {
        let (pid, figure) = word.split_once(':')?;
        Some((pid.parse().ok()?, figure.parse().ok()?))
    };
    let answer = Answer {
        status,
        count,
        processes: words.filter_map(process).collect(),
    };
    (name, answer)
}

fn with_context(machine: &Machine, container: &str) -> Tenant {
    Tenant::with_context(machine, &World::memory(container, "1GiB"))
}

/// The calls that tell who has a context.
const LISTS: [&str; 5] = [
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetComputeRunningProcesses_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "details-compute",
    "details-all",
];

#[test]
fn a_container_is_told_its_own_processes_and_nobody_elses() {
    let machine = Machine::new();
    let bare = Tenant::with_context(&machine, &World::Bare);
    let other = with_context(&machine, "other");
    let (mut first, second) = (
        with_context(&machine, "mine"),
        with_context(&machine, "mine"),
    );
    assert_eq!(first.alloc("a", "cuMemAlloc_v2", 100 * MIB), 0);
    let truth = |tenants: &[&Tenant]| -> BTreeMap<u32, u64> {
        let held = |tenant: &&Tenant| (tenant.pid(), machine.truth_of(tenant.pid()).memory_bytes);
        tenants.iter().map(held).collect()
    };
    let mine = truth(&[&first, &second]);
    let all = truth(&[&bare, &other, &first, &second]);
    for (world, wanted) in [
        (World::memory("mine", "1GiB"), &mine),
        (World::memory("nobody", "1GiB"), &BTreeMap::new()),
        (World::Bare, &all),
        (World::Transparent, &all),
    ] {
        let told = view(&machine, &world);
        for name in LISTS {
            assert_eq!(told[name].status, 0, "{name} in {world:?}");
            assert_eq!(&told[name].processes, wanted, "{name} in {world:?}");
        }
        let graphics = told.keys().filter(|name| {
            ["Graphics", "MPS", "graphics"]
                .iter()
                .any(|part| name.contains(part))
        });
        for name in graphics {
            assert_eq!(told[name], Answer::default(), "{name} in {world:?}");
        }
    }
}

/// A process that holds something itself looks as one that only looks.
#[test]
fn a_process_with_a_context_sees_itself() {
    let machine = Machine::new();
    let _other = with_context(&machine, "other");
    let world = World::memory("mine", "1GiB");
    let mut command = machine.command(&world, program("images", Door::Linked));
    let mut tenant = Tenant::spawn(command.arg(Door::Linked.name()));
    assert_eq!(tenant.status("context"), 0);
    assert_eq!(tenant.alloc("a", "cuModuleLoadData", 6 * MIB), 0);
    let held_bytes = machine.truth_of(tenant.pid()).memory_bytes;
    let told = tenant.numbers("alloc looked nvmlDeviceGetComputeRunningProcesses_v3 0");
    assert_eq!(told, [0, held_bytes]);
}

/// The caller's array needs room for the container's processes, not for the board's.
#[test]
fn an_array_needs_room_for_the_containers_processes_only() {
    let machine = Machine::new();
    let others: Vec<Tenant> = (0..3).map(|_| with_context(&machine, "other")).collect();
    let mine = [(); 2].map(|()| with_context(&machine, "mine"));
    let told = view(&machine, &World::memory("mine", "1GiB"));
    let with_room = |room: u32| {
        let name = format!("nvmlDeviceGetComputeRunningProcesses_v3-room-{room}");
        (told[&name].status, told[&name].count)
    };
    assert_eq!(with_room(0), (INSUFFICIENT_SIZE, 2));
    assert_eq!(with_room(1), (INSUFFICIENT_SIZE, 2));
    assert_eq!(with_room(2), (0, 2));
    drop((others, mine));
}

/// Without a memory quota contexts are not on the ledger: NVML's own figure is told.
#[test]
fn a_container_with_a_share_only_is_told_its_own_processes_too() {
    let machine = Machine::new();
    let _other = with_context(&machine, "other");
    let world = World::sm("mine", "50");
    let tenant = Tenant::with_context(&machine, &world);
    let told = view(&machine, &world);
    let held_bytes = machine.truth_of(tenant.pid()).memory_bytes;
    for name in LISTS {
        let wanted = BTreeMap::from([(tenant.pid(), held_bytes)]);
        assert_eq!(told[name].processes, wanted, "{name}");
    }
}

/// Looks until it sees what is wanted.
#[track_caller]
fn view_until(
    machine: &Machine,
    world: &World,
    wanted: impl Fn(&BTreeMap<String, Answer>) -> bool,
) -> BTreeMap<String, Answer> {
    let begun = Instant::now();
    loop {
        let told = view(machine, world);
        if wanted(&told) {
            return told;
        }
        assert!(begun.elapsed() < PATIENCE, "still not: {told:?}");
    }
}

#[test]
fn a_container_is_told_its_own_utilization_and_nobody_elses() {
    const CALLS: [&str; 2] = [
        "nvmlDeviceGetProcessUtilization",
        "nvmlDeviceGetProcessesUtilizationInfo",
    ];
    const FIGURES: [&str; 3] = ["rates", "domains", "samples"];
    let machine = Machine::new();
    let mut busy = with_context(&machine, "busy");
    let _idle = with_context(&machine, "idle");
    assert_eq!(busy.status("kernel 20000"), 0);
    busy.tell("launch kernel 1000000");
    let board = view_until(&machine, &World::Bare, |told| {
        FIGURES.iter().all(|&name| told[name].count > 0)
    });
    let idle = view(&machine, &World::memory("idle", "1GiB"));
    for name in CALLS {
        assert_eq!(idle[name].status, NOT_FOUND, "{name}");
    }
    for name in FIGURES {
        assert_eq!(board[name].status, 0, "{name}");
        assert_eq!((idle[name].status, idle[name].count), (0, 0), "{name}");
    }
    let own = view_until(&machine, &World::memory("busy", "1GiB"), |told| {
        FIGURES.iter().all(|&name| told[name].count > 0)
    });
    for name in CALLS {
        let told: Vec<_> = own[name].processes.keys().collect();
        assert_eq!(told, [&busy.pid()], "{name}");
    }
    busy.kill();
}

/// What is not told of anybody stays so.
#[test]
fn what_nvml_does_not_tell_it_does_not_tell_behind_the_preload() {
    let machine = Machine::new();
    let accounting = |world: &World| view(&machine, world)["nvmlDeviceGetAccountingPids"].status;
    let bare = accounting(&World::Bare);
    assert_ne!(bare, 0, "accounting is off");
    assert_eq!(accounting(&World::memory("mine", "1GiB")), bare);
}

/// Where accounting is on, NVML has an account of each process.
#[test]
fn a_container_is_told_its_own_accounts_and_nobody_elses() {
    let machine = Machine::with_every_feature(1);
    let (mut mine, other) = (
        with_context(&machine, "mine"),
        with_context(&machine, "other"),
    );
    assert_eq!(mine.alloc("a", "cuMemAlloc_v2", 100 * MIB), 0);
    let tenants = [&mine, &other];
    let told = |world: &World| {
        let told = view_of(&machine, world, &tenants);
        let pids = told["nvmlDeviceGetAccountingPids"].processes.clone();
        let account = |kind: &str, tenant: &Tenant| {
            let account = &told[&format!("{kind}-{}", tenant.pid())];
            (account.status, account.count)
        };
        let accounts =
            ["accounts", "accounts_v2"].map(|kind| tenants.map(|tenant| account(kind, tenant)));
        (pids.into_keys().collect::<Vec<_>>(), accounts)
    };
    let held = tenants.map(|tenant| (0, machine.truth_of(tenant.pid()).memory_bytes));
    let mut both = tenants.map(Tenant::pid);
    both.sort_unstable();
    for world in [World::Bare, World::Transparent] {
        assert_eq!(told(&world), (both.to_vec(), [held; 2]), "{world:?}");
    }
    let own = [held[0], (NOT_FOUND, 0)];
    let limited = told(&World::memory("mine", "1GiB"));
    assert_eq!(limited, (vec![mine.pid()], [own; 2]));
}

/// The driver's own limits of a control group, which only newer drivers have: no higher than the quota, and in use is what the
/// container uses.
#[test]
fn the_drivers_own_limits_are_told_no_higher_than_the_quota() {
    let newer = shared_object("newer_nvml", "libnvidia-ml.so.1");
    let folder = newer.parent().expect("a folder");
    let path = format!("{}:{}", folder.display(), artefacts().sim.display());
    let machine = Machine::new();
    let told = |limits: &[(&str, &str)]| {
        let variables = limits
            .iter()
            .copied()
            .chain([("LD_LIBRARY_PATH", path.as_str())]);
        let mut player = Player::start(&machine, &World::limited(variables));
        for call in [
            "0 nvmlInit_v2",
            "0 nvmlDeviceGetHandleByIndex_v2 0 &32",
            "0 nvmlDeviceGetMemoryLimits_v1 $32 &64",
        ] {
            assert_eq!(player.make(call), "0", "{call}");
        }
        [8, 16, 24].map(|offset| player.value(64, offset))
    };
    assert_eq!(told(&[]), [512 * MIB, 64 * 1024 * MIB, 12345]);
    let quota = ("CUDA_HOOK_MEMORY", "1GiB");
    assert_eq!(told(&[quota]), [512 * MIB, 1024 * MIB, 0]);
    let quota = ("CUDA_HOOK_MEMORY", "100MiB");
    assert_eq!(told(&[quota]), [100 * MIB, 100 * MIB, 0]);
}
