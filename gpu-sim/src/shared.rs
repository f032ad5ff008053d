//! Memory shared between a process and the device: semaphores and the completion log.
#![expect(
    unsafe_code,
    reason = "maps descriptors and lends their contents as atomics; the only file that does"
)]

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::futex;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use std::time::Duration;

/// Semaphores of one process.
pub const SEMAPHORES_MAX: u32 = 1 << 16;

/// Semaphores of the machine.
pub const SHARED_SEMAPHORES_MAX: u32 = 1 << 14;

/// Tokens that the completion log holds.
pub const LOG_CAPACITY: usize = 1 << 14;

/// A payload that only grows, with the time of its last growth. The device writes, the process waits.
#[repr(C, align(64))]
pub struct Semaphore {
    payload: AtomicU64,
    timestamp_ns: AtomicU64,
    /// Odd while the device writes the two above.
    version: AtomicU32,
    futex: AtomicU32,
    /// Lowest payload that somebody sleeps for; 0 = nobody sleeps.
    wanted: AtomicU64,
}

/// A semaphore's state, read in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The payload.
    pub payload: u64,
    /// When it was reached, CLOCK_MONOTONIC in ns.
    pub timestamp_ns: u64,
}

impl Semaphore {
    /// Reads payload and time in one piece.
    pub fn read(&self) -> Stamp {
        loop {
            let before = self.version.load(Acquire);
            let stamp = Stamp {
                payload: self.payload.load(SeqCst),
                timestamp_ns: self.timestamp_ns.load(Acquire),
            };
            if before.is_multiple_of(2) && self.version.load(Acquire) == before {
                return stamp;
            }
            std::hint::spin_loop();
        }
    }

    /// Raises the payload and wakes who waits for it. For the device alone: there is one writer.
    pub fn raise(&self, payload: u64, timestamp_ns: u64) {
        if payload <= self.payload.load(Relaxed) {
            return;
        }
        self.version.fetch_add(1, SeqCst);
        self.timestamp_ns.store(timestamp_ns, SeqCst);
        self.payload.store(payload, SeqCst);
        self.version.fetch_add(1, SeqCst);
        let mut wanted = self.wanted.load(SeqCst);
        while wanted != 0 && wanted <= payload {
            match self.wanted.compare_exchange(wanted, 0, SeqCst, SeqCst) {
                Ok(_) => return wake(&self.futex),
                Err(now) => wanted = now,
            }
        }
    }

    /// Sleeps until the payload is reached or the time is over, whichever comes first.
    pub fn sleep(&self, payload: u64, timeout: Duration) {
        let before = self.futex.load(SeqCst);
        let lower = |now: u64| (now == 0 || now > payload).then_some(payload);
        // An error says that somebody already sleeps for less, which will wake us too.
        let _ = self.wanted.fetch_update(SeqCst, SeqCst, lower);
        if self.payload.load(SeqCst) < payload {
            wait(&self.futex, before, timeout);
        }
    }
}

fn wake(word: &AtomicU32) {
    word.fetch_add(1, SeqCst);
    // Nothing can be wrong but the address, which is mapped.
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
}

fn wait(word: &AtomicU32, before: u32, timeout: Duration) {
    let timeout = futex::Timespec {
        tv_sec: timeout.as_secs() as i64,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // Whatever ends the sleep – a wake, a change, a signal, the timeout – the caller looks again.
    let _ = futex::wait(word, futex::Flags::empty(), before, Some(&timeout));
}

/// One process's shared memory.
#[repr(C)]
pub struct Shared {
    head: AtomicU64,
    tail: AtomicU64,
    bell: AtomicU32,
    listeners: AtomicU32,
    log: [AtomicU64; LOG_CAPACITY],
    semaphores: [Semaphore; SEMAPHORES_MAX as usize],
}

/// A semaphore of the machine, with what its users have to agree on.
#[repr(C, align(128))]
pub struct SharedSemaphore {
    pub(crate) semaphore: Semaphore,
    /// Highest payload that any process gave out.
    pub(crate) reserved: AtomicU64,
    /// What `reserved` was when the semaphore was last given out.
    pub(crate) base: AtomicU64,
}

/// The machine's shared memory: the same for all processes.
#[repr(C)]
pub struct Commons {
    semaphores: [SharedSemaphore; SHARED_SEMAPHORES_MAX as usize],
}

impl Commons {
    /// A semaphore; `None` beyond [`SHARED_SEMAPHORES_MAX`].
    pub fn semaphore(&self, index: u32) -> Option<&SharedSemaphore> {
        self.semaphores.get(index as usize)
    }
}

impl std::ops::Index<u32> for Commons {
    type Output = SharedSemaphore;

    fn index(&self, index: u32) -> &SharedSemaphore {
        &self.semaphores[index as usize]
    }
}

/// The state of a process's bell, as somebody saw it.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(u32);

/// The log holds as many tokens as it can; the process submitted more than it may.
#[derive(Debug, thiserror::Error)]
#[error("completion log full")]
pub struct LogFull;

impl Shared {
    /// All semaphores.
    pub fn semaphores(&self) -> &[Semaphore; SEMAPHORES_MAX as usize] {
        &self.semaphores
    }

    /// A semaphore; `None` beyond [`SEMAPHORES_MAX`].
    pub fn semaphore(&self, index: u32) -> Option<&Semaphore> {
        self.semaphores.get(index as usize)
    }

    /// Appends a token to the log and rings. For the device alone.
    pub fn push(&self, token: u64) -> Result<(), LogFull> {
        let head = self.head.load(Relaxed);
        if head.wrapping_sub(self.tail.load(Acquire)) >= LOG_CAPACITY as u64 {
            return Err(LogFull);
        }
        self.log[head as usize % LOG_CAPACITY].store(token, Relaxed);
        self.head.store(head.wrapping_add(1), SeqCst);
        if self.listeners.swap(0, SeqCst) != 0 {
            wake(&self.bell);
        }
        Ok(())
    }

    /// Oldest token that was not taken.
    pub fn peek(&self) -> Option<u64> {
        let tail = self.tail.load(Relaxed);
        (tail != self.head.load(SeqCst))
            .then(|| self.log[tail as usize % LOG_CAPACITY].load(Relaxed))
    }

    /// Takes the token that [`Shared::peek`] showed. For the holder of the drain lock alone.
    pub fn pop(&self) {
        self.tail
            .store(self.tail.load(Relaxed).wrapping_add(1), Release);
    }

    /// Whether every token was taken.
    pub fn is_drained(&self) -> bool {
        self.tail.load(SeqCst) == self.head.load(SeqCst)
    }

    /// To be taken before looking whether there is anything to do, and given to [`Shared::listen`].
    pub fn ticket(&self) -> Ticket {
        Ticket(self.bell.load(SeqCst))
    }

    /// Sleeps until a token is appended, the bell rings or the time is over; returns at once if there is a
    /// token or the bell rang since the ticket was taken.
    pub fn listen(&self, ticket: Ticket, timeout: Duration) {
        self.listeners.store(1, SeqCst);
        if self.is_drained() {
            wait(&self.bell, ticket.0, timeout);
        }
    }

    /// Wakes whoever listens, without a token.
    pub fn ring(&self) {
        wake(&self.bell);
    }
}

/// A descriptor's bytes, mapped for as long as this lives.
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory without thread affinity; `start` never changes.
unsafe impl Send for Mapping {}
// SAFETY: as above; bytes are only lent as atomics or as raw pointers.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `bytes` of a descriptor, shared, to read and write.
    pub fn new(descriptor: impl AsFd, bytes: usize) -> Result<Self, Errno> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                flags,
                descriptor,
                0,
            )?
        };
        NonNull::new(start.cast())
            .map(|start| Self { start, bytes })
            .ok_or(Errno::NOMEM)
    }

    /// Where `bytes` at `offset` lie; `None` unless the mapping has them all.
    pub fn range(&self, offset: u64, bytes: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(bytes)?;
        if end > self.bytes as u64 {
            return None;
        }
        // SAFETY: `offset` ≤ `bytes`, so the result lies in, or one past, the mapping.
        Some(unsafe { self.start.add(offset as usize) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `range` lends raw pointers and documents that they die with the mapping;
        // `SharedMapping` lends references bound to its own life. An error leaves it mapped.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Memory of a type that can be shared between processes, mapped.
pub struct Mapped<T>(Mapping, PhantomData<T>);

/// A process's [`Shared`].
pub type SharedMapping = Mapped<Shared>;

/// The machine's [`Commons`].
pub type CommonsMapping = Mapped<Commons>;

/// What may lie in a [`Mapped`].
///
/// # Safety
/// Atomics alone, for which every bit pattern is a value; no stricter alignment than a page's.
pub unsafe trait Atomics: Sync {}

// SAFETY: atomics and arrays of them.
unsafe impl Atomics for Shared {}
// SAFETY: as above.
unsafe impl Atomics for Commons {}

impl<T: Atomics> Mapped<T> {
    /// Size of the file behind it, in bytes.
    pub const BYTES: usize = size_of::<T>();

    /// Maps a descriptor made by [`memory_file`] with [`Mapped::BYTES`].
    pub fn new(descriptor: impl AsFd) -> Result<Self, Errno> {
        let mapping = Mapping::new(descriptor, Self::BYTES)?;
        Ok(Self(mapping, PhantomData))
    }
}

impl<T: Atomics> std::ops::Deref for Mapped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping is `BYTES` long and page-aligned; every bit pattern is a value of `T` (`Atomics`); the file is
        // sealed against shrinking (ours).
        unsafe { self.0.start.cast::<T>().as_ref() }
    }
}

/// A sparse, anonymous file of this size that can be neither shrunk nor grown.
pub fn memory_file(name: &str, bytes: u64) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}
