//! The write side for others than the limited processes: a container's limits, changed while its programs run.
//!
//! A changed limit is in shared memory, where every charge and every launch looks: it counts from the next one on. It ends with
//! the container's last process: the next start takes what is configured.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{Change, ContainerName, GpuLimits, Refusal};
use crate::ledger;
use crate::limit;
use crate::sample;
use crate::shm::layout::{ContainerFile, DeviceRow, Slot};
use crate::shm::{AttachError, Mapping};
use crate::slot::{Process, living_owner, used};
use crate::sync::Ordering;
use crate::units::{Bytes, DeviceUuid, MonotonicNs, Percent};

/// Why a container's limits were not changed. None of them was.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No container of this name has run under limits here.
    #[error("no container {container} in {dir}", dir = dir.display())]
    Unknown {
        /// What was asked for.
        container: ContainerName,
        /// Where.
        dir: PathBuf,
    },
    /// There is nobody to change limits for: the next start takes what is configured.
    #[error(
        "no program of container {0} runs; the next one takes the limits that it is started with"
    )]
    Idle(ContainerName),
    /// The change does not fit the container.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The container's file cannot be used.
    #[error(transparent)]
    Unusable(#[from] AttachError),
}

/// A container's limits on one GPU, before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changed {
    /// `GPU-…`.
    pub device_uuid: String,
    /// The limits that were in force.
    pub before: LimitsSample,
    /// Those that are.
    pub after: LimitsSample,
    /// What the container holds: if it is more than its quota, nothing is taken from it, and nothing more is granted.
    pub memory_bytes_current: u64,
}

/// A container's limits on one GPU, as they are written out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LimitsSample {
    /// The quota; `None`: no limit.
    pub memory_bytes_max: Option<u64>,
    /// What of it is guaranteed; `None`: all of it.
    pub memory_bytes_soft: Option<u64>,
    /// Whether allocations past that become managed memory.
    pub spill: bool,
    /// Guaranteed share.
    pub sm_percent: Option<f64>,
    /// Cap.
    pub sm_percent_max: Option<f64>,
}

impl LimitsSample {
    fn of(limits: GpuLimits) -> Self {
        Self {
            memory_bytes_max: limits.memory_bytes_max.map(Bytes::get),
            memory_bytes_soft: limits.memory_bytes_soft.map(Bytes::get),
            spill: limits.spill,
            sm_percent: limits.sm.map(Percent::as_f64),
            sm_percent_max: limits.sm_max.map(Percent::as_f64),
        }
    }
}

/// Changes the limits of a running container, on all of the GPUs that its programs see or on none.
///
/// Takes no place in the container's file; excludes programs that start or end meanwhile.
///
/// # Errors
/// See [`ControlError`].
pub fn change(
    dir: &Path,
    container: &ContainerName,
    change: &Change,
    now: MonotonicNs,
) -> Result<Vec<Changed>, ControlError> {
    let unknown = || ControlError::Unknown {
        container: container.clone(),
        dir: dir.to_owned(),
    };
    let path = ledger::path(dir, container);
    let (file, ()): (Mapping<ContainerFile>, _) =
        Mapping::open_existing(&path, |_, _| Ok(()))?.ok_or_else(unknown)?;
    let locked = file.exclusive();
    let _exclusive = locked.map_err(|source| file.error("lock", source))?;
    let living = living_slots(&file);
    if living.is_empty() {
        return Err(ControlError::Idle(container.clone()));
    }
    let rows: Vec<(usize, &DeviceRow)> = sample::rows(&file).collect();
    let before: Vec<(DeviceUuid, GpuLimits)> = rows
        .iter()
        .map(|(_, row)| (row.uuid().unwrap_or_default(), row.limits()))
        .collect();
    let after = change.apply(&before)?;
    let mut changed = Vec::new();
    for (((row, device), (uuid, before)), after) in rows.into_iter().zip(before).zip(after) {
        device.memory.set(after.into());
        limit::change_share(&file, row, after, now);
        changed.push(Changed {
            device_uuid: uuid.to_string(),
            before: LimitsSample::of(before),
            after: LimitsSample::of(after),
            memory_bytes_current: held(&living, row),
        });
    }
    Ok(changed)
}

fn living_slots(file: &Mapping<ContainerFile>) -> Vec<&Slot> {
    let reader = Process::current();
    let lives = |&(index, slot): &(usize, &Slot)| {
        let is_locked = || file.is_entry_locked_elsewhere(index);
        living_owner(&slot.owner, is_locked, file.inode(), &reader).is_some()
    };
    let slots = used(&**file).filter_map(|index| Some((index, file.slots.get(index)?)));
    slots.filter(lives).map(|(_, slot)| slot).collect()
}

/// What these processes hold of the GPU of that row.
fn held(slots: &[&Slot], row: usize) -> u64 {
    let parts = slots.iter().filter_map(|slot| slot.devices.get(row));
    parts
        .map(|part| part.bytes.load(Ordering::SeqCst))
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::config::Wanted;
    use crate::ledger::Ledger;
    use crate::share::Share;

    const GPU: DeviceUuid = DeviceUuid::from_bytes([7; 16]);
    const OTHER_GPU: DeviceUuid = DeviceUuid::from_bytes([8; 16]);

    fn container() -> ContainerName {
        "a".parse().unwrap()
    }

    fn limits() -> GpuLimits {
        GpuLimits {
            memory_bytes_max: Some(Bytes::new(100)),
            sm: "30".parse().ok(),
            sm_max: "60".parse().ok(),
            ..GpuLimits::default()
        }
    }

    fn attach(dir: &Path) -> (Ledger, Share) {
        let gpus = [GPU, OTHER_GPU].map(|gpu| (gpu, limits()));
        let ledger = Ledger::attach(dir, &container(), &gpus).unwrap();
        let share = Share::attach(&ledger, dir, clock::monotonic(), 1).unwrap();
        (ledger, share)
    }

    fn set(dir: &Path, options: [Option<&str>; 3]) -> Result<Vec<Changed>, ControlError> {
        let [memory, sm, sm_max] = options;
        let wanted = Wanted {
            memory,
            sm,
            sm_max,
            ..Wanted::default()
        };
        let new = Change::parse(wanted).unwrap();
        change(dir, &container(), &new, clock::monotonic())
    }

    #[test]
    fn a_change_says_what_was_and_what_is() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, share) = attach(dir.path());
        ledger.try_charge(1, Bytes::new(80)).unwrap().commit();
        let changed = set(dir.path(), [Some("GPU-0808=50"), Some("20"), Some("100")]).unwrap();
        let before = LimitsSample::of(limits());
        let after = LimitsSample {
            memory_bytes_max: Some(100),
            memory_bytes_soft: None,
            spill: false,
            sm_percent: Some(20.0),
            sm_percent_max: Some(100.0),
        };
        let lowered = LimitsSample {
            memory_bytes_max: Some(50),
            ..after
        };
        let expected = [(GPU, after, 0), (OTHER_GPU, lowered, 80)];
        let expected = expected.map(|(gpu, after, memory_bytes_current)| Changed {
            device_uuid: gpu.to_string(),
            before,
            after,
            memory_bytes_current,
        });
        assert_eq!(changed, expected);
        assert_eq!(ledger.max(1), Some(Bytes::new(50)));
        assert!(share.is_limited(0), "no cap, but it launches in turn");
        set(dir.path(), [None, Some("100"), Some("100")]).unwrap();
        assert!(!share.is_limited(0), "all of it is its own");
    }

    #[test]
    fn a_refused_change_changes_no_gpu() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, _share) = attach(dir.path());
        set(dir.path(), [None, Some("GPU-0808=70"), Some("GPU-0808=70")]).unwrap();
        let refused = set(dir.path(), [Some("50"), None, Some("60")]);
        assert!(matches!(refused, Err(ControlError::Refused(_))));
        assert_eq!(ledger.max(0), Some(Bytes::new(100)));
    }

    #[test]
    fn limits_of_nobody_are_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let memory = [Some("50"), None, None];
        let never = set(dir.path(), memory);
        assert!(matches!(never, Err(ControlError::Unknown { .. })));
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing was made"
        );
        drop(attach(dir.path()));
        assert!(matches!(
            set(dir.path(), memory),
            Err(ControlError::Idle(_))
        ));
    }
}
