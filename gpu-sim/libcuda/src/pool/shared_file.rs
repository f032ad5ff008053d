//! Pools of the host that several processes share: the blocks of one are parts of a sparse file without a path, and who has a
//! descriptor of it can map any of them.
//!
//! Who holds a part has a lock on it, which the kernel drops with the open file description, however the process ends (fcntl(2),
//! `F_OFD_SETLK`). The last one to let go gives the part's pages back to the host. No part is ever used for a second block.
#![expect(unsafe_code, reason = "locks parts of a file, by fcntl")]

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use cuda_sys_stubs::abi::*;
use parking_lot::Mutex;

use crate::door::Answer;
use crate::table::{Key, Table};
use crate::window::{anonymous_file, anonymous_name, map_file};

/// What the kernel calls our files: who imports a descriptor knows by it what it is.
const NAME: &CStr = c"gpu-sim-host-pool";

/// All files of shared pools that this process knows. The lock is held by nobody who takes another one.
#[derive(Default)]
pub(crate) struct SharedFiles(Mutex<Table<SharedFile>>);

/// The file of one pool.
pub(crate) struct SharedFile {
    /// An open file description of this process's own, as locks go by it.
    file: File,
    /// Where the next part begins, in bytes; only its own process's pool hands parts out.
    end: u64,
    /// Pools and parts that need it.
    users: usize,
    /// Parts that this process let go of when others still held them: start and length in bytes.
    left: Vec<(u64, u64)>,
}

/// A part of a shared pool's file, which this process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    file: Key<SharedFile>,
    offset: u64,
}

/// The same part, whoever has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartName {
    /// Inode number of the file.
    pub(crate) inode: u64,
    /// From the file's beginning, in bytes.
    pub(crate) offset: u64,
    /// Its length.
    pub(crate) bytes: u64,
}

impl SharedFiles {
    /// The file of a new pool.
    pub(crate) fn create(&self) -> Answer<Key<SharedFile>> {
        let file = File::from(anonymous_file(NAME)?);
        Ok(self.0.lock().insert(SharedFile::new(file)))
    }

    /// A descriptor of a pool's file for another process.
    pub(crate) fn export(&self, key: Key<SharedFile>) -> Answer<OwnedFd> {
        let mut files = self.0.lock();
        let copy = get(&mut files, key)?.file.try_clone();
        copy.map(OwnedFd::from)
            .map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)
    }

    /// The file that a descriptor of [`SharedFiles::export`] stands for; `None`: it is no such descriptor.
    pub(crate) fn import(&self, descriptor: BorrowedFd) -> Answer<Option<Key<SharedFile>>> {
        if anonymous_name(descriptor)?.as_deref() != NAME.to_str().ok() {
            return Ok(None);
        }
        let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        let file = File::options().read(true).write(true).open(path);
        let file = SharedFile::new(file.map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?);
        let inode = file.inode()?;
        let mut files = self.0.lock();
        let known = files
            .iter_mut()
            .find(|(_, known)| known.inode() == Ok(inode));
        if let Some((key, known)) = known {
            known.users = known.users.saturating_add(1);
            return Ok(Some(key));
        }
        Ok(Some(files.insert(file)))
    }

    /// A pool does without its file from now on.
    pub(crate) fn let_go(&self, key: Key<SharedFile>) {
        let mut files = self.0.lock();
        let Some(file) = files.get_mut(key) else {
            return;
        };
        file.users = file.users.saturating_sub(1);
        if file.users == 0 {
            files.remove(key);
        }
    }

    /// A new part of whole pages, which are zeros, and where it is mapped.
    pub(crate) fn take(&self, key: Key<SharedFile>, bytes: u64) -> Answer<(Part, CUdeviceptr)> {
        let mut files = self.0.lock();
        let file = get(&mut files, key)?;
        file.sweep()?;
        let offset = file.end;
        let end = offset.checked_add(bytes).ok_or(CUDA_ERROR_OUT_OF_MEMORY)?;
        let grown = file.file.set_len(end);
        grown.map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?;
        file.end = end;
        let start = file.hold(offset, bytes)?;
        Ok((Part { file: key, offset }, start))
    }

    /// What another process calls a part of so many bytes.
    pub(crate) fn name(&self, part: Part, bytes: u64) -> Answer<PartName> {
        let inode = get(&mut self.0.lock(), part.file)?.inode()?;
        let offset = part.offset;
        Ok(PartName {
            inode,
            offset,
            bytes,
        })
    }

    /// The part of a pool's file that has this name. `CUDA_ERROR_INVALID_VALUE`: it is none of the file's.
    pub(crate) fn find(&self, key: Key<SharedFile>, name: &PartName) -> Answer<Part> {
        if get(&mut self.0.lock(), key)?.inode()? != name.inode {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let (file, offset) = (key, name.offset);
        Ok(Part { file, offset })
    }

    /// Maps a part that another process holds. `CUDA_ERROR_INVALID_VALUE`: none does.
    pub(crate) fn open(&self, part: Part, bytes: u64) -> Answer<CUdeviceptr> {
        let mut files = self.0.lock();
        let file = get(&mut files, part.file)?;
        file.sweep()?;
        if !file.is_held_elsewhere((part.offset, bytes))? {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        file.hold(part.offset, bytes)
    }

    /// Lets go of a part that is mapped nowhere in this process any more.
    pub(crate) fn give_back(&self, part: Part, bytes: u64) -> Answer {
        let mut files = self.0.lock();
        let file = get(&mut files, part.file)?;
        file.leave((part.offset, bytes))?;
        drop(files);
        self.let_go(part.file);
        Ok(())
    }
}

fn get(files: &mut Table<SharedFile>, key: Key<SharedFile>) -> Answer<&mut SharedFile> {
    files.get_mut(key).ok_or(CUDA_ERROR_INVALID_VALUE)
}

impl SharedFile {
    fn new(file: File) -> Self {
        Self {
            file,
            end: 0,
            users: 1,
            left: Vec::new(),
        }
    }

    fn inode(&self) -> Answer<u64> {
        let metadata = self.file.metadata();
        metadata
            .map(|metadata| metadata.ino())
            .map_err(|_| CUDA_ERROR_OPERATING_SYSTEM)
    }

    /// Locks a part against its end, and maps it.
    fn hold(&mut self, offset: u64, bytes: u64) -> Answer<CUdeviceptr> {
        if !self.lock(libc::F_RDLCK, (offset, bytes))? {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let start = map_file(self.file.as_fd(), offset, bytes);
        match start {
            Ok(start) => {
                self.users = self.users.saturating_add(1);
                Ok(start)
            }
            Err(error) => {
                self.leave((offset, bytes))?;
                Err(error)
            }
        }
    }

    /// Lets go of a part. Its pages go with the last one who does.
    fn leave(&mut self, part: (u64, u64)) -> Answer {
        self.lock(libc::F_UNLCK, part)?;
        self.left.push(part);
        self.sweep()
    }

    /// Gives back the pages of what this process let go of and nobody holds any more.
    fn sweep(&mut self) -> Answer {
        for part in std::mem::take(&mut self.left) {
            if !self.lock(libc::F_WRLCK, part)? {
                self.left.push(part);
                continue;
            }
            self.punch(part)?;
            self.lock(libc::F_UNLCK, part)?;
        }
        Ok(())
    }

    /// Sets or drops the lock on a part; false: somebody's else is in the way.
    fn lock(&self, kind: libc::c_int, part: (u64, u64)) -> Answer<bool> {
        self.ask(libc::F_OFD_SETLK, kind, part)
            .map(|asked| asked.is_some())
    }

    /// Whether another open file description has a lock on a part.
    fn is_held_elsewhere(&self, part: (u64, u64)) -> Answer<bool> {
        let found = self.ask(libc::F_OFD_GETLK, libc::F_WRLCK, part)?;
        Ok(found.is_some_and(|found| libc::c_int::from(found.l_type) != libc::F_UNLCK))
    }

    /// Asks the kernel about locks; `None`: somebody's is in the way.
    fn ask(
        &self,
        what: libc::c_int,
        kind: libc::c_int,
        (offset, bytes): (u64, u64),
    ) -> Answer<Option<libc::flock>> {
        let long = |value: u64| i64::try_from(value).map_err(|_| CUDA_ERROR_INVALID_VALUE);
        let short = |value: libc::c_int| value.try_into().map_err(|_| CUDA_ERROR_INVALID_VALUE);
        let mut lock = libc::flock {
            l_type: short(kind)?,
            l_whence: short(libc::SEEK_SET)?,
            l_start: long(offset)?,
            l_len: long(bytes)?,
            l_pid: 0,
        };
        // SAFETY: the record lives as long as the call.
        let status = unsafe { libc::fcntl(self.file.as_raw_fd(), what, &raw mut lock) };
        let is_in_the_way =
            || std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock;
        match status {
            0 => Ok(Some(lock)),
            _ if is_in_the_way() => Ok(None),
            _ => Err(CUDA_ERROR_OPERATING_SYSTEM),
        }
    }

    fn punch(&self, (offset, bytes): (u64, u64)) -> Answer {
        let long = |value: u64| i64::try_from(value).map_err(|_| CUDA_ERROR_INVALID_VALUE);
        let flags = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: a call with numbers only.
        let status =
            unsafe { libc::fallocate(self.file.as_raw_fd(), flags, long(offset)?, long(bytes)?) };
        if status == 0 {
            Ok(())
        } else {
            Err(CUDA_ERROR_OPERATING_SYSTEM)
        }
    }
}
