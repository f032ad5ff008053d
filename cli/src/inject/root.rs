//! A container's root file system, from outside: nothing that its image contains leads out of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags, mount_bind, mount_remount, open_tree};

/// The root file system.
pub(crate) struct Root(OwnedFd);

/// What may be done with what is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

impl Root {
    /// # Errors
    /// There is no such folder.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// What is at an absolute path of the container, links followed as they will be inside.
    fn find(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(&self.0, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// The folder at a path; made where it is not there.
    fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut at = PathBuf::from("/");
        let mut folder = self.find(&at)?;
        for part in path.components().skip(1) {
            at.push(part);
            folder = match self.find(&at) {
                Err(Errno::NOENT) => {
                    mkdirat(&folder, part.as_os_str(), Mode::from_raw_mode(0o755))?;
                    self.find(&at)?
                }
                found => found?,
            };
        }
        Ok(folder)
    }

    /// The file at a path; an empty one where it is not there.
    fn file(&self, path: &Path) -> io::Result<OwnedFd> {
        match (self.find(path), path.parent().zip(path.file_name())) {
            (Err(Errno::NOENT), Some((parent, name))) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mode = Mode::from_raw_mode(0o644);
                openat(self.folder(parent)?, name, flags | OFlags::RDONLY, mode)?;
                Ok(self.find(path)?)
            }
            (found, _) => Ok(found?),
        }
    }

    /// What the file at a path says; nothing where there is none.
    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match openat2(&self.0, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(file) => io::read_to_string(std::fs::File::from(file)),
            Err(Errno::NOENT) => Ok(String::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The same of the root file system alone, without what is mounted on it.
    pub(crate) fn read_under_mounts(&self, path: &str) -> io::Result<String> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let at = descriptor_path(&self.0);
        Self(open_tree(CWD, at, flags)?).read(path)
    }

    /// Mounts a file or folder of the node's at a path of the container.
    pub(crate) fn bind(&self, source: &Path, target: &str, access: Access) -> io::Result<()> {
        let target = Path::new(target);
        let under = if source.is_dir() {
            self.folder(target)?
        } else {
            self.file(target)?
        };
        mount_bind(source, descriptor_path(&under))?;
        let safe = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
        let flags = match access {
            Access::Read => safe | MountFlags::RDONLY,
            Access::Write => safe | MountFlags::NOEXEC,
        };
        // What is mounted there is found now, no more what is under it.
        mount_remount(descriptor_path(&self.find(target)?), flags, c"")?;
        Ok(())
    }
}

/// The one name of an open file that nobody can put another in the place of.
fn descriptor_path(file: &impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_an_image_links_to_stays_inside_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (image, outside) = (folder.path().join("image"), folder.path().join("outside"));
        fs::create_dir_all(&image).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "not for containers").unwrap();
        symlink(&outside, image.join("etc")).unwrap();
        symlink("../../outside", image.join("usr")).unwrap();
        let root = Root::open(&image).unwrap();
        for path in ["/etc/new/file", "/usr/new/file"] {
            // What the link names is not there inside.
            assert!(root.file(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(root.read("/etc/secret").unwrap(), "");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        fs::create_dir(image.join("run")).unwrap();
        symlink("/run", image.join("var")).unwrap();
        root.file(Path::new("/var/a/b/file")).unwrap();
        assert!(image.join("run/a/b/file").is_file());
    }
}
