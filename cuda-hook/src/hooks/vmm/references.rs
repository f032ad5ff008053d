//! What keeps physical memory alive, as the driver counts it: handles of it, mappings of it, and what it is bound into. Memory that
//! was given a name outside of this process may be kept alive by others for good: that end is seen by nobody here.

use std::collections::{BTreeMap, HashMap};

use cuda_sys_stubs::abi::{CUdeviceptr, CUlogicalEndpointId, CUmemGenericAllocationHandle};
use limiter::units::Bytes;

use crate::hooks::pool::Kept;

/// What a handle stands for.
#[derive(Clone, Default)]
pub(super) struct Allocation {
    /// Bytes that this process was charged for: none for a multicast object, or for memory that another process has made.
    pub(super) bytes: Bytes,
    /// The device that holds them, in the ledger's order.
    pub(super) device_index: usize,
    handle_count: u64,
    mapping_count: u64,
    binding_count: u64,
    /// A descriptor or a name of it was handed out. Where that is, and until when, is not seen.
    is_exported: bool,
    /// It was got by its name: it may live on elsewhere when nothing refers to it here.
    is_imported: bool,
    /// A pool's memory, and charged as such.
    pub(super) pool: Option<Kept>,
}

impl Allocation {
    /// Memory of a device.
    pub(super) fn new(bytes: Bytes, device_index: usize) -> Self {
        Self {
            bytes,
            device_index,
            ..Self::default()
        }
    }

    /// Memory of a pool, as long as it is bound into something.
    pub(super) fn of_pool(pool: Kept) -> Self {
        Self {
            device_index: pool.device_index(),
            pool: Some(pool),
            ..Self::default()
        }
    }

    fn is_referenced(&self) -> bool {
        self.handle_count > 0
            || self.mapping_count > 0
            || self.binding_count > 0
            || self.is_exported
    }
}

/// The driver may give a released handle's number to the next allocation while the first is still mapped: so allocations have
/// numbers of our own.
pub(super) type AllocationId = u64;

/// A mapped range of addresses: its size in bytes, and what it maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    bytes: u64,
    /// What is mapped.
    pub(super) allocation: AllocationId,
}

/// What memory can be bound into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// A multicast object, which is known by a handle as memory is.
    Multicast(AllocationId),
    /// A logical endpoint.
    Endpoint(CUlogicalEndpointId),
    /// A sparse array or mipmapped array, by its handle.
    Array(usize),
}

/// Where in its holder memory is bound: an unbind names the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// A range of a device's part of it.
    Range {
        /// The device, in the ledger's order; `None` for one without limits.
        device_index: Option<usize>,
        /// From the beginning, in bytes.
        offset: u64,
        /// In bytes.
        bytes: u64,
    },
    /// A part of an array, as the program describes it.
    Tile([u64; 9]),
}

/// Memory that is bound into something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    spot: Spot,
    /// What is bound.
    pub(super) allocation: AllocationId,
}

/// Everything that this process knows by handles.
#[derive(Default)]
pub(super) struct References {
    next_id: AllocationId,
    allocations: HashMap<AllocationId, Allocation>,
    handles: HashMap<CUmemGenericAllocationHandle, AllocationId>,
    mappings: BTreeMap<CUdeviceptr, Mapping>,
    bindings: HashMap<Holder, Vec<Binding>>,
}

impl References {
    /// Something that is known by no handle yet.
    pub(super) fn insert(&mut self, allocation: Allocation) -> AllocationId {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.allocations.insert(id, allocation);
        id
    }

    /// A handle of something new.
    pub(super) fn add(&mut self, handle: CUmemGenericAllocationHandle, allocation: Allocation) {
        let id = self.insert(Allocation {
            handle_count: 1,
            ..allocation
        });
        self.handles.insert(handle, id);
    }

    /// A handle that was got by its name: of what is known, or of what another process has made.
    pub(super) fn import(&mut self, handle: CUmemGenericAllocationHandle) {
        match self.find(handle) {
            Some(id) => self.count(id, |known| &mut known.handle_count, 1),
            None => {
                let is_imported = true;
                self.add(
                    handle,
                    Allocation {
                        is_imported,
                        ..Allocation::default()
                    },
                );
            }
        }
    }

    /// What a handle stands for.
    pub(super) fn find(&self, handle: CUmemGenericAllocationHandle) -> Option<AllocationId> {
        self.handles.get(&handle).copied()
    }

    /// What is mapped at an address.
    pub(super) fn mapped_at(&self, address: CUdeviceptr) -> Option<AllocationId> {
        let (&start, &mapping) = self.mappings.range(..=address).next_back()?;
        (address < start.saturating_add(mapping.bytes)).then_some(mapping.allocation)
    }

    /// The device that an allocation lies on.
    pub(super) fn device_index(&self, id: AllocationId) -> Option<usize> {
        let allocation = self.allocations.get(&id)?;
        let has_memory = allocation.bytes > Bytes::default() || allocation.pool.is_some();
        has_memory.then_some(allocation.device_index)
    }

    /// A reference more, or (`change` −1) less.
    fn count(
        &mut self,
        id: AllocationId,
        kind: impl FnOnce(&mut Allocation) -> &mut u64,
        change: i64,
    ) {
        if let Some(allocation) = self.allocations.get_mut(&id) {
            let count = kind(allocation);
            *count = count.saturating_add_signed(change);
        }
    }

    /// A handle more: of what the handle stands for, or else, for a handle new to us, of what is mapped at `address`.
    pub(super) fn retain(&mut self, handle: CUmemGenericAllocationHandle, address: CUdeviceptr) {
        let Some(id) = self.find(handle).or_else(|| self.mapped_at(address)) else {
            return;
        };
        self.handles.insert(handle, id);
        self.count(id, |known| &mut known.handle_count, 1);
    }

    /// A handle less of what it stood for before its release. Its number is forgotten with its last one, unless it names something
    /// else by now: another thread may have been given it.
    pub(super) fn release(&mut self, handle: CUmemGenericAllocationHandle, id: AllocationId) {
        self.count(id, |known| &mut known.handle_count, -1);
        let known = self.allocations.get(&id);
        let is_last = known.is_none_or(|known| known.handle_count == 0);
        if is_last && self.find(handle) == Some(id) {
            self.handles.remove(&handle);
        }
    }

    /// Minds that somebody else may keep an allocation from now on.
    pub(super) fn export(&mut self, id: AllocationId) {
        if let Some(allocation) = self.allocations.get_mut(&id) {
            allocation.is_exported = true;
        }
    }

    /// The same of all that is mapped in a range; whether anything is.
    pub(super) fn export_range(&mut self, address: CUdeviceptr, bytes: u64) -> bool {
        let first = self.mapped_at(address);
        let further = self.mappings.range(address..address.saturating_add(bytes));
        let mapped = first
            .into_iter()
            .chain(further.map(|(_, mapping)| mapping.allocation));
        let mapped: Vec<_> = mapped.collect();
        for &id in &mapped {
            self.export(id);
        }
        !mapped.is_empty()
    }

    /// A mapping more.
    pub(super) fn map(
        &mut self,
        address: CUdeviceptr,
        bytes: u64,
        handle: CUmemGenericAllocationHandle,
    ) {
        if let Some(allocation) = self.find(handle) {
            self.insert_mapping(address, Mapping { bytes, allocation });
        }
    }

    /// A mapping more, or one that was not taken out after all.
    pub(super) fn insert_mapping(&mut self, address: CUdeviceptr, mapping: Mapping) {
        self.count(mapping.allocation, |known| &mut known.mapping_count, 1);
        self.mappings.insert(address, mapping);
    }

    /// Takes out the mappings that lie in the range. The driver unmaps whole mappings only.
    pub(super) fn unmap(
        &mut self,
        address: CUdeviceptr,
        bytes: u64,
    ) -> Vec<(CUdeviceptr, Mapping)> {
        let range = address..address.saturating_add(bytes);
        let taken: Vec<_> = self.mappings.extract_if(range, |_, _| true).collect();
        for (_, mapping) in &taken {
            self.count(mapping.allocation, |known| &mut known.mapping_count, -1);
        }
        taken
    }

    /// Binds an allocation into something.
    pub(super) fn bind(&mut self, holder: Holder, spot: Spot, allocation: AllocationId) {
        self.rebind(holder, vec![Binding { spot, allocation }]);
    }

    /// Bindings more, or such as were not taken out after all.
    pub(super) fn rebind(&mut self, holder: Holder, bindings: Vec<Binding>) {
        for binding in &bindings {
            self.count(binding.allocation, |known| &mut known.binding_count, 1);
        }
        self.bindings.entry(holder).or_default().extend(bindings);
    }

    /// Takes out what is bound at that spot.
    pub(super) fn unbind(&mut self, holder: Holder, spot: Spot) -> Vec<Binding> {
        self.take_bindings(holder, |binding| binding.spot == spot)
    }

    /// Takes out all that is bound into something.
    pub(super) fn unbind_all(&mut self, holder: Holder) -> Vec<Binding> {
        let taken = self.take_bindings(holder, |_| true);
        self.bindings.remove(&holder);
        taken
    }

    fn take_bindings(
        &mut self,
        holder: Holder,
        mut which: impl FnMut(&Binding) -> bool,
    ) -> Vec<Binding> {
        let bindings = self.bindings.get_mut(&holder);
        let taken = bindings.map(|all| all.extract_if(.., |binding| which(binding)).collect());
        let taken: Vec<Binding> = taken.unwrap_or_default();
        for binding in &taken {
            self.count(binding.allocation, |known| &mut known.binding_count, -1);
        }
        taken
    }

    /// The allocations, taken out, that nothing refers to any more: of these, and of what was bound into them. What was bound into an
    /// object of several processes may be kept by the others, and stays bound for good.
    pub(super) fn take_unreferenced(
        &mut self,
        ids: impl IntoIterator<Item = AllocationId>,
    ) -> Vec<Allocation> {
        let mut ids: Vec<_> = ids.into_iter().collect();
        let mut taken = Vec::new();
        while let Some(id) = ids.pop() {
            let is_over = |known: &Allocation| !known.is_referenced();
            if self.allocations.get(&id).is_some_and(is_over) {
                let ended = self.allocations.remove(&id);
                if ended.as_ref().is_some_and(|ended| ended.is_imported) {
                    self.bindings.remove(&Holder::Multicast(id));
                } else {
                    let bindings = self.unbind_all(Holder::Multicast(id));
                    ids.extend(bindings.iter().map(|binding| binding.allocation));
                }
                taken.extend(ended);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 2 << 20;
    const HERE: Spot = Spot::Range {
        device_index: Some(0),
        offset: 0,
        bytes: SIZE,
    };

    fn memory(bytes: u64) -> Allocation {
        Allocation::new(Bytes::new(bytes), 0)
    }

    fn one() -> References {
        let mut references = References::default();
        references.add(5, memory(SIZE));
        references
    }

    /// A release that the driver obeys.
    fn release(references: &mut References, handle: u64) -> Option<AllocationId> {
        let id = references.find(handle)?;
        references.release(handle, id);
        Some(id)
    }

    /// Bytes that are over, of one allocation.
    fn over(references: &mut References, id: AllocationId) -> u64 {
        let taken = references.take_unreferenced([id]);
        taken.iter().map(|allocation| allocation.bytes.get()).sum()
    }

    #[test]
    fn memory_outlives_its_handle_while_it_is_mapped() {
        let mut references = one();
        references.map(0x1000_0000, SIZE, 5);
        let id = release(&mut references, 5).unwrap();
        assert_eq!(over(&mut references, id), 0, "mapped");
        assert_eq!(references.unmap(0x1000_0000, SIZE).len(), 1);
        assert_eq!(over(&mut references, id), SIZE);
        assert_eq!(over(&mut references, id), 0, "once");
    }

    #[test]
    fn memory_outlives_its_mapping_while_a_handle_is_held() {
        let mut references = one();
        references.map(0x1000_0000, SIZE, 5);
        let (_, Mapping { allocation, .. }) = references.unmap(0x1000_0000, SIZE)[0];
        assert_eq!(over(&mut references, allocation), 0, "the handle is held");
        let id = release(&mut references, 5).unwrap();
        assert_eq!(over(&mut references, id), SIZE);
    }

    #[test]
    fn a_retained_handle_is_released_twice() {
        let mut references = one();
        references.map(0x1000_0000, SIZE, 5);
        references.retain(5, 0x1000_0000);
        references.unmap(0x1000_0000, SIZE);
        let id = release(&mut references, 5).unwrap();
        assert_eq!(over(&mut references, id), 0);
        assert_eq!(release(&mut references, 5), Some(id));
        assert_eq!(over(&mut references, id), SIZE);
        assert_eq!(release(&mut references, 5), None, "forgotten");
    }

    #[test]
    fn a_released_number_may_name_the_next_allocation() {
        let mut references = one();
        references.map(0x1000_0000, SIZE, 5);
        let first = release(&mut references, 5).unwrap();
        references.add(5, memory(2 * SIZE));
        let second = release(&mut references, 5).unwrap();
        assert_eq!(over(&mut references, second), 2 * SIZE);
        references.unmap(0x1000_0000, SIZE);
        assert_eq!(over(&mut references, first), SIZE);
    }

    #[test]
    fn a_handle_got_back_from_a_mapping_holds_the_memory() {
        let mut references = one();
        references.map(0x1000_0000, SIZE, 5);
        let id = release(&mut references, 5).unwrap();
        references.retain(9, 0x1000_0000 + SIZE - 1);
        references.unmap(0x1000_0000, SIZE);
        assert_eq!(over(&mut references, id), 0);
        assert_eq!(release(&mut references, 9), Some(id));
        assert_eq!(over(&mut references, id), SIZE);
    }

    #[test]
    fn a_release_is_of_what_the_handle_stood_for_before_it() {
        let mut references = one();
        let id = references.find(5).unwrap();
        // The driver gives the number to another thread before the first has come to its records.
        references.add(5, memory(2 * SIZE));
        references.release(5, id);
        assert_eq!(over(&mut references, id), SIZE);
        let next = release(&mut references, 5).unwrap();
        assert_eq!(over(&mut references, next), 2 * SIZE);
    }

    #[test]
    fn memory_outlives_its_handle_while_it_is_bound() {
        for holder in [Holder::Endpoint(3), Holder::Array(64)] {
            let mut references = one();
            let id = release(&mut references, 5).unwrap();
            references.bind(holder, HERE, id);
            assert_eq!(over(&mut references, id), 0, "bound");
            let elsewhere = Spot::Tile([0; 9]);
            assert_eq!(references.unbind(holder, elsewhere), [], "not there");
            assert_eq!(over(&mut references, id), 0, "still bound");
            assert_eq!(references.unbind(holder, HERE).len(), 1);
            assert_eq!(over(&mut references, id), SIZE);
        }
    }

    #[test]
    fn the_end_of_a_multicast_object_is_the_end_of_its_bindings() {
        let mut references = one();
        references.add(7, Allocation::default());
        let (memory, object) = (references.find(5).unwrap(), references.find(7).unwrap());
        references.bind(Holder::Multicast(object), HERE, memory);
        references.map(0x1000_0000, SIZE, 7);
        assert_eq!(release(&mut references, 5), Some(memory));
        assert_eq!(over(&mut references, memory), 0, "bound");
        assert_eq!(release(&mut references, 7), Some(object));
        assert_eq!(over(&mut references, object), 0, "the object is mapped");
        references.unmap(0x1000_0000, SIZE);
        assert_eq!(over(&mut references, object), SIZE);
    }

    #[test]
    fn what_is_bound_into_an_object_of_several_processes_stays_when_this_one_lets_go_of_it() {
        let mut references = one();
        references.import(7);
        let (memory, object) = (references.find(5).unwrap(), references.find(7).unwrap());
        references.bind(Holder::Multicast(object), HERE, memory);
        release(&mut references, 5);
        let id = release(&mut references, 7).unwrap();
        assert_eq!(over(&mut references, id), 0, "others may hold it");
        assert_eq!(over(&mut references, memory), 0);
        let mut references = one();
        references.import(7);
        references.bind(Holder::Multicast(object), HERE, memory);
        release(&mut references, 5);
        assert_eq!(
            references.unbind(Holder::Multicast(object), HERE).len(),
            1,
            "by itself"
        );
        assert_eq!(over(&mut references, memory), SIZE);
    }

    #[test]
    fn memory_that_others_may_keep_stays_charged() {
        let mut references = one();
        references.export(0);
        let id = release(&mut references, 5).unwrap();
        assert_eq!(over(&mut references, id), 0);
        let mut references = one();
        references.map(0x1000_0000, SIZE, 5);
        assert!(
            !references.export_range(0x1000_0000 + SIZE, SIZE),
            "beside it"
        );
        assert!(references.export_range(0x1000_0000 + SIZE / 2, 1));
        let id = release(&mut references, 5).unwrap();
        references.unmap(0x1000_0000, SIZE);
        assert_eq!(over(&mut references, id), 0);
    }

    #[test]
    fn what_another_process_has_made_is_its_own_to_be_charged_for() {
        let mut references = one();
        references.import(9);
        let imported = release(&mut references, 9).unwrap();
        assert_eq!(over(&mut references, imported), 0);
        references.import(5);
        let id = release(&mut references, 5).unwrap();
        assert_eq!(over(&mut references, id), 0, "known: a second handle");
        assert_eq!(release(&mut references, 5), Some(id));
        assert_eq!(over(&mut references, id), SIZE);
    }
}
