//! Memory that the driver keeps for allocations to come, and what of it is charged: what a pool, or the graphs of a device,
//! *reserve*, not the blocks that are out.
//!
//! How much that is, only the driver knows: it grows in steps of its own, and shrinks when the program waits for something,
//! unseen here. So the least that a call will add is charged before it, what the driver says afterwards settles it, and
//! whoever is about to refuse or to report asks the driver again. Nothing is held across a question: who finds that another
//! thread has changed the figure meanwhile asks once more.

use limiter::ledger::OverQuota;
use limiter::units::Bytes;
use parking_lot::Mutex;

use crate::charge;
use crate::entry::Cx;

/// What is charged for one reservation of the driver's.
pub(crate) struct Reservation {
    device_index: usize,
    level: Mutex<Level>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Level {
    /// Bytes that are charged.
    held: u64,
    /// Of these, what was charged for calls that are still under way: whether what the driver says has it already, nobody knows.
    coming: u64,
    /// How often memory of it was bound into something that keeps it when the driver counts it here no more.
    keepers: u64,
    /// The most that the driver has said since the first of them.
    kept: u64,
    /// How often the two were changed.
    changes: u64,
}

/// What a reservation that has grown does to a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// It has to fit, or it will be undone.
    IfItFits,
    /// It is there, and counts.
    AsItIs,
}

/// What is going on at reservations: while it stays the same and nothing is coming, what they are charged for is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Bytes that were charged for calls that are under way.
    pub(crate) coming: u64,
    changes: u64,
}

impl Activity {
    /// Of these and others together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            coming: self.coming.saturating_add(other.coming),
            changes: self.changes.wrapping_add(other.changes),
        }
    }
}

impl Level {
    /// What it is when the driver says `reserved` bytes after a call has returned that `came` bytes were charged for: at least what
    /// the driver says is held, and no more than that with all that is still coming. While anybody else keeps some of it, nobody
    /// knows how much, it does not fall.
    fn settled(self, reserved: u64, came: u64) -> Self {
        let coming = self.coming.saturating_sub(came);
        let kept = if self.keepers > 0 {
            self.kept.max(reserved)
        } else {
            0
        };
        let least = reserved.max(kept);
        Self {
            held: self.held.clamp(least, least.saturating_add(coming)),
            coming,
            kept,
            ..self
        }
    }
}

impl Reservation {
    /// One on the device of that index, of which nothing is charged yet.
    pub(crate) fn new(device_index: usize) -> Self {
        Self {
            device_index,
            level: Mutex::default(),
        }
    }

    /// The device that holds it, in the ledger's order.
    pub(crate) fn device_index(&self) -> usize {
        self.device_index
    }

    /// Whether anything is charged for it.
    pub(crate) fn is_held(&self) -> bool {
        self.level.lock().held > 0
    }

    /// Minds that something keeps memory of it, once more. To be settled before it can fall.
    pub(crate) fn keep(&self) {
        self.change(|level| level.keepers = level.keepers.saturating_add(1));
    }

    /// The same, once less.
    pub(crate) fn let_go(&self) {
        self.change(|level| level.keepers = level.keepers.saturating_sub(1));
    }

    /// Whether anything keeps memory of it.
    pub(crate) fn is_kept(&self) -> bool {
        self.level.lock().keepers > 0
    }

    /// What is going on.
    pub(crate) fn activity(&self) -> Activity {
        let Level {
            coming, changes, ..
        } = *self.level.lock();
        Activity { coming, changes }
    }

    /// Charges `bytes` that a call is about to add; [`settle`](Self::settle) is to be told when it has returned.
    pub(crate) fn expect(&self, cx: Cx, bytes: u64) -> Result<(), OverQuota> {
        if bytes == 0 {
            return Ok(()); // whoever asks for nothing more is not refused, whatever the container holds
        }
        charge::try_charge(cx, self.device_index, Bytes::new(bytes))?.commit();
        self.change(|level| {
            level.held = level.held.saturating_add(bytes);
            level.coming = level.coming.saturating_add(bytes);
        });
        Ok(())
    }

    /// Makes the charge what the driver says, after a call that `came` bytes were charged for; `false` if the quota has no room for
    /// that: then it is charged as before. `reserved` asks the driver, in bytes; where it does not tell, the charge stays too.
    pub(crate) fn settle(
        &self,
        cx: Cx,
        came: u64,
        growth: Growth,
        reserved: impl Fn() -> Option<u64>,
    ) -> bool {
        let ledger = &cx.attachment.ledger;
        loop {
            let before = *self.level.lock();
            let Some(reserved) = reserved() else {
                self.came(came);
                return true;
            };
            let settled = before.settled(reserved, came);
            let more = Bytes::new(settled.held.saturating_sub(before.held));
            let charge = match growth {
                Growth::IfItFits if more > Bytes::default() => {
                    match charge::try_charge_beside(cx, self.device_index, more, came) {
                        Ok(charge) => Some(charge),
                        // On the way to a refusal something was given back here, or by another thread.
                        Err(_) if *self.level.lock() != before => continue,
                        Err(_) => {
                            self.came(came);
                            return false;
                        }
                    }
                }
                _ => None,
            };
            if !self.replace(before, settled) {
                continue; // and the charge is dropped, which gives it back
            }
            match charge {
                Some(charge) => drop(charge.commit()),
                None => ledger.charge(self.device_index, more),
            }
            let less = before.held.saturating_sub(settled.held);
            ledger.uncharge(self.device_index, Bytes::new(less));
            return true;
        }
    }

    fn came(&self, came: u64) {
        self.change(|level| level.coming = level.coming.saturating_sub(came));
    }

    /// Gives all of it back: it is gone.
    pub(crate) fn end(&self, cx: Cx) {
        let mut held = 0;
        self.change(|level| held = std::mem::take(&mut level.held));
        cx.attachment
            .ledger
            .uncharge(self.device_index, Bytes::new(held));
    }

    fn change(&self, change: impl FnOnce(&mut Level)) {
        let mut level = self.level.lock();
        change(&mut level);
        level.changes = level.changes.wrapping_add(1);
    }

    /// Sets it, if nothing was changed since `before`.
    fn replace(&self, before: Level, settled: Level) -> bool {
        let mut level = self.level.lock();
        let is_untouched = *level == before;
        if is_untouched && settled != before {
            *level = Level {
                changes: before.changes.wrapping_add(1),
                ..settled
            };
        }
        is_untouched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(held: u64, coming: u64) -> Level {
        Level {
            held,
            coming,
            ..Level::default()
        }
    }

    /// What is held, and what is still coming.
    fn settled(level: Level, reserved: u64, came: u64) -> (u64, u64) {
        let settled = level.settled(reserved, came);
        (settled.held, settled.coming)
    }

    #[test]
    fn with_nothing_under_way_the_driver_is_right() {
        assert_eq!(settled(level(10, 0), 25, 0), (25, 0), "more");
        assert_eq!(settled(level(25, 0), 10, 0), (10, 0), "less");
        assert_eq!(settled(level(25, 15), 20, 15), (20, 0), "it has come");
    }

    #[test]
    fn what_is_under_way_may_or_may_not_be_in_what_the_driver_says() {
        assert_eq!(settled(level(30, 10), 20, 0), (30, 10), "not yet");
        assert_eq!(settled(level(30, 10), 30, 0), (30, 10), "already");
        assert_eq!(settled(level(30, 10), 35, 0), (35, 10), "and more");
        assert_eq!(settled(level(30, 10), 5, 0), (15, 10), "the rest went");
        assert_eq!(settled(level(30, 10), 5, 4), (11, 6), "a part came");
    }

    #[test]
    fn what_something_else_keeps_does_not_fall() {
        let kept = Level {
            keepers: 1,
            ..level(20, 0)
        };
        let kept = kept.settled(30, 0).settled(10, 0);
        assert_eq!(kept.held, 30);
        let expecting = Level {
            held: 35,
            coming: 5,
            ..kept
        };
        assert_eq!(settled(expecting, 10, 5), (30, 0), "it has not come");
        let free = Level { keepers: 0, ..kept };
        assert_eq!(free.settled(10, 0).held, 10);
    }

    #[test]
    fn a_figure_that_another_thread_has_changed_is_not_replaced() {
        let reservation = Reservation::new(0);
        let before = *reservation.level.lock();
        reservation.change(|level| level.held = 5);
        assert!(!reservation.replace(before, level(9, 0)));
        let before = *reservation.level.lock();
        assert!(reservation.replace(before, level(9, 0)));
        assert_eq!(reservation.level.lock().held, 9);
        assert!(!reservation.replace(before, level(9, 0)), "it was");
    }
}
