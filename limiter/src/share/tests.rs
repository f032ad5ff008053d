use super::device::{LIVENESS_NS, RUNNING_LIVENESS_NS};
use super::*;
use crate::config::{Change, GpuLimits, Wanted};
use crate::control;
use crate::timing::Stood;
use crate::units::DeviceUuid;

mod credit;
mod others;

const MS: u64 = 1_000_000;
const KEY: KernelKey = KernelKey(7);

struct Container {
    ledger: Ledger,
    share: Share,
    dir: tempfile::TempDir,
}

fn percent(text: &str) -> Option<Percent> {
    text.parse().ok()
}

fn join(dir: &Path, name: &str, sm_max: Option<Percent>) -> (Ledger, Share) {
    let limits = GpuLimits {
        sm_max,
        ..GpuLimits::default()
    };
    join_under(dir, name, limits)
}

/// With a guarantee and no cap.
fn join_sharing(dir: &Path, name: &str, sm: &str) -> (Ledger, Share) {
    let limits = GpuLimits {
        sm: percent(sm),
        sm_max: percent("100"),
        ..GpuLimits::default()
    };
    join_under(dir, name, limits)
}

fn join_under(dir: &Path, name: &str, limits: GpuLimits) -> (Ledger, Share) {
    let uuid = DeviceUuid::from_bytes([7; 16]);
    let ledger = Ledger::attach(dir, &name.parse().unwrap(), &[(uuid, limits)]).unwrap();
    let share = Share::attach(&ledger, dir, clock::monotonic(), 1).unwrap();
    (ledger, share)
}

/// What a thread has in hand before its first launch.
fn nothing(share: &Share) -> Credit {
    share.credit(0).unwrap()
}

fn container(sm_max: Option<Percent>) -> Container {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, share) = join(dir.path(), "a", sm_max);
    Container { ledger, share, dir }
}

/// A GPU that runs one launch after the other.
struct Gpu {
    free_at: MonotonicNs,
    busy_ns: u64,
}

impl Gpu {
    fn run(&mut self, now: MonotonicNs, duration_ns: u64) -> Timing {
        self.free_at = self.free_at.max(now).saturating_add_ns(duration_ns);
        self.busy_ns += duration_ns;
        Timing {
            between: GpuNs::new(duration_ns),
            stood: Stood::Behind,
            ended_at: self.free_at,
            part: None,
        }
    }
}

/// Launch kernels one after another for `window_ns`, waiting where told; returns the share of the GPU's time.
fn share_of_gpu(
    share: &Share,
    mut duration_ns: impl FnMut(u64) -> (KernelKey, u64),
    window_ns: u64,
) -> f64 {
    let begin = clock::monotonic();
    let mut gpu = Gpu {
        free_at: begin,
        busy_ns: 0,
    };
    let (mut now, mut launch, mut credit) = (begin, 0, nothing(share));
    loop {
        let (key, duration_ns) = duration_ns(launch);
        if share.spend(&mut credit, key).is_some() {
            now = gpu.run(now, duration_ns).ended_at;
            launch += 1;
            continue;
        }
        let mut reservation = match share.admit(&mut credit, key, now) {
            Admit::NotBefore(then) => {
                assert!(then > now);
                share.heartbeat(then);
                now = then;
                continue;
            }
            // To the next admission, so that the last kernel is paid for too.
            Admit::Granted(_) if now.saturating_ns_since(begin) >= window_ns => break,
            Admit::Granted(reservation) => reservation,
        };
        let is_timed = share.should_time(&mut credit, &mut reservation, now);
        let timing = gpu.run(now, duration_ns);
        now = timing.ended_at;
        share.completed(reservation, is_timed.then_some(timing), now);
        launch += 1;
    }
    gpu.busy_ns as f64 / now.saturating_ns_since(begin) as f64
}

/// While a launch waits.
fn nothing_else(_: MonotonicNs) -> MonotonicNs {
    MonotonicNs::new(u64::MAX)
}

#[test]
fn a_cap_holds_for_kernels_of_every_length() {
    for cap in ["10", "30", "75"] {
        for duration_ns in [5_000, 100_000, MS, 20 * MS, 200 * MS] {
            let Container {
                share,
                dir: _dir,
                ledger: _ledger,
            } = container(percent(cap));
            let found = 100.0 * share_of_gpu(&share, |_| (KEY, duration_ns), 20_000 * MS);
            let wanted = cap.parse::<f64>().unwrap();
            assert!(
                (found - wanted).abs() < 0.02 * wanted,
                "{duration_ns} ns under {cap} %: {found:.2} %"
            );
        }
    }
}

#[test]
fn a_cap_holds_for_a_mixture_of_kernels() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("30"));
    let mixture = |launch: u64| (KernelKey(launch % 50), 5_000 << (launch % 50 % 12));
    let found = 100.0 * share_of_gpu(&share, mixture, 20_000 * MS);
    assert!((found - 30.0).abs() < 0.6, "{found:.2} %");
}

#[test]
fn without_a_cap_nothing_waits() {
    for sm_max in [None, percent("100")] {
        let Container {
            share,
            dir: _dir,
            ledger: _ledger,
        } = container(sm_max);
        assert!(!share.is_limited(0));
        assert!(share_of_gpu(&share, |_| (KEY, MS), 1_000 * MS) > 0.99);
        assert!(!share.is_limited(5));
    }
}

#[test]
fn two_processes_of_a_container_share_its_cap() {
    let Container {
        share: one,
        dir,
        ledger: _ledger,
    } = container(percent("30"));
    let (_ledger_two, two) = join(dir.path(), "a", percent("30"));
    let now = clock::monotonic();
    let reservation = one.acquire(&mut nothing(&one), KEY, now);
    let timing = Timing {
        between: GpuNs::new(50 * MS),
        stood: Stood::Behind,
        ended_at: now,
        part: None,
    };
    one.completed(reservation, Some(timing), now);
    assert!(matches!(
        two.admit(&mut nothing(&two), KEY, now),
        Admit::NotBefore(_)
    ));
    let (_other_ledger, other) = join(dir.path(), "b", percent("30"));
    assert!(
        matches!(
            other.admit(&mut nothing(&other), KEY, now),
            Admit::Granted(_)
        ),
        "another container has its own"
    );
}

/// Finishes a kernel of 1 ms, so that its price is known.
fn measure(share: &Share, now: MonotonicNs) {
    let reservation = share.acquire(&mut nothing(share), KEY, now);
    share.completed(reservation, Some(took(MS, now)), now);
}

/// A launch of `KEY`, if it may go.
fn granted(share: &Share, now: MonotonicNs) -> Option<Reservation> {
    match share.admit(&mut nothing(share), KEY, now) {
        Admit::Granted(reservation) => Some(reservation),
        Admit::NotBefore(_) => None,
    }
}

/// What two events said at that time.
fn took(between_ns: u64, ended_at: MonotonicNs) -> Timing {
    Timing {
        between: GpuNs::new(between_ns),
        stood: Stood::Behind,
        ended_at,
        part: None,
    }
}

/// A kernel that was never timed, under 30 %: nothing else piles up behind it.
#[test]
fn an_unsure_launch_is_paid_for_while_it_runs() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("30"));
    let begin = clock::monotonic();
    for _ in 0..3 {
        measure(&share, begin);
    }
    let begin = begin.saturating_add_ns(100 * MS);
    let unknown = share.acquire(&mut nothing(&share), KernelKey(8), begin);
    share.began(&unknown, begin);
    let admit = |ms| share.admit(&mut nothing(&share), KEY, begin.saturating_add_ns(ms * MS));
    let admitted = (10..=990).filter(|ms| matches!(admit(*ms), Admit::Granted(_)));
    assert_eq!(admitted.count(), 0);
    assert!(
        matches!(admit(1_100), Admit::Granted(_)),
        "it may wait for this one"
    );
}

/// It may be long. One that does not run yet may wait for the others.
#[test]
fn behind_an_unsure_launch_that_runs_the_next_one_waits_for_longer() {
    for (runs, wait_ms) in [(false, LIVENESS_NS / MS), (true, RUNNING_LIVENESS_NS / MS)] {
        let Container {
            share,
            dir: _dir,
            ledger: _ledger,
        } = container(None);
        let begin = clock::monotonic();
        let first = share.acquire(&mut nothing(&share), KernelKey(1), begin);
        if runs {
            share.began(&first, begin);
        }
        let admit = |ms| {
            let now = begin.saturating_add_ns(ms * MS);
            share.admit(&mut nothing(&share), KernelKey(2), now)
        };
        assert!(matches!(admit(wait_ms - 1), Admit::NotBefore(_)));
        assert!(matches!(admit(wait_ms), Admit::Granted(_)));
    }
}

/// What stands behind something on the device that is not there yet takes nothing: programs launch so, a whole network at once.
#[test]
fn an_unsure_launch_that_does_not_run_yet_is_not_paid_for() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("30"));
    let mut now = clock::monotonic();
    let begin = now;
    for _ in 0..20 {
        while let Admit::NotBefore(then) = share.admit(&mut nothing(&share), KEY, now) {
            now = then;
        }
    }
    let waited_ns = now.saturating_ns_since(begin);
    assert!(waited_ns <= 20 * 3 * LIVENESS_NS, "{waited_ns}");
}

#[test]
fn one_launch_of_a_kernel_that_was_never_timed_may_be_outstanding() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("90"));
    let now = clock::monotonic();
    let first = share.acquire(&mut nothing(&share), KernelKey(1), now);
    let Admit::NotBefore(then) = share.admit(&mut nothing(&share), KernelKey(2), now) else {
        panic!("a second was admitted")
    };
    assert!(then > now && then <= now.saturating_add_ns(LIVENESS_NS));
    share.completed(first, None, now);
    assert!(matches!(
        share.admit(&mut nothing(&share), KernelKey(2), now),
        Admit::Granted(_)
    ));
}

#[test]
fn two_may_be_outstanding_of_kernels_that_were_hardly_timed() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("90"));
    let (device, now) = (&share.devices[0], clock::monotonic());
    let may_go = || {
        let [timed, never] = [Some(GpuNs::new(MS)), None];
        [timed, never].map(|price| device.unsure_not_before(price, now).is_none())
    };
    let begin = || device.begin(false, GpuNs::new(MS), now);
    assert_eq!(may_go(), [true, true]);
    begin();
    assert_eq!(may_go(), [true, false]);
    begin();
    assert_eq!(may_go(), [false, false]);
}

#[test]
fn a_launch_that_the_others_may_wait_for_is_admitted_in_the_end() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("90"));
    let begin = clock::monotonic();
    let mut now = begin;
    for key in 1..=5 {
        loop {
            match share.admit(&mut nothing(&share), KernelKey(key), now) {
                Admit::Granted(_) => break,
                Admit::NotBefore(then) => {
                    assert!(then > now);
                    now = then;
                }
            }
            assert!(now.saturating_ns_since(begin) <= 4 * LIVENESS_NS);
        }
    }
}

#[test]
fn a_refused_launch_costs_nothing() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("30"));
    let now = clock::monotonic();
    for _ in 0..1_000 {
        let Admit::Granted(reservation) = share.admit(&mut nothing(&share), KEY, now) else {
            panic!("charged for a refused launch")
        };
        share.cancel(reservation);
    }
    assert_eq!(share.usage(0).charged_ns, 0);
}

fn held(until: MonotonicNs) -> Held {
    let by = Obstacle::Cap;
    Held { until, by }
}

/// Whatever a launch waits for is told apart.
#[test]
fn a_wait_is_counted_by_what_was_in_the_way() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("30"));
    let soon = |ms| clock::monotonic().saturating_add_ns(ms * MS);
    for (by, ms) in [
        (Obstacle::Cap, 1),
        (Obstacle::Share, 2),
        (Obstacle::Window, 3),
    ] {
        let until = soon(ms);
        share.sleep(0, share.gate(0), Held { until, by }, true, nothing_else);
    }
    let usage = share.usage(0);
    let parts = [
        usage.throttled_by_cap_ns,
        usage.throttled_by_share_ns,
        usage.throttled_by_window_ns,
    ];
    assert!(parts.iter().all(|part_ns| *part_ns > 0), "{parts:?}");
    assert_eq!(parts.iter().sum::<u64>(), usage.throttled_ns);
}

#[test]
fn what_is_in_the_way_of_a_launch_is_known() {
    let Container {
        share,
        dir,
        ledger: _ledger,
    } = container(percent("30"));
    let now = clock::monotonic();
    let obstacle = || {
        share
            .ask(&mut nothing(&share), KEY, now)
            .map(drop)
            .map_err(|held| held.by)
    };
    let unknown = [(); 2].map(|()| share.acquire(&mut nothing(&share), KEY, now));
    assert_eq!(obstacle(), Err(Obstacle::Window), "of unknown price");
    for reservation in unknown {
        share.cancel(reservation);
    }
    measure(&share, now);
    while obstacle().is_ok() {}
    assert_eq!(obstacle(), Err(Obstacle::Cap));
    let other = Board::attach(dir.path(), DeviceUuid::from_bytes([7; 16])).unwrap();
    assert!(other.try_lease(now, 5 * MS, false));
    assert_eq!(obstacle(), Err(Obstacle::Share), "another's lease");
}

#[test]
fn a_wait_is_counted_and_ends_at_its_deadline() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("30"));
    let deadline = clock::monotonic().saturating_add_ns(3 * MS);
    let woken = share.sleep(0, share.gate(0), held(deadline), true, nothing_else);
    assert!(woken >= deadline);
    assert_eq!(share.usage(0).throttled_count, 1);
    assert!(share.usage(0).throttled_ns > 0);
}

#[test]
fn a_raised_cap_lets_waiting_launches_go() {
    let Container {
        share,
        dir,
        ledger: _ledger,
    } = container(percent("1"));
    let now = clock::monotonic();
    let reservation = share.acquire(&mut nothing(&share), KEY, now);
    // At 1 % ten seconds of waiting, at 100 % none.
    let timing = Timing {
        between: GpuNs::new(100 * MS),
        stood: Stood::Behind,
        ended_at: now,
        part: None,
    };
    share.completed(reservation, Some(timing), now);
    let gate = share.gate(0);
    let Admit::NotBefore(then) = share.admit(&mut nothing(&share), KEY, now) else {
        panic!("nothing is owed")
    };
    let raised = Change::parse(Wanted {
        sm_max: Some("100"),
        ..Wanted::default()
    })
    .unwrap();
    control::change(dir.path(), &"a".parse().unwrap(), &raised, now).unwrap();
    let woken = share.sleep(0, gate, held(then), true, nothing_else);
    assert!(woken < then, "waited it out");
    assert!(!share.is_limited(0));
    assert!(matches!(
        share.admit(&mut nothing(&share), KEY, woken),
        Admit::Granted(_)
    ));
}

#[test]
fn a_foreign_tenants_slices_are_not_charged() {
    let Container {
        share,
        dir,
        ledger: _ledger,
    } = container(percent("50"));
    let (_other_ledger, other) = join(dir.path(), "other", None);
    let begin = clock::monotonic();
    let _always_busy = other.acquire(&mut nothing(&other), KEY, begin);
    // A kernel of 10 ms that takes 20, half of them the other's.
    let mut now = begin;
    for _ in 0..60 {
        let reservation = share.acquire(&mut nothing(&share), KEY, now);
        now = now.max(clock::monotonic()); // it may have waited
        for _ in 0..200 {
            now = now.saturating_add_ns(100_000);
            other.heartbeat(now);
            share.heartbeat(now);
        }
        share.completed(
            reservation,
            Some(Timing {
                between: GpuNs::new(20 * MS),
                stood: Stood::Behind,
                ended_at: now,
                part: None,
            }),
            now,
        );
        now = now.saturating_add_ns(20 * MS);
        other.heartbeat(now);
    }
    let price = share.devices[0].prices().price(KEY).unwrap().get();
    assert!((9_500_000..=10_500_000).contains(&price), "{price}");
}

#[test]
fn a_gathering_container_loses_nothing_of_its_share() {
    for thousandths in (1_000..=100_000).step_by(500) {
        let gathered_ns = gather_ns(Percent::from_thousandths(thousandths).unwrap());
        let rest_ns = BURST.get() * 100_000 / u64::from(thousandths);
        assert!(
            gathered_ns <= rest_ns * 2 / 3,
            "{thousandths}: {gathered_ns} of {rest_ns}"
        );
    }
}

#[test]
fn who_may_use_nearly_all_of_a_gpu_hardly_gathers() {
    assert!(gather_ns(percent("90").unwrap()) < 250_000);
    assert_eq!(gather_ns(Percent::ALL), 0);
}

/// At 1 % there are ten seconds to wait: they end because the cap is raised meanwhile.
#[test]
fn who_waits_does_something_else_meanwhile() {
    let container = container(percent("1"));
    let Container { share, dir, .. } = &container;
    let begin = clock::monotonic();
    let reservation = share.acquire(&mut nothing(share), KEY, begin);
    let timing = Timing {
        between: GpuNs::new(100 * MS),
        stood: Stood::Behind,
        ended_at: begin,
        part: None,
    };
    share.completed(reservation, Some(timing), begin);
    let looks = std::cell::Cell::new(0);
    let meanwhile = |now: MonotonicNs| {
        looks.set(looks.get() + 1);
        if looks.get() == 3 {
            let raised = Change::parse(Wanted {
                sm_max: Some("100"),
                ..Wanted::default()
            })
            .unwrap();
            control::change(dir.path(), &"a".parse().unwrap(), &raised, now).unwrap();
        }
        assert!(looks.get() < 100, "nothing has changed");
        now.saturating_add_ns(MS)
    };
    let reservation = share.acquire_beside(&mut nothing(share), KEY, begin, meanwhile);
    share.cancel(reservation);
    assert!(looks.get() >= 3);
}

/// Its host was put off between recording an event and launching, and the device came to neither: what is left of the time says nothing.
#[test]
fn a_first_timing_of_nearly_nothing_lets_no_flood_go() {
    let Container {
        share,
        dir: _dir,
        ledger: _ledger,
    } = container(percent("30"));
    let now = clock::monotonic();
    let first = share.acquire(&mut nothing(&share), KEY, now);
    let timing = Timing {
        stood: Stood::Alone { lead_ns: 2 * MS },
        ..took(2 * MS, now)
    };
    share.completed(first, Some(timing), now);
    let admit = || granted(&share, now);
    let at_once: Vec<_> = std::iter::from_fn(admit).take(100).collect();
    assert_eq!(at_once.len(), 1);
}
