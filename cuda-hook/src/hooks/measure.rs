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
//! are charged what they took.

use cuda_sys_stubs::abi::{CUDA_ERROR_OUT_OF_MEMORY, CUDA_SUCCESS, CUcontext, CUresult};
use limiter::units::Bytes;

use crate::charge;
use crate::entry::Cx;
use crate::live::{Block, Key, Owner};
use crate::runtime;

/// How much a measurement may cost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// NVML is asked before and after, which takes milliseconds: for calls that are seldom and take long themselves.
    Thorough,
    /// NVML is asked only after the board's free memory has changed, and only bounds what is charged: for first uses.
    Quick,
}

/// Memory as it is seen at one time, in bytes.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Free on the board.
    free: Bytes,
    /// On this process's books.
    own: Bytes,
    /// What NVML lists as this process's.
    listed: Option<Bytes>,
}

/// `after` less `before`.
fn change(before: Bytes, after: Bytes) -> i128 {
    i128::from(after.get()).saturating_sub(i128::from(before.get()))
}

/// What the driver took beside what was charged; negative: what it gave back.
fn taken(before: Seen, after: Seen) -> i128 {
    let charged = change(before.own, after.own);
    let of_board = change(after.free, before.free).saturating_sub(charged);
    match (before.listed, after.listed) {
        (Some(before), Some(after)) => change(before, after).saturating_sub(charged),
        // Whatever others did meanwhile: no more than what is not on the books yet.
        (None, Some(listed)) => of_board.min(change(after.own, listed).max(0)),
        (_, None) => of_board,
    }
}

/// A measurement under way, in one context on a device with a quota.
struct Meter {
    cx: Cx,
    context: CUcontext,
    device_index: usize,
    effort: Effort,
    is_quiet: bool,
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

/// Puts what was measured on the books of its context.
fn grow(cx: Cx, block: Block) {
    let Owner(context) = block.owner;
    cx.attachment.live.grow(Key::Grown(context), block);
}

/// Takes what was given back off the books of its context; what these do not hold, of the device's other contexts: a library
/// is unloaded in all of them.
fn shrink(cx: Cx, block: Block) {
    let live = &cx.attachment.live;
    let is_grown = |key: &Key| matches!(key, Key::Grown(_));
    let mut keys: Vec<Key> = live
        .find_all(|key, other| is_grown(key) && other.device_index == block.device_index)
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    keys.sort_by_key(|key| match (key, block.owner) {
        (Key::Grown(context), Owner(owner)) => *context != owner,
        _ => true,
    });
    let mut left = block.bytes.get();
    for key in keys {
        let less = live.shrink(key, Bytes::new(left));
        cx.attachment.ledger.uncharge(block.device_index, less);
        left = left.saturating_sub(less.get());
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
        cx.attachment.ledger.max(device_index)?;
        cx.attachment.quiet.look(|is_quiet| {
            // What the driver has given back unseen is no longer on the device.
            charge::refresh(cx, device_index);
            let listed = match effort {
                Effort::Thorough => listed(cx, device_index),
                Effort::Quick => None,
            };
            let before = Seen {
                free: free(cx, context)?,
                own: cx.attachment.ledger.own(device_index),
                listed,
            };
            Some(Self {
                cx,
                context,
                device_index,
                effort,
                is_quiet,
                before,
            })
        })
    }

    /// What the driver has taken since; negative: given back.
    fn taken(&self, is_quiet: bool) -> i128 {
        charge::refresh(self.cx, self.device_index);
        let Some(free) = free(self.cx, self.context).filter(|free| *free != self.before.free)
        else {
            return 0;
        };
        let after = Seen {
            free,
            own: self.cx.attachment.ledger.own(self.device_index),
            listed: listed(self.cx, self.device_index),
        };
        let bytes = match self.effort {
            Effort::Thorough => taken(self.before, after),
            // Using something gives nothing back; and what others have under way is not to be taken for an image.
            Effort::Quick if self.is_quiet && is_quiet => taken(self.before, after).max(0),
            Effort::Quick => 0,
        };
        tracing::debug!(%bytes, "measured what the driver took");
        bytes
    }

    /// Charges the context what was taken since.
    fn finish(self) -> Result<(), Unpaid> {
        let quiet = &self.cx.attachment.quiet;
        quiet.look(|is_quiet| self.settle(self.taken(is_quiet)))
    }

    fn settle(&self, bytes: i128) -> Result<(), Unpaid> {
        let Self {
            cx, device_index, ..
        } = *self;
        let block = Block {
            bytes: Bytes::new(u64::try_from(bytes.unsigned_abs()).unwrap_or(u64::MAX)),
            device_index,
            owner: Owner(self.context.addr()),
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
}

/// Free memory of the device of `context`.
fn free(cx: Cx, context: CUcontext) -> Option<Bytes> {
    cx.driver
        .in_context(context, || cx.driver.memory_free())
        .ok()
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
    fn where_the_process_is_not_listed_the_boards_difference_counts() {
        let (before, after) = (seen(1000, 50, None), seen(986, 60, None));
        assert_eq!(taken(before, after), i128::from(4 * MIB));
    }
}
