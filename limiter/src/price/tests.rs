use super::history::{SAMPLES, SOLO_FRESH_NS};
use super::*;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const KEY: KernelKey = KernelKey(42);

fn observe(table: &PriceTable, key: KernelKey, elapsed: GpuNs, own: GpuNs, now: MonotonicNs) {
    let part = Some(elapsed);
    table.observe(key, Measured { elapsed, own, part }, now);
}

/// One of `tenants` that all have work without end, on a GPU that gives each a slice in turn.
struct RoundRobin {
    tenants: u64,
    /// What this tenant has had of the GPU.
    own_ns: u64,
    random: u64,
}

impl RoundRobin {
    fn wall_at(&self, own_ns: u64) -> u64 {
        own_ns / SLICE.get() * SLICE.get() * self.tenants + own_ns % SLICE.get()
    }

    fn now(&self) -> MonotonicNs {
        MonotonicNs::new(self.wall_at(self.own_ns))
    }

    /// Run a kernel; returns the time between its events.
    fn run(&mut self, mean_ns: u64) -> GpuNs {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let jitter = mean_ns * (self.random >> 33 & 1023) / 1023 / 10; // ± 5 %
        let duration = mean_ns - mean_ns / 20 + jitter;
        let begin = self.wall_at(self.own_ns);
        self.own_ns += duration;
        GpuNs::new(self.wall_at(self.own_ns) - begin)
    }
}

/// What launches of one kernel were charged on average, over what they took.
fn charged_over_taken(mean_ns: u64, tenants: u64, seed: u64) -> f64 {
    let table = PriceTable::new(64, SLICE, seed);
    let mut gpu = RoundRobin {
        tenants,
        own_ns: 0,
        random: seed,
    };
    let mut draw = table.draw();
    let (mut charged, mut launches) = (0, 0_u64);
    while gpu.own_ns < 10_000 * MS {
        let now = gpu.now();
        let is_timed = table.should_time(KEY, &mut draw, now);
        let elapsed = gpu.run(mean_ns);
        if is_timed {
            observe(
                &table,
                KEY,
                elapsed,
                GpuNs::new(elapsed.get() / tenants),
                gpu.now(),
            );
        }
        if gpu.own_ns > 1_000 * MS {
            charged += table.price(KEY).unwrap().get();
            launches += 1;
        }
    }
    charged as f64 / launches as f64 / mean_ns as f64
}

#[test]
fn a_price_is_the_kernels_own_time_under_contention() {
    for tenants in [1, 2, 3] {
        for mean_ns in [
            20 * US,
            100 * US,
            500 * US,
            1_250 * US,
            1_380 * US,
            1_500 * US,
            1_900 * US,
            2_100 * US,
            2_500 * US,
            3_300 * US,
            5_700 * US,
            10 * MS,
            50 * MS,
        ] {
            let worst = [1, 2, 3].map(|seed| charged_over_taken(mean_ns, tenants, seed) - 1.0);
            let worst = worst
                .into_iter()
                .max_by(|a, b| a.abs().total_cmp(&b.abs()))
                .unwrap();
            assert!(
                worst.abs() < 0.04,
                "{tenants} tenants, {mean_ns} ns: {:+.1} %",
                100.0 * worst
            );
        }
    }
}

#[test]
fn a_price_is_sure_by_three_timings_or_one_alone_or_one_of_a_long_kernel() {
    let now = MonotonicNs::new(MS);
    for (elapsed_ms, own_ms, timings) in [(4, 2, 3), (2, 2, 1), (20, 10, 1)] {
        let table = PriceTable::new(64, SLICE, 1);
        for timing in 0..timings {
            assert!(!table.is_sure(KEY), "{own_ms} ms, {timing} timings");
            let [elapsed, own] = [elapsed_ms, own_ms].map(|ms| GpuNs::new(ms * MS));
            observe(&table, KEY, elapsed, own, now);
        }
        assert!(table.is_sure(KEY), "{own_ms} ms, {timings} timings");
    }
}

#[test]
fn the_first_launches_of_every_kernel_are_timed() {
    let table = PriceTable::new(64, SLICE, 1);
    let now = MonotonicNs::new(MS);
    table.next_timing_ns.store(u64::MAX, Ordering::Relaxed);
    for key in [KernelKey(0), KernelKey(7)] {
        let mut draw = table.draw();
        let should_time = |_: &u32| table.should_time(key, &mut draw, now);
        let timed = (0..100).filter(should_time).count();
        assert_eq!(timed, 8);
    }
}

#[test]
fn later_a_launch_in_every_few_milliseconds_is_timed() {
    let table = PriceTable::new(64, SLICE, 1);
    let mut draw = table.draw();
    let timed = (0..1_000_000)
        .filter(|launch| table.should_time(KEY, &mut draw, MonotonicNs::new(launch * 10 * US)))
        .count();
    assert!((1_700..=2_300).contains(&timed), "{timed} in 10 s");
}

#[test]
fn of_launches_on_credit_one_is_watched_and_the_next_is_timed() {
    let table = PriceTable::new(64, SLICE, 1);
    let (mut draw, mut now) = (table.draw(), MonotonicNs::new(MS));
    while table.should_time(KEY, &mut draw, now) {}
    let mut timed = 0;
    for _ in 0..1_000 {
        now = now.saturating_add_ns(10 * MS);
        if table.should_time(KEY, &mut draw, now) {
            continue; // it did not go on credit
        }
        let gone = (0..).take_while(|_| draw.passes(table.groups())).count();
        assert!(gone < 200, "a timing is due");
        assert!(!table.should_time(KEY, &mut draw, now), "watched");
        assert!(!draw.passes(table.groups()));
        timed += usize::from(table.should_time(KEY, &mut draw, now));
        assert!(
            draw.passes(table.groups()) && draw.passes(table.groups()),
            "none is due for a while"
        );
    }
    assert!(timed > 500, "{timed}");
}

#[test]
fn timings_that_are_far_above_the_others_are_not_believed_though_nobody_was_seen() {
    let table = PriceTable::new(64, SLICE, 1);
    let now = MonotonicNs::new(MS);
    for round in 0..16 {
        // Every other slice is that of a program without limits.
        let elapsed = GpuNs::new(if round % 2 == 0 { 3 * MS } else { MS });
        observe(&table, KEY, elapsed, elapsed, now);
    }
    assert_eq!(table.price(KEY), Some(GpuNs::new(MS)));
}

#[test]
fn a_short_kernel_does_not_cost_for_seconds_what_its_first_timing_said() {
    let table = PriceTable::new(64, SLICE, 1);
    let now = MonotonicNs::new(MS);
    observe(&table, KEY, GpuNs::new(92 * US), GpuNs::new(92 * US), now);
    for _ in 0..15 {
        observe(&table, KEY, GpuNs::new(100 * US), GpuNs::new(50 * US), now);
    }
    let price = table.price(KEY).unwrap();
    assert!(price > GpuNs::new(99 * US), "{price:?}");
}

#[test]
fn an_unmeasured_kernel_is_charged_what_is_typical() {
    let table = PriceTable::new(64, SLICE, 1);
    assert_eq!((table.price(KEY), table.typical()), (None, FIRST_PRICE));
    for key in 100..200 {
        observe(
            &table,
            KernelKey(key),
            GpuNs::new(5 * MS),
            GpuNs::new(5 * MS),
            MonotonicNs::new(0),
        );
    }
    assert_eq!(table.price(KEY), None);
    assert!((4 * MS..=5 * MS).contains(&table.typical().get()));
}

#[test]
fn a_kernel_that_changes_is_learned_anew() {
    let table = PriceTable::new(64, SLICE, 1);
    for duration in [100 * US, 400 * US, 50 * US] {
        for _ in 0..SAMPLES {
            observe(
                &table,
                KEY,
                GpuNs::new(duration),
                GpuNs::new(duration),
                MonotonicNs::new(0),
            );
        }
        assert_eq!(table.price(KEY), Some(GpuNs::new(duration)));
    }
}

#[test]
fn a_first_launch_that_took_longer_is_forgotten_with_the_second() {
    let table = PriceTable::new(64, SLICE, 1);
    let (first, usual) = (GpuNs::new(10 * MS), GpuNs::new(6 * MS));
    for elapsed in [first, usual] {
        observe(&table, KEY, elapsed, elapsed, MonotonicNs::new(0));
    }
    assert_eq!(table.price(KEY), Some(usual));
}

#[test]
fn a_long_kernel_costs_what_it_took_alone_while_that_is_fresh() {
    let table = PriceTable::new(64, SLICE, 1);
    let (alone, shared) = (GpuNs::new(6 * MS), GpuNs::new(14 * MS));
    observe(&table, KEY, alone, alone, MonotonicNs::new(0));
    for (now_ns, wanted) in [
        (SOLO_FRESH_NS - 1, alone),
        (SOLO_FRESH_NS, GpuNs::new(20 * MS / 3)),
    ] {
        observe(
            &table,
            KEY,
            shared,
            GpuNs::new(7 * MS),
            MonotonicNs::new(now_ns),
        );
        let price = table.price(KEY).unwrap();
        assert!(
            price.get().abs_diff(wanted.get()) < MS / 100,
            "{price:?} after {now_ns} ns"
        );
    }
}

#[test]
fn a_timing_beside_a_program_that_nobody_saw_counts_no_longer_than_it_is_fresh() {
    let table = PriceTable::new(16, SLICE, 1);
    let alone = |took_ns, at| {
        let took = GpuNs::new(took_ns);
        observe(&table, KEY, took, took, MonotonicNs::new(at));
        table.price(KEY).unwrap().get()
    };
    for at in 0..4 {
        alone(17 * MS, at);
    }
    assert_eq!(
        alone(6 * MS, SOLO_FRESH_NS),
        17 * MS,
        "one of five, in time"
    );
    let later = 3 * SOLO_FRESH_NS;
    assert_eq!(alone(6 * MS, later), 6 * MS);
    assert_eq!(
        alone(7 * MS, later + SOLO_FRESH_NS - 1),
        6 * MS,
        "both are fresh"
    );
}

#[test]
fn a_long_kernel_wants_the_gpu_to_itself_while_its_last_clean_timing_still_counts() {
    let table = PriceTable::new(64, SLICE, 1);
    let [short, long] = [KernelKey(1), KernelKey(2)];
    let observe = |key, elapsed_ns: u64, own_ns: u64, now_ns: u64| {
        let (elapsed, own) = (GpuNs::new(elapsed_ns), GpuNs::new(own_ns));
        observe(&table, key, elapsed, own, MonotonicNs::new(now_ns));
    };
    let wanted = |key, now_ns| table.wants_lease(key, MonotonicNs::new(now_ns));
    let wants = |key, now_ns| wanted(key, now_ns).is_some();
    let start = 2 * SOLO_FRESH_NS;
    assert!(!wants(long, start), "nothing is known of it");
    observe(short, MS - US, MS / 2, start);
    observe(long, 10 * MS, 5 * MS, start);
    assert!(!wants(short, start));
    assert_eq!(wanted(long, start), Some(LeaseFor::TheFirst));
    observe(long, 5 * MS, 5 * MS, start + 3);
    let half = start + 3 + SOLO_FRESH_NS / 2;
    assert!(!wants(long, half - 1));
    assert_eq!(wanted(long, half), Some(LeaseFor::Another));
    table.leased(long, MonotonicNs::new(half));
    observe(long, 10 * MS, 5 * MS, half + 1);
    let later = half + SOLO_FRESH_NS / 2;
    assert!(!wants(long, later - 1) && wants(long, later), "in vain");
}

#[test]
fn a_kernel_of_10_ms_is_timed_alone_more_often_and_at_first_more_often_still() {
    let pauses = |own_ns: u64, timings: usize| {
        let table = PriceTable::new(64, SLICE, 1);
        let mut now_ns = 2 * SOLO_FRESH_NS;
        for _ in 0..timings {
            let own = GpuNs::new(own_ns);
            observe(&table, KEY, own, own, MonotonicNs::new(now_ns));
            let wants = |after_ns: u64| {
                let then = MonotonicNs::new(now_ns + after_ns);
                table.wants_lease(KEY, then).is_some()
            };
            let parts = [8, 4, 2].map(|part| SOLO_FRESH_NS / part);
            let pause_ns = parts.into_iter().find(|ns| wants(*ns)).unwrap();
            assert!(!wants(pause_ns - 1));
            now_ns += pause_ns;
        }
        now_ns - 2 * SOLO_FRESH_NS
    };
    let s = SOLO_FRESH_NS / 8;
    assert_eq!(pauses(10 * MS, 3), 3 * s);
    assert_eq!(pauses(10 * MS, 8), (3 + 5 * 2) * s);
    assert_eq!(pauses(9 * MS, 8), 8 * 4 * s);
}

#[test]
fn a_lease_that_brought_no_first_timing_is_asked_for_again_later_and_later() {
    let (table, mut now_ns) = (PriceTable::new(64, SLICE, 1), 2 * SOLO_FRESH_NS);
    let observe = |now_ns| {
        let now = MonotonicNs::new(now_ns);
        observe(&table, KEY, GpuNs::new(10 * MS), GpuNs::new(5 * MS), now);
    };
    observe(now_ns);
    for pause_ms in [500, 1_000, 2_000, 4_000, 4_000] {
        let wants = |now_ns| table.wants_lease(KEY, MonotonicNs::new(now_ns)).is_some();
        assert!(wants(now_ns));
        table.leased(KEY, MonotonicNs::new(now_ns));
        observe(now_ns + 1);
        now_ns += pause_ms * MS;
        assert!(!wants(now_ns - 1), "{pause_ms}");
    }
}

#[test]
fn a_full_table_leaves_kernels_unmeasured_and_the_others_alone() {
    let table = PriceTable::new(16, SLICE, 1);
    for key in 1..=100 {
        observe(
            &table,
            KernelKey(key),
            GpuNs::new(key),
            GpuNs::new(key),
            MonotonicNs::new(0),
        );
    }
    let priced: Vec<u64> = (1..=100)
        .filter(|key| table.price(KernelKey(*key)).is_some())
        .collect();
    assert_eq!(priced.len(), 16);
    assert!(
        priced
            .iter()
            .all(|key| table.price(KernelKey(*key)) == Some(GpuNs::new(*key)))
    );
}

#[test]
fn threads_learn_and_read_side_by_side() {
    let table = PriceTable::new(1024, SLICE, 1);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let table = &table;
            scope.spawn(move || {
                for key in (1..500).map(|number| number * 4 + thread % 2) {
                    let duration = GpuNs::new(1_000 + key);
                    observe(
                        table,
                        KernelKey(key),
                        duration,
                        duration,
                        MonotonicNs::new(0),
                    );
                    assert_eq!(table.price(KernelKey(key)), Some(duration));
                }
            });
        }
    });
}

/// `part` of what ran beside a launch was its own.
fn observe_part(table: &PriceTable, elapsed_us: u64, part_us: u64, now: MonotonicNs) {
    let measured = Measured {
        elapsed: GpuNs::new(elapsed_us * US),
        own: GpuNs::new(elapsed_us * US / 2),
        part: Some(GpuNs::new(part_us * US)),
    };
    table.observe(KEY, measured, now);
}

#[test]
fn launches_that_run_beside_each_other_cost_their_parts() {
    let table = PriceTable::new(64, SLICE, 1);
    let now = MonotonicNs::new(MS);
    let price_us = |part_us: u64, times: u64| {
        (0..times).for_each(|_| observe_part(&table, 100, part_us, now));
        table.price(KEY).unwrap().get() / US
    };
    assert_eq!(price_us(25, 3), 100, "a few say nothing");
    assert_eq!(price_us(25, 13), 25);
    assert_eq!(price_us(100, 8), 62, "half of them ran by themselves");
    assert_eq!(price_us(100, 8), 100);
}

#[test]
fn a_foreign_slice_in_a_few_of_the_parts_is_not_charged() {
    let table = PriceTable::new(64, SLICE, 1);
    let now = MonotonicNs::new(MS);
    for round in 0..16 {
        let foreign_us = if round % 5 == 0 { 2_000 } else { 0 };
        observe_part(&table, 100 + foreign_us, 25 + foreign_us / 4, now);
    }
    assert_eq!(table.price(KEY), Some(GpuNs::new(25 * US)));
}

#[test]
fn on_several_streams_three_launches_in_a_row_are_timed_of_which_the_middle_one_sees_the_others() {
    let table = PriceTable::new(64, SLICE, 1);
    let mut streams = [(); 4].map(|()| table.draw());
    let mut now = MonotonicNs::new(MS);
    let mut seen = Vec::new();
    for launch in 0..100_000 {
        now = now.saturating_add_ns(10 * US);
        let draw = &mut streams[launch % 4];
        let is_timed = table.should_time(KEY, draw, now);
        seen.extend(is_timed.then(|| (launch % 4, draw.sees_beside())));
    }
    // The first launches are timed whatever there is.
    let groups = seen[8..].chunks_exact(3 * 4);
    assert!((30..=60).contains(&groups.len()), "{} in 1 s", groups.len());
    for group in groups {
        for stream in 0..4 {
            let of_stream = group.iter().filter(|(of, _)| *of == stream);
            let sees: Vec<bool> = of_stream.map(|(_, sees)| *sees).collect();
            assert_eq!(sees, [false, true, false], "{group:?}");
        }
    }
}

#[test]
fn a_process_with_several_streams_asks_for_the_gpu_to_itself_where_its_launches_run_beside_each_other()
 {
    let wants = |streams: usize, part_us: u64| {
        let table = PriceTable::new(64, SLICE, 1);
        let now = MonotonicNs::new(10_000 * MS);
        for draw in &mut [(); 4].map(|()| table.draw())[..streams] {
            table.should_time(KEY, draw, now);
        }
        (0..16).for_each(|_| observe_part(&table, 100, part_us, now));
        table.wants_lease(KEY, now).is_some()
    };
    assert!(wants(4, 25));
    assert!(!wants(4, 100), "they run one after the other");
    assert!(!wants(1, 25), "what ran beside them was the past");
}

#[test]
fn who_runs_beside_fewer_others_than_when_alone_is_charged_more() {
    let table = PriceTable::new(64, SLICE, 1);
    let now = MonotonicNs::new(MS);
    let elapsed = GpuNs::new(100 * US);
    let alone = Measured {
        elapsed,
        own: elapsed,
        part: Some(GpuNs::new(25 * US)),
    };
    (0..16).for_each(|_| table.observe(KEY, alone, now));
    assert_eq!(table.price(KEY), Some(GpuNs::new(25 * US)));
    (0..16).for_each(|_| observe_part(&table, 100, 50, now));
    assert_eq!(table.price(KEY), Some(GpuNs::new(50 * US)));
}
