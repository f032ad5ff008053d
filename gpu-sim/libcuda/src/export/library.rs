//! Libraries and their kernels.

use std::ffi::{c_char, c_void};

use cuda_sys_stubs::abi::*;

use super::{image, put, put_if, text, wanted};
use crate::door::{Answer, exports};
use crate::library;
use crate::module::{self, Function};
use crate::process::{Device, process};

/// Asks a kernel's function in the current context something, together with its device.
fn with_function<T>(handle: CUkernel, ask: impl FnOnce(&Function, &Device) -> T) -> Answer<T> {
    let process = process()?;
    let mut state = process.lock();
    let kernel = library::find_kernel(&state, handle)?;
    let key = library::function(process, &mut state, kernel)?;
    let function = module::get_function(&state, key)?;
    let device = crate::context::get(&state, function.context)?.device;
    Ok(ask(
        function,
        process
            .devices
            .get(device)
            .ok_or(CUDA_ERROR_INVALID_DEVICE)?,
    ))
}

exports! {
    fn cuLibraryLoadData(library: *mut CUlibrary, code: *const c_void, _jitOptions: *mut CUjit_option, _jitOptionsValues: *mut *mut c_void, _numJitOptions: u32, _libraryOptions: *mut CUlibraryOption, _libraryOptionValues: *mut *mut c_void, _numLibraryOptions: u32) {
        let process = process()?;
        wanted(library)?;
        put(library, library::load(process, image(code)?)?.handle())
    }
    fn cuLibraryLoadFromFile(library: *mut CUlibrary, fileName: *const c_char, _jitOptions: *mut CUjit_option, _jitOptionsValues: *mut *mut c_void, _numJitOptions: u32, _libraryOptions: *mut CUlibraryOption, _libraryOptionValues: *mut *mut c_void, _numLibraryOptions: u32) {
        let process = process()?;
        wanted(library)?;
        put(library, library::load(process, &super::module::read_file(text(fileName)?)?)?.handle())
    }
    fn cuLibraryUnload(library: CUlibrary) {
        library::unload(process()?, library)
    }
    fn cuLibraryGetKernel(pKernel: *mut CUkernel, library: CUlibrary, name: *const c_char) {
        let process = process()?;
        wanted(pKernel)?;
        let name = text(name)?;
        let state = process.lock();
        put(pKernel, library::kernel(&state, library::find(&state, library)?, name)?.handle())
    }
    fn cuLibraryGetKernelCount(count: *mut u32, lib: CUlibrary) {
        let process = process()?;
        let state = process.lock();
        let kernels = library::get(&state, library::find(&state, lib)?)?.kernels.len();
        put(count, u32::try_from(kernels).unwrap_or(u32::MAX))
    }
    fn cuLibraryEnumerateKernels(kernels: *mut CUkernel, numKernels: u32, lib: CUlibrary) {
        let process = process()?;
        let state = process.lock();
        let found = &library::get(&state, library::find(&state, lib)?)?.kernels;
        let room = usize::try_from(numKernels).unwrap_or(usize::MAX);
        for (index, kernel) in found.iter().take(room).enumerate() {
            put(kernels.wrapping_add(index), kernel.handle())?;
        }
        Ok(())
    }
    fn cuLibraryGetModule(pMod: *mut CUmodule, library: CUlibrary) {
        let process = process()?;
        wanted(pMod)?;
        let mut state = process.lock();
        let library = library::find(&state, library)?;
        put(pMod, library::module(process, &mut state, library)?.handle())
    }
    fn cuLibraryGetGlobal(dptr: *mut CUdeviceptr, bytes: *mut usize, library: CUlibrary, name: *const c_char) {
        let process = process()?;
        let name = text(name)?;
        let mut state = process.lock();
        let library = library::find(&state, library)?;
        let module = library::module(process, &mut state, library)?;
        let (start, length) = *module::get(&state, module)?.globals.get(name).ok_or(CUDA_ERROR_NOT_FOUND)?;
        put_if(dptr, start);
        put_if(bytes, usize::try_from(length).unwrap_or(usize::MAX));
        Ok(())
    }
    fn cuKernelGetFunction(pFunc: *mut CUfunction, kernel: CUkernel) {
        let process = process()?;
        wanted(pFunc)?;
        let mut state = process.lock();
        let kernel = library::find_kernel(&state, kernel)?;
        put(pFunc, library::function(process, &mut state, kernel)?.handle())
    }
    fn cuKernelGetLibrary(pLib: *mut CUlibrary, kernel: CUkernel) {
        let process = process()?;
        let state = process.lock();
        put(pLib, library::get_kernel(&state, library::find_kernel(&state, kernel)?)?.library.handle())
    }
    fn cuKernelGetName(name: *mut *const c_char, hfunc: CUkernel) {
        let process = process()?;
        let state = process.lock();
        put(name, library::get_kernel(&state, library::find_kernel(&state, hfunc)?)?.name.as_ptr())
    }
    fn cuKernelGetAttribute(pi: *mut i32, attrib: CUfunction_attribute, kernel: CUkernel, dev: CUdevice) {
        process()?.device(dev)?;
        wanted(pi)?;
        put(pi, with_function(kernel, |function, device| function.attribute(attrib, super::function::block_threads_max(function, device)))??)
    }
    fn cuKernelSetAttribute(attrib: CUfunction_attribute, val: i32, kernel: CUkernel, dev: CUdevice) {
        let process = process()?;
        process.device(dev)?;
        let mut state = process.lock();
        let kernel = library::find_kernel(&state, kernel)?;
        library::set_attribute(process, &mut state, kernel, attrib, val)
    }
    fn cuKernelSetCacheConfig(kernel: CUkernel, config: CUfunc_cache, dev: CUdevice) {
        let process = process()?;
        process.device(dev)?;
        library::find_kernel(&process.lock(), kernel)?;
        if config > CU_FUNC_CACHE_PREFER_EQUAL { Err(CUDA_ERROR_INVALID_VALUE) } else { Ok(()) }
    }
    fn cuKernelGetParamInfo(kernel: CUkernel, paramIndex: usize, paramOffset: *mut usize, paramSize: *mut usize) {
        let (offset, size) = with_function(kernel, |function, _| super::function::param(&function.kernel, paramIndex))??;
        put(paramOffset, offset)?;
        put_if(paramSize, size);
        Ok(())
    }
    fn cuKernelGetParamCount(kernel: CUkernel, paramCount: *mut usize) {
        put(paramCount, with_function(kernel, |function, _| function.kernel.params.len())?)
    }
}
