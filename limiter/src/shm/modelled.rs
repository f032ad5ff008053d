//! What the kernel does for `mapping`, as a model that loom can run: a file is memory under a path, a process is a number, and each
//! thread is of the process that it says it is.
//!
//! Left out: that a file is of this layout, that there is room for it, and that a program may close it.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::layout::ENTRIES_MAX;
use super::{AttachError, Shared};
use crate::sync::{AtomicU32, Ordering, yield_now};
use crate::units::MonotonicNs;

loom::thread_local! {
    static PROCESS: Cell<u32> = Cell::new(0);
}

loom::lazy_static! {
    /// The files of one execution. Never held across anything that loom would interrupt.
    static ref FILES: Mutex<HashMap<PathBuf, Arc<dyn Any + Send + Sync>>> = Mutex::default();
    /// The files that have no name any more.
    static ref REMOVED: Mutex<Vec<Arc<dyn Any + Send + Sync>>> = Mutex::default();
    /// The kernel's lock of a folder: who finds a file in it sees what its maker did before.
    static ref FOLDER: loom::sync::Mutex<()> = loom::sync::Mutex::new(());
}

fn in_folder<R>(work: impl FnOnce(&mut HashMap<PathBuf, Arc<dyn Any + Send + Sync>>) -> R) -> R {
    let _folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    work(&mut FILES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Numbers of processes that no machine has: nobody finds them in `/proc`.
#[cfg(test)]
const FIRST_PROCESS: u32 = 1 << 30;

/// From here on this thread is one of process `number`, which holds no locks.
#[cfg(test)]
pub(crate) fn become_process(number: u32) {
    PROCESS.with(|process| process.set(FIRST_PROCESS + number));
}

/// The process of this thread.
pub(crate) fn process_id() -> u32 {
    PROCESS.with(Cell::get)
}

/// A file: its content, and who has which lock on it.
struct Inode<T> {
    content: T,
    exclusive: loom::sync::Mutex<()>,
    /// By entry: the process that has its lock; 0: nobody.
    holders: [AtomicU32; ENTRIES_MAX],
}

/// A shared file, as this process has it.
pub(crate) struct Mapping<T: Shared> {
    inode: Arc<Inode<T>>,
    path: PathBuf,
}

/// The exclusive lock of a file, until dropped.
pub(crate) struct Exclusive<'a, T: Shared> {
    _guard: loom::sync::MutexGuard<'a, ()>,
    content: PhantomData<T>,
}

impl<T: Shared> std::fmt::Debug for Mapping<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.fmt(formatter)
    }
}

impl<T: Shared> Deref for Mapping<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inode.content
    }
}

impl<T: Shared> Mapping<T> {
    pub(crate) fn open<R>(
        path: &Path,
        work: impl FnOnce(&Self, &Exclusive<'_, T>) -> Result<R, AttachError>,
    ) -> Result<(Self, R), AttachError> {
        loop {
            let mapping = Self::at(path)?;
            let locked = mapping.exclusive();
            let exclusive = locked.map_err(|source| mapping.error("lock", source))?;
            if mapping.has_name() {
                let done = work(&mapping, &exclusive)?;
                drop(exclusive);
                return Ok((mapping, done));
            }
        }
    }

    fn has_name(&self) -> bool {
        in_folder(|files| {
            let named = files.get(&self.path).map(Arc::as_ptr);
            named.is_some_and(|named| std::ptr::addr_eq(named, Arc::as_ptr(&self.inode)))
        })
    }

    pub(crate) fn remove(&self, _: &Exclusive<'_, T>) -> Result<(), AttachError> {
        let removed = in_folder(|files| files.remove(&self.path));
        let mut all = REMOVED.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(removed);
        Ok(())
    }

    fn at(path: &Path) -> Result<Self, AttachError> {
        let inode = in_folder(|files| {
            let found = files.entry(path.to_owned()).or_insert_with(|| {
                Arc::new(Inode {
                    content: T::empty(),
                    exclusive: loom::sync::Mutex::new(()),
                    holders: Default::default(),
                })
            });
            Arc::clone(found)
        });
        match inode.downcast() {
            Ok(inode) => Ok(Self {
                inode,
                path: path.to_owned(),
            }),
            Err(_) => Err(AttachError::Layout {
                path: path.to_owned(),
                what: "is another kind of file".to_owned(),
            }),
        }
    }

    pub(crate) fn open_existing<R>(
        path: &Path,
        work: impl FnOnce(&Self, &Exclusive<'_, T>) -> Result<R, AttachError>,
    ) -> Result<Option<(Self, R)>, AttachError> {
        if !in_folder(|files| files.contains_key(path)) {
            return Ok(None);
        }
        let mapping = Self::at(path)?;
        let locked = mapping.exclusive();
        let exclusive = locked.map_err(|source| mapping.error("lock", source))?;
        if !mapping.has_name() {
            return Ok(None);
        }
        let done = work(&mapping, &exclusive)?;
        drop(exclusive);
        Ok(Some((mapping, done)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn error(&self, action: &'static str, source: io::Error) -> AttachError {
        AttachError::Io {
            path: self.path.clone(),
            action,
            source,
        }
    }

    pub(crate) fn inode(&self) -> u64 {
        0
    }

    pub(crate) fn reserve(&self, _offset: usize, _length: usize) -> Result<(), AttachError> {
        Ok(())
    }

    pub(crate) fn exclusive(&self) -> io::Result<Exclusive<'_, T>> {
        Ok(Exclusive {
            _guard: self
                .inode
                .exclusive
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
            content: PhantomData,
        })
    }

    pub(crate) fn exclusive_beside<'a, B: Shared>(
        &'a self,
        _first: &'a Exclusive<'_, B>,
    ) -> io::Result<Exclusive<'a, T>> {
        self.exclusive()
    }

    pub(crate) fn lock_entry(&self, index: usize) -> io::Result<()> {
        self.holder(index)?.store(process_id(), Ordering::SeqCst);
        Ok(())
    }

    pub(crate) fn unlock_entry(&self, index: usize) -> io::Result<()> {
        self.holder(index)?.store(0, Ordering::SeqCst);
        Ok(())
    }

    pub(crate) fn is_entry_locked_elsewhere(&self, index: usize) -> io::Result<bool> {
        let holder = self.holder(index)?.load(Ordering::SeqCst);
        Ok(holder != 0 && holder != process_id())
    }

    /// This process dies: the kernel drops its locks.
    #[cfg(test)]
    pub(crate) fn die(&self) {
        for holder in &self.inode.holders {
            if holder.load(Ordering::SeqCst) == process_id() {
                holder.store(0, Ordering::SeqCst);
            }
        }
    }

    fn holder(&self, index: usize) -> io::Result<&AtomicU32> {
        let holder = self.inode.holders.get(index);
        holder.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }
}

/// What a reader sees of a file: the file itself.
pub(crate) struct Snapshot<T: Shared>(Mapping<T>);

impl<T: Shared> Deref for Snapshot<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Shared> Snapshot<T> {
    pub(crate) fn read(path: &Path) -> Result<Self, AttachError> {
        Mapping::at(path).map(Self)
    }

    pub(crate) fn inode(&self) -> u64 {
        0
    }

    pub(crate) fn read_entries(&mut self, _length: usize) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn is_entry_locked(&self, index: usize) -> io::Result<bool> {
        self.0.is_entry_locked_elsewhere(index)
    }
}

/// Who waits looks again.
pub(crate) fn futex_wait(_word: &AtomicU32, _expected: u32, _deadline: MonotonicNs) {
    yield_now();
}

pub(crate) fn futex_wake_all(_word: &AtomicU32) {}
