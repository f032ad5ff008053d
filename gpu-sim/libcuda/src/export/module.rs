//! Modules.

use std::ffi::{c_char, c_void};

use cuda_sys_stubs::abi::*;

use super::{image, put, put_if, text, wanted};
use crate::context;
use crate::door::{Answer, exports};
use crate::module::{self, Module};
use crate::process::process;
use crate::table::Key;

fn load(code: &[u8]) -> Answer<Key<Module>> {
    let process = process()?;
    let mut state = process.lock();
    let context = context::owner(&state)?;
    let image = module::read_image(process, &state, context, code)?;
    module::load(process, &mut state, context, &image, false)
}

/// The whole of a file.
pub(super) fn read_file(path: &str) -> Answer<Vec<u8>> {
    std::fs::read(path).map_err(|_| CUDA_ERROR_FILE_NOT_FOUND)
}

/// Refuses to do work for a pointer that is null.
///
/// # Safety
/// As [`image`].
unsafe fn load_data(to: *mut CUmodule, code: *const c_void) -> Answer {
    context::current(&process()?.lock())?;
    wanted(to)?;
    // SAFETY: the caller's promise for both pointers.
    unsafe { put(to, load(image(code)?)?.handle()) }
}

/// Address and size of a module's variable.
///
/// # Safety
/// As [`text`].
pub(super) unsafe fn global(hmod: CUmodule, name: *const c_char) -> Answer<(CUdeviceptr, u64)> {
    let process = process()?;
    // SAFETY: the caller's promise.
    let name = unsafe { text(name)? };
    let state = process.lock();
    let module = module::get(&state, module::find(&state, hmod)?)?;
    module
        .globals
        .get(name)
        .copied()
        .ok_or(CUDA_ERROR_NOT_FOUND)
}

exports! {
    fn cuModuleLoad(module: *mut CUmodule, fname: *const c_char) {
        context::current(&process()?.lock())?;
        wanted(module)?;
        put(module, load(&read_file(text(fname)?)?)?.handle())
    }
    fn cuModuleLoadData(module: *mut CUmodule, code: *const c_void) {
        load_data(module, code)
    }
    fn cuModuleLoadDataEx(module: *mut CUmodule, code: *const c_void, _numOptions: u32, _options: *mut CUjit_option, _optionValues: *mut *mut c_void) {
        load_data(module, code)
    }
    fn cuModuleLoadFatBinary(module: *mut CUmodule, fatCubin: *const c_void) {
        load_data(module, fatCubin)
    }
    fn cuModuleUnload(hmod: CUmodule) {
        module::unload(process()?, hmod)
    }
    fn cuModuleGetLoadingMode(mode: *mut CUmoduleLoadingMode) {
        process()?;
        put(mode, CU_MODULE_EAGER_LOADING)
    }
    fn cuModuleGetFunction(hfunc: *mut CUfunction, hmod: CUmodule, name: *const c_char) {
        let process = process()?;
        wanted(hfunc)?;
        let name = text(name)?;
        let state = process.lock();
        let module = module::get(&state, module::find(&state, hmod)?)?;
        put(hfunc, module.functions.get(name).ok_or(CUDA_ERROR_NOT_FOUND)?.handle())
    }
    fn cuModuleGetFunctionCount(count: *mut u32, r#mod: CUmodule) {
        let process = process()?;
        let state = process.lock();
        let functions = module::get(&state, module::find(&state, r#mod)?)?.functions.len();
        put(count, u32::try_from(functions).unwrap_or(u32::MAX))
    }
    fn cuModuleEnumerateFunctions(functions: *mut CUfunction, numFunctions: u32, r#mod: CUmodule) {
        let process = process()?;
        let state = process.lock();
        let found = module::get(&state, module::find(&state, r#mod)?)?.functions.values();
        let room = usize::try_from(numFunctions).unwrap_or(usize::MAX);
        for (index, function) in found.take(room).enumerate() {
            put(functions.wrapping_add(index), function.handle())?;
        }
        Ok(())
    }
    fn cuModuleGetGlobal_v2(dptr: *mut CUdeviceptr, bytes: *mut usize, hmod: CUmodule, name: *const c_char) {
        let (start, length) = global(hmod, name)?;
        put_if(dptr, start);
        put_if(bytes, usize::try_from(length).unwrap_or(usize::MAX));
        Ok(())
    }
    fn cuModuleGetTexRef(pTexRef: *mut CUtexref, hmod: CUmodule, name: *const c_char) {
        let process = process()?;
        wanted(pTexRef)?;
        text(name)?;
        // Texture references are not simulated: a module has none.
        module::find(&process.lock(), hmod)?;
        Err(CUDA_ERROR_NOT_FOUND)
    }
    fn cuModuleGetSurfRef(pSurfRef: *mut CUsurfref, hmod: CUmodule, name: *const c_char) {
        let process = process()?;
        wanted(pSurfRef)?;
        text(name)?;
        module::find(&process.lock(), hmod)?;
        Err(CUDA_ERROR_NOT_FOUND)
    }
}
