//! What a kernel costs: measured durations, cleaned of other tenants' time slices.
//!
//! A pair of timing events around a launch measures the kernel *and* the slices that the GPU gave to other contexts in
//! between. Three ways to its own time, the first that is open (`slice` is the GPU's time slice, about 2 ms):
//! * timings while no other tenant was busy: the mean of the middle half of them, for as long as they are fresh (a first
//!   launch, or one that the host was late with, may take twice the usual);
//! * shorter than 0.7 slices: many samples are clean and contamination only adds, so the mean of those near the lower
//!   quartile;
//! * the time since divided among the busy tenants ("virtual"). One sample is off by up to a slice, and the mean of many by
//!   several percent: so for such kernels a moment without the others is asked for ([`PriceTable::wants_lease`]).

mod draw;
mod history;

use std::sync::{Mutex, PoisonError};

use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::units::{GpuNs, MonotonicNs};
pub use draw::Draw;
use draw::xorshift;
use history::{FIRST_PRICE, History, moved_mean};

/// Identifies a kernel with its launch shape: a hash that the caller makes. 0 and 1 count as the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelKey(pub u64);

/// Time slice of a context where nothing better is known.
pub const SLICE: GpuNs = GpuNs::new(2_000_000);

/// So many launches of every kernel are timed at once, …
const TIMED_FIRST: u32 = 8;
/// … then one in so many nanoseconds, at random.
const TIMING_PAUSE_NS: std::ops::Range<u64> = 2_500_000..7_500_000;
/// Places tried for a key before it is left without one.
const PROBES_MAX: usize = 16;

/// Prices of one GPU's kernels as one process sees them.
///
/// Reading takes no lock. Nothing allocates after creation: a kernel that finds no place stays unmeasured.
#[derive(Debug)]
pub struct PriceTable {
    slice: GpuNs,
    entries: Box<[Entry]>,
    histories: Mutex<Box<[History]>>,
    /// What the last samples cost on average: the price of a kernel not measured yet.
    typical_ns: AtomicU64,
    next_timing_ns: AtomicU64,
    random: AtomicU64,
}

/// What a launch reads.
#[derive(Debug)]
struct Entry {
    /// The key; 0: free.
    key: AtomicU64,
    /// 0: not measured.
    price_ns: AtomicU64,
    /// When to ask for a timing without other tenants; `u64::MAX`: never.
    lease_wanted_ns: AtomicU64,
    timings: AtomicU32,
}

impl Entry {
    fn new() -> Self {
        Self {
            key: AtomicU64::new(0),
            price_ns: AtomicU64::new(0),
            lease_wanted_ns: AtomicU64::new(u64::MAX),
            timings: AtomicU32::new(0),
        }
    }
}

impl PriceTable {
    /// A table with place for about `capacity` kernels, on a GPU with this time slice. The `seed` decides which launches are
    /// timed.
    pub fn new(capacity: usize, slice: GpuNs, seed: u64) -> Self {
        let capacity = capacity.max(PROBES_MAX).next_power_of_two();
        Self {
            slice,
            entries: (0..capacity).map(|_| Entry::new()).collect(),
            histories: Mutex::new(vec![History::EMPTY; capacity].into_boxed_slice()),
            typical_ns: AtomicU64::new(FIRST_PRICE.get()),
            next_timing_ns: AtomicU64::new(0),
            random: AtomicU64::new(seed | 1),
        }
    }

    /// What a launch of `key` occupies the GPU for; `None`: never measured.
    pub fn price(&self, key: KernelKey) -> Option<GpuNs> {
        let price = self.find(stored(key))?.price_ns.load(Ordering::Relaxed);
        (price != 0).then(|| GpuNs::new(price))
    }

    fn find(&self, key: u64) -> Option<&Entry> {
        self.places(key)
            .filter_map(|at| self.entries.get(at))
            .find(|entry| entry.key.load(Ordering::Acquire) == key)
    }

    /// Whether `key` needs a timing without other tenants.
    pub fn wants_lease(&self, key: KernelKey, now: MonotonicNs) -> bool {
        let Some((_, entry)) = self.place_of(key) else {
            return false;
        };
        now.get() >= entry.lease_wanted_ns.load(Ordering::Relaxed)
    }

    /// A lease was taken for `key`: even if it was in vain, the next one is for later.
    pub fn leased(&self, key: KernelKey, now: MonotonicNs) {
        self.change(key, now, |history| history.leased_at = now);
    }

    /// What to charge for a kernel that was never measured: the average of late.
    pub fn typical(&self) -> GpuNs {
        GpuNs::new(self.typical_ns.load(Ordering::Relaxed))
    }

    /// A draw for the launches of one stream.
    pub fn draw(&self) -> Draw {
        Draw::new(self.random())
    }

    /// The price of a kernel whose first launches have been timed; `None`: look closer.
    #[inline]
    pub(crate) fn settled_price(&self, key: KernelKey) -> Option<GpuNs> {
        let entry = self.find(stored(key))?;
        let price = entry.price_ns.load(Ordering::Relaxed);
        let is_settled = price != 0 && entry.timings.load(Ordering::Relaxed) >= TIMED_FIRST;
        is_settled.then(|| GpuNs::new(price))
    }

    /// Whether to put this launch between timing events: the first ones of a kernel, then now and then one of any.
    pub fn should_time(&self, key: KernelKey, draw: &mut Draw, now: MonotonicNs) -> bool {
        let Some((_, entry)) = self.place_of(key) else {
            return false;
        };
        // A few too many when threads race here: no harm.
        if entry.timings.load(Ordering::Relaxed) < TIMED_FIRST {
            entry.timings.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let due = self.next_timing_ns.load(Ordering::Relaxed);
        draw.step(now.get() >= due) && self.take_timing(due, now)
    }

    /// Whether the timing that is due is this launch's; the next one is due later.
    fn take_timing(&self, due: u64, now: MonotonicNs) -> bool {
        let width = TIMING_PAUSE_NS.end.saturating_sub(TIMING_PAUSE_NS.start);
        let pause = TIMING_PAUSE_NS
            .start
            .saturating_add(self.random().checked_rem(width).unwrap_or(0));
        let next = now.get().saturating_add(pause);
        now.get() >= due
            && self
                .next_timing_ns
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// A launch of `key` was measured: `elapsed` between its events, of which `own` is this process's part when the time
    /// is divided among the tenants that were busy.
    pub fn observe(&self, key: KernelKey, elapsed: GpuNs, own: GpuNs, now: MonotonicNs) {
        let price = self.change(key, now, |history| history.add(elapsed, own, now));
        if let Some(price) = price {
            self.typical_ns.store(
                moved_mean(self.typical().get(), price, 16),
                Ordering::Relaxed,
            );
        }
    }

    /// Changes what is known of `key`, and what launches read of it. The price in ns; `None`: there is no place for it.
    fn change(
        &self,
        key: KernelKey,
        now: MonotonicNs,
        change: impl FnOnce(&mut History),
    ) -> Option<u64> {
        let (at, entry) = self.place_of(key)?;
        let mut histories = self
            .histories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let history = histories.get_mut(at)?;
        change(history);
        let price = history.price(self.slice, now).get().max(1);
        entry.price_ns.store(price, Ordering::Relaxed);
        let lease_wanted = history.lease_wanted(self.slice);
        entry
            .lease_wanted_ns
            .store(lease_wanted.get(), Ordering::Relaxed);
        Some(price)
    }

    /// Where a key may stand, best place first.
    fn places(&self, key: u64) -> impl Iterator<Item = usize> + use<> {
        let mask = self.entries.len().saturating_sub(1);
        // Fibonacci hashing: callers' hashes may differ in a few bits only.
        let first = usize::try_from(key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or(0);
        (0..PROBES_MAX).map(move |probe| first.wrapping_add(probe) & mask)
    }

    /// The key's place, taken where it has none.
    fn place_of(&self, key: KernelKey) -> Option<(usize, &Entry)> {
        let key = stored(key);
        self.places(key)
            .filter_map(|at| Some((at, self.entries.get(at)?)))
            .find(|(_, entry)| {
                match entry
                    .key
                    .compare_exchange(0, key, Ordering::AcqRel, Ordering::Acquire)
                {
                    Ok(_) => true,
                    Err(found) => found == key,
                }
            })
    }

    /// Two threads that draw at once may draw the same, which is as good.
    fn random(&self) -> u64 {
        let state = xorshift(self.random.load(Ordering::Relaxed));
        self.random.store(state, Ordering::Relaxed);
        state
    }
}

/// 0 marks a free entry.
fn stored(key: KernelKey) -> u64 {
    if key.0 == 0 { 1 } else { key.0 }
}

#[cfg(test)]
mod tests {
    use super::history::{SAMPLES, SOLO_FRESH_NS};
    use super::*;

    const US: u64 = 1_000;
    const MS: u64 = 1_000_000;
    const KEY: KernelKey = KernelKey(42);

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
                table.observe(KEY, elapsed, GpuNs::new(elapsed.get() / tenants), gpu.now());
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
            let gone = (0..).take_while(|_| draw.passes()).count();
            assert!(gone < 200, "a timing is due");
            assert!(!table.should_time(KEY, &mut draw, now), "watched");
            assert!(!draw.passes());
            timed += usize::from(table.should_time(KEY, &mut draw, now));
            assert!(draw.passes() && draw.passes(), "none is due for a while");
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
            table.observe(KEY, elapsed, elapsed, now);
        }
        assert_eq!(table.price(KEY), Some(GpuNs::new(MS)));
    }

    #[test]
    fn a_short_kernel_does_not_cost_for_seconds_what_its_first_timing_said() {
        let table = PriceTable::new(64, SLICE, 1);
        let now = MonotonicNs::new(MS);
        table.observe(KEY, GpuNs::new(92 * US), GpuNs::new(92 * US), now);
        for _ in 0..15 {
            table.observe(KEY, GpuNs::new(100 * US), GpuNs::new(50 * US), now);
        }
        let price = table.price(KEY).unwrap();
        assert!(price > GpuNs::new(99 * US), "{price:?}");
    }

    #[test]
    fn an_unmeasured_kernel_is_charged_what_is_typical() {
        let table = PriceTable::new(64, SLICE, 1);
        assert_eq!((table.price(KEY), table.typical()), (None, FIRST_PRICE));
        for key in 100..200 {
            table.observe(
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
                table.observe(
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
            table.observe(KEY, elapsed, elapsed, MonotonicNs::new(0));
        }
        assert_eq!(table.price(KEY), Some(usual));
    }

    #[test]
    fn a_long_kernel_costs_what_it_took_alone_while_that_is_fresh() {
        let table = PriceTable::new(64, SLICE, 1);
        let (alone, shared) = (GpuNs::new(6 * MS), GpuNs::new(14 * MS));
        table.observe(KEY, alone, alone, MonotonicNs::new(0));
        for (now_ns, wanted) in [
            (SOLO_FRESH_NS - 1, alone),
            (SOLO_FRESH_NS, GpuNs::new(20 * MS / 3)),
        ] {
            table.observe(KEY, shared, GpuNs::new(7 * MS), MonotonicNs::new(now_ns));
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
            table.observe(KEY, took, took, MonotonicNs::new(at));
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
            table.observe(key, elapsed, own, MonotonicNs::new(now_ns));
        };
        let wants = |key, now_ns| table.wants_lease(key, MonotonicNs::new(now_ns));
        let start = 2 * SOLO_FRESH_NS;
        assert!(!wants(long, start), "nothing is known of it");
        observe(short, MS - US, MS / 2, start);
        observe(long, 10 * MS, 5 * MS, start);
        assert!(!wants(short, start) && wants(long, start));
        table.leased(long, MonotonicNs::new(start));
        observe(long, 10 * MS, 5 * MS, start + 1);
        assert!(!wants(long, start + 2), "it was in vain: later again");
        observe(long, 5 * MS, 5 * MS, start + 3);
        let half = start + 3 + SOLO_FRESH_NS / 2;
        assert!(!wants(long, half - 1) && wants(long, half));
    }

    #[test]
    fn a_full_table_leaves_kernels_unmeasured_and_the_others_alone() {
        let table = PriceTable::new(16, SLICE, 1);
        for key in 1..=100 {
            table.observe(
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
                        table.observe(KernelKey(key), duration, duration, MonotonicNs::new(0));
                        assert_eq!(table.price(KernelKey(key)), Some(duration));
                    }
                });
            }
        });
    }
}
