//! How many blocks of a kernel fit on a multiprocessor at once.
//!
//! The arithmetic of NVIDIA's occupancy calculator (CUDA C++ Programming Guide, "Hardware Multithreading"): warps of 32
//! threads; registers given to a warp in units of 256; shared memory to a block in units of 128 bytes after the 1 KiB that
//! the system takes per block from compute capability 8.0 on.

use gpu_sim::profile::Profile;

const WARP_THREADS: u32 = 32;
const REGISTERS_UNIT: u32 = 256;
const SHARED_UNIT: u32 = 128;

/// Shared memory that the system takes of each block.
pub(crate) fn reserved_shared_bytes(profile: &Profile) -> u32 {
    if profile.compute_capability.0 >= 8 {
        1024
    } else {
        0
    }
}

/// Blocks resident on one multiprocessor; 0: not even one fits.
pub(crate) fn blocks_per_sm(
    profile: &Profile,
    block_threads: u32,
    registers: u32,
    shared_bytes: u32,
) -> u32 {
    let warps = block_threads.div_ceil(WARP_THREADS);
    if warps == 0 {
        return 0;
    }
    let by_threads = profile.threads_per_sm_max / WARP_THREADS / warps;
    let of_warp = registers
        .saturating_mul(WARP_THREADS)
        .next_multiple_of(REGISTERS_UNIT);
    let by_registers = profile
        .registers_per_sm
        .checked_div(of_warp.saturating_mul(warps))
        .unwrap_or(u32::MAX);
    let of_block = shared_bytes
        .saturating_add(reserved_shared_bytes(profile))
        .next_multiple_of(SHARED_UNIT);
    let by_shared = profile
        .shared_bytes_per_sm
        .checked_div(of_block)
        .unwrap_or(u32::MAX);
    by_threads
        .min(by_registers)
        .min(by_shared)
        .min(profile.blocks_per_sm_max)
}

/// Most dynamic shared memory of a block when `blocks` of them are to be resident; `None`: they cannot be.
pub(crate) fn dynamic_shared_bytes(
    profile: &Profile,
    blocks: u32,
    static_bytes: u32,
) -> Option<u32> {
    let each = profile.shared_bytes_per_sm.checked_div(blocks)? / SHARED_UNIT * SHARED_UNIT;
    each.checked_sub(static_bytes)?
        .checked_sub(reserved_shared_bytes(profile))
        .map(|bytes| bytes.min(profile.shared_bytes_per_block_max))
}

/// The block size of greatest occupancy, and the grid that fills the device with it. `dynamic_bytes` says what shared
/// memory a block of a size asks for. Of equally good sizes the largest is taken.
pub(crate) fn best_block(
    profile: &Profile,
    threads_max: u32,
    registers: u32,
    static_bytes: u32,
    dynamic_bytes: impl Fn(u32) -> u32,
) -> (u32, u32) {
    let sizes = (1..=threads_max / WARP_THREADS).map(|warps| warps * WARP_THREADS);
    let scored = sizes.map(|threads| {
        let blocks = blocks_per_sm(
            profile,
            threads,
            registers,
            static_bytes.saturating_add(dynamic_bytes(threads)),
        );
        (blocks.saturating_mul(threads), threads, blocks)
    });
    let (_, threads, blocks) = scored.max().unwrap_or((0, 0, 0));
    (blocks.saturating_mul(profile.sm_count), threads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpu_sim::profile::MachineProfile;

    fn t4() -> Profile {
        MachineProfile::load("t4").unwrap().devices.remove(0)
    }

    #[test]
    fn each_resource_can_be_the_one_that_runs_out() {
        assert_eq!(blocks_per_sm(&t4(), 256, 16, 0), 4);
        assert_eq!(blocks_per_sm(&t4(), 32, 16, 0), 16);
        assert_eq!(blocks_per_sm(&t4(), 256, 128, 0), 2);
        assert_eq!(blocks_per_sm(&t4(), 256, 16, 40 << 10), 1);
        assert_eq!(blocks_per_sm(&t4(), 1024, 128, 0), 0);
    }

    #[test]
    fn the_best_block_fills_the_multiprocessor() {
        assert_eq!(best_block(&t4(), 1024, 32, 0, |_| 0), (40, 1024));
        assert_eq!(
            best_block(&t4(), 1024, 32, 0, |threads| threads * 128),
            (40, 512)
        );
    }

    #[test]
    fn what_is_left_for_dynamic_shared_memory_shrinks_with_the_blocks() {
        assert_eq!(dynamic_shared_bytes(&t4(), 1, 1024), Some(64512));
        assert_eq!(dynamic_shared_bytes(&t4(), 4, 1024), Some(15360));
        assert_eq!(dynamic_shared_bytes(&t4(), 64, 2048), None);
    }
}
