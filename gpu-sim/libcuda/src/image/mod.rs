//! What a module image says about its kernels and variables: PTX text, cubin (ELF) and fatbin.
//!
//! The simulated GPU runs no instruction. It needs to know of a kernel how large a block of it is (registers, shared
//! memory) and how long a thread of it would take (`instructions_per_thread`). Both are **estimates**, and
//! deterministic: the same image always gives the same figures.
//!
//! * PTX: registers from the greatest number of simultaneously live virtual registers, instructions from the text, loop
//!   bodies multiplied by their trip count ([`cost`] says how).
//! * cubin: registers and parameters as the assembler wrote them, instructions from the size of the machine code ([`elf`]).
//! * fatbin: the best member for the device ([`fatbin`]).
//!
//! Everything here is safe code over byte slices; how long an image is whose pointer a program passes is [`Format::extent`]'s
//! question.

pub(crate) mod bundle;
mod cost;
mod doom;
mod elf;
mod fatbin;
pub(crate) mod host;
mod lines;
mod ptx;

use cuda_sys_stubs::abi::{
    CUDA_ERROR_INVALID_IMAGE, CUDA_ERROR_INVALID_PTX, CUDA_ERROR_NO_BINARY_FOR_GPU, CUresult,
};

/// One parameter of a kernel: where it lies in the parameter block, and its size, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Param {
    pub(crate) offset: usize,
    pub(crate) size: usize,
}

/// What is known of one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelImage {
    pub(crate) name: String,
    pub(crate) params: Vec<Param>,
    /// Registers of one thread, 1–255.
    pub(crate) registers: u32,
    /// Statically allocated shared memory of one block.
    pub(crate) shared_bytes: u32,
    /// Local memory of one thread.
    pub(crate) local_bytes: u32,
    /// The most threads that a block may have; 0: whatever the device allows.
    pub(crate) max_threads: u32,
    /// Estimated instructions that one thread executes.
    pub(crate) instructions: u64,
    /// How every launch of it ends, if it cannot end well.
    pub(crate) fault: Option<Fault>,
}

/// What a kernel does that is an error whatever its arguments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It executes `trap`.
    Trap,
    /// It calls `__assertfail`, which is what a failed `assert` does.
    Assert,
}

/// A variable in global or constant memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GlobalImage {
    pub(crate) name: String,
    pub(crate) bytes: usize,
    /// Initial contents; the rest of the variable is zero.
    pub(crate) initial: Vec<u8>,
}

/// A whole module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) kernels: Vec<KernelImage>,
    pub(crate) globals: Vec<GlobalImage>,
    /// Bytes of device memory that the code takes.
    pub(crate) code_bytes: u64,
    /// Compute capability × 10 that the code was written or compiled for (75 for sm_75).
    pub(crate) target: u32,
    /// Version of the PTX that it was written in or compiled from, × 10; 0 when unknown.
    pub(crate) ptx_version: u32,
}

/// Why an image is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Neither PTX nor ELF nor fatbin, or cut short.
    Image,
    /// PTX that does not follow its grammar.
    Ptx,
    /// Nothing in it runs on this device.
    NoBinary,
}

impl Unreadable {
    /// The driver's own answer.
    pub(crate) fn status(self) -> CUresult {
        match self {
            Self::Image => CUDA_ERROR_INVALID_IMAGE,
            Self::Ptx => CUDA_ERROR_INVALID_PTX,
            Self::NoBinary => CUDA_ERROR_NO_BINARY_FOR_GPU,
        }
    }
}

/// Reads an image for a device of `capability` (compute capability × 10).
pub(crate) fn read(bytes: &[u8], capability: u32) -> Result<Image, Unreadable> {
    match Format::of(bytes) {
        Some(Format::Elf) => elf::read(bytes, capability),
        Some(Format::Fatbin) => fatbin::read(bytes, capability),
        Some(Format::Bundle) => bundle::read(bytes, capability),
        None => ptx::read(bytes, capability),
    }
}

/// Formats that carry their own length. Anything else is taken for NUL-terminated PTX.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Elf,
    Fatbin,
    /// What the linker here gives.
    Bundle,
}

impl Format {
    /// The format that starts with `magic` (at least four bytes).
    pub(crate) fn of(magic: &[u8]) -> Option<Self> {
        if magic.starts_with(elf::MAGIC) {
            return Some(Self::Elf);
        }
        if magic.starts_with(bundle::MAGIC) {
            return Some(Self::Bundle);
        }
        magic
            .starts_with(&fatbin::MAGIC.to_le_bytes())
            .then_some(Self::Fatbin)
    }

    /// Bytes of the header that [`Format::extent`] needs.
    pub(crate) fn header_bytes(self) -> usize {
        match self {
            Self::Elf => elf::HEADER_BYTES,
            Self::Fatbin => fatbin::HEADER_BYTES,
            Self::Bundle => bundle::HEADER_BYTES,
        }
    }

    /// Bytes up to and including the table that says how long the whole image is, from its header.
    pub(crate) fn table_bytes(self, header: &[u8]) -> Option<usize> {
        match self {
            Self::Elf => elf::table_end(header),
            Self::Fatbin => fatbin::extent(header),
            Self::Bundle => bundle::extent(header),
        }
    }

    /// Length of the whole image, from what [`Format::table_bytes`] covers.
    pub(crate) fn extent(self, table: &[u8]) -> Option<usize> {
        match self {
            Self::Elf => elf::extent(table),
            Self::Fatbin => fatbin::extent(table),
            Self::Bundle => bundle::extent(table),
        }
    }
}

/// Little-endian reads that never leave the slice.
pub(crate) trait Bytes {
    fn u16_at(&self, offset: usize) -> Option<u16>;
    fn u32_at(&self, offset: usize) -> Option<u32>;
    fn u64_at(&self, offset: usize) -> Option<u64>;
    fn size_at(&self, offset: usize) -> Option<usize>;
    fn part(&self, offset: usize, bytes: usize) -> Option<&[u8]>;
}

impl Bytes for [u8] {
    fn u16_at(&self, offset: usize) -> Option<u16> {
        self.get(offset..)?
            .first_chunk()
            .copied()
            .map(u16::from_le_bytes)
    }
    fn u32_at(&self, offset: usize) -> Option<u32> {
        self.get(offset..)?
            .first_chunk()
            .copied()
            .map(u32::from_le_bytes)
    }
    fn u64_at(&self, offset: usize) -> Option<u64> {
        self.get(offset..)?
            .first_chunk()
            .copied()
            .map(u64::from_le_bytes)
    }
    fn size_at(&self, offset: usize) -> Option<usize> {
        self.u64_at(offset)?.try_into().ok()
    }
    fn part(&self, offset: usize, bytes: usize) -> Option<&[u8]> {
        self.get(offset..offset.checked_add(bytes)?)
    }
}
