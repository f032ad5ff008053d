//! Multicast objects that this process holds.

use super::{Inner, Machine, RequestError, SemaphoreHandle};
use crate::command::{Binding, BlockId, MulticastId, MulticastTeam};
use crate::wire::{Reply, Request};
use std::fmt;
use std::sync::Arc;

/// A multicast object, which this process holds once until the value is dropped.
pub struct Multicast {
    id: MulticastId,
    team: MulticastTeam,
    complete: Arc<SemaphoreHandle>,
    machine: Arc<Inner>,
}

impl Multicast {
    /// One that the device has just counted for this process.
    pub(super) fn opened(
        machine: &Arc<Inner>,
        id: MulticastId,
        team: MulticastTeam,
    ) -> Result<Self, RequestError> {
        let semaphore = team.complete;
        let request = Request::OpenSharedSemaphore { semaphore };
        if let Reply::Refused(refusal) = machine.connection.request(&request)? {
            return Err(refusal.into());
        }
        let complete = SemaphoreHandle::shared(machine, semaphore).ok_or(RequestError::Unknown)?;
        Ok(Self {
            id,
            team,
            complete: Arc::new(complete),
            machine: Arc::clone(machine),
        })
    }

    /// Its name.
    pub fn id(&self) -> MulticastId {
        self.id
    }

    /// Bytes that can be bound of each device.
    pub fn bytes(&self) -> u64 {
        self.team.bytes
    }

    /// What to [`Machine::wait`] for until its team is complete: a semaphore and its payload. It outlives the object.
    pub fn completion(&self) -> (Arc<SemaphoreHandle>, u64) {
        (Arc::clone(&self.complete), self.team.complete_payload)
    }
}

impl PartialEq for Multicast {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Multicast {}

impl fmt::Debug for Multicast {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(formatter)
    }
}

impl Drop for Multicast {
    fn drop(&mut self) {
        let object = self.id;
        // With the device gone there is no object either.
        let _ = self
            .machine
            .connection
            .send(&Request::DropMulticast { object });
    }
}

impl Machine {
    /// Makes a multicast object for a team of so many devices, with room for `bytes` of each. `NoPlace`: the machine has fewer.
    pub fn create_multicast(&self, size: u32, bytes: u64) -> Result<Multicast, RequestError> {
        let complete = self.create_shared_semaphore()?;
        let team = MulticastTeam {
            size,
            bytes,
            complete: complete.id(),
            complete_payload: complete.next_payload(),
        };
        match self.request(&Request::CreateMulticast { team })? {
            Reply::Multicast { object: id, team } => Ok(Multicast {
                id,
                team,
                complete: Arc::new(complete),
                machine: Arc::clone(&self.inner),
            }),
            _ => Err(self.inner.connection.abandon().into()),
        }
    }

    /// Adds a device to an object's team. `NoPlace`: it is of the team, or the team is complete.
    pub fn add_to_multicast(&self, object: &Multicast, device: u32) -> Result<(), RequestError> {
        let object = object.id;
        let request = Request::AddToMulticast { object, device };
        self.request(&request).map(drop)
    }

    /// Binds memory that this process holds; the object keeps it. `NoPlace`: the team is not complete, or the part is taken or
    /// reaches beyond the end; `NotOfTeam`: it is no memory of the team's.
    pub fn bind_multicast(
        &self,
        object: &Multicast,
        part: Binding,
        block: BlockId,
    ) -> Result<(), RequestError> {
        let object = object.id;
        let request = Request::BindMulticast {
            object,
            part,
            block,
        };
        self.request(&request).map(drop)
    }

    /// Takes back exactly what one call has bound, in whichever process. `NoPlace`: none has.
    pub fn unbind_multicast(&self, object: &Multicast, part: Binding) -> Result<(), RequestError> {
        let object = object.id;
        let request = Request::UnbindMulticast { object, part };
        self.request(&request).map(drop)
    }
}
