//! The address book: every stretch of memory that the driver knows, by address.

use std::collections::BTreeMap;

use cuda_sys_stubs::abi::{
    CU_MEM_ACCESS_FLAGS_PROT_READWRITE, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_OUT_OF_MEMORY,
    CUdeviceptr, CUmemAccess_flags,
};
use gpu_sim::client::Effect;
use gpu_sim::command::{Block, BlockId};
use gpu_sim::profile::DEVICES_MAX;

use crate::context::Context;
use crate::door::Answer;
use crate::graph::memory::GraphAlloc;
use crate::location::{Home, Location};
use crate::pool::{Chunk, Part, Pool};
use crate::process::Device;
use crate::table::Key;
use crate::virtual_memory::Physical;
use crate::window::Window;

/// Whose memory a stretch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Memory of the device.
    Device(Block),
    /// Managed: the bytes lie in host memory; the block is what the device counts for it. None: it has its place on the host.
    Managed(Option<Block>),
    /// Memory of another process's, opened here so many times.
    Imported { block: Block, opens: u32 },
    /// Physical memory that the program mapped here; its bytes can be reached at `shadow`.
    Mapped {
        physical: Key<Physical>,
        shadow: u64,
        access: Access,
        /// Whether it is the host's.
        is_host: bool,
    },
    /// Memory of a graph's own; its bytes can be reached at `shadow` while it is backed.
    Graph {
        alloc: Key<GraphAlloc>,
        shadow: u64,
        home: Home,
    },
    /// Page-locked host memory that the driver allocated.
    HostAllocated { flags: u32 },
    /// Page-locked host memory of a pool, which has so many bytes here; of a shared pool, a part of its file.
    HostPooled { bytes: u64, part: Option<Part> },
    /// The program's own memory, page-locked.
    HostRegistered { flags: u32 },
}

/// Which devices may do what, and whether the host may: the flags of `cuMemSetAccess`, two bits a [`Location::index`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access(u64);

const _: () = assert!(
    2 * (DEVICES_MAX + 1) <= 64,
    "two bits for each device of a machine, and for the host"
);

impl Access {
    /// What one may.
    pub(crate) fn of(self, user: Location) -> CUmemAccess_flags {
        let bits = (self.0 >> (2 * user.index())) & u64::from(CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
        CUmemAccess_flags::try_from(bits).unwrap_or(0)
    }

    /// The same, but for one.
    pub(crate) fn with(self, user: Location, flags: CUmemAccess_flags) -> Self {
        let (at, mask) = (
            2 * user.index(),
            u64::from(CU_MEM_ACCESS_FLAGS_PROT_READWRITE),
        );
        Self(self.0 & !(mask << at) | (u64::from(flags) & mask) << at)
    }

    /// Whether any may do anything.
    fn is_any(self) -> bool {
        self.0 != 0
    }
}

/// A stretch of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: CUdeviceptr,
    pub(crate) bytes: u64,
    pub(crate) backing: Backing,
    /// `None`: it belongs to no context, and outlives them.
    pub(crate) context: Option<Key<Context>>,
    /// Ordinal of the device.
    pub(crate) device: usize,
    /// The pool it came from.
    pub(crate) pool: Option<Key<Pool>>,
    /// Unique for the life of the process.
    pub(crate) id: u64,
    /// A variable of a module: it can be looked at and copied, but not freed.
    pub(crate) is_global: bool,
}

impl Range {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }

    /// The block that the device counts for it.
    pub(crate) fn block(&self) -> Option<Block> {
        match self.backing {
            Backing::Device(block) | Backing::Imported { block, .. } => Some(block),
            Backing::Managed(block) => block,
            Backing::Mapped { .. }
            | Backing::Graph { .. }
            | Backing::HostAllocated { .. }
            | Backing::HostPooled { .. }
            | Backing::HostRegistered { .. } => None,
        }
    }

    /// What a pool has here.
    pub(crate) fn chunk(&self) -> Option<Chunk> {
        match self.backing {
            Backing::HostPooled { bytes, part } => Some(Chunk::Host {
                start: self.start,
                bytes,
                part,
            }),
            Backing::Managed(block) => Some(Chunk::Managed {
                start: self.start,
                bytes: self.bytes,
                block,
            }),
            _ => self.block().map(Chunk::Device),
        }
    }

    pub(crate) fn is_host(&self) -> bool {
        matches!(
            self.backing,
            Backing::HostAllocated { .. }
                | Backing::HostPooled { .. }
                | Backing::HostRegistered { .. }
                | Backing::Mapped { is_host: true, .. }
        ) || matches!(self.backing, Backing::Graph { home, .. } if home.is_host())
    }

    /// Whether host and device reach it alike.
    pub(crate) fn is_managed(&self) -> bool {
        matches!(
            self.backing,
            Backing::Managed(_)
                | Backing::Graph {
                    home: Home::Managed(_),
                    ..
                }
        )
    }
}

/// Where bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the memory of the device with this number at the machine, at this offset.
    Vram { device: u32, offset: u64 },
    /// In host memory.
    Host { address: u64, kind: HostKind },
}

impl Place {
    /// Whether the host can look at the bytes without asking the driver.
    pub(crate) fn is_seen_by_host(self) -> bool {
        let Self::Host { kind, .. } = self else {
            return false;
        };
        matches!(kind, HostKind::PageLocked | HostKind::Managed)
    }

    /// When `write`, which writes here, has to have run.
    pub(crate) fn written_by(self, write: Box<dyn FnOnce() + Send>) -> Effect {
        if self.is_seen_by_host() {
            Effect::HostVisible(write)
        } else {
            Effect::OnWait(write)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostKind {
    Pageable,
    PageLocked,
    /// Host memory that counts as the device's.
    Managed,
    /// The shadow of device memory that the program mapped.
    Mapped,
    /// The shadow of this allocation of a graph's: nothing is there unless it is backed.
    Graph {
        alloc: Key<GraphAlloc>,
        is_host: bool,
    },
}

/// All stretches, by where they start. They never overlap.
#[derive(Default)]
pub(crate) struct AddressBook {
    ranges: BTreeMap<CUdeviceptr, Range>,
    next_id: u64,
    /// Addresses of 32 bits, once there is a context that needs them.
    low: Option<Window>,
}

impl AddressBook {
    /// Writes a stretch down, and gives it its id.
    pub(crate) fn insert(&mut self, mut range: Range) {
        self.next_id = self.next_id.saturating_add(1);
        range.id = self.next_id;
        self.ranges.insert(range.start, range);
    }

    /// Makes sure that there are addresses of 32 bits.
    pub(crate) fn open_low(&mut self) -> Answer {
        if self.low.is_none() {
            self.low = Some(Window::reserve_low()?);
        }
        Ok(())
    }

    /// The first address of 32 bits from which on `bytes` belong to nobody. `CUDA_ERROR_OUT_OF_MEMORY`: there are not as many.
    pub(crate) fn low_gap(&self, bytes: u64, alignment: u64) -> Answer<CUdeviceptr> {
        let low = self.low.ok_or(CUDA_ERROR_OUT_OF_MEMORY)?;
        let aligned = |start: u64| start.next_multiple_of(alignment);
        let mut start = aligned(low.start());
        for range in self
            .ranges
            .range(low.start()..low.end())
            .map(|(_, range)| range)
        {
            if range.start.saturating_sub(start) >= bytes {
                break;
            }
            start = aligned(range.end());
        }
        if start.saturating_add(bytes) <= low.end() {
            Ok(start)
        } else {
            Err(CUDA_ERROR_OUT_OF_MEMORY)
        }
    }

    /// The stretch that has this byte.
    pub(crate) fn find(&self, address: CUdeviceptr) -> Option<&Range> {
        let (_, range) = self.ranges.range(..=address).next_back()?;
        (address < range.end()).then_some(range)
    }

    /// The stretch that a block of the device stands behind.
    pub(crate) fn find_block(&self, id: BlockId) -> Option<&Range> {
        let mut ranges = self.ranges.values();
        ranges.find(|range| range.block().is_some_and(|block| block.id == id))
    }

    /// Whether a stretch is this part of a shared pool's file.
    pub(crate) fn has_part(&self, part: Part) -> bool {
        let of_pools = |range: &Range| match range.backing {
            Backing::HostPooled { part, .. } => part,
            _ => None,
        };
        self.ranges
            .values()
            .any(|range| of_pools(range) == Some(part))
    }

    /// Writes down what changed of a stretch; its id stays.
    pub(crate) fn replace(&mut self, range: Range) {
        self.ranges.insert(range.start, range);
    }

    /// The stretch that has all these bytes.
    pub(crate) fn find_all(&self, address: CUdeviceptr, bytes: u64) -> Option<&Range> {
        self.find(address).filter(|range| {
            address
                .checked_add(bytes)
                .is_some_and(|end| end <= range.end())
        })
    }

    /// Whether any of these bytes belongs to a stretch.
    pub(crate) fn overlaps(&self, address: CUdeviceptr, bytes: u64) -> bool {
        let before = self
            .ranges
            .range(..address.saturating_add(bytes))
            .next_back();
        before.is_some_and(|(_, range)| range.end() > address)
    }

    /// Takes out the stretch that starts here, if `which` agrees.
    pub(crate) fn remove(
        &mut self,
        start: CUdeviceptr,
        which: impl FnOnce(&Range) -> bool,
    ) -> Option<Range> {
        self.ranges
            .get(&start)
            .is_some_and(which)
            .then(|| self.ranges.remove(&start))
            .flatten()
    }

    /// Takes out every stretch that `which` names.
    pub(crate) fn remove_all(&mut self, mut which: impl FnMut(&Range) -> bool) -> Vec<Range> {
        let removed = self.ranges.extract_if(.., |_, range| which(range));
        removed.map(|(_, range)| range).collect()
    }

    /// The managed stretch at `address` has its place on the host now. Gives the block that the device counted for it.
    pub(crate) fn leave_device(&mut self, address: CUdeviceptr) -> Option<Block> {
        let (_, range) = self.ranges.range_mut(..=address).next_back()?;
        match &mut range.backing {
            Backing::Managed(block) if range.pool.is_none() => block.take(),
            _ => None,
        }
    }

    /// Where `bytes` at `address` are. Memory that nobody wrote down is pageable host memory, unless the address is one
    /// of a device's. `CUDA_ERROR_INVALID_VALUE`: not all of them belong together.
    pub(crate) fn place(
        &self,
        devices: &[Device],
        address: CUdeviceptr,
        bytes: u64,
    ) -> Answer<Place> {
        let windows = devices.iter().map(|device| device.window);
        let mut windows = windows.chain(self.low);
        if self.find(address).is_none() && !windows.any(|window| window.contains(address)) {
            return if address == 0 {
                Err(CUDA_ERROR_INVALID_VALUE)
            } else {
                Ok(Place::Host {
                    address,
                    kind: HostKind::Pageable,
                })
            };
        }
        self.known_place(address, bytes)
    }

    /// As [`AddressBook::place`], for memory that a device reaches: `CUDA_ERROR_INVALID_VALUE` for the program's own.
    pub(crate) fn known_place(&self, address: CUdeviceptr, bytes: u64) -> Answer<Place> {
        let first = self.find(address).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        if let Backing::Mapped {
            shadow, is_host, ..
        } = first.backing
        {
            let kind = if is_host {
                HostKind::PageLocked
            } else {
                HostKind::Mapped
            };
            let at_shadow = shadow + (address - first.start);
            return self.mapped_place(address, bytes, (at_shadow, kind));
        }
        let range = self
            .find_all(address, bytes)
            .ok_or(CUDA_ERROR_INVALID_VALUE)?;
        Ok(match range.backing {
            Backing::Device(block) | Backing::Imported { block, .. } => Place::Vram {
                device: block.device,
                offset: block.offset.saturating_add(address - range.start),
            },
            Backing::Managed(_) => Place::Host {
                address,
                kind: HostKind::Managed,
            },
            Backing::Graph {
                alloc,
                shadow,
                home,
            } => Place::Host {
                address: shadow + (address - range.start),
                kind: HostKind::Graph {
                    alloc,
                    is_host: home.is_host(),
                },
            },
            Backing::HostAllocated { .. }
            | Backing::HostPooled { .. }
            | Backing::HostRegistered { .. } => Place::Host {
                address,
                kind: HostKind::PageLocked,
            },
            Backing::Mapped { .. } => return Err(CUDA_ERROR_INVALID_VALUE),
        })
    }

    /// As [`AddressBook::known_place`], over as many mappings as lie side by side and may be used. All of them count as what
    /// the first is.
    fn mapped_place(
        &self,
        address: CUdeviceptr,
        bytes: u64,
        (at_shadow, kind): (u64, HostKind),
    ) -> Answer<Place> {
        let end = address.checked_add(bytes).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let mut at = address;
        while at < end {
            let range = self.find(at).ok_or(CUDA_ERROR_INVALID_VALUE)?;
            match range.backing {
                Backing::Mapped { shadow, access, .. }
                    if access.is_any()
                        && shadow + (at - range.start) == at_shadow + (at - address) => {}
                _ => return Err(CUDA_ERROR_INVALID_VALUE),
            }
            at = range.end();
        }
        Ok(Place::Host {
            address: at_shadow,
            kind,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;

    fn range(start: u64, bytes: u64) -> Range {
        let context = Table::<Context>::default().reserve_for_test();
        let block = Block {
            id: BlockId(1),
            device: 0,
            offset: 512,
            bytes,
        };
        Range {
            start,
            bytes,
            backing: Backing::Device(block),
            context: Some(context),
            device: 0,
            pool: None,
            id: 0,
            is_global: false,
        }
    }

    #[test]
    fn an_address_inside_a_block_is_found_and_its_end_is_not() {
        let mut book = AddressBook::default();
        book.insert(range(0x1000, 0x100));
        assert_eq!(book.find(0x10ff).map(|range| range.start), Some(0x1000));
        assert!(book.find(0x1100).is_none() && book.find(0xfff).is_none());
    }

    #[test]
    fn access_is_kept_for_each_device_and_the_host_by_itself() {
        let [first, second, last] = [0, 1, DEVICES_MAX - 1].map(Location::Device);
        let access = Access::default().with(first, 3).with(last, 1);
        assert_eq!((access.of(first), access.of(second)), (3, 0));
        assert_eq!((access.of(last), access.of(Location::Host)), (1, 0));
        let access = access.with(first, 0).with(Location::HostNode, 3);
        assert_eq!((access.of(Location::Host), access.of(last)), (3, 1));
        let access = access.with(Location::Host, 0);
        assert!(access.is_any() && !access.with(last, 0).is_any());
    }

    #[test]
    fn bytes_that_run_over_the_end_are_refused() {
        let mut book = AddressBook::default();
        book.insert(range(0x1000, 0x100));
        assert_eq!(
            book.known_place(0x1080, 0x80),
            Ok(Place::Vram {
                device: 0,
                offset: 512 + 0x80
            })
        );
        assert_eq!(
            book.known_place(0x1080, 0x81),
            Err(CUDA_ERROR_INVALID_VALUE)
        );
    }

    #[test]
    fn overlap_is_seen_from_either_side() {
        let mut book = AddressBook::default();
        book.insert(range(0x1000, 0x100));
        assert!(book.overlaps(0xfff, 2) && book.overlaps(0x10ff, 1) && book.overlaps(0x1040, 1));
        assert!(!book.overlaps(0xf00, 0x100) && !book.overlaps(0x1100, 1));
    }
}
