//! Launches in parts: each call sets a part on the function, the last ones launch it.

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

use super::list;
use crate::door::{Answer, NullStream, exports};
use crate::launch::launch;
use crate::module;
use crate::process::process;
use crate::staged_launch::StagedLaunch;
use crate::table::Key;

/// Does something with what is set on a function.
fn with<T>(handle: CUfunction, act: impl FnOnce(&mut StagedLaunch) -> Answer<T>) -> Answer<T> {
    let process = process()?;
    let mut state = process.lock();
    let key = module::find_function(process, &mut state, handle)?;
    let function = state.functions.get_mut(key);
    act(&mut function.ok_or(CUDA_ERROR_INVALID_HANDLE)?.staged)
}

fn run(handle: CUfunction, grid: [i32; 2], stream: CUstream) -> Answer {
    let staged = with(handle, |staged| Ok(staged.clone()))?;
    let shape = staged.shape(grid)?;
    let stream = (stream, NullStream::Legacy);
    launch(process()?, handle, shape, stream, |params| {
        staged.arguments(params)
    })
}

exports! {
    fn cuFuncSetBlockShape(hfunc: CUfunction, x: i32, y: i32, z: i32) {
        with(hfunc, |staged| staged.set_block([x, y, z]))
    }
    fn cuFuncSetSharedSize(hfunc: CUfunction, bytes: u32) {
        with(hfunc, |staged| {
            staged.shared_bytes = bytes;
            Ok(())
        })
    }
    fn cuParamSetSize(hfunc: CUfunction, numbytes: u32) {
        with(hfunc, |staged| staged.set_parameter_bytes(numbytes))
    }
    fn cuParamSeti(hfunc: CUfunction, offset: i32, value: u32) {
        with(hfunc, |staged| staged.set_parameter(offset, &value.to_ne_bytes()))
    }
    fn cuParamSetf(hfunc: CUfunction, offset: i32, value: f32) {
        with(hfunc, |staged| staged.set_parameter(offset, &value.to_ne_bytes()))
    }
    fn cuParamSetv(hfunc: CUfunction, offset: i32, ptr: *mut c_void, numbytes: u32) {
        let bytes = usize::try_from(numbytes).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
        let value = list(ptr.cast_const().cast::<u8>(), bytes)?;
        with(hfunc, |staged| staged.set_parameter(offset, value))
    }
    fn cuParamSetTexRef(hfunc: CUfunction, texunit: i32, hTexRef: CUtexref) {
        with(hfunc, |_| Ok(()))?;
        // Kernels read through no reference: there is nothing to keep.
        let references = &process()?.lock().texture_references;
        Key::of(hTexRef).and_then(|key| references.get(key)).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
        if texunit == CU_PARAM_TR_DEFAULT { Ok(()) } else { Err(CUDA_ERROR_INVALID_VALUE) }
    }
    fn cuLaunch(f: CUfunction) {
        run(f, [1, 1], std::ptr::null_mut())
    }
    fn cuLaunchGrid(f: CUfunction, grid_width: i32, grid_height: i32) {
        run(f, [grid_width, grid_height], std::ptr::null_mut())
    }
    fn cuLaunchGridAsync(f: CUfunction, grid_width: i32, grid_height: i32, hStream: CUstream) {
        run(f, [grid_width, grid_height], hStream)
    }
}
