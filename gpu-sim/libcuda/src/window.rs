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

/// Pages of nobody else's, which take nothing until they are written.
const RESERVED: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

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

    /// Reserves addresses that 32 bits can tell: all but those where programs that are not position-independent lie with their heap,
    /// or as many of them as nobody else has. `CUDA_ERROR_OUT_OF_MEMORY`: somebody has some of each.
    pub(crate) fn reserve_low() -> Answer<Self> {
        let mut starts = (1..4).map(|gib: u64| gib << 30);
        starts
            .find_map(|start| {
                let bytes = LOW_END - start;
                let found = reserve_at(start, bytes).ok()?;
                (found == start).then_some(Self { start, bytes })
            })
            .ok_or(CUDA_ERROR_OUT_OF_MEMORY)
    }

    /// The first address.
    pub(crate) fn start(self) -> CUdeviceptr {
        self.start
    }

    /// The first address behind the last.
    pub(crate) fn end(self) -> CUdeviceptr {
        self.start.saturating_add(self.bytes)
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

/// Addresses from here on have more than 32 bits.
pub(crate) const LOW_END: u64 = 1 << 32;

/// Reserves these addresses, if nobody else has any of them; older kernels may give others instead.
fn reserve_at(start: u64, bytes: u64) -> Answer<u64> {
    let (at, length) = target(start, bytes)?;
    let flags = RESERVED | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: a new mapping, which replaces none.
    let got = unsafe { libc::mmap(at, length, libc::PROT_NONE, flags, -1, 0) };
    if got == libc::MAP_FAILED {
        return Err(CUDA_ERROR_OUT_OF_MEMORY);
    }
    let found = u64::try_from(got.expose_provenance()).map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?;
    if found != start {
        unmap_host(got.addr(), length);
    }
    Ok(found)
}

/// Makes whole pages of zeroed host memory of reserved addresses.
pub(crate) fn map_host_at(at: u64, bytes: usize) -> Answer {
    let (to, length) = target(at, u64::try_from(bytes).unwrap_or(u64::MAX))?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the target lies in a reservation of ours, which nothing else uses.
    let mapped = unsafe { libc::mmap(to, length, protection, RESERVED | libc::MAP_FIXED, -1, 0) };
    if mapped == libc::MAP_FAILED {
        Err(CUDA_ERROR_OUT_OF_MEMORY)
    } else {
        Ok(())
    }
}

/// Maps zeroed host memory of whole pages; gives its address.
pub(crate) fn map_host(bytes: usize) -> Answer<usize> {
    map(bytes, libc::PROT_READ | libc::PROT_WRITE)
}

/// Gives back what [`map_host`] or [`map_file`] gave. Nobody may touch it any more.
pub(crate) fn unmap_host(address: usize, bytes: usize) {
    // SAFETY: the address book keeps each mapping of `map_host` and `map_file` once, with its size, and lets it go before this call (ours).
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

/// What [`anonymous_file`] called the file behind a descriptor; `None`: it is no such file.
pub(crate) fn anonymous_name(descriptor: BorrowedFd) -> Answer<Option<String>> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let target = std::fs::read_link(path).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    let name = target
        .to_str()
        .and_then(|path| path.strip_prefix("/memfd:"));
    Ok(name.map(|name| name.trim_end_matches(" (deleted)").to_owned()))
}

/// Maps whole pages of a file; gives their address.
pub(crate) fn map_file(file: BorrowedFd, offset: u64, bytes: u64) -> Answer<u64> {
    let length = usize::try_from(bytes).map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?;
    let offset = libc::off_t::try_from(offset).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let descriptor = file.as_raw_fd();
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            protection,
            flags,
            descriptor,
            offset,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(CUDA_ERROR_OUT_OF_MEMORY);
    }
    u64::try_from(start.expose_provenance()).map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)
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
    let flags = RESERVED | libc::MAP_FIXED;
    // SAFETY: replaces a mapping of `duplicate`, `share` or `map_host_at`, which no pending work uses any more (ours).
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
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, RESERVED, -1, 0) };
    if start == libc::MAP_FAILED {
        Err(CUDA_ERROR_OUT_OF_MEMORY)
    } else {
        Ok(start.expose_provenance())
    }
}
