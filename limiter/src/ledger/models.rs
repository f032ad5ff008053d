//! The ledger in every order in which loom finds that its threads may run: `scripts/test-loom`.
//!
//! Each thread is a process of its own. Truth is `Device`: bytes are there from a grant on until just before they are given back, so
//! that it never has more than the ledger may say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use loom::thread;

use super::*;
use crate::board::Board;
use crate::config::{Change, Wanted};
use crate::control;
use crate::lending::Physical;
use crate::reap;
use crate::shm::{Mapping, become_process};
use crate::units::MonotonicNs;

const MAX: u64 = 10;

/// How often a thread may be interrupted where it would not have to wait. More find nothing that fewer do not (CHESS: Musuvathi and
/// Qadeer, "Iterative context bounding", 2007), and take hours.
const INTERRUPTIONS_MAX: usize = 3;

pub(crate) fn model(body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(INTERRUPTIONS_MAX); // unless LOOM_MAX_PREEMPTIONS says another
    model.max_branches = 10_000;
    model.check(body);
}

fn container() -> ContainerName {
    "model".parse().unwrap()
}

fn dir() -> &'static Path {
    Path::new("/model")
}

/// A process and its ledger.
struct Process {
    number: u32,
    ledger: Ledger,
}

impl Process {
    fn start(number: u32) -> Self {
        Self::start_with(number, MAX)
    }

    fn start_with(number: u32, max: u64) -> Self {
        become_process(number);
        let gpu = DeviceUuid::from_bytes([7; 16]);
        let ledger = Ledger::attach(dir(), &container(), &[(gpu, Some(Bytes::new(max)))]).unwrap();
        Self { number, ledger }
    }

    /// The ledger, for this thread, which is one of this process's from here on.
    fn ledger(&self) -> &Ledger {
        become_process(self.number);
        &self.ledger
    }

    /// Runs `body` beside the others.
    fn run<R: 'static>(
        self,
        body: impl FnOnce(&Self) -> R + 'static,
    ) -> thread::JoinHandle<(Self, R)> {
        thread::spawn(move || {
            let result = body(&self);
            (self, result)
        })
    }
}

/// What the driver has given out.
#[derive(Clone, Default)]
struct Device(Arc<AtomicU64>);

impl Device {
    /// Allocates what the ledger grants; whether it did. Never may more than `max` be out.
    fn alloc(&self, process: &Process, bytes: u64, max: u64) -> bool {
        let Ok(charge) = process.ledger().try_charge(0, Bytes::new(bytes)) else {
            return false;
        };
        let held = self.0.fetch_add(bytes, Ordering::SeqCst) + bytes;
        assert!(held <= max, "{held} bytes of {max}");
        charge.commit();
        true
    }

    fn free(&self, process: &Process, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::SeqCst);
        process.ledger().uncharge(0, Bytes::new(bytes));
    }

    /// Ends a process as SIGKILL does: nothing of it runs any more, what it held is free, and the kernel drops its locks.
    fn kill(&self, process: Process) {
        let held = process.ledger().own(0).get();
        self.0.fetch_sub(held, Ordering::SeqCst);
        process.ledger().seat.file.die();
        std::mem::forget(process.ledger);
    }

    /// Asserts that the ledger says what is out, to whoever looks.
    fn assert_balanced(&self, process: &Process) {
        let out = self.0.load(Ordering::SeqCst);
        assert_eq!(process.ledger().current(0).get(), out);
    }
}

/// One process each asks for so many bytes, at once. How many are granted.
fn granted_at_once(asked: [u64; 2]) -> usize {
    let device = Device::default();
    let processes = [1, 2].map(Process::start);
    let running: Vec<_> = processes
        .into_iter()
        .zip(asked)
        .map(|(process, bytes)| {
            let device = device.clone();
            process.run(move |process| device.alloc(process, bytes, MAX))
        })
        .collect();
    let ended: Vec<_> = running
        .into_iter()
        .map(|process| process.join().unwrap())
        .collect();
    device.assert_balanced(&ended[0].0);
    ended.iter().filter(|(_, granted)| *granted).count()
}

#[test]
fn of_two_at_the_edge_exactly_one_is_granted() {
    model(|| assert_eq!(granted_at_once([6, 6]), 1));
}

#[test]
fn two_that_fit_are_both_granted() {
    model(|| assert_eq!(granted_at_once([5, 5]), 2));
}

/// What cannot be granted is announced, too, and withdrawn: nobody is refused because of it.
#[test]
fn one_that_cannot_fit_stands_in_nobodys_way() {
    model(|| assert_eq!(granted_at_once([6, 20]), 1));
}

#[test]
fn what_is_given_back_is_granted_once() {
    model(|| {
        let device = Device::default();
        let (gives, takes) = (Process::start(1), Process::start(2));
        assert!(device.alloc(&gives, 6, MAX));
        let giver = gives.run({
            let device = device.clone();
            move |process| device.free(process, 6)
        });
        let granted = device.alloc(&takes, 6, MAX);
        let (gives, ()) = giver.join().unwrap();
        device.assert_balanced(&takes);
        assert!(granted || device.alloc(&takes, 6, MAX));
        assert!(!device.alloc(&gives, 5, MAX));
    });
}

/// Two threads of one process, which has one place.
#[test]
fn a_process_that_gives_back_and_takes_at_once_holds_the_difference() {
    model(|| {
        let device = Device::default();
        let process = Arc::new(Process::start(1));
        assert!(device.alloc(&process, 6, MAX));
        let giver = thread::spawn({
            let (device, process) = (device.clone(), Arc::clone(&process));
            move || device.free(&process, 6)
        });
        assert!(device.alloc(&process, 4, MAX));
        giver.join().unwrap();
        device.assert_balanced(&process);
    });
}

/// Who sums while bytes go from one process to another may find them with both, and must not refuse because of it.
#[test]
fn bytes_that_change_hands_count_once() {
    model(|| {
        let device = Device::default();
        let [gives, asks, takes] = [1, 2, 3].map(Process::start);
        assert!(device.alloc(&gives, 6, MAX));
        let others = thread::spawn({
            let device = device.clone();
            move || {
                device.free(&gives, 6);
                assert!(device.alloc(&takes, 6, MAX));
                std::mem::forget((gives.ledger, takes.ledger));
            }
        });
        assert!(device.alloc(&asks, 4, MAX));
        others.join().unwrap();
    });
}

/// The same for who has reason to look twice: only who sees nothing granted meanwhile may refuse.
#[test]
fn bytes_that_change_hands_while_a_charge_is_in_doubt_refuse_nobody() {
    model(|| {
        let device = Device::default();
        let [gives, asks, takes] = [1, 2, 3].map(Process::start);
        assert!(device.alloc(&gives, 6, MAX));
        let others = thread::spawn({
            let device = device.clone();
            move || {
                device.free(&gives, 6);
                assert!(device.alloc(&takes, 6, MAX));
                std::mem::forget((gives.ledger, takes.ledger));
            }
        });
        let ledger = asks.ledger();
        let (row, part) = ledger.place(0).unwrap();
        assert!(part.announce(4));
        let attempt = ledger.doubted(0, Bytes::new(4), row.memory.room(Reach::Guaranteed));
        assert!(matches!(attempt, Attempt::Contended(_)));
        others.join().unwrap();
    });
}

/// A dead process held everything. One that lives wants it, and so does one that starts, and takes the dead one's place.
#[test]
fn the_place_of_the_dead_is_taken_once_and_stays_its_new_owners() {
    model(|| {
        let device = Device::default();
        let (dies, lives) = (Process::start(1), Process::start(2));
        assert!(device.alloc(&dies, MAX, MAX));
        device.kill(dies);
        let starter = thread::spawn({
            let device = device.clone();
            move || {
                let starts = Process::start(3);
                let granted = device.alloc(&starts, 6, MAX);
                (starts, granted)
            }
        });
        let granted = device.alloc(&lives, 6, MAX);
        let (starts, granted_too) = starter.join().unwrap();
        assert!(granted != granted_too, "one of them, and only one");
        let own = starts.ledger().own(0).get();
        assert_eq!(own, if granted_too { 6 } else { 0 });
        device.assert_balanced(&lives);
    });
}

/// One frees while another, who needs that and what a dead process held, has the dead reaped.
#[test]
fn reaping_takes_nothing_from_who_gives_back() {
    model(|| {
        let device = Device::default();
        let [dies, gives, takes] = [1, 2, 3].map(Process::start);
        assert!(device.alloc(&dies, 4, MAX));
        assert!(device.alloc(&gives, 6, MAX));
        device.kill(dies);
        let giver = gives.run({
            let device = device.clone();
            move |process| device.free(process, 5)
        });
        let granted = device.alloc(&takes, 9, MAX);
        let (gives, ()) = giver.join().unwrap();
        assert_eq!(gives.ledger().own(0).get(), 1);
        device.assert_balanced(&takes);
        assert!(granted || device.alloc(&takes, 9, MAX));
    });
}

/// A process dies between any two steps of a charge, beside one for whom there is room without it.
#[test]
fn whoever_dies_while_it_charges_keeps_nobody_from_the_rest() {
    for steps in 0..=3 {
        model(move || {
            let device = Device::default();
            let (dies, lives) = (Process::start(1), Process::start(2));
            let dying = thread::spawn(move || {
                die_after(dies, steps);
            });
            let granted = device.alloc(&lives, 6, MAX);
            dying.join().unwrap();
            // As long as it lived, what it had been granted was its own; what it had but announced was nobody's.
            assert!(granted || steps == 3);
            assert!(granted || device.alloc(&lives, 6, MAX));
            device.assert_balanced(&lives);
        });
    }
}

/// The first so many steps of charging 6 bytes, and death.
fn die_after(process: Process, steps: usize) {
    let (_, part) = process.ledger().place(0).unwrap();
    let counts = [
        (&part.pending_bytes, 6),
        (&part.grants, 1),
        (&part.bytes, 6),
    ];
    for (count, more) in &counts[..steps] {
        count.fetch_add(*more, crate::sync::Ordering::SeqCst);
    }
    process.ledger.seat.file.die();
    std::mem::forget(process.ledger);
}

fn mark_of_ledger() -> String {
    let path = path(dir(), &container());
    let opened = Mapping::<ContainerFile>::open_existing(&path, |file, _| {
        Ok(reap::mark(file.inode(), &**file))
    });
    opened.unwrap().unwrap().1
}

/// A container's ledger is removed while its next programs start: whatever they find, they find the same.
#[test]
fn who_starts_while_the_ledger_is_removed_shares_one_with_all_others() {
    model(|| {
        drop(Process::start(8).ledger);
        let ended = reap::Ended {
            container: container(),
            mark: mark_of_ledger(),
        };
        let remover = thread::spawn(move || {
            become_process(9);
            reap::remove(dir(), &ended).unwrap()
        });
        let device = Device::default();
        let starter = thread::spawn({
            let device = device.clone();
            move || {
                let process = Process::start(1);
                (device.alloc(&process, 6, MAX), process)
            }
        });
        let here = Process::start(2);
        let granted = device.alloc(&here, 6, MAX);
        let (other, there) = starter.join().unwrap();
        remover.join().unwrap();
        assert!(granted != other, "of 10 bytes 6 were granted to each");
        device.assert_balanced(&here);
        device.assert_balanced(&there);
    });
}

/// `cuda-hook set --memory`, by a process that has no place in the ledger.
fn set(bytes: u64) {
    become_process(9);
    let change = Change::parse(Wanted {
        memory: Some(&bytes.to_string()),
        ..Wanted::default()
    })
    .unwrap();
    control::change(dir(), &container(), &change, MonotonicNs::new(1)).unwrap();
}

#[test]
fn a_lowered_limit_holds_for_every_charge_that_begins_after_it() {
    model(|| {
        let device = Device::default();
        let process = Process::start(1);
        let setter = thread::spawn(|| set(5));
        let granted = device.alloc(&process, 6, MAX);
        setter.join().unwrap();
        assert_eq!(process.ledger().max(0), Some(Bytes::new(5)));
        assert_eq!(device.alloc(&process, 5, 5), !granted);
        device.assert_balanced(&process);
    });
}

#[test]
fn a_raised_limit_grants_every_charge_that_begins_after_it() {
    model(|| {
        let device = Device::default();
        let process = Process::start(1);
        set(5);
        let setter = thread::spawn(|| set(MAX));
        let granted = device.alloc(&process, 6, MAX);
        setter.join().unwrap();
        assert!(granted || device.alloc(&process, 6, MAX));
        device.assert_balanced(&process);
    });
}

/// Who starts with less lowers what the others may take.
#[test]
fn a_start_with_less_lowers_the_limit_once_for_all() {
    model(|| {
        let device = Device::default();
        let process = Process::start(1);
        let starter = thread::spawn(|| Process::start_with(2, 5));
        let granted = device.alloc(&process, 6, MAX);
        let late = starter.join().unwrap();
        assert_eq!(late.ledger().max(0), Some(Bytes::new(5)));
        assert_eq!(device.alloc(&process, 5, 5), !granted);
    });
}

/// A container of a GPU of `MAX` bytes that may have all of it, and is guaranteed so much.
struct Tenant {
    process: Process,
    board: Board,
}

impl Tenant {
    fn start(number: u32, name: &str, soft: u64) -> Self {
        become_process(number);
        let gpu = DeviceUuid::from_bytes([7; 16]);
        let limits = MemoryLimits {
            max: None,
            soft: Some(Bytes::new(soft)),
            spill: false,
        };
        let name = name.parse().unwrap();
        let ledger = Ledger::attach(dir(), &name, &[(gpu, limits)]).unwrap();
        let board = Board::join(dir(), gpu, ledger.seat().process, &name).unwrap();
        let process = Process { number, ledger };
        Self { process, board }
    }

    /// As a program allocates: borrowed is what is past the guarantee. Never may more than `MAX` be out.
    fn alloc(&self, device: &Device, bytes: u64) -> bool {
        let (ledger, bytes) = (self.process.ledger(), Bytes::new(bytes));
        let physical = Physical {
            total: Bytes::new(MAX),
            free: None,
        };
        let charge = ledger
            .try_charge(0, bytes)
            .or_else(|_| ledger.try_borrow(0, bytes, &self.board, physical));
        let Ok(charge) = charge else {
            return false;
        };
        let held = device.0.fetch_add(bytes.get(), Ordering::SeqCst) + bytes.get();
        assert!(held <= MAX, "{held} bytes of {MAX}");
        charge.commit();
        true
    }

    /// Ends it as SIGKILL does.
    fn kill(self, device: &Device) {
        device.kill(self.process);
        self.board.die();
    }
}

/// Two tenants allocate at once. Whether each was granted it.
fn allocated_at_once(softs: [u64; 2], asked: [u64; 2]) -> [bool; 2] {
    let device = Device::default();
    let one = Tenant::start(1, "one", softs[0]);
    let other = Tenant::start(2, "other", softs[1]);
    let second = thread::spawn({
        let device = device.clone();
        move || (other.alloc(&device, asked[1]), other)
    });
    let first = one.alloc(&device, asked[0]);
    let (second, _other) = second.join().unwrap();
    [first, second]
}

#[test]
fn of_two_that_borrow_the_last_bytes_one_is_granted() {
    model(|| {
        let granted = allocated_at_once([2, 2], [6, 6]);
        assert!(granted[0] != granted[1], "{granted:?}");
    });
}

#[test]
fn who_is_guaranteed_is_granted_beside_whoever_borrows() {
    model(|| assert_eq!(allocated_at_once([4, 2], [4, 6]), [true, true]));
    model(|| assert_eq!(allocated_at_once([4, 2], [4, 7]), [true, false]));
}

#[test]
fn what_a_borrower_held_that_died_is_lent_again() {
    model(|| {
        let device = Device::default();
        let (dies, lives) = (Tenant::start(1, "one", 2), Tenant::start(2, "other", 2));
        assert!(dies.alloc(&device, 7));
        let dying = thread::spawn({
            let device = device.clone();
            move || dies.kill(&device)
        });
        let granted = lives.alloc(&device, 8);
        dying.join().unwrap();
        assert!(granted || lives.alloc(&device, 8));
    });
}

/// What is announced under a guarantee counts, though the guarantee is lowered meanwhile.
#[test]
fn a_guarantee_that_is_lowered_lends_nothing_that_was_just_granted() {
    model(|| {
        let device = Device::default();
        let (has, borrows) = (Tenant::start(1, "one", 6), Tenant::start(2, "other", 0));
        let charging = thread::spawn({
            let device = device.clone();
            move || (has.alloc(&device, 6), has)
        });
        become_process(9);
        let wanted = Wanted {
            memory_soft: Some("0"),
            ..Wanted::default()
        };
        let change = Change::parse(wanted).unwrap();
        let one = "one".parse().unwrap();
        control::change(dir(), &one, &change, MonotonicNs::new(1)).unwrap();
        let _granted_or_not = borrows.alloc(&device, 5);
        charging.join().unwrap();
    });
}
