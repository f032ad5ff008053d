//! Who uses the GPUs, as their driver lists it: NVML, or the simulated machine that runs here.

mod nvml;

use std::collections::{BTreeMap, BTreeSet};

use cuda_hook_libraries::Unusable;
use gpu_sim::client::{Environment, Machine};
use limiter::explain::{self, GpuList, Listed};
use limiter::sample::Sample;
use limiter::units::{Bytes, DeviceUuid};

use crate::output;
use nvml::{Nvml, Silent};

/// Where the lists come from. Made once, asked as often as there is something to show.
#[derive(Default)]
pub(crate) struct Lists {
    /// `None`: not opened yet; then NVML, or none because it had nothing to say.
    nvml: Option<Option<Nvml>>,
}

impl Lists {
    /// Puts beside the ledgers what the driver lists. What it does not list stays unknown.
    pub(crate) fn explain(&mut self, sample: &mut Sample) {
        let wanted = devices(sample);
        let mut lists = simulated();
        lists.retain(|list| wanted.contains(&list.device));
        if lists.len() < wanted.len() {
            let is_missing = |uuid: &DeviceUuid| lists.iter().all(|list| list.device != *uuid);
            let missing: Vec<DeviceUuid> = wanted.into_iter().filter(is_missing).collect();
            lists.extend(self.of_nvml(&missing));
        }
        explain::explain(sample, &lists);
    }

    /// What NVML lists. Where it has once had nothing to say, it is not asked again.
    fn of_nvml(&mut self, devices: &[DeviceUuid]) -> Vec<GpuList> {
        let open = || Nvml::open().inspect_err(tell).ok();
        let opened = self.nvml.get_or_insert_with(open);
        let Some(nvml) = opened else {
            return Vec::new();
        };
        nvml.list(devices).unwrap_or_else(|reason| {
            tell(&reason);
            *opened = None;
            Vec::new()
        })
    }
}

/// A machine without NVML is no news: its GPUs are simulated, or are seen from where no driver is.
fn tell(reason: &Silent) {
    if !matches!(reason, Silent::Unusable(Unusable::Absent(_))) {
        output::complain(format_args!(
            "warning: {reason}: what is on nobody's books stays unknown"
        ));
    }
}

/// The GPUs that somebody has limits on.
fn devices(sample: &Sample) -> BTreeSet<DeviceUuid> {
    let devices = sample.containers.iter().flat_map(|one| &one.devices);
    devices
        .filter_map(|device| device.device_uuid.parse().ok())
        .collect()
}

/// Of the simulated machine that `GPU_SIM_PROFILE` and `GPU_SIM_DIR` name, if it runs: none is started.
fn simulated() -> Vec<GpuList> {
    let machine = match Machine::observe(&Environment::from_process()) {
        Ok(Some(machine)) => machine,
        Ok(None) => return Vec::new(),
        Err(error) => {
            output::complain(format_args!("warning: the simulated machine: {error}"));
            return Vec::new();
        }
    };
    // It ends with its last program: then nobody uses it.
    let usage = machine.usage().unwrap_or_default();
    let of_device = |(ordinal, profile): (u32, &gpu_sim::profile::Profile)| {
        let processes = usage
            .iter()
            .filter(|process| process.alive && process.device == ordinal)
            .filter(|process| process.contexts > 0 || process.memory_bytes_current > 0);
        let processes = processes.map(|process| (process.pid, Some(process.memory_bytes_current)));
        GpuList {
            device: DeviceUuid::from_bytes(profile.uuid),
            processes: once_each(processes),
        }
    };
    (0..).zip(machine.devices()).map(of_device).collect()
}

/// Each process once, with all that it is listed with; unknown if a part of it is.
fn once_each(rows: impl IntoIterator<Item = (u32, Option<u64>)>) -> Vec<Listed> {
    let mut processes: BTreeMap<u32, Option<u64>> = BTreeMap::new();
    for (pid, bytes) in rows {
        let all = processes.entry(pid).or_insert(Some(0));
        *all = all.zip(bytes).map(|(all, bytes)| all.saturating_add(bytes));
    }
    let listed = |(pid, bytes): (u32, Option<u64>)| Listed {
        pid,
        memory: bytes.map(Bytes::new),
    };
    processes.into_iter().map(listed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_listed_twice_holds_both() {
        let listed = once_each([(7, Some(1)), (8, Some(5)), (7, Some(2)), (8, None)]);
        let [seven, eight] = &listed[..] else {
            panic!("two: {listed:?}");
        };
        assert_eq!((seven.pid, seven.memory), (7, Some(Bytes::new(3))));
        assert_eq!((eight.pid, eight.memory), (8, None));
    }
}
