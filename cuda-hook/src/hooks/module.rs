//! Modules, libraries and functions: their images lie in device memory, and only the driver knows how much of it.
//!
//! An image is charged to its context when it is loaded: with its module, or, where the driver is lazy, with the first use of a
//! function. What was used before is on record, so that a use costs one look-up.
#![expect(
    unsafe_code,
    reason = "reads the caller's names, and what the driver has written to its out-pointers"
)]

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use cuda_sys_stubs::abi::*;
use parking_lot::{Mutex, RwLock};
use rustc_hash::{FxBuildHasher, FxHashSet};

use crate::driver::Driver;
use crate::entry::Cx;
use crate::hooks::measure;
use crate::live::{Block, Key};

/// A use that may make the driver load something: once in each context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Use {
    context: usize,
    /// Of a module, library, kernel or function.
    handle: usize,
    /// Of what is asked of a module or library by name; 0: by handle; [`GET`], [`SET`].
    name_hash: u64,
}

/// In the place of a name's hash: an attribute of what has that handle is asked for.
pub(crate) const GET: u64 = u64::MAX;
/// One is set, for which a driver may not need the image that asking takes.
pub(crate) const SET: u64 = u64::MAX - 1;

/// What this process has used.
#[derive(Default)]
pub(crate) struct Used {
    seen: RwLock<FxHashSet<Use>>,
    recent: Recent,
    contexts_made: AtomicUsize,
    /// Of modules and libraries: the context that was current when they were loaded.
    loaded_in: Mutex<HashMap<usize, usize>>,
}

impl Used {
    /// A context was made: from the second on, uses are told apart by context.
    pub(crate) fn context_made(&self) {
        self.contexts_made.fetch_add(1, Ordering::Relaxed);
    }

    /// Something was unloaded, and its handle may name something else now; or what was used may take more from now on.
    pub(crate) fn forget(&self) {
        let mut seen = self.seen.write();
        seen.clear();
        self.recent.clear();
    }

    /// What tells the context apart: nothing, while there is but one.
    fn tell_apart(&self, context: impl FnOnce() -> CUcontext) -> usize {
        if self.contexts_made.load(Ordering::Relaxed) > 1 {
            context().addr()
        } else {
            0
        }
    }

    /// Whether a function was launched lately, in a process that has but one context.
    #[inline]
    pub(crate) fn is_recent(&self, function: CUfunction) -> bool {
        self.contexts_made.load(Ordering::Relaxed) <= 1 && self.recent.has(function.addr())
    }

    fn add(&self, one: Use) {
        let mut seen = self.seen.write();
        seen.insert(one);
        self.recent.add(one);
    }

    fn has(&self, one: Use) -> bool {
        let seen = self.seen.read();
        let has = seen.contains(&one);
        if has {
            self.recent.add(one);
        }
        has
    }
}

/// So many recent launches are known without a lock.
const RECENT: usize = 256;

/// Functions that were launched lately, in a process that has but one context: a steady launch finds its own here.
struct Recent([AtomicUsize; RECENT]);

impl Default for Recent {
    fn default() -> Self {
        Self([const { AtomicUsize::new(0) }; RECENT])
    }
}

impl Recent {
    #[inline]
    fn place(&self, handle: usize) -> Option<&AtomicUsize> {
        let hash = usize::try_from(FxBuildHasher.hash_one(handle)).ok()?;
        self.0.get(hash.checked_rem(RECENT)?)
    }

    #[inline]
    fn has(&self, handle: usize) -> bool {
        let there = |place: &AtomicUsize| place.load(Ordering::Acquire);
        handle != 0 && self.place(handle).map(there) == Some(handle)
    }

    /// With the lock of what was seen held, so that nothing is added while all is forgotten.
    fn add(&self, one: Use) {
        if one.context == 0
            && one.name_hash == 0
            && let Some(place) = self.place(one.handle)
        {
            place.store(one.handle, Ordering::Release);
        }
    }

    fn clear(&self) {
        let places = self.0.iter();
        places.for_each(|place| place.store(0, Ordering::Release));
    }
}

/// The context that `module` was loaded into, as long as that has anything on the books; else this thread's.
fn context_of(cx: Cx, module: CUmodule) -> CUcontext {
    let known = cx.attachment.used.loaded_in.lock().remove(&module.addr());
    let on_the_books = |context: &usize| {
        let owner = cx.attachment.greens.primary_of(*context);
        let is_grown = |key: &Key, _: &Block| *key == Key::Grown(owner);
        !cx.attachment.live.find_all(is_grown).is_empty()
    };
    known
        .filter(on_the_books)
        .map_or_else(|| current(cx), ptr::with_exposed_provenance_mut)
}

/// This thread's context; null without one.
fn current(cx: Cx) -> CUcontext {
    cx.driver.current_context().unwrap_or(ptr::null_mut())
}

/// `cuModuleLoad`, `cuLibraryLoadData` and their like; `unload` undoes them.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn load<T>(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    loaded: *mut *mut T,
    unload: fn(&Driver, *mut T) -> CUresult,
) -> CUresult {
    let context = current(cx);
    // SAFETY: the driver's promise: after success it has written there.
    let handle = || unsafe { loaded.read() };
    let status = measure::charged(cx, context, call, || unload(cx.driver, handle()));
    if status == CUDA_SUCCESS {
        let mut loaded_in = cx.attachment.used.loaded_in.lock();
        loaded_in.insert(handle().addr(), context.addr());
    }
    status
}

/// Calls, and measures what that loads into `context` if this is the first use there. It cannot be unloaded alone: `Err` says
/// that it is charged and beyond the quota.
#[inline]
fn first(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    (handle, name_hash): (usize, u64),
    context: impl Fn() -> CUcontext,
) -> (CUresult, Result<(), CUresult>) {
    let used = &cx.attachment.used;
    let this = Use {
        context: used.tell_apart(&context),
        handle,
        name_hash,
    };
    if used.has(this) {
        return (call(), Ok(()));
    }
    first_ever(cx, call, this, context())
}

#[inline(never)]
fn first_ever(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    this: Use,
    context: CUcontext,
) -> (CUresult, Result<(), CUresult>) {
    let (status, within) = measure::grown(cx, context, call);
    if status == CUDA_SUCCESS {
        cx.attachment.used.add(this);
    }
    (status, within)
}

/// The driver's answer, unless what it has loaded is beyond the quota.
fn answer((status, within): (CUresult, Result<(), CUresult>)) -> CUresult {
    within.map_or_else(|beyond| beyond, |()| status)
}

/// What uses a module, library, kernel or function by its handle.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn use_of<T>(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: *mut T,
) -> CUresult {
    answer(first(cx, call, (handle.addr(), 0), || current(cx)))
}

/// What asks or sets an attribute of a kernel or function. The driver may be able to without the image: then its first launch
/// loads it, and is measured for itself.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn attribute_of<T>(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: *mut T,
    get_or_set: u64,
) -> CUresult {
    let attribute = (handle.addr(), get_or_set);
    answer(first(cx, call, attribute, || current(cx)))
}

/// What looks a name up in a module or library.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn use_by_name<T>(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: *mut T,
    name: *const c_char,
) -> CUresult {
    if name.is_null() {
        return call();
    }
    let mut hasher = DefaultHasher::new();
    // SAFETY: the caller's promise: not null, and so a string.
    unsafe { CStr::from_ptr(name) }.hash(&mut hasher);
    let name_hash = hasher.finish().max(1);
    answer(first(cx, call, (handle.addr(), name_hash), || current(cx)))
}

/// The parameters of a kernel node, in both versions.
pub(crate) trait KernelNode {
    /// The handle of what it launches.
    fn function(&self) -> usize;
}

impl KernelNode for CUDA_KERNEL_NODE_PARAMS_v1 {
    fn function(&self) -> usize {
        self.func.addr()
    }
}

impl KernelNode for CUDA_KERNEL_NODE_PARAMS_v2 {
    fn function(&self) -> usize {
        if self.func.is_null() {
            self.kern.addr()
        } else {
            self.func.addr()
        }
    }
}

/// Kernel nodes of graphs, made and changed. The node is there: what it loads beyond the quota is charged, not refused.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn use_of_node(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    params: *const impl KernelNode,
) -> CUresult {
    // SAFETY: the caller's promise: null or its parameters.
    let Some(params) = (unsafe { params.as_ref() }) else {
        return call();
    };
    first(cx, call, (params.function(), 0), || current(cx)).0
}

/// The same of nodes of any kind.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn use_of_any_node(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    params: *const CUgraphNodeParams,
) -> CUresult {
    // SAFETY: the caller's promise: null or its parameters, of which those of the kind that they name are there.
    let kernel = unsafe { params.as_ref() }
        .filter(|params| params.type_ == CU_GRAPH_NODE_TYPE_KERNEL)
        .map_or(ptr::null(), |params| &raw const params.anonymous.kernel);
    // SAFETY: as of this hook.
    unsafe { use_of_node(cx, call, kernel) }
}

/// Launches `function` on `stream`; its first launch may load it. What is launched runs: beyond the quota it is charged, not refused.
#[inline]
pub(crate) fn launched(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    function: CUfunction,
    stream: CUstream,
) -> CUresult {
    if cx.attachment.used.is_recent(function) {
        return call();
    }
    let context = || cx.driver.context_of(stream).unwrap_or(ptr::null_mut());
    first(cx, call, (function.addr(), 0), context).0
}

/// `cuModuleUnload`: in the context that it was loaded into, whichever is current.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn unload(cx: Cx, call: impl FnOnce() -> CUresult, module: CUmodule) -> CUresult {
    let context = context_of(cx, module);
    let status = measure::uncharged(cx, [context], call);
    let used = &cx.attachment.used;
    if status != CUDA_SUCCESS {
        let mut loaded_in = used.loaded_in.lock();
        loaded_in.insert(module.addr(), context.addr());
    }
    used.forget();
    status
}

/// `cuLibraryUnload`: in every context that it was loaded into.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn unload_library(cx: Cx, call: impl FnOnce() -> CUresult) -> CUresult {
    // One context of each device: what the others hold of it is found there.
    let one_each: HashMap<usize, usize> = cx
        .attachment
        .live
        .find_all(|key, _| matches!(key, Key::Grown(_)))
        .into_iter()
        .map(|(_, block)| (block.device_index, block.owner.context))
        .collect();
    let contexts = one_each.into_values().map(ptr::with_exposed_provenance_mut);
    let status = measure::uncharged(cx, contexts, call);
    cx.attachment.used.forget();
    status
}
