//! The device process is killed under its users: as when a board drops off the bus.
#![cfg(test)]

use gpu_sim::client::{self, Environment};
use rustix::process::{Pid, Signal, kill_process};
use shim_tests::{Machine, Tenant, World, artefacts};

/// `CUDA_ERROR_UNKNOWN`
const UNKNOWN: u64 = 999;

/// Kills the device process of a machine that runs.
fn kill_device(machine: &Machine) {
    let environment = Environment {
        profile: "t4".to_owned(),
        dir: machine.sim_dir(),
        device: Some(artefacts().sim.join("gpu-sim-device")),
        container: String::new(),
        linger_ms: Some("0".to_owned()),
        alloc_us: None,
        log: None,
    };
    let observer = client::Machine::observe(&environment).expect("a machine that answers");
    let device = observer.expect("a machine that runs").device_pid();
    let pid = Pid::from_raw(device.try_into().expect("a pid")).expect("a pid");
    kill_process(pid, Signal::KILL).expect("the device can be killed");
}

#[test]
fn every_call_fails_the_same_way_from_then_on_and_the_next_program_has_a_new_device() {
    let machine = Machine::new();
    let mut tenant = Tenant::with_context(&machine, &World::Bare);
    assert_eq!(tenant.alloc("held", "cuMemAlloc_v2", 1 << 20), 0);
    assert_eq!(tenant.status("kernel 1000"), 0);
    assert_eq!(tenant.status("launch kernel 5"), 0);
    kill_device(&machine);
    let calls = [
        "launch kernel 1",
        "launch graph 1",
        "info",
        "alloc more cuMemAlloc_v2 4096",
        "free held",
    ];
    for call in calls.iter().chain(&calls) {
        assert_eq!(tenant.status(call), UNKNOWN, "{call}");
    }
    let outcome = tenant.end();
    assert!(outcome.status.success(), "{outcome:?}");
    assert_eq!(
        outcome
            .stderr
            .matches("the simulated device is gone")
            .count(),
        1,
        "{outcome:?}"
    );
    let mut next = Tenant::with_context(&machine, &World::Bare);
    assert_eq!(next.status("kernel 1000"), 0);
    assert_eq!(next.status("launch kernel 5"), 0);
}
