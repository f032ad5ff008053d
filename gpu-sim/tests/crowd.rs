//! Many users, and users that come and go at bad moments.
#![expect(clippy::unwrap_used, reason = "this is how a test fails")]

mod support;

use gpu_sim::client::{Environment, Machine};
use gpu_sim::command::{AllocKind, Command as GpuCommand};
use rustix::process::Signal;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::program::{GIB, Program, run_kernels, say, wait_for_end, wait_for_end_of_input};
use support::{PATIENCE, Sandbox, kernel, until};

/// Processes of the crowd. Their contexts alone take 10 of the T4's 14 GiB.
const CROWD: u32 = 100;

/// What a process of the crowd goes through; it is killed in one of these, or lives.
const STAGES: [&str; 5] = ["starting", "connected", "allocated", "launched", "done"];

/// Runs as another process what `GPU_SIM_TEST_PROGRAM` names; in the test run itself, nothing.
#[test]
fn program() {
    let Ok(name) = std::env::var("GPU_SIM_TEST_PROGRAM") else {
        return;
    };
    match name.as_str() {
        "crowd" => crowd(),
        "device" => device(),
        "exec" => exec(),
        other => panic!("no program {other}"),
    }
}

/// Goes through the stages and says each.
fn crowd() {
    let machine = Machine::connect().unwrap();
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    say("connected");
    for bytes in [1, 4096, 3 << 20, 20 << 20] {
        machine.alloc(0, bytes, AllocKind::Device).unwrap();
    }
    say("allocated");
    for _ in 0..50 {
        machine
            .submit(&stream, GpuCommand::Kernel(kernel(100)))
            .unwrap();
    }
    say("launched");
    machine.wait_stream(&stream, 50).unwrap();
    say("done");
    wait_for_end_of_input();
}

/// Says which process its machine is.
fn device() {
    let machine = Machine::connect().unwrap();
    say(machine.device_pid());
    wait_for_end_of_input();
}

/// Holds 1 GiB and has work queued; then becomes the program `device`.
fn exec() {
    let machine = Machine::connect().unwrap();
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    machine.alloc(0, GIB, AllocKind::Device).unwrap();
    for _ in 0..1000 {
        machine
            .submit(&stream, GpuCommand::Kernel(kernel(10_000)))
            .unwrap();
    }
    let mut next = Command::new(std::env::current_exe().unwrap());
    next.args(["--exact", "program", "--nocapture"])
        .env("GPU_SIM_TEST_PROGRAM", "device");
    say(next.exec()); // only where that failed
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Numbers that look random, the same in every run.
fn random_numbers() -> impl Iterator<Item = usize> {
    std::iter::successors(Some(1_u64), |last| {
        Some(last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1))
    })
    .map(|number| (number >> 33) as usize)
}

#[test]
fn a_hundred_processes_that_die_anywhere_leave_empty_books() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let mut users: Vec<Program> = (0..CROWD)
        .map(|_| Program::start(&environment, "crowd"))
        .collect();
    let machine = sandbox.connect();
    let before = descriptors(machine.device_pid());
    let mut killed = 0;
    for (user, number) in users.iter_mut().zip(random_numbers()) {
        let last = number % (STAGES.len() + 1); // one stage beyond them all: it lives
        for stage in STAGES.iter().take(last + 1).skip(1) {
            assert_eq!(user.line(), *stage);
        }
        if last < STAGES.len() {
            user.signal(Signal::KILL);
            killed += 1;
        }
    }
    assert!((60..95).contains(&killed), "{killed} of {CROWD} killed");
    drop(users); // kills those that are done
    until("all memory is free", || {
        machine.memory(0).unwrap().used_bytes == 0
    });
    let rows = machine.usage().unwrap();
    assert!(
        rows.iter().all(|row| !row.alive && row.contexts == 0),
        "{rows:?}"
    );
    let containers = machine.containers().unwrap();
    assert_eq!(containers.len(), 1, "{containers:?}");
    assert_eq!(containers[0].processes_alive, 0);
    assert_eq!(containers[0].processes_total, rows.len() as u64);
    until("all descriptors are closed", || {
        descriptors(machine.device_pid()) <= before
    });
    run_kernels(&machine, 1);
    let device = machine.device_pid();
    drop(machine);
    wait_for_end(device);
    assert!(!sandbox.dir().exists());
}

#[test]
fn a_program_that_execs_another_leaves_its_memory_and_its_queue_and_its_pid_starts_anew() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let mut program = Program::start(&sandbox.environment(), "exec");
    assert_eq!(program.line(), machine.device_pid().to_string());
    until("memory is back", || {
        machine.memory(0).unwrap().used_bytes == 0
    });
    let rows = machine.usage().unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].pid, rows[0].alive), (program.child.id(), false));
    run_kernels(&machine, 1);
    assert!(program.finish().success());
}

/// A device that says in `starts` that it was started, and goes on when somebody opens `gate`.
fn slow_device(folder: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let [script, starts, gate] = ["device", "starts", "gate"].map(|name| folder.join(name));
    let real = env!("CARGO_BIN_EXE_gpu-sim-device");
    let text = format!(
        "#!/bin/sh\necho started >> '{}'\nread line < '{}'\nexec {real} \"$@\"\n",
        starts.display(),
        gate.display()
    );
    test_support::script(&script, &text);
    let made = Command::new("mkfifo").arg(&gate).status().unwrap();
    assert!(made.success());
    (script, starts, gate)
}

#[test]
fn a_user_that_is_stopped_or_dies_while_it_starts_the_machine_keeps_nobody_waiting() {
    for signal in [Signal::STOP, Signal::KILL] {
        let (sandbox, folder) = (Sandbox::new(), tempfile::tempdir().unwrap());
        let (script, starts, gate) = slow_device(folder.path());
        let mut environment = sandbox.environment();
        environment.device = Some(script);
        let mut first = Program::start(&environment, "device");
        until("its device is being started", || starts.exists());
        first.signal(signal);
        let (connected, result) = std::sync::mpsc::channel();
        let environment = sandbox.environment();
        std::thread::spawn(move || connected.send(Box::new(Machine::connect_to(&environment))));
        let machine = result.recv_timeout(PATIENCE).expect("nobody waits for it");
        let machine = machine.unwrap();
        run_kernels(&machine, 1);
        // Its device is late, and gives way.
        fs::write(&gate, "go\n").unwrap();
        if signal == Signal::STOP {
            first.signal(Signal::CONT);
            assert_eq!(first.line(), machine.device_pid().to_string());
            assert!(first.finish().success());
        }
    }
}

#[test]
fn a_machine_whose_starter_died_waits_for_a_user_for_a_while_and_leaves_nothing() {
    let (sandbox, folder) = (Sandbox::new(), tempfile::tempdir().unwrap());
    let (script, starts, gate) = slow_device(folder.path());
    let mut environment = sandbox.environment();
    environment.device = Some(script);
    let starter = Program::start(&environment, "device");
    until("the device is being started", || starts.exists());
    starter.signal(Signal::KILL);
    drop(starter);
    fs::write(&gate, "go\n").unwrap();
    until("the machine is there", || {
        Machine::observe(&sandbox.environment()).is_ok_and(|machine| machine.is_some())
    });
    until("the folder is gone", || !sandbox.dir().exists());
}

#[test]
fn more_users_come_than_a_process_usually_has_descriptors() {
    let (sandbox, folder) = (Sandbox::new(), tempfile::tempdir().unwrap());
    let script = folder.path().join("device");
    let real = env!("CARGO_BIN_EXE_gpu-sim-device");
    let text = format!("#!/bin/sh\nulimit -Sn 64\nexec {real} \"$@\"\n");
    test_support::script(&script, &text);
    let mut environment = sandbox.environment();
    environment.device = Some(script);
    let users: Vec<Machine> = (0..CROWD)
        .map(|_| Machine::connect_to(&environment).unwrap())
        .collect();
    assert!(users.iter().all(|user| user.memory(0).is_ok()));
}

#[test]
fn a_profile_that_was_changed_while_its_machine_runs_is_said_to_be() {
    let mut sandbox = Sandbox::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    fs::write(&file, "[[device]]\nprofile = \"t4\"\n").unwrap();
    sandbox.profile = file.to_str().unwrap().to_owned();
    let machine = sandbox.connect();
    fs::write(&file, "[[device]]\nprofile = \"t4\"\ncount = 2\n").unwrap();
    let refused = Machine::connect_to(&sandbox.environment()).err();
    let said = refused.unwrap().to_string();
    assert!(
        said.contains("was started before") && said.contains("mine.toml"),
        "{said}"
    );
    let device = machine.device_pid();
    drop(machine);
    wait_for_end(device);
    assert_eq!(sandbox.connect().devices().len(), 2);
}

/// A device that finds its profile's file gone.
fn device_without_profile(folder: &Path, profile: &Path) -> PathBuf {
    let (script, real) = (folder.join("late"), env!("CARGO_BIN_EXE_gpu-sim-device"));
    let text = format!(
        "#!/bin/sh\nrm '{}'\nexec {real} \"$@\"\n",
        profile.display()
    );
    test_support::script(&script, &text);
    script
}

#[test]
fn a_device_that_does_not_come_up_leaves_nothing_and_a_later_one_can() {
    let (sandbox, folder) = (Sandbox::new(), tempfile::tempdir().unwrap());
    let mut environment = sandbox.environment();
    environment.device = Some("/bin/false".into());
    for _ in 0..2 {
        assert!(Machine::connect_to(&environment).is_err());
        assert!(!sandbox.dir().exists());
    }
    let profile = folder.path().join("mine.toml");
    fs::write(&profile, "[[device]]\nprofile = \"t4\"\n").unwrap();
    let vanishing = Environment {
        profile: profile.to_str().unwrap().to_owned(),
        device: Some(device_without_profile(folder.path(), &profile)),
        ..sandbox.environment()
    };
    let said = Machine::connect_to(&vanishing).err().unwrap().to_string();
    assert!(said.contains("mine.toml") && !profile.exists(), "{said}");
    assert!(!sandbox.dir().exists());
    fs::create_dir(sandbox.dir()).unwrap();
    fs::write(sandbox.dir().join("trace"), "somebody's").unwrap();
    environment.device = Some(folder.path().join("none"));
    assert!(Machine::connect_to(&environment).is_err());
    let left: Vec<_> = fs::read_dir(sandbox.dir()).unwrap().collect();
    assert_eq!(left.len(), 1, "what is not the machine's stays: {left:?}");
    assert!(sandbox.connect().memory(0).is_ok());
}

#[test]
fn a_machine_whose_folder_was_removed_leaves_the_next_ones_alone() {
    let sandbox = Sandbox::new();
    let first = sandbox.connect();
    fs::remove_dir_all(sandbox.dir()).unwrap();
    let second = sandbox.connect();
    let device = first.device_pid();
    assert_ne!(second.device_pid(), device);
    drop(first);
    wait_for_end(device);
    let third = sandbox.connect();
    assert_eq!(third.device_pid(), second.device_pid());
}

#[test]
fn who_looks_on_keeps_no_machine_from_ending() {
    let sandbox = Sandbox::new();
    let user = sandbox.connect();
    let observer = Machine::observe(&sandbox.environment()).unwrap().unwrap();
    let device = user.device_pid();
    run_kernels(&user, 3);
    let rows = observer.containers().unwrap();
    assert_eq!((rows.len(), rows[0].kernels_total), (1, 3));
    drop(user);
    wait_for_end(device);
    assert!(observer.containers().is_err());
    assert!(!sandbox.dir().exists());
    assert!(Machine::observe(&sandbox.environment()).unwrap().is_none());
    assert!(!sandbox.dir().exists());
}

#[test]
fn a_number_that_is_none_is_refused_by_its_name_whether_the_machine_runs_or_not() {
    let sandbox = Sandbox::new();
    for value in ["soon", "-1", "1.5", "4294967296"] {
        for (wrong, name) in wrong_environments(&sandbox, value) {
            let said = Machine::connect_to(&wrong).err().unwrap().to_string();
            assert!(said.starts_with(&format!("{name}={value}: ")), "{said}");
            assert!(!sandbox.dir().exists());
        }
    }
    let _machine = sandbox.connect();
    for (wrong, _) in wrong_environments(&sandbox, "soon") {
        assert!(Machine::connect_to(&wrong).is_err() && Machine::observe(&wrong).is_err());
    }
}

fn wrong_environments(sandbox: &Sandbox, value: &str) -> [(Environment, &'static str); 2] {
    let (mut linger, mut alloc) = (sandbox.environment(), sandbox.environment());
    linger.linger_ms = Some(value.to_owned());
    alloc.alloc_us = Some(value.to_owned());
    [(linger, "GPU_SIM_LINGER_MS"), (alloc, "GPU_SIM_ALLOC_US")]
}

#[test]
fn a_slow_driver_takes_its_time_to_allocate() {
    let sandbox = Sandbox::new();
    let mut slow = sandbox.environment();
    slow.alloc_us = Some("3000".to_owned());
    let machine = Machine::connect_to(&slow).unwrap();
    let began = Instant::now();
    machine.alloc(0, 4096, AllocKind::Device).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(3));
}
