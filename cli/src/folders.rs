//! The folders that a node shares with its containers, and the one that it does not.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Mode of the folder of the shared state: programs of all users meet there; the kernel's sticky bit keeps them from removing each other's.
pub(crate) const STATE_MODE: u32 = 0o1777;

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

/// That something could not be done with this file.
pub(crate) fn failed(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Failure {
    let shown = path.as_ref().display().to_string();
    move |error| Failure::failed(format_args!("{shown}: {error}"))
}
