//! Addresses for memory that no address of this process reaches.
//!
//! A device pointer is a number out of a stretch of address space that is reserved and never mapped: it cannot be
//! the address of anything else, and a program that follows it on the host faults, as on hardware.
#![expect(
    unsafe_code,
    reason = "reserves address space with mmap, and maps host memory for the driver's host allocators"
)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use cuda_sys_stubs::abi::{
    CU_MEM_ACCESS_FLAGS_PROT_READ, CU_MEM_ACCESS_FLAGS_PROT_READWRITE, CUDA_ERROR_INVALID_VALUE,
    CUDA_ERROR_MAP_FAILED, CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_UNMAP_FAILED, CUdeviceptr,
    CUmemAccess_flags,
};

use crate::door::Answer;

/// Alignment of a device's first byte: a large page of the GPU.
const ALIGNMENT: u64 = 2 << 20;

/// The addresses of one device's memory: `start` is that of its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    start: CUdeviceptr,
    bytes: u64,
}

impl Window {
    /// Reserves addresses for a device of `bytes`. They stay reserved for the life of the process.
    pub(crate) fn reserve(bytes: u64) -> Answer<Self> {
        let start = reserve(bytes, ALIGNMENT)?;
        Ok(Self { start, bytes })
    }

    /// The address of the byte at `offset` of the device's memory.
    pub(crate) fn address(self, offset: u64) -> CUdeviceptr {
        self.start.wrapping_add(offset)
    }

    /// Whether this is the address of a byte of the device's memory, allocated or not.
    pub(crate) fn contains(self, address: CUdeviceptr) -> bool {
        address
            .checked_sub(self.start)
            .is_some_and(|offset| offset < self.bytes)
    }
}

/// Maps zeroed host memory of whole pages; gives its address.
pub(crate) fn map_host(bytes: usize) -> Answer<usize> {
    map(bytes, libc::PROT_READ | libc::PROT_WRITE)
}

/// Gives back what [`map_host`] gave. Nobody may touch it any more.
pub(crate) fn unmap_host(address: usize, bytes: usize) {
    // SAFETY: the address book keeps each mapping of `map_host` once, with its size, and lets it go before this call (ours).
    let status = unsafe { libc::munmap(std::ptr::without_provenance_mut(address), bytes) };
    debug_assert_eq!(status, 0, "the book named a mapping that is none");
}

/// Reserves addresses for `bytes`, from a multiple of `alignment` on. They stay reserved for the life of the process.
pub(crate) fn reserve(bytes: u64, alignment: u64) -> Answer<u64> {
    let padded = bytes
        .checked_add(alignment)
        .and_then(|bytes| usize::try_from(bytes).ok());
    let start = map(padded.ok_or(CUDA_ERROR_OUT_OF_MEMORY)?, libc::PROT_NONE)?;
    let start = u64::try_from(start).map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?;
    start
        .checked_next_multiple_of(alignment)
        .ok_or(CUDA_ERROR_OUT_OF_MEMORY)
}

/// Makes pages of a device's memory reachable at reserved addresses as well.
pub(crate) fn duplicate(pages: NonNull<u8>, at: u64, bytes: u64) -> Answer {
    let (to, length) = target(at, bytes)?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: an old size of 0 makes a second mapping of shared pages and leaves the first (mremap(2)); the target lies in a
    // reservation of ours, which nothing else uses.
    let mapped = unsafe { libc::mremap(pages.as_ptr().cast(), 0, length, flags, to) };
    if mapped == libc::MAP_FAILED {
        Err(CUDA_ERROR_MAP_FAILED)
    } else {
        Ok(())
    }
}

/// An empty file without a path, which goes with its last descriptor and mapping.
pub(crate) fn anonymous_file(name: &CStr) -> Answer<OwnedFd> {
    // SAFETY: the name is a C string.
    let descriptor = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(CUDA_ERROR_OUT_OF_MEMORY);
    }
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Makes a file's first bytes reachable at reserved addresses, as far as `flags` allow.
pub(crate) fn share(file: BorrowedFd, at: u64, bytes: u64, flags: CUmemAccess_flags) -> Answer {
    let protection = match flags {
        CU_MEM_ACCESS_FLAGS_PROT_READWRITE => libc::PROT_READ | libc::PROT_WRITE,
        CU_MEM_ACCESS_FLAGS_PROT_READ => libc::PROT_READ,
        _ => return hide(at, bytes),
    };
    let (to, length) = target(at, bytes)?;
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    // SAFETY: the target lies in a reservation of ours, which nothing else uses.
    let mapped = unsafe { libc::mmap(to, length, protection, flags, file.as_raw_fd(), 0) };
    if mapped == libc::MAP_FAILED {
        Err(CUDA_ERROR_MAP_FAILED)
    } else {
        Ok(())
    }
}

/// Takes pages away from reserved addresses, which stay reserved.
pub(crate) fn hide(at: u64, bytes: u64) -> Answer {
    let (to, length) = target(at, bytes)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: replaces a mapping of `duplicate` or `share`, which no pending work uses any more (ours).
    let hidden = unsafe { libc::mmap(to, length, libc::PROT_NONE, flags, -1, 0) };
    if hidden == libc::MAP_FAILED {
        Err(CUDA_ERROR_UNMAP_FAILED)
    } else {
        Ok(())
    }
}

fn target(at: u64, bytes: u64) -> Answer<(*mut libc::c_void, usize)> {
    let address = usize::try_from(at).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    let length = usize::try_from(bytes).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    Ok((std::ptr::with_exposed_provenance_mut(address), length))
}

fn map(bytes: usize, protection: i32) -> Answer<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        Err(CUDA_ERROR_OUT_OF_MEMORY)
    } else {
        Ok(start.expose_provenance())
    }
}
