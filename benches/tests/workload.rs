//! The `workload` program on the simulated T4: what it says against what the device counted.

#![cfg(test)]

use std::process::Command;

use serde_json::Value;
use shim_tests::{Machine, Tenant, World, child};

/// How far the device's busy time may be from what a workload's kernels were to take: kernels spread by 3 %, so that
/// some fifty of them and their calibration are within 1 %, and the ten of `long-kernels` within 4 %.
const MARGIN: f64 = 0.04;

fn workload(machine: &Machine, world: &World, arguments: &[&str]) -> Command {
    let mut command = machine.command(world, env!("CARGO_BIN_EXE_workload"));
    command.args(arguments);
    command
}

/// A window as the program reports it, and what the device counted meanwhile.
struct Window {
    report: Value,
    busy_ms: f64,
    kernels: u64,
}

impl Window {
    /// Plays `iterations` of a workload on a machine of its own.
    fn play(name: &str, iterations: u64) -> Self {
        Self::play_on(&Machine::new(), &World::Bare, name, iterations)
    }

    /// Plays `iterations` of a workload; its calibration is over before the device's counts are taken.
    fn play_on(machine: &Machine, world: &World, name: &str, iterations: u64) -> Self {
        let iterations = iterations.to_string();
        let arguments = [name, "--gate", "--iterations", &iterations];
        let mut player = Tenant::spawn(&mut workload(machine, world, &arguments));
        let ready: Value = serde_json::from_str(&player.hear()).unwrap();
        assert_eq!(
            (&ready["ready"], &ready["simulated"]),
            (&true.into(), &true.into())
        );
        let before = machine.truth_of(player.pid());
        player.tell("play");
        let report = serde_json::from_str(&player.hear()).unwrap();
        let after = machine.truth_of(player.pid());
        assert!(player.end().status.success());
        Self {
            report,
            busy_ms: (after.gpu_busy_ns - before.gpu_busy_ns) as f64 / 1e6,
            kernels: after.kernels - before.kernels,
        }
    }

    fn number(&self, key: &str) -> f64 {
        self.report[key]
            .as_f64()
            .unwrap_or_else(|| panic!("{key} in {}", self.report))
    }

    /// Busy time of the device in parts of what the kernels were to take.
    fn busy_of_wanted(&self) -> f64 {
        self.busy_ms / (self.number("iterations") * self.number("gpu_ms_wanted_per_iteration"))
    }
}

/// A workload does what its file says: so many kernels, for so long, in so many iterations.
#[track_caller]
fn assert_plays(name: &str, iterations: u64, kernels_per_iteration: u64) {
    let window = Window::play(name, iterations);
    let report = &window.report;
    assert_eq!(report["iterations"], iterations, "{report}");
    assert_eq!(
        report["kernels_per_iteration"], kernels_per_iteration,
        "{report}"
    );
    assert_eq!(
        report["kernels_launched"],
        iterations * kernels_per_iteration,
        "{report}"
    );
    assert_eq!(
        window.kernels,
        iterations * kernels_per_iteration,
        "{report}"
    );
    assert_eq!(
        (&report["device"], &report["simulated"]),
        (&"Tesla T4".into(), &true.into())
    );
    let part = window.busy_of_wanted();
    assert!((part - 1.0).abs() < MARGIN, "busy {part} of {report}");
    let per_iteration = window.busy_ms / iterations as f64;
    let latency = report["latency_ms"]["max"].as_f64().unwrap();
    assert!(
        latency > per_iteration * 0.9,
        "{latency} ms, but busy {per_iteration} ms: {report}"
    );
}

/// 53 convolutions, 16 sums, two poolings and a product.
#[test]
fn resnet50_plays_its_layers_for_the_time_of_their_roofline() {
    assert_plays("resnet50", 10, 72);
}

#[test]
fn resnet50_that_arrives_at_random_plays_the_same_layers() {
    assert_plays("resnet50-poisson", 10, 72);
}

/// Forward 72 and 53 norms; backward two for 54 layers, one for 18, and 53 norms; one update.
#[test]
fn a_training_step_plays_forward_backward_and_update() {
    assert_plays("resnet50-training", 2, 305);
}

/// The embedding, ten for each of 32 layers, and three for the next token.
#[test]
fn decoding_plays_every_layer_for_each_token() {
    assert_plays("llm-decode", 4, 324);
}

#[test]
fn a_storm_has_a_thousand_kernels_of_5_us() {
    assert_plays("tiny-kernels", 2, 1000);
}

#[test]
fn long_kernels_take_50_ms() {
    assert_plays("long-kernels", 10, 1);
}

#[test]
fn a_graph_has_twenty_kernels_in_2_ms() {
    assert_plays("graph-2ms", 10, 20);
}

/// One kernel length and shape each, as a file of one's own.
#[test]
fn kernels_of_any_shape_take_the_time_that_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    for (grid, block, duration_us, repeat) in [
        (1, 32, 4.0, 400),
        (1, 1024, 50.0, 100),
        (40, 96, 5_000.0, 60),
        (161, 256, 300.0, 100),
        (5_000, 128, 700.0, 100),
    ] {
        let path = folder.path().join("own.toml");
        let text = format!(
            "summary = \"s\"\nunit = \"u\"\n[[step]]\nkernel = {{ grid = {grid}, block = {block}, \
             duration_us = {duration_us}, repeat = {repeat} }}"
        );
        std::fs::write(&path, text).unwrap();
        let part = Window::play(path.to_str().unwrap(), 1).busy_of_wanted();
        assert!(
            (part - 1.0).abs() < 0.03,
            "{grid} × {block} for {duration_us} µs: {part}"
        );
    }
}

/// The neighbour has every second time slice, and ends with its input.
#[test]
fn beside_a_busy_neighbour_kernels_are_as_long_as_alone() {
    let machine = Machine::new();
    let arguments = ["long-kernels", "--gate", "--iterations", "1000000"];
    let mut neighbour = Tenant::spawn(&mut workload(&machine, &World::Bare, &arguments));
    neighbour.hear();
    neighbour.tell("play");
    let part = Window::play_on(&machine, &World::Bare, "resnet50", 10).busy_of_wanted();
    neighbour.kill();
    assert!((part - 1.0).abs() < MARGIN, "{part}");
}

/// More arrive than the device can serve: the seed says how many, the device how many of them it gets done.
#[test]
fn who_waits_for_a_busy_device_is_counted() {
    let play = || {
        let machine = Machine::new();
        let arguments = [
            "resnet50-poisson",
            "--rate",
            "5000",
            "--seconds",
            "0.2",
            "--json",
        ];
        let outcome = child::run(&mut workload(&machine, &World::Bare, &arguments));
        let report: Value = serde_json::from_str(outcome.lines()[0]).unwrap();
        ["iterations", "waiting"].map(|key| report[key].as_u64().unwrap())
    };
    let ([served, waiting], [served_again, waiting_again]) = (play(), play());
    assert_eq!(served + waiting, served_again + waiting_again);
    assert!(
        (900..1100).contains(&(served + waiting)),
        "{served} + {waiting}"
    );
    assert!(served > 0 && waiting > served, "{served}, {waiting}");
}

#[test]
fn a_report_says_what_was_played_and_that_it_was_simulated() {
    let arguments = ["graph-2ms", "--iterations", "5"];
    let outcome = child::run(&mut workload(&Machine::new(), &World::Bare, &arguments));
    let lines = outcome.lines();
    assert_eq!(lines[0], "graph-2ms on simulated Tesla T4, batch 1");
    let starts = [
        "  graphs/s ",
        "  iterations    5 in ",
        "  latency ms    p50 ",
        "  kernels       100 launched, 20 an",
    ];
    for (line, start) in lines[1..].iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn under_a_limit_kernels_are_as_long_as_without() {
    let limited = World::sm("limited", "50");
    let part = Window::play_on(&Machine::new(), &limited, "resnet50", 10).busy_of_wanted();
    assert!((part - 1.0).abs() < MARGIN, "{part}");
}

/// With one kernel: how many different ones the layers of a network make depends on what calibration measured.
#[test]
fn the_preload_without_limits_changes_no_driver_call() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.toml");
    let step = "[[step]]\nkernel = { duration_us = 20, repeat = 10 }\n";
    let copy = |direction| {
        format!("[[step]]\ncopy = {{ direction = \"{direction}\", bytes_per_item = 4096 }}\n")
    };
    let (to_device, to_host) = (copy("to_device"), copy("to_host"));
    let text = format!(
        "summary = \"s\"\nunit = \"u\"\n{to_device}{step}[[step]]\nsynchronize = {{}}\n{step}{to_host}"
    );
    std::fs::write(&path, text).unwrap();
    for name in [path.to_str().unwrap(), "graph-2ms"] {
        let calls = |world: &World| {
            let machine = Machine::new();
            let arguments = [name, "--iterations", "3", "--json"];
            let outcome = child::run(&mut workload(&machine, world, &arguments));
            assert_eq!(outcome.lines().len(), 1);
            machine.trace()
        };
        let (bare, transparent) = (calls(&World::Bare), calls(&World::Transparent));
        assert_eq!(bare.difference(&transparent), None);
        let played = ["cuGraphLaunch", "cuMemcpyDtoHAsync_v2"].map(|symbol| bare.count(symbol));
        assert!(played.contains(&3), "{played:?}");
    }
}

/// Waits for the device itself to have run more kernels, so that the window has begun.
#[test]
fn an_interrupted_window_is_reported_and_exits_with_130() {
    let machine = Machine::new();
    let arguments = ["long-kernels", "--gate", "--seconds", "1000"];
    let mut player = Tenant::spawn(&mut workload(&machine, &World::Bare, &arguments));
    player.hear();
    let calibrated = machine.truth_of(player.pid()).kernels;
    player.tell("play");
    while machine.truth_of(player.pid()).kernels == calibrated {
        std::thread::yield_now();
    }
    let kill = Command::new("kill")
        .args(["-INT", &player.pid().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let report: Value = serde_json::from_str(&player.hear()).unwrap();
    assert_eq!(report["interrupted"], true, "{report}");
    assert!(report["iterations"].as_u64().unwrap() >= 1, "{report}");
    assert_eq!(player.end().status.code(), Some(130));
}

#[test]
fn a_quota_that_the_weights_do_not_fit_into_is_said_so() {
    let machine = Machine::new();
    let small = World::memory("small", "2GiB");
    let outcome = child::run(&mut workload(&machine, &small, &["llm-decode"]));
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(
        outcome
            .stderr
            .starts_with("workload: cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY at 13745266688 bytes"),
        "{outcome:?}"
    );
}

/// Nothing here needs a driver: the loader finds none.
#[test]
fn wrong_usage_exits_with_2_and_a_missing_driver_with_1() {
    for (arguments, status, reason) in [
        (
            &["resnet"][..],
            2,
            "no workload is called resnet; there are resnet50,",
        ),
        (
            &["resnet50", "--batch", "5"],
            2,
            "--batch: 5 is not among those of resnet50: [1, 4, 16]",
        ),
        (
            &["resnet50", "--seed", "5"],
            2,
            "--seed is of random arrivals",
        ),
        (
            &["resnet50", "--rate", "0"],
            2,
            "--rate: 0 is not within 0.001 to 1000000",
        ),
        (&["show", "resnet"], 2, "no workload is called resnet"),
        (&["/nowhere/x.toml"], 2, "/nowhere/x.toml: No such file"),
        (
            &["resnet50"],
            1,
            "no NVIDIA driver: libcuda.so.1: cannot open shared object file",
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_workload"));
        let outcome = child::run(command.env_clear().args(arguments));
        assert_eq!(outcome.status.code(), Some(status), "{outcome:?}");
        assert!(outcome.stderr.contains(reason), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
}

#[test]
fn each_listed_workload_can_be_shown_and_what_is_shown_is_the_file() {
    let run = |arguments: &[&str]| {
        child::run(Command::new(env!("CARGO_BIN_EXE_workload")).args(arguments))
    };
    let list = run(&["list"]);
    let names: Vec<&str> = list
        .lines()
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(names.len(), 7);
    for name in names {
        let path = format!("{}/workloads/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(
            run(&["show", name]).stdout,
            std::fs::read_to_string(path).unwrap()
        );
    }
    let network = run(&["show", "--network", "llama-2-7b"]);
    assert!(network.stdout.contains("arXiv:2307.09288"), "{network:?}");
}
