//! What is made up for beside others, what is timed without them, and who of one container goes first.

use super::*;
use crate::price::Measured;

/// How many launches of 1 ms go at once of a container that may have half of a GPU and got nothing of it for a second, in which it looked
/// so often. `end` is told of each.
fn made_up_for(looks_every_ms: u64, end: impl Fn(&Share, Reservation, MonotonicNs)) -> usize {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("50"));
    let begin = clock::monotonic();
    measure(&share, begin);
    let _running = share.acquire(&mut nothing(&share), KEY, begin);
    let looks = (looks_every_ms..=1_000).step_by(looks_every_ms as usize);
    for ms in looks {
        share.heartbeat(begin.saturating_add_ns(ms * MS));
    }
    let now = begin.saturating_add_ns(1_000 * MS);
    let launch = || {
        end(&share, granted(&share, now)?, now);
        Some(())
    };
    std::iter::from_fn(launch).count()
}

/// While it was stopped, the GPU did not keep from it what it might have used.
#[test]
fn a_process_that_was_stopped_makes_up_for_nothing() {
    let ends_at_once = |share: &Share, reservation, now| {
        share.completed(reservation, None, now);
    };
    let [held_back, stopped] = [10, 1_000].map(|every_ms| made_up_for(every_ms, ends_at_once));
    assert_eq!([held_back, stopped], [53, 3]);
}

/// What it makes up for stands on the GPU, where whoever needs that for itself waits for it.
#[test]
fn what_a_capped_container_makes_up_for_does_not_pile_up() {
    let ends_never = |_: &Share, _, _| ();
    assert_eq!(made_up_for(10, ends_never), 15, "beside the one that runs");
}

/// What it was given while it was stopped it does not get from the others afterwards, whatever it finds first when it goes on.
#[test]
fn who_was_stopped_begins_where_the_others_are() {
    let launches_in_a_row = |finds_a_lease: bool| {
        let dir = tempfile::tempdir().unwrap();
        let (_stopped_ledger, stopped) = join_sharing(dir.path(), "a", "70");
        let (_other_ledger, other) = join_sharing(dir.path(), "b", "30");
        let begin = clock::monotonic();
        measure(&stopped, begin);
        measure(&other, begin);
        let running = granted(&stopped, begin).unwrap();
        let mut now = begin;
        for _ in 0..3_000 {
            now = now.saturating_add_ns(MS);
            let launched = granted(&other, now).unwrap();
            other.completed(launched, None, now);
        }
        if finds_a_lease {
            assert!(other.board(0).unwrap().try_lease(now, MS, false));
            assert!(granted(&stopped, now).is_none());
            other.board(0).unwrap().end_lease();
        }
        let _wants_more = granted(&other, now);
        stopped.completed(running, None, now);
        let in_a_row = std::iter::from_fn(|| {
            let launched = granted(&stopped, now)?;
            stopped.completed(launched, None, now);
            Some(())
        });
        in_a_row.take(1_000).count()
    };
    for finds_a_lease in [false, true] {
        let launches = launches_in_a_row(finds_a_lease);
        assert!((5..50).contains(&launches), "{finds_a_lease}: {launches}");
    }
}

/// Launches in the lease of a kernel of that length.
fn assert_leased_for(own_ms: u64, launches: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (_ledger, share) = join_sharing(dir.path(), "a", "50");
    let (_other_ledger, other) = join_sharing(dir.path(), "b", "50");
    let now = clock::monotonic();
    let beside_others = Measured {
        elapsed: GpuNs::new(2 * own_ms * MS),
        own: GpuNs::new(own_ms * MS),
        part: None,
    };
    for _ in 0..3 {
        let prices = share.devices[0].prices();
        prices.observe(KEY, beside_others, now);
    }
    let granted = || granted(&share, now);
    let is_leased = || matches!(other.board(0).unwrap().lease(now), Lease::Another { .. });
    assert!(granted().is_none(), "it takes the lease first");
    assert!(is_leased());
    let waits = other.admit(&mut nothing(&other), KEY, now);
    assert!(matches!(waits, Admit::NotBefore(_)));
    let launched: Vec<_> = std::iter::from_fn(granted).take(10).collect();
    assert_eq!(launched.len(), launches);
    for (number, reservation) in launched.into_iter().enumerate() {
        assert!(is_leased() && granted().is_none(), "{number}");
        share.completed(reservation, Some(took(own_ms * MS, now)), now);
    }
    assert!(!is_leased());
}

#[test]
fn a_lease_is_for_three_launches_or_a_long_one_and_ends_with_their_timings() {
    assert_leased_for(2, 3);
    assert_leased_for(12, 1);
}

#[test]
fn who_waits_for_anothers_lease_looks_whether_it_has_ended_early() {
    let Container {
        share,
        dir,
        ledger: _ledger,
    } = container(percent("30"));
    let now = clock::monotonic();
    measure(&share, now);
    let other = Board::attach(dir.path(), DeviceUuid::from_bytes([7; 16])).unwrap();
    assert!(other.try_lease(now, 50 * MS, false));
    let held = share.ask(&mut nothing(&share), KEY, now).map(drop);
    let held = held.unwrap_err();
    assert_eq!(held.by, Obstacle::Share);
    assert!(held.until <= now.saturating_add_ns(MS));
    other.end_lease();
    let again = share.ask(&mut nothing(&share), KEY, held.until);
    share.cancel(again.unwrap());
}

/// Two processes of a container that has used up its cap: of the first, what a thread asks with that has waited since then, and until when; the second
/// has not asked.
struct UsedUp {
    waits: (Share, Credit),
    comes: Share,
    begin: MonotonicNs,
    then: MonotonicNs,
    /// Of the first, of a kernel that was never timed.
    running: Reservation,
    _kept: (tempfile::TempDir, [Ledger; 2]),
}

const NEW_KEY: KernelKey = KernelKey(8);

fn used_up() -> UsedUp {
    let Container {
        share: waits,
        dir,
        ledger,
    } = container(percent("10"));
    let (other_ledger, comes) = join(dir.path(), "a", percent("10"));
    let begin = clock::monotonic();
    measure(&waits, begin);
    measure(&comes, begin);
    let running = waits.ask(&mut nothing(&waits), NEW_KEY, begin).unwrap();
    waits.began(&running, begin);
    while let Some(reservation) = granted(&comes, begin) {
        comes.completed(reservation, None, begin);
    }
    let mut credit = nothing(&waits);
    let Admit::NotBefore(then) = waits.admit(&mut credit, KEY, begin) else {
        unreachable!("the cap is used up");
    };
    UsedUp {
        waits: (waits, credit),
        comes,
        begin,
        then,
        running,
        _kept: (dir, [ledger, other_ledger]),
    }
}

#[test]
fn who_comes_when_there_is_room_again_does_not_go_before_who_has_waited_for_it() {
    let UsedUp {
        waits: (waits, mut credit),
        comes,
        begin,
        then,
        running,
        _kept,
    } = used_up();
    waits.cancel(running);
    assert!(then > begin.saturating_add_ns(5 * MS), "it has waited long");
    let mut late = nothing(&comes);
    let held = comes.ask(&mut late, KEY, then).map(drop).unwrap_err();
    assert_eq!(held.by, Obstacle::Cap);
    assert!(waits.ask(&mut credit, KEY, then).is_ok());
    let later = then.saturating_add_ns(50 * MS);
    assert!(comes.ask(&mut late, KEY, later).is_ok());
}

#[test]
fn who_has_waited_and_does_not_ask_again_is_not_waited_for() {
    let UsedUp {
        waits: _stopped,
        comes,
        then,
        _kept,
        ..
    } = used_up();
    let mut late = nothing(&comes);
    let held = comes.ask(&mut late, KEY, then).map(drop).unwrap_err();
    assert!(held.until <= then.saturating_add_ns(MS));
    assert!(comes.ask(&mut late, KEY, held.until).is_ok());
}

#[test]
fn who_has_enough_on_the_gpu_keeps_nobody_waiting() {
    let UsedUp {
        waits: (waits, mut credit),
        comes,
        then,
        running,
        _kept,
        ..
    } = used_up();
    let row = waits.row(0).unwrap();
    assert!(Queue(&row.bucket).first_not_before(then, then).is_some());
    // Of such kernels one may be outstanding.
    let held = waits.ask(&mut credit, NEW_KEY, then).map(drop);
    assert_eq!(held.unwrap_err().by, Obstacle::Window);
    assert!(comes.ask(&mut nothing(&comes), KEY, then).is_ok());
    waits.cancel(running);
}
