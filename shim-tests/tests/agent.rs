//! The node's own process: `cuda-hook agent`.
#![cfg(test)]

use limiter::ledger::Ledger;
use limiter::units::{Bytes, DeviceUuid};
use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};
use shim_tests::agent::{self, Agent};
use shim_tests::child::{can_look_up, can_number, run, say_skipped};
use shim_tests::nobody::BECOME_NOBODY;
use shim_tests::{Door, MIB, Machine, Tenant, World, artefacts, program};
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const OUT_OF_MEMORY: u64 = 2;

/// The series of a metric of container `one` on the machine's GPU.
fn of_one(machine: &Machine, metric: &str) -> String {
    let gpu = &machine.device_uuids()[0];
    format!("cuda_hook_{metric}{{container=\"one\",gpu=\"{gpu}\"}}")
}

/// What `cuda-hook status --json` says, but for when it was asked.
fn status(machine: &Machine) -> Value {
    let mut command = machine.command(&World::Bare, &artefacts().command);
    let outcome = run(command.args(["status", "--json"]));
    timeless(&outcome.stdout)
}

fn timeless(text: &str) -> Value {
    let mut status: Value = serde_json::from_str(text).expect("JSON");
    status["now_ns"] = json!(0);
    status
}

#[test]
fn metrics_say_what_the_device_says() {
    let machine = Machine::new();
    let agent = Agent::start(&machine);
    let mut tenant = Tenant::with_context(&machine, &World::memory("one", "600MiB"));
    assert_eq!(tenant.alloc("held", "cuMemAlloc_v2", 200 * MIB), 0);
    assert_eq!(
        tenant.alloc("more", "cuMemAlloc_v2", 600 * MIB),
        OUT_OF_MEMORY
    );
    let held_bytes = machine.truth_of(tenant.pid()).memory_bytes;
    for (metric, expected) in [
        ("memory_used_bytes", held_bytes),
        ("memory_quota_bytes", 600 * MIB),
        ("memory_peak_bytes", held_bytes),
        ("refusals_total", 1),
        ("launches_total", 0),
    ] {
        let told = agent.value(&of_one(&machine, metric));
        assert_eq!(told, Some(expected as f64), "{metric}");
    }
    let processes = agent.value("cuda_hook_processes{container=\"one\"}");
    assert_eq!(processes, Some(1.0));
}

#[test]
fn a_program_without_limits_is_counted() {
    let machine = Machine::new();
    let agent = Agent::start(&machine);
    let _limited = Tenant::with_context(&machine, &World::memory("one", "600MiB"));
    let gpu = &machine.device_uuids()[0];
    let unmanaged = format!("cuda_hook_unmanaged_processes{{gpu=\"{gpu}\"}}");
    if !can_look_up() {
        return;
    }
    let alone: Vec<_> = [&unmanaged, &of_one(&machine, "memory_unaccounted_bytes")]
        .map(|series| agent.value(series))
        .into();
    assert_eq!(alone, [Some(0.0), Some(0.0)]);
    let _free = Tenant::with_context(&machine, &World::Bare);
    let all: f64 = agent
        .metrics()
        .lines()
        .filter(|line| line.starts_with("cuda_hook_unmanaged_processes{"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum();
    assert_eq!(all, 1.0);
}

#[test]
fn a_node_without_containers_is_healthy_and_tells_of_itself() {
    let machine = Machine::new();
    let agent = Agent::start(&machine);
    assert_eq!(agent.get("/healthz", "").body, "ok\n");
    let plain = agent.get("/metrics", "");
    assert!(
        plain
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{plain:?}"
    );
    assert!(!plain.body.contains("container="), "{plain:?}");
    assert!(
        plain.body.contains("cuda_hook_build_info{version="),
        "{plain:?}"
    );
    let open = agent.get("/metrics", "Accept: application/openmetrics-text\r\n");
    assert!(
        open.head.contains("application/openmetrics-text"),
        "{open:?}"
    );
    assert!(open.body.ends_with("# EOF\n"), "{open:?}");
    assert_eq!(agent.get("/nowhere", "").status, 404);
}

#[test]
fn the_socket_has_the_status_of_the_command() {
    let machine = Machine::new();
    let agent = Agent::start(&machine);
    let mut tenant = Tenant::with_context(&machine, &World::memory("one", "600MiB"));
    assert_eq!(tenant.alloc("held", "cuMemAlloc_v2", 200 * MIB), 0);
    let answer = agent.ask_privately("GET", "/status", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(timeless(&answer.body), status(&machine));
}

#[test]
fn limits_set_by_the_socket_hold_and_wrong_ones_are_refused() {
    let machine = Machine::new();
    let agent = Agent::start(&machine);
    let mut tenant = Tenant::with_context(&machine, &World::memory("one", "600MiB"));
    for (body, status, names) in [
        (
            r#"{"container": "one", "memory": "abc"}"#,
            400,
            r#"--memory = \"abc\""#,
        ),
        (r#"{"container": "one"}"#, 400, "none of memory"),
        (
            r#"{"container": "one", "memroy": "1GiB"}"#,
            400,
            "unknown field `memroy`",
        ),
        ("nonsense", 400, "expected"),
        (
            r#"{"container": "two", "memory": "1GiB"}"#,
            409,
            "no container two",
        ),
    ] {
        let answer = agent.ask_privately("POST", "/set", body);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.body.contains(names), "{answer:?}");
    }
    assert_eq!(tenant.memory_info().1, 600 * MIB);
    let wanted = r#"{"container": "one", "memory": "1600MiB", "sm": 30}"#;
    let answer = agent.ask_privately("POST", "/set", wanted);
    assert_eq!(answer.status, 200, "{answer:?}");
    let changed: Value = serde_json::from_str(&answer.body).expect("JSON");
    let after = &changed["devices"][0]["after"];
    assert_eq!(after["memory_bytes_max"], 1600 * MIB);
    assert_eq!(tenant.memory_info().1, 1600 * MIB);
    agent.hear("set --json --memory=1600MiB --sm=30 -- one");
    let by_network = agent.get("/set", "");
    assert_eq!(by_network.status, 404, "{by_network:?}");
}

#[test]
fn a_second_agent_of_one_folder_is_refused() {
    let machine = Machine::new();
    let first = Agent::start(&machine);
    let refused = run(&mut agent::command(&machine));
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("another agent watches over "),
        "{refused:?}"
    );
    assert_eq!(
        first.get("/healthz", "").status,
        200,
        "the first has not noticed"
    );
    first.kill();
    drop(Agent::start(&machine));
}

#[test]
fn what_cannot_be_had_is_said_with_the_way_out() {
    let machine = Machine::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    fs::write(machine.path("file"), "").expect("a file");
    let file = machine.path("file").display().to_string();
    for (arguments, status, names) in [
        (
            ["--listen", &address],
            1,
            "in use (os error 98); --listen names another address",
        ),
        (["--dir", &file], 1, "--dir names another folder"),
        (
            ["--socket", &file],
            1,
            "no socket; --socket names another path",
        ),
        (["--listen", "9402"], 2, "127.0.0.1:9402"),
    ] {
        // The last of an option that is given twice would be an error of its own.
        let mut command = machine.command(&World::Bare, &artefacts().command);
        command.arg("agent").args(arguments);
        for (name, value) in [
            ("--dir", machine.hook_dir()),
            ("--socket", agent::socket(&machine)),
        ] {
            if arguments[0] != name {
                command.arg(name).arg(value);
            }
        }
        if arguments[0] != "--listen" {
            command.args(["--listen", "none"]);
        }
        let refused = run(&mut command);
        assert_eq!(
            refused.status.code(),
            Some(status),
            "{arguments:?}: {refused:?}"
        );
        assert!(refused.stderr.contains(names), "{arguments:?}: {refused:?}");
    }
}

#[test]
fn an_agent_ends_at_once_and_leaves_no_socket() {
    let machine = Machine::new();
    for signal in [Signal::TERM, Signal::INT] {
        let agent = Agent::start(&machine);
        assert!(agent::socket(&machine).exists());
        // Somebody has connected and asks for nothing.
        let _idle = std::net::TcpStream::connect(agent.address()).expect("it listens");
        assert_eq!(agent.end_by(signal).status.code(), Some(0));
        assert!(!agent::socket(&machine).exists());
    }
}

#[test]
fn a_killed_agent_changes_nothing_for_programs_and_the_next_one_goes_on() {
    let machine = Machine::new();
    let agent = Agent::start(&machine);
    let mut tenant = Tenant::with_context(&machine, &World::memory("one", "600MiB"));
    assert_eq!(tenant.alloc("held", "cuMemAlloc_v2", 200 * MIB), 0);
    let before = tenant.memory_info();
    agent.kill();
    assert!(agent::socket(&machine).exists(), "nobody has tidied up");
    assert_eq!(tenant.memory_info(), before);
    assert_eq!(
        tenant.alloc("more", "cuMemAlloc_v2", 600 * MIB),
        OUT_OF_MEMORY
    );
    assert_eq!(tenant.alloc("more", "cuMemAlloc_v2", 100 * MIB), 0);
    assert_eq!(
        (
            tenant.status("kernel 100"),
            tenant.status("launch kernel 3")
        ),
        (0, 0)
    );
    let next = Agent::start(&machine);
    let held_bytes = machine.truth_of(tenant.pid()).memory_bytes;
    let used = next.value(&of_one(&machine, "memory_used_bytes"));
    assert_eq!(used, Some(held_bytes as f64));
    assert_eq!(next.value(&of_one(&machine, "refusals_total")), Some(1.0));
}

#[test]
fn the_places_of_the_killed_are_freed_beside_the_living() {
    if !can_look_up() {
        return;
    }
    let machine = Machine::new();
    let world = World::memory("one", "600MiB");
    let mut stays = Tenant::with_context(&machine, &world);
    assert_eq!(stays.alloc("held", "cuMemAlloc_v2", 200 * MIB), 0);
    let agent = Agent::start(&machine);
    let goes = Tenant::with_context(&machine, &world);
    goes.kill();
    let ledger = machine.hook_dir().join("one/ledger");
    agent.hear(&format!(
        "freed the places of 1 dead in {}",
        ledger.display()
    ));
    let held_bytes = machine.truth_of(stays.pid()).memory_bytes;
    let used = agent.value(&of_one(&machine, "memory_used_bytes"));
    assert_eq!(used, Some(held_bytes as f64));
    assert_eq!(stays.alloc("more", "cuMemAlloc_v2", 200 * MIB), 0);
    assert!(agent.value("cuda_hook_reaped_processes_total{}") >= Some(1.0));
}

/// In a container, as the node sees it: in another pid namespace, where the agent cannot look it up by its number.
#[test]
fn the_places_of_the_killed_in_another_pid_namespace_are_freed_by_the_hosts_agent() {
    const HOSTS_OWN: &str = "pid:[4026531836]"; // Linux, include/linux/proc_ns.h, PROC_PID_INIT_INO
    let own = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if !can_number() {
        return;
    }
    if own.as_os_str() != HOSTS_OWN {
        return say_skipped("this is not the host's own pid namespace");
    }
    let machine = Machine::new();
    let used = of_one(&machine, "memory_used_bytes"); // by a device that is outside, too
    let world = World::memory("one", "600MiB");
    let mut command = machine.command(&world, "unshare");
    command
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(program("tenant", Door::Linked))
        .arg(Door::Linked.name());
    let mut inside = Tenant::spawn(&mut command);
    assert_eq!(inside.status("context"), 0);
    assert_eq!(inside.alloc("held", "cuMemAlloc_v2", 200 * MIB), 0);
    let agent = Agent::start(&machine);
    assert!(agent.value(&used) > Some(200.0 * MIB as f64));
    inside.kill();
    let ledger = machine.hook_dir().join("one/ledger");
    agent.hear(&format!(
        "freed the places of 1 dead in {}",
        ledger.display()
    ));
}

#[test]
fn an_ended_container_is_kept_for_a_while_and_then_forgotten() {
    let machine = Machine::new();
    let world = World::memory("one", "600MiB");
    let mut ends = Tenant::with_context(&machine, &world);
    assert_eq!(ends.alloc("held", "cuMemAlloc_v2", 200 * MIB), 0);
    let _stays = Tenant::with_context(&machine, &World::memory("two", "600MiB"));
    let peak = of_one(&machine, "memory_peak_bytes");
    let processes = |container: &str| format!("cuda_hook_processes{{container=\"{container}\"}}");
    ends.end();
    let patient = Agent::start(&machine);
    assert!(patient.value(&peak) >= Some(200.0 * MIB as f64));
    assert_eq!(patient.value(&processes("one")), Some(0.0));
    patient.end_by(Signal::TERM);
    let hasty = Agent::start_with(&machine, &["--keep-ended", "1ms"]);
    hasty.hear("removed what ended container one has left");
    assert_eq!(hasty.value(&processes("one")), None);
    assert_eq!(hasty.value(&processes("two")), Some(1.0));
    assert!(!machine.hook_dir().join("one").exists());
    assert_eq!(hasty.value("cuda_hook_skipped_entries{}"), Some(0.0));
    let mut again = Tenant::with_context(&machine, &world);
    assert_eq!(
        again.alloc("more", "cuMemAlloc_v2", 600 * MIB),
        OUT_OF_MEMORY
    );
    assert_eq!(hasty.value(&processes("one")), Some(1.0));
}

/// As a tenant could, to whom the folder is lent.
#[test]
fn a_lock_that_is_never_let_go_of_stops_nobodys_metrics() {
    let machine = Machine::new();
    let agent = Agent::start(&machine);
    let mut tenant = Tenant::with_context(&machine, &World::memory("one", "600MiB"));
    let hold = "import fcntl, sys; file = open(sys.argv[1], 'r+b'); \
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 0); print('held', flush=True); sys.stdin.read()";
    let mut command = Command::new("python3");
    let ledger = machine.hook_dir().join("one/ledger");
    let mut holder = Tenant::spawn(command.args(["-c", hold]).arg(ledger));
    assert_eq!(holder.hear(), "held");
    let wanted = r#"{"container": "one", "memory": "1600MiB"}"#;
    let socket = agent::socket(&machine);
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| agent::ask_by_socket(&socket, "POST", "/set", wanted));
        agent.metrics();
        asked.join().expect("it is answered")
    });
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains("holds the lock"), "{answer:?}");
    holder.kill();
    assert_eq!(
        tenant.memory_info().1,
        600 * MIB,
        "nobody waits for the lock any more"
    );
}

#[test]
fn nobody_else_may_use_the_socket() {
    if !geteuid().is_root() {
        return say_skipped("only root can become somebody else");
    }
    let machine = Machine::new();
    let agent = Agent::start(&machine);
    fs::set_permissions(machine.path(""), Permissions::from_mode(0o755)).expect("permissions");
    let connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
    let socket = agent::socket(&machine);
    let by_root = run(Command::new("python3").args(["-c", connect]).arg(&socket));
    assert!(by_root.status.success(), "{by_root:?}");
    let mut command = Command::new(BECOME_NOBODY[0]);
    command.args(&BECOME_NOBODY[1..]);
    let by_nobody = run(command.args(["python3", "-c", connect]).arg(&socket));
    assert!(
        by_nobody.stderr.contains("Permission denied"),
        "{by_nobody:?}"
    );
    drop(agent);
}

#[test]
fn a_pod_is_told_whatever_it_is_called() {
    let machine = Machine::new();
    let agent = Agent::start(&machine);
    let _tenant = Tenant::with_context(&machine, &World::memory("one", "600MiB"));
    let made = machine.path("hook-containers/some-id");
    fs::create_dir_all(&made).expect("the folder of a container");
    let labels = json!({ "container": "one", "namespace": "a \"b\"", "pod": "c\\d\ne" });
    fs::write(made.join("labels.json"), labels.to_string()).expect("labels");
    let series = r#"cuda_hook_processes{container="one",namespace="a \"b\"",pod="c\\d\ne"}"#;
    assert_eq!(agent.value(series), Some(1.0));
}

/// Read calls of a process so far (proc_pid_io(5)); `None`: this kernel does not count them.
fn reads(pid: u32) -> Option<u64> {
    let counts = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let line = counts
        .lines()
        .find_map(|line| line.strip_prefix("syscr: "))?;
    line.parse().ok()
}

#[test]
fn a_scrape_of_many_containers_reads_each_of_them_a_few_times() {
    const CONTAINERS: u64 = 300;
    const READS_MAX: u64 = 12; // of a container, with a look for the dead beside the scrape
    let machine = Machine::new();
    let agent = Agent::start(&machine);
    for number in 0..CONTAINERS {
        let name = format!("c{number}").parse().expect("a name");
        let gpus = [(DeviceUuid::from_bytes([7; 16]), Some(Bytes::new(number)))];
        drop(Ledger::attach(&machine.hook_dir(), &name, &gpus).expect("a ledger"));
    }
    let before = reads(agent.pid());
    let metrics = agent.metrics();
    let after = reads(agent.pid());
    for number in 0..CONTAINERS {
        let quota = format!("cuda_hook_memory_quota_bytes{{container=\"c{number}\",");
        let mut lines = metrics.lines().filter(|line| line.starts_with(&quota));
        assert!(
            lines
                .next()
                .is_some_and(|line| line.ends_with(&format!(" {number}.0")))
        );
        assert_eq!(lines.next(), None);
    }
    if let (Some(before), Some(after)) = (before, after) {
        assert!(
            after - before <= 100 + CONTAINERS * READS_MAX,
            "{before} reads, then {after}"
        );
    }
}
