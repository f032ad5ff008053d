//! The read side: what every container of a state folder has, holds and waits for.
//!
//! For other processes than the limited ones: reading closes the files again, which drops this process's own locks on them
//! until its next refused charge.

mod gpu;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;

pub use self::gpu::{BoardSample, GpuSample};
use crate::config::{ContainerName, MemoryLimits};
use crate::refusals::{self, Refused};
use crate::shm::layout::{
    ContainerFile, DeviceRow, Entries, RefusalCounts, RefusalRecord, Slot, SlotDevice,
};
use crate::shm::{AttachError, Snapshot};
use crate::slot::{Process, living_owner, used};
use crate::sync::{AtomicU64, Ordering};
use crate::units::{Bytes, MonotonicNs, Percent};
use crate::{board, ledger};

/// Version of the serialised form: raised when a field goes or changes its meaning, not when one comes. `docs/status.md` describes it.
pub const SCHEMA: u32 = 1;

/// Every container of one state folder, at one time.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it was taken, `CLOCK_MONOTONIC`.
    pub now_ns: u64,
    /// The containers, by name.
    pub containers: Vec<ContainerSample>,
    /// Processes that use a GPU and have no place in any ledger; filled by [`explain`](crate::explain).
    pub processes_without_slot: Vec<ProcessWithoutSlot>,
    /// The GPUs that a context was measured on, by UUID.
    pub boards: Vec<BoardSample>,
    /// The GPUs whose memory is known, by UUID.
    pub gpus: Vec<GpuSample>,
    /// Entries of the folder that are no state of ours, and why: `path: reason`.
    pub skipped: Vec<String>,
}

/// One container.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerSample {
    /// Its name.
    pub container: String,
    /// Its GPUs.
    pub devices: Vec<DeviceSample>,
    /// Its live processes.
    pub processes: Vec<ProcessSample>,
    /// Calls that were refused since the container's ledger was made, by dead processes too; the most frequent first.
    pub refusals: Vec<CallRefusals>,
    /// The last of them.
    pub last_refusal: Option<RefusalSample>,
}

/// How often a call was refused because the quota had no room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallRefusals {
    /// The driver's symbol.
    pub call: String,
    /// How often.
    pub count: u64,
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusalSample {
    /// The driver's symbol; `None` where more different calls were refused than are told apart.
    pub call: Option<String>,
    /// Whose call it was: process id in its own pid namespace.
    pub pid: u32,
    /// `GPU-…`.
    pub device_uuid: String,
    /// What was asked for.
    pub memory_bytes_asked: u64,
    /// What the container held then.
    pub memory_bytes_current: u64,
    /// What it might hold.
    pub memory_bytes_max: u64,
    /// What was left of that.
    pub memory_bytes_left: u64,
    /// What that maximum was: `quota`; `guarantee`; or `lendable`: what the GPU had beside what the others hold or are guaranteed.
    pub bound: &'static str,
    /// When, `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

/// A process that uses a GPU and has no place in a ledger: no limit reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessWithoutSlot {
    /// As the GPU's driver lists it.
    pub pid: u32,
    /// Its name (proc_pid_comm(5)).
    pub name: String,
    /// `GPU-…`.
    pub device_uuid: String,
    /// What the driver lists it with; `None`: the driver does not say.
    pub memory_bytes_listed: Option<u64>,
    /// Text of its `/proc/<pid>/cgroup`.
    pub cgroup: String,
    /// The container in whose cgroup it runs; `None`: in none's, or in one that several share.
    pub container: Option<String>,
}

/// A container on one GPU.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceSample {
    /// `GPU-…`.
    pub device_uuid: String,
    /// In use by live processes.
    pub memory_bytes_current: u64,
    /// The most that was in use.
    pub memory_bytes_peak: u64,
    /// The quota; `None`: no limit.
    pub memory_bytes_max: Option<u64>,
    /// What of it is guaranteed, as configured; `None`: all of it.
    pub memory_bytes_soft: Option<u64>,
    /// What is in use past the guarantee; 0 where there is neither a quota nor a guarantee.
    pub memory_bytes_borrowed: u64,
    /// In use on the host, as managed memory; not among `memory_bytes_current`.
    pub memory_bytes_spilled: u64,
    /// What the driver lists the container's processes with; `None`: unknown. Filled by [`explain`](crate::explain), as the next.
    pub memory_bytes_listed: Option<u64>,
    /// What of that is on nobody's books: `memory_bytes_listed − memory_bytes_current`, or 0.
    pub memory_bytes_unaccounted: Option<u64>,
    /// Calls refused on this GPU.
    pub refusals_total: u64,
    /// Guaranteed share.
    pub sm_percent: Option<f64>,
    /// Cap.
    pub sm_percent_max: Option<f64>,
    /// GPU time charged since the container's ledger was made, dead processes included.
    pub charged_ns_total: u64,
    /// Launches admitted.
    pub launches_total: u64,
    /// Time for which launches waited.
    pub throttled_ns_total: u64,
    /// Launches that waited.
    pub throttled_count_total: u64,
    /// Part of the time: the cap was used up.
    pub throttled_by_cap_ns_total: u64,
    /// Part of the time: it was another container's turn.
    pub throttled_by_share_ns_total: u64,
    /// Part of the time: enough was on the GPU, or something whose price nobody knew.
    pub throttled_by_window_ns_total: u64,
}

impl DeviceSample {
    /// What bounds its memory; whether it spills is not told.
    pub fn memory_limits(&self) -> MemoryLimits {
        MemoryLimits {
            max: self.memory_bytes_max.map(Bytes::new),
            soft: self.memory_bytes_soft.map(Bytes::new),
            spill: false,
        }
    }
}

/// A process of a container.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessSample {
    /// Process id in the process's own pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot; 0: unknown.
    pub start_time_ticks: u64,
    /// Inode of that namespace; 0: unknown.
    pub pid_namespace: u64,
    /// What it uses of each GPU.
    pub devices: Vec<ProcessDeviceSample>,
    /// Its calls that were refused, the most frequent first.
    pub refusals: Vec<CallRefusals>,
    /// The last of them.
    pub last_refusal: Option<RefusalSample>,
}

/// What a process uses of one GPU.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessDeviceSample {
    /// `GPU-…`.
    pub device_uuid: String,
    /// In use.
    pub memory_bytes_current: u64,
    /// The most that was in use.
    pub memory_bytes_peak: u64,
    /// In use on the host, as managed memory.
    pub memory_bytes_spilled: u64,
    /// What the driver lists it with; `None`: unknown.
    pub memory_bytes_listed: Option<u64>,
    /// What of that is not on its books.
    pub memory_bytes_unaccounted: Option<u64>,
    /// Its calls that were refused on this GPU.
    pub refusals_total: u64,
    /// GPU time charged.
    pub charged_ns_total: u64,
    /// Launches admitted.
    pub launches_total: u64,
    /// Time for which launches waited.
    pub throttled_ns_total: u64,
    /// Launches that waited.
    pub throttled_count_total: u64,
    /// Part of the time: the cap was used up.
    pub throttled_by_cap_ns_total: u64,
    /// Part of the time: it was another container's turn.
    pub throttled_by_share_ns_total: u64,
    /// Part of the time: enough was on the GPU, or something whose price nobody knew.
    pub throttled_by_window_ns_total: u64,
}

/// Everything in the state folder `dir`. An absent folder is an empty sample.
///
/// Takes no place in any file and no lock. What is no state of this version is reported in `skipped`, not an error.
///
/// # Errors
/// The folder is there and cannot be listed.
pub fn read(dir: &Path, now: MonotonicNs) -> Result<Sample, std::io::Error> {
    let mut sample = Sample {
        schema: SCHEMA,
        now_ns: now.get(),
        containers: Vec::new(),
        processes_without_slot: Vec::new(),
        boards: Vec::new(),
        gpus: Vec::new(),
        skipped: Vec::new(),
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(sample),
        entries => entries?,
    };
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>, std::io::Error>>()?;
    paths.sort();
    for path in paths {
        let told = match board::device_of(&path) {
            Some(device) => gpu::read_board(&path, device).map(|(board, gpu)| {
                sample.boards.extend(board);
                sample.gpus.extend(gpu);
            }),
            None => read_container(dir, &path).map(|container| sample.containers.extend(container)),
        };
        if let Err(reason) = told {
            sample.skipped.push(reason);
        }
    }
    let Sample {
        containers, gpus, ..
    } = &mut sample;
    gpus.iter_mut().for_each(|gpu| gpu.add(containers));
    Ok(sample)
}

/// The container whose folder `path` is, or why it is none. One without a ledger is not told of: none of its programs has begun, or it was
/// [removed](crate::reap::remove).
fn read_container(dir: &Path, path: &Path) -> Result<Option<ContainerSample>, String> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let container: ContainerName = name
        .parse()
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let opened = open(dir, &container).map_err(|error| error.to_string())?;
    let Some(file) = opened else {
        return Ok(None);
    };
    let living = living(&file);
    Ok(Some(ContainerSample {
        container: name.to_owned(),
        devices: rows(&file)
            .map(|(row, device)| device_sample(&file, row, device, &living))
            .collect(),
        processes: living
            .iter()
            .map(|(process, slot)| process_sample(&file, process, slot))
            .collect(),
        refusals: calls(&file, every(&file).chain([&file.retired])),
        last_refusal: last_refusal(&file),
    }))
}

/// A copy of a container's ledger; `None`: it has none.
pub(crate) fn open(
    dir: &Path,
    container: &ContainerName,
) -> Result<Option<Snapshot<ContainerFile>>, AttachError> {
    let path = ledger::path(dir, container);
    let mut file = match Snapshot::<ContainerFile>::read(&path) {
        Err(AttachError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Ok(None);
        }
        file => file?,
    };
    let entries_bytes = used(&*file)
        .len()
        .saturating_mul(ContainerFile::ENTRY_BYTES);
    let copied = file.read_entries(entries_bytes);
    copied.map_err(|source| AttachError::Io {
        path,
        action: "read",
        source,
    })?;
    Ok(Some(file))
}

/// The processes that live, and their places.
pub(crate) fn living(file: &Snapshot<ContainerFile>) -> Vec<(Process, &Slot)> {
    let (reader, inode) = (Process::current(), file.inode());
    let owner_of = |index: usize| {
        let slot = file.slots.get(index)?;
        let is_locked = || file.is_entry_locked(index);
        Some((living_owner(&slot.owner, is_locked, inode, &reader)?, slot))
    };
    used(&**file).filter_map(owner_of).collect()
}

/// The refusals of all processes, of the dead that nobody has reaped, too.
fn every(file: &ContainerFile) -> impl Iterator<Item = &RefusalCounts> + Clone {
    used(file).filter_map(|index| Some(&file.slots.get(index)?.refusals))
}

fn calls<'a>(
    file: &ContainerFile,
    counts: impl Iterator<Item = &'a RefusalCounts> + Clone,
) -> Vec<CallRefusals> {
    refusals::by_call(file, counts)
        .into_iter()
        .map(|(call, count)| CallRefusals { call, count })
        .collect()
}

fn last_refusal(file: &ContainerFile) -> Option<RefusalSample> {
    let of_slots = used(file).filter_map(|index| Some(&file.slots.get(index)?.last_refusal));
    let records = of_slots.chain([&file.retired_last]);
    let last = records
        .filter_map(RefusalRecord::read)
        .max_by_key(|refused| refused.at)?;
    Some(refusal_sample(file, &last))
}

fn refusal_sample(file: &ContainerFile, refused: &Refused) -> RefusalSample {
    let device = file.devices.get(refused.device);
    let over = refused.over;
    RefusalSample {
        call: refused.call.and_then(|row| refusals::name(file, row)),
        pid: refused.pid,
        device_uuid: device
            .and_then(DeviceRow::uuid)
            .unwrap_or_default()
            .to_string(),
        memory_bytes_asked: over.asked.get(),
        memory_bytes_current: over.current.get(),
        memory_bytes_max: over.max.get(),
        memory_bytes_left: over.max.get().saturating_sub(over.current.get()),
        bound: over.bound.name(),
        at_ns: refused.at.get(),
    }
}

/// The GPUs of a container, with the numbers of their rows.
pub(crate) fn rows(file: &ContainerFile) -> impl Iterator<Item = (usize, &DeviceRow)> {
    file.devices
        .iter()
        .enumerate()
        .filter(|(_, device)| device.uuid().is_some())
}

fn device_sample(
    file: &ContainerFile,
    row: usize,
    device: &DeviceRow,
    living: &[(Process, &Slot)],
) -> DeviceSample {
    let sum = |of: fn(&SlotDevice) -> &AtomicU64| {
        let parts = living.iter().filter_map(|(_, slot)| slot.devices.get(row));
        let parts = parts.map(|part| of(part).load(Ordering::Relaxed));
        parts.fold(0, u64::saturating_add)
    };
    let held = sum(|part| &part.bytes);
    let mut usage = device.retired.read();
    let mut refusals = device.memory.retired_refusals.load(Ordering::Relaxed);
    // Of the dead that nobody has reaped, too: what they used is used.
    for part in file.slots.iter().filter_map(|slot| slot.devices.get(row)) {
        usage = usage.plus(part.usage.read());
        refusals = refusals.saturating_add(part.refusals.load(Ordering::Relaxed));
    }
    let limits = device.limits();
    DeviceSample {
        device_uuid: device.uuid().unwrap_or_default().to_string(),
        memory_bytes_current: held,
        memory_bytes_peak: device.memory.peak.load(Ordering::Relaxed),
        memory_bytes_max: limits.memory_bytes_max.map(Bytes::get),
        memory_bytes_soft: limits.memory_bytes_soft.map(Bytes::get),
        memory_bytes_borrowed: borrowed(held, limits.into()),
        memory_bytes_spilled: sum(|part| &part.spilled_bytes),
        memory_bytes_listed: None,
        memory_bytes_unaccounted: None,
        refusals_total: refusals,
        sm_percent: limits.sm.map(Percent::as_f64),
        sm_percent_max: limits.sm_max.map(Percent::as_f64),
        charged_ns_total: usage.charged_ns,
        launches_total: usage.launches,
        throttled_ns_total: usage.throttled_ns,
        throttled_count_total: usage.throttled_count,
        throttled_by_cap_ns_total: usage.throttled_by_cap_ns,
        throttled_by_share_ns_total: usage.throttled_by_share_ns,
        throttled_by_window_ns_total: usage.throttled_by_window_ns,
    }
}

/// What is past a guarantee. Without limits nothing was promised to anybody.
fn borrowed(held: u64, limits: MemoryLimits) -> u64 {
    let past = held.saturating_sub(limits.guaranteed().get());
    if limits.is_limited() { past } else { 0 }
}

fn process_sample(file: &ContainerFile, process: &Process, slot: &Slot) -> ProcessSample {
    let devices = rows(file).filter_map(|(row, device)| {
        let part = slot.devices.get(row)?;
        let usage = part.usage.read();
        Some(ProcessDeviceSample {
            device_uuid: device.uuid()?.to_string(),
            memory_bytes_current: part.bytes.load(Ordering::Relaxed),
            memory_bytes_peak: part.peak_bytes.load(Ordering::Relaxed),
            memory_bytes_spilled: part.spilled_bytes.load(Ordering::Relaxed),
            memory_bytes_listed: None,
            memory_bytes_unaccounted: None,
            refusals_total: part.refusals.load(Ordering::Relaxed),
            charged_ns_total: usage.charged_ns,
            launches_total: usage.launches,
            throttled_ns_total: usage.throttled_ns,
            throttled_count_total: usage.throttled_count,
            throttled_by_cap_ns_total: usage.throttled_by_cap_ns,
            throttled_by_share_ns_total: usage.throttled_by_share_ns,
            throttled_by_window_ns_total: usage.throttled_by_window_ns,
        })
    });
    ProcessSample {
        pid: process.pid,
        start_time_ticks: process.start_time,
        pid_namespace: process.pid_namespace,
        devices: devices.collect(),
        refusals: calls(file, std::iter::once(&slot.refusals)),
        last_refusal: slot
            .last_refusal
            .read()
            .map(|refused| refusal_sample(file, &refused)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GpuLimits;
    use crate::ledger::Ledger;
    use crate::price::KernelKey;
    use crate::share::Share;

    use crate::units::DeviceUuid;

    const GPU: DeviceUuid = DeviceUuid::from_bytes([7; 16]);

    fn limits() -> GpuLimits {
        GpuLimits {
            memory_bytes_max: Some(Bytes::new(100)),
            sm: "12.5".parse().ok(),
            sm_max: "60".parse().ok(),
            ..GpuLimits::default()
        }
    }

    fn attach(dir: &Path, container: &str) -> (Ledger, Share) {
        let ledger = Ledger::attach(dir, &container.parse().unwrap(), &[(GPU, limits())]).unwrap();
        let share = Share::attach(&ledger, dir, MonotonicNs::new(0), 1).unwrap();
        (ledger, share)
    }

    fn look(dir: &Path) -> Sample {
        read(dir, MonotonicNs::new(7)).unwrap()
    }

    #[test]
    fn an_absent_folder_holds_no_containers() {
        let sample = look(Path::new("/nowhere/at/all"));
        assert!(sample.containers.is_empty() && sample.skipped.is_empty());
    }

    #[test]
    fn every_container_is_told_with_what_it_has_and_holds() {
        let dir = tempfile::tempdir().unwrap();
        let (one, share) = attach(dir.path(), "one");
        let _two = attach(dir.path(), "two");
        one.try_charge(0, Bytes::new(40)).unwrap().commit();
        let reservation = share.acquire(
            &mut share.credit(0).unwrap(),
            KernelKey(1),
            MonotonicNs::new(1),
        );
        let sample = look(dir.path());
        assert_eq!((sample.schema, sample.skipped.len()), (SCHEMA, 0));
        let names: Vec<_> = sample
            .containers
            .iter()
            .map(|container| container.container.as_str())
            .collect();
        assert_eq!(names, ["one", "two"]);
        let device = &sample.containers[0].devices[0];
        assert_eq!(device.device_uuid, GPU.to_string());
        assert_eq!(
            (
                device.memory_bytes_current,
                device.memory_bytes_peak,
                device.memory_bytes_max
            ),
            (40, 40, Some(100))
        );
        assert_eq!(
            (device.sm_percent, device.sm_percent_max),
            (Some(12.5), Some(60.0))
        );
        assert_eq!(
            (device.launches_total, device.charged_ns_total),
            (1, share.usage(0).charged_ns)
        );
        let process = &sample.containers[0].processes[0];
        assert_eq!(process.pid, std::process::id());
        assert_eq!(
            (
                process.devices[0].memory_bytes_current,
                process.devices[0].launches_total
            ),
            (40, 1)
        );
        share.cancel(reservation);
    }

    #[test]
    fn a_board_is_told_once_a_context_was_measured_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let (_ledger, share) = attach(dir.path(), "a");
        assert_eq!(look(dir.path()).boards, []);
        let board = share.board(0).unwrap();
        for (version, mib) in [(12_040, 80), (12_040, 80), (13_000, 104)] {
            let turn = board.context_cost(version).expect().turn.unwrap();
            turn.measured(Bytes::new(mib << 20));
        }
        let wanted = BoardSample {
            device_uuid: GPU.to_string(),
            context_bytes: 104 << 20,
            cuda_version: 13_000,
        };
        assert_eq!(look(dir.path()).boards, [wanted]);
    }

    #[test]
    fn what_the_dead_used_stays_counted_and_what_they_held_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, share) = attach(dir.path(), "a");
        let reservation = share.acquire(
            &mut share.credit(0).unwrap(),
            KernelKey(1),
            MonotonicNs::new(1),
        );
        share.completed(reservation, None, MonotonicNs::new(2));
        ledger.try_charge(0, Bytes::new(40)).unwrap().commit();
        drop((ledger, share));
        let container = &look(dir.path()).containers[0];
        assert!(container.processes.is_empty());
        let device = &container.devices[0];
        assert_eq!(
            (
                device.memory_bytes_current,
                device.memory_bytes_peak,
                device.launches_total
            ),
            (0, 40, 1)
        );
    }

    #[test]
    fn what_is_not_ours_is_reported_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let _ours = attach(dir.path(), "ours");
        fs::create_dir(dir.path().join("empty")).unwrap();
        fs::create_dir(dir.path().join("a b")).unwrap();
        fs::create_dir(dir.path().join("short")).unwrap();
        fs::write(dir.path().join("short/ledger"), "x").unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        let sample = look(dir.path());
        assert_eq!(sample.containers.len(), 1);
        assert_eq!(sample.skipped.len(), 3);
        assert!(
            sample
                .skipped
                .iter()
                .any(|line| line.contains("short/ledger: is too short")),
            "{:?}",
            sample.skipped
        );
    }

    #[test]
    fn a_sample_says_which_form_it_has() {
        let sample = Sample {
            schema: SCHEMA,
            now_ns: 0,
            containers: Vec::new(),
            processes_without_slot: Vec::new(),
            boards: Vec::new(),
            gpus: Vec::new(),
            skipped: Vec::new(),
        };
        let text = toml::to_string(&sample).unwrap();
        assert!(text.starts_with("schema = 1\n"), "{text}");
    }
}
