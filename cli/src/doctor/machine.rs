//! Is what was configured valid, and is the folder of the shared state usable?

use std::path::Path;

use limiter::config::Settings;
use limiter::sample;
use rustix::fs::{Access, StatVfs, access, statfs, statvfs};

use super::finding::Finding;
use crate::{notes, status};

const CONFIG: &str = "configuration";
const STATE: &str = "shared state";
const CONTEXTS: &str = "contexts";
const GUARANTEES: &str = "guarantees";

/// A folder with less room than this is about to fail: ledgers and boards are some hundred KiB each.
const FREE_BYTES_MIN: u64 = 16 << 20;

/// What the configuration says.
pub(crate) fn configuration(settings: &Settings) -> Finding {
    let limits = if settings.limits.is_some() {
        "limits are set"
    } else {
        "no limit is set"
    };
    Finding::ok(
        CONFIG,
        format!("valid; {limits}; container {}", settings.container),
    )
}

/// The configuration was refused: the line that a program would print before its cuInit fails.
pub(crate) fn refused(refusal: String) -> Finding {
    Finding::problem(
        CONFIG,
        refusal,
        "correct that value; until then cuInit fails in every program",
    )
}

/// What contexts were measured to take, where one was; it is part of what each container holds.
pub(crate) fn contexts(folder: &Path) -> Finding {
    let boards = sample::read(folder, limiter::clock::monotonic()).map(|sample| sample.boards);
    let known: Vec<_> = boards.iter().flatten().map(status::context_cost).collect();
    if known.is_empty() {
        return Finding::ok(
            CONTEXTS,
            "what one takes of a GPU is measured when the first is made under a quota",
        );
    }
    Finding::ok(CONTEXTS, known.join(" "))
}

/// Whether each GPU has the memory that its containers are guaranteed together; nothing where nobody has asked how much it has.
pub(crate) fn guarantees(folder: &Path) -> Option<Finding> {
    let sample = sample::read(folder, limiter::clock::monotonic()).ok()?;
    let broken: Vec<_> = sample
        .gpus
        .iter()
        .filter_map(notes::overcommitted)
        .collect();
    if broken.is_empty() {
        let some = sample
            .gpus
            .iter()
            .any(|gpu| gpu.memory_bytes_guaranteed > 0);
        return some.then(|| {
            Finding::ok(
                GUARANTEES,
                "every GPU has what its containers are guaranteed",
            )
        });
    }
    Some(Finding::warning(
        GUARANTEES,
        broken.join(" "),
        "cuda-hook set CONTAINER --memory-soft SIZE, or the config file",
    ))
}

/// Whether processes can keep their shared state in `folder`.
pub(crate) fn state_folder(folder: &Path) -> Finding {
    let existing = folder
        .ancestors()
        .find(|candidate| candidate.exists())
        .unwrap_or(Path::new("/"));
    let shown = folder.display();
    if !existing.is_dir() {
        return Finding::problem(
            STATE,
            format!("{}: not a folder", existing.display()),
            "set CUDA_HOOK_DIR to a folder",
        );
    }
    if let Err(error) = access(existing, Access::WRITE_OK | Access::EXEC_OK) {
        let found = format!("{}: not writable: {error}", existing.display());
        return Finding::problem(
            STATE,
            found,
            "make it writable for the container's user, or set CUDA_HOOK_DIR to a folder that is",
        );
    }
    let (kind, space) = match (statfs(existing), statvfs(existing)) {
        (Ok(kind), Ok(space)) => (filesystem(kind.f_type), free_bytes(&space)),
        (Err(error), _) | (_, Err(error)) => {
            let found = format!("{}: {error}", existing.display());
            return Finding::problem(STATE, found, "set CUDA_HOOK_DIR to a folder on tmpfs");
        }
    };
    let created = if existing == folder {
        ""
    } else {
        ", created by the first limited program"
    };
    let found = format!(
        "{shown}: writable, {kind}, {} MiB free{created}",
        space >> 20
    );
    match kind {
        _ if space < FREE_BYTES_MIN => Finding::problem(
            STATE,
            found,
            "make room, or set CUDA_HOOK_DIR to another folder",
        ),
        "NFS" | "FUSE" => Finding::warning(
            STATE,
            found,
            "locks and shared memory are slow or missing there; set CUDA_HOOK_DIR to a folder on tmpfs",
        ),
        _ => Finding::ok(STATE, found),
    }
}

fn free_bytes(space: &StatVfs) -> u64 {
    space.f_bavail.saturating_mul(space.f_frsize)
}

/// Name of a filesystem by its magic number (statfs(2)).
fn filesystem(magic: impl TryInto<i64>) -> &'static str {
    match magic.try_into().unwrap_or_default() {
        0x0102_1994 => "tmpfs",
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "NFS",
        0x6573_5546 => "FUSE",
        _ => "some filesystem",
    }
}

#[cfg(test)]
mod tests {
    use limiter::board::Board;
    use limiter::ledger::Ledger;
    use limiter::units::{Bytes, DeviceUuid};

    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_folder_that_can_be_made_is_fine() {
        let folder = tempfile::tempdir().unwrap();
        let finding = state_folder(&folder.path().join("a/b"));
        assert_eq!(finding.level, Level::Ok, "{finding:?}");
        assert!(finding.found.contains("created by"), "{finding:?}");
    }

    #[test]
    fn what_contexts_take_is_told_once_it_was_measured() {
        let folder = tempfile::tempdir().unwrap();
        let told = || contexts(folder.path()).found;
        assert!(told().contains("when the first is made"), "{}", told());
        let board = Board::attach(folder.path(), DeviceUuid::from_bytes([7; 16])).unwrap();
        let turn = board.context_cost(12_020).expect().turn.unwrap();
        turn.measured(Bytes::new(104 << 20));
        let wanted = "A context takes 104 MiB of GPU-07070707, as measured (CUDA 12.2).";
        assert_eq!(told(), wanted);
    }

    #[test]
    fn more_guarantees_than_a_gpu_has_are_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let gpu = DeviceUuid::from_bytes([7; 16]);
        assert!(guarantees(folder.path()).is_none());
        let name = "a".parse().unwrap();
        let quota = [(gpu, Some(Bytes::new(3 << 30)))];
        let _ledger = Ledger::attach(folder.path(), &name, &quota).unwrap();
        let board = Board::attach(folder.path(), gpu).unwrap();
        for (total, level) in [(3, Level::Ok), (2, Level::Warning)] {
            board.set_memory_total(Bytes::new(total << 30));
            let finding = guarantees(folder.path()).unwrap();
            assert_eq!(finding.level, level, "{finding:?}");
        }
    }

    #[test]
    fn a_file_is_not_a_folder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(state_folder(file.path()).level, Level::Problem);
        assert_eq!(
            state_folder(&file.path().join("below")).level,
            Level::Problem
        );
    }

    #[test]
    fn proc_is_not_writable_even_for_root() {
        let finding = state_folder(Path::new("/proc/sys/kernel"));
        assert_eq!(finding.level, Level::Problem, "{finding:?}");
        assert!(finding.found.contains("not writable"), "{finding:?}");
    }

    #[test]
    fn shared_memory_is_known_by_name() {
        let kind = statfs("/dev/shm").unwrap();
        assert_eq!(filesystem(kind.f_type), "tmpfs");
    }
}
