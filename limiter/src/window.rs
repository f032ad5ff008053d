//! How much work a process under a share may have on the GPU: little, so that a neighbour who comes is served soon, and
//! what is launched in turn runs in turn.

use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::units::{GpuNs, MonotonicNs};

/// GPU time outstanding while another container wants the GPU, and while none does.
const CONTENDED_NS_MAX: u64 = 2_000_000;
const ALONE_NS_MAX: u64 = 4_000_000;
/// The same of a container that only its cap holds back. Where the GPU keeps up there is hardly ever so much; where it does not, because others
/// have their part and switching takes its own, all that the program wants to have in flight would pile up, and whoever needs the GPU
/// to itself waits for it.
const CAPPED_NS_MAX: u64 = 16_000_000;
/// So many launches may be outstanding however long they are: the GPU would pause between them otherwise.
const LAUNCHES_MIN: u32 = 2;
/// When nothing has ended or begun for so long, and for so many times what the launch takes, it may go: what is outstanding
/// may wait for it.
const LIVENESS_NS: u64 = 10_000_000;
const LIVENESS_COSTS: u64 = 4;
/// Who waits is woken by an end; should that be missed, it looks again after this.
const LOOK_AGAIN_NS: u64 = 1_000_000;
/// No launch waits longer for its turn, whatever the others' words in shared memory say.
pub(crate) const PATIENCE_NS: u64 = 2_000_000_000;

/// What bounds the work that is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It takes turns with another container that wants the GPU.
    Contended,
    /// It would, but nobody else wants the GPU.
    Alone,
    /// Nobody's turn counts, only its cap.
    Capped,
}

impl Room {
    /// Whether a launch of this cost may go beside what is outstanding.
    fn is_left(self, outstanding_ns: u64, cost: GpuNs) -> bool {
        let with_it_ns = outstanding_ns.saturating_add(cost.get());
        match self {
            Self::Contended => with_it_ns <= CONTENDED_NS_MAX,
            // However long it is: a short one behind a long one would end before anybody has seen that the long one did.
            Self::Alone => outstanding_ns < ALONE_NS_MAX,
            Self::Capped => with_it_ns <= CAPPED_NS_MAX,
        }
    }
}

/// What one process has on one GPU.
#[derive(Debug, Default)]
pub(crate) struct Window {
    outstanding_ns: AtomicU64,
    /// Part of that: set aside with the launch that ended last, whose own end says nothing of what was launched on that credit.
    credit_ns: AtomicU64,
    launches: AtomicU32,
    /// When a launch last began or ended.
    progress_ns: AtomicU64,
    /// Since when some launch has waited; 0: none does.
    pub(crate) waiting_since_ns: AtomicU64,
    /// Whether a launch waits for an end.
    pub(crate) is_waited_for: AtomicBool,
}

impl Window {
    /// When to ask again because enough is outstanding; `None`: one more of this cost may go.
    pub(crate) fn full_until(
        &self,
        room: Room,
        cost: GpuNs,
        now: MonotonicNs,
    ) -> Option<MonotonicNs> {
        let is_left = room.is_left(self.outstanding_ns.load(Ordering::Relaxed), cost);
        if is_left || self.launches.load(Ordering::Relaxed) < LAUNCHES_MIN {
            return None;
        }
        let patience_ns = LIVENESS_NS.max(cost.get().saturating_mul(LIVENESS_COSTS));
        let given_up = MonotonicNs::new(self.progress_ns.load(Ordering::Relaxed))
            .saturating_add_ns(patience_ns);
        if now >= given_up {
            return None;
        }
        self.is_waited_for.store(true, Ordering::Release);
        Some(given_up.min(now.saturating_add_ns(LOOK_AGAIN_NS)))
    }

    /// How many launches are outstanding.
    pub(crate) fn launches(&self) -> u32 {
        self.launches.load(Ordering::Relaxed)
    }

    /// Whether launches may be made to wait still.
    pub(crate) fn is_patient(&self, now: MonotonicNs) -> bool {
        let since = match self.waiting_since_ns.compare_exchange(
            0,
            now.get(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            Ok(_) => now,
            Err(since) => MonotonicNs::new(since),
        };
        now.saturating_ns_since(since) < PATIENCE_NS
    }

    /// A launch of this cost goes; the GPU time that is outstanding with it, in ns.
    pub(crate) fn push(&self, cost: GpuNs, now: MonotonicNs) -> u64 {
        self.launches.fetch_add(1, Ordering::Relaxed);
        self.progress_ns.store(now.get(), Ordering::Relaxed);
        self.outstanding_ns
            .fetch_add(cost.get(), Ordering::Relaxed)
            .saturating_add(cost.get())
    }

    /// A launch that was charged that much has ended, and what was launched on the credit of the one before; the GPU time that is still
    /// outstanding, in ns.
    pub(crate) fn pop(&self, cost: GpuNs, granted: GpuNs, now: MonotonicNs) -> u64 {
        self.launches.fetch_sub(1, Ordering::Relaxed);
        self.progress_ns.store(now.get(), Ordering::Relaxed);
        let before_ns = self.credit_ns.swap(granted.get(), Ordering::Relaxed);
        self.subtract(cost.get().saturating_add(before_ns))
    }

    /// Nothing is left; the GPU time of launches that have begun since, in ns.
    pub(crate) fn rest(&self) -> u64 {
        self.subtract(self.credit_ns.swap(0, Ordering::Relaxed))
    }

    fn subtract(&self, ns: u64) -> u64 {
        self.outstanding_ns
            .fetch_sub(ns, Ordering::Relaxed)
            .saturating_sub(ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs::new(10_000 * MS + ms * MS)
    }

    /// How many launches of this cost go at once.
    fn at_once(room: Room, cost_ns: u64) -> usize {
        let (window, cost) = (Window::default(), GpuNs::new(cost_ns));
        std::iter::repeat_with(|| window.full_until(room, cost, at(0)))
            .take_while(|full| full.is_none())
            .inspect(|_| {
                window.push(cost, at(0));
            })
            .take(1_000)
            .count()
    }

    #[test]
    fn little_is_outstanding_beside_others_and_somewhat_more_alone() {
        let of_100_us = [Room::Contended, Room::Alone].map(|room| at_once(room, MS / 10));
        assert_eq!(of_100_us, [20, 40]);
        let of_9_ms = [Room::Contended, Room::Alone].map(|room| at_once(room, 9 * MS));
        assert_eq!(of_9_ms, [2, 2]);
    }

    #[test]
    fn of_a_capped_container_no_more_piles_up_than_others_can_wait_for() {
        let at_once = [MS / 10, MS, 9 * MS].map(|cost_ns| at_once(Room::Capped, cost_ns));
        assert_eq!(at_once, [160, 16, 2]);
    }

    #[test]
    fn an_end_makes_room_and_tells_whoever_waits() {
        let (window, cost) = (Window::default(), GpuNs::new(3 * MS));
        window.push(cost, at(0));
        assert_eq!(window.push(cost, at(0)), 6 * MS);
        assert!(!window.is_waited_for.load(Ordering::Relaxed));
        assert_eq!(
            window.full_until(Room::Alone, cost, at(1)),
            Some(at(2)),
            "to look again"
        );
        assert!(window.is_waited_for.load(Ordering::Relaxed));
        assert_eq!(window.pop(cost, GpuNs::default(), at(1)), 3 * MS);
        assert_eq!(window.full_until(Room::Alone, cost, at(1)), None);
        assert_eq!(window.launches(), 1);
        assert_eq!(window.pop(cost, GpuNs::default(), at(1)), 0);
    }

    #[test]
    fn what_went_on_credit_is_outstanding_until_a_later_launch_has_ended() {
        let (window, cost, credit) = (Window::default(), GpuNs::new(MS), GpuNs::new(MS / 5));
        window.push(GpuNs::new(MS + MS / 5), at(0));
        window.push(cost, at(0));
        assert_eq!(window.pop(cost, credit, at(1)), MS + MS / 5);
        assert_eq!(window.pop(cost, credit, at(1)), 0);
        window.push(credit, at(1));
        assert_eq!(window.rest(), 0, "nothing runs any more");
    }

    #[test]
    fn one_more_goes_when_nothing_has_happened_for_long() {
        for (cost_ms, patience_ms) in [(2, 10), (50, 200)] {
            let (window, cost) = (Window::default(), GpuNs::new(cost_ms * MS));
            for _ in 0..5 {
                window.push(cost, at(0));
            }
            assert!(
                window
                    .full_until(Room::Alone, cost, at(patience_ms - 1))
                    .is_some()
            );
            assert!(
                window
                    .full_until(Room::Alone, cost, at(patience_ms))
                    .is_none()
            );
            window.push(cost, at(patience_ms));
            assert!(
                window
                    .full_until(Room::Alone, cost, at(patience_ms))
                    .is_some(),
                "one"
            );
        }
    }

    #[test]
    fn no_launch_waits_for_its_turn_for_more_than_two_seconds() {
        let window = Window::default();
        assert!(window.is_patient(at(0)) && window.is_patient(at(1_999)));
        assert!(!window.is_patient(at(2_000)));
        window.waiting_since_ns.store(0, Ordering::Relaxed);
        assert!(window.is_patient(at(2_001)), "another launch");
    }
}
