//! Multicast objects: a team of devices, and memory of each of them that is bound to a part of one stretch.
//!
//! An object, and all that is bound to it, lives as long as anybody holds it; its team is for its life. The machine holds what is bound, so
//! it outlives the process that bound it. (NVIDIA's open kernel modules, mem_multicast_fabric.c: the object's reference count,
//! `memorymulticastfabricCtrlAttachMem_IMPL`, `_memMulticastFabricDescriptorFreeUnderLock`.)

use super::{Model, ProcessId};
use crate::command::{Binding, BlockId, MulticastId, MulticastTeam};
use crate::wire::Refusal;
use std::collections::BTreeMap;

/// All objects.
#[derive(Default)]
pub(super) struct Multicasts(BTreeMap<MulticastId, Multicast>);

struct Multicast {
    team: MulticastTeam,
    devices: Vec<u32>,
    bindings: Vec<(Binding, BlockId)>,
    /// One entry for each time that it is held.
    holders: Vec<ProcessId>,
}

impl Multicast {
    fn is_complete(&self) -> bool {
        self.devices.len() == self.team.size as usize
    }

    /// Whether a part is inside the object, and nothing of its device's is bound there.
    fn has_room(&self, part: &Binding) -> bool {
        let inside = |end| end <= self.team.bytes;
        let free = self.bindings.iter().all(|(bound, _)| !bound.overlaps(part));
        part.bytes > 0 && part.end().is_some_and(inside) && free
    }
}

impl Multicasts {
    /// One that a process holds.
    fn held(&mut self, process: ProcessId, id: MulticastId) -> Result<&mut Multicast, Refusal> {
        let object = self.0.get_mut(&id);
        object
            .filter(|object| object.holders.contains(&process))
            .ok_or(Refusal::Unknown)
    }

    fn of(&self, process: ProcessId) -> Vec<MulticastId> {
        let times = |(&id, object): (&MulticastId, &Multicast)| {
            let held = object.holders.iter().filter(|holder| **holder == process);
            std::iter::repeat_n(id, held.count())
        };
        self.0.iter().flat_map(times).collect()
    }
}

impl Model {
    /// An object that a process holds once. The semaphore that tells when its team is complete lives as long as the object.
    pub fn create_multicast(
        &mut self,
        process: ProcessId,
        team: MulticastTeam,
    ) -> Result<MulticastId, Refusal> {
        if team.size == 0 || team.size as usize > self.devices.len() {
            return Err(Refusal::NoPlace);
        }
        self.open_shared_semaphore(ProcessId::MACHINE, team.complete)?;
        let id = MulticastId(self.id());
        let object = Multicast {
            team,
            devices: Vec::new(),
            bindings: Vec::new(),
            holders: vec![process],
        };
        self.multicasts.0.insert(id, object);
        Ok(id)
    }

    /// Has a process hold an object, once more if it does already.
    pub fn open_multicast(
        &mut self,
        process: ProcessId,
        id: MulticastId,
    ) -> Result<MulticastTeam, Refusal> {
        let object = self.multicasts.0.get_mut(&id).ok_or(Refusal::Unknown)?;
        object.holders.push(process);
        Ok(object.team)
    }

    /// Whether a process holds an object.
    pub fn holds_multicast(&self, process: ProcessId, id: MulticastId) -> bool {
        let object = self.multicasts.0.get(&id);
        object.is_some_and(|object| object.holders.contains(&process))
    }

    /// Adds a device to the team. `NoPlace`: it is of the team, or the team is complete.
    pub fn add_to_multicast(
        &mut self,
        process: ProcessId,
        id: MulticastId,
        device: u32,
    ) -> Result<(), Refusal> {
        self.memory(device)?;
        let object = self.multicasts.held(process, id)?;
        if object.is_complete() || object.devices.contains(&device) {
            return Err(Refusal::NoPlace);
        }
        object.devices.push(device);
        let (is_complete, team) = (object.is_complete(), object.team);
        if is_complete {
            self.signal(ProcessId::MACHINE, team.complete, team.complete_payload);
        }
        Ok(())
    }

    /// Binds a block that the process holds to a part of the object. `NotOfTeam`: no device of the team has it.
    pub fn bind_multicast(
        &mut self,
        process: ProcessId,
        id: MulticastId,
        part: Binding,
        block: BlockId,
    ) -> Result<(), Refusal> {
        let object = self.multicasts.held(process, id)?;
        if !object.is_complete() || !object.has_room(&part) {
            return Err(Refusal::NoPlace);
        }
        if !object.devices.contains(&part.device) {
            return Err(Refusal::NotOfTeam);
        }
        if !self.holds(process, block) {
            return Err(Refusal::Unknown);
        }
        self.open(ProcessId::MACHINE, block)?;
        let object = self.multicasts.held(process, id)?;
        object.bindings.push((part, block));
        Ok(())
    }

    /// Takes back exactly what one call has bound, whoever did. `NoPlace`: none has bound that.
    pub fn unbind_multicast(
        &mut self,
        process: ProcessId,
        id: MulticastId,
        part: Binding,
    ) -> Result<(), Refusal> {
        let object = self.multicasts.held(process, id)?;
        let place = object.bindings.iter().position(|(bound, _)| *bound == part);
        let (_, block) = object.bindings.swap_remove(place.ok_or(Refusal::NoPlace)?);
        self.free(ProcessId::MACHINE, block)
    }

    /// A process holds an object once less. With the last hold it ends, and lets go of what is bound to it.
    pub fn drop_multicast(&mut self, process: ProcessId, id: MulticastId) -> Result<(), Refusal> {
        let object = self.multicasts.held(process, id)?;
        if let Some(at) = object.holders.iter().position(|holder| *holder == process) {
            object.holders.swap_remove(at);
        }
        if !object.holders.is_empty() {
            return Ok(());
        }
        let Some(ended) = self.multicasts.0.remove(&id) else {
            return Ok(());
        };
        for (_, block) in ended.bindings {
            self.free(ProcessId::MACHINE, block)?;
        }
        self.drop_shared_semaphore(ProcessId::MACHINE, ended.team.complete)
    }

    /// A dead process holds no object any more.
    pub(super) fn leave_multicasts(&mut self, process: ProcessId) {
        for id in self.multicasts.of(process) {
            // It was just found to hold it.
            let _ = self.drop_multicast(process, id);
        }
    }
}
