//! The folders that a node shares with its containers, and the one that it does not.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::failure::Failure;

/// Mode of the folder of the shared state: programs of all users meet there; the kernel's sticky bit keeps them from removing each other's.
pub(crate) const STATE_MODE: u32 = 0o1777;

/// Mode of a container's folder in it that is made beforehand: for its programs, of whatever user.
pub(crate) const CONTAINER_MODE: u32 = 0o777;

/// The folder of what is made for containers and that no container sees: beside that of the shared state.
pub(crate) fn of_containers(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push("-containers");
    dir.with_file_name(name)
}

/// A folder for several users. One that is there already is whose it is, and as it is.
pub(crate) fn lend(folder: &Path, mode: u32) -> Result<(), Failure> {
    match fs::create_dir(folder) {
        Ok(()) => {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).map_err(failed(folder))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(folder)(error)),
    }
}

/// A folder that others may pass through and only its owner list, with those above it.
pub(crate) fn keep(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o711).create(folder)
}

/// The name of a lock, in the folder of what is made for containers: see [`lock_names`].
const NAMES_LOCK: &str = "names.lock";

/// Excludes, until it is dropped, all others who prepare a container under its name or remove what containers of a name have left. The
/// kernel drops it with its process; no container sees it.
pub(crate) fn lock_names(of_containers: &Path) -> Result<File, Failure> {
    let path = of_containers.join(NAMES_LOCK);
    let mut options = OpenOptions::new();
    let opened = keep(of_containers)
        .and_then(|()| options.create(true).append(true).mode(0o600).open(&path))
        .and_then(|file| {
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        });
    opened.map_err(failed(path))
}

/// That something could not be done with this file.
pub(crate) fn failed(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Failure {
    let shown = path.as_ref().display().to_string();
    move |error| Failure::failed(format_args!("{shown}: {error}"))
}
