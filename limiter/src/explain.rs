//! The ledgers held against what the GPUs' driver lists: what is on nobody's books, and who is in no ledger at all.
//!
//! The driver's management library lists processes by numbers of its own pid namespace; a ledger has each process's number in
//! *its* namespace. `/proc` says which is which. A list in which a process that holds memory is not found speaks of other
//! numbers, or of another moment: nothing is concluded from it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::ContainerName;
use crate::sample::{ContainerSample, ProcessSample, ProcessWithoutSlot, Sample};
use crate::slot;
use crate::units::{Bytes, DeviceUuid};

/// Who uses a GPU, as its driver lists it.
#[derive(Clone, Debug, Default)]
pub struct GpuList {
    /// Which GPU.
    pub device: DeviceUuid,
    /// Each process once.
    pub processes: Vec<Listed>,
}

/// A process that uses a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// In the driver's numbers.
    pub pid: u32,
    /// What it holds; `None`: the driver does not say.
    pub memory: Option<Bytes>,
}

/// What `/proc` says of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    name: String,
    start_time: u64,
    /// Its number in the innermost of its namespaces.
    own_pid: u32,
    /// Inode of that namespace; `None`: not for us to see.
    namespace: Option<u64>,
    cgroup: String,
}

/// Fills in what the ledgers cannot know: `memory_bytes_listed`, `memory_bytes_unaccounted` and `processes_without_slot`.
///
/// GPUs without a list stay unknown.
pub fn explain(sample: &mut Sample, lists: &[GpuList]) {
    explain_by(sample, lists, Path::new("/proc"));
}

fn explain_by(sample: &mut Sample, lists: &[GpuList], proc: &Path) {
    // A `/proc` of another pid namespace tells of others by the same numbers.
    let is_ours = fs::read_link(proc.join("self"))
        .is_ok_and(|own| own.to_str() == Some(&std::process::id().to_string()));
    let mut seen = BTreeMap::new();
    for listed in lists.iter().flat_map(|list| &list.processes) {
        let read = || Seen::read(proc, listed.pid);
        seen.insert(listed.pid, is_ours.then(read).flatten());
    }
    for list in lists {
        let uuid = list.device.to_string();
        let Some(owners) = owners(sample, list, &uuid, &seen) else {
            continue;
        };
        for (container, processes) in &owners {
            if let Some(container) = sample.containers.get_mut(*container) {
                account(container, &uuid, processes);
            }
        }
        let outside = without_slot(sample, list, &owners, &seen);
        sample.processes_without_slot.extend(outside);
    }
}

/// Which of a container's processes, by index, is listed as which.
type Owned = BTreeMap<usize, Listed>;

/// For each container, by index, its processes on a GPU. `None`: one of those that hold memory there is not listed.
fn owners(
    sample: &Sample,
    list: &GpuList,
    uuid: &str,
    seen: &BTreeMap<u32, Option<Seen>>,
) -> Option<BTreeMap<usize, Owned>> {
    let find = |process: &ProcessSample| {
        let is_it = |listed: &&Listed| {
            let seen = seen.get(&listed.pid).and_then(Option::as_ref);
            is_same(process, listed.pid, seen)
        };
        list.processes.iter().find(is_it).copied()
    };
    let mut owners = BTreeMap::new();
    for (container, sample) in sample.containers.iter().enumerate() {
        let mut owned = Owned::new();
        for (index, process) in sample.processes.iter().enumerate() {
            match find(process) {
                Some(listed) => drop(owned.insert(index, listed)),
                None if holds(process, uuid) => return None,
                None => {}
            }
        }
        owners.insert(container, owned);
    }
    Some(owners)
}

fn holds(process: &ProcessSample, uuid: &str) -> bool {
    let device = process.devices.iter().find(|one| one.device_uuid == uuid);
    device.is_some_and(|device| device.memory_bytes_current > 0)
}

/// Whether a process of a ledger is the one that is listed by that number. Whose `/proc` was hidden is known by its number alone.
fn is_same(process: &ProcessSample, pid: u32, seen: Option<&Seen>) -> bool {
    if process.pid_namespace == 0 || process.start_time_ticks == 0 {
        return process.pid == pid;
    }
    seen.is_some_and(|seen| {
        let is_its_namespace = |inode: u64| inode == process.pid_namespace;
        seen.own_pid == process.pid
            && seen.start_time == process.start_time_ticks
            && seen.namespace.is_none_or(is_its_namespace)
    })
}

/// Puts beside a container's books what is listed of its processes on a GPU.
fn account(container: &mut ContainerSample, uuid: &str, owned: &Owned) {
    let memory = |listed: &Listed| listed.memory.map(Bytes::get);
    let all: Option<Vec<u64>> = owned.values().map(memory).collect();
    let all = all.map(|all| all.into_iter().fold(0, u64::saturating_add));
    let on_gpu = container.devices.iter_mut();
    for device in on_gpu.filter(|device| device.device_uuid == uuid) {
        device.memory_bytes_listed = all;
        device.memory_bytes_unaccounted =
            all.map(|all| all.saturating_sub(device.memory_bytes_current));
    }
    for (index, process) in container.processes.iter_mut().enumerate() {
        let listed = owned.get(&index).map_or(Some(0), memory);
        let on_gpu = process.devices.iter_mut();
        for device in on_gpu.filter(|device| device.device_uuid == uuid) {
            device.memory_bytes_listed = listed;
            device.memory_bytes_unaccounted =
                listed.map(|listed| listed.saturating_sub(device.memory_bytes_current));
        }
    }
}

/// Who is listed on a GPU, lives, and is in no ledger.
fn without_slot(
    sample: &Sample,
    list: &GpuList,
    owners: &BTreeMap<usize, Owned>,
    seen: &BTreeMap<u32, Option<Seen>>,
) -> Vec<ProcessWithoutSlot> {
    let is_owned = |pid: u32| {
        let mut owned = owners.values().flat_map(BTreeMap::values);
        owned.any(|listed| listed.pid == pid)
    };
    let strangers = list.processes.iter().filter(|listed| !is_owned(listed.pid));
    let told = |listed: &Listed| {
        let seen_one = seen.get(&listed.pid)?.as_ref()?;
        let container = container_of(&seen_one.cgroup, sample, owners, seen);
        Some(ProcessWithoutSlot {
            pid: listed.pid,
            name: seen_one.name.clone(),
            device_uuid: list.device.to_string(),
            memory_bytes_listed: listed.memory.map(Bytes::get),
            cgroup: seen_one.cgroup.trim_end().to_owned(),
            container: container.map(|one| one.container.clone()),
        })
    };
    strangers.filter_map(told).collect()
}

/// The container that is called after a cgroup, or else the only one with a process in it.
fn container_of<'a>(
    cgroup: &str,
    sample: &'a Sample,
    owners: &BTreeMap<usize, Owned>,
    seen: &BTreeMap<u32, Option<Seen>>,
) -> Option<&'a ContainerSample> {
    let name = ContainerName::from_cgroup(cgroup);
    let mut containers = sample.containers.iter();
    if let Some(named) = containers.find(|one| one.container == name.as_str()) {
        return Some(named);
    }
    let lives_there = |listed: &Listed| {
        let seen = seen.get(&listed.pid).and_then(Option::as_ref);
        seen.is_some_and(|seen| seen.cgroup == cgroup)
    };
    let mut there = owners
        .iter()
        .filter(|(_, owned)| owned.values().any(lives_there));
    match (there.next(), there.next()) {
        (Some((only, _)), None) => sample.containers.get(*only),
        _ => None,
    }
}

impl Seen {
    /// `None`: there is no such process, here or any more.
    fn read(proc: &Path, pid: u32) -> Option<Self> {
        let folder = proc.join(pid.to_string());
        let text = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let stat = text("stat")?;
        Some(Self {
            name: text("comm").unwrap_or_default().trim_end().to_owned(),
            start_time: slot::start_time_of(&stat)?,
            own_pid: innermost_pid(&text("status")?).unwrap_or(pid),
            namespace: fs::metadata(folder.join("ns/pid"))
                .ok()
                .map(|namespace| namespace.ino()),
            cgroup: text("cgroup").unwrap_or_default(),
        })
    }
}

/// proc_pid_status(5): `NSpid:` lists the process's numbers, outermost namespace first. `None`: a kernel before 4.1.
pub(crate) fn innermost_pid(status: &str) -> Option<u32> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests;
