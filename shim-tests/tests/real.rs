//! `scripts/test-real` where there is no GPU: what it refuses, and its comparison with the simulation in a real driver's place.
#![cfg(test)]

use shim_tests::{Machine, Outcome, World, artefacts, build, child, shared_object};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The program, where the loader finds the driver in `folder`.
fn test_real(machine: &Machine, folder: &Path) -> Command {
    let mut command = machine.command(&World::Bare, env!("CARGO_BIN_EXE_test-real"));
    command.env("LD_LIBRARY_PATH", folder);
    command
}

fn with_the_simulation(machine: &Machine, doors: &[&str]) -> Outcome {
    let mut command = test_real(machine, &artefacts().sim);
    child::run(command.arg("--simulation-will-do").args(doors))
}

#[track_caller]
fn assert_not_run(folder: &Path, why: &str) {
    let outcome = child::run(&mut test_real(&Machine::new(), folder));
    assert_eq!(outcome.status.code(), Some(3), "{outcome:#?}");
    assert!(outcome.stdout.is_empty(), "{outcome:#?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
    assert!(
        outcome.stderr.contains("not run") && outcome.stderr.contains(why),
        "{outcome:#?}"
    );
}

#[test]
fn a_driver_without_a_device_is_refused() {
    let driver = shared_object("old_driver", "libcuda.so.1");
    assert_not_run(
        driver.parent().expect("a folder"),
        "answers with status 100",
    );
}

#[test]
fn a_driver_that_cannot_be_loaded_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("libcuda.so.1"), "no library").expect("a file");
    assert_not_run(folder.path(), "libcuda.so.1");
}

#[test]
fn the_simulation_is_not_called_real() {
    assert_not_run(&artefacts().sim, "is the simulation");
}

#[test]
fn a_driver_that_is_like_the_simulation_passes() {
    let outcome = with_the_simulation(&Machine::new(), &["linked", "gpa2-0"]);
    assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
    let lines = outcome.lines();
    assert_eq!(
        lines.len(),
        5,
        "two for each door, and the quota: {lines:#?}"
    );
    assert!(
        lines.iter().all(|line| line.ends_with(": the same")),
        "{lines:#?}"
    );
}

/// The driver in the real one's place has memory for one context, not for two.
#[test]
fn a_driver_that_answers_otherwise_is_told() {
    let t4 = fs::read_to_string(build::repository().join("gpu-sim/profiles/t4.toml"))
        .expect("a profile");
    let small: String = t4
        .lines()
        .map(|line| match line.split_once(" = ") {
            Some(("memory_bytes", _)) => "memory_bytes = 176160768\n".to_owned(),
            _ => format!("{line}\n"),
        })
        .collect();
    let folder = tempfile::tempdir().expect("a folder");
    let profile = folder.path().join("small.toml");
    fs::write(&profile, small).expect("a file");
    let machine = Machine::with_profile(profile.to_str().expect("a path in UTF-8"));
    let outcome = with_the_simulation(&machine, &["linked"]);
    assert_eq!(outcome.status.code(), Some(1), "{outcome:#?}");
    assert!(
        outcome
            .stdout
            .contains("linked: statuses, simulated and real: DIFFERENT"),
        "{outcome:#?}"
    );
    assert!(
        outcome
            .stdout
            .contains("linked: without and with the preload: the same"),
        "{outcome:#?}"
    );
}

#[test]
fn wrong_usage_is_2() {
    for word in ["--real", "window"] {
        let outcome = child::run(test_real(&Machine::new(), &artefacts().sim).arg(word));
        assert_eq!(outcome.status.code(), Some(2), "{outcome:#?}");
    }
}
