//! The memory quota of a container: who holds how many bytes of which GPU.
//!
//! One slot per process, with the bytes it holds, and no shared total that a crash could leave wrong. A charge is first
//! announced (`pending_bytes`), then the slots are summed: of two processes at the last gap at least one sees the other.
//! Who sees too much withdraws and asks again under a lock that the kernel drops when its holder dies; there the dead
//! are reaped, and a refusal is given only when the bytes *granted* leave no room and nothing was granted meanwhile. So
//! the sum never exceeds the maximum, and a refusal is never another's withdrawn attempt.
//!
//! What is past the container's guarantee (`soft`) is granted only by who asks for it: see [`lending`](crate::lending). What lies on the
//! host (spilled) is counted apart, and together with the rest never exceeds the maximum.
//!
//! `device_index` is always an index into the list that [`Ledger::attach`] was given; of any other, nothing is granted.

mod attempt;
mod over_quota;
mod reach;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::attempt::Attempt;
pub use self::over_quota::{Bound, OverQuota};
pub(crate) use self::reach::Reach;
pub use self::reach::Residence;
use crate::config::{ContainerName, GpuLimits, MemoryLimits};
use crate::limit::Rewritten;
use crate::refusals::{self, Refused};
use crate::shm::layout::{ContainerFile, DEVICES_MAX, DeviceRow, MemoryRow, SlotDevice};
use crate::shm::{AttachError, Exclusive};
use crate::slot::{Company, Process, Seat, used};
use crate::sync::{AtomicU64, Ordering, yield_now};
use crate::units::{Bytes, DeviceUuid, MonotonicNs};

/// This process's place in its container's ledger. All methods are thread-safe. One per process and container.
#[derive(Debug)]
pub struct Ledger {
    container: ContainerName,
    seat: Arc<Seat<ContainerFile>>,
    /// The file's row of each device index.
    rows: Vec<usize>,
}

/// Bytes that are charged but not yet allocated: dropped, they are given back.
#[derive(Debug)]
#[must_use = "dropping a charge gives it back"]
pub struct Charge<'a> {
    ledger: &'a Ledger,
    device_index: usize,
    bytes: Bytes,
    residence: Residence,
}

/// A container's memory on one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// What it may hold.
    pub max: Bytes,
    /// Whether all of that is guaranteed.
    pub is_guaranteed: bool,
    /// What its living processes hold, spilled memory too.
    pub current: Bytes,
}

/// A process of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// Process id in the process's own pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot, `/proc/<pid>/stat` field 22.
    pub start_time: u64,
    /// Bytes held on each GPU, by `device_index`.
    pub bytes: Vec<Bytes>,
}

/// How often an attempt that found others deciding is repeated before it is refused. They decide within microseconds,
/// and those that fail queue behind us: only a process stopped in between (SIGSTOP) can use this up.
const ATTEMPTS_MAX: u32 = if cfg!(loom) { 20 } else { 100_000 };
/// After so many of them the dead are looked for again: one may have died while it decided.
const ATTEMPTS_BETWEEN_REAPS: u32 = if cfg!(loom) { 2 } else { 64 };

/// Where a container's file stands.
pub(crate) fn path(dir: &Path, container: &ContainerName) -> PathBuf {
    dir.join(container.as_str()).join("ledger")
}

impl Ledger {
    /// Take a place in `<dir>/<container>/ledger`, which is created where missing.
    ///
    /// Each GPU comes with its limits, those of its [`Share`](crate::share::Share) among them: one lock is for all. `None` is no limit. The first
    /// process of the container decides; a later one can only lower.
    ///
    /// # Errors
    /// The folder or file cannot be made, has no space, is not of this layout, or has no place for another process
    /// (1024) or GPU (16).
    pub fn attach<L: Into<GpuLimits> + Copy>(
        dir: &Path,
        container: &ContainerName,
        devices: &[(DeviceUuid, L)],
    ) -> Result<Self, AttachError> {
        let path = path(dir, container);
        let full = || AttachError::Full {
            path: path.clone(),
            what: "GPU",
        };
        let process = Process::current();
        let (seat, rows) = Seat::take(&path, process, |file: &ContainerFile, company, _| {
            if company == Company::Alone {
                file.devices.iter().for_each(DeviceRow::forget_limits);
                let memory = file.devices.iter().map(|row| &row.memory);
                memory.for_each(|row| row.has_spilled.store(0, Ordering::SeqCst));
                file.config.stamp_ns.store(0, Ordering::SeqCst);
            }
            let rows = devices.iter().map(|&(uuid, limits)| {
                let row = file.row_of(uuid).ok_or_else(full)?;
                let shared = file.devices.get(row).ok_or_else(full)?;
                shared.configure(limits.into(), Rewritten::Known);
                Ok(row)
            });
            rows.collect::<Result<Vec<usize>, AttachError>>()
        })?;
        Ok(Self {
            container: container.clone(),
            seat: Arc::new(seat),
            rows,
        })
    }

    /// Charge `bytes` before allocating them.
    ///
    /// # Errors
    /// The container would hold more than its maximum, or than its guarantee: nothing is charged then. What is past the guarantee may be
    /// [borrowed](Self::try_borrow) or [spilled](Self::try_spill).
    pub fn try_charge(&self, device_index: usize, bytes: Bytes) -> Result<Charge<'_>, OverQuota> {
        match self.attempt(device_index, bytes, Reach::Guaranteed) {
            Attempt::Granted => {}
            Attempt::OverAlone(over) => return Err(over),
            Attempt::Over(_) | Attempt::Contended(_) => {
                self.charge_exclusively(device_index, bytes, Reach::Guaranteed)?
            }
        }
        Ok(self.granted_charge(device_index, bytes, Residence::Device))
    }

    /// The same if nobody has to be waited for and nothing is in doubt; `None`: [`try_charge`](Self::try_charge) may still do it, or says
    /// why not.
    #[inline]
    pub fn try_charge_at_once(&self, device_index: usize, bytes: Bytes) -> Option<Charge<'_>> {
        let is_granted = self.attempt_at_once(device_index, bytes, Reach::Guaranteed);
        is_granted.then(|| self.granted_charge(device_index, bytes, Residence::Device))
    }

    /// Charge `bytes` that will lie on the host, within what the quota has left beside what is on the GPU.
    ///
    /// # Errors
    /// The quota has no room for them: nothing is charged then.
    pub fn try_spill(&self, device_index: usize, bytes: Bytes) -> Result<Charge<'_>, OverQuota> {
        if let Some(row) = self.row(device_index) {
            // Before the first of them is announced: from here on every charge of the container looks at them.
            row.memory.has_spilled.store(1, Ordering::SeqCst);
        }
        self.charge_exclusively(device_index, bytes, Reach::Spilled)?;
        Ok(self.granted_charge(device_index, bytes, Residence::Host))
    }

    /// For bytes that were just granted.
    #[inline]
    pub(crate) fn granted_charge(
        &self,
        device_index: usize,
        bytes: Bytes,
        residence: Residence,
    ) -> Charge<'_> {
        Charge {
            ledger: self,
            device_index,
            bytes,
            residence,
        }
    }

    /// Charge what is in use already, whatever the quota says (contexts, modules).
    pub fn charge(&self, device_index: usize, bytes: Bytes) {
        let Some((row, slot)) = self.place(device_index) else {
            return;
        };
        slot.grant(bytes.get(), Residence::Device);
        raise(&row.memory.peak, self.granted(device_index));
    }

    /// Give back `bytes` that this process had charged. More than it holds is all it holds.
    pub fn uncharge(&self, device_index: usize, bytes: Bytes) {
        self.give_back(device_index, bytes, Residence::Device);
    }

    /// The same, of bytes that lie where they were charged.
    #[inline]
    pub fn give_back(&self, device_index: usize, bytes: Bytes, residence: Residence) {
        let Some((_, slot)) = self.place(device_index) else {
            return;
        };
        let less = |held: u64| Some(held.saturating_sub(bytes.get()));
        let _always_some =
            slot.held(residence)
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    }

    /// Notes that the program's `call` was answered with a refusal, for who asks why: see [`sample`](crate::sample).
    ///
    /// Charges nothing and allocates nothing. Names of calls have at most 48 bytes; more than 64 different ones are not told apart.
    pub fn note_refused(&self, device_index: usize, call: &str, over: OverQuota, at: MonotonicNs) {
        let (Some(slot), Some(&device)) = (self.seat.slot(), self.rows.get(device_index)) else {
            return;
        };
        let refused = Refused {
            call: None,
            device,
            pid: self.seat.process.pid,
            over,
            at,
        };
        refusals::note(&self.seat.file, slot, call, refused);
    }

    /// What the container's living processes hold on the GPU.
    pub fn current(&self, device_index: usize) -> Bytes {
        self.held_by_living(device_index, |part| part.bytes.load(Ordering::SeqCst))
    }

    /// What they hold on the host instead.
    pub fn spilled(&self, device_index: usize) -> Bytes {
        match self.row(device_index) {
            Some(row) if row.memory.has_spilled() => self.held_by_living(device_index, |part| {
                part.spilled_bytes.load(Ordering::SeqCst)
            }),
            _ => Bytes::default(),
        }
    }

    /// Both together, beside what bounds them ([`MemoryLimits::wall`]); `None`: nothing does.
    #[inline(always)]
    pub fn memory_use(&self, device_index: usize) -> Option<MemoryUse> {
        let memory = &self.row(device_index)?.memory;
        let limits = memory.limits();
        let on_device = |part: &SlotDevice| part.bytes.load(Ordering::SeqCst);
        let current = if memory.has_spilled() {
            self.held_by_living(device_index, |part| {
                on_device(part).saturating_add(part.spilled_bytes.load(Ordering::SeqCst))
            })
        } else {
            self.held_by_living(device_index, on_device)
        };
        Some(MemoryUse {
            max: limits.wall()?,
            is_guaranteed: limits.soft.is_none(),
            current,
        })
    }

    #[inline]
    fn held_by_living(&self, device_index: usize, held: impl Fn(&SlotDevice) -> u64) -> Bytes {
        let own = self.place(device_index).map_or(0, |(_, part)| held(part));
        let others = if self.has_others() {
            self.held_by_others(device_index, held)
        } else {
            0
        };
        Bytes::new(own.saturating_add(others))
    }

    #[inline(never)]
    fn held_by_others(&self, device_index: usize, held: impl Fn(&SlotDevice) -> u64) -> u64 {
        let others = self.others_parts(device_index);
        let held = others.filter_map(|(index, part)| {
            // Who holds nothing need not be looked for.
            let bytes = held(part);
            (bytes > 0 && self.seat.owner_of(index).is_some()).then_some(bytes)
        });
        held.fold(0, u64::saturating_add)
    }

    /// What this process holds.
    pub fn own(&self, device_index: usize) -> Bytes {
        self.held_by(self.seat.index, device_index)
    }

    /// How many charges this process was granted. While it stays the same, what the process holds does not grow.
    pub fn own_grants(&self, device_index: usize) -> u64 {
        self.place(device_index)
            .map_or(0, |(_, slot)| slot.grants.load(Ordering::SeqCst))
    }

    /// What the container may hold; `None`: no limit.
    pub fn max(&self, device_index: usize) -> Option<Bytes> {
        self.row(device_index)?.memory.max.get().map(Bytes::new)
    }

    /// Whether what is past the container's guarantee goes to the host.
    pub fn may_spill(&self, device_index: usize) -> bool {
        self.row(device_index)
            .is_some_and(|row| row.memory.spill.get().is_none())
    }

    /// What the container's memory is limited to.
    pub fn limits(&self, device_index: usize) -> MemoryLimits {
        self.row(device_index)
            .map(|row| row.memory.limits())
            .unwrap_or_default()
    }

    /// The most the container has held since its ledger was made.
    pub fn peak(&self, device_index: usize) -> Bytes {
        Bytes::new(
            self.row(device_index)
                .map_or(0, |row| row.memory.peak.load(Ordering::Relaxed)),
        )
    }

    /// The living processes of the container, this one among them.
    pub fn processes(&self) -> Vec<SlotInfo> {
        let info = |(index, process): (usize, Process)| SlotInfo {
            pid: process.pid,
            start_time: process.start_time,
            bytes: (0..self.rows.len())
                .map(|device_index| self.held_by(index, device_index))
                .collect(),
        };
        self.seat.living().map(info).collect()
    }

    /// In a forked child: let go of the parent's place without touching what it holds.
    pub fn forget_after_fork(self) {
        drop(self); // a seat that another process took is only unmapped
    }

    /// Whose ledger it is.
    pub(crate) fn container(&self) -> &ContainerName {
        &self.container
    }

    /// The place in the container's file, for whoever keeps account of something else there.
    pub(crate) fn seat(&self) -> &Arc<Seat<ContainerFile>> {
        &self.seat
    }

    /// The file's rows, by device index.
    pub(crate) fn rows(&self) -> &[usize] {
        &self.rows
    }

    fn row(&self, device_index: usize) -> Option<&DeviceRow> {
        self.seat.file.devices.get(*self.rows.get(device_index)?)
    }

    /// The GPU's row and this process's part of it; `None` also when the slot was taken for dead and is another's now.
    #[inline]
    fn place(&self, device_index: usize) -> Option<(&DeviceRow, &SlotDevice)> {
        let slot = self.seat.slot()?;
        let row = *self.rows.get(device_index)?;
        Some((self.seat.file.devices.get(row)?, slot.devices.get(row)?))
    }

    fn held_by(&self, index: usize, device_index: usize) -> Bytes {
        self.held_at(index, device_index, Residence::Device)
    }

    fn held_at(&self, index: usize, device_index: usize, residence: Residence) -> Bytes {
        let row = self.rows.get(device_index);
        let held = row.and_then(|row| self.seat.file.slots.get(index)?.devices.get(*row));
        Bytes::new(held.map_or(0, |device| device.held(residence).load(Ordering::SeqCst)))
    }

    /// Whether any slot but this process's may be taken: who takes one raises the number of those that are looked at first.
    #[inline]
    fn has_others(&self) -> bool {
        used(&*self.seat.file).len() > 1
    }

    /// Every slot's part of a GPU but this process's, with its number.
    fn others_parts(&self, device_index: usize) -> impl Iterator<Item = (usize, &SlotDevice)> {
        let all = self.parts(device_index).enumerate();
        all.filter(|(index, _)| *index != self.seat.index)
    }

    /// Every slot's part of a GPU, the free ones' (zero) included.
    fn parts(&self, device_index: usize) -> impl Iterator<Item = &SlotDevice> {
        let row = self.rows.get(device_index).copied().unwrap_or(DEVICES_MAX);
        let file = &*self.seat.file;
        let slots = file.slots.get(used(file)).unwrap_or_default();
        slots.iter().filter_map(move |slot| slot.devices.get(row))
    }

    /// The same with all others that were refused waiting behind us, and without the dead.
    fn charge_exclusively(
        &self,
        device_index: usize,
        bytes: Bytes,
        reach: Reach,
    ) -> Result<(), OverQuota> {
        match self.seat.file.exclusive() {
            Ok(exclusive) => self.charge_under(&exclusive, device_index, bytes, reach),
            // Without the lock nobody can tell the dead from the living: what they hold counts.
            Err(_) => self.attempt(device_index, bytes, reach).into_result(),
        }
    }

    /// Decides as the only one who does, but for those who fit at once.
    pub(crate) fn charge_under(
        &self,
        exclusive: &Exclusive<'_, ContainerFile>,
        device_index: usize,
        bytes: Bytes,
        reach: Reach,
    ) -> Result<(), OverQuota> {
        let mut refusal = OverQuota {
            asked: bytes,
            ..OverQuota::default()
        };
        for attempt in 0..ATTEMPTS_MAX {
            if attempt.is_multiple_of(ATTEMPTS_BETWEEN_REAPS) {
                // Where the own lock cannot be had again, the next reader still finds this process by pid and start time.
                let _ = self.seat.reap(exclusive);
            }
            match self.attempt(device_index, bytes, reach) {
                Attempt::Granted => return Ok(()),
                Attempt::OverAlone(over) | Attempt::Over(over) => return Err(over),
                Attempt::Contended(over) => refusal = over,
            }
            yield_now();
        }
        Err(refusal)
    }

    /// What was granted to the container's processes, whether they live or not.
    pub(crate) fn granted(&self, device_index: usize) -> u64 {
        self.sum(device_index, |part| &part.bytes)
    }

    fn sum(&self, device_index: usize, of: impl Fn(&SlotDevice) -> &AtomicU64) -> u64 {
        self.parts(device_index)
            .map(|part| of(part).load(Ordering::SeqCst))
            .fold(0, u64::saturating_add)
    }
}

/// Makes a peak at least `bytes`; a line that others read too is written only where it has to be.
#[inline]
fn raise(peak: &AtomicU64, bytes: u64) {
    if peak.load(Ordering::Relaxed) < bytes {
        peak.fetch_max(bytes, Ordering::Relaxed);
    }
}

impl SlotDevice {
    /// Whether so much more could be announced: more than all numbers cannot.
    #[inline]
    fn announce(&self, bytes: u64) -> bool {
        let more = |pending: u64| pending.checked_add(bytes);
        let announced = self
            .pending_bytes
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        announced.is_ok()
    }

    /// What was granted there.
    #[inline]
    fn held(&self, residence: Residence) -> &AtomicU64 {
        match residence {
            Residence::Device => &self.bytes,
            Residence::Host => &self.spilled_bytes,
        }
    }

    /// Counted before it is added: whoever sums sees either the old count or the bytes.
    #[inline]
    fn grant(&self, bytes: u64, residence: Residence) {
        self.grants.fetch_add(1, Ordering::SeqCst);
        let more = |held: u64| Some(held.saturating_add(bytes));
        let before = self
            .held(residence)
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        if residence == Residence::Device {
            let held = before.map_or(0, |held| held.saturating_add(bytes)); // it is always some
            raise(&self.peak_bytes, held);
        }
    }
}

impl ContainerFile {
    /// The row of a GPU, made where missing. Under the exclusive lock.
    fn row_of(&self, uuid: DeviceUuid) -> Option<usize> {
        let found = self.devices.iter().position(|row| row.uuid() == Some(uuid));
        found.or_else(|| {
            let row = self.devices.iter().position(|row| row.uuid().is_none())?;
            self.devices.get(row)?.name(uuid);
            Some(row)
        })
    }
}

impl DeviceRow {
    /// Which GPU this row is about; `None`: it is free.
    pub(crate) fn uuid(&self) -> Option<DeviceUuid> {
        if self.identity.state.load(Ordering::Acquire) == 0 {
            return None;
        }
        let [high, low] = &self.identity.uuid;
        let value = u128::from(high.load(Ordering::Relaxed)) << 64
            | u128::from(low.load(Ordering::Relaxed));
        Some(DeviceUuid::from_bytes(value.to_be_bytes()))
    }

    /// No process lives that configured these limits.
    pub(crate) fn forget_limits(&self) {
        let MemoryRow {
            max, soft, spill, ..
        } = &self.memory;
        for limit in [max, soft, spill, &self.share.sm, &self.share.sm_max] {
            limit.forget();
        }
    }

    fn name(&self, uuid: DeviceUuid) {
        self.forget_limits();
        let value = u128::from_be_bytes(uuid.to_bytes());
        let half = |part: u128| u64::try_from(part & u128::from(u64::MAX)).unwrap_or(0);
        let [high, low] = &self.identity.uuid;
        high.store(half(value >> 64), Ordering::Relaxed);
        low.store(half(value), Ordering::Relaxed);
        self.identity.state.store(1, Ordering::Release);
    }
}

impl Charge<'_> {
    /// Where the bytes will lie.
    #[inline]
    pub fn residence(&self) -> Residence {
        self.residence
    }

    /// The allocation succeeded: keep the charge. Returns what to `uncharge` at the free.
    #[inline]
    pub fn commit(mut self) -> Bytes {
        std::mem::take(&mut self.bytes) // what is dropped gives back nothing
    }

    /// A panic may have come after the driver has granted the memory: then the charge stays, until the process ends.
    #[cold]
    fn give_back(&self) {
        if std::thread::panicking() {
            return;
        }
        self.ledger
            .give_back(self.device_index, self.bytes, self.residence);
    }
}

impl Drop for Charge<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.bytes != Bytes::default() {
            self.give_back();
        }
    }
}

#[cfg(loom)]
#[cfg(test)]
pub(crate) mod models;
#[cfg(not(loom))]
#[cfg(test)]
mod tests;
