//! The command, end to end: it becomes the program, refuses what cannot be meant, and shows who uses what.
#![cfg(test)]

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use shim_tests::{Door, MIB, Machine, Tenant, World, artefacts, child, program};
use std::process::Command;

/// `cuda-hook` with these arguments; where the program finds its driver is left to it.
fn cuda_hook(machine: &Machine, arguments: &[&str]) -> Command {
    let mut command = machine.command(&World::Bare, &artefacts().command);
    command
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("GPU_SIM_PROFILE")
        .args(arguments);
    command
}

/// A tenant started by `cuda-hook run`.
fn tenant(machine: &Machine, flags: &[&str]) -> Tenant {
    let mut command = cuda_hook(machine, &[&["run", "--sim", "t4"], flags, &["--"]].concat());
    Tenant::spawn(command.arg(program("tenant", Door::Dlopen)).arg("dlopen"))
}

/// What a command prints as JSON.
fn json_of(machine: &Machine, arguments: &[&str]) -> Value {
    let outcome = child::run(&mut cuda_hook(machine, arguments));
    assert_eq!(outcome.stderr, "");
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

/// What `cuda-hook status --json` says of a container.
fn status_of(machine: &Machine, container: &str) -> Option<Value> {
    let status = json_of(machine, &["status", "--json"]);
    let containers = status["containers"]
        .as_array()
        .expect("a list of containers");
    containers
        .iter()
        .find(|entry| entry["container"] == container)
        .cloned()
}

#[test]
fn the_exit_status_is_the_programs() {
    let machine = Machine::new();
    for expected in [0, 1, 2, 37, 255] {
        let script = format!("echo out; echo err >&2; exit {expected}");
        let outcome = child::run(&mut cuda_hook(
            &machine,
            &["run", "--memory", "1GiB", "--", "sh", "-c", &script],
        ));
        assert_eq!(
            (
                outcome.status.code(),
                outcome.stdout.as_str(),
                outcome.stderr.as_str()
            ),
            (Some(expected), "out\n", "err\n")
        );
    }
}

#[test]
fn arguments_reach_the_program_untouched() {
    let machine = Machine::new();
    let outcome = child::run(&mut cuda_hook(
        &machine,
        &[
            "run", "--sm", "30", "--", "printf", "%s|", "--memory", "a b", "", "--",
        ],
    ));
    assert_eq!(outcome.lines(), ["--memory|a b||--|"]);
}

#[test]
fn a_program_that_is_not_there_is_127() {
    let machine = Machine::new();
    let outcome = child::run(&mut cuda_hook(&machine, &["run", "--", "/no/such/program"]));
    assert_eq!(outcome.status.code(), Some(127));
    assert!(outcome.stderr.contains("/no/such/program"), "{outcome:#?}");
}

#[test]
fn wrong_usage_is_2_and_says_why() {
    let machine = Machine::new();
    for (arguments, names) in [
        (&["run", "--memory", "abc", "--", "echo", "ran"][..], "abc"),
        (&["run", "--memory", "-1", "--", "echo", "ran"], "-1"),
        (&["run", "--memory", "", "--", "echo", "ran"], ""),
        (&["run", "--sm", "200", "--", "echo", "ran"], "200"),
        (
            &["run", "--sm", "60", "--sm-max", "30", "--", "echo", "ran"],
            "30",
        ),
        (&["run", "--container", "a/b", "--", "echo", "ran"], "a/b"),
        (
            &["run", "--sim", "no-such-gpu", "--", "echo", "ran"],
            "no-such-gpu",
        ),
        (&["run", "--nonsense", "--", "echo", "ran"], "--nonsense"),
        (&["run", "--memory", "1GiB"], "PROGRAM"),
        (&["no-such-command"], "no-such-command"),
        (&["status", "--nonsense"], "--nonsense"),
    ] {
        let outcome = child::run(&mut cuda_hook(&machine, arguments));
        assert_eq!(
            outcome.status.code(),
            Some(2),
            "{arguments:?}: {outcome:#?}"
        );
        assert_eq!(outcome.stdout, "", "{arguments:?}");
        assert!(
            !outcome.stderr.is_empty() && outcome.stderr.contains(names),
            "{arguments:?}: {outcome:#?}"
        );
    }
}

#[test]
fn limits_given_to_run_hold() {
    let machine = Machine::new();
    let mut tenant = tenant(
        &machine,
        &["--memory", "600MiB", "--container", "by-command"],
    );
    assert_eq!(tenant.status("context"), 0);
    let (free_bytes, total_bytes) = tenant.memory_info();
    assert_eq!(total_bytes, 600 * MIB);
    assert_eq!(tenant.alloc("a", "cuMemAlloc_v2", free_bytes + 1), 2);
    assert_eq!(tenant.alloc("a", "cuMemAlloc_v2", free_bytes), 0);
}

#[test]
fn without_limits_the_program_has_the_whole_gpu() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine, &[]);
    assert_eq!(tenant.status("context"), 0);
    assert_eq!(tenant.memory_info().1, machine.memory_bytes());
    assert_eq!(tenant.end().stderr, "");
}

#[test]
fn two_runs_without_a_name_are_two_containers() {
    let machine = Machine::new();
    let mut first = tenant(&machine, &["--memory", "600MiB"]);
    let mut second = tenant(&machine, &["--memory", "600MiB"]);
    assert_eq!((first.status("context"), second.status("context")), (0, 0));
    let free_bytes = second.free_bytes();
    assert_eq!(first.alloc("a", "cuMemAlloc_v2", 100 * MIB), 0);
    assert_eq!(second.free_bytes(), free_bytes);
}

#[test]
fn status_shows_a_container_while_it_runs() {
    let machine = Machine::new();
    assert!(status_of(&machine, "shown").is_none());
    let mut tenant = tenant(
        &machine,
        &["--memory", "1GiB", "--sm", "40", "--container", "shown"],
    );
    assert_eq!(tenant.status("context"), 0);
    let before = status_of(&machine, "shown").expect("the container is there");
    assert_eq!(tenant.alloc("a", "cuMemAlloc_v2", 100 * MIB), 0);
    let held = status_of(&machine, "shown").expect("the container is there");
    let device = &held["devices"][0];
    assert_eq!(device["device_uuid"], machine.device_uuids()[0].as_str());
    assert_eq!(
        (
            device["memory_bytes_max"].as_u64(),
            device["sm_percent"].as_f64()
        ),
        (Some(1 << 30), Some(40.0))
    );
    let current = |container: &Value| {
        container["devices"][0]["memory_bytes_current"]
            .as_u64()
            .expect("bytes")
    };
    assert_eq!(current(&held) - current(&before), 100 * MIB);
    assert_eq!(
        held["processes"][0]["pid"],
        tenant.pid(),
        "run keeps the process id"
    );
    assert!(tenant.end().status.success());
    let after = status_of(&machine, "shown");
    assert!(
        after.is_none_or(|container| container["processes"].as_array().is_some_and(Vec::is_empty)),
        "nobody is left"
    );
}

/// What was measured is told: as part of what the container holds, and by itself.
#[test]
fn status_and_doctor_show_what_a_context_takes() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine, &["--memory", "1GiB", "--container", "shown"]);
    assert_eq!(tenant.status("context"), 0);
    let context_bytes = machine.truth_of(tenant.pid()).memory_bytes;
    let sample = json_of(&machine, &["status", "--json"]);
    let board = &sample["boards"][0];
    assert_eq!(board["device_uuid"], machine.device_uuids()[0].as_str());
    assert_eq!(board["context_bytes"], context_bytes);
    let held = &sample["containers"][0]["devices"][0]["memory_bytes_current"];
    assert_eq!(*held, context_bytes);
    let doctor = json_of(&machine, &["doctor", "--json"]);
    let findings = doctor["findings"].as_array().expect("findings");
    let contexts = findings.iter().find(|one| one["check"] == "contexts");
    let found = contexts.expect("it is looked at")["found"].to_string();
    assert!(found.contains("A context takes "), "{found}");
}

#[test]
fn status_shows_gpu_time_and_waits() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine, &["--sm", "20", "--container", "busy"]);
    assert_eq!(
        (tenant.status("context"), tenant.status("kernel 10000")),
        (0, 0)
    );
    assert_eq!(tenant.status("launch kernel 100"), 0);
    let busy = status_of(&machine, "busy").expect("the container is there");
    let device = &busy["devices"][0];
    let charged_ns = device["charged_ns_total"].as_f64().expect("ns");
    let truth_ns = machine.truth_of(tenant.pid()).gpu_busy_ns as f64;
    assert!(
        (charged_ns / truth_ns - 1.0).abs() < 0.1,
        "charged {charged_ns} ns, the device counted {truth_ns}"
    );
    assert!(
        device["throttled_ns_total"]
            .as_u64()
            .is_some_and(|ns| ns > 0),
        "{device}"
    );
}

/// Ctrl-C in a terminal: the signal goes to the foreground process group, and what follows is the program's affair.
#[test]
fn an_interrupt_is_the_programs_to_handle() {
    let machine = Machine::new();
    // Not a shell's trap: there is none for a signal that is ignored from the start, as where tests run in the background.
    let script = "import signal, sys; interrupt = [signal.SIGINT]; \
        signal.pthread_sigmask(signal.SIG_BLOCK, interrupt); print('ready', flush=True); \
        signal.sigwait(interrupt); print('caught', flush=True); sys.exit(5)";
    let mut command = cuda_hook(
        &machine,
        &["run", "--memory", "1GiB", "--", "python3", "-c", script],
    );
    let mut program = Tenant::spawn(&mut command);
    assert_eq!(program.hear(), "ready");
    let pid = i32::try_from(program.pid()).expect("a pid fits");
    kill_process_group(Pid::from_raw(pid).expect("a pid"), Signal::INT)
        .expect("its group is there");
    assert_eq!(program.hear(), "caught");
    assert_eq!(program.end().status.code(), Some(5));
}
