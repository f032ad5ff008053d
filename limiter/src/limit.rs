//! A limit in shared memory that configuration sets and the `set` command changes.

use crate::config::GpuLimits;
use crate::shm::layout::{DeviceRow, LimitCell};
use crate::sync::Ordering;
use crate::units::{Bytes, Percent};

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

impl DeviceRow {
    /// The limits that are enforced.
    pub(crate) fn limits(&self) -> GpuLimits {
        let percent =
            |limit: &LimitCell| Percent::from_thousandths(u32::try_from(limit.get()?).ok()?);
        GpuLimits {
            memory_bytes_max: self.memory.max.get().map(Bytes::new),
            sm: percent(&self.share.sm),
            sm_max: percent(&self.share.sm_max),
        }
    }
}
