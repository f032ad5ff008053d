//! Launches in one call.

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

use super::{get, list};
use crate::door::{Answer, NullStream, exports};
use crate::image::Param;
use crate::launch::{self, Arguments, Shape, launch};
use crate::process::process;

/// Keys of the `extra` list (cuda.h, `CU_LAUNCH_PARAM_…`).
const EXTRA_END: usize = 0;
const EXTRA_BUFFER_POINTER: usize = 1;
const EXTRA_BUFFER_SIZE: usize = 2;

/// Copies the values of a kernel's parameters from either form in which a program passes them. What is missing is zero.
///
/// # Safety
/// `kernel_params` is null or points to a pointer for each parameter; `extra` is null or such a list as `cuLaunchKernel` documents.
pub(super) unsafe fn arguments(
    params: &[Param],
    kernel_params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Arguments {
    // SAFETY: the caller's promise for `extra`.
    let buffer = unsafe { extra_buffer(extra) };
    let value = |(index, param): (usize, &Param)| {
        let mut value = vec![0u8; param.size].into_boxed_slice();
        let from = if kernel_params.is_null() {
            buffer
                .filter(|(_, size)| param.offset.saturating_add(param.size) <= *size)
                .map(|(start, _)| start.wrapping_add(param.offset))
        } else {
            // SAFETY: a pointer for each parameter (caller).
            Some(
                unsafe { kernel_params.add(index).read() }
                    .cast_const()
                    .cast::<u8>(),
            )
        };
        if let Some(from) = from.filter(|from| !from.is_null()) {
            // SAFETY: it points to the parameter's value, of that size (caller); `value` is as large.
            unsafe { std::ptr::copy_nonoverlapping(from, value.as_mut_ptr(), param.size) };
        }
        value
    };
    Arguments::new(params.iter().enumerate().map(value).collect())
}

/// Start and size of the buffer that `extra` names.
///
/// # Safety
/// As [`arguments`].
unsafe fn extra_buffer(extra: *mut *mut c_void) -> Option<(*const u8, usize)> {
    let (mut start, mut size) = (std::ptr::null(), 0);
    for index in (0..).step_by(2).take_while(|_| !extra.is_null()) {
        // SAFETY: no end came before this key (caller).
        let key = unsafe { extra.add(index).read() }.addr();
        if key == EXTRA_END {
            break;
        }
        // SAFETY: each key but the end has a value (caller).
        let value = unsafe { extra.add(index + 1).read() };
        match key {
            EXTRA_BUFFER_POINTER => start = value.cast_const().cast::<u8>(),
            // SAFETY: this key's value points to a size (caller).
            EXTRA_BUFFER_SIZE => size = unsafe { value.cast::<usize>().read_unaligned() },
            _ => return None,
        }
    }
    (!start.is_null()).then_some((start, size))
}

/// A launch's configuration with its attributes.
///
/// # Safety
/// `config` is null or points to a configuration with that many attributes.
pub(super) unsafe fn from_config(config: *const CUlaunchConfig) -> Answer<(CUlaunchConfig, Shape)> {
    // SAFETY: the caller's promise.
    let config = unsafe { get(config)? };
    let grid = [config.gridDimX, config.gridDimY, config.gridDimZ];
    let block = [config.blockDimX, config.blockDimY, config.blockDimZ];
    let mut shape = Shape::new(grid, block, config.sharedMemBytes);
    let count = usize::try_from(config.numAttrs).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    // SAFETY: the caller's promise for the attributes.
    for attribute in unsafe { list(config.attrs.cast_const(), count)? } {
        match attribute.id {
            CU_LAUNCH_ATTRIBUTE_COOPERATIVE => {
                // SAFETY: the id says which member was written (caller).
                shape.is_cooperative = unsafe { attribute.value.cooperative } != 0;
            }
            CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION => {
                // SAFETY: as above.
                shape.cluster = unsafe { attribute.value.clusterDim };
            }
            // Policies that change how a launch is carried out, not what it does or costs here.
            _ => {}
        }
    }
    Ok((config, shape))
}

/// Launches with arguments that are read only if they are kept.
///
/// # Safety
/// As [`arguments`].
unsafe fn run(
    f: CUfunction,
    shape: Shape,
    stream: (CUstream, NullStream),
    kernel_params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Answer {
    if !kernel_params.is_null() && !extra.is_null() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    launch(process()?, f, shape, stream, |params| unsafe {
        arguments(params, kernel_params, extra)
    })
}

exports! {
    fn cuLaunchKernel / cuLaunchKernel_ptsz |null| (f: CUfunction, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32, blockDimZ: u32, sharedMemBytes: u32, hStream: CUstream, kernelParams: *mut *mut c_void, extra: *mut *mut c_void) {
        let shape = Shape::new([gridDimX, gridDimY, gridDimZ], [blockDimX, blockDimY, blockDimZ], sharedMemBytes);
        run(f, shape, (hStream, null), kernelParams, extra)
    }
    fn cuLaunchKernelEx / cuLaunchKernelEx_ptsz |null| (config: *const CUlaunchConfig, f: CUfunction, kernelParams: *mut *mut c_void, extra: *mut *mut c_void) {
        let (config, shape) = from_config(config)?;
        run(f, shape, (config.hStream, null), kernelParams, extra)
    }
    fn cuLaunchCooperativeKernel / cuLaunchCooperativeKernel_ptsz |null| (f: CUfunction, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32, blockDimZ: u32, sharedMemBytes: u32, hStream: CUstream, kernelParams: *mut *mut c_void) {
        let mut shape = Shape::new([gridDimX, gridDimY, gridDimZ], [blockDimX, blockDimY, blockDimZ], sharedMemBytes);
        shape.is_cooperative = true;
        run(f, shape, (hStream, null), kernelParams, std::ptr::null_mut())
    }
    fn cuLaunchCooperativeKernelMultiDevice(launchParamsList: *mut CUDA_LAUNCH_PARAMS, numDevices: u32, flags: u32) {
        let process = process()?;
        let count = usize::try_from(numDevices).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
        let launches = list(launchParamsList.cast_const(), count)?.iter().map(|each| {
            let (grid, block) = ([each.gridDimX, each.gridDimY, each.gridDimZ], [each.blockDimX, each.blockDimY, each.blockDimZ]);
            let shape = Shape { is_cooperative: true, ..Shape::new(grid, block, each.sharedMemBytes) };
            (each.function, shape, each.hStream)
        });
        launch::on_devices(process, &launches.collect::<Vec<_>>(), flags)
    }
}
