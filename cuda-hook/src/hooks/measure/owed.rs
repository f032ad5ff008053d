//! What was measured while other threads' calls were under way, and so not charged in full: it is measured again, from the same
//! beginning, at the next moment at which the books and the device agree.
//!
//! Each call looks for such a moment without waiting, every [`PATIENCE`]th one by a look that waits for others. What is certain is
//! charged even then. Where there is no such moment for long, the debt is closed with what can be seen: that is wrong by no more
//! than what other threads have under way just then, or, where NVML does not list the process, by what others have allocated.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use cuda_sys_stubs::abi::CUcontext;
use parking_lot::Mutex;

use super::{Meter, Seen, settle, taken_beside_others};
use crate::entry::Cx;
use crate::live::Owner;
use crate::quiet::Looking;

/// So many calls look without waiting before one waits.
const PATIENCE: u32 = 256;
/// So many looks that have waited leave a debt unsettled.
const LOOKS_MAX: u32 = 16;

/// What this process still has to measure.
#[derive(Default)]
pub(crate) struct Owed {
    count: AtomicUsize,
    calls: AtomicU32,
    debts: Mutex<Vec<Debt>>,
}

/// Something was taken in a context since.
struct Debt {
    owner: Owner,
    device_index: usize,
    before: Seen,
    /// Of that, so many bytes are charged; negative: given back.
    charged: i128,
    looks_left: u32,
}

impl Owed {
    /// Minds a debt; one of the same context that is older has it, too.
    fn put(&self, debt: Debt) {
        let mut debts = self.debts.lock();
        let is_same = |other: &&mut Debt| {
            other.owner.context == debt.owner.context && other.device_index == debt.device_index
        };
        match debts.iter_mut().find(is_same) {
            Some(older) => older.charged = older.charged.saturating_add(debt.charged),
            None => debts.push(debt),
        }
        self.count.store(debts.len(), Ordering::Relaxed);
    }

    fn take_all(&self) -> Vec<Debt> {
        let mut debts = self.debts.lock();
        self.count.store(0, Ordering::Relaxed);
        std::mem::take(&mut *debts)
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }
}

/// Minds that a measurement was not taken at a quiet moment, by which so many bytes were charged.
pub(super) fn put(meter: &Meter, charged: i128) {
    meter.cx.attachment.owed.put(Debt {
        owner: meter.owner,
        device_index: meter.device_index,
        before: meter.before,
        charged,
        looks_left: LOOKS_MAX,
    });
}

impl Debt {
    /// Measures again; what is still owed.
    fn settle(self, cx: Cx, look: &Looking<'_>) -> Option<Self> {
        let Owner { context, since } = self.owner;
        if cx.attachment.context_ends.has_ended(context, since) {
            return None; // and what was taken in it
        }
        let context: CUcontext = std::ptr::with_exposed_provenance_mut(context);
        let now = Seen::now(cx, context, self.device_index, true)?;
        let is_quiet = look.until_now().is_quiet;
        let is_last = self.looks_left == 0;
        let bytes = taken_beside_others(self.before, now);
        let bytes = match now.listed {
            // No more is given back than was charged.
            _ if is_quiet => bytes.max(self.charged.max(0).saturating_neg()),
            None if !is_last => 0,
            _ => bytes.max(0),
        };
        tracing::debug!(%bytes, is_quiet, "measured what was owed");
        if let Err(unpaid) = settle(cx, self.owner, self.device_index, bytes) {
            unpaid.charge();
        }
        let looks_left = self.looks_left.checked_sub(1)?;
        let charged = self.charged.saturating_add(bytes);
        (!is_quiet).then_some(Self {
            charged,
            looks_left,
            ..self
        })
    }
}

/// Charges what is owed, if this is a moment for it. To be called by each call before it is under way itself.
#[inline]
pub(crate) fn pay(cx: Cx) {
    if is_due(cx) {
        pay_now(cx);
    }
}

/// Whether anything is owed.
#[inline]
pub(crate) fn is_due(cx: Cx) -> bool {
    !cx.attachment.owed.is_empty()
}

#[cold]
fn pay_now(cx: Cx) {
    let owed = &cx.attachment.owed;
    let settle_all = |look: &Looking<'_>| {
        for debt in owed.take_all() {
            if let Some(rest) = debt.settle(cx, look) {
                owed.put(rest);
            }
        }
    };
    let calls = owed.calls.fetch_add(1, Ordering::Relaxed);
    if calls.wrapping_add(1).is_multiple_of(PATIENCE) {
        cx.attachment.quiet.look(settle_all);
    } else {
        cx.attachment.quiet.look_now(settle_all);
    }
}
