//! Limits of a context (`cuCtxSetLimit`), and the device memory that they take.
//!
//! What the limits take that a context starts with is part of its `context_bytes`, and never comes back before the context ends.

use cuda_sys_stubs::abi::*;
use gpu_sim::command::{AllocKind, Block};
use gpu_sim::profile::Profile;

use crate::context;
use crate::door::Answer;
use crate::pool;
use crate::process::{Process, State, refused};

/// Limits as the driver starts with them, by `CUlimit`: stack 1 KiB, printf FIFO 1 MiB, malloc heap 8 MiB, two levels of
/// device-side synchronisation, 2048 pending launches, 64 B fetches (CUDA Driver API, `cuCtxSetLimit`).
const DEFAULTS: [usize; 7] = [1024, 1 << 20, 8 << 20, 2, 2048, 64, 0];

/// Local memory that a thread can have (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
const STACK_BYTES_MAX: usize = 512 << 10;

/// Memory for limits comes in pages of the device.
const PAGE_BYTES: u64 = 2 << 20;

/// The limits of one context, in the units of `CUlimit`.
pub(crate) struct Limits {
    values: [usize; DEFAULTS.len()],
    /// What a limit takes beyond its default.
    blocks: [Option<Block>; DEFAULTS.len()],
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            values: DEFAULTS,
            blocks: [None; DEFAULTS.len()],
        }
    }
}

/// `cuCtxGetLimit` of the calling thread's context.
pub(crate) fn get(process: &Process, limit: CUlimit) -> Answer<usize> {
    let state = process.lock();
    let limits = &context::get(&state, context::owner(&state)?)?.limits;
    let value = limits.values.get(index(limit)?);
    value.copied().ok_or(CUDA_ERROR_UNSUPPORTED_LIMIT)
}

/// `cuCtxSetLimit` of the calling thread's context. `CUDA_ERROR_OUT_OF_MEMORY`: what it takes does not fit beside what it took
/// before, which goes back only then; the limit stays as it was.
pub(crate) fn set(process: &Process, limit: CUlimit, value: usize) -> Answer {
    let index = index(limit)?;
    let mut state = process.lock();
    let key = context::owner(&state)?;
    if limit == CU_LIMIT_STACK_SIZE && value > STACK_BYTES_MAX {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let device = context::get(&state, key)?.device;
    let block = take(process, &mut state, device, (limit, value))?;
    let context = state.contexts.get_mut(key);
    let limits = &mut context.ok_or(CUDA_ERROR_CONTEXT_IS_DESTROYED)?.limits;
    let (Some(own_value), Some(own_block)) =
        (limits.values.get_mut(index), limits.blocks.get_mut(index))
    else {
        return Err(CUDA_ERROR_UNSUPPORTED_LIMIT);
    };
    *own_value = value;
    let before = std::mem::replace(own_block, block);
    before.map_or(Ok(()), |block| {
        process.machine.free(block.id).map_err(refused)
    })
}

/// Gives back what the limits of a context took that is gone.
pub(crate) fn give_back(process: &Process, limits: &Limits) -> Answer {
    let mut blocks = limits.blocks.iter().flatten();
    blocks.try_for_each(|block| process.machine.free(block.id).map_err(refused))
}

/// Takes what a limit needs beyond its default.
fn take(
    process: &Process,
    state: &mut State,
    device: usize,
    (limit, value): (CUlimit, usize),
) -> Answer<Option<Block>> {
    let device = process.devices.get(device);
    let device = device.ok_or(CUDA_ERROR_INVALID_DEVICE)?;
    let bytes = bytes_beyond_default(&device.profile, limit, value)?;
    if bytes == 0 {
        return Ok(None);
    }
    let ask = |process: &Process| {
        let machine = &process.machine;
        machine.alloc(device.index, bytes, AllocKind::Physical)
    };
    pool::with_reclaim(process, state, ask).map(Some)
}

/// Device memory that a limit takes beyond its default, in whole pages.
fn bytes_beyond_default(profile: &Profile, limit: CUlimit, value: usize) -> Answer<u64> {
    let default = DEFAULTS.get(index(limit)?).copied().unwrap_or(0);
    let (new, old) = (
        bytes(profile, limit, value)?,
        bytes(profile, limit, default)?,
    );
    Ok(new.saturating_sub(old))
}

/// Device memory that a limit takes: a stack for each thread that can be resident, FIFO and heap as they are.
///
/// Estimate, ours: the driver may keep more than this for a stack; how much is not documented.
fn bytes(profile: &Profile, limit: CUlimit, value: usize) -> Answer<u64> {
    let value = u64::try_from(value).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    let threads = u64::from(profile.sm_count) * u64::from(profile.threads_per_sm_max);
    let bytes = match limit {
        CU_LIMIT_STACK_SIZE => value.checked_mul(threads),
        CU_LIMIT_PRINTF_FIFO_SIZE | CU_LIMIT_MALLOC_HEAP_SIZE => Some(value),
        _ => Some(0),
    };
    let pages = bytes.and_then(|bytes| bytes.checked_next_multiple_of(PAGE_BYTES));
    pages.ok_or(CUDA_ERROR_OUT_OF_MEMORY)
}

fn index(limit: CUlimit) -> Answer<usize> {
    match limit {
        CU_LIMIT_STACK_SIZE..=CU_LIMIT_PERSISTING_L2_CACHE_SIZE => {
            usize::try_from(limit).map_err(|_| CUDA_ERROR_INVALID_VALUE)
        }
        _ if limit < CU_LIMIT_MAX => Err(CUDA_ERROR_UNSUPPORTED_LIMIT),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}
