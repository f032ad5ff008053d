//! The ledger among real processes: racing at the edge, killed, stopped, forked, without their descriptors.
//!
//! The workers are this very test binary: [`worker`] does nothing unless it was started by [`Worker::start`].
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]
#![expect(unsafe_code, reason = "fork(2) has no safe form")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use limiter::ledger::Ledger;
use limiter::reap;
use limiter::sample;
use limiter::units::{Bytes, DeviceUuid};

const DIR: &str = "LIMITER_TEST_DIR";
const MAX: &str = "LIMITER_TEST_MAX";
const CHUNK: u64 = 1 << 20;

fn attach(dir: &Path, max: u64) -> Ledger {
    let devices = [(DeviceUuid::from_bytes([7; 16]), Some(Bytes::new(max)))];
    Ledger::attach(dir, &"race".parse().unwrap(), &devices).unwrap()
}

/// A process with a ledger of its own that does as it is told.
struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn start(dir: &Path, max: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker", "--nocapture", "--test-threads=1"])
            .env(DIR, dir)
            .env(MAX, max.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (
            child.stdin.take(),
            BufReader::new(child.stdout.take().unwrap()),
        );
        let mut worker = Self {
            child,
            orders,
            answers,
        };
        assert_eq!(worker.answer(), "attached");
        worker
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders.as_ref().unwrap(), "{order}").unwrap();
    }

    /// The next answer; the harness's own lines are skipped.
    fn answer(&mut self) -> String {
        let mut line = String::new();
        while self.answers.read_line(&mut line).unwrap() > 0 {
            if let Some((_, answer)) = line.split_once("answer: ") {
                return answer.trim_end().to_owned();
            }
            line.clear();
        }
        panic!("the worker is gone")
    }

    fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.answer()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Kill, and wait until it is a zombie: it stays one until the end of the test.
    fn kill_unburied(&self) {
        self.signal("-KILL");
        let options = libc::WEXITED | libc::WNOWAIT;
        // SAFETY: all-zero bytes are a valid `siginfo_t`, a plain struct.
        let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: waits for our own child; `found` is writable.
        let answer = unsafe { libc::waitid(libc::P_PID, self.child.id(), &raw mut found, options) };
        assert_eq!(answer, 0);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Already gone where the test has killed it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn worker() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let max = std::env::var(MAX).unwrap().parse().unwrap();
    let mut ledger = Some(attach(&dir, max));
    let answer: fn(&str) = |text| println!("answer: {text}");
    answer("attached");
    for order in std::io::stdin().lines() {
        let order = order.unwrap();
        let (verb, number) = order.split_once(' ').unwrap_or((&order, "0"));
        let number: u64 = number.parse().unwrap();
        let held = ledger.as_ref().unwrap();
        match verb {
            "charge" => match held.try_charge(0, Bytes::new(number)) {
                Ok(charge) => answer(&charge.commit().get().to_string()),
                Err(_) => answer("refused"),
            },
            "uncharge" => {
                held.uncharge(0, Bytes::new(number));
                answer("done");
            }
            "race" => answer(&race(held, &dir, number)),
            "come-and-go" => {
                drop(ledger.take());
                answer(&come_and_go(&dir, max, number));
                ledger = Some(attach(&dir, max));
            }
            "lose-locks" => {
                drop(File::open(dir.join("race/ledger")).unwrap());
                answer("lost");
            }
            "close-all" => {
                // SAFETY: nobody here uses a descriptor above the standard ones but the ledger, whose test this is.
                assert_eq!(unsafe { libc::close_range(3, u32::MAX, 0) }, 0);
                answer("closed");
            }
            "fork-and-lose-the-first-thread" => {
                ledger = Some(in_a_fork_without_its_first_thread(
                    ledger.unwrap(),
                    &dir,
                    max,
                    answer,
                ));
            }
            "become-another" => panic!("exec: {}", another().exec()),
            "become-worker" => panic!("exec: {}", again().exec()),
            "fork" => {
                ledger = Some(in_a_fork(ledger.unwrap(), &dir, max));
                answer(&ledger.as_ref().unwrap().own(0).get().to_string());
            }
            _ => panic!("unknown order {order}"),
        }
    }
}

/// A program that knows nothing of ledgers, and ends with its input.
fn another() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "echo answer: another; exec cat"]);
    command
}

/// This very program with these very arguments.
fn again() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(std::env::args_os().skip(1));
    command
}

/// Charge and give back a chunk `rounds` times. Whoever holds a chunk must find one of the folder's tokens free.
/// Answers how often it was granted and refused, and how often there was no token.
fn race(ledger: &Ledger, dir: &Path, rounds: u64) -> String {
    let tokens: Vec<PathBuf> = fs::read_dir(dir.join("tokens"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let (mut granted, mut refused, mut exceeded) = (0, 0, 0);
    for _ in 0..rounds {
        let Ok(charge) = ledger.try_charge(0, Bytes::new(CHUNK)) else {
            refused += 1;
            continue;
        };
        granted += 1;
        let taken = tokens
            .iter()
            .map(|token| token.join("taken"))
            .find(|taken| File::create_new(taken).is_ok());
        exceeded += u64::from(taken.is_none());
        if let Some(taken) = taken {
            fs::remove_file(taken).unwrap();
        }
        drop(charge);
    }
    format!("{granted} {refused} {exceeded}")
}

/// Attaches anew `rounds` times, and races once each time; sums of what [`race`] answers.
fn come_and_go(dir: &Path, max: u64, rounds: u64) -> String {
    let mut sums = [0; 3];
    for _ in 0..rounds {
        add(&mut sums, &race(&attach(dir, max), dir, 1));
    }
    sums.map(|sum| sum.to_string()).join(" ")
}

fn add(sums: &mut [u64; 3], answer: &str) {
    for (sum, number) in sums.iter_mut().zip(answer.split(' ')) {
        *sum += number.parse::<u64>().unwrap();
    }
}

/// The child lets go of its parent's place, attaches, and must hold nothing; the parent keeps what it had.
fn in_a_fork(ledger: Ledger, dir: &Path, max: u64) -> Ledger {
    // SAFETY: this process has no other thread that could hold a lock: the harness waits for this test.
    let child = unsafe { libc::fork() };
    if child != 0 {
        let mut status = 0;
        // SAFETY: waits for our own child; `status` is writable.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child failed");
        return ledger;
    }
    let parents = ledger.own(0);
    ledger.forget_after_fork();
    let own = attach(dir, max);
    let is_right =
        own.own(0) == Bytes::new(0) && own.current(0) == parents && own.processes().len() == 2;
    // SAFETY: ends the child without running the harness's exit code twice.
    unsafe { libc::_exit(i32::from(!is_right)) }
}

/// The child charges `max`, closes every descriptor, and leaves a thread alone that ends with the input; the parent waits.
fn in_a_fork_without_its_first_thread(
    ledger: Ledger,
    dir: &Path,
    max: u64,
    answer: fn(&str),
) -> Ledger {
    // SAFETY: this process has no other thread that could hold a lock: the harness waits for this test.
    let child = unsafe { libc::fork() };
    if child != 0 {
        let mut status = 0;
        // SAFETY: waits for our own child; `status` is writable.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        return ledger;
    }
    ledger.forget_after_fork();
    let own = attach(dir, max);
    own.try_charge(0, Bytes::new(max)).unwrap().commit();
    // SAFETY: nobody here uses a descriptor above the standard ones but the ledger, whose test this is.
    assert_eq!(unsafe { libc::close_range(3, u32::MAX, 0) }, 0);
    std::thread::spawn(move || {
        let is_zombie = |stat: String| stat.contains(") Z ");
        while !fs::read_to_string("/proc/self/stat").is_ok_and(is_zombie) {
            std::thread::yield_now();
        }
        answer("alone");
        // SAFETY: reads into a byte that nobody looks at. The lock of std's input was the parent's at the fork.
        while unsafe { libc::read(0, [0_u8].as_mut_ptr().cast(), 1) } > 0 {}
        // SAFETY: ends the process without the harness's exit code.
        unsafe { libc::_exit(0) }
    });
    // SAFETY: ends this thread alone; what it holds is never dropped.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("a thread that has ended")
}

/// Processes that may race for `places` chunks, for each of which there is a token.
fn racers(dir: &Path, processes: usize, places: u64) -> Vec<Worker> {
    for token in 0..places {
        fs::create_dir_all(dir.join("tokens").join(token.to_string())).unwrap();
    }
    let start = |_| Worker::start(dir, places * CHUNK);
    (0..processes).map(start).collect()
}

/// `processes` race for `places` chunks; sums of granted, refused, exceeded.
fn race_of(processes: usize, places: u64, rounds: u64) -> [u64; 3] {
    let dir = tempfile::tempdir().unwrap();
    let mut workers = racers(dir.path(), processes, places);
    workers
        .iter_mut()
        .for_each(|worker| worker.order(&format!("race {rounds}")));
    let mut sums = [0; 3];
    for worker in &mut workers {
        add(&mut sums, &worker.answer());
    }
    assert!(attach(dir.path(), places * CHUNK).peak(0) <= Bytes::new(places * CHUNK));
    sums
}

/// Whether `/proc` is of this very pid namespace: elsewhere a process that lost its locks cannot be found there. Says so where not.
fn can_look_up() -> bool {
    let own = fs::read_link("/proc/self");
    let can = own.is_ok_and(|own| own == Path::new(&std::process::id().to_string()));
    if !can {
        // Past the harness, which shows what is printed of failed tests only; `scripts/test` counts these lines.
        let thread = std::thread::current();
        let test = thread.name().unwrap_or_default();
        let why = "/proc is not mounted, or that of other process numbers";
        let line = format!("NOT CHECKED: test {test}: {why}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    can
}

#[test]
fn eight_processes_that_fit_are_never_refused() {
    let [granted, refused, exceeded] = race_of(8, 8, 5_000);
    assert_eq!((granted, refused, exceeded), (40_000, 0, 0));
}

#[test]
fn eight_processes_at_the_edge_never_exceed_it() {
    let [granted, refused, exceeded] = race_of(8, 3, 5_000);
    assert_eq!((granted + refused, exceeded), (40_000, 0));
    assert!(
        granted >= 5_000 && refused > 0,
        "{granted} granted, {refused} refused"
    );
}

/// Three that start and end again and again, and one that removes the ledger whenever nobody has a place in it.
#[test]
fn processes_that_start_while_their_ledger_is_removed_share_one() {
    const ROUNDS: u64 = 4_000;
    let dir = tempfile::tempdir().unwrap();
    let mut workers = racers(dir.path(), 3, 1);
    let mut sums = [0; 3];
    let mut removed = 0;
    for worker in &mut workers {
        worker.order(&format!("come-and-go {ROUNDS}"));
    }
    std::thread::scope(|scope| {
        let racing = scope.spawn(|| workers.iter_mut().map(Worker::answer).collect::<Vec<_>>());
        while !racing.is_finished() {
            removed += remove_ended(dir.path());
        }
        for answer in racing.join().unwrap() {
            add(&mut sums, &answer);
        }
    });
    let [granted, refused, exceeded] = sums;
    assert_eq!((granted + refused, exceeded), (3 * ROUNDS, 0));
    assert!(removed > 0, "{removed} of {granted}");
}

/// How many ledgers of ended containers were removed.
fn remove_ended(dir: &Path) -> u32 {
    let ended = reap::look(dir).unwrap().ended;
    let with_ledger = ended.iter().filter(|ended| ended.has_ledger());
    with_ledger
        .map(|ended| u32::from(reap::remove(dir, ended).unwrap()))
        .sum()
}

#[test]
fn what_a_killed_process_held_is_free_even_before_its_parent_has_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path(), 100);
    let mut worker = Worker::start(dir.path(), 100);
    assert_eq!(worker.ask("charge 100"), "100");
    assert!(ledger.try_charge(0, Bytes::new(1)).is_err());
    worker.kill_unburied();
    assert_eq!(ledger.current(0), Bytes::new(0));
    ledger.try_charge(0, Bytes::new(100)).unwrap().commit();
    assert_eq!(ledger.processes().len(), 1);
}

#[test]
fn what_a_stopped_process_holds_stays_charged() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path(), 100);
    let mut worker = Worker::start(dir.path(), 100);
    assert_eq!(worker.ask("charge 60"), "60");
    worker.signal("-STOP");
    assert!(ledger.try_charge(0, Bytes::new(41)).is_err());
    assert_eq!(ledger.current(0), Bytes::new(60));
    worker.signal("-CONT");
    assert_eq!(worker.ask("uncharge 60"), "done");
    ledger.try_charge(0, Bytes::new(100)).unwrap().commit();
}

#[test]
fn a_process_that_lost_its_locks_is_not_taken_for_dead() {
    if !can_look_up() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path(), 100);
    let mut worker = Worker::start(dir.path(), 100);
    assert_eq!(worker.ask("charge 60"), "60");
    assert_eq!(worker.ask("lose-locks"), "lost");
    assert!(ledger.try_charge(0, Bytes::new(41)).is_err());
    assert_eq!(worker.ask("charge 41"), "refused");
    assert_eq!(ledger.current(0), Bytes::new(60));
    assert_eq!(ledger.processes().len(), 2);
}

/// Nothing of it is mapped then, as of a process that is about to end and has not closed the driver's descriptors yet.
#[test]
fn a_process_that_lost_its_locks_and_its_first_thread_is_not_taken_for_dead() {
    if !can_look_up() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path(), 100);
    let mut worker = Worker::start(dir.path(), 100);
    worker.order("fork-and-lose-the-first-thread");
    assert_eq!(worker.answer(), "alone");
    assert!(ledger.try_charge(0, Bytes::new(1)).is_err());
    assert_eq!(ledger.current(0), Bytes::new(100));
    drop(worker.orders.take());
    worker.child.wait().unwrap();
    ledger.try_charge(0, Bytes::new(100)).unwrap().commit();
}

/// exec(2) leaves pid and start time: of what the old program held the driver knows nothing any more.
#[test]
fn what_a_process_held_is_free_after_it_became_another_program() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path(), 100);
    let mut worker = Worker::start(dir.path(), 100);
    assert_eq!(worker.ask("charge 60"), "60");
    worker.order("become-another");
    assert_eq!(worker.answer(), "another");
    assert_eq!(ledger.current(0), Bytes::new(0));
    drop(worker);
    let mut worker = Worker::start(dir.path(), 100);
    assert_eq!(worker.ask("charge 60"), "60");
    worker.order("become-worker");
    assert_eq!(worker.answer(), "attached");
    assert_eq!(ledger.current(0), Bytes::new(0));
    assert_eq!(ledger.processes().len(), 2);
    assert_eq!(worker.ask("charge 60"), "60");
    assert!(ledger.try_charge(0, Bytes::new(41)).is_err());
    ledger.try_charge(0, Bytes::new(40)).unwrap().commit();
}

#[test]
fn a_process_that_closed_every_descriptor_locks_again_and_reaps() {
    if !can_look_up() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Worker::start(dir.path(), 100);
    assert_eq!(daemon.ask("close-all"), "closed");
    assert_eq!(daemon.ask("charge 10"), "10");
    assert!(!holds_a_record_lock(&daemon.child));
    let mut other = Worker::start(dir.path(), 100);
    assert_eq!(other.ask("charge 90"), "90");
    other.kill_unburied();
    assert_eq!(daemon.ask("charge 90"), "90");
    assert!(holds_a_record_lock(&daemon.child));
}

/// proc_locks(5): `id: POSIX ADVISORY WRITE pid …`.
fn holds_a_record_lock(child: &Child) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let pid = child.id().to_string();
    locks
        .lines()
        .any(|lock| lock.contains("POSIX") && lock.split_whitespace().any(|word| word == pid))
}

#[test]
fn a_forked_child_holds_nothing_and_gives_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(dir.path(), 100);
    assert_eq!(worker.ask("charge 60"), "60");
    assert_eq!(worker.ask("fork"), "60");
    assert_eq!(attach(dir.path(), 100).current(0), Bytes::new(60));
    assert_eq!(worker.ask("charge 41"), "refused");
    assert_eq!(worker.ask("charge 40"), "40");
}

#[test]
fn a_sample_from_outside_sees_the_living_and_disturbs_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut workers = [(); 3].map(|()| Worker::start(dir.path(), 100));
    for worker in &mut workers {
        assert_eq!(worker.ask("charge 30"), "30");
    }
    workers[0].kill_unburied();
    let [container] = &sample::read(dir.path(), limiter::clock::monotonic())
        .unwrap()
        .containers[..]
    else {
        panic!("one container")
    };
    assert_eq!(container.devices[0].memory_bytes_current, 60);
    let pids: Vec<u32> = container
        .processes
        .iter()
        .map(|process| process.pid)
        .collect();
    assert_eq!(pids, [workers[1].child.id(), workers[2].child.id()]);
    assert_eq!(workers[1].ask("charge 41"), "refused");
    assert_eq!(workers[1].ask("charge 40"), "40");
}
