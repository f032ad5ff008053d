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

impl Level {
    /// What is to be charged when the driver says `reserved` bytes: at least that, and no more than that with all that is coming.
    fn settled(self, reserved: u64) -> u64 {
        self.held
            .clamp(reserved, reserved.saturating_add(self.coming))
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

    /// Charges `bytes` that a call is about to add; [`came`](Self::came) is to be told when it has returned.
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

    /// The call that `bytes` were charged for has returned.
    pub(crate) fn came(&self, bytes: u64) {
        self.change(|level| level.coming = level.coming.saturating_sub(bytes));
    }

    /// Makes the charge what the driver says; `false`, and unchanged, if the quota has no room for that.
    /// `reserved` asks the driver, in bytes; where it does not tell, the charge stays as it is.
    pub(crate) fn settle(
        &self,
        cx: Cx,
        growth: Growth,
        reserved: impl Fn() -> Option<u64>,
    ) -> bool {
        let ledger = &cx.attachment.ledger;
        loop {
            let before = *self.level.lock();
            let Some(reserved) = reserved() else {
                return true;
            };
            let settled = before.settled(reserved);
            let more = Bytes::new(settled.saturating_sub(before.held));
            let charge = match growth {
                Growth::IfItFits if more > Bytes::default() => {
                    match charge::try_charge(cx, self.device_index, more) {
                        Ok(charge) => Some(charge),
                        // On the way to a refusal something was given back here, or by another thread.
                        Err(_) if *self.level.lock() != before => continue,
                        Err(_) => return false,
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
            let less = before.held.saturating_sub(settled);
            ledger.uncharge(self.device_index, Bytes::new(less));
            return true;
        }
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

    /// Sets what is held, if nothing was changed since `before`.
    fn replace(&self, before: Level, held: u64) -> bool {
        let mut level = self.level.lock();
        let is_untouched = *level == before;
        if is_untouched && held != before.held {
            level.held = held;
            level.changes = level.changes.wrapping_add(1);
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
            changes: 0,
        }
    }

    #[test]
    fn with_nothing_under_way_the_driver_is_right() {
        assert_eq!(level(10, 0).settled(25), 25, "more than was charged");
        assert_eq!(level(25, 0).settled(10), 10, "less");
    }

    #[test]
    fn what_is_under_way_may_or_may_not_be_in_what_the_driver_says() {
        assert_eq!(level(30, 10).settled(20), 30, "not yet");
        assert_eq!(level(30, 10).settled(30), 30, "already");
        assert_eq!(level(30, 10).settled(35), 35, "and more than was charged");
        assert_eq!(level(30, 10).settled(5), 15, "the rest was given back");
    }

    #[test]
    fn a_figure_that_another_thread_has_changed_is_not_replaced() {
        let reservation = Reservation::new(0);
        let before = *reservation.level.lock();
        reservation.change(|level| level.held = 5);
        assert!(!reservation.replace(before, 9));
        let before = *reservation.level.lock();
        assert!(reservation.replace(before, 9));
        assert!(reservation.replace(*reservation.level.lock(), 9), "again");
        assert_eq!(reservation.level.lock().held, 9);
    }
}
