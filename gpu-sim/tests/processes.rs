//! Several processes and one machine: deaths, stops, forks, strangers.
//!
//! The other processes are this program again: `GPU_SIM_TEST_PROGRAM` says what they do.
#![expect(unsafe_code, reason = "the tests fork")]
#![expect(clippy::unwrap_used, reason = "this is how a test fails")]

mod support;

use gpu_sim::client::{ConnectError, Effect, Environment, Lost, Machine, RequestError};
use gpu_sim::command::{AllocKind, Command as GpuCommand, StreamId};
use gpu_sim::folder::SOCKET_FILE;
use gpu_sim::wire;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Signal, WaitOptions, kill_process};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use support::program::{GIB, Program, run_kernels, say, wait_for_end, wait_for_end_of_input};
use support::{Sandbox, kernel, until};

/// Runs as another process what `GPU_SIM_TEST_PROGRAM` names; in the test run itself, nothing.
#[test]
fn program() {
    let Ok(name) = std::env::var("GPU_SIM_TEST_PROGRAM") else {
        return;
    };
    match name.as_str() {
        "busy" => busy(500),
        "long" => busy(50_000),
        "device" => device(),
        "fork" => fork(),
        "orphan" => orphan(),
        "dying" => dying(),
        "asking" => asking(),
        other => panic!("no program {other}"),
    }
}

/// Holds 1 GiB and keeps its queue full of kernels that take `kernel_us` each, until its input ends. Says so when it
/// holds a hundred of them.
fn busy(kernel_us: u64) {
    let machine = Machine::connect().unwrap();
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    machine.alloc(0, GIB, AllocKind::Device).unwrap();
    let input = std::thread::spawn(wait_for_end_of_input);
    for nth in 0.. {
        machine
            .submit(&stream, GpuCommand::Kernel(kernel(kernel_us)))
            .unwrap();
        if nth == 100 {
            say("busy");
        }
        if input.is_finished() {
            return;
        }
    }
}

/// Says which process its machine is.
fn device() {
    let machine = Machine::connect().unwrap();
    say(machine.device_pid());
    wait_for_end_of_input();
}

/// Forks, and says what the child finds.
fn fork() {
    let machine = Machine::connect().unwrap();
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    // SAFETY: the child calls nothing that another thread of the parent could have left locked:
    // the client before it has seen that it is a child, and a new connection.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let memory = machine.memory(0) == Err(RequestError::Lost(Lost::Forked));
        let submit = machine.submit(&stream, GpuCommand::Marker) == Err(Lost::Forked);
        let poll = machine.poll_stream(&stream, 0) == Err(Lost::Forked);
        let anew = Machine::connect().is_ok_and(|anew| anew.memory(0).is_ok());
        let failed = [memory, submit, poll, anew]
            .iter()
            .filter(|fine| !**fine)
            .count();
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(failed as i32) };
    }
    let (_, status) = rustix::process::waitpid(Pid::from_raw(child), WaitOptions::empty())
        .unwrap()
        .unwrap();
    say(format_args!("child failed in {:?}", status.exit_status()));
    let last = machine.submit(&stream, GpuCommand::Marker).unwrap();
    machine.wait_stream(&stream, last).unwrap();
    say("parent goes on");
}

/// Holds 1 GiB, and leaves its socket to a child that outlives it.
fn orphan() {
    let machine = Machine::connect().unwrap();
    machine.alloc(0, GIB, AllocKind::Device).unwrap();
    // SAFETY: the child only waits for a signal.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: plain system calls. The alarm ends the child should the test fail to.
        unsafe {
            libc::alarm(60);
            libc::pause();
            libc::_exit(0);
        }
    }
    say(child);
    wait_for_end_of_input();
}

/// Listens where a device would, and ends when a user knocks, without an answer: as a device that is killed while it
/// still listens.
fn dying() {
    let dir = Environment::from_process().dir;
    std::fs::create_dir(&dir).unwrap();
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let address = SocketAddrUnix::new(dir.join(SOCKET_FILE)).unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 8).unwrap();
    say("listening");
    // The first to knock looks whether there is a device; the second has the right to start one.
    for _ in 0..2 {
        let user = rustix::net::accept(&listener).unwrap();
        rustix::net::recv(&user, &mut [0; 1024], RecvFlags::empty()).unwrap();
    }
}

/// Holds 8 GiB; told to, asks for 5 more, and does not wait for the answer.
fn asking() {
    let device = ByHand::connect(&Environment::from_process().dir);
    assert!(matches!(device.ask(&alloc(8 * GIB)), wire::Reply::Block(_)));
    say("holds");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    device.send(&alloc(5 * GIB));
    say("asked");
    wait_for_end_of_input();
}

#[test]
fn a_process_that_is_killed_leaves_its_memory_and_its_time() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let free_bytes = machine.memory(0).unwrap().free_bytes;
    let mut victim = Program::start(&sandbox.environment(), "busy");
    assert_eq!(victim.line(), "busy");
    assert!(machine.memory(0).unwrap().free_bytes <= free_bytes - GIB);
    victim.signal(Signal::KILL);
    until("memory is back", || {
        machine.memory(0).unwrap().free_bytes == free_bytes
    });
    let rows = machine.usage().unwrap();
    let row = rows
        .iter()
        .find(|row| row.pid == victim.child.id())
        .unwrap();
    assert!(
        !row.alive && row.memory_bytes_current == 0 && row.memory_bytes_peak > GIB,
        "{row:?}"
    );
    run_kernels(&machine, 10);
    let after = machine.usage().unwrap();
    assert_eq!(
        after.iter().find(|row| row.pid == victim.child.id()),
        Some(row)
    );
}

#[test]
fn a_process_that_is_stopped_stops_nobody_else() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let mut stopped = Program::start(&sandbox.environment(), "busy");
    assert_eq!(stopped.line(), "busy");
    stopped.signal(Signal::STOP);
    run_kernels(&machine, 300);
    let kernels = |machine: &Machine| {
        let rows = machine.usage().unwrap();
        rows.iter()
            .find(|row| row.pid == stopped.child.id())
            .unwrap()
            .kernels_total
    };
    let mut before = kernels(&machine);
    until("its queue is empty", || {
        run_kernels(&machine, 20);
        std::mem::replace(&mut before, kernels(&machine)) == kernels(&machine)
    });
    stopped.signal(Signal::CONT);
    until("it goes on", || kernels(&machine) > before);
    assert!(stopped.finish().success());
}

#[test]
fn two_busy_processes_get_half_of_the_engine_each() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    // Five seconds of work each, at the least, wait on the device when the window begins: a host that leaves a tenant
    // alone for a while does not leave the device without its work.
    let mut tenants = [(); 2].map(|()| Program::start(&sandbox.environment(), "long"));
    tenants
        .iter_mut()
        .for_each(|tenant| assert_eq!(tenant.line(), "busy"));
    let pids = tenants.each_ref().map(|tenant| tenant.child.id());
    let busy_ns = || {
        let rows = machine.usage().unwrap();
        pids.map(|pid| {
            rows.iter()
                .find(|row| row.pid == pid)
                .unwrap()
                .gpu_busy_ns_total
        })
    };
    let before = busy_ns();
    let mut gained = [0; 2];
    until("300 ms of the engine's time", || {
        let now = busy_ns();
        gained = [now[0] - before[0], now[1] - before[1]];
        gained[0] + gained[1] > 300_000_000
    });
    let part = gained[0] as f64 / (gained[0] + gained[1]) as f64;
    assert!((0.45..0.55).contains(&part), "{gained:?}");
}

#[test]
fn a_forked_child_cannot_use_the_connection_and_connects_anew() {
    let sandbox = Sandbox::new();
    let mut program = Program::start(&sandbox.environment(), "fork");
    assert_eq!(program.line(), "child failed in Some(0)");
    assert_eq!(program.line(), "parent goes on");
    assert!(program.finish().success());
}

#[test]
fn a_forked_child_that_lives_on_does_not_keep_its_dead_parents_memory() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let free_bytes = machine.memory(0).unwrap().free_bytes;
    let mut parent = Program::start(&sandbox.environment(), "orphan");
    let child = Pid::from_raw(parent.line().parse().unwrap()).unwrap();
    parent.signal(Signal::KILL);
    until("memory is back", || {
        machine.memory(0).unwrap().free_bytes == free_bytes
    });
    kill_process(child, Signal::KILL).unwrap();
}

#[test]
fn all_first_users_get_the_same_machine() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let mut users: Vec<Program> = (0..8)
        .map(|_| Program::start(&environment, "device"))
        .collect();
    let devices: Vec<String> = users.iter_mut().map(Program::line).collect();
    assert!(
        devices.iter().all(|device| *device == devices[0]),
        "{devices:?}"
    );
    assert!(users.into_iter().all(|user| user.finish().success()));
}

#[test]
fn nothing_is_left_when_the_last_user_has_gone() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let device = machine.device_pid();
    let mut other = Program::start(&sandbox.environment(), "device");
    assert_eq!(other.line(), device.to_string());
    drop(machine);
    assert!(Path::new(&format!("/proc/{device}")).exists() && sandbox.dir().exists());
    assert!(other.finish().success());
    wait_for_end(device);
    assert!(!sandbox.dir().exists());
}

#[test]
fn the_next_user_after_the_end_gets_a_new_machine() {
    let sandbox = Sandbox::new();
    for round in 0..20 {
        let machine = sandbox.connect();
        assert!(machine.memory(0).is_ok());
        let device = machine.device_pid();
        drop(machine);
        // In every other round, it may be just ending.
        if round % 2 == 0 {
            wait_for_end(device);
        }
    }
}

#[test]
fn who_only_looks_starts_no_machine() {
    let sandbox = Sandbox::new();
    assert!(
        Machine::connect_existing(&sandbox.environment())
            .unwrap()
            .is_none()
    );
    assert!(!sandbox.dir().exists());
    let machine = sandbox.connect();
    let looking = Machine::connect_existing(&sandbox.environment())
        .unwrap()
        .unwrap();
    assert_eq!(looking.device_pid(), machine.device_pid());
}

#[test]
fn two_profiles_are_two_machines_and_do_not_share_a_folder() {
    let (t4, mut a100) = (Sandbox::new(), Sandbox::new());
    a100.profile = "a100".to_owned();
    let (small, large) = (t4.connect(), a100.connect());
    assert_ne!(small.device_pid(), large.device_pid());
    assert_ne!(small.devices()[0].uuid, large.devices()[0].uuid);
    assert!(small.memory(0).unwrap().total_bytes < large.memory(0).unwrap().total_bytes);
    let environment = Environment {
        dir: t4.dir(),
        ..a100.environment()
    };
    let refused = Machine::connect_to(&environment).err();
    assert!(
        matches!(refused, Some(ConnectError::OtherProfile { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_lost_device_is_an_error_and_the_next_connection_starts_another() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    let never = machine.create_semaphore().unwrap();
    let device = machine.device_pid();
    let (wait, host_call) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| machine.wait(&never, never.last_payload() + 1));
        let effect = Effect::HostCall(Box::new(|| {}));
        let call = machine
            .submit_with(&stream, GpuCommand::HostCall, effect)
            .unwrap();
        machine.wait_stream(&stream, call).unwrap();
        kill_process(Pid::from_raw(device as i32).unwrap(), Signal::KILL).unwrap();
        (waiting.join().unwrap(), call)
    });
    assert_eq!((wait, host_call), (Err(Lost::Device), 1));
    assert_eq!(
        machine.submit(&stream, GpuCommand::Marker),
        Err(Lost::Device)
    );
    assert_eq!(machine.memory(0), Err(RequestError::Lost(Lost::Device)));
    assert_eq!(machine.poll_stream(&stream, 2), Err(Lost::Device));
    let next = sandbox.connect();
    assert_ne!(next.device_pid(), device);
    run_kernels(&next, 1);
}

#[test]
fn a_device_that_dies_as_one_connects_is_replaced() {
    let sandbox = Sandbox::new();
    let mut dying = Program::start(&sandbox.environment(), "dying");
    assert_eq!(dying.line(), "listening");
    let machine = sandbox.connect();
    assert_ne!(machine.device_pid(), dying.child.id());
    run_kernels(&machine, 1);
}

fn encoded(request: &wire::Request) -> Vec<u8> {
    let mut message = Vec::new();
    wire::encode(request, &mut message).unwrap();
    message
}

fn hello(version: u32) -> wire::Request {
    wire::Request::Hello {
        version,
        container: "test".to_owned(),
        role: wire::Role::User,
    }
}

fn alloc(bytes: u64) -> wire::Request {
    wire::Request::Alloc {
        device: 0,
        bytes,
        kind: AllocKind::Device,
    }
}

/// A connection on which messages are sent by hand.
struct ByHand(OwnedFd);

impl ByHand {
    /// Connects, as a stranger still.
    fn knock(dir: &Path) -> Self {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let address = SocketAddrUnix::new(dir.join(SOCKET_FILE)).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        Self(socket)
    }

    fn connect(dir: &Path) -> Self {
        let by_hand = Self::knock(dir);
        by_hand.ask(&hello(wire::VERSION));
        by_hand
    }

    fn send(&self, request: &wire::Request) {
        rustix::net::send(&self.0, &encoded(request), SendFlags::NOSIGNAL).unwrap();
    }

    fn ask(&self, request: &wire::Request) -> wire::Reply {
        self.send(request);
        self.hear()
    }

    fn hear(&self) -> wire::Reply {
        let mut buffer = vec![0; wire::MESSAGE_BYTES_MAX];
        let (bytes, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty()).unwrap();
        wire::decode(&buffer[..bytes]).unwrap()
    }
}

/// Sends messages to the device by hand, each after the answer to the one before, and counts the answers
/// until it hangs up.
fn answers_until_the_end(sandbox: &Sandbox, messages: &[&[u8]]) -> usize {
    let ByHand(stranger) = ByHand::knock(&sandbox.dir());
    let mut buffer = vec![0; wire::MESSAGE_BYTES_MAX];
    let answered = |message: &&&[u8]| {
        let sent = rustix::net::send(&stranger, message, SendFlags::NOSIGNAL).is_ok();
        let answer = rustix::net::recv(&stranger, &mut buffer[..], RecvFlags::empty());
        sent && answer.is_ok_and(|(bytes, _)| bytes > 0)
    };
    messages.iter().take_while(answered).count()
}

/// The device lies still meanwhile, and finds the living one's message before the dead one's, and both before the end.
#[test]
fn who_asks_after_anothers_death_is_never_counted_beside_it() {
    let mut sandbox = Sandbox::new();
    let profile = tempfile::NamedTempFile::new().unwrap();
    let text = "[[device]]\nprofile = \"t4\"\n[timing]\nteardown_ns = 0\n";
    std::fs::write(profile.path(), text).unwrap();
    sandbox.profile = profile.path().to_str().unwrap().to_owned();
    let machine = sandbox.connect();
    let device = machine.device_pid();
    let (living, mut dead) = (
        ByHand::connect(&sandbox.dir()),
        Program::start(&sandbox.environment(), "asking"),
    );
    assert_eq!(dead.line(), "holds");
    let pid = Pid::from_raw(device.try_into().unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    until("the device lies still", || state(device) == 'T');
    // Of a stream that is not there: nothing is done and nothing answered.
    living.send(&wire::Request::LimitSms {
        stream: StreamId(1),
        sm_count_max: 1,
    });
    writeln!(dead.child.stdin.as_ref().unwrap()).unwrap();
    assert_eq!(dead.line(), "asked");
    drop(dead);
    living.send(&alloc(12 * GIB));
    kill_process(pid, Signal::CONT).unwrap();
    assert!(matches!(living.hear(), wire::Reply::Block(_)));
    let books = &machine.containers().unwrap()[0];
    assert_eq!(books.memory_bytes_peak, 12 * GIB);
}

/// Source: proc_pid_stat(5), field 3.
fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after_the_name) = stat.rsplit_once(") ").unwrap();
    after_the_name.chars().next().unwrap()
}

#[test]
fn who_sends_rubbish_is_thrown_out_alone() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let hello = |version| encoded(&hello(version));
    let memory = encoded(&wire::Request::Memory { device: 0 });
    let foreign = encoded(&wire::Request::HostCallDone { token: 1 });
    assert_eq!(answers_until_the_end(&sandbox, &[&memory]), 0, "no hello");
    assert_eq!(
        answers_until_the_end(&sandbox, &[&hello(wire::VERSION + 1), &memory]),
        1
    );
    let rubbish = [
        &b"\xff\xff\xff\xff"[..],
        &[0; 70_000],
        &hello(wire::VERSION),
        &foreign,
    ];
    for message in rubbish {
        let messages = [&hello(wire::VERSION), message, &memory];
        assert_eq!(
            answers_until_the_end(&sandbox, &messages),
            1,
            "the welcome alone"
        );
    }
    run_kernels(&machine, 1);
}

/// The parent and the session of a process, each 0 where its leader is outside this pid namespace.
/// Source: proc_pid_stat(5), fields 4 and 6. (`getsid(2)` answers 0 there too, which rustix has no name for.)
fn parent_and_session(pid: u32) -> (u32, u32) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after_the_name) = stat.rsplit_once(')').unwrap();
    let mut fields = after_the_name.split_whitespace();
    let mut number = |skipped| fields.nth(skipped).unwrap().parse().unwrap();
    (number(1), number(1))
}

#[test]
fn the_device_is_nobodys_child_and_holds_nothing_of_its_starter() {
    let sandbox = Sandbox::new();
    let kept = tempfile::NamedTempFile::new().unwrap();
    rustix::io::fcntl_setfd(kept.as_file(), rustix::io::FdFlags::empty()).unwrap();
    let mut starter = Program::start(&sandbox.environment(), "device");
    let device: u32 = starter.line().parse().unwrap();
    let (parent, session) = parent_and_session(device);
    assert_ne!(parent, starter.child.id());
    assert_ne!(session, parent_and_session(std::process::id()).1);
    for descriptor in std::fs::read_dir(format!("/proc/{device}/fd")).unwrap() {
        let target = match std::fs::read_link(descriptor.unwrap().path()) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue, // the device has just closed it
            target => target.unwrap(),
        };
        assert_ne!(target, kept.path());
        assert!(!target.to_string_lossy().starts_with("pipe:"), "{target:?}");
    }
    assert_eq!(
        std::fs::read_link(format!("/proc/{device}/cwd")).unwrap(),
        Path::new("/")
    );
    for thread in std::fs::read_dir(format!("/proc/{}/task", starter.child.id())).unwrap() {
        let children = thread.unwrap().path().join("children");
        assert_eq!(std::fs::read_to_string(children).unwrap(), "");
    }
    assert!(starter.finish().success());
}

/// Copies a program that is to be run. In another process: who is forked while a file is open for writing holds it
/// open too, until it runs a program of its own, and what is open for writing cannot be run.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[test]
fn an_ordinary_user_can_have_a_machine() {
    if !rustix::process::getuid().is_root() {
        return; // then every other test shows it
    }
    const NOBODY: u32 = 65_534;
    let (programs, sandbox) = (tempfile::tempdir_in("/tmp").unwrap(), Sandbox::new());
    let own = programs.path().join("test");
    let device = programs.path().join("gpu-sim-device");
    copy(&std::env::current_exe().unwrap(), &own);
    copy(Path::new(env!("CARGO_BIN_EXE_gpu-sim-device")), &device);
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(programs.path(), everybody).unwrap();
    let dir = programs.path().join("machine");
    let environment = Environment {
        dir,
        device: Some(device),
        ..sandbox.environment()
    };
    let mut user = Program::start_as(&environment, "device", own, Some(NOBODY));
    let pid: u32 = user.line().parse().unwrap();
    let owner =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}")).unwrap());
    assert_eq!(owner, NOBODY);
    assert!(user.finish().success());
    wait_for_end(pid);
}

#[test]
fn a_connection_without_a_context_is_not_in_the_usage_table() {
    let sandbox = Sandbox::new();
    let (observer, user) = (sandbox.connect(), sandbox.connect());
    let _context = user.create_context(0).unwrap();
    assert_eq!(observer.usage().unwrap().len(), 1);
    assert_eq!(user.usage().unwrap()[0].container, "test");
}
