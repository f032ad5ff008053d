//! One GPU as this process knows it: what its launches cost, what is outstanding, and when the next may go.

use std::sync::{Mutex, OnceLock, PoisonError};

use super::credit::Stamp;
use super::{Obstacle, Reservation};
use crate::board::clock::Readings;
use crate::board::turns::{Wanting, Weight};
use crate::board::{Board, Lease};
use crate::price::{KernelKey, LeaseFor, Measured, PriceTable, SLICE};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::timing::{FairTimings, Timing};
use crate::units::{GpuNs, MonotonicNs};
use crate::window::{Room, Window};

/// What this process knows of a GPU.
#[derive(Debug)]
pub(super) struct Device {
    /// Row of the container's file.
    pub(super) row: usize,
    pub(super) board: Board,
    tables: OnceLock<Tables>,
    seed: u64,
    clock: Mutex<Readings>,
    /// When `clock` was last read.
    ticked_ns: AtomicU64,
    /// Launches admitted and not completed.
    pub(super) outstanding: AtomicU32,
    /// What runs on credit has ended by then, where nothing is outstanding any more; 0: nothing does.
    lingers_until_ns: AtomicU64,
    /// Since when nothing is left; 0: something is, or `rests` has counted it.
    resting_since_ns: AtomicU64,
    /// When another process was last seen to use the GPU, or another container to want it; 0: none was.
    contended_ns: AtomicU64,
    /// How often nothing was left for long enough that credit ceases to count. It begins anywhere, so that credit of one process is none of another's that was forked from it.
    rests: AtomicU64,
    /// Since when there always was one, or one waited for another's lease; 0: neither.
    wanting_since_ns: AtomicU64,
    /// Those of them whose price is not sure: of kernels that were never timed, or too seldom beside others.
    unsure: AtomicU32,
    /// When a launch of unsure price was last admitted or completed.
    progress_ns: AtomicU64,
    /// Since when a launch of unsure price was seen to run; 0: none was.
    unsure_since_ns: AtomicU64,
    /// Timings that this process's lease is still for; of launches beside each other it is for as many to its end.
    lease_timings: AtomicU32,
    pub(super) window: Window,
}

/// What it has learnt of the kernels. Made at the first launch under a share: most processes never have one, and it takes more memory than
/// all else.
#[derive(Debug)]
struct Tables {
    prices: PriceTable,
    fair: FairTimings,
}

/// Kernels that one process's table has place for on one GPU.
const KERNELS_MAX: usize = 2048;
/// Of kernels that were never timed one may be outstanding: it may turn out to be long. Of those that were, but not surely, so many: one that stands
/// behind another can be timed more exactly.
const UNSURE_MAX: u32 = 2;
/// After so long without progress another one is admitted: it may be what the others wait for on the device.
pub(super) const LIVENESS_NS: u64 = 10_000_000;
/// The same where such a launch was seen to run: what runs seldom waits for another one, and may be long.
pub(super) const RUNNING_LIVENESS_NS: u64 = 1_000_000_000;
/// A launch that waits for others of this process to finish is woken by them; should that be missed, it looks again
/// after this.
const LOOK_AGAIN_NS: u64 = 1_000_000;
/// So much of a container's share, in time on the wall, can be made up for when the GPU gave it to others.
const MADE_UP_NS_MAX: u64 = 100_000_000;
/// A process that looks at its launches no more often was stopped, or has no processor.
const STOPPED_NS: u64 = 80_000_000;
/// A lease is for so many timings.
const LEASE_TIMINGS: u32 = 3;
/// Of long kernels, for so many: whoever has the GPU to itself pays for it, and launches wait that long.
const LEASE_TIMINGS_LONG: u32 = 1;
/// Those are longer.
const LONG_PRICE_MIN: GpuNs = GpuNs::new(10_000_000);
/// Where short kernels run on several streams, for so many: a few beside each other on each.
const LEASE_TIMINGS_BESIDE: u32 = 8;
/// Those are shorter.
const BESIDE_PRICE_MAX: GpuNs = GpuNs::new(800_000);
/// How much longer the others' work on the GPU may take to end, before a lease is of use, than it should.
const LEASE_DRAIN_NS: u64 = 5_000_000;
/// How often the holder of a lease looks whether the others' work has ended.
const LEASE_LOOK_NS: u64 = 100_000;
/// How often the others look whether it has ended before its time.
const LEASE_END_LOOK_NS: u64 = 500_000;
/// For so long after its time a process still counts as one that wants the GPU: hosts are late.
pub(super) const LATE_NS: u64 = 1_000_000;
/// For so long after its last launch's end.
const REST_NS: u64 = 100_000;
/// Credit outlives a rest that is shorter, of a process alone: a GPU that runs each kernel before the next is launched rests between any two.
const CREDIT_OUTLIVES_NS: u64 = 1_000_000;
/// It is alone when no other one has used the GPU, and no other container wanted it, for so long. Others would not know of what is launched on credit after a rest.
const ALONE_NS: u64 = 1_000_000_000;
/// The clock of the busy is not read more often.
const TICK_NS: u64 = 50_000;

impl Device {
    pub(super) fn new(row: usize, board: Board, now: MonotonicNs, seed: u64) -> Self {
        let readings = Readings::new(now, board.virtual_ns(now));
        Self {
            row,
            board,
            tables: OnceLock::new(),
            seed,
            clock: Mutex::new(readings),
            ticked_ns: AtomicU64::new(now.get()),
            outstanding: AtomicU32::new(0),
            lingers_until_ns: AtomicU64::new(0),
            resting_since_ns: AtomicU64::new(0),
            contended_ns: AtomicU64::new(0),
            rests: AtomicU64::new(seed),
            wanting_since_ns: AtomicU64::new(0),
            unsure: AtomicU32::new(0),
            progress_ns: AtomicU64::new(0),
            unsure_since_ns: AtomicU64::new(0),
            lease_timings: AtomicU32::new(0),
            window: Window::default(),
        }
    }

    /// What credit that is given now counts under.
    #[inline]
    pub(super) fn stamp(&self) -> Stamp {
        Stamp {
            rests: self.rests.load(Ordering::Relaxed),
            leased_until_ns: self.board.leased_until_ns(),
        }
    }

    #[inline]
    pub(super) fn prices(&self) -> &PriceTable {
        &self.tables().prices
    }

    #[inline]
    fn tables(&self) -> &Tables {
        self.tables.get_or_init(|| Tables {
            prices: PriceTable::new(KERNELS_MAX, SLICE, self.seed),
            fair: FairTimings::default(),
        })
    }

    /// When to ask again for a launch of a kernel of which this is known, but not enough; `None`: it may go.
    pub(super) fn unsure_not_before(
        &self,
        price: Option<GpuNs>,
        now: MonotonicNs,
    ) -> Option<MonotonicNs> {
        let most = price.map_or(1, |_| UNSURE_MAX);
        if self.unsure.load(Ordering::Relaxed) < most {
            return None;
        }
        let runs = self.unsure_since_ns.load(Ordering::Relaxed) != 0;
        let patience_ns = if runs {
            RUNNING_LIVENESS_NS
        } else {
            LIVENESS_NS
        };
        let given_up = MonotonicNs::new(self.progress_ns.load(Ordering::Relaxed))
            .saturating_add_ns(patience_ns);
        (now < given_up).then(|| given_up.min(now.saturating_add_ns(LOOK_AGAIN_NS)))
    }

    /// A launch whose price is not sure was seen to run.
    pub(super) fn unsure_began(&self, now: MonotonicNs) {
        let since = &self.unsure_since_ns;
        if since.load(Ordering::Relaxed) == 0 {
            since.store(now.get(), Ordering::Relaxed);
        }
    }

    /// What a launch whose price is not sure has taken since it was seen to run: it will be charged that at the least. One that still waits
    /// for something on the device has taken nothing.
    pub(super) fn taken_so_far(&self, now: MonotonicNs) -> GpuNs {
        let since_ns = self.unsure_since_ns.load(Ordering::Relaxed);
        if since_ns == 0 || self.unsure.load(Ordering::Relaxed) == 0 {
            return GpuNs::default();
        }
        let since = MonotonicNs::new(since_ns);
        let busy = u64::from(self.board.n_busy(now).max(1));
        let own_ns = now.saturating_ns_since(since).checked_div(busy);
        GpuNs::new(own_ns.unwrap_or(0))
    }

    /// From when on this process was ready to use what its container may. While it has work on the GPU and uses less, the
    /// GPU is giving the time to others: that much is made up for later.
    pub(super) fn entitled_since(&self, now: MonotonicNs) -> MonotonicNs {
        match self.wanting_since_ns.load(Ordering::Relaxed) {
            0 => now,
            since => MonotonicNs::new(since.max(now.get().saturating_sub(MADE_UP_NS_MAX))),
        }
    }

    fn want(&self, now: MonotonicNs) {
        // Since before, otherwise.
        let _ = self.wanting_since_ns.compare_exchange(
            0,
            now.get(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// When to ask again because somebody has the GPU to itself, or will have: another, or this process, for this launch.
    pub(super) fn leased_not_before(
        &self,
        key: KernelKey,
        price: GpuNs,
        now: MonotonicNs,
    ) -> Option<MonotonicNs> {
        let then = match self.board.lease(now) {
            Lease::Another { until } => until.min(now.saturating_add_ns(LEASE_END_LOOK_NS)),
            Lease::OursSoon => now.saturating_add_ns(LEASE_LOOK_NS),
            Lease::Ours => return None,
            Lease::Nobody => {
                let wanted = self.prices().wants_lease(key, now)?;
                let drain_ns = LEASE_DRAIN_NS.saturating_add(self.board.outstanding_ns(now));
                let timings = self.lease_timings_of(price, now);
                let length_ns = price
                    .get()
                    .saturating_mul(u64::from(timings))
                    .saturating_add(drain_ns);
                let is_first = wanted == LeaseFor::TheFirst;
                if !self.board.try_lease(now, length_ns, is_first) {
                    return None;
                }
                self.prices().leased(key, now);
                self.lease_timings.store(timings, Ordering::Relaxed);
                now.saturating_add_ns(LEASE_LOOK_NS)
            }
        };
        self.want(now);
        self.board.want_until(then.saturating_add_ns(LATE_NS));
        Some(then)
    }

    /// Whether launches of this price are to be timed beside others of this process.
    fn is_beside(&self, price: GpuNs, now: MonotonicNs) -> bool {
        price < BESIDE_PRICE_MAX && self.prices().uses_several(now)
    }

    /// How many timings a lease for a launch of this price is for, and how many launches may be outstanding meanwhile.
    fn lease_timings_of(&self, price: GpuNs, now: MonotonicNs) -> u32 {
        if self.is_beside(price, now) {
            LEASE_TIMINGS_BESIDE
        } else if price >= LONG_PRICE_MIN {
            LEASE_TIMINGS_LONG
        } else {
            LEASE_TIMINGS
        }
    }

    /// When to ask again because it is another container's turn, or this process has enough on the GPU; `None`: it may go. `turns`: for what the
    /// container counts where it takes turns; `None`: only its cap holds it back.
    pub(super) fn turn_not_before(
        &self,
        turns: Option<Weight>,
        wanting: Wanting,
        charged: GpuNs,
        taken: GpuNs,
        now: MonotonicNs,
    ) -> Option<(Obstacle, MonotonicNs)> {
        if self.board.lease(now) == Lease::Ours
            && self.window.launches() < self.lease_timings.load(Ordering::Relaxed)
        {
            return None; // the others wait for it
        }
        let ahead = turns.and_then(|weight| self.board.ahead_until(weight, wanting, taken, now));
        let room = match turns {
            Some(_) if wanting.is_contended() => Room::Contended,
            Some(_) => Room::Alone,
            None => Room::Capped,
        };
        let held = match ahead {
            Some(then) => Some((Obstacle::Share, then)),
            None => self
                .window
                .full_until(room, charged, now)
                .map(|then| (Obstacle::Window, then)),
        };
        let held = held.filter(|_| self.window.is_patient(now));
        match held {
            Some((_, then)) => self.board.want_until(then.saturating_add_ns(LATE_NS)),
            None => self.window.waiting_since_ns.store(0, Ordering::Relaxed),
        }
        held
    }

    /// Who wants the GPU now.
    pub(super) fn wanting(&self, now: MonotonicNs) -> Wanting {
        let wanting = self.board.wanting(now);
        if wanting.is_contended() {
            self.contended_ns.store(now.get(), Ordering::Relaxed);
        }
        wanting
    }

    /// Whether no other process uses the GPU, or has of late.
    pub(super) fn is_alone(&self, now: MonotonicNs) -> bool {
        if self.board.is_shared(now) {
            self.contended_ns.store(now.get(), Ordering::Relaxed);
        }
        let is_contended = self.wanting(now).is_contended();
        let contended_ns = self.contended_ns.load(Ordering::Relaxed);
        !is_contended && now.get() >= contended_ns.saturating_add(ALONE_NS)
    }

    pub(super) fn begin(&self, is_sure: bool, charged: GpuNs, now: MonotonicNs) {
        if !is_sure {
            self.unsure.fetch_add(1, Ordering::Relaxed);
            self.progress_ns.store(now.get(), Ordering::Relaxed);
        }
        if self.outstanding.fetch_add(1, Ordering::AcqRel) == 0 {
            self.resting_since_ns.store(0, Ordering::Relaxed);
            self.want(now);
            self.board.set_busy(now);
            self.tick(now);
        }
        let left_ns = self.window.push(charged, now);
        self.board.set_outstanding(left_ns);
        // Others are given as much meanwhile.
        let shared_ns = left_ns.saturating_mul(u64::from(self.board.n_busy(now).max(1)));
        self.board
            .want_until(now.saturating_add_ns(shared_ns.saturating_add(LATE_NS)));
    }

    pub(super) fn end(&self, reservation: Reservation, now: MonotonicNs) {
        let left_ns = self
            .window
            .pop(reservation.charged, reservation.granted, now);
        self.board.set_outstanding(left_ns);
        if !reservation.is_sure {
            self.unsure.fetch_sub(1, Ordering::Relaxed);
            self.unsure_since_ns.store(0, Ordering::Relaxed);
            self.progress_ns.store(now.get(), Ordering::Relaxed);
        }
        if self.outstanding.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        if reservation.granted == GpuNs::default() {
            return self.rest(now);
        }
        // Others are given as much meanwhile.
        let busy = u64::from(self.board.n_busy(now).max(1));
        let linger_ns = reservation.granted.get().saturating_mul(busy);
        let until = now.saturating_add_ns(linger_ns);
        self.lingers_until_ns.store(until.get(), Ordering::Relaxed);
    }

    /// Whether anything is outstanding, or may run on credit still.
    pub(super) fn is_watched(&self) -> bool {
        self.outstanding.load(Ordering::Relaxed) > 0
            || self.lingers_until_ns.load(Ordering::Relaxed) != 0
    }

    /// Whether launches on credit may run still, or may be made: to be asked again soon.
    pub(super) fn lingers(&self, now: MonotonicNs) -> bool {
        let until = self.lingers_until_ns.load(Ordering::Relaxed);
        if now.get() < until {
            return true;
        }
        if until != 0 {
            self.lingers_until_ns.store(0, Ordering::Relaxed);
            if self.outstanding.load(Ordering::Acquire) == 0 {
                self.rest(now);
            }
        }
        self.rests_briefly(now)
    }

    /// Whether nothing is left since so shortly that credit still counts. After that it does not.
    fn rests_briefly(&self, now: MonotonicNs) -> bool {
        let since = &self.resting_since_ns;
        let since_ns = since.load(Ordering::Relaxed);
        if since_ns == 0 {
            return false;
        }
        if now.get() < since_ns.saturating_add(CREDIT_OUTLIVES_NS) && self.is_alone(now) {
            return true;
        }
        let counted = since.compare_exchange(since_ns, 0, Ordering::Relaxed, Ordering::Relaxed);
        if counted.is_ok() {
            self.rests.fetch_add(1, Ordering::Relaxed);
        }
        false
    }

    /// Nothing of this process is on the GPU.
    fn rest(&self, now: MonotonicNs) {
        self.resting_since_ns.store(now.get(), Ordering::Relaxed);
        self.wanting_since_ns.store(0, Ordering::Relaxed);
        self.board.set_outstanding(self.window.rest());
        self.board.set_idle(now);
        self.rests_briefly(now);
        if self.window.waiting_since_ns.load(Ordering::Relaxed) == 0 {
            self.board
                .want_on_until(now, now.saturating_add_ns(REST_NS));
        }
        // A launch may have begun between the two: its word is the last.
        if self.outstanding.load(Ordering::Acquire) > 0 {
            self.resting_since_ns.store(0, Ordering::Relaxed);
            self.board.set_busy(now);
        }
    }

    pub(super) fn tick(&self, now: MonotonicNs) {
        self.notice_stop(now);
        let ticked = self.ticked_ns.load(Ordering::Relaxed);
        if now.get() < ticked.saturating_add(TICK_NS) {
            return;
        }
        if self
            .ticked_ns
            .compare_exchange(ticked, now.get(), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            let virtual_ns = self.board.virtual_ns(now);
            self.clock
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add(now, virtual_ns);
        }
    }

    /// If this process has not looked at its launches for long, it was not the GPU that held it back.
    pub(super) fn notice_stop(&self, now: MonotonicNs) {
        if now.saturating_ns_since(self.ticked_at()) > STOPPED_NS {
            let restarted = |since_ns: u64| (since_ns != 0).then_some(now.get());
            let since = &self.wanting_since_ns;
            // It wants nothing, otherwise.
            let _ = since.fetch_update(Ordering::Relaxed, Ordering::Relaxed, restarted);
        }
    }

    pub(super) fn ticked_at(&self) -> MonotonicNs {
        MonotonicNs::new(self.ticked_ns.load(Ordering::Relaxed))
    }

    pub(super) fn learn(&self, reservation: &Reservation, timing: Timing, now: MonotonicNs) {
        let Some(elapsed) = self.tables().fair.elapsed(reservation.key, timing) else {
            return;
        };
        let began_at = MonotonicNs::new(timing.ended_at.get().saturating_sub(elapsed.get()));
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let own = clock.between(began_at, timing.ended_at);
        drop(clock);
        let measured = Measured {
            elapsed,
            own: GpuNs::new(own),
            part: timing.part.filter(|_| reservation.sees_beside),
        };
        self.prices().observe(reservation.key, measured, now);
        // Those that had begun before the others were gone count too: no lease is longer for them. What runs beside each other ends with
        // the lease: the others would be in the timings of what is still there.
        if self.board.lease(now) == Lease::Ours
            && !self.is_beside(reservation.charged, now)
            && self
                .lease_timings
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                == Ok(1)
        {
            self.board.end_lease();
        }
    }
}
