//! Device memory: who holds which bytes.
//!
//! Memory is backed in pages of 2 MiB, as on hardware (`cuMemGetAllocationGranularity`). Large blocks
//! take whole pages; small blocks of one process share a page.

use super::ProcessId;
use super::containers::ContainerId;
use crate::command::{AllocKind, BlockId};
use crate::profile::PAGE_BYTES;
use std::collections::BTreeMap;

/// Blocks from this size on take whole pages, in bytes. Estimate; CUDA documents no figure.
const LARGE_BYTES: u64 = 1 << 20;

/// Alignment of a small block, in bytes; CUDA promises at least 256.
const SMALL_ALIGN_BYTES: u64 = 512;

/// Ranges that are free, by start; neighbours are always joined.
#[derive(Clone, Debug, Default)]
struct FreeRanges(BTreeMap<u64, u64>);

impl FreeRanges {
    fn whole(bytes: u64) -> Self {
        Self(BTreeMap::from([(0, bytes)]))
    }

    /// Takes the lowest range that fits.
    fn take(&mut self, bytes: u64) -> Option<u64> {
        let (&start, &size) = self.0.iter().find(|&(_, &size)| size >= bytes)?;
        self.0.remove(&start);
        if size > bytes {
            self.0.insert(start + bytes, size - bytes);
        }
        Some(start)
    }

    fn give(&mut self, start: u64, bytes: u64) {
        let mut joined = (start, bytes);
        if let Some((&before, &size)) = self.0.range(..start).next_back()
            && before + size == start
        {
            joined = (before, size + bytes);
        }
        if let Some(size) = self.0.remove(&(start + bytes)) {
            joined.1 += size;
        }
        self.0.insert(joined.0, joined.1);
    }

    fn is_whole(&self, bytes: u64) -> bool {
        self.0.get(&0) == Some(&bytes)
    }
}

/// A page that small blocks of one process share.
#[derive(Clone, Debug)]
struct SharedPage {
    owner: ProcessId,
    free: FreeRanges,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    owner: ProcessId,
    offset: u64,
    /// As taken from the page or pages: rounded up.
    bytes: u64,
    bytes_asked: u64,
    small: bool,
}

/// Who holds a block beside its owner.
#[derive(Clone, Debug, Default)]
struct Sharing {
    /// One entry for each time that it was opened.
    guests: Vec<ProcessId>,
    /// Its owner has let go of it; it stays the owner's in the books until the last guest has, too.
    abandoned: bool,
}

/// Pages that became free: start and size in bytes.
pub(super) type Pages = (u64, u64);

/// The memory of one device.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    total_bytes: u64,
    free: FreeRanges,
    free_bytes: u64,
    shared_pages: BTreeMap<u64, SharedPage>,
    held: BTreeMap<BlockId, Held>,
    /// Of blocks that somebody else than the owner holds.
    sharing: BTreeMap<BlockId, Sharing>,
    /// Backed bytes of each process: now, and the most ever.
    usage: BTreeMap<ProcessId, (u64, u64)>,
    /// The container of each process that has one.
    containers: BTreeMap<ProcessId, ContainerId>,
    /// Backed bytes of each container: now, and the most ever.
    container_usage: BTreeMap<ContainerId, (u64, u64)>,
}

impl Memory {
    /// `total_bytes` is a multiple of [`PAGE_BYTES`].
    pub(super) fn new(total_bytes: u64) -> Self {
        Self {
            total_bytes,
            free: FreeRanges::whole(total_bytes),
            free_bytes: total_bytes,
            shared_pages: BTreeMap::new(),
            held: BTreeMap::new(),
            sharing: BTreeMap::new(),
            usage: BTreeMap::new(),
            containers: BTreeMap::new(),
            container_usage: BTreeMap::new(),
        }
    }

    /// Says whose a process is, before it takes anything.
    pub(super) fn enrol(&mut self, process: ProcessId, container: ContainerId) {
        self.containers.insert(process, container);
    }

    /// Strikes a process that holds nothing from the books.
    pub(super) fn forget(&mut self, process: ProcessId) {
        self.usage.remove(&process);
        self.containers.remove(&process);
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.free_bytes
    }

    /// Backed bytes of a process: now, and the most ever.
    pub(super) fn usage(&self, owner: ProcessId) -> (u64, u64) {
        self.usage.get(&owner).copied().unwrap_or_default()
    }

    /// Backed bytes of a container's processes together: now, and the most ever.
    pub(super) fn container_usage(&self, container: ContainerId) -> (u64, u64) {
        let usage = self.container_usage.get(&container);
        usage.copied().unwrap_or_default()
    }

    /// Where the bytes that a process holds are counted: its own account, and its container's.
    fn accounts(&mut self, owner: ProcessId) -> impl Iterator<Item = &mut (u64, u64)> {
        let container = self.containers.get(&owner);
        let of_container =
            container.map(|&container| self.container_usage.entry(container).or_default());
        let own = self.usage.entry(owner).or_default();
        std::iter::once(own).chain(of_container)
    }

    /// Takes a block and gives its offset; `None` and nothing changed when it does not fit.
    pub(super) fn alloc(
        &mut self,
        owner: ProcessId,
        id: BlockId,
        bytes: u64,
        kind: AllocKind,
    ) -> Option<u64> {
        let small = bytes < LARGE_BYTES && kind != AllocKind::Physical;
        let align = if small { SMALL_ALIGN_BYTES } else { PAGE_BYTES };
        let bytes_asked = bytes;
        let bytes = bytes.max(1).checked_next_multiple_of(align)?;
        let offset = if small {
            self.alloc_small(owner, bytes)?
        } else {
            self.take_pages(owner, bytes)?
        };
        self.held.insert(
            id,
            Held {
                owner,
                offset,
                bytes,
                bytes_asked,
                small,
            },
        );
        Some(offset)
    }

    /// Has another process hold a block as well; gives its offset and its size as asked for.
    pub(super) fn open(&mut self, guest: ProcessId, id: BlockId) -> Option<(u64, u64)> {
        let held = self.held.get(&id)?;
        self.sharing.entry(id).or_default().guests.push(guest);
        Some((held.offset, held.bytes_asked))
    }

    /// Whether a process holds a block, as its owner or as a guest.
    pub(super) fn holds(&self, process: ProcessId, id: BlockId) -> bool {
        let sharing = self.sharing.get(&id);
        let owns = self.held.get(&id).is_some_and(|held| held.owner == process)
            && sharing.is_none_or(|sharing| !sharing.abandoned);
        owns || sharing.is_some_and(|sharing| sharing.guests.contains(&process))
    }

    /// One process lets go of a block, which goes with the last that holds it; `None` when `process` does not. Says which
    /// pages became free, if any.
    pub(super) fn free(&mut self, process: ProcessId, id: BlockId) -> Option<Option<Pages>> {
        let owner = self.held.get(&id)?.owner;
        if !self.let_go(process, owner, id)? {
            return Some(None);
        }
        let held = self.held.remove(&id)?;
        if !held.small {
            return Some(Some(self.give_pages(owner, held.offset, held.bytes)));
        }
        let start = held.offset / PAGE_BYTES * PAGE_BYTES;
        let page = self.shared_pages.get_mut(&start)?;
        page.free.give(held.offset - start, held.bytes);
        if !page.free.is_whole(PAGE_BYTES) {
            return Some(None);
        }
        self.shared_pages.remove(&start);
        Some(Some(self.give_pages(owner, start, PAGE_BYTES)))
    }

    /// Lets go of everything that a process holds.
    pub(super) fn free_all(&mut self, process: ProcessId) -> Vec<Pages> {
        let opened = |(id, sharing): (&BlockId, &Sharing)| {
            let times = sharing.guests.iter().filter(|guest| **guest == process);
            std::iter::repeat_n(*id, times.count())
        };
        let mut ids: Vec<BlockId> = self.sharing.iter().flat_map(opened).collect();
        let of_owner = self.held.iter().filter(|(_, held)| held.owner == process);
        ids.extend(of_owner.map(|(&id, _)| id));
        ids.into_iter()
            .filter_map(|id| self.free(process, id).flatten())
            .collect()
    }

    /// Takes one hold of a block away and says whether it was the last; `None` when `process` has none.
    fn let_go(&mut self, process: ProcessId, owner: ProcessId, id: BlockId) -> Option<bool> {
        let Some(sharing) = self.sharing.get_mut(&id) else {
            return (process == owner).then_some(true);
        };
        if process == owner && !sharing.abandoned {
            sharing.abandoned = true;
        } else {
            let at = sharing.guests.iter().position(|guest| *guest == process)?;
            sharing.guests.swap_remove(at);
        }
        let Sharing { guests, abandoned } = sharing;
        let (is_shared, is_last) = (!guests.is_empty(), guests.is_empty() && *abandoned);
        if !is_shared {
            self.sharing.remove(&id);
        }
        Some(is_last)
    }

    fn alloc_small(&mut self, owner: ProcessId, bytes: u64) -> Option<u64> {
        let mut own = self
            .shared_pages
            .iter_mut()
            .filter(|(_, page)| page.owner == owner);
        if let Some(offset) =
            own.find_map(|(start, page)| page.free.take(bytes).map(|within| start + within))
        {
            return Some(offset);
        }
        let start = self.take_pages(owner, PAGE_BYTES)?;
        let mut free = FreeRanges::whole(PAGE_BYTES);
        let within = free.take(bytes)?;
        self.shared_pages.insert(start, SharedPage { owner, free });
        Some(start + within)
    }

    fn take_pages(&mut self, owner: ProcessId, bytes: u64) -> Option<u64> {
        let start = self.free.take(bytes)?;
        self.free_bytes -= bytes;
        for (current, peak) in self.accounts(owner) {
            *current += bytes;
            *peak = (*peak).max(*current);
        }
        Some(start)
    }

    fn give_pages(&mut self, owner: ProcessId, start: u64, bytes: u64) -> Pages {
        self.free.give(start, bytes);
        self.free_bytes += bytes;
        for (current, _) in self.accounts(owner) {
            *current -= bytes;
        }
        (start, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: ProcessId = ProcessId(1);
    const B: ProcessId = ProcessId(2);

    #[test]
    fn a_refused_block_changes_nothing() {
        let mut memory = Memory::new(4 * PAGE_BYTES);
        assert_eq!(
            memory.alloc(A, BlockId(1), 5 * PAGE_BYTES, AllocKind::Device),
            None
        );
        assert_eq!(
            memory.alloc(A, BlockId(1), u64::MAX, AllocKind::Device),
            None
        );
        assert_eq!(
            (memory.free_bytes(), memory.usage(A)),
            (4 * PAGE_BYTES, (0, 0))
        );
    }

    #[test]
    fn small_blocks_of_one_process_share_a_page_and_those_of_two_do_not() {
        let mut memory = Memory::new(4 * PAGE_BYTES);
        assert_eq!(memory.alloc(A, BlockId(1), 1, AllocKind::Device), Some(0));
        assert_eq!(
            memory.alloc(A, BlockId(2), 513, AllocKind::Device),
            Some(512)
        );
        assert_eq!(
            memory.alloc(B, BlockId(3), 1, AllocKind::Device),
            Some(PAGE_BYTES)
        );
        assert_eq!(memory.usage(A), (PAGE_BYTES, PAGE_BYTES));
        assert_eq!(memory.free(A, BlockId(1)), Some(None));
        assert_eq!(memory.free(A, BlockId(2)), Some(Some((0, PAGE_BYTES))));
        assert_eq!(memory.usage(A), (0, PAGE_BYTES));
    }

    #[test]
    fn a_process_cannot_free_what_another_holds() {
        let mut memory = Memory::new(4 * PAGE_BYTES);
        memory
            .alloc(A, BlockId(1), PAGE_BYTES, AllocKind::Device)
            .unwrap();
        assert_eq!(memory.free(B, BlockId(1)), None);
        assert_eq!(memory.usage(A).0, PAGE_BYTES);
    }

    #[test]
    fn a_block_lives_until_the_last_that_holds_it_lets_go_and_is_its_owners_until_then() {
        let mut memory = Memory::new(4 * PAGE_BYTES);
        let offset = memory.alloc(A, BlockId(1), PAGE_BYTES - 5, AllocKind::Device);
        for _ in 0..2 {
            let opened = memory.open(B, BlockId(1));
            assert_eq!(opened, offset.map(|offset| (offset, PAGE_BYTES - 5)));
        }
        assert_eq!((memory.usage(A).0, memory.usage(B).0), (PAGE_BYTES, 0));
        assert_eq!(memory.free(A, BlockId(1)), Some(None));
        assert_eq!(memory.free(A, BlockId(1)), None);
        assert!(!memory.holds(A, BlockId(1)) && memory.holds(B, BlockId(1)));
        assert_eq!(memory.free(B, BlockId(1)), Some(None));
        assert_eq!((memory.usage(A).0, memory.usage(B).0), (PAGE_BYTES, 0));
        assert_eq!(memory.free_all(B), [(0, PAGE_BYTES)]);
        assert_eq!(memory.free_bytes(), 4 * PAGE_BYTES);
        assert_eq!(memory.open(B, BlockId(1)), None);
    }

    #[test]
    fn a_guest_that_closes_leaves_the_block_to_its_owner() {
        let mut memory = Memory::new(4 * PAGE_BYTES);
        memory.alloc(A, BlockId(1), 1, AllocKind::Device).unwrap();
        memory.open(B, BlockId(1)).unwrap();
        assert_eq!(memory.free_all(B), []);
        assert_eq!(memory.free(B, BlockId(1)), None);
        assert_eq!(memory.free(A, BlockId(1)), Some(Some((0, PAGE_BYTES))));
    }

    #[test]
    fn freed_neighbours_are_one_range_again() {
        let mut memory = Memory::new(3 * PAGE_BYTES);
        for id in 0..3 {
            memory
                .alloc(A, BlockId(id), PAGE_BYTES, AllocKind::Physical)
                .unwrap();
        }
        for id in [0, 2, 1] {
            memory.free(A, BlockId(id)).unwrap();
        }
        assert_eq!(
            memory.alloc(A, BlockId(9), 3 * PAGE_BYTES, AllocKind::Device),
            Some(0)
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        Alloc { owner: u64, bytes: u64 },
        Open { guest: u64, index: usize },
        Free { index: usize },
        Death { owner: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let size = prop_oneof![0..4096_u64, 0..3 * PAGE_BYTES];
        let step = prop_oneof![
            8 => (0..3_u64, size).prop_map(|(owner, bytes)| Step::Alloc { owner, bytes }),
            3 => (0..3_u64, any::<usize>()).prop_map(|(guest, index)| Step::Open { guest, index }),
            5 => any::<usize>().prop_map(|index| Step::Free { index }),
            1 => (0..3_u64).prop_map(|owner| Step::Death { owner }),
        ];
        prop::collection::vec(step, 1..200)
    }

    fn check(memory: &Memory) {
        let mut end = 0;
        let mut by_offset: Vec<&Held> = memory.held.values().collect();
        by_offset.sort_by_key(|held| held.offset);
        for held in by_offset {
            assert!(held.offset >= end, "blocks overlap at {}", held.offset);
            end = held.offset + held.bytes;
        }
        assert!(end <= memory.total_bytes());
        let used: u64 = memory.usage.values().map(|(current, _)| current).sum();
        assert_eq!(used + memory.free_bytes(), memory.total_bytes());
        assert_eq!(memory.free.0.values().sum::<u64>(), memory.free_bytes());
        let large = memory.held.values().filter(|held| !held.small);
        let pages = memory.shared_pages.len() as u64 * PAGE_BYTES;
        assert_eq!(large.map(|held| held.bytes).sum::<u64>() + pages, used);
    }

    proptest! {
        #[test]
        fn memory_never_overlaps_and_adds_up(steps in steps()) {
            let mut memory = Memory::new(16 * PAGE_BYTES);
            for (id, step) in (0..).zip(steps) {
                match step {
                    Step::Alloc { owner, bytes } => {
                        memory.alloc(ProcessId(owner), BlockId(id), bytes, AllocKind::Device);
                    }
                    Step::Free { index } if !memory.held.is_empty() => {
                        let nth = index % memory.held.len();
                        let (&id, &held) = memory.held.iter().nth(nth).unwrap();
                        let guest = memory.sharing.get(&id).and_then(|sharing| sharing.guests.first());
                        let holder = guest.copied().unwrap_or(held.owner);
                        memory.free(holder, id).unwrap();
                    }
                    Step::Open { guest, index } if !memory.held.is_empty() => {
                        let nth = index % memory.held.len();
                        let (&id, _) = memory.held.iter().nth(nth).unwrap();
                        memory.open(ProcessId(guest), id).unwrap();
                    }
                    Step::Free { .. } | Step::Open { .. } => {}
                    Step::Death { owner } => {
                        let owner = ProcessId(owner);
                        memory.free_all(owner);
                        assert!(!memory.held.keys().any(|&id| memory.holds(owner, id)));
                    }
                }
                check(&memory);
            }
        }
    }
}
