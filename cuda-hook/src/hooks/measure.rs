//! What the driver takes of a GPU without being asked for bytes – images of modules, greater limits – measured around the call
//! that makes it.
//!
//! The cheap question comes first: where the board has as much memory free after the call as before, nothing was taken. The
//! true one is what NVML lists as this process's, less what this process's books say that other threads took meanwhile.
//! Where NVML does not list it (in a container with processes of its own, NVML may know it by another number), the
//! board's difference has to do, and whoever else allocates at that moment disturbs it.
//!
//! Both looks are taken at a [`quiet`](crate::quiet) moment, so that what this process's other threads allocate between them is on
//! its books as it is on the device. Calls that are measured at the same time may be charged for each other; together they
//! are charged what they took. Where other threads leave no such moment, what is certain is charged, and the rest
//! [`owed`] until the next one.

use cuda_sys_stubs::abi::{
    CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_OUT_OF_MEMORY, CUDA_SUCCESS, CUcontext, CUresult,
};
use limiter::ledger::Residence;
use limiter::units::Bytes;

use crate::charge;
use crate::entry::Cx;
use crate::live::{Block, Key, Owner};
use crate::quiet::Look;
use crate::runtime;

pub(crate) mod owed;

/// How much a measurement may cost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// NVML is asked before and after, which takes milliseconds: for calls that are seldom and take long themselves.
    Thorough,
    /// NVML is asked only after the board's free memory has changed, and only bounds what is charged: for first uses. Beside
    /// calls of other threads it is asked before, too.
    Quick,
}

/// NVML is asked so often before other threads were charged nothing meanwhile. Those that come are held back: few are left.
const SAMPLES_MAX: u32 = 4;

/// Memory as it is seen at one time, in bytes.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Free on the board.
    free: Bytes,
    /// On this process's books.
    own: Bytes,
    /// All that went off the books so far when it was freed in the order of a stream: how much of that the device has back, only the
    /// driver knows.
    freed_in_order: Bytes,
    /// What NVML lists as this process's.
    listed: Option<Bytes>,
}

/// `after` less `before`.
fn change(before: Bytes, after: Bytes) -> i128 {
    i128::from(after.get()).saturating_sub(i128::from(before.get()))
}

/// What the driver took beside what was charged; negative: what it gave back.
fn taken(before: Seen, after: Seen) -> i128 {
    // What was freed in order meanwhile is still there: drivers give such memory back when the program waits for something.
    let freed_in_order = change(before.freed_in_order, after.freed_in_order);
    let charged = change(before.own, after.own).saturating_add(freed_in_order);
    let of_board = change(after.free, before.free).saturating_sub(charged);
    match (before.listed, after.listed) {
        (Some(before), Some(after)) => change(before, after).saturating_sub(charged),
        // Whatever others did meanwhile: no more than what is not on the books yet.
        (None, Some(listed)) => of_board.min(change(after.own, listed).max(0)),
        (_, None) => of_board,
    }
}

/// What was taken since `before` by this process, where calls of other threads were under way. Their bytes are on the books before
/// they are on the device, and longer: what NVML lists beyond the books is surely not theirs.
fn taken_beside_others(before: Seen, after: Seen) -> i128 {
    let bytes = taken(before, after);
    match after.listed {
        Some(listed) if bytes > 0 => bytes.min(change(after.own, listed).max(0)),
        _ => bytes,
    }
}

impl Seen {
    /// What is to be seen now; `None` where the driver cannot be asked.
    fn now(cx: Cx, context: CUcontext, device_index: usize, asks_nvml: bool) -> Option<Self> {
        let free = free_beside_reservations(cx, context, device_index)?;
        let (own, listed) = if asks_nvml {
            listed_beside(cx, device_index)
        } else {
            (cx.attachment.ledger.own(device_index), None)
        };
        Some(Self {
            free,
            own,
            freed_in_order: cx.attachment.pools.freed_in_order(device_index),
            listed,
        })
    }
}

/// Free memory as [`free`] tells it, with everything off the books that the driver has given back unseen: it may do so when it is
/// asked how much there is.
fn free_beside_reservations(cx: Cx, context: CUcontext, device_index: usize) -> Option<Bytes> {
    let own = || cx.attachment.ledger.own(device_index);
    charge::refresh(cx, device_index);
    for _ in 0..SAMPLES_MAX {
        let before = own();
        let free = free(cx, context, device_index)?;
        charge::refresh(cx, device_index);
        if own() == before {
            return Some(free);
        }
    }
    free(cx, context, device_index)
}

/// What NVML lists as this process's, and what was on its books meanwhile: all that can be in the former of what other threads have
/// under way. Not listed, where they are charged all the time.
fn listed_beside(cx: Cx, device_index: usize) -> (Bytes, Option<Bytes>) {
    let ledger = &cx.attachment.ledger;
    for _ in 0..SAMPLES_MAX {
        let grants = ledger.own_grants(device_index);
        let own = ledger.own(device_index);
        let listed = listed(cx, device_index);
        if ledger.own_grants(device_index) == grants {
            return (own.max(ledger.own(device_index)), listed);
        }
    }
    (ledger.own(device_index), None)
}

/// A measurement under way, in one context on a device with a quota.
struct Meter {
    cx: Cx,
    context: CUcontext,
    owner: Owner,
    device_index: usize,
    effort: Effort,
    look: Look,
    before: Seen,
}

/// What the driver has taken and the quota has no room for. It is on nobody's books.
#[must_use = "it is taken: undo that, or charge it"]
pub(crate) struct Unpaid {
    cx: Cx,
    block: Block,
}

impl Unpaid {
    /// Charges it whatever the quota says: the container gets nothing more until it has made room.
    pub(crate) fn charge(self) {
        let Self { cx, block } = self;
        cx.attachment.ledger.charge(block.device_index, block.bytes);
        grow(cx, block);
    }
}

/// Puts what was measured on the books of its context. Where that has ended since, so has what was taken in it.
fn grow(cx: Cx, block: Block) {
    let Owner { context, since } = block.owner;
    cx.attachment.live.grow(Key::Grown(context), block);
    if cx.attachment.context_ends.has_ended(context, since) {
        let less = cx.attachment.live.shrink(Key::Grown(context), block.bytes);
        cx.attachment.ledger.uncharge(block.device_index, less);
    }
}

/// Takes what was given back off the books of its context; what these do not hold, of the device's other contexts: a library
/// is unloaded in all of them.
fn shrink(cx: Cx, block: Block) {
    let live = &cx.attachment.live;
    let is_grown = |key: &Key| matches!(key, Key::Grown(_));
    let mut grown =
        live.find_all(|key, other| is_grown(key) && other.device_index == block.device_index);
    grown.sort_by_key(|(_, other)| other.owner.context != block.owner.context);
    let mut left = block.bytes.get();
    for (key, _) in grown {
        let less = live.shrink(key, Bytes::new(left));
        cx.attachment.ledger.uncharge(block.device_index, less);
        left = left.saturating_sub(less.get());
    }
}

/// Charges what was taken, or gives back what is negative.
fn settle(cx: Cx, owner: Owner, device_index: usize, bytes: i128) -> Result<(), Unpaid> {
    let block = Block {
        bytes: Bytes::new(u64::try_from(bytes.unsigned_abs()).unwrap_or(u64::MAX)),
        device_index,
        residence: Residence::Device,
        owner,
    };
    if bytes < 0 {
        shrink(cx, block);
        return Ok(());
    }
    match charge::try_charge(cx, device_index, block.bytes) {
        Ok(charge) => {
            charge.commit();
            grow(cx, block);
            Ok(())
        }
        Err(_) => Err(Unpaid { cx, block }),
    }
}

/// What NVML lists as this process's on the device of that index.
fn listed(cx: Cx, device_index: usize) -> Option<Bytes> {
    let uuid = cx.attachment.uuid(device_index)?;
    runtime::get()
        .nvml()?
        .process_memory(uuid, std::process::id())
}

impl Meter {
    /// `None`: no context, no quota on its device, or nothing that could be asked.
    fn start(cx: Cx, context: CUcontext, effort: Effort) -> Option<Self> {
        if context.is_null() {
            return None;
        }
        let device = cx
            .driver
            .in_context(context, || cx.driver.current_device())
            .ok()?;
        let device_index = cx.attachment.device_index(device)?;
        let limits = cx.attachment.ledger.limits(device_index);
        limits.is_limited().then_some(())?;
        cx.attachment.quiet.look(|look| {
            // Where another thread is in the way now, a later look will have to tell what was taken.
            let asks_nvml = effort == Effort::Thorough || !look.until_now().is_quiet;
            let before = Seen::now(cx, context, device_index, asks_nvml)?;
            Some(Self {
                cx,
                context,
                owner: cx.attachment.owner(context),
                device_index,
                effort,
                look: look.until_now(),
                before,
            })
        })
    }

    /// What is to be seen after the call; `None` where it has changed nothing.
    fn after(&self) -> Option<Seen> {
        let Self {
            cx,
            context,
            device_index,
            ..
        } = *self;
        let asked = free(cx, context, device_index).filter(|free| *free != self.before.free);
        asked.and_then(|_| Seen::now(cx, context, device_index, true))
    }

    /// What the driver has taken between its look and `after`; negative: given back.
    fn taken(&self, after: Seen, is_certain: bool) -> i128 {
        let bytes = match self.effort {
            Effort::Thorough if is_certain => taken(self.before, after),
            Effort::Thorough => taken_beside_others(self.before, after),
            // Using something gives nothing back.
            Effort::Quick if is_certain => taken(self.before, after).max(0),
            Effort::Quick if after.listed.is_none() => 0,
            Effort::Quick => taken_beside_others(self.before, after).max(0),
        };
        tracing::debug!(%bytes, is_certain, "measured what the driver took");
        bytes
    }

    /// Charges the context what was taken since. Beside calls of other threads that may not be all: the rest is owed.
    fn finish(self) -> Result<(), Unpaid> {
        let quiet = &self.cx.attachment.quiet;
        quiet.look(|look| {
            let after = self.after();
            let is_certain = self.look.is_quiet && look.until_now().is_quiet;
            let bytes = after.map_or(0, |after| self.taken(after, is_certain));
            let settled = settle(self.cx, self.owner, self.device_index, bytes);
            if !is_certain {
                owed::put(&self, bytes);
            }
            settled
        })
    }
}

/// Free memory of the device of `context`, or a figure that changes as it does: a context of before CUDA 3.2 cannot be asked.
fn free(cx: Cx, context: CUcontext, device_index: usize) -> Option<Bytes> {
    match cx.driver.in_context(context, || cx.driver.memory_free()) {
        Err(CUDA_ERROR_INVALID_CONTEXT) => {
            let uuid = cx.attachment.uuid(device_index)?;
            let used = runtime::get().nvml()?.memory_used(uuid)?;
            Some(Bytes::new(u64::MAX.saturating_sub(used.get())))
        }
        asked => asked.ok(),
    }
}

/// Calls, and charges `context` what the driver took for it. Where the quota has no room for that, it is undone.
pub(crate) fn charged(
    cx: Cx,
    context: CUcontext,
    call: impl FnOnce() -> CUresult,
    undo: impl FnOnce() -> CUresult,
) -> CUresult {
    let _measured = cx.attachment.quiet.step_aside();
    let meter = Meter::start(cx, context, Effort::Thorough);
    let status = call();
    if status != CUDA_SUCCESS {
        return status;
    }
    let Some(Err(unpaid)) = meter.map(Meter::finish) else {
        return status;
    };
    match undo() {
        CUDA_SUCCESS => CUDA_ERROR_OUT_OF_MEMORY,
        refused => {
            unpaid.charge();
            refused
        }
    }
}

/// Calls, and charges `context` what the driver took for it, which cannot be undone; `Err`: beyond the quota.
pub(crate) fn grown(
    cx: Cx,
    context: CUcontext,
    call: impl FnOnce() -> CUresult,
) -> (CUresult, Result<(), CUresult>) {
    let _measured = cx.attachment.quiet.step_aside();
    let meter = Meter::start(cx, context, Effort::Quick);
    let status = call();
    let within = meter.map_or(Ok(()), Meter::finish);
    (
        status,
        within.map_err(|unpaid| {
            unpaid.charge();
            CUDA_ERROR_OUT_OF_MEMORY
        }),
    )
}

/// What the driver took for something, where that could be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// What was taken, in whole pages as the device backs memory.
    pub(crate) bytes: Bytes,
    /// Whether it is this process's for certain: where NVML does not list the process, others may have been counted in.
    pub(crate) is_certain: bool,
}

/// Calls, and says what the driver took in the current context; `None` where other threads were in the way. What is charged for
/// the call is on the books already, so that it is in the others' way until it has returned.
pub(crate) fn sized(cx: Cx, call: impl FnOnce() -> CUresult) -> (CUresult, Option<Size>) {
    let context = cx.driver.current_context();
    let meter = context
        .ok()
        .and_then(|context| Meter::start(cx, context, Effort::Thorough));
    let status = call();
    let look = |meter: Meter| {
        cx.attachment.quiet.look(|look| {
            let after = meter.after();
            let after = after.filter(|_| look.until_now().is_next_after(meter.look))?;
            Some(Size {
                bytes: Bytes::new(u64::try_from(taken(meter.before, after)).unwrap_or(0)),
                is_certain: meter.before.listed.and(after.listed).is_some(),
            })
        })
    };
    (
        status,
        meter.filter(|_| status == CUDA_SUCCESS).and_then(look),
    )
}

/// Calls, and gives back what the driver gave back in each of `contexts`, no two of them on one device.
pub(crate) fn uncharged(
    cx: Cx,
    contexts: impl IntoIterator<Item = CUcontext>,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let _measured = cx.attachment.quiet.step_aside();
    let meters: Vec<Meter> = contexts
        .into_iter()
        .filter_map(|context| Meter::start(cx, context, Effort::Thorough))
        .collect();
    let status = call();
    for meter in meters {
        if let Err(unpaid) = meter.finish() {
            unpaid.charge();
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn seen(free: u64, own: u64, listed: Option<u64>) -> Seen {
        Seen {
            free: Bytes::new(free * MIB),
            own: Bytes::new(own * MIB),
            freed_in_order: Bytes::default(),
            listed: listed.map(|mib| Bytes::new(mib * MIB)),
        }
    }

    #[test]
    fn what_the_process_is_listed_with_is_the_truth() {
        // A neighbour took 100 meanwhile, another thread 10.
        let (before, after) = (seen(1000, 50, Some(60)), seen(886, 60, Some(74)));
        assert_eq!(taken(before, after), i128::from(4 * MIB));
        assert_eq!(taken(after, before), -i128::from(4 * MIB));
    }

    #[test]
    fn a_quick_look_charges_no_more_than_is_not_on_the_books() {
        let before = seen(1000, 50, None);
        assert_eq!(
            taken(before, seen(900, 50, Some(58))),
            i128::from(8 * MIB),
            "a neighbour took 92"
        );
        assert_eq!(taken(before, seen(996, 50, Some(58))), i128::from(4 * MIB));
        assert_eq!(
            taken(before, seen(990, 60, Some(60))),
            0,
            "another thread's, and paid for"
        );
    }

    #[test]
    fn beside_other_threads_no_more_is_charged_than_is_surely_not_theirs() {
        let before = seen(1000, 50, Some(50));
        // An image took 6. Another thread's block of 10 is on the books and not on the device yet, or no longer.
        assert_eq!(
            taken_beside_others(before, seen(994, 60, Some(56))),
            -i128::from(4 * MIB)
        );
        // It was so at the first look, and has come.
        let coming = seen(1000, 60, Some(50));
        let after = seen(984, 60, Some(66));
        assert_eq!(taken_beside_others(coming, after), i128::from(6 * MIB));
    }

    #[test]
    fn what_is_freed_in_stream_order_meanwhile_is_not_taken_for_an_image() {
        let before = seen(1000, 50, Some(50));
        for (own, listed, image) in [(38, 50, 0), (38, 54, 4), (42, 58, 4)] {
            let after = Seen {
                freed_in_order: Bytes::new(12 * MIB),
                ..seen(1050 - listed, own, Some(listed))
            };
            assert_eq!(taken(before, after), i128::from(image * MIB));
            assert_eq!(taken_beside_others(before, after), i128::from(image * MIB));
            let quick = Seen {
                listed: None,
                ..before
            };
            assert_eq!(taken(quick, after), i128::from(image * MIB));
        }
    }

    #[test]
    fn where_the_process_is_not_listed_the_boards_difference_counts() {
        let (before, after) = (seen(1000, 50, None), seen(986, 60, None));
        assert_eq!(taken(before, after), i128::from(4 * MIB));
    }
}
