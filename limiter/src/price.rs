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
//!
//! Launches of one process that run side by side occupy the GPU together once: each is charged its part of that
//! ([`Spans`](crate::overlap::Spans)). What counts is what ran, not what was launched: a launch that waits for another stream takes no part.

mod draw;
mod history;

use std::sync::{Mutex, PoisonError};

use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::units::{GpuNs, MonotonicNs};
pub use draw::Draw;
use draw::xorshift;
pub use history::Measured;
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
/// After a group of timings on several streams the pause is so many times as long.
const GROUP_PAUSES: u64 = 4;
/// A process that has changed its stream so lately uses several.
const SEVERAL_NS: u64 = 50_000_000;
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
    /// How many groups of timings there were.
    groups: AtomicU64,
    /// The stream of the last launch that was looked at, …
    stream: AtomicU64,
    /// … and when it was last another one's than before.
    stream_changed_ns: AtomicU64,
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
    is_sure: AtomicBool,
    /// There was a timing without other tenants, ever.
    was_alone: AtomicBool,
}

/// Who asks for a timing without other tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseFor {
    /// A kernel of which there is none.
    TheFirst,
    /// One of which the last will not count much longer, or says too little.
    Another,
}

impl Entry {
    fn new() -> Self {
        Self {
            key: AtomicU64::new(0),
            price_ns: AtomicU64::new(0),
            lease_wanted_ns: AtomicU64::new(u64::MAX),
            timings: AtomicU32::new(0),
            is_sure: AtomicBool::new(false),
            was_alone: AtomicBool::new(false),
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
            groups: AtomicU64::new(0),
            stream: AtomicU64::new(0),
            stream_changed_ns: AtomicU64::new(0),
            random: AtomicU64::new(seed | 1),
        }
    }

    /// What a launch of `key` occupies the GPU for; `None`: never measured.
    pub fn price(&self, key: KernelKey) -> Option<GpuNs> {
        let price = self.find(stored(key))?.price_ns.load(Ordering::Relaxed);
        (price != 0).then(|| GpuNs::new(price))
    }

    /// Whether the price of `key` is more than a guess by its first timings beside others.
    pub fn is_sure(&self, key: KernelKey) -> bool {
        self.find(stored(key))
            .is_some_and(|entry| entry.is_sure.load(Ordering::Relaxed))
    }

    fn find(&self, key: u64) -> Option<&Entry> {
        self.places(key)
            .filter_map(|at| self.entries.get(at))
            .find(|entry| entry.key.load(Ordering::Acquire) == key)
    }

    /// Whether `key` needs a timing without other tenants.
    pub fn wants_lease(&self, key: KernelKey, now: MonotonicNs) -> Option<LeaseFor> {
        let (_, entry) = self.place_of(key)?;
        let is_wanted = now.get() >= entry.lease_wanted_ns.load(Ordering::Relaxed);
        is_wanted.then(|| match entry.was_alone.load(Ordering::Relaxed) {
            true => LeaseFor::Another,
            false => LeaseFor::TheFirst,
        })
    }

    /// A lease was taken for `key`: even if it was in vain, the next one is for later.
    pub fn leased(&self, key: KernelKey, now: MonotonicNs) {
        self.change(key, now, |history| history.leased(now));
    }

    /// What to charge for a kernel that was never measured: the average of late.
    pub fn typical(&self) -> GpuNs {
        GpuNs::new(self.typical_ns.load(Ordering::Relaxed))
    }

    /// A draw for the launches of one stream.
    pub fn draw(&self) -> Draw {
        Draw::new(self.random(), self.groups())
    }

    /// How many groups of timings there were.
    #[inline]
    pub(crate) fn groups(&self) -> u64 {
        self.groups.load(Ordering::Relaxed)
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
        let is_one_of_several = self.is_one_of_several(draw.stream(), now);
        // A few too many when threads race here: no harm.
        if entry.timings.load(Ordering::Relaxed) < TIMED_FIRST {
            entry.timings.fetch_add(1, Ordering::Relaxed);
            draw.step_by(!is_one_of_several);
            return true;
        }
        if draw.step_in(self.groups()) {
            return true;
        }
        let due = self.next_timing_ns.load(Ordering::Relaxed);
        let pauses = if is_one_of_several { GROUP_PAUSES } else { 1 };
        let is_timed = draw.step(now.get() >= due) && self.take_timing(due, pauses, now);
        if is_timed && is_one_of_several {
            draw.begin(self.groups.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
        }
        is_timed
    }

    /// Whether the process launches on several streams of late, of which this is one.
    fn is_one_of_several(&self, stream: u64, now: MonotonicNs) -> bool {
        if self.stream.load(Ordering::Relaxed) != stream {
            self.stream_changed_ns.store(
                match self.stream.swap(stream, Ordering::Relaxed) {
                    0 => 0,
                    _ => now.get(),
                },
                Ordering::Relaxed,
            );
        }
        self.uses_several(now)
    }

    /// Whether the process launches on several streams of late.
    pub(crate) fn uses_several(&self, now: MonotonicNs) -> bool {
        let changed = MonotonicNs::new(self.stream_changed_ns.load(Ordering::Relaxed));
        changed.get() != 0 && now.saturating_ns_since(changed) < SEVERAL_NS
    }

    /// Whether the timing that is due is this launch's; the next one is due so many pauses later.
    fn take_timing(&self, due: u64, pauses: u64, now: MonotonicNs) -> bool {
        let width = TIMING_PAUSE_NS.end.saturating_sub(TIMING_PAUSE_NS.start);
        let pause = TIMING_PAUSE_NS
            .start
            .saturating_add(self.random().checked_rem(width).unwrap_or(0))
            .saturating_mul(pauses);
        let next = now.get().saturating_add(pause);
        now.get() >= due
            && self
                .next_timing_ns
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// A launch of `key` was measured.
    pub fn observe(&self, key: KernelKey, measured: Measured, now: MonotonicNs) {
        let price = self.change(key, now, |history| history.add(measured, now));
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
        entry
            .is_sure
            .store(history.is_sure(self.slice), Ordering::Relaxed);
        entry
            .was_alone
            .store(history.was_alone(), Ordering::Relaxed);
        let lease_wanted = history.lease_wanted(self.slice, self.uses_several(now));
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
mod tests;
