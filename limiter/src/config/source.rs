//! The config file that limits came from, to be read again while programs run.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::raw::{Refusal, Setting};
use super::{ContainerName, Layer, Limits, file, refuse_spill_alone};

/// A config file that sets limits, and what the environment adds to it.
#[derive(Clone, Debug)]
pub struct Source {
    pub(super) path: PathBuf,
    /// The limits of the environment, which was read once, for good.
    pub(super) environment: Option<Layer>,
    pub(super) container: ContainerName,
    /// The file whose limits are known.
    pub(super) stamp: Stamp,
}

/// What changes when a file is rewritten, in place or by another one that is moved there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// When it was last written, in ns since 1970.
    pub mtime_ns: u64,
    size: u64,
    inode: u64,
}

impl Stamp {
    /// Of the file of which that was found.
    pub(super) fn of(found: &Metadata) -> Self {
        let seconds = u64::try_from(found.mtime()).unwrap_or(0);
        let nanoseconds = u64::try_from(found.mtime_nsec()).unwrap_or(0);
        Self {
            mtime_ns: seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(nanoseconds),
            size: found.size(),
            inode: found.ino(),
        }
    }
}

impl Source {
    /// The file whose limits were read.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The file as it is now, links followed; `None`: there is none that can be asked. One system call.
    pub fn stamp_now(&self) -> Option<Stamp> {
        let found = fs::metadata(&self.path).ok()?;
        Some(Stamp::of(&found))
    }

    /// The limits that the file and the environment set now.
    ///
    /// # Errors
    /// What would be refused at the start of a program; a file that sets no limit, because one that is being written may look like
    /// that; one that names another container.
    pub fn read(&self) -> Result<Limits, Refusal> {
        let named = Setting {
            source: "config file".to_owned(),
            key: "path".to_owned(),
            value: self.path.display().to_string(),
        };
        let (file, _) = file::read_named(&named)?;
        if file.limits.is_empty() {
            return Err(named.refuse("sets no limit any more", "limits; \"max\" lifts one"));
        }
        if let Some(container) = &file.container
            && container.value != self.container.as_str()
        {
            return Err(
                container.refuse("is another container than before", self.container.as_str())
            );
        }
        refuse_spill_alone(&file.limits)?;
        let mut layers = vec![Layer::check(&file.limits)?];
        layers.extend(self.environment.clone());
        Ok(Limits { layers })
    }
}
