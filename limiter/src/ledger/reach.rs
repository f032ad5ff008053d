//! How far a charge may take a container, and where its bytes lie.

use super::Bound;
use crate::shm::layout::MemoryRow;
use crate::sync::Ordering;

/// Where charged bytes lie. A whole word: records of blocks are copied by the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Residence {
    /// On the GPU.
    Device,
    /// On the host, as managed memory.
    Host,
}

/// How far a charge may take the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To its guarantee: nobody need be asked.
    Guaranteed,
    /// To so many bytes on the GPU, by who holds the board's lock; to its guarantee in any case.
    Lent(u64),
    /// To its quota, on the host.
    Spilled,
}

/// What is granted against.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// On the GPU.
    pub(super) device: u64,
    /// On the GPU and on the host together.
    pub(super) all: u64,
    /// What `device` is.
    pub(super) bound: Bound,
}

impl Reach {
    /// Where what is charged will lie.
    #[inline]
    pub(super) fn residence(self) -> Residence {
        match self {
            Self::Guaranteed | Self::Lent(_) => Residence::Device,
            Self::Spilled => Residence::Host,
        }
    }
}

impl MemoryRow {
    /// To be asked after the charge was announced: so a limit that is lowered holds for every charge that begins after it.
    #[inline]
    pub(super) fn room(&self, reach: Reach) -> Room {
        let soft = self.soft.get().unwrap_or(u64::MAX);
        let (device, bound) = match reach {
            Reach::Guaranteed => (soft, Bound::Guarantee),
            Reach::Lent(most) => (most.max(soft), Bound::Lendable),
            Reach::Spilled => (u64::MAX, Bound::Quota),
        };
        Room {
            device,
            all: self.wall(),
            bound,
        }
    }

    /// Whether so many bytes are more than the quota for a process that has `own`, whatever others have.
    #[inline]
    pub(super) fn is_over(&self, own: u64, asked: u64) -> bool {
        let bytes = own.checked_add(asked);
        bytes.is_none_or(|bytes| bytes > self.wall())
    }

    /// The quota, in bytes.
    #[inline]
    pub(super) fn wall(&self) -> u64 {
        self.max.get().unwrap_or(u64::MAX)
    }

    /// Whether any process of the container ever has: from then on all look at what lies on the host.
    #[inline]
    pub(super) fn has_spilled(&self) -> bool {
        self.has_spilled.load(Ordering::SeqCst) != 0
    }
}
