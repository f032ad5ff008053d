//! What a context takes of a GPU: the driver tells nobody, so those who make the first ones measure it, and all others know.
//!
//! Where nothing better is to be had, a measurement is the difference between what the whole board held after and before, and
//! whoever else allocates or frees in between disturbs it. Hence the first [`CONTEXT_COSTS`] contexts are made one after the other, and the middle counts.

use crate::clock;
use crate::shm;
use crate::shm::layout::{CONTEXT_COSTS, ContextRow};
use crate::sync::Ordering;
use crate::units::{Bytes, MonotonicNs};

/// Who measures and says nothing for so long has died or is stopped: another may.
const MEASURING_NS_MAX: u64 = 2_000_000_000;

/// What contexts take of one GPU under one driver: a view of the GPU's board.
#[derive(Clone, Copy, Debug)]
pub struct ContextCost<'a> {
    row: &'a ContextRow,
    driver_version: u32,
}

/// What to expect of a context that is about to be made.
#[derive(Debug)]
pub struct Expected<'a> {
    /// What it will take; `None`: nobody knows yet.
    pub bytes: Option<Bytes>,
    /// Whether the caller is to measure.
    pub turn: Option<Turn<'a>>,
}

/// The right to measure: given back by [`measured`](Self::measured), or dropped without a result.
#[derive(Debug)]
pub struct Turn<'a> {
    cost: ContextCost<'a>,
    since: MonotonicNs,
}

impl<'a> ContextCost<'a> {
    pub(crate) fn new(row: &'a ContextRow, driver_version: u32) -> Self {
        Self {
            row,
            driver_version,
        }
    }

    /// The middle of what was measured, the higher of two; `None` before the first measurement.
    pub fn bytes(&self) -> Option<Bytes> {
        let mut known = self.measurements();
        known.sort_unstable();
        known.get(known.len() / 2).copied().map(Bytes::new)
    }

    /// To be asked before a context is made. Until enough was measured, each of them is, one after the other: this waits for
    /// its turn.
    pub fn expect(&self) -> Expected<'a> {
        let mut now = clock::monotonic();
        let given_up = now.saturating_add_ns(MEASURING_NS_MAX);
        loop {
            let seen = self.row.measured.load(Ordering::SeqCst);
            let turn = self.try_turn(now);
            if turn.is_some() || self.is_enough() || now >= given_up {
                let bytes = self.bytes();
                return Expected { bytes, turn };
            }
            shm::futex_wait(&self.row.measured, seen, given_up);
            now = clock::monotonic();
        }
    }

    fn is_enough(&self) -> bool {
        self.measurements().len() >= CONTEXT_COSTS
    }

    fn try_turn(&self, now: MonotonicNs) -> Option<Turn<'a>> {
        if self.is_enough() {
            return None;
        }
        let word = &self.row.measuring_since_ns;
        let since = word.load(Ordering::SeqCst);
        let since_ns = MonotonicNs::new(since);
        // Far in the future: the clock began anew. A little: another took its turn after this one had looked at the clock.
        let is_free = since == 0
            || since_ns > now.saturating_add_ns(MEASURING_NS_MAX)
            || now.saturating_ns_since(since_ns) > MEASURING_NS_MAX;
        let is_ours = is_free
            && word
                .compare_exchange(since, now.get(), Ordering::SeqCst, Ordering::SeqCst)
                .is_ok();
        is_ours.then_some(Turn {
            cost: *self,
            since: now,
        })
    }

    /// In bytes, under this driver.
    fn measurements(&self) -> Vec<u64> {
        let words = self.row.costs.iter();
        words
            .map(|word| word.load(Ordering::SeqCst))
            .filter(|word| *word != 0 && self.is_of_driver(*word))
            .map(|word| (word & KIB_MAX).saturating_mul(KIB))
            .collect()
    }

    fn is_of_driver(&self, word: u64) -> bool {
        word >> KIB_BITS == u64::from(self.driver_version)
    }
}

/// What contexts were measured to take under the newest driver that anybody measured with, and that driver's version; `None`
/// before the first measurement.
pub(crate) fn newest(row: &ContextRow) -> Option<(u32, Bytes)> {
    let versions = row.costs.iter().filter_map(|word| {
        let word = word.load(Ordering::SeqCst);
        (word != 0).then(|| u32::try_from(word >> KIB_BITS).ok())?
    });
    let version = versions.max()?;
    Some((version, ContextCost::new(row, version).bytes()?))
}

const KIB: u64 = 1024;
/// A measurement is one word: the driver's version above, KiB below. So nobody reads half of one.
const KIB_BITS: u32 = 40;
const KIB_MAX: u64 = (1 << KIB_BITS) - 1;

impl Turn<'_> {
    /// The context took so much. Rounded down to KiB; nothing at all is no measurement.
    pub fn measured(self, bytes: Bytes) {
        let kib = (bytes.get() / KIB).min(KIB_MAX);
        if kib > 0
            && let Some(place) = self.cost.row.costs.iter().find(|word| {
                let measured = word.load(Ordering::SeqCst);
                measured == 0 || !self.cost.is_of_driver(measured)
            })
        {
            let version = u64::from(self.cost.driver_version) << KIB_BITS;
            place.store(version | kib, Ordering::SeqCst);
        }
        drop(self);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let row = self.cost.row;
        // Not ours any more where it took too long.
        let _ = row.measuring_since_ns.compare_exchange(
            self.since.get(),
            0,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        row.measured.fetch_add(1, Ordering::SeqCst);
        shm::futex_wake_all(&row.measured);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Board;
    use crate::units::DeviceUuid;

    const MIB: u64 = 1 << 20;
    const DRIVER: u32 = 13_000;

    fn board() -> (tempfile::TempDir, Board) {
        let dir = tempfile::tempdir().unwrap();
        let board = Board::attach(dir.path(), DeviceUuid::from_bytes([3; 16])).unwrap();
        (dir, board)
    }

    fn measure(cost: ContextCost<'_>, mib: u64) {
        cost.expect().turn.unwrap().measured(Bytes::new(mib * MIB));
    }

    #[test]
    fn the_first_context_is_measured_and_the_next_ones_cost_is_known() {
        let (_dir, board) = board();
        let cost = board.context_cost(DRIVER);
        let first = cost.expect();
        assert_eq!(first.bytes, None);
        first.turn.unwrap().measured(Bytes::new(104 * MIB));
        assert_eq!(cost.expect().bytes, Some(Bytes::new(104 * MIB)));
    }

    #[test]
    fn a_disturbed_measurement_is_outvoted() {
        let (_dir, board) = board();
        let cost = board.context_cost(DRIVER);
        for mib in [4_000, 104, 0, 104, 105, 104] {
            measure(cost, mib);
        }
        assert_eq!(cost.bytes(), Some(Bytes::new(104 * MIB)));
        assert!(cost.expect().turn.is_none(), "enough was measured");
    }

    #[test]
    fn another_driver_is_measured_anew() {
        let (_dir, board) = board();
        measure(board.context_cost(DRIVER), 104);
        let newer = board.context_cost(DRIVER + 10);
        assert_eq!(newer.bytes(), None);
        measure(newer, 200);
        assert_eq!(newer.bytes(), Some(Bytes::new(200 * MIB)));
    }

    #[test]
    fn one_measures_and_the_others_wait_for_the_result() {
        let (_dir, board) = board();
        let cost = board.context_cost(DRIVER);
        let turn = cost.expect().turn.unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| cost.expect().bytes);
            turn.measured(Bytes::new(104 * MIB));
            assert_eq!(waiting.join().unwrap(), Some(Bytes::new(104 * MIB)));
        });
    }

    #[test]
    fn a_turn_from_before_a_reboot_is_over() {
        let (_dir, board) = board();
        let cost = board.context_cost(DRIVER);
        let now = clock::monotonic();
        let before = now.saturating_add_ns(MEASURING_NS_MAX + 1);
        let _before = cost.try_turn(before).unwrap();
        assert!(cost.try_turn(now).is_some());
    }

    #[test]
    fn a_turn_that_was_taken_since_the_clock_was_read_is_not_over() {
        let (_dir, board) = board();
        let cost = board.context_cost(DRIVER);
        let now = clock::monotonic();
        let _turn = cost.try_turn(now.saturating_add_ns(1)).unwrap();
        assert!(cost.try_turn(now).is_none());
    }

    #[test]
    fn whoever_never_says_what_it_measured_loses_its_turn() {
        let (_dir, board) = board();
        let cost = board.context_cost(DRIVER);
        let now = clock::monotonic();
        let stopped = cost.try_turn(now).unwrap();
        assert!(
            cost.try_turn(now.saturating_add_ns(MEASURING_NS_MAX))
                .is_none()
        );
        let later = now.saturating_add_ns(MEASURING_NS_MAX + 1);
        let other = cost.try_turn(later).unwrap();
        drop(stopped);
        assert!(
            cost.try_turn(later).is_none(),
            "the turn is the other's now"
        );
        drop(other);
        assert!(cost.try_turn(later).is_some());
    }
}
