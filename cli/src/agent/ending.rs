//! Containers that have ended, kept for a while for whoever wants to know what they used, and then forgotten.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use limiter::config::ContainerName;
use limiter::reap::{self, Ended};
use rustix::process::geteuid;

use super::http::Node;
use super::own_command;
use crate::failure::Failure;
use crate::folders::{self, failed};
use crate::inject::config;
use crate::output;

/// Since when each container has been seen ended.
#[derive(Default)]
pub(crate) struct Endings(HashMap<Ended, Instant>);

impl Endings {
    /// Those of `ended` that were seen so for as long as `keep`. One that is told is told again only so much later.
    pub(crate) fn due(&mut self, ended: Vec<Ended>, now: Instant, keep: Duration) -> Vec<Ended> {
        self.0.retain(|known, _| ended.contains(known));
        let mut due = Vec::new();
        for one in ended {
            let since = self.0.entry(one.clone()).or_insert(now);
            if now.saturating_duration_since(*since) >= keep {
                *since = now;
                due.push(one);
            }
        }
        due
    }
}

/// Has another process remove what the container has left; whether anything was removed.
pub(crate) async fn have_forgotten(node: &Node, ended: &Ended) -> Result<bool, Failure> {
    let arguments = [
        "agent".as_ref(),
        "forget".as_ref(),
        node.dir().as_os_str(),
        ended.container.as_str().as_ref(),
        ended.mark.as_ref(),
    ];
    let output = own_command::run(node.dir(), arguments).await?;
    if !output.status.success() {
        return Err(Failure::failed(own_command::complaint(&output)));
    }
    Ok(output.stdout.starts_with(b"true"))
}

/// The other process: removes it, and says whether there was anything to remove.
pub(crate) fn forget(dir: &Path, container: &ContainerName, mark: &str) -> Result<(), Failure> {
    output::print(remove(dir, container, mark)?)
}

/// A container that the runtime has made, and that is there still, is left alone: it may run its next program at any time, and its users
/// share the folder.
fn remove(dir: &Path, container: &ContainerName, mark: &str) -> Result<bool, Failure> {
    let of_containers = folders::of_containers(dir);
    let ended = Ended {
        container: container.clone(),
        mark: mark.to_owned(),
    };
    if config::is_in_use(&of_containers, container)?
        || !reap::remove(dir, &ended).map_err(Failure::failed)?
    {
        return Ok(false);
    }
    let _names = folders::lock_names(&of_containers)?;
    let is_gone = !config::is_in_use(&of_containers, container)?
        && remove_folder(&dir.join(container.as_str()))?;
    Ok(is_gone || ended.has_ledger())
}

/// Removes a container's folder if nothing is in it, and if whoever needs it next makes it as it is: the library for a user alone, or the
/// hook for all. Whether it was removed.
fn remove_folder(folder: &Path) -> Result<bool, Failure> {
    let metadata = fs::symlink_metadata(folder).map_err(failed(folder))?;
    let mode = metadata.permissions().mode() & 0o7777;
    let is_hooks = mode == folders::CONTAINER_MODE && metadata.uid() == geteuid().as_raw();
    if !is_hooks && mode != OF_LIBRARY {
        return Ok(false);
    }
    match fs::remove_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(failed(folder)(error)),
    }
}

/// Mode of a container's folder that the library has made.
const OF_LIBRARY: u32 = 0o700;

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(container: &str, mark: &str) -> Ended {
        Ended {
            container: container.parse().unwrap(),
            mark: mark.to_owned(),
        }
    }

    #[test]
    fn a_container_is_due_when_it_has_been_ended_for_long_enough() {
        const KEEP: Duration = Duration::from_secs(600);
        let mut endings = Endings::default();
        let begin = Instant::now();
        let mut due = |ended: &[&Ended], seconds| {
            let ended = ended.iter().copied().cloned().collect();
            endings.due(ended, begin + Duration::from_secs(seconds), KEEP)
        };
        let (one, other, again) = (
            ended("one", "7-2"),
            ended("other", "8-2"),
            ended("one", "7-4"),
        );
        assert_eq!(due(&[&one], 0), []);
        assert_eq!(due(&[&one, &other], 599), []);
        assert_eq!(due(&[&one, &other], 600), std::slice::from_ref(&one));
        assert_eq!(due(&[&one], 601), [], "it was told a second ago");
        assert_eq!(due(&[&again], 1_199), [], "somebody has been there");
        assert_eq!(due(&[], 1_500), [], "somebody is");
        assert_eq!(due(&[&again], 1_799), []);
    }

    fn made(dir: &Path, name: &str, mode: u32) -> std::path::PathBuf {
        let folder = dir.join(name);
        folders::lend(&folder, mode).unwrap();
        folder
    }

    #[test]
    fn a_folder_is_removed_that_would_be_made_again_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, is_removed) in [
            (0o700, true),
            (0o777, true),
            (0o770, false),
            (0o1777, false),
        ] {
            let folder = made(dir.path(), "container", mode);
            assert_eq!(remove_folder(&folder).unwrap(), is_removed, "{mode:o}");
            assert_eq!(folder.exists(), !is_removed, "{mode:o}");
            let _ = fs::remove_dir(&folder);
        }
        let full = made(dir.path(), "full", 0o700);
        fs::write(full.join("notes"), "").unwrap();
        assert!(!remove_folder(&full).unwrap());
    }

    #[test]
    fn a_container_that_the_runtime_has_made_keeps_its_folder_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = made(folder.path(), "state", 0o700);
        let container = made(&dir, "one", folders::CONTAINER_MODE);
        let prepared = folders::of_containers(&dir).join("some-id");
        folders::keep(&prepared).unwrap();
        fs::write(
            prepared.join(config::FILE),
            "container = \"one\"\nmemory = \"1GiB\"\n",
        )
        .unwrap();
        let remove_one = || remove(&dir, &"one".parse().unwrap(), "none").unwrap();
        assert!(!remove_one() && container.exists());
        fs::remove_dir_all(&prepared).unwrap();
        assert!(remove_one() && !container.exists());
    }
}
