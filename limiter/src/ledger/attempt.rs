//! One attempt at a charge: announced, summed, granted or withdrawn.

use super::reach::{Reach, Room};
use super::{Bound, Ledger, OverQuota, Residence, raise};
use crate::shm::layout::{DeviceRow, SlotDevice};
use crate::sync::Ordering;
use crate::units::Bytes;

/// The outcome of announcing a charge and summing.
pub(super) enum Attempt {
    /// Charged.
    Granted,
    /// The bytes granted to this process alone leave no room: whoever else has died, that is none of the dead's.
    OverAlone(OverQuota),
    /// The bytes granted to the container leave no room.
    Over(OverQuota),
    /// Others are deciding at this moment: their bytes would leave no room, but may be withdrawn.
    Contended(OverQuota),
}

impl Attempt {
    pub(super) fn into_result(self) -> Result<(), OverQuota> {
        match self {
            Self::Granted => Ok(()),
            Self::OverAlone(over) | Self::Over(over) | Self::Contended(over) => Err(over),
        }
    }
}

/// What the slots of a GPU have together, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// Announced and not decided yet.
    pending: u64,
    /// Granted on the device.
    granted: u64,
    /// Granted on the host.
    spilled: u64,
}

/// What is past which bound, in bytes.
#[derive(Clone, Copy, Debug)]
struct Excess {
    held: u64,
    max: u64,
    bound: Bound,
}

impl Excess {
    /// As a refusal of so many bytes.
    fn asking(self, bytes: Bytes) -> OverQuota {
        OverQuota {
            asked: bytes,
            current: Bytes::new(self.held),
            max: Bytes::new(self.max),
            bound: self.bound,
        }
    }
}

impl Sums {
    /// With what another slot has.
    #[inline]
    fn and(mut self, part: &SlotDevice, has_spilled: bool) -> Self {
        // In this order: a charge moves from pending to granted, and must not be missed on its way.
        let pending = part.pending_bytes.load(Ordering::SeqCst);
        let granted = part.bytes.load(Ordering::SeqCst);
        self.pending = self.pending.saturating_add(pending);
        self.granted = self.granted.saturating_add(granted);
        if has_spilled {
            let spilled = part.spilled_bytes.load(Ordering::SeqCst);
            self.spilled = self.spilled.saturating_add(spilled);
        }
        self
    }

    #[inline]
    fn all(self) -> u64 {
        self.granted.saturating_add(self.spilled)
    }

    /// What is announced does not fit beside what is granted; `None`: it does.
    #[inline]
    fn over(self, room: Room) -> Option<Excess> {
        let is_over = |held: u64, max| held.checked_add(self.pending).is_none_or(|sum| sum > max);
        if is_over(self.all(), room.all) {
            Some(Excess {
                held: self.all(),
                max: room.all,
                bound: Bound::Quota,
            })
        } else {
            is_over(self.granted, room.device).then_some(self.at(room))
        }
    }

    /// What is on the device, beside what may be.
    #[inline]
    fn at(self, room: Room) -> Excess {
        Excess {
            held: self.granted,
            max: room.device,
            bound: room.bound,
        }
    }
}

impl Ledger {
    /// Announce, sum, grant or withdraw. `false`: not granted, for now.
    #[inline(always)]
    pub(super) fn attempt_at_once(&self, device_index: usize, bytes: Bytes, reach: Reach) -> bool {
        let Some((row, slot)) = self.place(device_index) else {
            return false;
        };
        let asked = bytes.get();
        if row.memory.is_over(slot.bytes.load(Ordering::SeqCst), asked) || !slot.announce(asked) {
            return false;
        }
        let room = row.memory.room(reach);
        let sums = self.sums(device_index, slot, row.memory.has_spilled());
        let fits = sums.over(room).is_none();
        if fits {
            slot.grant(asked, reach.residence());
            if reach.residence() == Residence::Device {
                raise(&row.memory.peak, sums.granted.saturating_add(asked));
            }
        }
        slot.pending_bytes.fetch_sub(asked, Ordering::SeqCst);
        fits
    }

    /// The same, and why not.
    #[cold]
    pub(super) fn attempt(&self, device_index: usize, bytes: Bytes, reach: Reach) -> Attempt {
        if let Some(over) = self.over_alone(device_index, bytes) {
            return Attempt::OverAlone(over);
        }
        if self.attempt_at_once(device_index, bytes, reach) {
            return Attempt::Granted;
        }
        let Some((row, slot)) = self.place(device_index) else {
            return Attempt::Over(OverQuota {
                asked: bytes,
                ..OverQuota::default()
            });
        };
        if !slot.announce(bytes.get()) {
            return Attempt::Over(self.past_quota(device_index, (row, slot), bytes));
        }
        let attempt = self.doubted(device_index, bytes, row.memory.room(reach));
        slot.pending_bytes.fetch_sub(bytes.get(), Ordering::SeqCst);
        attempt
    }

    /// Why `bytes` are more than the quota has for this process, whatever others hold: whoever dies, that is refused, unless this process
    /// gives something back. `None`: they may fit.
    pub fn over_alone(&self, device_index: usize, bytes: Bytes) -> Option<OverQuota> {
        let (row, slot) = self.place(device_index)?;
        let own = slot.bytes.load(Ordering::SeqCst);
        let is_over = row.memory.is_over(own, bytes.get());
        is_over.then(|| self.past_quota(device_index, (row, slot), bytes))
    }

    fn past_quota(
        &self,
        device_index: usize,
        (row, slot): (&DeviceRow, &SlotDevice),
        bytes: Bytes,
    ) -> OverQuota {
        let has_spilled = row.memory.has_spilled();
        let held = self.sums(device_index, slot, has_spilled).all();
        OverQuota {
            asked: bytes,
            current: Bytes::new(held),
            max: Bytes::new(row.memory.wall()),
            bound: Bound::Quota,
        }
    }

    /// There seemed to be no room for what this process has announced. Others may have been deciding, and bytes that change hands may have
    /// been counted twice.
    pub(super) fn doubted(&self, device_index: usize, bytes: Bytes, room: Room) -> Attempt {
        let grants_before = self.sum(device_index, |part| &part.grants);
        // All that is pending before anything that is granted: what was granted at the beginning of its sum was granted at once.
        let sums = Sums {
            pending: self.sum(device_index, |part| &part.pending_bytes),
            granted: self.granted(device_index),
            spilled: self.sum(device_index, |part| &part.spilled_bytes),
        };
        let Some(over) = sums.over(room) else {
            return Attempt::Contended(sums.at(room).asking(bytes));
        };
        if sums.pending == bytes.get()
            && grants_before == self.sum(device_index, |part| &part.grants)
        {
            // Nobody else was deciding and nothing was granted while summing: at its beginning the sum was at least this.
            Attempt::Over(over.asking(bytes))
        } else {
            Attempt::Contended(over.asking(bytes))
        }
    }

    /// What all slots have of a GPU: this process's own, and the others'.
    #[inline]
    fn sums(&self, device_index: usize, own: &SlotDevice, has_spilled: bool) -> Sums {
        let own = Sums::default().and(own, has_spilled);
        if self.has_others() {
            self.and_others(device_index, has_spilled, own)
        } else {
            own
        }
    }

    #[inline(never)]
    fn and_others(&self, device_index: usize, has_spilled: bool, own: Sums) -> Sums {
        let others = self.others_parts(device_index);
        others.fold(own, |sums, (_, part)| sums.and(part, has_spilled))
    }
}
