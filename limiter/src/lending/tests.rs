use std::fs;

use proptest::prelude::*;

use super::*;
use crate::clock;
use crate::config::{Change, MemoryLimits, Wanted};
use crate::control;

const GPU: DeviceUuid = DeviceUuid::from_bytes([7; 16]);
const TOTAL: u64 = 100;

/// A process of a container, and its place on the board.
struct Process {
    ledger: Ledger,
    board: Board,
}

fn bytes(count: u64) -> Bytes {
    Bytes::new(count)
}

fn attach(dir: &Path, name: &str, max: Option<u64>, soft: Option<u64>) -> Process {
    let limits = MemoryLimits {
        max: max.map(Bytes::new),
        soft: soft.map(Bytes::new),
        spill: false,
    };
    let name = name.parse().unwrap();
    let ledger = Ledger::attach(dir, &name, &[(GPU, limits)]).unwrap();
    let board = Board::join(dir, GPU, ledger.seat().process, &name).unwrap();
    Process { ledger, board }
}

/// A GPU of which the driver says so much is free; `None`: it does not say.
fn physical(free: Option<u64>) -> Physical {
    Physical {
        total: bytes(TOTAL),
        free: free.map(Bytes::new),
    }
}

impl Process {
    /// As a program charges: borrowed is what is past the guarantee.
    fn charge(&self, count: u64) -> Result<(), OverQuota> {
        self.charge_of(count, physical(None))
    }

    fn charge_of(&self, count: u64, physical: Physical) -> Result<(), OverQuota> {
        let charge = match self.ledger.try_charge(0, bytes(count)) {
            Err(over) if over.bound == Bound::Guarantee => {
                self.ledger
                    .try_borrow(0, bytes(count), &self.board, physical)?
            }
            charge => charge?,
        };
        charge.commit();
        Ok(())
    }

    fn free(&self, count: u64) {
        self.ledger.uncharge(0, bytes(count));
    }

    fn held(&self) -> u64 {
        self.ledger.current(0).get()
    }
}

fn set_soft(dir: &Path, name: &str, soft: &str) {
    let wanted = Wanted {
        memory_soft: Some(soft),
        ..Wanted::default()
    };
    let change = Change::parse(wanted).unwrap();
    control::change(dir, &name.parse().unwrap(), &change, clock::monotonic()).unwrap();
}

#[test]
fn what_nobody_is_guaranteed_is_lent_and_the_borrower_is_refused_first() {
    let dir = tempfile::tempdir().unwrap();
    let borrower = attach(dir.path(), "borrower", Some(90), Some(40));
    let guaranteed = attach(dir.path(), "guaranteed", Some(50), Some(30));
    borrower.charge(40).unwrap();
    borrower.charge(30).unwrap();
    assert_eq!(
        borrower.charge(1),
        Err(OverQuota {
            asked: bytes(1),
            current: bytes(70),
            max: bytes(70),
            bound: Bound::Lendable
        })
    );
    guaranteed.charge(30).unwrap();
    assert_eq!(guaranteed.charge(1).unwrap_err().max, bytes(30));
    borrower.free(10);
    guaranteed.charge(10).unwrap();
    assert_eq!(borrower.charge(1).unwrap_err().max, bytes(60));
}

#[test]
fn a_borrower_never_exceeds_its_quota() {
    let dir = tempfile::tempdir().unwrap();
    let alone = attach(dir.path(), "alone", Some(90), Some(40));
    alone.charge(90).unwrap();
    let refusal = alone.charge(1).unwrap_err();
    assert_eq!((refusal.max, refusal.bound), (bytes(90), Bound::Quota));
}

#[test]
fn who_is_guaranteed_nothing_has_what_the_others_leave() {
    let dir = tempfile::tempdir().unwrap();
    let borrower = attach(dir.path(), "borrower", None, Some(0));
    let _guaranteed = attach(dir.path(), "guaranteed", Some(60), None);
    borrower.charge(40).unwrap();
    assert!(borrower.charge(1).is_err());
}

/// Of a container without a quota nobody knows what it will take: it claims what it has.
#[test]
fn who_has_no_quota_claims_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let borrower = attach(dir.path(), "borrower", None, Some(10));
    let unlimited = attach(dir.path(), "unlimited", None, None);
    unlimited.charge(55).unwrap();
    borrower.charge(45).unwrap();
    assert_eq!(borrower.charge(1).unwrap_err().max, bytes(45));
}

#[test]
fn a_guarantee_ends_with_its_containers_last_process() {
    let dir = tempfile::tempdir().unwrap();
    let borrower = attach(dir.path(), "borrower", None, Some(10));
    let [one, other] = [(); 2].map(|()| attach(dir.path(), "guaranteed", Some(60), None));
    drop(one);
    assert!(borrower.charge(41).is_err());
    // Killed: its place on the board is left.
    let Process {
        ledger,
        board: _left,
    } = other;
    drop(ledger);
    borrower.charge(100).unwrap();
}

/// What is promised to who comes late: nothing is taken from anybody, and nothing more is lent.
#[test]
fn who_comes_when_its_guarantee_is_lent_gets_what_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let borrower = attach(dir.path(), "borrower", None, Some(10));
    borrower.charge(80).unwrap();
    let _late = attach(dir.path(), "late", Some(60), None);
    assert!(borrower.charge(1).is_err());
    borrower.free(30);
    assert!(borrower.charge(1).is_err(), "50 of 40");
    borrower.free(15);
    borrower.charge(5).unwrap();
    assert!(borrower.charge(1).is_err(), "40 of 40");
}

#[test]
fn what_is_on_nobodys_books_is_not_lent() {
    let dir = tempfile::tempdir().unwrap();
    let borrower = attach(dir.path(), "borrower", None, Some(10));
    let guaranteed = attach(dir.path(), "guaranteed", Some(30), None);
    guaranteed.charge(20).unwrap();
    // 20 are on the books: 15 are somebody else's.
    borrower.charge_of(55, physical(Some(65))).unwrap();
    let told = borrower.charge_of(1, physical(Some(10))).unwrap_err();
    assert_eq!((told.max, told.bound), (bytes(55), Bound::Lendable));
    assert_eq!(
        borrower
            .ledger
            .grantable(0, &borrower.board, physical(Some(10))),
        Some(bytes(0))
    );
}

#[test]
fn what_could_be_granted_is_told_to_who_may_borrow() {
    let dir = tempfile::tempdir().unwrap();
    let borrower = attach(dir.path(), "borrower", Some(90), Some(40));
    let other = attach(dir.path(), "other", Some(30), None);
    let grantable = |process: &Process| {
        let Process { ledger, board } = process;
        ledger.grantable(0, board, physical(None)).map(Bytes::get)
    };
    assert_eq!(grantable(&borrower), Some(70));
    borrower.charge(50).unwrap();
    assert_eq!(grantable(&borrower), Some(20));
    assert_eq!(grantable(&other), None, "all of its quota is its own");
}

#[test]
fn a_guarantee_that_changes_counts_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let borrower = attach(dir.path(), "borrower", None, Some(10));
    let _guaranteed = attach(dir.path(), "guaranteed", Some(60), Some(20));
    borrower.charge(75).unwrap();
    set_soft(dir.path(), "guaranteed", "30");
    assert!(borrower.charge(1).is_err());
    set_soft(dir.path(), "guaranteed", "0");
    borrower.charge(25).unwrap();
    set_soft(dir.path(), "borrower", "max");
    borrower.charge(1).unwrap(); // without a quota, and all of it its own: nobody counts
}

#[test]
fn a_process_that_died_borrowing_has_borrowed_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [dies, lives] = ["dies", "lives"].map(|name| attach(dir.path(), name, None, Some(20)));
    dies.charge(80).unwrap();
    assert!(lives.charge(21).is_err());
    drop(dies);
    lives.charge(100).unwrap();
}

#[test]
fn where_a_neighbours_books_cannot_be_read_nothing_is_lent() {
    let dir = tempfile::tempdir().unwrap();
    let borrower = attach(dir.path(), "borrower", None, Some(10));
    let _other = attach(dir.path(), "other", Some(30), None);
    let path = dir.path().join("other/ledger");
    fs::rename(&path, dir.path().join("other/elsewhere")).unwrap();
    fs::write(&path, "no ledger").unwrap();
    let refusal = borrower.charge(11).unwrap_err();
    assert_eq!((refusal.max, refusal.bound), (bytes(10), Bound::Lendable));
    borrower.charge(10).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Start(usize),
    End(usize),
    Charge(usize, u64),
    Free(usize, u64),
    Soft(usize, u64),
}

const CONTAINERS: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let container = 0..CONTAINERS;
    prop_oneof![
        2 => container.clone().prop_map(Step::Start),
        1 => container.clone().prop_map(Step::End),
        8 => (container.clone(), 1..60_u64).prop_map(|(of, count)| Step::Charge(of, count)),
        4 => (container.clone(), 1..60_u64).prop_map(|(of, count)| Step::Free(of, count)),
        1 => (container, 0..40_u64).prop_map(|(of, soft)| Step::Soft(of, soft)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Each container against a map of what all of them hold and are guaranteed.
    #[test]
    fn what_is_lent_is_what_the_claims_of_all_others_leave(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a", "b", "c"];
        let mut processes: [Option<Process>; CONTAINERS] = [const { None }; CONTAINERS];
        let (mut held, mut soft) = ([0; CONTAINERS], [30; CONTAINERS]);
        for step in steps {
            match step {
                Step::Start(of) if processes[of].is_none() => {
                    soft[of] = 30;
                    processes[of] = Some(attach(dir.path(), names[of], Some(90), Some(30)));
                }
                Step::End(of) => {
                    processes[of] = None;
                    held[of] = 0;
                }
                Step::Charge(of, count) => {
                    let Some(process) = &processes[of] else { continue };
                    let others = (0..CONTAINERS).filter(|other| *other != of && processes[*other].is_some());
                    let claimed: u64 = others.map(|other| u64::max(held[other], soft[other])).sum();
                    let after = held[of] + count;
                    let fits = after <= 90 && (after <= soft[of] || after + claimed <= TOTAL);
                    prop_assert_eq!(process.charge(count).is_ok(), fits);
                    held[of] = if fits { after } else { held[of] };
                }
                Step::Free(of, count) => {
                    if let Some(process) = &processes[of] {
                        process.free(count);
                        held[of] -= count.min(held[of]);
                    }
                }
                Step::Soft(of, new) if processes[of].is_some() => {
                    set_soft(dir.path(), names[of], &new.to_string());
                    soft[of] = new;
                }
                Step::Start(_) | Step::Soft(..) => {}
            }
            for (process, held) in processes.iter().zip(held) {
                if let Some(process) = process {
                    prop_assert_eq!(process.held(), held);
                }
            }
        }
    }
}

/// Processes of the node that charge, borrow and free at random, all at once: the claims never exceed the GPU.
#[test]
fn whoever_borrows_beside_whom_the_claims_fit_the_gpu() {
    let dir = tempfile::tempdir().unwrap();
    let device = AtomicU64::new(0);
    // All of them before any: who comes late finds its guarantee lent.
    let processes = ["a", "a", "b", "c"].map(|name| attach(dir.path(), name, Some(90), Some(30)));
    std::thread::scope(|scope| {
        // Whoever has come to its end still holds what it has.
        for (number, process) in processes.iter().enumerate() {
            let device = &device;
            scope.spawn(move || {
                let mut state = 11 + number as u64;
                let mut held = 0;
                for _ in 0..300 {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let count = state >> 59;
                    if state & (1 << 40) == 0 && process.charge(count).is_ok() {
                        held += count;
                        let all = device.fetch_add(count, Ordering::SeqCst) + count;
                        assert!(all <= TOTAL, "{all} of {TOTAL}");
                    } else if state & (0xf << 41) == 0 {
                        device.fetch_sub(held, Ordering::SeqCst);
                        process.free(std::mem::take(&mut held));
                    }
                }
            });
        }
    });
}
