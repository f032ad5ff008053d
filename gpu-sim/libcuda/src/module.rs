//! Modules and functions.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;

use cuda_sys_stubs::abi::*;

use crate::address::{HostKind, Place};
use crate::bytes;
use crate::context::{self, Context};
use crate::door::Answer;
use crate::image::{self, Image, KernelImage};
use crate::launch::SHARED_BYTES_DEFAULT;
use crate::library;
use crate::memory;
use crate::process::{Process, State};
use crate::staged_launch::StagedLaunch;
use crate::table::Key;

/// A module in a context.
pub(crate) struct Module {
    pub(crate) context: Key<Context>,
    /// By name, in the order of their names.
    pub(crate) functions: BTreeMap<String, Key<Function>>,
    /// Address and size of each variable.
    pub(crate) globals: BTreeMap<String, (CUdeviceptr, u64)>,
    code: CUdeviceptr,
    /// Belongs to a library, and goes with it.
    is_of_library: bool,
}

/// A kernel in a context.
pub(crate) struct Function {
    pub(crate) module: Key<Module>,
    pub(crate) context: Key<Context>,
    pub(crate) name: CString,
    pub(crate) kernel: Arc<KernelImage>,
    target: u32,
    ptx_version: u32,
    /// Most dynamic shared memory that a launch may ask for, in bytes.
    pub(crate) dynamic_shared_bytes_max: u32,
    /// Attributes that are kept and have no effect.
    kept: BTreeMap<CUfunction_attribute, i32>,
    /// For launches in parts.
    pub(crate) staged: StagedLaunch,
}

/// Reads an image for the device of a context.
pub(crate) fn read_image(
    process: &Process,
    state: &State,
    context: Key<Context>,
    code: &[u8],
) -> Answer<Arc<Image>> {
    let device = context::get(state, context)?.device;
    read_image_for(process, device, code)
}

/// Reads an image for a device.
pub(crate) fn read_image_for(process: &Process, device: usize, code: &[u8]) -> Answer<Arc<Image>> {
    let (major, minor) = process
        .devices
        .get(device)
        .ok_or(CUDA_ERROR_INVALID_DEVICE)?
        .profile
        .compute_capability;
    image::read(code, major * 10 + minor)
        .map(Arc::new)
        .map_err(image::Unreadable::status)
}

/// Loads a module into a context: its code and variables take device memory.
pub(crate) fn load(
    process: &Process,
    state: &mut State,
    context: Key<Context>,
    image: &Image,
    is_of_library: bool,
) -> Answer<Key<Module>> {
    let code = take_static(process, state, context, image.code_bytes.max(1))?;
    let mut globals = BTreeMap::new();
    for global in &image.globals {
        let bytes = u64::try_from(global.bytes.max(1)).map_err(|_| CUDA_ERROR_INVALID_IMAGE)?;
        let address = take_static(process, state, context, bytes)?;
        write_initial(process, state, address, bytes, &global.initial)?;
        globals.insert(global.name.clone(), (address, bytes));
    }
    let module = state.modules.insert(Module {
        context,
        functions: BTreeMap::new(),
        globals,
        code,
        is_of_library,
    });
    let functions = image.kernels.iter().map(|kernel| {
        Ok((
            kernel.name.clone(),
            state
                .functions
                .insert(function(image, kernel, module, context)?),
        ))
    });
    let functions = functions.collect::<Answer<_>>()?;
    state
        .modules
        .get_mut(module)
        .ok_or(CUDA_ERROR_UNKNOWN)?
        .functions = functions;
    Ok(module)
}

fn function(
    image: &Image,
    kernel: &KernelImage,
    module: Key<Module>,
    context: Key<Context>,
) -> Answer<Function> {
    Ok(Function {
        module,
        context,
        name: CString::new(kernel.name.as_str()).map_err(|_| CUDA_ERROR_INVALID_IMAGE)?,
        kernel: Arc::new(kernel.clone()),
        target: image.target,
        ptx_version: image.ptx_version,
        dynamic_shared_bytes_max: SHARED_BYTES_DEFAULT.saturating_sub(kernel.shared_bytes),
        kept: BTreeMap::new(),
        staged: StagedLaunch::default(),
    })
}

fn take_static(
    process: &Process,
    state: &mut State,
    context: Key<Context>,
    bytes: u64,
) -> Answer<CUdeviceptr> {
    let mut range = memory::take(process, state, context, bytes)?;
    range.is_global = true;
    state.book.insert(range);
    Ok(range.start)
}

/// Writes a variable's first contents at once: nobody else knows the memory yet.
fn write_initial(
    process: &Process,
    state: &State,
    address: CUdeviceptr,
    bytes: u64,
    initial: &[u8],
) -> Answer {
    let place = state.book.known_place(address, bytes)?;
    bytes::fill(&process.machine, (place, 0), &[0], bytes);
    let start = u64::try_from(initial.as_ptr().expose_provenance())
        .map_err(|_| CUDA_ERROR_INVALID_IMAGE)?;
    let from = Place::Host {
        address: start,
        kind: HostKind::Pageable,
    };
    let length = u64::try_from(initial.len())
        .map_err(|_| CUDA_ERROR_INVALID_IMAGE)?
        .min(bytes);
    bytes::copy(&process.machine, (place, 0), (from, 0), length);
    Ok(())
}

/// The module behind a handle.
pub(crate) fn find(state: &State, handle: CUmodule) -> Answer<Key<Module>> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    state
        .modules
        .get(key)
        .map(|_| key)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// A module that must exist, because its handle was looked up.
pub(crate) fn get(state: &State, key: Key<Module>) -> Answer<&Module> {
    state.modules.get(key).ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// The function behind a handle, which may be a library's kernel: that one's function in the current context.
pub(crate) fn find_function(
    process: &Process,
    state: &mut State,
    handle: CUfunction,
) -> Answer<Key<Function>> {
    match known_function(state, handle)? {
        Some(key) => Ok(key),
        None => {
            let kernel = library::find_kernel(state, handle.cast())?;
            library::function(process, state, kernel)
        }
    }
}

/// The same, of a context: a function must be that one's. `CUDA_ERROR_INVALID_HANDLE`: it is another's.
pub(crate) fn find_function_in(
    process: &Process,
    state: &mut State,
    handle: CUfunction,
    context: Key<Context>,
) -> Answer<Key<Function>> {
    match known_function(state, handle)? {
        Some(key) if get_function(state, key)?.context == context => Ok(key),
        Some(_) => Err(CUDA_ERROR_INVALID_HANDLE),
        None => {
            let kernel = library::find_kernel(state, handle.cast())?;
            library::function_in(process, state, kernel, context)
        }
    }
}

fn known_function(state: &State, handle: CUfunction) -> Answer<Option<Key<Function>>> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    Ok(state.functions.get(key).map(|_| key))
}

/// A function that must exist, because its handle was looked up.
pub(crate) fn get_function(state: &State, key: Key<Function>) -> Answer<&Function> {
    state.functions.get(key).ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// Unloads a module that the program loaded; its memory goes back when all work is done.
pub(crate) fn unload(process: &Process, handle: CUmodule) -> Answer {
    let pending = crate::stream::pending(&process.lock(), None);
    crate::stream::wait_all(process, &pending)?;
    let mut state = process.lock();
    context::owner(&state)?;
    let key = find(&state, handle)?;
    if get(&state, key)?.is_of_library {
        return Err(CUDA_ERROR_NOT_PERMITTED);
    }
    remove(process, &mut state, key)
}

/// Ends a module, its functions and its memory.
pub(crate) fn remove(process: &Process, state: &mut State, key: Key<Module>) -> Answer {
    let module = state.modules.remove(key).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    state.functions.extract(|function| function.module == key);
    let addresses = module
        .globals
        .values()
        .map(|(address, _)| *address)
        .chain([module.code]);
    for address in addresses {
        let range = state
            .book
            .remove(address, |range| range.is_global)
            .ok_or(CUDA_ERROR_INVALID_VALUE)?;
        memory::give_back(process, range)?;
    }
    Ok(())
}

/// Forgets the modules of a context that is gone; their memory went with it.
pub(crate) fn unload_all(state: &mut State, context: Key<Context>) {
    state.modules.extract(|module| module.context == context);
    state
        .functions
        .extract(|function| function.context == context);
    for (_, library) in state.libraries.iter_mut() {
        library.modules.remove(&context);
    }
}

impl Function {
    /// `cuFuncGetAttribute`.
    pub(crate) fn attribute(
        &self,
        attribute: CUfunction_attribute,
        block_threads_max: u32,
    ) -> Answer<i32> {
        let word = |value: u32| i32::try_from(value).map_err(|_| CUDA_ERROR_INVALID_VALUE);
        match attribute {
            CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK => word(block_threads_max),
            CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES => word(self.kernel.shared_bytes),
            CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES => Ok(0),
            CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES => word(self.kernel.local_bytes),
            CU_FUNC_ATTRIBUTE_NUM_REGS => word(self.kernel.registers),
            CU_FUNC_ATTRIBUTE_PTX_VERSION => word(if self.ptx_version == 0 {
                self.target
            } else {
                self.ptx_version
            }),
            CU_FUNC_ATTRIBUTE_BINARY_VERSION => word(self.target),
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES => word(self.dynamic_shared_bytes_max),
            CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT => {
                Ok(self.kept.get(&attribute).copied().unwrap_or(-1))
            }
            _ if attribute < CU_FUNC_ATTRIBUTE_MAX => {
                Ok(self.kept.get(&attribute).copied().unwrap_or(0))
            }
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }

    /// `cuFuncSetAttribute`; `shared_bytes_max` is what the device lets a block have.
    pub(crate) fn set_attribute(
        &mut self,
        attribute: CUfunction_attribute,
        value: i32,
        shared_bytes_max: u32,
    ) -> Answer {
        match attribute {
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES => {
                let bytes = u32::try_from(value).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
                if bytes > shared_bytes_max.saturating_sub(self.kernel.shared_bytes) {
                    return Err(CUDA_ERROR_INVALID_VALUE);
                }
                self.dynamic_shared_bytes_max = bytes;
                Ok(())
            }
            CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT if !(-1..=100).contains(&value) => {
                Err(CUDA_ERROR_INVALID_VALUE)
            }
            CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
            | CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH
                ..=CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE => {
                self.kept.insert(attribute, value);
                Ok(())
            }
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }
}
