//! `cuda-hook status` and `cuda-hook sim`, seen from outside.

mod support;

use limiter::ledger::Ledger;
use limiter::units::{Bytes, DeviceUuid};
use serde_json::Value;
use support::{Sandbox, stderr, stdout};

#[test]
fn a_folder_that_nobody_has_used_is_no_failure() {
    let sandbox = Sandbox::new();
    let output = sandbox.run(&["status"]);
    assert!(output.status.success(), "{output:?}");
    let expected = format!("No container in {}: ", sandbox.text("state"));
    assert!(stdout(&output).starts_with(&expected), "{output:?}");
    let json: Value = serde_json::from_slice(&sandbox.run(&["status", "--json"]).stdout).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["containers"].as_array().unwrap().len(), 0);
}

#[test]
fn a_folder_that_cannot_be_one_is_a_failure_that_names_it() {
    let sandbox = Sandbox::new();
    let output = sandbox
        .command(&["status"])
        .env("CUDA_HOOK_DIR", sandbox.path("config.toml"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr(&output).contains("config.toml") && stdout(&output).is_empty(),
        "{output:?}"
    );
}

#[test]
fn without_the_companion_nvml_is_not_asked_and_the_books_are_shown() {
    let sandbox = Sandbox::new();
    let (device, name) = (
        DeviceUuid::from_bytes([7; 16]),
        "trainer-7".parse().unwrap(),
    );
    let _ledger = Ledger::attach(&sandbox.path("state"), &name, &[(device, None)]).unwrap();
    let output = sandbox.command_alone(&["status"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(stdout(&output).contains("trainer-7"), "{output:?}");
    let told = stderr(&output);
    assert!(
        told.starts_with("cuda-hook: warning: NVML was not asked: cuda-hook-libraries is not in ")
            && told.lines().count() == 1,
        "{told}"
    );
}

#[test]
fn what_a_container_holds_is_shown() {
    let sandbox = Sandbox::new();
    let device = DeviceUuid::from_bytes([7; 16]);
    let name = "trainer-7".parse().unwrap();
    let ledger = Ledger::attach(
        &sandbox.path("state"),
        &name,
        &[(device, Some(Bytes::new(4 << 30)))],
    )
    .unwrap();
    let _held = ledger.try_charge(0, Bytes::new(1 << 30)).unwrap();

    let output = sandbox.run(&["status"]);
    let line = stdout(&output)
        .lines()
        .nth(1)
        .unwrap_or_else(|| panic!("{output:?}"));
    let pid = std::process::id().to_string();
    for cell in ["trainer-7", "GPU-07070707", "1 GiB", "4 GiB", &pid] {
        assert!(line.contains(cell), "{cell} in {line}");
    }
    let json: Value = serde_json::from_slice(&sandbox.run(&["status", "--json"]).stdout).unwrap();
    let container = &json["containers"][0];
    assert_eq!(container["container"], "trainer-7");
    assert_eq!(container["devices"][0]["memory_bytes_current"], 1_u64 << 30);
    assert_eq!(container["devices"][0]["memory_bytes_max"], 4_u64 << 30);
}

#[test]
fn no_simulated_machine_is_said_and_none_is_started() {
    let sandbox = Sandbox::new();
    let output = sandbox.run(&["sim", "status", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr(&output).contains("no simulated machine is running"),
        "{output:?}"
    );
    assert!(
        !sandbox.path("machine").exists(),
        "looking leaves nothing behind"
    );
}

#[test]
fn the_profiles_are_listed() {
    let output = Sandbox::new().run(&["sim", "profiles"]);
    assert!(
        stdout(&output)
            .lines()
            .any(|line| line.starts_with("t4 ") && line.contains("T4")),
        "{output:?}"
    );
}

#[test]
fn a_reader_that_leaves_early_is_not_complained_about() {
    let sandbox = Sandbox::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = sandbox.command(&["sim", "profiles"]);
    let output = command.stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}
