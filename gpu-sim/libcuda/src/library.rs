//! Libraries: code that is loaded once and becomes a module in each context that uses it, when it does.

use std::collections::BTreeMap;
use std::sync::Arc;

use cuda_sys_stubs::abi::*;

use crate::context::{self, Context};
use crate::door::Answer;
use crate::image::Image;
use crate::module::{self, Function, Module};
use crate::process::{Process, State};
use crate::table::Key;

/// A library.
pub(crate) struct Library {
    image: Arc<Image>,
    /// In the order in which the image has them.
    pub(crate) kernels: Vec<Key<Kernel>>,
    /// The module in each context that used it.
    pub(crate) modules: BTreeMap<Key<Context>, Key<Module>>,
}

/// A kernel of a library, in whichever context.
pub(crate) struct Kernel {
    pub(crate) library: Key<Library>,
    pub(crate) name: std::ffi::CString,
    /// Attributes that were set, for functions that come to be later.
    attributes: BTreeMap<CUfunction_attribute, i32>,
}

/// Loads a library. It needs no context: the image is read for the first device.
pub(crate) fn load(process: &Process, code: &[u8]) -> Answer<Key<Library>> {
    let mut state = process.lock();
    let device = context::owner(&state)
        .and_then(|key| context::get(&state, key))
        .map_or(0, |context| context.device);
    let image = module::read_image_for(process, device, code)?;
    let names = image.kernels.iter().map(|kernel| {
        std::ffi::CString::new(kernel.name.as_str()).map_err(|_| CUDA_ERROR_INVALID_IMAGE)
    });
    let names = names.collect::<Answer<Vec<_>>>()?;
    let library = state.libraries.insert(Library {
        image,
        kernels: Vec::new(),
        modules: BTreeMap::new(),
    });
    let kernels = names
        .into_iter()
        .map(|name| {
            state.kernels.insert(Kernel {
                library,
                name,
                attributes: BTreeMap::new(),
            })
        })
        .collect();
    state
        .libraries
        .get_mut(library)
        .ok_or(CUDA_ERROR_UNKNOWN)?
        .kernels = kernels;
    Ok(library)
}

/// The library behind a handle.
pub(crate) fn find(state: &State, handle: CUlibrary) -> Answer<Key<Library>> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    state
        .libraries
        .get(key)
        .map(|_| key)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// A library that must exist, because its handle was looked up.
pub(crate) fn get(state: &State, key: Key<Library>) -> Answer<&Library> {
    state.libraries.get(key).ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// The kernel behind a handle.
pub(crate) fn find_kernel(state: &State, handle: CUkernel) -> Answer<Key<Kernel>> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    state
        .kernels
        .get(key)
        .map(|_| key)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// A kernel that must exist, because its handle was looked up.
pub(crate) fn get_kernel(state: &State, key: Key<Kernel>) -> Answer<&Kernel> {
    state.kernels.get(key).ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// The kernel of this name.
pub(crate) fn kernel(state: &State, library: Key<Library>, name: &str) -> Answer<Key<Kernel>> {
    let kernels = get(state, library)?.kernels.iter().copied();
    let mut named = kernels.filter(|key| {
        state
            .kernels
            .get(*key)
            .is_some_and(|kernel| kernel.name.to_bytes() == name.as_bytes())
    });
    named.next().ok_or(CUDA_ERROR_NOT_FOUND)
}

/// The library's module in the current context, loaded if this is its first use there.
pub(crate) fn module(
    process: &Process,
    state: &mut State,
    library: Key<Library>,
) -> Answer<Key<Module>> {
    let context = context::owner(state)?;
    module_in(process, state, library, context)
}

fn module_in(
    process: &Process,
    state: &mut State,
    library: Key<Library>,
    context: Key<Context>,
) -> Answer<Key<Module>> {
    let Library { image, modules, .. } = get(state, library)?;
    if let Some(module) = modules.get(&context) {
        return Ok(*module);
    }
    let image = Arc::clone(image);
    let module = module::load(process, state, context, &image, true)?;
    state
        .libraries
        .get_mut(library)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)?
        .modules
        .insert(context, module);
    Ok(module)
}

/// A kernel's function in the current context.
pub(crate) fn function(
    process: &Process,
    state: &mut State,
    kernel: Key<Kernel>,
) -> Answer<Key<Function>> {
    let context = context::owner(state)?;
    function_in(process, state, kernel, context)
}

/// A kernel's function in a context.
pub(crate) fn function_in(
    process: &Process,
    state: &mut State,
    kernel: Key<Kernel>,
    context: Key<Context>,
) -> Answer<Key<Function>> {
    let Kernel { library, name, .. } = get_kernel(state, kernel)?;
    let (library, name) = (*library, name.to_string_lossy().into_owned());
    let is_new = !get(state, library)?.modules.contains_key(&context);
    let module = module_in(process, state, library, context)?;
    let function = *module::get(state, module)?
        .functions
        .get(&name)
        .ok_or(CUDA_ERROR_NOT_FOUND)?;
    if is_new {
        apply_attributes(process, state, library, module)?;
    }
    Ok(function)
}

fn apply_attributes(
    process: &Process,
    state: &mut State,
    library: Key<Library>,
    module: Key<Module>,
) -> Answer {
    for kernel in get(state, library)?.kernels.clone() {
        let Kernel {
            name, attributes, ..
        } = get_kernel(state, kernel)?;
        let (name, attributes) = (name.to_string_lossy().into_owned(), attributes.clone());
        let Some(function) = module::get(state, module)?.functions.get(&name).copied() else {
            continue;
        };
        for (attribute, value) in attributes {
            set_on(process, state, function, attribute, value)?;
        }
    }
    Ok(())
}

fn set_on(
    process: &Process,
    state: &mut State,
    function: Key<Function>,
    attribute: CUfunction_attribute,
    value: i32,
) -> Answer {
    let context = module::get_function(state, function)?.context;
    let device = context::get(state, context)?.device;
    let shared_bytes_max = process
        .devices
        .get(device)
        .ok_or(CUDA_ERROR_INVALID_DEVICE)?
        .profile
        .shared_bytes_per_block_max;
    let function = state
        .functions
        .get_mut(function)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    function.set_attribute(attribute, value, shared_bytes_max)
}

/// Sets an attribute of a kernel: of the functions that it has, and of those that it will have.
pub(crate) fn set_attribute(
    process: &Process,
    state: &mut State,
    kernel: Key<Kernel>,
    attribute: CUfunction_attribute,
    value: i32,
) -> Answer {
    let Kernel { library, name, .. } = get_kernel(state, kernel)?;
    let name = name.to_string_lossy().into_owned();
    let modules: Vec<_> = get(state, *library)?.modules.values().copied().collect();
    for module in modules {
        if let Some(function) = module::get(state, module)?.functions.get(&name).copied() {
            set_on(process, state, function, attribute, value)?;
        }
    }
    state
        .kernels
        .get_mut(kernel)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)?
        .attributes
        .insert(attribute, value);
    Ok(())
}

/// Ends a library with its kernels and modules, when all work is done.
pub(crate) fn unload(process: &Process, handle: CUlibrary) -> Answer {
    let pending = crate::stream::pending(&process.lock(), None);
    crate::stream::wait_all(process, &pending)?;
    let mut state = process.lock();
    let key = find(&state, handle)?;
    let library = state
        .libraries
        .remove(key)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    state.kernels.extract(|kernel| kernel.library == key);
    for module in library.modules.into_values() {
        module::remove(process, &mut state, module)?;
    }
    Ok(())
}
