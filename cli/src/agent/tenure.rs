//! Whose a folder of the shared state is: one agent's, for as long as it lives.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::failure::Failure;
use crate::folders::{self, failed};

/// A lock that the kernel drops with its process. It is on the folder that no container sees: no tenant can take it.
pub(crate) struct Tenure {
    _lock: File,
}

impl Tenure {
    /// Makes the folder where it is missing, and takes it.
    ///
    /// # Errors
    /// It is another agent's, or cannot be made or read.
    pub(crate) fn begin(dir: &Path) -> Result<Self, Failure> {
        let beside = folders::of_containers(dir);
        let usable = |path: &Path, error: io::Error| {
            Failure::failed(format_args!(
                "{}: {error}; --dir names another folder, or start this as root",
                path.display()
            ))
        };
        folders::keep(&beside).map_err(|error| usable(&beside, error))?;
        let lock = File::open(&beside).map_err(|error| usable(&beside, error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Failure::failed(format_args!(
                    "another agent watches over {} already: end that one first, or name another folder by --dir",
                    dir.display()
                )));
            }
            Err(error) => return Err(failed(&beside)(error.into())),
        }
        // What root makes is for the programs of all users; what a user makes is that user's.
        let mode = if geteuid().is_root() {
            folders::STATE_MODE
        } else {
            0o700
        };
        folders::lend(dir, mode)?;
        fs::read_dir(dir).map_err(|error| usable(dir, error))?;
        Ok(Self { _lock: lock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_has_one_agent_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("state");
        let first = Tenure::begin(&dir).unwrap();
        let refused = Tenure::begin(&dir).err().unwrap().to_string();
        assert!(
            refused.starts_with("another agent watches over "),
            "{refused}"
        );
        let _other = Tenure::begin(&folder.path().join("another")).unwrap();
        drop(first);
        Tenure::begin(&dir).unwrap();
    }

    #[test]
    fn a_folder_that_is_there_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |dir: &Path| fs::metadata(dir).unwrap().permissions().mode() & 0o7777;
        let (there, made) = (folder.path().join("there"), folder.path().join("made"));
        fs::create_dir(&there).unwrap();
        fs::set_permissions(&there, fs::Permissions::from_mode(0o750)).unwrap();
        let _tenures = [&there, &made].map(|dir| Tenure::begin(dir).unwrap());
        assert_eq!(mode(&there), 0o750);
        let expected = if geteuid().is_root() { 0o1777 } else { 0o700 };
        assert_eq!(mode(&made), expected);
    }

    #[test]
    fn what_is_no_folder_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("file");
        fs::write(&dir, "").unwrap();
        let refused = Tenure::begin(&dir).err().unwrap().to_string();
        assert!(refused.contains("--dir names another folder"), "{refused}");
    }
}
