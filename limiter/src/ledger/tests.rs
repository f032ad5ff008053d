use super::*;
use crate::config::{Change, Wanted};
use crate::shm::Shared;
use crate::{clock, control};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const GPU: DeviceUuid = DeviceUuid::from_bytes([7; 16]);
const OTHER_GPU: DeviceUuid = DeviceUuid::from_bytes([8; 16]);

const NO_GPUS: [(DeviceUuid, Option<Bytes>); 0] = [];

fn container() -> ContainerName {
    "a".parse().unwrap()
}

fn attach(dir: &Path, max: Option<u64>) -> Ledger {
    Ledger::attach(dir, &container(), &[(GPU, max.map(Bytes::new))]).unwrap()
}

fn bytes(count: u64) -> Bytes {
    Bytes::new(count)
}

/// What `cuda-hook set --memory` does.
fn set(dir: &Path, memory: &str) {
    let change = Change::parse(Wanted {
        memory: Some(memory),
        ..Wanted::default()
    })
    .unwrap();
    control::change(dir, &container(), &change, clock::monotonic()).unwrap();
}

#[test]
fn what_a_process_is_refused_for_its_own_sake_waits_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path(), Some(100));
    ledger.try_charge(0, bytes(60)).unwrap().commit();
    let (said, heard) = std::sync::mpsc::channel();
    let answer = std::thread::scope(|scope| {
        let _exclusive = ledger.seat.file.exclusive().unwrap();
        scope.spawn(|| said.send(ledger.try_charge(0, bytes(41)).map(drop)));
        heard.recv_timeout(std::time::Duration::from_secs(30))
    });
    let over = answer.expect("it asks for the lock").unwrap_err();
    assert_eq!((over.current, over.max), (bytes(60), bytes(100)));
}

#[test]
fn what_a_process_was_granted_is_counted_and_what_it_gives_back_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path(), Some(100));
    let _ = ledger.try_charge(0, bytes(101)).unwrap_err();
    assert_eq!(ledger.own_grants(0), 0);
    ledger.try_charge(0, bytes(60)).unwrap().commit();
    ledger.charge(0, bytes(60));
    assert_eq!(ledger.own_grants(0), 2);
    ledger.uncharge(0, bytes(60));
    assert_eq!(ledger.own_grants(0), 2);
}

#[test]
fn a_refused_charge_leaves_nothing_charged() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path(), Some(100));
    assert_eq!(
        ledger.try_charge(0, bytes(101)).unwrap_err(),
        OverQuota {
            asked: bytes(101),
            current: bytes(0),
            max: bytes(100),
            bound: Bound::Quota
        }
    );
    assert_eq!(ledger.current(0), bytes(0));
    assert_eq!(
        ledger.try_charge(0, bytes(100)).unwrap().commit(),
        bytes(100)
    );
    assert!(ledger.try_charge(0, bytes(1)).is_err());
    assert_eq!(
        (ledger.current(0), ledger.peak(0)),
        (bytes(100), bytes(100))
    );
    let other = attach(dir.path(), Some(100));
    let over = other.try_charge(0, bytes(1)).unwrap_err();
    assert_eq!(over.current, bytes(100));
    ledger.uncharge(0, bytes(100));
    assert!(other.try_charge(0, bytes(100)).is_ok());
}

/// The driver may have granted what the panicking thread had charged.
#[test]
fn a_panic_gives_no_charge_back() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path(), Some(100));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _charge = ledger.try_charge(0, bytes(60)).unwrap();
        panic!("on purpose, between the driver's answer and the books");
    }));
    assert!(panicked.is_err());
    assert_eq!(ledger.current(0), bytes(60));
    assert!(ledger.try_charge(0, bytes(41)).is_err());
}

#[test]
fn a_charge_that_is_dropped_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path(), Some(100));
    let charge = ledger.try_charge(0, bytes(100)).unwrap();
    assert!(ledger.try_charge(0, bytes(1)).is_err());
    drop(charge);
    assert_eq!(ledger.current(0), bytes(0));
    ledger.try_charge(0, bytes(100)).unwrap().commit();
    ledger.uncharge(0, bytes(60));
    assert_eq!((ledger.own(0), ledger.peak(0)), (bytes(40), bytes(100)));
}

#[test]
fn no_sum_overflows() {
    let dir = tempfile::tempdir().unwrap();
    for max in [Some(100), None] {
        let ledger = attach(dir.path(), max);
        assert!(ledger.try_charge(0, bytes(u64::MAX)).is_err() || max.is_none());
        let half = ledger.try_charge(0, bytes(1 << 63));
        assert_eq!(half.is_ok(), max.is_none());
        for asks in [&ledger, &attach(dir.path(), max)] {
            assert!(asks.try_charge(0, bytes(u64::MAX)).is_err());
        }
    }
}

#[test]
fn a_maximum_of_zero_allows_nothing_and_none_allows_all() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::attach(
        dir.path(),
        &container(),
        &[(GPU, Some(bytes(0))), (OTHER_GPU, None)],
    )
    .unwrap();
    assert!(ledger.try_charge(0, bytes(1)).is_err());
    assert_eq!(
        ledger.try_charge(1, bytes(1 << 50)).unwrap().commit(),
        bytes(1 << 50)
    );
    assert_eq!((ledger.max(0), ledger.max(1)), (Some(bytes(0)), None));
    assert!(ledger.try_charge(2, bytes(0)).is_err(), "no such device");
}

#[test]
fn a_quota_is_shared_by_uuid_whatever_the_order() {
    let dir = tempfile::tempdir().unwrap();
    let one = Ledger::attach(
        dir.path(),
        &container(),
        &[(GPU, Some(bytes(10))), (OTHER_GPU, Some(bytes(20)))],
    )
    .unwrap();
    let two = Ledger::attach(
        dir.path(),
        &container(),
        &[(OTHER_GPU, Some(bytes(20))), (GPU, Some(bytes(10)))],
    )
    .unwrap();
    one.try_charge(0, bytes(7)).unwrap().commit();
    assert!(two.try_charge(1, bytes(4)).is_err());
    two.try_charge(0, bytes(20)).unwrap().commit();
    assert_eq!((one.current(0), one.current(1)), (bytes(7), bytes(20)));
    let held: Vec<_> = one
        .processes()
        .into_iter()
        .map(|process| process.bytes)
        .collect();
    assert_eq!(held, [[bytes(7), bytes(0)], [bytes(0), bytes(20)]]);
}

#[test]
fn containers_do_not_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let one = attach(dir.path(), Some(10));
    let two = Ledger::attach(dir.path(), &"b".parse().unwrap(), &[(GPU, Some(bytes(10)))]).unwrap();
    one.try_charge(0, bytes(10)).unwrap().commit();
    two.try_charge(0, bytes(10)).unwrap().commit();
}

#[test]
fn a_lowered_maximum_refuses_and_frees_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path(), Some(100));
    ledger.try_charge(0, bytes(80)).unwrap().commit();
    set(dir.path(), "50");
    assert!(ledger.try_charge(0, bytes(1)).is_err());
    assert_eq!(ledger.current(0), bytes(80));
    set(dir.path(), "81");
    ledger.try_charge(0, bytes(1)).unwrap().commit();
}

#[test]
fn a_later_process_lowers_the_maximum_but_does_not_raise_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = attach(dir.path(), Some(100));
    let second = attach(dir.path(), Some(200));
    assert_eq!(second.max(0), Some(bytes(100)));
    set(dir.path(), "150");
    let third = attach(dir.path(), Some(100));
    assert_eq!(
        third.max(0),
        Some(bytes(150)),
        "what `set` changed stays for the same configuration"
    );
    let fourth = attach(dir.path(), Some(60));
    assert_eq!(first.max(0), Some(bytes(60)));
    drop((first, second, third, fourth));
    assert_eq!(
        attach(dir.path(), Some(200)).max(0),
        Some(bytes(200)),
        "a new start takes its own"
    );
}

#[test]
fn what_a_process_leaves_behind_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let stays = attach(dir.path(), Some(10));
    let goes = attach(dir.path(), Some(10));
    goes.try_charge(0, bytes(10)).unwrap().commit();
    assert!(stays.try_charge(0, bytes(1)).is_err());
    drop(goes);
    stays.try_charge(0, bytes(10)).unwrap().commit();
    assert_eq!(stays.processes().len(), 1);
}

#[test]
fn bytes_in_use_already_are_charged_over_the_maximum() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path(), Some(10));
    ledger.charge(0, bytes(30));
    assert_eq!((ledger.current(0), ledger.peak(0)), (bytes(30), bytes(30)));
    assert!(ledger.try_charge(0, bytes(0)).is_err());
    ledger.uncharge(0, bytes(40));
    assert_eq!(ledger.own(0), bytes(0), "never below zero");
}

#[test]
fn a_foreign_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(dir.path(), &container());
    fs::create_dir(file.parent().unwrap()).unwrap();
    for (content, problem) in [
        (vec![1; 100], "too short"),
        (vec![1; 4 << 20], "not a file of cuda-hook"),
    ] {
        fs::write(&file, &content).unwrap();
        let error = Ledger::attach(dir.path(), &container(), &NO_GPUS).unwrap_err();
        assert!(
            matches!(error, AttachError::Layout { .. }) && error.to_string().contains(problem),
            "{error}"
        );
        assert_eq!(fs::read(&file).unwrap(), content);
    }
}

#[test]
fn another_layout_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(attach(dir.path(), None));
    let file = path(dir.path(), &container());
    let mut content = fs::read(&file).unwrap();
    content[8] += 1;
    fs::write(&file, content).unwrap();
    let error = Ledger::attach(dir.path(), &container(), &NO_GPUS)
        .unwrap_err()
        .to_string();
    let ours = ContainerFile::LAYOUT_VERSION;
    let told = format!(
        "has layout {}, this version of cuda-hook has {ours}",
        ours + 1
    );
    assert!(
        error.contains(&told) && error.ends_with("remove it when no limited program runs"),
        "{error}"
    );
}

#[test]
fn a_file_whose_maker_died_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(dir.path(), &container());
    fs::create_dir(file.parent().unwrap()).unwrap();
    fs::write(&file, vec![0; std::mem::offset_of!(ContainerFile, slots)]).unwrap();
    attach(dir.path(), Some(1))
        .try_charge(0, bytes(1))
        .unwrap()
        .commit();
}

#[test]
fn a_folder_that_is_lent_to_several_users_has_files_for_them() {
    for (mode, of_file) in [
        (0o777, 0o666),
        (0o770, 0o660),
        (0o755, 0o600),
        (0o700, 0o600),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = path(dir.path(), &container());
        let folder = file.parent().unwrap();
        fs::create_dir(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        drop(attach(dir.path(), None));
        let made = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(made, of_file, "{mode:o}: {made:o}");
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Ledger::attach(file.path(), &container(), &NO_GPUS)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("ledger: cannot create the folder: "),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("a")).unwrap();
    std::os::unix::fs::symlink("/dev/null", folder.path().join("a/ledger")).unwrap();
    let error = Ledger::attach(folder.path(), &container(), &NO_GPUS)
        .unwrap_err()
        .to_string();
    assert!(error.contains("ledger: cannot open: "), "{error}");
}

#[test]
fn the_seventeenth_gpu_has_no_place() {
    let dir = tempfile::tempdir().unwrap();
    let gpus: Vec<_> = (0..17)
        .map(|number| (DeviceUuid::from_bytes([number; 16]), None))
        .collect();
    drop(Ledger::attach(dir.path(), &container(), &gpus[..16]).unwrap());
    let error = Ledger::attach(dir.path(), &container(), &gpus).unwrap_err();
    assert!(
        matches!(error, AttachError::Full { what: "GPU", .. }),
        "{error}"
    );
}

fn attach_soft(dir: &Path, limits: MemoryLimits) -> Ledger {
    Ledger::attach(dir, &container(), &[(GPU, limits)]).unwrap()
}

fn spilling(max: u64, soft: u64) -> MemoryLimits {
    MemoryLimits {
        max: Some(bytes(max)),
        soft: Some(bytes(soft)),
        spill: true,
    }
}

#[test]
fn past_its_guarantee_a_charge_is_refused_as_that() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach_soft(dir.path(), spilling(100, 40));
    ledger.try_charge(0, bytes(40)).unwrap().commit();
    let refusal = ledger.try_charge(0, bytes(1)).unwrap_err();
    assert_eq!(
        (refusal.current, refusal.max, refusal.bound),
        (bytes(40), bytes(40), Bound::Guarantee)
    );
    let refusal = ledger.try_charge(0, bytes(61)).unwrap_err();
    assert_eq!((refusal.max, refusal.bound), (bytes(100), Bound::Quota));
}

#[test]
fn what_lies_on_the_host_is_counted_apart_and_with_the_rest_within_the_quota() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = [(); 2].map(|()| attach_soft(dir.path(), spilling(100, 40)));
    one.try_charge(0, bytes(30)).unwrap().commit();
    other.try_spill(0, bytes(50)).unwrap().commit();
    assert_eq!(one.spilled(0), bytes(50));
    assert_eq!(
        (one.current(0), other.own(0), one.peak(0)),
        (bytes(30), bytes(0), bytes(30))
    );
    let refusal = one.try_spill(0, bytes(21)).unwrap_err();
    assert_eq!(
        (refusal.current, refusal.max, refusal.bound),
        (bytes(80), bytes(100), Bound::Quota)
    );
    one.try_charge(0, bytes(10)).unwrap().commit();
    drop(one.try_spill(0, bytes(10)).unwrap());
    one.try_spill(0, bytes(10)).unwrap().commit();
    assert_eq!(one.spilled(0), bytes(60));
    one.give_back(0, bytes(10), Residence::Host);
    drop(other);
    assert_eq!((one.current(0), one.spilled(0)), (bytes(40), bytes(0)));
}

/// Where the quota is lowered below the guarantee and what was spilled, what is on the host still counts.
#[test]
fn what_was_spilled_counts_against_a_lowered_quota() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach_soft(dir.path(), spilling(100, 40));
    ledger.try_spill(0, bytes(60)).unwrap().commit();
    set(dir.path(), "80");
    ledger.try_charge(0, bytes(20)).unwrap().commit();
    let refusal = ledger.try_charge(0, bytes(1)).unwrap_err();
    assert_eq!((refusal.current, refusal.bound), (bytes(80), Bound::Quota));
}

#[test]
fn the_next_container_of_a_name_has_its_own_guarantee() {
    let dir = tempfile::tempdir().unwrap();
    let first = attach_soft(dir.path(), spilling(100, 40));
    first.try_spill(0, bytes(60)).unwrap().commit();
    drop(first);
    let next = attach(dir.path(), Some(100));
    let wanted = MemoryLimits::from(Some(bytes(100)));
    assert_eq!(next.limits(0), wanted);
    next.try_charge(0, bytes(100)).unwrap().commit();
    drop(next);
    let limits = spilling(100, 40);
    assert_eq!(attach_soft(dir.path(), limits).limits(0), limits);
}
