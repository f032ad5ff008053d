//! A limit in shared memory that configuration sets and the `set` command changes.

use crate::bucket::Bucket;
use crate::config::{GpuLimits, MemoryLimits};
use crate::share;
use crate::shm;
use crate::shm::layout::{ContainerFile, DeviceRow, LimitCell, MemoryRow, SlotDevice};
use crate::slot::used;
use crate::sync::Ordering;
use crate::units::{Bytes, MonotonicNs, Percent};

const NO_LIMIT: u64 = u64::MAX;
const NOBODYS: u64 = u64::MAX - 1;

impl LimitCell {
    /// No process lives that configured this limit: the next one decides.
    pub(crate) fn forget(&self) {
        self.configured.store(NOBODYS, Ordering::SeqCst);
    }

    /// A process with this configuration takes part. Under the file's exclusive lock.
    ///
    /// The first one decides. A later one, while others live, can only lower: so whoever starts a program with a smaller
    /// limit in its environment gets it, and a limit that `set` has changed outlives the next process of the same
    /// configuration.
    pub(crate) fn configure(&self, limit: Option<u64>) {
        let limit = limit.unwrap_or(NO_LIMIT);
        let configured = self.configured.load(Ordering::SeqCst);
        if configured == NOBODYS {
            self.configured.store(limit, Ordering::SeqCst);
            self.value.store(limit, Ordering::SeqCst);
        } else if limit < configured {
            self.configured.store(limit, Ordering::SeqCst);
            self.value.fetch_min(limit, Ordering::SeqCst);
        }
    }

    /// What is enforced; `None`: no limit.
    #[inline]
    pub(crate) fn get(&self) -> Option<u64> {
        let value = self.value.load(Ordering::SeqCst);
        (value != NO_LIMIT).then_some(value)
    }

    /// Change what is enforced.
    pub(crate) fn set(&self, limit: Option<u64>) {
        self.value
            .store(limit.unwrap_or(NO_LIMIT), Ordering::SeqCst);
    }
}

/// What a config file that was rewritten does to limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rewritten {
    /// Its limits count, whatever was configured or changed before.
    Anew,
    /// Another process has obeyed it already: it only lowers.
    Known,
}

impl DeviceRow {
    /// A process takes part, or its config file was rewritten. Under the file's exclusive lock.
    pub(crate) fn configure(&self, limits: GpuLimits, rewritten: Rewritten) {
        if rewritten == Rewritten::Anew {
            self.forget_limits();
        }
        self.memory.configure(limits.into());
        self.share.sm.configure(limits.sm.map(share::thousandths));
        self.share
            .sm_max
            .configure(limits.sm_max.map(share::thousandths));
    }

    /// The limits that are enforced.
    pub(crate) fn limits(&self) -> GpuLimits {
        let percent =
            |limit: &LimitCell| Percent::from_thousandths(u32::try_from(limit.get()?).ok()?);
        GpuLimits {
            sm: percent(&self.share.sm),
            sm_max: percent(&self.share.sm_max),
            ..self.memory.limits().into()
        }
    }
}

/// How much may be spilled, as a limit: all or nothing.
fn spillable(spill: bool) -> Option<u64> {
    (!spill).then_some(0)
}

impl MemoryRow {
    /// A process with this configuration takes part. Under the file's exclusive lock.
    pub(crate) fn configure(&self, limits: MemoryLimits) {
        self.max.configure(limits.max.map(Bytes::get));
        self.soft.configure(limits.soft.map(Bytes::get));
        self.spill.configure(spillable(limits.spill));
    }

    /// Change what is enforced.
    pub(crate) fn set(&self, limits: MemoryLimits) {
        self.max.set(limits.max.map(Bytes::get));
        self.soft.set(limits.soft.map(Bytes::get));
        self.spill.set(spillable(limits.spill));
    }

    /// What is enforced.
    pub(crate) fn limits(&self) -> MemoryLimits {
        MemoryLimits {
            max: self.max.get().map(Bytes::new),
            soft: self.soft.get().map(Bytes::new),
            spill: self.spill.get().is_none(),
        }
    }
}

/// Let the launches that wait in this slot look again.
pub(crate) fn open_gate(slot: &SlotDevice) {
    slot.gate.fetch_add(1, Ordering::SeqCst);
    shm::futex_wake_all(&slot.gate);
}

/// Give the container of `file` other shares of the GPU of that row while its programs run. What is owed stays owed;
/// waiting launches look again.
pub(crate) fn change_share(file: &ContainerFile, row: usize, limits: GpuLimits, now: MonotonicNs) {
    let Some(device) = file.devices.get(row) else {
        return;
    };
    let before = share::cap(device);
    device.share.sm.set(limits.sm.map(share::thousandths));
    device
        .share
        .sm_max
        .set(limits.sm_max.map(share::thousandths));
    share_changed(file, row, before, now);
}

/// The cap of the GPU of that row is another than `before`.
pub(crate) fn share_changed(
    file: &ContainerFile,
    row: usize,
    before: Option<Percent>,
    now: MonotonicNs,
) {
    let device = file.devices.get(row);
    if let (Some(device), Some(from)) = (device, before)
        && let Some(to) = share::cap(device)
    {
        Bucket::new(&device.bucket.tat_ns).rescale(now, from, to);
    }
    used(file)
        .filter_map(|index| file.slots.get(index)?.devices.get(row))
        .for_each(open_gate);
}
