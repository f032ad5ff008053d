//! Memory past a container's guarantee: lent to it while the GPU's memory has room beside what the others are guaranteed.
//!
//! Every container has a claim on each of its GPUs: what it holds there, or what it is guaranteed, whichever is more. A charge past the
//! guarantee is granted only while all claims together fit into the GPU's memory, which is decided by one process of the node at a time,
//! under the lock of the GPU's board. A charge within the guarantee changes no claim, and so asks nobody: no borrower can have taken its room.
//!
//! Claims are read from the containers' own ledgers each time: there is no sum that a process which dies could leave wrong, and a
//! container of which nobody lives claims nothing.

use std::path::Path;

use crate::board::Board;
use crate::config::ContainerName;
use crate::ledger::{Bound, Charge, Ledger, OverQuota, Reach, Residence};
use crate::sample;
use crate::shm::AttachError;
use crate::shm::layout::SlotDevice;
use crate::sync::{AtomicU64, Ordering, yield_now};
use crate::units::{Bytes, DeviceUuid};

/// A GPU's memory, as its driver tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Physical {
    /// All of it.
    pub total: Bytes,
    /// What nobody has, asked shortly before; `None`: the driver does not say.
    pub free: Option<Bytes>,
}

impl Physical {
    /// What is in use and on nobody's books, of which `held` are: the driver's own, and of programs without limits. What was charged and
    /// is not allocated yet hides as much of it, and what was freed since the driver was asked counts as if it were there.
    fn outside(self, held: u64) -> u64 {
        let used = self
            .free
            .map(|free| self.total.get().saturating_sub(free.get()));
        used.map_or(0, |used| used.saturating_sub(held))
    }
}

/// What containers have of a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    /// On their books.
    pub(crate) held: u64,
    /// That, or what they are guaranteed, of each whichever is more.
    pub(crate) claimed: u64,
    /// What of that is announced and not decided: it may be withdrawn, or counted a second time on its way to the books.
    pub(crate) undecided: u64,
}

impl Claims {
    fn plus(self, other: Self) -> Self {
        Self {
            held: self.held.saturating_add(other.held),
            claimed: self.claimed.saturating_add(other.claimed),
            undecided: self.undecided.saturating_add(other.undecided),
        }
    }

    /// The most that a container which holds `own` may hold beside these.
    fn leave(self, own: u64, physical: Physical) -> u64 {
        let outside = physical.outside(self.held.saturating_add(own));
        let taken = self.claimed.saturating_add(outside);
        physical.total.get().saturating_sub(taken)
    }
}

/// What a container claims of a GPU, by its ledger in `dir`. A container without a ledger, or of which nobody lives, claims nothing.
///
/// # Errors
/// There is a ledger, and it cannot be read.
pub(crate) fn claim(
    dir: &Path,
    container: &ContainerName,
    device: DeviceUuid,
) -> Result<Claims, AttachError> {
    let Some(file) = sample::open(dir, container)? else {
        return Ok(Claims::default());
    };
    // Before what is pending: a charge that is announced later finds the guarantee as it is here, or lowered.
    let row = sample::rows(&file).find(|(_, row)| row.uuid() == Some(device));
    let living = sample::living(&file);
    let Some((row, shared)) = row.filter(|_| !living.is_empty()) else {
        return Ok(Claims::default());
    };
    let guaranteed = shared.memory.limits().guaranteed().get();
    let sum = |of: fn(&SlotDevice) -> &AtomicU64| {
        let parts = living.iter().filter_map(|(_, slot)| slot.devices.get(row));
        parts
            .map(|part| of(part).load(Ordering::SeqCst))
            .fold(0, u64::saturating_add)
    };
    // In this order: a charge goes from the one to the other.
    let pending = sum(|part| &part.pending_bytes);
    let held = sum(|part| &part.bytes);
    let claimed = held.saturating_add(pending).max(guaranteed);
    Ok(Claims {
        held,
        claimed,
        undecided: claimed.saturating_sub(held.max(guaranteed)),
    })
}

impl Board {
    /// What all containers but this process's own claim. Those who only look need no lock.
    ///
    /// # Errors
    /// A container's ledger cannot be read: nobody knows what it claims.
    fn claims_of_others(&self, device: DeviceUuid) -> Result<Claims, AttachError> {
        let mut all = Claims::default();
        for container in self.other_containers() {
            all = all.plus(claim(self.dir(), &container, device)?);
        }
        Ok(all)
    }
}

/// How often the others' claims are looked at again because one of them was about to be decided. That takes nanoseconds: only a
/// process that is stopped in between can use this up.
const ATTEMPTS_MAX: u32 = if cfg!(loom) { 5 } else { 200 };

impl Ledger {
    /// Charges `bytes` past the container's guarantee, if the GPU's memory has room for them beside all others' claims.
    ///
    /// `board` is the GPU's, which the container has joined. Waits for whoever else borrows there.
    ///
    /// # Errors
    /// There is no such room, or nobody can tell; or the quota has none. Nothing is charged then.
    pub fn try_borrow(
        &self,
        device_index: usize,
        bytes: Bytes,
        board: &Board,
        physical: Physical,
    ) -> Result<Charge<'_>, OverQuota> {
        let unknown = |_| OverQuota {
            asked: bytes,
            current: Bytes::new(self.granted(device_index)),
            max: self.limits(device_index).guaranteed(),
            bound: Bound::Lendable,
        };
        let lenders = board.exclusive().map_err(unknown)?;
        let file = &self.seat().file;
        let exclusive = file.exclusive_beside(&lenders).map_err(unknown)?;
        // What the dead of this container held is not in use. Where they cannot be reaped, it counts.
        let _ = self.seat().reap(&exclusive);
        let mut attempts = 0;
        loop {
            attempts = u32::saturating_add(attempts, 1);
            let own = self.granted(device_index);
            // Where nobody can tell, nothing is lent.
            let others = board.claims_of_others(board.device()).ok();
            let most = others.map_or(0, |others| others.leave(own, physical));
            if let Some(others) = others {
                let outside = physical.outside(others.held.saturating_add(own));
                board.note_memory(physical.total, outside);
            }
            let is_undecided = others.is_some_and(|others| others.undecided > 0);
            match self.charge_under(&exclusive, device_index, bytes, Reach::Lent(most)) {
                Ok(()) => return Ok(self.granted_charge(device_index, bytes, Residence::Device)),
                Err(over) if over.bound == Bound::Quota => return Err(over),
                Err(over) if !is_undecided || attempts >= ATTEMPTS_MAX => return Err(over),
                Err(_) => yield_now(),
            }
        }
    }

    /// What could be granted now on the GPU; a moment later it may be less. `None`: all of the quota is guaranteed, nothing is borrowed.
    pub fn grantable(
        &self,
        device_index: usize,
        board: &Board,
        physical: Physical,
    ) -> Option<Bytes> {
        let soft = self.limits(device_index).soft?;
        let own = self.granted(device_index);
        let lendable = board
            .claims_of_others(board.device())
            .map_or(0, |others| others.leave(own, physical));
        Some(Bytes::new(lendable.max(soft.get()).saturating_sub(own)))
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests;
