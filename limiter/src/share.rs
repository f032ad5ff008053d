//! What a launch asks before it goes to the driver.
//!
//! ```text
//! let reservation = share.acquire(device_index, key, now);   // waits as long as needed; hold no lock here
//! let timed = share.should_time(device_index, key, now);     // put timing events around it?
//! launch; on failure: share.cancel(reservation)
//! when it has finished: share.completed(reservation, timing if timed, now)
//! ```
//!
//! The cap, `sm_max`, is a [`Bucket`] of GPU time per container and GPU, in shared memory. A container whose guarantee is
//! below it (`sm` < `sm_max`) launches in turn with the others, in proportion to the guarantees (`board::turns`), and has little
//! on the GPU at a time: whatever one does not want, another may have.
//!
//! `device_index` is an index into the ledger's device list; any other is not limited.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::board::turns::{Wanting, Weight};
use crate::board::{Board, Lease, VirtualClock};
use crate::bucket::{BURST, Bucket, Correction, Decision};
use crate::clock;
use crate::config::GpuLimits;
use crate::ledger::Ledger;
use crate::limit;
use crate::price::{KernelKey, PriceTable, SLICE};
use crate::shm::layout::{ContainerFile, DeviceRow, SlotDevice, UsageRow};
use crate::shm::{self, AttachError};
use crate::slot::Seat;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::timing::{FairTimings, Timing};
use crate::units::{GpuNs, MonotonicNs, Percent};
use crate::window::Window;

/// This process's part in its container's share. All methods are thread-safe; none but `attach` allocates.
#[derive(Debug)]
pub struct Share {
    seat: Arc<Seat<ContainerFile>>,
    devices: Vec<Device>,
}

/// What this process knows of a GPU.
#[derive(Debug)]
struct Device {
    /// Row of the container's file.
    row: usize,
    board: Board,
    prices: PriceTable,
    fair: FairTimings,
    clock: Mutex<VirtualClock>,
    /// When `clock` was last advanced.
    ticked_ns: AtomicU64,
    /// Launches admitted and not completed.
    outstanding: AtomicU32,
    /// Since when there always was one, or one waited for another's lease; 0: neither.
    wanting_since_ns: AtomicU64,
    /// Those of them that nobody knows the price of.
    unmeasured: AtomicU32,
    /// When an unmeasured launch was last admitted or completed.
    progress_ns: AtomicU64,
    /// Timings that this process's lease is still for.
    lease_timings: AtomicU32,
    window: Window,
}

/// The answer to a launch.
#[derive(Debug)]
pub enum Admit {
    /// Go. Hand the reservation back when the launch has finished or failed.
    Granted(Reservation),
    /// Ask again at this time.
    NotBefore(MonotonicNs),
}

/// GPU time set aside for one launch.
#[derive(Clone, Copy, Debug)]
#[must_use = "give it to `completed` or `cancel`"]
pub struct Reservation {
    device_index: usize,
    key: KernelKey,
    charged: GpuNs,
    is_measured: bool,
}

impl Reservation {
    /// Whether the price was known. Where it was not, launches that wait for its end look again.
    pub fn is_measured(&self) -> bool {
        self.is_measured
    }
}

/// What this process's launches used of one GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// GPU time charged.
    pub charged_ns: u64,
    /// Launches admitted.
    pub launches: u64,
    /// Time for which launches waited.
    pub throttled_ns: u64,
    /// Launches that waited.
    pub throttled_count: u64,
}

/// Kernels that one process's table has place for on one GPU.
const KERNELS_MAX: usize = 2048;
/// So many launches of unknown price may be outstanding: each may turn out to be long.
const UNMEASURED_MAX: u32 = 2;
/// After so long without progress another one is admitted: it may be what the others wait for on the device.
const LIVENESS_NS: u64 = 10_000_000;
/// A launch that waits for others of this process to finish is woken by them; should that be missed, it looks again
/// after this.
const LOOK_AGAIN_NS: u64 = 1_000_000;
/// So much of a container's share, in time on the wall, can be made up for when the GPU gave it to others.
const MADE_UP_NS_MAX: u64 = 100_000_000;
/// A lease is for so many timings.
const LEASE_TIMINGS: u32 = 3;
/// How long the others' work on the GPU may take to end before a lease is of use.
const LEASE_DRAIN_NS: u64 = 8_000_000;
/// How often the holder of a lease looks whether the others' work has ended.
const LEASE_LOOK_NS: u64 = 100_000;
/// For so long after its time a process still counts as one that wants the GPU: hosts are late.
const LATE_NS: u64 = 1_000_000;
/// For so long after its last launch's end.
const REST_NS: u64 = 100_000;
/// The virtual clock is not advanced more often.
const TICK_NS: u64 = 50_000;

/// How much longer than it must a launch waits, once it has to: several may then go at once. A GPU that is given one small
/// kernel at a time by each of its tenants spends its time switching between them, and a launch that stands behind
/// another can be timed more exactly than one that stands alone.
///
/// The bucket lets [`BURST`] through at once after a rest of `BURST / cap`: nothing of the share is lost by a wait that is
/// shorter. Five eighths of that rest are gathered, which is two kernels of up to 1.25 ms; of a large cap, only what is not the
/// container's own time anyway. What remains covers a host that is late.
fn gather_ns(cap: Percent) -> u64 {
    const GATHER_NS_MAX: u64 = 7_000_000;
    const PART_MAX_THOUSANDTHS: u64 = 62_500;
    let cap = u64::from(cap.thousandths());
    let whole = u64::from(Percent::ALL.thousandths());
    let part = whole.saturating_sub(cap).min(PART_MAX_THOUSANDTHS);
    let gathered = BURST.get().saturating_mul(part).checked_div(cap);
    gathered.unwrap_or(0).min(GATHER_NS_MAX)
}

impl Share {
    /// Take part in the shares of `ledger`'s container; `limits` in the ledger's device order. `dir` holds the boards of
    /// the GPUs, `gpu-<uuid>.board`. The `seed` decides which launches are timed.
    ///
    /// # Errors
    /// A board cannot be used, or the container's file cannot be locked.
    pub fn attach(
        ledger: &Ledger,
        dir: &Path,
        limits: &[GpuLimits],
        now: MonotonicNs,
        seed: u64,
    ) -> Result<Self, AttachError> {
        let seat = Arc::clone(ledger.seat());
        let locked = seat.file.exclusive();
        let exclusive = locked.map_err(|source| seat.file.error("lock", source))?;
        let mut devices = Vec::new();
        for (row, limits) in ledger.rows().iter().zip(limits) {
            let Some(shared) = seat.file.devices.get(*row) else {
                continue;
            };
            shared.share.sm.configure(limits.sm.map(thousandths));
            shared
                .share
                .sm_max
                .configure(limits.sm_max.map(thousandths));
            devices.push((*row, shared.uuid().unwrap_or_default()));
        }
        drop(exclusive);
        let devices = devices.into_iter().map(|(row, uuid)| {
            let mut board = Board::attach(dir, uuid)?;
            board.join(ledger.container())?;
            Ok(Device::new(row, board, now, seed))
        });
        Ok(Self {
            devices: devices.collect::<Result<_, AttachError>>()?,
            seat,
        })
    }

    /// The GPU's board.
    pub fn board(&self, device_index: usize) -> Option<&Board> {
        self.devices.get(device_index).map(|device| &device.board)
    }

    /// Whether launches on this device are limited at all; where not, skip everything else.
    pub fn is_limited(&self, device_index: usize) -> bool {
        self.row(device_index)
            .is_some_and(|row| cap(row).is_some_and(|cap| cap < Percent::ALL) || is_sharing(row))
    }

    /// May a launch of `key` go to the device now?
    pub fn admit(&self, device_index: usize, key: KernelKey, now: MonotonicNs) -> Admit {
        let free = Reservation {
            device_index,
            key,
            charged: GpuNs::default(),
            is_measured: true,
        };
        let (Some(device), Some(row)) = (self.devices.get(device_index), self.row(device_index))
        else {
            return Admit::Granted(free);
        };
        let price = device.prices.price(key);
        if price.is_none()
            && let Some(then) = device.unmeasured_not_before(now)
        {
            device.board.want_until(then.saturating_add_ns(LATE_NS));
            return Admit::NotBefore(then);
        }
        let charged = price.unwrap_or_else(|| device.prices.typical());
        if let Some(then) = device.leased_not_before(key, charged, now) {
            return Admit::NotBefore(then);
        }
        let (weight, wanting) = (Weight::of(guarantee(row)), device.board.wanting(now));
        if is_sharing(row)
            && let Some(then) = device.turn_not_before(weight, wanting, charged, now)
        {
            return Admit::NotBefore(then);
        }
        if let Some(cap) = cap(row)
            && cap < Percent::ALL
            && let Decision::NotBefore(then) = Bucket::new(&row.bucket.tat_ns).admit(
                now,
                device.entitled_since(now),
                charged,
                cap,
                BURST,
            )
        {
            return Admit::NotBefore(then.saturating_add_ns(gather_ns(cap)));
        }
        device.board.take_turn(weight, wanting, charged);
        device.begin(price.is_some(), charged, now);
        if let Some(usage) = self.usage_row(device_index) {
            usage.launches.fetch_add(1, Ordering::Relaxed);
            usage.charged_ns.fetch_add(charged.get(), Ordering::Relaxed);
        }
        Admit::Granted(Reservation {
            charged,
            is_measured: price.is_some(),
            ..free
        })
    }

    /// [`admit`](Self::admit), and wait as long as it takes. Holding a lock here would stop others for that long.
    pub fn acquire(&self, device_index: usize, key: KernelKey, now: MonotonicNs) -> Reservation {
        self.acquire_beside(device_index, key, now, |_| MonotonicNs::new(u64::MAX))
    }

    /// The same for who has something else to do while it waits: `meanwhile` does it, and says when it is to be called again.
    pub fn acquire_beside(
        &self,
        device_index: usize,
        key: KernelKey,
        now: MonotonicNs,
        meanwhile: impl Fn(MonotonicNs) -> MonotonicNs,
    ) -> Reservation {
        let mut now = now;
        let mut has_waited = false;
        loop {
            // Before asking: what changes after the answer must not be missed.
            let gate = self.gate(device_index);
            let earliest = match self.admit(device_index, key, now) {
                Admit::Granted(reservation) => return reservation,
                Admit::NotBefore(earliest) => earliest.min(meanwhile(now)),
            };
            now = self.sleep_until(device_index, gate, earliest, !has_waited);
            has_waited = true;
        }
    }

    /// Whether this launch should be put between two timing events.
    pub fn should_time(&self, device_index: usize, key: KernelKey, now: MonotonicNs) -> bool {
        self.devices.get(device_index).is_some_and(|device| {
            device.board.lease(now) == Lease::Ours || device.prices.should_time(key, now)
        })
    }

    /// A launch has finished: learn from its timing, if it was timed, and correct its charge.
    /// Whether launches of this process that wait were told to look again.
    pub fn completed(
        &self,
        reservation: Reservation,
        timing: Option<Timing>,
        now: MonotonicNs,
    ) -> bool {
        let Some(device) = self.devices.get(reservation.device_index) else {
            return false;
        };
        device.tick(now);
        if let Some(timing) = timing {
            device.learn(reservation.key, timing, now);
        }
        let due = device
            .prices
            .price(reservation.key)
            .unwrap_or(reservation.charged);
        self.correct(reservation, Correction::between(reservation.charged, due));
        self.end(device, reservation, now)
    }

    /// The driver refused the launch: give its reservation back.
    pub fn cancel(&self, reservation: Reservation) {
        let Some(device) = self.devices.get(reservation.device_index) else {
            return;
        };
        self.correct(reservation, Correction::Less(reservation.charged));
        self.end(device, reservation, device.ticked_at());
    }

    /// While launches are outstanding: call at least every few hundred milliseconds; every few hundred microseconds makes
    /// timings more exact. Tells the other tenants that this one is alive and busy.
    pub fn heartbeat(&self, now: MonotonicNs) {
        for device in &self.devices {
            if device.outstanding.load(Ordering::Relaxed) > 0 {
                device.board.set_busy(now);
                device.tick(now);
            }
        }
    }

    /// What this process's launches used.
    pub fn usage(&self, device_index: usize) -> Usage {
        self.usage_row(device_index)
            .map(UsageRow::read)
            .unwrap_or_default()
    }

    /// In a forked child: let go of the parent's place without touching it.
    pub fn forget_after_fork(self) {
        drop(self); // seats that another process took are only unmapped
    }

    fn row(&self, device_index: usize) -> Option<&DeviceRow> {
        self.seat
            .file
            .devices
            .get(self.devices.get(device_index)?.row)
    }

    fn slot_device(&self, index: usize, device_index: usize) -> Option<&SlotDevice> {
        self.seat
            .file
            .slots
            .get(index)?
            .devices
            .get(self.devices.get(device_index)?.row)
    }

    /// `None` also when the slot was taken for dead and is another's now.
    fn usage_row(&self, device_index: usize) -> Option<&UsageRow> {
        let slot = self.slot_device(self.seat.index, device_index)?;
        self.seat.is_ours().then_some(&slot.usage)
    }

    fn correct(&self, reservation: Reservation, correction: Correction) {
        let Some(row) = self.row(reservation.device_index) else {
            return;
        };
        if let Some(cap) = cap(row) {
            Bucket::new(&row.bucket.tat_ns).settle(correction, cap);
        }
        if let Some(device) = self.devices.get(reservation.device_index) {
            device
                .board
                .correct_turn(Weight::of(guarantee(row)), correction);
        }
        if let Some(usage) = self.usage_row(reservation.device_index) {
            match correction {
                Correction::More(more) => usage.charged_ns.fetch_add(more.get(), Ordering::Relaxed),
                Correction::Less(less) => usage.charged_ns.fetch_sub(less.get(), Ordering::Relaxed),
            };
        }
    }

    /// Whether launches that wait should look again; they are woken.
    fn end(&self, device: &Device, reservation: Reservation, now: MonotonicNs) -> bool {
        device.end(reservation, now);
        let is_waited_for = device.window.is_waited_for.swap(false, Ordering::AcqRel);
        let is_news = !reservation.is_measured || is_waited_for;
        if is_news {
            self.wake(self.seat.index, reservation.device_index);
        }
        is_news
    }

    /// Let the launches of slot `index` that wait look again.
    fn wake(&self, index: usize, device_index: usize) {
        if let Some(slot) = self.slot_device(index, device_index) {
            limit::open_gate(slot);
        }
    }

    /// How this process's gate stands; 0 where there is none.
    fn gate(&self, device_index: usize) -> u32 {
        self.slot_device(self.seat.index, device_index)
            .map_or(0, |slot| slot.gate.load(Ordering::SeqCst))
    }

    /// Sleeps while the gate stands as it was `seen`, but not beyond the deadline.
    fn sleep_until(
        &self,
        device_index: usize,
        seen: u32,
        deadline: MonotonicNs,
        is_first: bool,
    ) -> MonotonicNs {
        let begin = clock::monotonic();
        let mut now = begin;
        if let Some(slot) = self.slot_device(self.seat.index, device_index) {
            while now < deadline && slot.gate.load(Ordering::SeqCst) == seen {
                shm::futex_wait(&slot.gate, seen, deadline);
                now = clock::monotonic();
            }
        }
        if let Some(usage) = self.usage_row(device_index) {
            usage
                .throttled_ns
                .fetch_add(now.saturating_ns_since(begin), Ordering::Relaxed);
            usage
                .throttled_count
                .fetch_add(u64::from(is_first), Ordering::Relaxed);
        }
        now
    }
}

impl Device {
    fn new(row: usize, board: Board, now: MonotonicNs, seed: u64) -> Self {
        Self {
            row,
            board,
            prices: PriceTable::new(KERNELS_MAX, SLICE, seed),
            fair: FairTimings::default(),
            clock: Mutex::new(VirtualClock::new(now)),
            ticked_ns: AtomicU64::new(now.get()),
            outstanding: AtomicU32::new(0),
            wanting_since_ns: AtomicU64::new(0),
            unmeasured: AtomicU32::new(0),
            progress_ns: AtomicU64::new(0),
            lease_timings: AtomicU32::new(0),
            window: Window::default(),
        }
    }

    /// When to ask again for a launch of unknown price; `None`: it may go.
    fn unmeasured_not_before(&self, now: MonotonicNs) -> Option<MonotonicNs> {
        if self.unmeasured.load(Ordering::Relaxed) < UNMEASURED_MAX {
            return None;
        }
        let given_up = MonotonicNs::new(self.progress_ns.load(Ordering::Relaxed))
            .saturating_add_ns(LIVENESS_NS);
        (now < given_up).then(|| given_up.min(now.saturating_add_ns(LOOK_AGAIN_NS)))
    }

    /// From when on this process was ready to use what its container may. While it has work on the GPU and uses less, the
    /// GPU is giving the time to others: that much is made up for later.
    fn entitled_since(&self, now: MonotonicNs) -> MonotonicNs {
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
    fn leased_not_before(
        &self,
        key: KernelKey,
        price: GpuNs,
        now: MonotonicNs,
    ) -> Option<MonotonicNs> {
        let then = match self.board.lease(now) {
            Lease::Another { until } => until,
            Lease::OursSoon => now.saturating_add_ns(LEASE_LOOK_NS),
            Lease::Ours => return None,
            Lease::Nobody => {
                let length_ns = price.get().saturating_mul(3).saturating_add(LEASE_DRAIN_NS);
                if !self.prices.wants_lease(key, now) || !self.board.try_lease(now, length_ns) {
                    return None;
                }
                self.prices.leased(key, now);
                self.lease_timings.store(LEASE_TIMINGS, Ordering::Relaxed);
                now.saturating_add_ns(LEASE_LOOK_NS)
            }
        };
        self.want(now);
        self.board.want_until(then.saturating_add_ns(LATE_NS));
        Some(then)
    }

    /// When to ask again because it is another container's turn, or this process has enough on the GPU; `None`: it may go.
    fn turn_not_before(
        &self,
        weight: Weight,
        wanting: Wanting,
        charged: GpuNs,
        now: MonotonicNs,
    ) -> Option<MonotonicNs> {
        if self.board.lease(now) == Lease::Ours && self.window.launches() < LEASE_TIMINGS {
            return None; // the others wait for it
        }
        let then = self
            .board
            .ahead_until(weight, wanting, now)
            .or_else(|| self.window.full_until(wanting, charged, now))
            .filter(|_| self.window.is_patient(now));
        match then {
            Some(then) => self.board.want_until(then.saturating_add_ns(LATE_NS)),
            None => self.window.waiting_since_ns.store(0, Ordering::Relaxed),
        }
        then
    }

    fn begin(&self, is_measured: bool, charged: GpuNs, now: MonotonicNs) {
        if !is_measured {
            self.unmeasured.fetch_add(1, Ordering::Relaxed);
            self.progress_ns.store(now.get(), Ordering::Relaxed);
        }
        if self.outstanding.fetch_add(1, Ordering::AcqRel) == 0 {
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

    fn end(&self, reservation: Reservation, now: MonotonicNs) {
        let left_ns = self.window.pop(reservation.charged, now);
        self.board.set_outstanding(left_ns);
        if !reservation.is_measured {
            self.unmeasured.fetch_sub(1, Ordering::Relaxed);
            self.progress_ns.store(now.get(), Ordering::Relaxed);
        }
        if self.outstanding.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wanting_since_ns.store(0, Ordering::Relaxed);
            self.board.set_idle();
            if self.window.waiting_since_ns.load(Ordering::Relaxed) == 0 {
                self.board.want_until(now.saturating_add_ns(REST_NS));
            }
            // A launch may have begun between the two: its word is the last.
            if self.outstanding.load(Ordering::Acquire) > 0 {
                self.board.set_busy(now);
            }
        }
    }

    fn tick(&self, now: MonotonicNs) {
        let ticked = self.ticked_ns.load(Ordering::Relaxed);
        if now.get() < ticked.saturating_add(TICK_NS) {
            return;
        }
        if self
            .ticked_ns
            .compare_exchange(ticked, now.get(), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            let n_busy = self.board.n_busy(now);
            self.clock
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .advance(now, n_busy);
        }
    }

    fn ticked_at(&self) -> MonotonicNs {
        MonotonicNs::new(self.ticked_ns.load(Ordering::Relaxed))
    }

    fn learn(&self, key: KernelKey, timing: Timing, now: MonotonicNs) {
        let Some(elapsed) = self.fair.elapsed(key, timing) else {
            return;
        };
        let began_at = MonotonicNs::new(timing.ended_at.get().saturating_sub(elapsed.get()));
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let own = clock.between(began_at, timing.ended_at);
        drop(clock);
        self.prices.observe(key, elapsed, GpuNs::new(own), now);
        // Those that had begun before the others were gone count too: no lease is longer for them.
        if self.board.lease(now) == Lease::Ours
            && self.lease_timings.fetch_sub(1, Ordering::Relaxed) == 1
        {
            self.board.end_lease();
        }
    }
}

impl UsageRow {
    pub(crate) fn read(&self) -> Usage {
        Usage {
            charged_ns: self.charged_ns.load(Ordering::Relaxed),
            launches: self.launches.load(Ordering::Relaxed),
            throttled_ns: self.throttled_ns.load(Ordering::Relaxed),
            throttled_count: self.throttled_count.load(Ordering::Relaxed),
        }
    }
}

impl Usage {
    /// What two used together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            charged_ns: self.charged_ns.saturating_add(other.charged_ns),
            launches: self.launches.saturating_add(other.launches),
            throttled_ns: self.throttled_ns.saturating_add(other.throttled_ns),
            throttled_count: self.throttled_count.saturating_add(other.throttled_count),
        }
    }
}

pub(crate) fn thousandths(share: Percent) -> u64 {
    u64::from(share.thousandths())
}

/// What the container gets in any case.
fn guarantee(row: &DeviceRow) -> Option<Percent> {
    let thousandths = u32::try_from(row.share.sm.get()?).ok();
    thousandths.and_then(Percent::from_thousandths)
}

/// Whether the container may have more than it is guaranteed, when others do not want it.
fn is_sharing(row: &DeviceRow) -> bool {
    guarantee(row).is_some_and(|sm| sm < cap(row).unwrap_or(Percent::ALL))
}

/// What the container may not exceed; `None`: no cap. A value that nobody can have configured lifts no cap.
pub(crate) fn cap(row: &DeviceRow) -> Option<Percent> {
    let thousandths = u32::try_from(row.share.sm_max.get()?).ok();
    Some(
        thousandths
            .and_then(Percent::from_thousandths)
            .unwrap_or(Percent::LEAST),
    )
}

#[cfg(test)]
mod tests;
