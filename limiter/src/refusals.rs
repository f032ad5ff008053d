//! What was refused: how often by which call, and the last one in full.
//!
//! Written on the way to a refusal, by whichever thread of a process comes there, while others read and the process may be
//! killed. The counters are atomics of their own. A record has one writer at a time, who waits for nobody: two threads that are
//! refused at once leave the one or the other. Its last word is a check of all others, so whoever finds it half written, whether
//! its writer is at it or has died there, sees that it is none.

use crate::ledger::{Bound, OverQuota};
use crate::shm::Mapping;
use crate::shm::layout::{
    CALL_NAME_WORDS, CALLS_MAX, CallName, ContainerFile, RefusalCounts, RefusalRecord, Slot,
};
use crate::sync::{AtomicU64, Ordering};
use crate::text;
use crate::units::{Bytes, MonotonicNs};

/// A refusal, as a record has it. Rows are the file's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// `None`: more calls were refused than the file has names for.
    pub(crate) call: Option<usize>,
    pub(crate) device: usize,
    /// In the process's own pid namespace.
    pub(crate) pid: u32,
    pub(crate) over: OverQuota,
    pub(crate) at: MonotonicNs,
}

/// A name as the file has it. What is longer is cut.
type Text = [u64; CALL_NAME_WORDS];

impl CallName {
    fn is(&self, text: &Text) -> bool {
        let words = self.text.iter().map(|word| word.load(Ordering::Relaxed));
        self.state.load(Ordering::Acquire) == 1 && words.eq(text.iter().copied())
    }

    /// Under the exclusive lock. The state comes last: a half-written name is none, and is written anew.
    fn write(&self, text: &Text) {
        text::write(&self.text, text);
        self.state.store(1, Ordering::Release);
    }

    fn read(&self) -> Option<String> {
        (self.state.load(Ordering::Acquire) == 1).then(|| text::read(&self.text))
    }
}

/// The row of a call's name, made at the first refusal of it; `None`: there is no room, or no lock to make it under.
fn row_of(file: &Mapping<ContainerFile>, call: &str) -> Option<usize> {
    let text = text::words_of(call);
    let find = || file.calls.iter().position(|name| name.is(&text));
    find().or_else(|| {
        let _exclusive = file.exclusive().ok()?;
        find().or_else(|| {
            let is_free = |name: &CallName| name.state.load(Ordering::Acquire) == 0;
            let row = file.calls.iter().position(is_free)?;
            file.calls.get(row)?.write(&text);
            Some(row)
        })
    })
}

/// Notes in `slot`, which is this process's, that `call` was refused. Allocates nothing; the first refusal of a call takes the file's lock.
pub(crate) fn note(file: &Mapping<ContainerFile>, slot: &Slot, call: &str, refused: Refused) {
    let refused = Refused {
        call: row_of(file, call),
        ..refused
    };
    let by_call = refused.call.and_then(|row| slot.refusals.by_call.get(row));
    let on_device = slot.devices.get(refused.device);
    let counts = [by_call, on_device.map(|device| &device.refusals)];
    for count in counts.into_iter().flatten() {
        count.fetch_add(1, Ordering::Relaxed);
    }
    slot.last_refusal.try_write(&refused);
}

impl RefusalRecord {
    /// Writes, unless another thread does at this moment.
    fn try_write(&self, refused: &Refused) {
        let writing = &self.writing;
        if writing
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
        {
            self.write(refused);
            writing.store(0, Ordering::Release);
        }
    }

    /// As the only one who writes.
    fn write(&self, refused: &Refused) {
        self.check.store(0, Ordering::SeqCst);
        let number = |row: usize| u32::try_from(row).unwrap_or(u32::MAX);
        let call = refused.call.map_or(0, |row| number(row).saturating_add(1));
        self.call.store(call, Ordering::Relaxed);
        self.device.store(number(refused.device), Ordering::Relaxed);
        self.pid.store(refused.pid, Ordering::Relaxed);
        let OverQuota {
            asked,
            current,
            max,
            bound,
        } = refused.over;
        self.asked_bytes.store(asked.get(), Ordering::Relaxed);
        self.current_bytes.store(current.get(), Ordering::Relaxed);
        self.max_bytes.store(max.get(), Ordering::Relaxed);
        self.bound.store(bound.number(), Ordering::Relaxed);
        self.at_ns.store(refused.at.get(), Ordering::Relaxed);
        self.check.store(check_of(refused), Ordering::SeqCst);
    }

    /// `None`: there is none, or none that is whole.
    pub(crate) fn read(&self) -> Option<Refused> {
        let check = self.check.load(Ordering::SeqCst);
        let row = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let bytes = |count: &AtomicU64| Bytes::new(count.load(Ordering::Relaxed));
        let refused = Refused {
            call: row(self.call.load(Ordering::Relaxed)).checked_sub(1),
            device: row(self.device.load(Ordering::Relaxed)),
            pid: self.pid.load(Ordering::Relaxed),
            over: OverQuota {
                asked: bytes(&self.asked_bytes),
                current: bytes(&self.current_bytes),
                max: bytes(&self.max_bytes),
                bound: Bound::of(self.bound.load(Ordering::Relaxed)),
            },
            at: MonotonicNs::new(self.at_ns.load(Ordering::Relaxed)),
        };
        (check == check_of(&refused)).then_some(refused)
    }

    /// There is none any more, and nobody writes.
    fn clear(&self) {
        self.check.store(0, Ordering::SeqCst);
        self.writing.store(0, Ordering::Release);
    }
}

/// A number made of all of a refusal, never 0.
fn check_of(refused: &Refused) -> u64 {
    let row = |row: usize| u64::try_from(row).unwrap_or(u64::MAX);
    let words = [
        refused.call.map_or(0, |call| row(call).saturating_add(1)),
        row(refused.device),
        u64::from(refused.pid),
        refused.over.asked.get(),
        refused.over.current.get(),
        refused.over.max.get(),
        u64::from(refused.over.bound.number()),
        refused.at.get(),
    ];
    // Knuth, The Art of Computer Programming 6.4: multiplication by 2⁶⁴ over the golden ratio spreads what is alike.
    let mix =
        |sum: u64, word: u64| (sum.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    words.into_iter().fold(1, mix) | 1
}

/// Adds what the process of `slot` was refused to what those were that are gone. Under the exclusive lock; a death in between loses a
/// count and never doubles one.
pub(crate) fn retire(file: &ContainerFile, slot: &Slot) {
    let counts = slot.refusals.by_call.iter().zip(&file.retired.by_call);
    let of_devices = slot.devices.iter().zip(&file.devices);
    let of_devices =
        of_devices.map(|(device, row)| (&device.refusals, &row.memory.retired_refusals));
    for (from, to) in counts.chain(of_devices) {
        to.fetch_add(from.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
    if let Some(refused) = slot.last_refusal.read()
        && file
            .retired_last
            .read()
            .is_none_or(|other| other.at <= refused.at)
    {
        file.retired_last.write(&refused);
    }
    slot.last_refusal.clear();
}

/// What was refused to some, by rows of `file`, the most frequent first.
pub(crate) fn by_call<'a>(
    file: &ContainerFile,
    counts: impl Iterator<Item = &'a RefusalCounts> + Clone,
) -> Vec<(String, u64)> {
    let count_of = |row: usize| {
        let counts = counts.clone().filter_map(|counts| counts.by_call.get(row));
        counts
            .map(|count| count.load(Ordering::Relaxed))
            .fold(0, u64::saturating_add)
    };
    let counts = (0..CALLS_MAX).map(|row| (row, count_of(row)));
    let mut calls: Vec<(String, u64)> = counts
        .filter(|(_, count)| *count > 0)
        .filter_map(|(row, count)| Some((name(file, row)?, count)))
        .collect();
    calls.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    calls
}

/// The name of the call in that row of `file`.
pub(crate) fn name(file: &ContainerFile, row: usize) -> Option<String> {
    file.calls.get(row)?.read()
}

#[cfg(test)]
mod tests;
