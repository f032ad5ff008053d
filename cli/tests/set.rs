//! `cuda-hook set`, seen from outside.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use limiter::ledger::Ledger;
use limiter::units::{Bytes, DeviceUuid};
use serde_json::Value;
use support::{Sandbox, stderr, stdout};

/// A program of the container `trainer-7` that holds 1 GiB of 4.
fn attach(sandbox: &Sandbox) -> Ledger {
    let device = DeviceUuid::from_bytes([7; 16]);
    let quota = Some(Bytes::new(4 << 30));
    let name = "trainer-7".parse().unwrap();
    let ledger = Ledger::attach(&sandbox.path("state"), &name, &[(device, quota)]).unwrap();
    ledger.charge(0, Bytes::new(1 << 30));
    ledger
}

#[test]
fn a_running_container_gets_other_limits() {
    let sandbox = Sandbox::new();
    let ledger = attach(&sandbox);
    let output = sandbox.run(&["set", "trainer-7", "--memory", "2GiB", "--sm", "30"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        stdout(&output),
        "trainer-7 GPU-07070707: memory 4 GiB -> 2 GiB, sm none -> 30 %, sm_max none -> 30 %\n"
    );
    assert_eq!(ledger.max(0), Some(Bytes::new(2 << 30)));

    let output = sandbox.run(&["set", "trainer-7", "--memory", "0", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let device = &json["devices"][0];
    assert_eq!(
        (&json["schema"], &json["container"]),
        (&1.into(), &"trainer-7".into())
    );
    assert_eq!(device["before"]["memory_bytes_max"], 2_u64 << 30);
    assert_eq!(device["after"]["memory_bytes_max"], 0);
    assert!(
        stderr(&output).contains("1 GiB in use, 0 B allowed"),
        "{output:?}"
    );
}

#[test]
fn what_cannot_be_changed_is_said_and_nothing_is() {
    let sandbox = Sandbox::new();
    for (arguments, status, told) in [
        (
            &["set", "nobody", "--memory", "1GiB"][..],
            1,
            "no container nobody in",
        ),
        (&["set", "trainer-7"], 2, "--memory"),
        (
            &["set", "trainer-7", "--memory", "much"],
            2,
            "--memory = \"much\"",
        ),
        (
            &["set", "trainer-7", "--memory", "-1"],
            2,
            "--memory = \"-1\"",
        ),
        (
            &["set", "trainer-7", "--sm", "30", "--sm-max", "20"],
            2,
            "is less than sm",
        ),
        (
            &["set", "../trainer-7", "--sm", "30"],
            2,
            "container \"../trainer-7\"",
        ),
        (
            &["set", "trainer-7", "--memory", "GPU-99=1GiB"],
            2,
            "names a GPU that does not exist",
        ),
    ] {
        let ledger = attach(&sandbox);
        let output = sandbox.run(arguments);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(stderr(&output).contains(told), "{output:?}");
        assert_eq!(ledger.max(0), Some(Bytes::new(4 << 30)), "{arguments:?}");
    }
    let output = sandbox.run(&["set", "trainer-7", "--memory", "1GiB"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no program of container trainer-7 runs"),
        "{output:?}"
    );
}
