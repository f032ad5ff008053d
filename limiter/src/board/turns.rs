//! Whose turn it is on a GPU that several containers may use up: weighted virtual time.
//!
//! Each container has a clock that advances by what its launches cost, divided by its guarantee. Who is ahead of the
//! slowest of those that want the GPU waits: so each gets the GPU in proportion to its guarantee as long as all have work,
//! and what one does not want goes to the others. (Start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996.)
//!
//! That a process wants the GPU is a promise that ends by itself. Who dies, is stopped, or waits for something else than
//! its turn holds nobody up for longer than its work should have taken.

use std::path::Path;

use super::{Board, path};
use crate::bucket::Correction;
use crate::config::ContainerName;
use crate::shm::AttachError;
use crate::shm::layout::{Activity, BoardFile, TenantRow};
use crate::slot::{Process, used};
use crate::sync::Ordering;
use crate::text;
use crate::units::{DeviceUuid, GpuNs, MonotonicNs, Percent};

/// GPU time by which a container may be ahead of the slowest.
const LEAD_NS_MAX: u64 = 1_000_000;
/// GPU time by which a container that comes back may be behind the slowest: what it did not want is lost but for this.
const CREDIT_NS: u64 = 10_000_000;
/// Who is ahead looks again no sooner than after the first, and no later than after the second.
const LOOK_AGAIN_NS: (u64, u64) = (50_000, 1_000_000);

/// What a container counts for beside others: its guarantee. Without one, the least there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight(Percent);

impl Weight {
    pub(crate) fn of(sm: Option<Percent>) -> Self {
        Self(sm.unwrap_or(Percent::LEAST))
    }

    fn thousandths(self) -> u64 {
        u64::from(self.0.thousandths())
    }

    /// How far the clock advances for this much GPU time.
    fn virtual_ns(self, cost_ns: u64) -> u64 {
        virtual_ns(cost_ns, self.thousandths())
    }

    /// The GPU time for which the clock advances so far.
    fn cost_ns(self, virtual_ns: u64) -> u64 {
        let thousandths = u128::from(virtual_ns).saturating_mul(u128::from(self.thousandths()));
        let cost = thousandths.checked_div(u128::from(Percent::ALL.thousandths()));
        cost.and_then(|cost| u64::try_from(cost).ok())
            .unwrap_or(u64::MAX)
    }
}

/// How far the clock of a container of that weight, in thousandths of a percent, advances for this much GPU time.
fn virtual_ns(cost_ns: u64, weight: u64) -> u64 {
    cost_ns
        .saturating_mul(u64::from(Percent::ALL.thousandths()))
        .checked_div(weight)
        .unwrap_or(cost_ns)
}

/// Those that want the GPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanting {
    /// The least clock among the other containers that do.
    least_other: Option<u64>,
    /// Where the clock of one of them stood, at the least, when what it has on the GPU began.
    least_begin: Option<u64>,
    /// Whether a process of this container does.
    is_own: bool,
    /// What all of those count for, in thousandths of a percent; this container with them.
    weights: u64,
}

impl Wanting {
    /// Whether another container wants the GPU.
    pub(crate) fn is_contended(self) -> bool {
        self.least_other.is_some()
    }
}

impl Board {
    /// Take a place on the GPU's board as one of the processes of `container`. Which process this is costs more to ask than all else here.
    ///
    /// # Errors
    /// The file cannot be used, or all its places are taken: those for processes, or those for containers by containers that are there.
    pub(crate) fn join(
        dir: &Path,
        device: DeviceUuid,
        process: Process,
        container: &ContainerName,
    ) -> Result<Self, AttachError> {
        Self::take(dir, device, process, |file| {
            let full = || AttachError::Full {
                path: path(dir, device),
                what: "container",
            };
            place_of(file, container).map(Some).ok_or_else(full)
        })
    }

    /// Who wants the GPU now.
    pub(crate) fn wanting(&self, now: MonotonicNs) -> Wanting {
        let mut wanting = Wanting {
            weights: self
                .tenant()
                .map_or(0, |own| own.weight.load(Ordering::Relaxed)),
            ..Wanting::default()
        };
        let mut seen = [0_u64; 4];
        for (index, outstanding_ns) in wanting_tenants(&self.seat.file, now) {
            let Some(tenant) = self.seat.file.tenants.get(index) else {
                continue;
            };
            if Some(index) == self.tenant {
                wanting.is_own = true;
                continue;
            }
            let weight = tenant.weight.load(Ordering::Relaxed);
            let vt = tenant.vt.load(Ordering::Relaxed);
            let begin = vt.saturating_sub(virtual_ns(outstanding_ns, weight));
            wanting.least_other = Some(wanting.least_other.map_or(vt, |least| least.min(vt)));
            wanting.least_begin = Some(wanting.least_begin.map_or(begin, |least| least.min(begin)));
            if is_first(&mut seen, index) {
                wanting.weights = wanting.weights.saturating_add(weight);
            }
        }
        wanting
    }

    /// When to ask again because this container is ahead of another that wants the GPU, with what it `owed` beside; `None`: it is its turn.
    pub(crate) fn ahead_until(
        &self,
        weight: Weight,
        wanting: Wanting,
        owed: GpuNs,
        now: MonotonicNs,
    ) -> Option<MonotonicNs> {
        let (tenant, least) = (self.tenant()?, wanting.least_other?);
        let vt = tenant.vt.load(Ordering::Relaxed);
        let with_owed = vt.saturating_add(weight.virtual_ns(owed.get()));
        let ahead = with_owed.saturating_sub(least);
        let too_far = weight.cost_ns(ahead).saturating_sub(LEAD_NS_MAX);
        if too_far == 0 {
            return None;
        }
        // The others catch up in the time in which everybody's part of it makes up for the lead.
        let parts = u128::from(wanting.weights)
            .checked_div(u128::from(weight.thousandths()))
            .unwrap_or(1)
            .max(1);
        let wait = u128::from(too_far).saturating_mul(parts);
        let (least_ns, most_ns) = LOOK_AGAIN_NS;
        let wait = u64::try_from(wait)
            .unwrap_or(most_ns)
            .clamp(least_ns, most_ns);
        Some(now.saturating_add_ns(wait))
    }

    /// This container wants the GPU, as `wanting` says beside whom. If it wanted nothing before, it begins where the others are, with a little
    /// credit. To be said before [`want_until`](Self::want_until).
    pub(crate) fn come(&self, weight: Weight, wanting: Wanting) {
        let Some(tenant) = self.tenant().filter(|_| !wanting.is_own) else {
            return;
        };
        let shared = &self.seat.file.turns.least_vt;
        let begin = wanting
            .least_begin
            .unwrap_or_else(|| shared.load(Ordering::Relaxed))
            .saturating_sub(weight.virtual_ns(CREDIT_NS));
        tenant.vt.fetch_max(begin, Ordering::Relaxed);
    }

    /// This container, which [has come](Self::come), launches work of this cost, as `wanting` says beside whom.
    pub(crate) fn take_turn(&self, weight: Weight, wanting: Wanting, cost: GpuNs) {
        let Some(tenant) = self.tenant() else {
            return;
        };
        tenant.weight.store(weight.thousandths(), Ordering::Relaxed);
        let shared = &self.seat.file.turns.least_vt;
        let vt = tenant
            .vt
            .fetch_add(weight.virtual_ns(cost.get()), Ordering::Relaxed);
        let least = wanting.least_other.map_or(vt, |least| least.min(vt));
        shared.fetch_max(least, Ordering::Relaxed);
    }

    /// A launch cost more, or less, than was thought.
    pub(crate) fn correct_turn(&self, weight: Weight, correction: Correction) {
        let Some(tenant) = self.tenant() else {
            return;
        };
        let next = |vt: u64| {
            Some(match correction {
                Correction::More(cost) => vt.saturating_add(weight.virtual_ns(cost.get())),
                Correction::Less(cost) => vt.saturating_sub(weight.virtual_ns(cost.get())),
            })
        };
        let _always_some = tenant
            .vt
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// So much GPU time of this process's is outstanding.
    pub(crate) fn set_outstanding(&self, outstanding_ns: u64) {
        if let Some(activity) = self.own() {
            activity
                .outstanding_ns
                .store(outstanding_ns, Ordering::Relaxed);
        }
    }

    /// The GPU time that is outstanding of all who have work on the GPU, whether they have said that they want it for so long or not.
    pub(crate) fn outstanding_ns(&self, now: MonotonicNs) -> u64 {
        let entries = self
            .busy(now)
            .filter_map(|index| self.seat.file.entries.get(index));
        let outstanding =
            entries.map(|entry| entry.activity.outstanding_ns.load(Ordering::Relaxed));
        outstanding.fold(0, u64::saturating_add)
    }

    /// This process wants the GPU until then, as far as is known now.
    pub(crate) fn want_until(&self, until: MonotonicNs) {
        if let Some(activity) = self.own() {
            activity
                .wants_until_ns
                .store(until.get(), Ordering::Relaxed);
        }
    }

    /// The same if it wants the GPU still, and has not been silent for longer than it had said.
    pub(crate) fn want_on_until(&self, now: MonotonicNs, until: MonotonicNs) {
        let wants = |activity: &Activity| activity.wants_until_ns.load(Ordering::Relaxed);
        if self.own().map(wants) > Some(now.get()) {
            self.want_until(until);
        }
    }

    /// The other containers that have a process here; of one whose processes have just died, too.
    pub(crate) fn other_containers(&self) -> Vec<ContainerName> {
        let file = &self.seat.file;
        let rows = file.tenants.iter().enumerate();
        let is_other = |index: usize| {
            Some(index) != self.tenant && numbers(file).any(|number| number == index)
        };
        rows.filter(|(index, _)| is_other(*index))
            .filter_map(|(_, row)| text::read(&row.name).parse().ok())
            .collect()
    }

    fn tenant(&self) -> Option<&TenantRow> {
        self.seat.file.tenants.get(self.tenant?)
    }
}

/// The processes that want the GPU: the row of each one's container, and the GPU time outstanding, in ns.
fn wanting_tenants(file: &BoardFile, now: MonotonicNs) -> impl Iterator<Item = (usize, u64)> {
    used(file).filter_map(move |index| {
        let activity = &file.entries.get(index)?.activity;
        let until = MonotonicNs::new(activity.wants_until_ns.load(Ordering::Relaxed));
        // Nobody promises so much: a word of before the clock began anew.
        let wants = now < until && until <= now.saturating_add_ns(super::HEARTBEAT_NS_MAX);
        let number = usize::try_from(activity.tenant.load(Ordering::Relaxed)).ok()?;
        let tenant = number.checked_sub(1).filter(|_| wants)?;
        Some((tenant, activity.outstanding_ns.load(Ordering::Relaxed)))
    })
}

/// Whether `index` was not in the set; now it is.
fn is_first(seen: &mut [u64; 4], index: usize) -> bool {
    let Some(word) = seen.get_mut(index / 64) else {
        return false;
    };
    let bit = 1_u64 << (index % 64);
    let is_first = *word & bit == 0;
    *word |= bit;
    is_first
}

/// The row of a container, taken where it has none: a free one, or that of a container of which nobody is left.
/// Called under the file's lock.
fn place_of(file: &BoardFile, container: &ContainerName) -> Option<usize> {
    let id = id_of(container);
    let rows = || file.tenants.iter().enumerate();
    let find = |wanted: u64| {
        rows().find_map(|(index, row)| (row.id.load(Ordering::Relaxed) == wanted).then_some(index))
    };
    if let Some(index) = find(id) {
        return Some(index);
    }
    let index = find(0).or_else(|| {
        rows().find_map(|(index, _)| {
            let is_left = numbers(file).all(|number| number != index);
            is_left.then_some(index)
        })
    })?;
    let row = file.tenants.get(index)?;
    row.id.store(0, Ordering::Relaxed); // who dies here leaves nobody's row
    row.vt.store(0, Ordering::Relaxed);
    row.weight.store(0, Ordering::Relaxed);
    text::write(&row.name, &text::words_of(container.as_str()));
    row.id.store(id, Ordering::Release);
    Some(index)
}

/// The rows of the containers that the processes here are of.
fn numbers(file: &BoardFile) -> impl Iterator<Item = usize> {
    used(file).filter_map(|index| {
        let activity = &file.entries.get(index)?.activity;
        let number = activity.tenant.load(Ordering::Relaxed);
        usize::try_from(number).ok()?.checked_sub(1)
    })
}

/// FNV-1a of the name; never 0.
fn id_of(container: &ContainerName) -> u64 {
    let hash = container
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::layout::TENANTS_MAX;

    const MS: u64 = 1_000_000;
    const GPU: DeviceUuid = DeviceUuid::from_bytes([9; 16]);

    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs::new(10_000 * MS + ms * MS)
    }

    fn weight(percent: &str) -> Weight {
        Weight::of(Some(percent.parse().unwrap()))
    }

    fn join(dir: &Path, container: &str) -> Result<Board, AttachError> {
        Board::join(dir, GPU, Process::current(), &container.parse().unwrap())
    }

    fn joined(dir: &Path, container: &str) -> Board {
        join(dir, container).unwrap()
    }

    /// Wants the GPU for a second, and launches so much of it.
    fn launch(board: &Board, weight: Weight, cost_ms: u64, now: MonotonicNs) {
        board.come(weight, board.wanting(now));
        board.take_turn(weight, board.wanting(now), GpuNs::new(cost_ms * MS));
        board.want_until(now.saturating_add_ns(1_000 * MS));
    }

    fn is_turn(board: &Board, weight: Weight, now: MonotonicNs) -> bool {
        board
            .ahead_until(weight, board.wanting(now), GpuNs::default(), now)
            .is_none()
    }

    fn vt(board: &Board) -> u64 {
        board.tenant().unwrap().vt.load(Ordering::Relaxed)
    }

    #[test]
    fn who_is_ahead_waits_until_the_others_have_had_their_part() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (joined(dir.path(), "a"), joined(dir.path(), "b"));
        let (third, two_thirds) = (weight("30"), weight("60"));
        launch(&a, third, 1, at(0));
        launch(&b, two_thirds, 1, at(0));
        launch(&a, third, 10, at(0));
        assert!(!is_turn(&a, third, at(0)) && is_turn(&b, two_thirds, at(0)));
        launch(&b, two_thirds, 17, at(0));
        assert!(!is_turn(&a, third, at(0)), "11 beside 18 is too much");
        launch(&b, two_thirds, 2, at(0));
        assert!(is_turn(&a, third, at(0)), "11 beside 20 is one ahead");
        launch(&b, two_thirds, 10, at(0));
        assert!(!is_turn(&b, two_thirds, at(0)));
    }

    #[test]
    fn who_looks_again_does_so_when_the_others_will_have_caught_up() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (joined(dir.path(), "a"), joined(dir.path(), "b"));
        let half = weight("50");
        launch(&a, half, 0, at(0));
        launch(&b, half, 0, at(0));
        let wait_ns = |cost_ns| {
            a.take_turn(half, a.wanting(at(0)), GpuNs::new(cost_ns));
            let then = a.ahead_until(half, a.wanting(at(0)), GpuNs::default(), at(0));
            then.map(|then| then.saturating_ns_since(at(0)))
        };
        assert_eq!(wait_ns(MS), None);
        assert_eq!(wait_ns(MS / 4), Some(MS / 2), "as much again for the other");
        assert_eq!(wait_ns(100 * MS), Some(MS), "it may leave at any time");
    }

    #[test]
    fn what_all_have_on_the_gpu_is_outstanding() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (joined(dir.path(), "a"), joined(dir.path(), "b"));
        let half = weight("50");
        for (board, ms) in [(&a, 3), (&b, 4)] {
            launch(board, half, ms, at(0));
            board.set_busy(at(0));
            board.set_outstanding(ms * MS);
        }
        assert_eq!(a.outstanding_ns(at(0)), 7 * MS);
        b.want_until(at(0));
        assert_eq!(a.outstanding_ns(at(1)), 7 * MS, "it is there still");
        b.set_idle(at(2));
        assert_eq!(a.outstanding_ns(at(2)), 3 * MS);
    }

    #[test]
    fn who_wants_the_gpu_no_longer_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (joined(dir.path(), "a"), joined(dir.path(), "b"));
        let half = weight("50");
        launch(&b, half, 0, at(0));
        launch(&a, half, 50, at(0));
        assert!(!is_turn(&a, half, at(999)));
        assert!(is_turn(&a, half, at(1_000)), "its promise has ended");
        b.want_until(at(5_000));
        assert!(is_turn(&a, half, at(1_000)), "nobody promises so much");
        b.want_until(at(1_500));
        assert!(!is_turn(&a, half, at(1_000)));
        drop(b);
        assert!(is_turn(&a, half, at(1_000)), "it is gone");
    }

    #[test]
    fn who_comes_back_begins_where_the_others_are_with_a_little_credit() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (joined(dir.path(), "a"), joined(dir.path(), "b"));
        let half = weight("50");
        launch(&b, half, 100, at(0));
        launch(&b, half, 900, at(10));
        launch(&a, half, 0, at(20));
        assert_eq!(vt(&b) - vt(&a), half.virtual_ns(CREDIT_NS));
        launch(&b, half, 500, at(20));
        launch(&a, half, 0, at(20));
        assert_eq!(
            vt(&b) - vt(&a),
            half.virtual_ns(CREDIT_NS + 500 * MS),
            "it never left"
        );
    }

    #[test]
    fn who_comes_pays_nothing_of_what_another_has_on_the_gpu_still() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (joined(dir.path(), "a"), joined(dir.path(), "b"));
        let half = weight("50");
        launch(&b, half, 100, at(0));
        launch(&b, half, 900, at(10));
        b.set_outstanding(900 * MS);
        launch(&a, half, 0, at(20));
        assert_eq!(vt(&b) - vt(&a), half.virtual_ns(CREDIT_NS + 900 * MS));
    }

    #[test]
    fn where_nobody_is_a_container_goes_on_where_the_last_one_stood() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (joined(dir.path(), "a"), joined(dir.path(), "b"));
        let half = weight("50");
        launch(&b, half, 100, at(0));
        launch(&b, half, 100, at(10));
        launch(&a, half, 0, at(5_000));
        let begun = half.virtual_ns(100 * MS);
        assert_eq!(vt(&a), begun - half.virtual_ns(CREDIT_NS));
    }

    #[test]
    fn a_launch_is_paid_for_as_it_turned_out() {
        let dir = tempfile::tempdir().unwrap();
        let (a, tenth) = (joined(dir.path(), "a"), weight("10"));
        launch(&a, tenth, 5, at(0));
        a.correct_turn(tenth, Correction::More(GpuNs::new(2 * MS)));
        assert_eq!(vt(&a), 70 * MS);
        a.correct_turn(tenth, Correction::Less(GpuNs::new(7 * MS)));
        assert_eq!(vt(&a), 0);
        assert_eq!(Weight::of(None), weight("1"), "without a guarantee");
    }

    #[test]
    fn the_processes_of_a_container_have_one_clock_and_the_least_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = [(); 2].map(|()| joined(dir.path(), "a"));
        let (other, half) = (joined(dir.path(), "b"), weight("50"));
        launch(&one, half, 3, at(0));
        launch(&two, half, 4, at(0));
        assert_eq!((vt(&one), vt(&two)), (14 * MS, 14 * MS));
        launch(&other, half, 0, at(0));
        assert_eq!(other.wanting(at(0)).weights, 2 * half.thousandths());
        assert!(one.wanting(at(0)).is_own, "through the other process");
    }

    #[test]
    fn a_place_is_its_containers_until_nobody_of_it_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let first = joined(dir.path(), "first");
        let index = first.tenant;
        for number in 1..TENANTS_MAX {
            drop(joined(dir.path(), &format!("c{number}")));
        }
        assert_eq!(joined(dir.path(), "first").tenant, index);
        assert_ne!(
            joined(dir.path(), "late").tenant,
            index,
            "another's that is gone"
        );
        let boards: Vec<Board> = (2..=TENANTS_MAX)
            .map(|number| joined(dir.path(), &format!("d{number}")))
            .collect();
        let refused = join(dir.path(), "one-too-many").unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("no place left for another container")
        );
        drop(boards);
        joined(dir.path(), "one-too-many");
    }
}
