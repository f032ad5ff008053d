use std::path::Path;

use super::*;
use crate::ledger::Ledger;
use crate::sample::{self, CallRefusals, ContainerSample};
use crate::shm::Snapshot;
use crate::units::DeviceUuid;

const GPU: DeviceUuid = DeviceUuid::from_bytes([7; 16]);

fn attach(dir: &Path) -> Ledger {
    let devices = [(GPU, Some(Bytes::new(100)))];
    Ledger::attach(dir, &"a".parse().unwrap(), &devices).unwrap()
}

/// Asks for more than there is, and notes the refusal.
fn refuse(ledger: &Ledger, call: &str, asked: u64, at: u64) {
    let over = ledger.try_charge(0, Bytes::new(asked)).unwrap_err();
    ledger.note_refused(0, call, over, MonotonicNs::new(at));
}

fn look(dir: &Path) -> ContainerSample {
    let sample = sample::read(dir, MonotonicNs::new(9)).unwrap();
    sample.containers.into_iter().next().unwrap()
}

fn calls(refusals: &[CallRefusals]) -> Vec<(&str, u64)> {
    refusals
        .iter()
        .map(|calls| (calls.call.as_str(), calls.count))
        .collect()
}

#[test]
fn refusals_are_counted_by_call_and_the_last_is_told_in_full() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (attach(dir.path()), attach(dir.path()));
    one.try_charge(0, Bytes::new(60)).unwrap().commit();
    refuse(&one, "cuMemAlloc_v2", 41, 1);
    refuse(&two, "cuMemCreate", 99, 2);
    refuse(&two, "cuMemCreate", 50, 3);
    let container = look(dir.path());
    assert_eq!(
        calls(&container.refusals),
        [("cuMemCreate", 2), ("cuMemAlloc_v2", 1)]
    );
    assert_eq!(container.devices[0].refusals_total, 3);
    let last = container.last_refusal.expect("one");
    assert_eq!((last.call.as_deref(), last.at_ns), (Some("cuMemCreate"), 3));
    assert_eq!(
        (
            last.memory_bytes_asked,
            last.memory_bytes_current,
            last.memory_bytes_max,
            last.memory_bytes_left
        ),
        (50, 60, 100, 40)
    );
    assert_eq!(last.device_uuid, GPU.to_string());
    let process = &container.processes[0];
    assert_eq!(calls(&process.refusals), [("cuMemAlloc_v2", 1)]);
    assert_eq!(process.devices[0].refusals_total, 1);
    assert_eq!(
        process.last_refusal.as_ref().map(|last| last.at_ns),
        Some(1)
    );
}

#[test]
fn what_the_dead_were_refused_stays_counted() {
    let dir = tempfile::tempdir().unwrap();
    let _stays = attach(dir.path());
    for round in 1..=3 {
        let goes = attach(dir.path());
        refuse(&goes, "cuMemAlloc_v2", 101, round);
        drop(goes);
    }
    let container = look(dir.path());
    assert_eq!(calls(&container.refusals), [("cuMemAlloc_v2", 3)]);
    assert_eq!(container.devices[0].refusals_total, 3);
    assert_eq!(container.last_refusal.map(|last| last.at_ns), Some(3));
    let _next = attach(dir.path());
    for process in look(dir.path()).processes {
        assert!(process.refusals.is_empty(), "they are nobody's who lives");
        assert_eq!(process.last_refusal, None);
    }
}

#[test]
fn more_calls_than_there_is_room_for_are_counted_together() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path());
    for call in 0..=CALLS_MAX {
        refuse(&ledger, &format!("call {call}"), 101, 1);
    }
    let container = look(dir.path());
    assert_eq!(container.refusals.len(), CALLS_MAX);
    assert_eq!(container.devices[0].refusals_total, 65);
    assert_eq!(container.last_refusal.and_then(|last| last.call), None);
}

#[test]
fn a_name_is_kept_up_to_48_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = attach(dir.path());
    let name = "x".repeat(50);
    refuse(&ledger, &name, 101, 1);
    assert_eq!(calls(&look(dir.path()).refusals), [(&name[..48], 1)]);
}

fn refused(at: u64) -> Refused {
    Refused {
        call: Some(3),
        device: 1,
        pid: 17,
        over: OverQuota {
            asked: Bytes::new(at),
            current: Bytes::new(at),
            max: Bytes::new(at),
            bound: Bound::Quota,
        },
        at: MonotonicNs::new(at),
    }
}

/// The file's first retired record, which no process writes here.
fn with_record(test: impl FnOnce(&RefusalRecord)) {
    let dir = tempfile::tempdir().unwrap();
    drop(attach(dir.path()));
    let file = Snapshot::<ContainerFile>::read(&dir.path().join("a/ledger")).unwrap();
    test(&file.retired_last);
}

#[test]
fn a_record_that_a_killed_writer_left_is_none() {
    with_record(|record| {
        assert_eq!(record.read(), None, "nothing was written");
        record.try_write(&refused(1));
        assert_eq!(record.read(), Some(refused(1)));
        record.asked_bytes.store(2, Ordering::Relaxed); // as far as the next one came
        assert_eq!(record.read(), None);
        record.writing.store(1, Ordering::Relaxed);
        record.try_write(&refused(3));
        assert_eq!(record.read(), None, "nobody waits for the dead");
        record.clear();
        record.try_write(&refused(4));
        assert_eq!(record.read(), Some(refused(4)));
    });
}
