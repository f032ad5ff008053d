//! What is known of one kernel, and what it costs by that.

use crate::units::{GpuNs, MonotonicNs};

/// Charged for a kernel that was never measured when nothing else was either.
pub(super) const FIRST_PRICE: GpuNs = GpuNs::new(100_000);
/// A measurement without other tenants counts for so long.
pub(super) const SOLO_FRESH_NS: u64 = 8_000_000_000;
/// Samples kept of a kernel.
pub(super) const SAMPLES: usize = 16;
/// Samples kept of those without other tenants.
const SOLO_SAMPLES: usize = 16;
/// Of a short kernel there are better ones than fewer of those.
const SOLO_SAMPLES_MIN: u64 = 4;
/// Launches kept of which it is known what ran beside them.
const PARTS: usize = 16;
/// Fewer say nothing: each then counts as one that ran by itself.
const PARTS_MIN: usize = 4;
/// Where nothing clean is known of launches on several streams, the next lease is asked for so soon after the last. Of others, too, after the
/// first that brought no timing; after the next ones later and later.
const UNCLEAR_PAUSE_NS: u64 = 500_000_000;
/// After so many timings a kernel's price is no guess, …
const SURE_SAMPLES: u64 = 3;
/// … and after one of a kernel that takes so many slices.
const SURE_SLICES: u64 = 5;
/// Virtual times are averaged over about as many samples.
const VIRTUAL_MEMORY: u64 = 256;

/// What was measured of one launch.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Between its events.
    pub elapsed: GpuNs,
    /// This process's part of that, when the time is divided among the tenants that were busy.
    pub own: GpuNs,
    /// What of that is its own where others of its process ran beside it; `None`: not known.
    pub part: Option<GpuNs>,
}

/// What is known of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct History {
    elapsed: Latest<SAMPLES>,
    virtual_mean_ns: u64,
    solo: Latest<SOLO_SAMPLES>,
    /// Of those of which it is known, what was their own beside others of their process.
    solo_parts: Latest<SOLO_SAMPLES>,
    solo_at: MonotonicNs,
    leased_at: MonotonicNs,
    /// Leases since the last timing without other tenants.
    vain_leases: u32,
    parts: Parts,
}

/// The latest samples, in ns.
#[derive(Clone, Copy, Debug)]
struct Latest<const KEPT: usize> {
    samples_ns: [u64; KEPT],
    count: u64,
}

impl<const KEPT: usize> Latest<KEPT> {
    const EMPTY: Self = Self {
        samples_ns: [0; KEPT],
        count: 0,
    };

    fn add(&mut self, sample: GpuNs) {
        let at = usize::try_from(self.count).unwrap_or(0).checked_rem(KEPT);
        if let Some(place) = at.and_then(|at| self.samples_ns.get_mut(at)) {
            *place = sample.get();
        }
        self.count = self.count.saturating_add(1);
    }

    /// What is kept, in order of size. For a copy: which sample is the oldest is forgotten.
    fn sorted(&mut self) -> &[u64] {
        let kept = usize::try_from(self.count).unwrap_or(KEPT).min(KEPT);
        let sorted = self.samples_ns.get_mut(..kept).unwrap_or_default();
        sorted.sort_unstable();
        sorted
    }
}

/// The latest launches of which it is known what ran beside them.
#[derive(Clone, Copy, Debug)]
struct Parts {
    elapsed: Latest<PARTS>,
    parts: Latest<PARTS>,
}

impl Parts {
    const EMPTY: Self = Self {
        elapsed: Latest::EMPTY,
        parts: Latest::EMPTY,
    };

    fn add(&mut self, elapsed: GpuNs, part: GpuNs) {
        self.elapsed.add(elapsed);
        self.parts.add(part);
    }

    /// A launch's part of its time; `None`: it runs by itself, but for a twentieth. What is foreign in a timing is divided, too, and is in
    /// this mean where more than a quarter of the timings hold some: then it is too large.
    fn mean(mut self) -> Option<GpuNs> {
        let (whole, parts) = (mean(self.elapsed.sorted())?, self.parts.sorted());
        let is_beside = mean(parts)?.saturating_mul(20) < whole.saturating_mul(19);
        let known = (parts.len() >= PARTS_MIN && is_beside).then_some(parts)?;
        middle_mean(known).map(GpuNs::new)
    }
}

impl History {
    pub(super) const EMPTY: Self = Self {
        elapsed: Latest::EMPTY,
        virtual_mean_ns: 0,
        solo: Latest::EMPTY,
        solo_parts: Latest::EMPTY,
        solo_at: MonotonicNs::new(0),
        leased_at: MonotonicNs::new(0),
        vain_leases: 0,
        parts: Parts::EMPTY,
    };

    /// A launch was measured: see [`observe`](super::PriceTable::observe).
    pub(super) fn add(&mut self, measured: Measured, now: MonotonicNs) {
        let Measured { elapsed, own, part } = measured;
        self.elapsed.add(elapsed);
        if let Some(part) = part {
            self.parts.add(elapsed, part);
        }
        self.virtual_mean_ns = moved_mean(
            self.virtual_mean_ns,
            own.get(),
            self.elapsed.count.min(VIRTUAL_MEMORY),
        );
        // Nobody else was busy for more than 1.5 % of the time.
        if own.get().saturating_mul(1_000) >= elapsed.get().saturating_mul(985) {
            if !self.is_solo_fresh(now) {
                // A program that has no limits, and is not seen, may have been there then.
                self.solo = Latest::EMPTY;
                self.solo_parts = Latest::EMPTY;
            }
            self.solo.add(elapsed);
            if let Some(part) = part {
                self.solo_parts.add(part);
            }
            self.solo_at = now;
            self.vain_leases = 0;
        }
    }

    /// A lease was taken: see [`leased`](super::PriceTable::leased).
    pub(super) fn leased(&mut self, now: MonotonicNs) {
        self.leased_at = now;
        self.vain_leases = self.vain_leases.saturating_add(1);
    }

    /// Whether there was a timing without other tenants, ever.
    pub(super) fn was_alone(&self) -> bool {
        self.solo.count > 0
    }

    fn is_solo_fresh(&self, now: MonotonicNs) -> bool {
        now.saturating_ns_since(self.solo_at) < SOLO_FRESH_NS
    }

    /// Whether enough is known to launch several at once. The first timings beside others may be off by all that these have of the GPU meanwhile; not
    /// those of kernels so long that the others' part of that time is known well enough.
    pub(super) fn is_sure(&self, slice: GpuNs) -> bool {
        self.elapsed.count >= SURE_SAMPLES
            || self.solo.count > 0
            || self.virtual_mean_ns >= slice.get().saturating_mul(SURE_SLICES)
    }

    /// What a launch occupies the GPU for: what it takes, or its part of that where others of its process run beside it.
    pub(super) fn price(&self, slice: GpuNs, now: MonotonicNs) -> GpuNs {
        let duration = self.duration(slice, now);
        let Some(part) = self.parts.mean() else {
            return duration;
        };
        self.solo_part(now).unwrap_or(part).min(duration)
    }

    /// A launch's part of its time, by timings without other tenants: all of them count, the longest too. `None`: there are none, or it
    /// has run beside fewer others since.
    fn solo_part(&self, now: MonotonicNs) -> Option<GpuNs> {
        let (mut solo, mut parts) = (self.solo_parts, self.parts.parts);
        let own = mean(solo.sorted())?;
        let is_known = self.is_solo_fresh(now) && solo.count >= SOLO_SAMPLES_MIN;
        let is_past = is_far_above(lower_quartile(parts.sorted())?, own);
        (is_known && !is_past).then_some(GpuNs::new(own))
    }

    /// What a launch takes from its beginning to its end, without what others have of the GPU meanwhile.
    fn duration(&self, slice: GpuNs, now: MonotonicNs) -> GpuNs {
        let (mut elapsed, mut solo) = (self.elapsed, self.solo);
        let elapsed = elapsed.sorted();
        let Some(quartile) = lower_quartile(elapsed) else {
            return FIRST_PRICE;
        };
        let is_short = is_short(quartile, slice);
        let is_known = self.is_solo_fresh(now) && (!is_short || solo.count >= SOLO_SAMPLES_MIN);
        if is_known
            && let Some(own) = middle_mean(solo.sorted())
            && !(is_short && is_far_above(own, quartile))
        {
            return GpuNs::new(own);
        }
        let own = is_short.then(|| mean_near(elapsed, quartile)).flatten();
        GpuNs::new(own.unwrap_or(self.virtual_mean_ns))
    }

    /// When a timing without other tenants is needed: while the last one still counts. A kernel of less than half a slice is
    /// seldom cut by the end of one, and needs none.
    /// Of a process that uses `several` streams one is needed, too, where launches run beside others, or most timings hold something foreign:
    /// they then cost what nobody can tell.
    pub(super) fn lease_wanted(&self, slice: GpuNs, several: bool) -> MonotonicNs {
        let mut elapsed = self.elapsed;
        let elapsed = elapsed.sorted();
        let Some(quartile) = lower_quartile(elapsed) else {
            return MonotonicNs::new(u64::MAX);
        };
        let last = if quartile >= slice.get() / 2 {
            if let Some(doublings) = self.vain_leases.checked_sub(1)
                && !self.was_alone()
            {
                let pause_ns = UNCLEAR_PAUSE_NS.saturating_mul(1 << doublings.min(3));
                return self.leased_at.saturating_add_ns(pause_ns);
            }
            self.solo_at.max(self.leased_at)
        } else if several && (is_scattered(elapsed, quartile) || self.parts.mean().is_some()) {
            let is_vain = self.solo_parts.count < SOLO_SAMPLES_MIN;
            return self.leased_at.saturating_add_ns(if is_vain {
                UNCLEAR_PAUSE_NS
            } else {
                SOLO_FRESH_NS / 2
            });
        } else {
            return MonotonicNs::new(u64::MAX);
        };
        last.saturating_add_ns(self.lease_pause_ns(quartile, slice))
    }

    /// How long after its last timing without other tenants a kernel of that length is to have the next. A lease for a long one is for one launch, so
    /// that nobody waits long for it: there are twice as many, and more until a few timings are known.
    fn lease_pause_ns(&self, elapsed_ns: u64, slice: GpuNs) -> u64 {
        let is_long = elapsed_ns >= slice.get().saturating_mul(SURE_SLICES);
        match is_long {
            true if self.solo.count < SOLO_SAMPLES_MIN => SOLO_FRESH_NS / 8,
            true => SOLO_FRESH_NS / 4,
            false => SOLO_FRESH_NS / 2,
        }
    }
}

fn lower_quartile(sorted: &[u64]) -> Option<u64> {
    sorted.get(sorted.len() / 4).copied()
}

/// Whether most samples fit into one time slice.
fn is_short(quartile: u64, slice: GpuNs) -> bool {
    quartile.saturating_mul(10) < slice.get().saturating_mul(7)
}

/// Whether timings that hold nothing foreign, as far as is known, hold something: of somebody whom nobody knows of, or of one who had gone
/// when its work had not. A kernel's own scatter is less.
fn is_far_above(solo: u64, quartile: u64) -> bool {
    solo > quartile.saturating_add(quartile / 2)
}

/// Whether some sample is far below most of them: these hold something foreign then.
fn is_scattered(sorted: &[u64], quartile: u64) -> bool {
    let least = sorted.first().copied().unwrap_or(0);
    sorted.len() >= SAMPLES && is_far_above(quartile, least)
}

/// Mean of the samples that hold nothing foreign: those less than a sixth above the quartile.
fn mean_near(sorted: &[u64], quartile: u64) -> Option<u64> {
    let limit = quartile.saturating_add(quartile / 6);
    mean(sorted.get(..sorted.partition_point(|sample| *sample <= limit))?)
}

/// Mean of the middle half; of two, the lower: what disturbs a timing adds to it.
fn middle_mean(sorted: &[u64]) -> Option<u64> {
    let above = sorted.len().saturating_add(2) / 4;
    mean(sorted.get(sorted.len() / 4..sorted.len().saturating_sub(above))?)
}

fn mean(samples: &[u64]) -> Option<u64> {
    let sum = samples
        .iter()
        .fold(0_u64, |sum, sample| sum.saturating_add(*sample));
    sum.checked_div(u64::try_from(samples.len()).ok()?)
}

/// `mean`, moved towards `value` by a `weight`-th of the distance.
pub(super) fn moved_mean(mean: u64, value: u64, weight: u64) -> u64 {
    let step = |distance: u64| distance.checked_div(weight).unwrap_or(distance);
    if value >= mean {
        mean.saturating_add(step(value.saturating_sub(mean)))
    } else {
        mean.saturating_sub(step(mean.saturating_sub(value)))
    }
}
