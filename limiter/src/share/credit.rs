//! GPU time in hand: what a thread has set aside for its next launches on a stream, so that these ask nobody.
//!
//! A launch of short kernels sets aside time for the ones behind it, too: a part of what the thread has launched since its process last
//! had nothing on the GPU for a while. They are priced and taken off the credit, and that is all: no clock, no event, no word that others write. When it
//! is used up, or has ceased to count, the next launch asks again, and the event behind that one tells that all before it have ended.
//!
//! Threads have nothing of it in common: what they have, the bucket and the window that it was set aside from, is modelled in `models.rs`.

use crate::price::Draw;
use crate::units::{GpuNs, MonotonicNs};

/// No credit is larger: so much may run after the last event behind a launch, and so much may be lost with a thread that ends.
pub(super) const CREDIT: GpuNs = GpuNs::new(200_000);
/// It is so small a part of what was launched.
const PART: u64 = 4;

/// One thread's credit for launches on one stream.
#[derive(Debug)]
pub struct Credit {
    pub(super) device_index: usize,
    pub(super) draw: Draw,
    /// Under which it counts; `None`: under none.
    pub(super) stamp: Option<Stamp>,
    left_ns: u64,
    /// What was launched since it last began to count.
    launched_ns: u64,
    /// Launches on credit that are not in the process's figures yet.
    launches: u64,
    /// Since when the thread's next launch on the stream has waited; `None`: it has not asked yet.
    pub(super) waits_since: Option<MonotonicNs>,
}

/// Credit ceases to count with any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// How often the process has had nothing on the GPU for a while.
    pub(super) rests: u64,
    /// Up to when somebody has the GPU to itself, or had.
    pub(super) leased_until_ns: u64,
}

impl Credit {
    pub(super) fn new(device_index: usize, draw: Draw) -> Self {
        Self {
            device_index,
            draw,
            stamp: None,
            left_ns: 0,
            launched_ns: 0,
            launches: 0,
            waits_since: None,
        }
    }

    /// Takes a launch of this price off it; whether there was enough.
    #[inline]
    pub(super) fn spend(&mut self, price: GpuNs) -> bool {
        let Some(left_ns) = self.left_ns.checked_sub(price.get()) else {
            return false;
        };
        self.left_ns = left_ns;
        self.launches = self.launches.saturating_add(1);
        true
    }

    /// The driver refused a launch of this price that was taken off it.
    pub fn refund(&mut self, price: GpuNs) {
        self.left_ns = self.left_ns.saturating_add(price.get());
        self.launches = self.launches.saturating_sub(1);
    }

    /// How much is to be set aside with a launch of this price.
    pub(super) fn wanted(&self, price: GpuNs) -> GpuNs {
        let due_ns = CREDIT.get().min(self.launched_ns / PART);
        let is_of_use = price <= CREDIT;
        let wanted_ns = is_of_use.then(|| due_ns.saturating_sub(self.left_ns));
        GpuNs::new(wanted_ns.unwrap_or(0))
    }

    /// A launch of this price goes, with so much set aside under `stamp`; how many went on credit before it.
    pub(super) fn extend(&mut self, price: GpuNs, granted: GpuNs, stamp: Stamp) -> u64 {
        self.stamp = Some(stamp);
        let spent_ns = price.get().saturating_add(granted.get());
        self.launched_ns = self.launched_ns.saturating_add(spent_ns);
        self.left_ns = self.left_ns.saturating_add(granted.get());
        std::mem::take(&mut self.launches)
    }

    /// Lets go of what is left, in GPU time.
    pub(super) fn void(&mut self) -> GpuNs {
        self.stamp = None;
        self.launched_ns = 0;
        GpuNs::new(std::mem::take(&mut self.left_ns))
    }
}
