//! Functions: attributes, parameters, occupancy.

use std::ffi::c_char;
use std::sync::Arc;

use cuda_sys_stubs::abi::*;

use super::{get, put, put_if, wanted};
use crate::context;
use crate::door::{Answer, exports};
use crate::image::KernelImage;
use crate::launch::BLOCK_THREADS_MAX;
use crate::module::{self, Function};
use crate::occupancy;
use crate::process::{Device, process};

/// Asks a function something, together with its device.
fn with_function<T>(
    handle: CUfunction,
    ask: impl FnOnce(&mut Function, &Device) -> T,
) -> Answer<T> {
    let process = process()?;
    let mut state = process.lock();
    let key = module::find_function(process, &mut state, handle)?;
    let context = module::get_function(&state, key)?.context;
    let device = process
        .devices
        .get(context::get(&state, context)?.device)
        .ok_or(CUDA_ERROR_INVALID_DEVICE)?;
    Ok(ask(
        state
            .functions
            .get_mut(key)
            .ok_or(CUDA_ERROR_INVALID_HANDLE)?,
        device,
    ))
}

fn kernel(handle: CUfunction) -> Answer<Arc<KernelImage>> {
    with_function(handle, |function, _| Arc::clone(&function.kernel))
}

/// The most threads that a block of this function may have.
pub(super) fn block_threads_max(function: &Function, device: &Device) -> u32 {
    let bound = if function.kernel.max_threads == 0 {
        BLOCK_THREADS_MAX
    } else {
        function.kernel.max_threads
    };
    let warps = device.profile.registers_per_sm / function.kernel.registers.max(1) / 32;
    bound.min(BLOCK_THREADS_MAX).min(warps.saturating_mul(32))
}

fn blocks_per_sm(handle: CUfunction, block_size: i32, dynamic_bytes: usize) -> Answer<i32> {
    let threads = u32::try_from(block_size)
        .ok()
        .filter(|threads| (1..=BLOCK_THREADS_MAX).contains(threads))
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let dynamic_bytes = u32::try_from(dynamic_bytes).unwrap_or(u32::MAX);
    let blocks = with_function(handle, |function, device| {
        let shared = function.kernel.shared_bytes.saturating_add(dynamic_bytes);
        occupancy::blocks_per_sm(&device.profile, threads, function.kernel.registers, shared)
    })?;
    i32::try_from(blocks).map_err(|_| CUDA_ERROR_INVALID_VALUE)
}

/// Grid and block of greatest occupancy. The program's function says how much shared memory a block of a size asks for.
///
/// # Safety
/// `dynamic` is null or may be called.
unsafe fn potential(
    handle: CUfunction,
    dynamic: CUoccupancyB2DSize,
    fixed_bytes: usize,
    limit: i32,
) -> Answer<(i32, i32)> {
    let limit = u32::try_from(limit).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    let (kernel, threads_max, profile) = with_function(handle, |function, device| {
        (
            Arc::clone(&function.kernel),
            block_threads_max(function, device),
            device.profile.clone(),
        )
    })?;
    let threads_max = if limit == 0 {
        threads_max
    } else {
        threads_max.min(limit)
    };
    let bytes = |threads: u32| {
        let asked = match dynamic {
            // SAFETY: not null, so it may be called (caller). No lock is held.
            Some(dynamic) => unsafe { dynamic(i32::try_from(threads).unwrap_or(i32::MAX)) },
            None => fixed_bytes,
        };
        u32::try_from(asked).unwrap_or(u32::MAX)
    };
    let (grid, block) = occupancy::best_block(
        &profile,
        threads_max,
        kernel.registers,
        kernel.shared_bytes,
        bytes,
    );
    Ok((
        i32::try_from(grid).unwrap_or(i32::MAX),
        i32::try_from(block).unwrap_or(i32::MAX),
    ))
}

/// Offset and size of a parameter.
pub(super) fn param(kernel: &KernelImage, index: usize) -> Answer<(usize, usize)> {
    kernel
        .params
        .get(index)
        .map(|param| (param.offset, param.size))
        .ok_or(CUDA_ERROR_INVALID_VALUE)
}

fn clusters(device_capability: u32) -> Answer {
    if device_capability >= 9 {
        Ok(())
    } else {
        Err(CUDA_ERROR_NOT_SUPPORTED)
    }
}

exports! {
    fn cuFuncGetAttribute(pi: *mut i32, attrib: CUfunction_attribute, hfunc: CUfunction) {
        wanted(pi)?;
        put(pi, with_function(hfunc, |function, device| function.attribute(attrib, block_threads_max(function, device)))??)
    }
    fn cuFuncSetAttribute(hfunc: CUfunction, attrib: CUfunction_attribute, value: i32) {
        with_function(hfunc, |function, device| function.set_attribute(attrib, value, device.profile.shared_bytes_per_block_max))?
    }
    fn cuFuncSetCacheConfig(hfunc: CUfunction, config: CUfunc_cache) {
        with_function(hfunc, |_, _| ())?;
        if config > CU_FUNC_CACHE_PREFER_EQUAL { Err(CUDA_ERROR_INVALID_VALUE) } else { Ok(()) }
    }
    fn cuFuncSetSharedMemConfig(hfunc: CUfunction, config: CUsharedconfig) {
        with_function(hfunc, |_, _| ())?;
        if config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE { Err(CUDA_ERROR_INVALID_VALUE) } else { Ok(()) }
    }
    fn cuFuncGetModule(hmod: *mut CUmodule, hfunc: CUfunction) {
        wanted(hmod)?;
        put(hmod, with_function(hfunc, |function, _| function.module.handle())?)
    }
    fn cuFuncGetName(name: *mut *const c_char, hfunc: CUfunction) {
        wanted(name)?;
        put(name, with_function(hfunc, |function, _| function.name.as_ptr())?)
    }
    fn cuFuncGetParamInfo(func: CUfunction, paramIndex: usize, paramOffset: *mut usize, paramSize: *mut usize) {
        let kernel = kernel(func)?;
        let (offset, size) = param(&kernel, paramIndex)?;
        put(paramOffset, offset)?;
        put_if(paramSize, size);
        Ok(())
    }
    fn cuFuncGetParamCount(func: CUfunction, paramCount: *mut usize) {
        put(paramCount, kernel(func)?.params.len())
    }
    fn cuFuncIsLoaded(state: *mut CUfunctionLoadingState, function: CUfunction) {
        with_function(function, |_, _| ())?;
        put(state, CU_FUNCTION_LOADING_STATE_LOADED)
    }
    fn cuFuncLoad(function: CUfunction) {
        with_function(function, |_, _| ())
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(numBlocks: *mut i32, func: CUfunction, blockSize: i32, dynamicSMemSize: usize) {
        wanted(numBlocks)?;
        put(numBlocks, blocks_per_sm(func, blockSize, dynamicSMemSize)?)
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(numBlocks: *mut i32, func: CUfunction, blockSize: i32, dynamicSMemSize: usize, flags: u32) {
        wanted(numBlocks)?;
        if flags & !CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        put(numBlocks, blocks_per_sm(func, blockSize, dynamicSMemSize)?)
    }
    fn cuOccupancyMaxPotentialBlockSize(minGridSize: *mut i32, blockSize: *mut i32, func: CUfunction, blockSizeToDynamicSMemSize: CUoccupancyB2DSize, dynamicSMemSize: usize, blockSizeLimit: i32) {
        let (grid, block) = potential(func, blockSizeToDynamicSMemSize, dynamicSMemSize, blockSizeLimit)?;
        put(minGridSize, grid)?;
        put(blockSize, block)
    }
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(minGridSize: *mut i32, blockSize: *mut i32, func: CUfunction, blockSizeToDynamicSMemSize: CUoccupancyB2DSize, dynamicSMemSize: usize, blockSizeLimit: i32, flags: u32) {
        if flags & !CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let (grid, block) = potential(func, blockSizeToDynamicSMemSize, dynamicSMemSize, blockSizeLimit)?;
        put(minGridSize, grid)?;
        put(blockSize, block)
    }
    fn cuOccupancyAvailableDynamicSMemPerBlock(dynamicSmemSize: *mut usize, func: CUfunction, numBlocks: i32, blockSize: i32) {
        wanted(dynamicSmemSize)?;
        let blocks = u32::try_from(numBlocks).ok().filter(|blocks| *blocks > 0).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        if blocks_per_sm(func, blockSize, 0)? < numBlocks {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let bytes = with_function(func, |function, device| occupancy::dynamic_shared_bytes(&device.profile, blocks, function.kernel.shared_bytes))?;
        put(dynamicSmemSize, usize::try_from(bytes.ok_or(CUDA_ERROR_INVALID_VALUE)?).unwrap_or(usize::MAX))
    }
    fn cuOccupancyMaxPotentialClusterSize(clusterSize: *mut i32, func: CUfunction, config: *const CUlaunchConfig) {
        get(config)?;
        clusters(with_function(func, |_, device| device.profile.compute_capability.0)?)?;
        put(clusterSize, 8)
    }
    fn cuOccupancyMaxActiveClusters(numClusters: *mut i32, func: CUfunction, config: *const CUlaunchConfig) {
        let (config, shape) = super::launch::from_config(config)?;
        clusters(with_function(func, |_, device| device.profile.compute_capability.0)?)?;
        let threads = shape.block_threads().and_then(|threads| i32::try_from(threads).ok()).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let resident = blocks_per_sm(func, threads, usize::try_from(config.sharedMemBytes).unwrap_or(usize::MAX))?;
        let sms = with_function(func, |_, device| device.profile.sm_count)?;
        let of_cluster = shape.cluster.iter().fold(1u32, |product, dim| product.saturating_mul((*dim).max(1)));
        let blocks = u32::try_from(resident).unwrap_or(0).saturating_mul(sms);
        put(numClusters, i32::try_from(blocks / of_cluster).unwrap_or(i32::MAX))
    }
}
