//! The books by container: what its processes did, those included that the table of processes has forgotten.

use super::{DEAD_PROCESSES_MAX, Model, ProcessId};
use crate::command::{ContainerUsage, ProcessUsage};
use std::collections::BTreeMap;

/// Names a container inside the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ContainerId(u32);

/// The containers that ever had a process.
#[derive(Default)]
pub(super) struct Containers {
    ids: BTreeMap<String, ContainerId>,
    /// What forgotten processes did, by container and device.
    forgotten: BTreeMap<(ContainerId, u32), ContainerUsage>,
}

impl Containers {
    /// The container of this name, which may be new.
    pub(super) fn of_name(&mut self, name: &str) -> ContainerId {
        let next = ContainerId(self.ids.len() as u32);
        *self.ids.entry(name.to_owned()).or_insert(next)
    }
}

impl Model {
    /// What every container's processes did on every device that they touched.
    pub fn container_usage(&mut self) -> Vec<ContainerUsage> {
        let mut rows = self.containers.forgotten.clone();
        for process in self.usage() {
            let Some(&id) = self.containers.ids.get(&process.container) else {
                continue;
            };
            rows.entry((id, process.device)).or_default().add(&process);
        }
        for (name, id) in &self.containers.ids {
            for ((_, device), row) in rows.range_mut((*id, 0)..=(*id, u32::MAX)) {
                let memory = &self.devices[*device as usize].memory;
                name.clone_into(&mut row.container);
                row.device = *device;
                (row.memory_bytes_current, row.memory_bytes_peak) = memory.container_usage(*id);
            }
        }
        rows.into_values().collect()
    }

    /// Forgets the oldest dead processes that hold nothing; their containers remember what they did.
    pub(super) fn forget_oldest_dead(&mut self) {
        let dead = self.processes.iter().filter(|(_, process)| !process.alive);
        let dead: Vec<ProcessId> = dead.map(|(&id, _)| id).collect();
        let too_many = dead.len().saturating_sub(DEAD_PROCESSES_MAX);
        for &id in &dead[..too_many] {
            let rows = self.usage_of(id);
            // Memory that another process has opened stays the dead one's, and so does its row.
            if rows.iter().all(|row| row.memory_bytes_current == 0) {
                self.forget(id, &rows);
            }
        }
    }

    fn forget(&mut self, id: ProcessId, rows: &[ProcessUsage]) {
        for row in rows {
            let container = self.containers.of_name(&row.container);
            let sum = self.containers.forgotten.entry((container, row.device));
            sum.or_default().add(row);
        }
        for device in &mut self.devices {
            device.memory.forget(id);
            device.compute.forget(id);
            device
                .copies
                .iter_mut()
                .for_each(|engine| engine.forget(id));
        }
        self.processes.remove(&id);
    }
}
