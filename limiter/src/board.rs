//! Who has work on a GPU: one file per GPU, shared by all containers.
//!
//! The GPU gives each busy process a time slice in turn. How many were busy while a kernel ran says how much of the time
//! was its own ([`clock`]). Nothing here limits anybody: a wrong entry costs accuracy, and for a second at most,
//! for who does not say that it is busy no longer counts.

pub(crate) mod clock;
pub(crate) mod turns;

use std::io;
use std::path::{Path, PathBuf};

use crate::context::ContextCost;
use crate::shm::layout::{Activity, BoardEntry, BoardFile, Entries, Owner};
use crate::shm::{AttachError, Exclusive};
use crate::slot::{Process, Seat, used};
use crate::sync::Ordering;
use crate::units::{Bytes, DeviceUuid, MonotonicNs};

/// A busy process whose last heartbeat is older than this is stopped or dead.
pub const HEARTBEAT_NS_MAX: u64 = 1_000_000_000;

/// Leases begin no sooner one after the other, …
const LEASE_PAUSE_NS: u64 = 500_000_000;
/// … one for what was never timed alone after so long: among many who begin the last one waits for all of them, with a guess for a price.
const FIRST_LEASE_PAUSE_NS: u64 = 250_000_000;
/// No lease is longer.
const LEASE_NS_MAX: u64 = 60_000_000;

/// Whether somebody has the GPU to itself, to time a launch. Whoever holds it and dies holds it to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lease {
    /// Nobody has.
    Nobody,
    /// Another process: launch nothing before.
    Another {
        /// Its end, at the latest.
        until: MonotonicNs,
    },
    /// This one, when what the others have on the GPU is done.
    OursSoon,
    /// This one.
    Ours,
}

/// This process's place on a GPU's board. All methods are thread-safe.
#[derive(Debug)]
pub struct Board {
    seat: Seat<BoardFile>,
    device: DeviceUuid,
    /// The row of its container, once it has joined it.
    tenant: Option<usize>,
}

/// Where a GPU's board stands.
pub(crate) fn path(dir: &Path, device: DeviceUuid) -> PathBuf {
    dir.join(format!("gpu-{device}.board"))
}

/// The GPU whose board stands at `path`; `None`: another file.
pub(crate) fn device_of(path: &Path) -> Option<DeviceUuid> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("gpu-")?
        .strip_suffix(".board")?
        .parse()
        .ok()
}

impl Board {
    /// Take a place on `<dir>/gpu-<uuid>.board`, which is created where missing, as one of no container's processes.
    pub fn attach(dir: &Path, device: DeviceUuid) -> Result<Self, AttachError> {
        Self::take(dir, device, Process::current(), |_| Ok(None))
    }

    /// As a process of the container whose row `tenant` finds, under the lock under which the place is taken.
    fn take(
        dir: &Path,
        device: DeviceUuid,
        process: Process,
        tenant: impl FnOnce(&BoardFile) -> Result<Option<usize>, AttachError>,
    ) -> Result<Self, AttachError> {
        let prepare = |file: &BoardFile, _, index: usize| {
            let tenant = tenant(file)?;
            if let Some(entry) = file.entries.get(index) {
                entry.activity.belong_to(tenant);
            }
            Ok(tenant)
        };
        let (seat, tenant) = Seat::take(&path(dir, device), process, prepare)?;
        Ok(Self {
            seat,
            device,
            tenant,
        })
    }

    /// Which GPU it is of.
    pub(crate) fn device(&self) -> DeviceUuid {
        self.device
    }

    /// The folder of the shared state.
    pub(crate) fn dir(&self) -> &Path {
        self.seat.file.path().parent().unwrap_or(Path::new("/"))
    }

    /// Excludes all others who borrow, come or go.
    pub(crate) fn exclusive(&self) -> io::Result<Exclusive<'_, BoardFile>> {
        self.seat.file.exclusive()
    }

    /// This process dies: the kernel drops its locks.
    #[cfg(loom)]
    #[cfg(test)]
    pub(crate) fn die(self) {
        self.seat.file.die();
        std::mem::forget(self);
    }

    /// The driver says that the GPU has so much memory: for who asks whether the guarantees fit into it.
    pub fn set_memory_total(&self, total: Bytes) {
        self.seat
            .file
            .memory
            .total
            .store(total.get(), Ordering::Relaxed);
    }

    /// The same, and what of it is on nobody's books.
    pub(crate) fn note_memory(&self, total: Bytes, outside: u64) {
        self.set_memory_total(total);
        self.seat
            .file
            .memory
            .outside
            .store(outside, Ordering::Relaxed);
    }

    /// This process has work on the GPU: to be said again well within [`HEARTBEAT_NS_MAX`].
    pub fn set_busy(&self, now: MonotonicNs) {
        if let Some(activity) = self.own() {
            activity.heartbeat_ns.store(now.get(), Ordering::Relaxed);
            if activity.busy.load(Ordering::Relaxed) == 0 {
                self.virtual_ns(now); // up to here there was one less
                activity.busy.store(1, Ordering::Release);
            }
        }
    }

    /// This process has no work on the GPU.
    pub fn set_idle(&self, now: MonotonicNs) {
        if let Some(activity) = self.own() {
            self.virtual_ns(now); // up to here there was one more
            activity.busy.store(0, Ordering::Release);
        }
    }

    /// How many processes have work on the GPU.
    pub fn n_busy(&self, now: MonotonicNs) -> u32 {
        u32::try_from(self.busy(now).count()).unwrap_or(u32::MAX)
    }

    /// Whether another process has work on the GPU.
    pub(crate) fn is_shared(&self, now: MonotonicNs) -> bool {
        self.busy(now).any(|index| index != self.seat.index)
    }

    fn busy(&self, now: MonotonicNs) -> impl Iterator<Item = usize> {
        used(&*self.seat.file).filter(move |index| {
            let entry = self.seat.file.entries.get(*index);
            entry.is_some_and(|entry| entry.activity.is_busy(now))
        })
    }

    /// Asks the others to launch nothing for so long; whether they will. It may end before. `is_first`: to time what never was, alone.
    pub(crate) fn try_lease(&self, now: MonotonicNs, length_ns: u64, is_first: bool) -> bool {
        let lease = &self.seat.file.lease;
        let due = lease.next_ns.load(Ordering::Relaxed);
        let next = now.get().saturating_add(LEASE_PAUSE_NS);
        let pause_ns = if is_first {
            FIRST_LEASE_PAUSE_NS
        } else {
            LEASE_PAUSE_NS
        };
        // Later than that nobody can have set it: the clock began anew.
        let is_due = due <= next.saturating_sub(pause_ns) || due > next;
        let is_ours = is_due
            && lease
                .next_ns
                .compare_exchange(due, next, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if is_ours {
            let until = now.saturating_add_ns(length_ns.min(LEASE_NS_MAX));
            lease.holder.store(self.holder(), Ordering::Relaxed);
            lease.until_ns.store(until.get(), Ordering::Release);
        }
        is_ours
    }

    /// Who has the GPU to itself.
    pub(crate) fn lease(&self, now: MonotonicNs) -> Lease {
        let lease = &self.seat.file.lease;
        let until = MonotonicNs::new(lease.until_ns.load(Ordering::Acquire));
        if until <= now || until > now.saturating_add_ns(LEASE_NS_MAX) {
            Lease::Nobody // over, or of before the clock began anew
        } else if lease.holder.load(Ordering::Relaxed) != self.holder() {
            Lease::Another { until }
        } else if self.is_shared(now) {
            Lease::OursSoon
        } else {
            Lease::Ours
        }
    }

    /// Up to when somebody has the GPU to itself, or had.
    #[inline]
    pub(crate) fn leased_until_ns(&self) -> u64 {
        self.seat.file.lease.until_ns.load(Ordering::Relaxed)
    }

    /// Gives back what this process holds.
    pub(crate) fn end_lease(&self) {
        let lease = &self.seat.file.lease;
        if lease.holder.load(Ordering::Relaxed) == self.holder() {
            lease.until_ns.store(0, Ordering::Release);
        }
    }

    fn holder(&self) -> u64 {
        u64::try_from(self.seat.index)
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }

    /// What a context takes of the GPU, under the driver of that version.
    pub fn context_cost(&self, driver_version: u32) -> ContextCost<'_> {
        ContextCost::new(&self.seat.file.contexts, driver_version)
    }

    fn own(&self) -> Option<&Activity> {
        let entry = self.seat.file.entries.get(self.seat.index)?;
        self.seat.is_ours().then_some(&entry.activity)
    }
}

impl Activity {
    /// Is of a process of the container of that row from now on; `None`: of none.
    fn belong_to(&self, tenant: Option<usize>) {
        let number = tenant.map_or(0, |row| row.saturating_add(1));
        let number = u32::try_from(number).unwrap_or(0);
        self.tenant.store(number, Ordering::Relaxed);
    }

    fn is_busy(&self, now: MonotonicNs) -> bool {
        let heartbeat = MonotonicNs::new(self.heartbeat_ns.load(Ordering::Relaxed));
        self.busy.load(Ordering::Acquire) == 1
            && now.saturating_ns_since(heartbeat) < HEARTBEAT_NS_MAX
    }
}

impl Entries for BoardFile {
    const ENTRY_BYTES: usize = size_of::<BoardEntry>();

    fn owner(&self, index: usize) -> Option<&Owner> {
        self.entries.get(index).map(|entry| &entry.owner)
    }

    fn retire(&self, index: usize) {
        if let Some(entry) = self.entries.get(index) {
            entry.activity.wants_until_ns.store(0, Ordering::Relaxed);
            entry.activity.outstanding_ns.store(0, Ordering::Relaxed);
            entry.activity.tenant.store(0, Ordering::Relaxed);
            entry.activity.busy.store(0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const GPU: DeviceUuid = DeviceUuid::from_bytes([7; 16]);

    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs::new(10_000 * MS + ms * MS)
    }

    #[test]
    fn the_busy_are_counted_while_they_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let boards = [(); 3].map(|()| Board::attach(dir.path(), GPU).unwrap());
        assert_eq!(boards[0].n_busy(at(0)), 0);
        boards[0].set_busy(at(0));
        boards[1].set_busy(at(500));
        assert_eq!(boards[2].n_busy(at(500)), 2);
        assert_eq!(
            boards[2].n_busy(at(1_200)),
            1,
            "one was silent for more than a second"
        );
        boards[1].set_idle(at(500));
        assert_eq!(boards[2].n_busy(at(500)), 1);
    }

    #[test]
    fn who_leaves_is_busy_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let (stays, goes) = (
            Board::attach(dir.path(), GPU).unwrap(),
            Board::attach(dir.path(), GPU).unwrap(),
        );
        goes.set_busy(at(0));
        drop(goes);
        assert_eq!(stays.n_busy(at(0)), 0);
    }

    #[test]
    fn a_lease_keeps_the_others_off_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let [holder, other] = [(); 2].map(|()| Board::attach(dir.path(), GPU).unwrap());
        assert_eq!(other.lease(at(0)), Lease::Nobody);
        assert!(holder.try_lease(at(0), 20 * MS, false));
        assert_eq!(other.lease(at(1)), Lease::Another { until: at(20) });
        assert_eq!(holder.lease(at(1)), Lease::Ours);
        assert_eq!(other.lease(at(20)), Lease::Nobody, "its time is over");
        other.end_lease();
        assert_eq!(holder.lease(at(1)), Lease::Ours, "not the other's to end");
        holder.end_lease();
        assert_eq!(other.lease(at(1)), Lease::Nobody);
    }

    #[test]
    fn a_lease_begins_when_the_others_work_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let [holder, other] = [(); 2].map(|()| Board::attach(dir.path(), GPU).unwrap());
        holder.set_busy(at(0));
        other.set_busy(at(0));
        assert!(holder.try_lease(at(0), 20 * MS, false));
        assert_eq!(holder.lease(at(1)), Lease::OursSoon);
        other.set_idle(at(1));
        assert_eq!(holder.lease(at(1)), Lease::Ours);
    }

    #[test]
    fn leases_are_short_and_rare() {
        let dir = tempfile::tempdir().unwrap();
        let boards = [(); 2].map(|()| Board::attach(dir.path(), GPU).unwrap());
        assert!(boards[0].try_lease(at(0), 10_000 * MS, false));
        assert_eq!(boards[1].lease(at(1)), Lease::Another { until: at(60) });
        assert_eq!(boards[1].lease(at(60)), Lease::Nobody);
        assert!(
            !boards[1].try_lease(at(499), MS, false),
            "so soon after the last"
        );
        assert!(boards[1].try_lease(at(500), MS, false));
        assert!(!boards[0].try_lease(at(749), MS, true));
        assert!(boards[0].try_lease(at(750), MS, true), "for the first time");
    }

    #[test]
    fn a_lease_from_before_a_reboot_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let boards = [(); 2].map(|()| Board::attach(dir.path(), GPU).unwrap());
        assert!(boards[0].try_lease(at(3_600_000), 20 * MS, false));
        assert_eq!(boards[1].lease(at(0)), Lease::Nobody);
        assert!(boards[1].try_lease(at(0), 20 * MS, false));
    }
}
