//! What a launch asks before it goes to the driver.
//!
//! ```text
//! if let Some(price) = share.spend(&mut credit, key) {       // in hand: no clock, no event
//!     launch; on failure: credit.refund(price); done
//! }
//! let mut reservation = share.acquire(&mut credit, key, now);    // waits as long as needed; hold no lock here
//! let timed = share.should_time(&mut credit, &mut reservation, now); // put timing events around it?
//! launch; on failure: share.cancel(reservation)
//! when it has finished: share.completed(reservation, timing if timed, now)
//! ```
//!
//! The cap, `sm_max`, is a [`Bucket`] of GPU time per container and GPU, in shared memory. A container whose guarantee is
//! below it (`sm` < `sm_max`) launches in turn with the others, in proportion to the guarantees (`board::turns`), and has little
//! on the GPU at a time: whatever one does not want, another may have. Launches of one container go in the order in which they came (`queue`).
//!
//! `device_index` is an index into the ledger's device list; any other is not limited.

mod credit;
mod device;

use std::path::Path;
use std::sync::Arc;

use crate::board::turns::Weight;
use crate::board::{Board, Lease};
use crate::bucket::{BURST, Bucket, Correction, Decision};
use crate::clock;
use crate::ledger::Ledger;
use crate::limit;
use crate::price::KernelKey;
use crate::queue::Queue;
use crate::shm::layout::{ContainerFile, DeviceRow, SlotDevice, UsageRow};
use crate::shm::{self, AttachError};
use crate::slot::Seat;
use crate::sync::Ordering;
use crate::timing::Timing;
use crate::units::{GpuNs, MonotonicNs, Percent};
pub use credit::Credit;
use device::{Device, LATE_NS};

/// This process's part in its container's share. All methods are thread-safe; none but `attach` and the first for a launch on a GPU allocates.
#[derive(Debug)]
pub struct Share {
    seat: Arc<Seat<ContainerFile>>,
    devices: Vec<Device>,
}

/// The answer to a launch.
#[derive(Debug)]
pub enum Admit {
    /// Go. Hand the reservation back when the launch has finished or failed.
    Granted(Reservation),
    /// Ask again at this time.
    NotBefore(MonotonicNs),
}

/// What is in a launch's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    /// The container has used what it may at most; or another launch of it goes first, where nothing but the cap holds it back.
    Cap,
    /// It is another container's turn, or one has the GPU to itself to time a launch; or another launch of its own goes first, where it takes turns.
    Share,
    /// The process has enough on the GPU, or may not have more there whose price nobody knows.
    Window,
}

/// A launch has to wait.
#[derive(Clone, Copy, Debug)]
struct Held {
    until: MonotonicNs,
    by: Obstacle,
}

/// GPU time set aside for one launch.
#[derive(Clone, Copy, Debug)]
#[must_use = "give it to `completed` or `cancel`"]
pub struct Reservation {
    device_index: usize,
    key: KernelKey,
    charged: GpuNs,
    /// Set aside with it for launches behind it.
    granted: GpuNs,
    /// Whether its price was more than a guess: the kernel was timed, and often enough. Where it was not, launches that wait for its end
    /// look again.
    is_sure: bool,
    /// Whether what was seen to run beside it is all that did.
    sees_beside: bool,
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
    /// Part of `throttled_ns`: the cap was used up.
    pub throttled_by_cap_ns: u64,
    /// Part of `throttled_ns`: it was another container's turn.
    pub throttled_by_share_ns: u64,
    /// Part of `throttled_ns`: enough was on the GPU, or something whose price was a guess.
    pub throttled_by_window_ns: u64,
}

/// A launch that is held asks again after this at the latest: limits may have changed.
const ASK_AGAIN_NS: u64 = 100_000_000;

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
    /// Take part in the shares of `ledger`'s container, which the ledger was told. `dir` holds the boards of the GPUs,
    /// `gpu-<uuid>.board`. The `seed` decides which launches are timed.
    ///
    /// # Errors
    /// A board cannot be used.
    pub fn attach(
        ledger: &Ledger,
        dir: &Path,
        now: MonotonicNs,
        seed: u64,
    ) -> Result<Self, AttachError> {
        let seat = Arc::clone(ledger.seat());
        let rows = ledger.rows().iter();
        let devices = rows.filter_map(|&row| Some((row, seat.file.devices.get(row)?)));
        let devices = devices.map(|(row, shared)| {
            let uuid = shared.uuid().unwrap_or_default();
            let board = Board::join(dir, uuid, seat.process, ledger.container())?;
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
    #[inline]
    pub fn is_limited(&self, device_index: usize) -> bool {
        self.row(device_index).is_some_and(|row| {
            let is_set = row.share.sm.get().is_some() || row.share.sm_max.get().is_some();
            is_set && (cap(row).is_some_and(|cap| cap < Percent::ALL) || is_sharing(row))
        })
    }

    /// For one thread's launches on one stream of the device: nothing so far. `None`: there is no such device.
    pub fn credit(&self, device_index: usize) -> Option<Credit> {
        let device = self.devices.get(device_index)?;
        Some(Credit::new(device_index, device.prices().draw()))
    }

    /// Takes a launch of `key` off the credit; its price, or `None`: it has to be acquired. Reads no clock, and writes nothing that
    /// another thread reads.
    #[inline]
    pub fn spend(&self, credit: &mut Credit, key: KernelKey) -> Option<GpuNs> {
        let device = self.devices.get(credit.device_index)?;
        let price = device.prices().settled_price(key)?;
        let goes = credit.stamp == Some(device.stamp())
            && credit.draw.passes(device.prices().groups())
            && credit.spend(price);
        goes.then_some(price)
    }

    /// Gives back what is left of a credit that is of no use any more.
    pub fn give_back(&self, credit: &mut Credit) {
        let left = credit.void();
        if left > GpuNs::default() {
            self.correct(credit.device_index, Correction::Less(left));
        }
    }

    /// May a launch of `key` go to the device now?
    pub fn admit(&self, credit: &mut Credit, key: KernelKey, now: MonotonicNs) -> Admit {
        match self.ask(credit, key, now) {
            Ok(reservation) => Admit::Granted(reservation),
            Err(held) => Admit::NotBefore(held.until),
        }
    }

    /// Asks, and says to the container's other launches what becomes of it.
    fn ask(
        &self,
        credit: &mut Credit,
        key: KernelKey,
        now: MonotonicNs,
    ) -> Result<Reservation, Held> {
        let since = *credit.waits_since.get_or_insert(now);
        let answer = self.ask_in_turn(credit, since, key, now);
        if let Some(row) = self.row(credit.device_index) {
            let queue = Queue(&row.bucket);
            match &answer {
                Err(held) if held.by != Obstacle::Window => {
                    let asks_at = held.until.min(now.saturating_add_ns(ASK_AGAIN_NS));
                    queue.wait(since, asks_at, now);
                }
                _ => queue.leave(since),
            }
        }
        if answer.is_ok() {
            credit.waits_since = None;
        }
        answer
    }

    fn ask_in_turn(
        &self,
        credit: &mut Credit,
        since: MonotonicNs,
        key: KernelKey,
        now: MonotonicNs,
    ) -> Result<Reservation, Held> {
        let device_index = credit.device_index;
        let held = |by, until| Err(Held { until, by });
        let free = Reservation {
            device_index,
            key,
            charged: GpuNs::default(),
            granted: GpuNs::default(),
            is_sure: true,
            sees_beside: false,
        };
        let (Some(device), Some(row)) = (self.devices.get(device_index), self.row(device_index))
        else {
            return Ok(free);
        };
        device.tick(now);
        let stamp = device.stamp();
        if credit.stamp != Some(stamp) {
            self.give_back(credit);
        }
        let (weight, wanting) = (Weight::of(guarantee(row)), device.wanting(now));
        device.board.come(weight, wanting);
        let (price, is_sure) = (device.prices().price(key), device.prices().is_sure(key));
        if !is_sure && let Some(then) = device.unsure_not_before(price, now) {
            device.board.want_until(then.saturating_add_ns(LATE_NS));
            return held(Obstacle::Window, then);
        }
        let charged = price.unwrap_or_else(|| device.prices().typical());
        let granted = if is_sure {
            credit.wanted(charged)
        } else {
            GpuNs::default()
        };
        let whole = GpuNs::new(charged.get().saturating_add(granted.get()));
        if let Some(then) = device.leased_not_before(key, charged, now) {
            return held(Obstacle::Share, then);
        }
        let taken = device.taken_so_far(now);
        let turns = is_sharing(row).then_some(weight);
        let cap = cap(row).filter(|cap| *cap < Percent::ALL);
        if (turns.is_some() || cap.is_some())
            && let Some((by, then)) = device.turn_not_before(turns, wanting, whole, taken, now)
        {
            return held(by, then);
        }
        if device.board.lease(now) != Lease::Ours
            && let Some(then) = Queue(&row.bucket).first_not_before(since, now)
        {
            let wanted = turns.map_or(Obstacle::Cap, |_| Obstacle::Share);
            return held(wanted, then);
        }
        if let Some(cap) = cap
            && let Some(then) = Self::capped_not_before(row, device, whole, taken, cap, now)
        {
            return held(Obstacle::Cap, then);
        }
        device.board.take_turn(weight, wanting, whole);
        device.begin(is_sure, whole, now);
        let before = credit.extend(charged, granted, stamp);
        if let Some(usage) = self.usage_row(device_index) {
            let launches = before.saturating_add(1);
            usage.launches.fetch_add(launches, Ordering::Relaxed);
            usage.charged_ns.fetch_add(whole.get(), Ordering::Relaxed);
        }
        Ok(Reservation {
            charged,
            granted,
            is_sure,
            ..free
        })
    }

    /// When to ask again because the container has used what it may at most; `None`: this is charged to its cap.
    fn capped_not_before(
        row: &DeviceRow,
        device: &Device,
        charged: GpuNs,
        taken: GpuNs,
        cap: Percent,
        now: MonotonicNs,
    ) -> Option<MonotonicNs> {
        let bucket = Bucket::new(&row.bucket.tat_ns);
        let decision = match bucket.paid_not_before(now, taken, cap, BURST) {
            Some(then) => Decision::NotBefore(then),
            None => bucket.admit(now, device.entitled_since(now), charged, cap, BURST),
        };
        match decision {
            Decision::NotBefore(then) => Some(then.saturating_add_ns(gather_ns(cap))),
            Decision::Granted => None,
        }
    }

    /// [`admit`](Self::admit), and wait as long as it takes. Holding a lock here would stop others for that long.
    pub fn acquire(&self, credit: &mut Credit, key: KernelKey, now: MonotonicNs) -> Reservation {
        self.acquire_beside(credit, key, now, |_| MonotonicNs::new(u64::MAX))
    }

    /// The same for who has something else to do while it waits: `meanwhile` does it, and says when it is to be called again. It holds no lock
    /// when it is called, and may tell of launches that have [`completed`](Self::completed).
    pub fn acquire_beside(
        &self,
        credit: &mut Credit,
        key: KernelKey,
        now: MonotonicNs,
        meanwhile: impl Fn(MonotonicNs) -> MonotonicNs,
    ) -> Reservation {
        let device_index = credit.device_index;
        let mut now = now;
        let mut has_waited = false;
        loop {
            // Before asking: what changes after the answer must not be missed.
            let gate = self.gate(device_index);
            let held = match self.ask(credit, key, now) {
                Ok(reservation) => return reservation,
                Err(held) => Held {
                    until: held.until.min(now.saturating_add_ns(ASK_AGAIN_NS)),
                    ..held
                },
            };
            now = self.sleep(device_index, gate, held, !has_waited, &meanwhile);
            has_waited = true;
        }
    }

    /// Whether this launch should be put between two timing events.
    pub fn should_time(
        &self,
        credit: &mut Credit,
        reservation: &mut Reservation,
        now: MonotonicNs,
    ) -> bool {
        let Some(device) = self.devices.get(credit.device_index) else {
            return false;
        };
        let (key, draw) = (reservation.key, &mut credit.draw);
        let is_leased = device.board.lease(now) == Lease::Ours; // all are timed
        let is_timed = is_leased || device.prices().should_time(key, draw, now);
        reservation.sees_beside = is_leased || is_timed && draw.sees_beside();
        is_timed
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
            device.learn(&reservation, timing, now);
        }
        let due = device
            .prices()
            .price(reservation.key)
            .unwrap_or(reservation.charged);
        self.correct(
            reservation.device_index,
            Correction::between(reservation.charged, due),
        );
        self.end(device, reservation, now)
    }

    /// Whether it matters when the launch begins: its price is not sure. See [`began`](Self::began).
    pub fn is_awaited(&self, reservation: &Reservation) -> bool {
        !reservation.is_sure
    }

    /// A launch whose price is not sure was seen to run, at `now` at the latest. To be told again does no harm.
    pub fn began(&self, reservation: &Reservation, now: MonotonicNs) {
        let device = self.devices.get(reservation.device_index);
        if let Some(device) = device.filter(|_| self.is_awaited(reservation)) {
            device.unsure_began(now);
        }
    }

    /// The driver refused the launch: give its reservation back.
    pub fn cancel(&self, reservation: Reservation) {
        let Some(device) = self.devices.get(reservation.device_index) else {
            return;
        };
        self.correct(
            reservation.device_index,
            Correction::Less(reservation.charged),
        );
        self.end(device, reservation, device.ticked_at());
    }

    /// While launches are outstanding: call at least every few hundred milliseconds; every few hundred microseconds makes
    /// timings more exact. Tells the other tenants that this one is alive and busy. Whether launches on credit may run still, or be
    /// made: to be called again, though nothing is outstanding.
    pub fn heartbeat(&self, now: MonotonicNs) -> bool {
        let mut lingers = false;
        for device in &self.devices {
            if device.outstanding.load(Ordering::Relaxed) > 0 {
                device.board.set_busy(now);
                device.tick(now);
            }
            lingers |= device.lingers(now);
        }
        lingers
    }

    /// How often the thread that watches looks at launches that are outstanding, in ns: seldom where a launch that waits looks as
    /// [`waiter_looks_every_ns`](Self::waiter_looks_every_ns) says, and little is lost meanwhile if it goes.
    pub fn look_every_ns(&self, waiter_looks: bool, now: MonotonicNs) -> u64 {
        const BESIDE_OTHERS_NS: u64 = 200_000;
        const ALONE_NS: u64 = 400_000;
        const BESIDE_WAITER_NS: u64 = 1_000_000;
        match (waiter_looks, self.is_alone(now)) {
            (true, _) => BESIDE_WAITER_NS,
            (false, true) => ALONE_NS,
            (false, false) => BESIDE_OTHERS_NS,
        }
    }

    /// How often a launch that waits looks, in ns; `None`: there is nothing to see. Beside other processes an end that is known late is a
    /// turn that is late, for them, too; alone it is room that is made late where there is enough.
    pub fn waiter_looks_every_ns(&self, now: MonotonicNs) -> Option<u64> {
        const BESIDE_OTHERS_NS: u64 = 100_000;
        const ALONE_NS: u64 = 400_000;
        let is_any_watched = self.devices.iter().any(Device::is_watched);
        let every_ns = || {
            if self.is_alone(now) {
                ALONE_NS
            } else {
                BESIDE_OTHERS_NS
            }
        };
        is_any_watched.then(every_ns)
    }

    /// Whether no other process uses these GPUs, or has of late.
    fn is_alone(&self, now: MonotonicNs) -> bool {
        self.devices.iter().all(|device| device.is_alone(now))
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

    fn correct(&self, device_index: usize, correction: Correction) {
        let Some(row) = self.row(device_index) else {
            return;
        };
        if let Some(cap) = cap(row) {
            Bucket::new(&row.bucket.tat_ns).settle(correction, cap);
        }
        if let Some(device) = self.devices.get(device_index) {
            device
                .board
                .correct_turn(Weight::of(guarantee(row)), correction);
        }
        if let Some(usage) = self.usage_row(device_index) {
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
        let is_news = !reservation.is_sure || is_waited_for;
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

    /// Sleeps while the gate stands as it was `seen`, but no longer than the launch is held.
    fn sleep(
        &self,
        device_index: usize,
        seen: u32,
        held: Held,
        is_first: bool,
        meanwhile: impl Fn(MonotonicNs) -> MonotonicNs,
    ) -> MonotonicNs {
        let begin = clock::monotonic();
        let mut now = begin;
        if let Some(slot) = self.slot_device(self.seat.index, device_index) {
            while now < held.until && slot.gate.load(Ordering::SeqCst) == seen {
                let until = meanwhile(now).min(held.until);
                shm::futex_wait(&slot.gate, seen, until);
                now = clock::monotonic();
            }
        }
        if let Some(usage) = self.usage_row(device_index) {
            let waited_ns = now.saturating_ns_since(begin);
            usage.throttled_ns.fetch_add(waited_ns, Ordering::Relaxed);
            let part_ns = match held.by {
                Obstacle::Cap => &usage.throttled_by_cap_ns,
                Obstacle::Share => &usage.throttled_by_share_ns,
                Obstacle::Window => &usage.throttled_by_window_ns,
            };
            part_ns.fetch_add(waited_ns, Ordering::Relaxed);
            usage
                .throttled_count
                .fetch_add(u64::from(is_first), Ordering::Relaxed);
        }
        now
    }
}

impl UsageRow {
    pub(crate) fn read(&self) -> Usage {
        Usage {
            charged_ns: self.charged_ns.load(Ordering::Relaxed),
            launches: self.launches.load(Ordering::Relaxed),
            throttled_ns: self.throttled_ns.load(Ordering::Relaxed),
            throttled_count: self.throttled_count.load(Ordering::Relaxed),
            throttled_by_cap_ns: self.throttled_by_cap_ns.load(Ordering::Relaxed),
            throttled_by_share_ns: self.throttled_by_share_ns.load(Ordering::Relaxed),
            throttled_by_window_ns: self.throttled_by_window_ns.load(Ordering::Relaxed),
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
            throttled_by_cap_ns: self
                .throttled_by_cap_ns
                .saturating_add(other.throttled_by_cap_ns),
            throttled_by_share_ns: self
                .throttled_by_share_ns
                .saturating_add(other.throttled_by_share_ns),
            throttled_by_window_ns: self
                .throttled_by_window_ns
                .saturating_add(other.throttled_by_window_ns),
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

#[cfg(loom)]
#[cfg(test)]
mod models;
#[cfg(test)]
mod tests;
