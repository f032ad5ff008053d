//! Launches on credit.

use super::*;

/// How often a launch of `KEY` goes on credit at once.
fn on_credit(share: &Share, credit: &mut Credit) -> usize {
    let spend = || share.spend(credit, KEY);
    std::iter::repeat_with(spend)
        .take_while(Option::is_some)
        .count()
}

/// Launches kernels of 5 µs one behind the other until one has credit behind it, and no timing is due; that launch, and when it was made.
fn with_credit(
    share: &Share,
    credit: &mut Credit,
    begin: MonotonicNs,
) -> (Reservation, MonotonicNs) {
    let (mut now, mut before) = (begin, None);
    for _ in 0..1_000 {
        on_credit(share, credit);
        let Admit::Granted(mut reservation) = share.admit(credit, KEY, now) else {
            panic!("nothing is in its way");
        };
        let is_timed = share.should_time(credit, &mut reservation, now);
        let is_settled = share.devices[0].prices().settled_price(KEY).is_some();
        if is_settled && credit.draw.is_early() && reservation.granted >= GpuNs::new(10_000) {
            if let Some((earlier, timing)) = before {
                share.completed(earlier, timing, now);
            }
            return (reservation, now);
        }
        now = now.saturating_add_ns(5_000);
        let timing = Timing {
            between: GpuNs::new(5_000),
            stood: Stood::Behind,
            ended_at: now,
            part: None,
        };
        let launched = (reservation, is_timed.then_some(timing));
        // One is always outstanding, once enough is known of it for two.
        let ended = if share.devices[0].prices().is_sure(KEY) {
            before.replace(launched)
        } else {
            Some(launched)
        };
        if let Some((reservation, timing)) = ended {
            share.completed(reservation, timing, now);
        }
    }
    panic!("no credit");
}

#[test]
fn nearly_all_launches_of_short_kernels_go_on_credit() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("99"));
    let mut credit = nothing(&share);
    let (mut running, mut now) = with_credit(&share, &mut credit, clock::monotonic());
    let (mut gone, mut asked) = (0, 0);
    for _ in 0..1_000 {
        gone += on_credit(&share, &mut credit);
        asked += 1;
        now = now.saturating_add_ns(MS);
        let Admit::Granted(mut next) = share.admit(&mut credit, KEY, now) else {
            panic!("it uses less than its cap");
        };
        share.should_time(&mut credit, &mut next, now);
        share.completed(std::mem::replace(&mut running, next), None, now);
    }
    assert!(gone > 8 * asked, "{gone} went on credit, {asked} asked");
}

/// As where each kernel has ended before the next is launched.
#[test]
fn credit_outlives_brief_rests() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("99"));
    let mut credit = nothing(&share);
    let (running, mut now) = with_credit(&share, &mut credit, clock::monotonic());
    share.completed(running, None, now);
    let (mut gone, mut asked) = (0, 0);
    for _ in 0..100 {
        now = now.saturating_add_ns(MS / 2);
        share.heartbeat(now);
        gone += on_credit(&share, &mut credit);
        asked += 1;
        let Admit::Granted(reservation) = share.admit(&mut credit, KEY, now) else {
            panic!("it uses less than its cap");
        };
        share.completed(reservation, None, now);
    }
    assert!(gone > 8 * asked, "{gone} went on credit, {asked} asked");
}

/// It would not know of what is launched on it.
#[test]
fn credit_ends_with_a_rest_where_another_container_has_wanted_the_gpu() {
    let Container {
        share,
        dir,
        ledger: _ledger,
    } = container(percent("99"));
    let (_other_ledger, other) = join(dir.path(), "b", percent("50"));
    let mut credit = nothing(&share);
    let (running, now) = with_credit(&share, &mut credit, clock::monotonic());
    let others = other.acquire(&mut nothing(&other), KEY, now);
    let launched = share.acquire(&mut credit, KEY, now);
    share.completed(running, None, now);
    share.completed(launched, None, now);
    other.completed(others, None, now);
    let ended = now.saturating_add_ns(10 * MS);
    assert!(!share.heartbeat(ended));
    assert_eq!(on_credit(&share, &mut credit), 0);
}

#[test]
fn what_goes_on_credit_was_charged_and_is_counted() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("99"));
    let mut credit = nothing(&share);
    let (first, now) = with_credit(&share, &mut credit, clock::monotonic());
    let before = share.usage(0);
    let gone = on_credit(&share, &mut credit) as u64;
    assert!(gone > 0);
    assert_eq!(share.usage(0), before, "nobody is told at once");
    let later = share.acquire(&mut credit, KEY, now);
    assert_eq!(share.usage(0).launches, before.launches + gone + 1);
    let launched_ns = 5_000 * share.usage(0).launches;
    let charged_ns = share.usage(0).charged_ns;
    assert!((launched_ns..=launched_ns + 200_000).contains(&charged_ns));
    share.completed(first, None, now);
    share.completed(later, None, now);
    assert!(share.heartbeat(now), "what went on credit may run still");
    let ended = now.saturating_add_ns(10 * MS);
    assert!(share.heartbeat(ended), "others may be made on credit");
    assert!(!share.heartbeat(ended.saturating_add_ns(MS)));
    assert_eq!(on_credit(&share, &mut credit), 0, "it ended with the work");
    share.give_back(&mut credit);
    assert_eq!(share.usage(0).charged_ns, launched_ns);
}

#[test]
fn nothing_goes_on_credit_while_another_has_the_gpu_to_itself() {
    let Container {
        share,
        dir,
        ledger: _ledger,
    } = container(percent("99"));
    let (_other_ledger, other) = join(dir.path(), "b", percent("50"));
    let mut credit = nothing(&share);
    let (_running, now) = with_credit(&share, &mut credit, clock::monotonic());
    assert!(other.board(0).unwrap().try_lease(now, 10 * MS, false));
    assert_eq!(on_credit(&share, &mut credit), 0);
    assert!(matches!(
        share.admit(&mut credit, KEY, now),
        Admit::NotBefore(_)
    ));
}

#[test]
fn a_launch_that_the_driver_refused_costs_no_credit() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("99"));
    let mut credit = nothing(&share);
    let (_running, _) = with_credit(&share, &mut credit, clock::monotonic());
    for _ in 0..1_000 {
        let price = share.spend(&mut credit, KEY).unwrap();
        credit.refund(price);
    }
}
