//! THE interception surface: one row per hooked symbol.
//!
//! A row names the effect on a quota (as `cuda-sys-stubs` has it, test below), the symbol with the driver's own signature,
//! and the hook with what it is given of the arguments. From it come the exported function, the check that its type is
//! the ABI's, the slot for the real address, and the entry by which `dlsym` and `cuGetProcAddress` know it. The table holds
//! no logic. What has an effect and no row stands in `not_yet.rs`, with the reason.
#![expect(
    unsafe_code,
    reason = "exports C functions and calls the driver's through the rows"
)]
#![expect(
    non_snake_case,
    reason = "functions and arguments are named as the driver's"
)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::mem::offset_of;

use cuda_sys_stubs::abi::*;
use cuda_sys_stubs::nvml_abi::*;
use cuda_sys_stubs::{Effect, nvml_pfn, pfn};

use crate::driver::{Driver, Nvml, functions};
use crate::entry::{self, Cuda, Management, Row};
use crate::fault::{self, Moment};
use crate::hooks::{
    array, capture, context, graph_memory, green, launch, memory, module, nvml, pool, processes,
    report, spill, utilization, vmm,
};
use crate::jump::straight_jump;
use crate::lookup;

/// The hooked symbols of a library, as lookups see them. Few addresses stand in it, on purpose: each is set right in every process that
/// loads this library.
pub(crate) struct Hooks {
    /// The exported names in the order of the rows, one behind the other.
    names: &'static str,
    /// How long each is.
    lengths: &'static [usize],
    /// What each does to a quota.
    #[cfg(test)]
    effects: &'static [Effect],
    /// Our function of that row.
    ours: fn(usize) -> *mut c_void,
}

impl Hooks {
    fn names(&self) -> impl Iterator<Item = &'static str> {
        let mut rest = self.names;
        self.lengths.iter().map_while(move |&length| {
            let (name, after) = rest.split_at_checked(length)?;
            rest = after;
            Some(name)
        })
    }

    fn by_name(&self, name: &CStr) -> Option<*mut c_void> {
        let name = name.to_bytes();
        let row = self.names().position(|known| known.as_bytes() == name)?;
        Some((self.ours)(row))
    }

    /// Each symbol with its effect.
    #[cfg(test)]
    pub(crate) fn symbols(&self) -> impl Iterator<Item = (&'static str, Effect)> {
        self.names().zip(self.effects.iter().copied())
    }
}

/// A symbol's name for C; empty, and so never found, if it were no C string.
pub(crate) const fn c_name(with_nul: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(with_nul.as_bytes()) {
        Ok(name) => name,
        Err(_) => c"",
    }
}

/// The door through which a row's calls come in: by effect, because a hook before the attachment is given other things.
macro_rules! door {
    (Cuda Attach) => {
        entry::enter::<Cuda>
    };
    (Cuda Lookup) => {
        entry::enter::<Cuda>
    };
    (Cuda $effect:ident) => {
        entry::enter_attached::<Cuda>
    };
    (Management $effect:ident) => {
        entry::enter::<Management>
    };
}

/// The exported function of a row, and `hooked`, where its calls go under limits. Without limits a call is two loads and a jump: what comes
/// after needs a frame of its own.
macro_rules! export {
    ($api:ident $name:ident ($($argument:ident: $type:ty),*) hooked $hooked:block) => {
        #[cfg_attr(not(test), unsafe(no_mangle))] // a test binary must not interpose itself
        unsafe extern "C" fn $name($($argument: $type),*) -> c_uint {
            if let Some(real) = entry::without_limits::<$api>().and_then(|library| library.rows.$name) {
                // SAFETY: the real function of that type, under the contract that the caller keeps with it.
                return unsafe { real($($argument),*) };
            }
            #[inline(never)]
            unsafe extern "C" fn hooked($($argument: $type),*) -> c_uint $hooked
            // SAFETY: the caller's own contract.
            unsafe { hooked($($argument),*) }
        }
    };
    // Where there is nothing to be done about a call, which `unless` says, it is a jump, too: no argument is handed on twice.
    (Cuda $name:ident ($($argument:ident: $type:ty),*) unless $module:ident::$steady:ident($($told:expr),*) hooked $hooked:block) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[unsafe(naked)]
        unsafe extern "C" fn $name($($argument: $type),*) -> c_uint {
            /// Of the arguments only those in registers are there.
            #[allow(unused_variables, reason = "what makes a call steady is the function that it launches")]
            unsafe extern "C" fn straight($($argument: $type),*) -> Option<pfn::$name> {
                entry::straight(|cx| $module::$steady(cx, $($told),*))?.rows.$name
            }
            unsafe extern "C" fn hooked($($argument: $type),*) -> c_uint $hooked
            std::arch::naked_asm!(
                straight_jump!(),
                open = sym entry::OPEN_DRIVER,
                row = const offset_of!(Driver, rows) + offset_of!(DriverRows, $name),
                straight = sym straight,
                hooked = sym hooked,
            )
        }
    };
}

macro_rules! hooks {
    (
        $api:ident => $library:ident in $types:ident,
        $(#[$rows_meta:meta])* $rows:ident, $(#[$hooks_meta:meta])* $hooks:ident:
        $( $effect:ident fn $name:ident($($argument:ident: $type:ty),* $(,)?) => $module:ident::$hook:ident($($given:expr),* $(,)?) $(unless $steady_module:ident::$steady:ident($($told:expr),*))?; )*
    ) => {
        functions! { $(#[$rows_meta])* pub(crate) struct $rows from $types { $($name),* } }

        $(
            export! { $api $name ($($argument: $type),*) $(unless $steady_module::$steady($($told),*))? hooked {
                let forward = |library: &'static $library| match library.rows.$name {
                    // SAFETY: the real function of that type, under the contract that the caller keeps with it.
                    Some(real) => unsafe { real($($argument),*) },
                    None => <$api as entry::Api>::NO_FUNCTION,
                };
                door!($api $effect)(
                    Row { symbol: stringify!($name), effect: Effect::$effect },
                    forward,
                    |cx| {
                        let library = cx.library();
                        fault::point(stringify!($name), Moment::Before);
                        let call = || {
                            let status = forward(library);
                            fault::point(stringify!($name), Moment::After);
                            status
                        };
                        // SAFETY: the arguments are the caller's, under the driver's contract for them.
                        unsafe { $module::$hook(cx, call, $($given),*) }
                    },
                )
            } }
            // A row that disagrees with the ABI does not compile.
            const _: $types::$name = $name;
        )*

        $(#[$hooks_meta])*
        pub(crate) static $hooks: Hooks = Hooks {
            names: concat!($( stringify!($name) ),*),
            lengths: &[ $( stringify!($name).len() ),* ],
            #[cfg(test)]
            effects: &[ $( Effect::$effect ),* ],
            ours: |row| {
                #[expect(non_camel_case_types, reason = "the functions' own names")]
                enum Place { $( $name ),* }
                $( if row == Place::$name as usize { return $name as $types::$name as *mut c_void; } )*
                std::ptr::null_mut()
            },
        };

        hooks!(@swap $api, $library, $hooks, $($name),*);
    };
    (@swap Cuda, $library:ident, $hooks:ident, $($name:ident),*) => {
        impl $library {
            /// Our function in the place of the real one at `theirs`; `None` if that is not hooked.
            pub(crate) fn ours_for(&self, theirs: *mut c_void) -> Option<*mut c_void> {
                let real_addresses = [ $( self.rows.$name.map_or(std::ptr::null_mut(), |real| real as *mut c_void), )* ];
                let row = real_addresses.iter().position(|&real| !real.is_null() && real == theirs)?;
                Some(($hooks.ours)(row))
            }
        }
    };
    // NVML has no lookup of its own that hands out addresses by name.
    (@swap Management, $($ignored:tt)*) => {};
}

hooks! {
    Cuda => Driver in pfn,
    /// The driver's functions that rows forward to.
    DriverRows,
    /// The hooked symbols of the driver.
    DRIVER_HOOKS:

    Attach fn cuInit(Flags: c_uint) => context::init();

    Lookup fn cuGetProcAddress(symbol: *const c_char, pfn: *mut *mut c_void, cudaVersion: c_int, flags: u64) => lookup::get_proc_address(symbol, pfn);
    Lookup fn cuGetProcAddress_v2(symbol: *const c_char, pfn: *mut *mut c_void, cudaVersion: c_int, flags: u64, symbolStatus: *mut CUdriverProcAddressQueryResult) => lookup::get_proc_address_v2(symbol, pfn, symbolStatus);

    // Contexts: they take memory themselves, and their end is the end of what was allocated in them.
    Charge   fn cuCtxCreate(pctx: *mut CUcontext, flags: c_uint, dev: CUdevice) => context::create(pctx, dev);
    Charge   fn cuCtxCreate_v2(pctx: *mut CUcontext, flags: c_uint, dev: CUdevice) => context::create(pctx, dev);
    Charge   fn cuCtxCreate_v3(pctx: *mut CUcontext, paramsArray: *mut CUexecAffinityParam, numParams: c_int, flags: c_uint, dev: CUdevice) => context::create(pctx, dev);
    Charge   fn cuCtxCreate_v4(pctx: *mut CUcontext, ctxCreateParams: *mut CUctxCreateParams, flags: c_uint, dev: CUdevice) => context::create(pctx, dev);
    Charge   fn cuGLCtxCreate(pCtx: *mut CUcontext, Flags: c_uint, device: CUdevice) => context::create(pCtx, device);
    Charge   fn cuGLCtxCreate_v2(pCtx: *mut CUcontext, Flags: c_uint, device: CUdevice) => context::create(pCtx, device);
    Charge   fn cuVDPAUCtxCreate(pCtx: *mut CUcontext, flags: c_uint, device: CUdevice, vdpDevice: VdpDevice, vdpGetProcAddress: *mut VdpGetProcAddress) => context::create(pCtx, device);
    Charge   fn cuVDPAUCtxCreate_v2(pCtx: *mut CUcontext, flags: c_uint, device: CUdevice, vdpDevice: VdpDevice, vdpGetProcAddress: *mut VdpGetProcAddress) => context::create(pCtx, device);
    Charge   fn cuDevicePrimaryCtxRetain(pctx: *mut CUcontext, dev: CUdevice) => context::retain_primary(pctx, dev);
    Charge   fn cuGreenCtxCreate(phCtx: *mut CUgreenCtx, desc: CUdevResourceDesc, dev: CUdevice, flags: c_uint) => green::create(phCtx, dev);
    Uncharge fn cuGreenCtxDestroy(hCtx: CUgreenCtx) => green::destroy(hCtx);
    Charge   fn cuCtxSetLimit(limit: CUlimit, value: usize) => context::set_limit(limit);
    Track    fn cuCtxAttach(pctx: *mut CUcontext, flags: c_uint) => context::attach(pctx);
    Uncharge fn cuCtxDetach(ctx: CUcontext) => context::detach(ctx);
    Uncharge fn cuCtxDestroy(ctx: CUcontext) => context::destroy(ctx);
    Uncharge fn cuCtxDestroy_v2(ctx: CUcontext) => context::destroy(ctx);
    Uncharge fn cuDevicePrimaryCtxRelease(dev: CUdevice) => context::release_primary(dev);
    Uncharge fn cuDevicePrimaryCtxRelease_v2(dev: CUdevice) => context::release_primary(dev);
    Uncharge fn cuDevicePrimaryCtxReset(dev: CUdevice) => context::reset_primary(dev);
    Uncharge fn cuDevicePrimaryCtxReset_v2(dev: CUdevice) => context::reset_primary(dev);

    // Images of modules and libraries, loaded with them or with the first use of a function.
    Charge   fn cuModuleLoad(module: *mut CUmodule, fname: *const c_char) => module::load(module, Driver::unload_module);
    Charge   fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) => module::load(module, Driver::unload_module);
    Charge   fn cuModuleLoadDataEx(module: *mut CUmodule, image: *const c_void, numOptions: c_uint, options: *mut CUjit_option, optionValues: *mut *mut c_void) => module::load(module, Driver::unload_module);
    Charge   fn cuModuleLoadFatBinary(module: *mut CUmodule, fatCubin: *const c_void) => module::load(module, Driver::unload_module);
    Uncharge fn cuModuleUnload(hmod: CUmodule) => module::unload(hmod);
    Charge   fn cuLibraryLoadData(library: *mut CUlibrary, code: *const c_void, jitOptions: *mut CUjit_option, jitOptionsValues: *mut *mut c_void, numJitOptions: c_uint, libraryOptions: *mut CUlibraryOption, libraryOptionValues: *mut *mut c_void, numLibraryOptions: c_uint) => module::load(library, Driver::unload_library);
    Charge   fn cuLibraryLoadFromFile(library: *mut CUlibrary, fileName: *const c_char, jitOptions: *mut CUjit_option, jitOptionsValues: *mut *mut c_void, numJitOptions: c_uint, libraryOptions: *mut CUlibraryOption, libraryOptionValues: *mut *mut c_void, numLibraryOptions: c_uint) => module::load(library, Driver::unload_library);
    Uncharge fn cuLibraryUnload(library: CUlibrary) => module::unload_library();
    Charge   fn cuModuleGetFunction(hfunc: *mut CUfunction, hmod: CUmodule, name: *const c_char) => module::use_by_name(hmod, name);
    Charge   fn cuModuleGetGlobal(dptr: *mut CUdeviceptr_v1, bytes: *mut c_uint, hmod: CUmodule, name: *const c_char) => module::use_by_name(hmod, name);
    Charge   fn cuModuleGetGlobal_v2(dptr: *mut CUdeviceptr, bytes: *mut usize, hmod: CUmodule, name: *const c_char) => module::use_by_name(hmod, name);
    Charge   fn cuLibraryGetModule(pMod: *mut CUmodule, library: CUlibrary) => module::use_of(library);
    Charge   fn cuLibraryGetGlobal(dptr: *mut CUdeviceptr, bytes: *mut usize, library: CUlibrary, name: *const c_char) => module::use_by_name(library, name);
    Charge   fn cuLibraryGetManaged(dptr: *mut CUdeviceptr, bytes: *mut usize, library: CUlibrary, name: *const c_char) => module::use_by_name(library, name);
    Charge   fn cuKernelGetFunction(pFunc: *mut CUfunction, kernel: CUkernel) => module::use_of(kernel);
    Charge   fn cuKernelGetAttribute(pi: *mut c_int, attrib: CUfunction_attribute, kernel: CUkernel, dev: CUdevice) => module::attribute_of(kernel, module::GET);
    Charge   fn cuKernelSetAttribute(attrib: CUfunction_attribute, val: c_int, kernel: CUkernel, dev: CUdevice) => module::attribute_of(kernel, module::SET);
    Charge   fn cuFuncGetAttribute(pi: *mut c_int, attrib: CUfunction_attribute, hfunc: CUfunction) => module::attribute_of(hfunc, module::GET);
    Charge   fn cuFuncSetAttribute(hfunc: CUfunction, attrib: CUfunction_attribute, value: c_int) => module::attribute_of(hfunc, module::SET);
    Charge   fn cuFuncGetModule(hmod: *mut CUmodule, hfunc: CUfunction) => module::use_of(hfunc);
    Charge   fn cuFuncLoad(function: CUfunction) => module::use_of(function);
    // The program's function is called inside of calls that record.
    Track    fn cuStreamBeginRecaptureToGraph(hStream: CUstream, mode: CUstreamCaptureMode, hGraph: CUgraph, callbackFunc: CUgraphRecaptureCallback, userData: *mut c_void) => capture::begin_again((hStream, mode, hGraph), (callbackFunc, userData));
    Track    fn cuStreamBeginRecaptureToGraph_ptsz(hStream: CUstream, mode: CUstreamCaptureMode, hGraph: CUgraph, callbackFunc: CUgraphRecaptureCallback, userData: *mut c_void) => capture::begin_again_per_thread((hStream, mode, hGraph), (callbackFunc, userData));
    Track    fn cuGraphAddKernelNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, dependencies: *const CUgraphNode, numDependencies: usize, nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1) => module::use_of_node(nodeParams);
    Track    fn cuGraphAddKernelNode_v2(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, dependencies: *const CUgraphNode, numDependencies: usize, nodeParams: *const CUDA_KERNEL_NODE_PARAMS) => module::use_of_node(nodeParams);
    Track    fn cuGraphAddNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, dependencies: *const CUgraphNode, numDependencies: usize, nodeParams: *mut CUgraphNodeParams) => module::use_of_any_node(nodeParams);
    Track    fn cuGraphAddNode_v2(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, dependencies: *const CUgraphNode, dependencyData: *const CUgraphEdgeData, numDependencies: usize, nodeParams: *mut CUgraphNodeParams) => module::use_of_any_node(nodeParams);
    Track    fn cuGraphAddNode_v3(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, dependencies: *const CUgraphNode, dependencyData: *const CUgraphEdgeData, numDependencies: usize, nodeParams: *mut CUgraphNodeParams) => module::use_of_any_node(nodeParams);
    Track    fn cuGraphNodeSetParams(hNode: CUgraphNode, nodeParams: *mut CUgraphNodeParams) => module::use_of_any_node(nodeParams);
    Track    fn cuGraphNodeSetParams_v2(hNode: CUgraphNode, nodeParams: *mut CUgraphNodeParams) => module::use_of_any_node(nodeParams);
    Track    fn cuGraphExecNodeSetParams(hGraphExec: CUgraphExec, hNode: CUgraphNode, nodeParams: *mut CUgraphNodeParams) => module::use_of_any_node(nodeParams);
    Track    fn cuGraphKernelNodeSetParams(hNode: CUgraphNode, nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1) => module::use_of_node(nodeParams);
    Track    fn cuGraphKernelNodeSetParams_v2(hNode: CUgraphNode, nodeParams: *const CUDA_KERNEL_NODE_PARAMS) => module::use_of_node(nodeParams);
    Track    fn cuGraphExecKernelNodeSetParams(hGraphExec: CUgraphExec, hNode: CUgraphNode, nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1) => module::use_of_node(nodeParams);
    Track    fn cuGraphExecKernelNodeSetParams_v2(hGraphExec: CUgraphExec, hNode: CUgraphNode, nodeParams: *const CUDA_KERNEL_NODE_PARAMS) => module::use_of_node(nodeParams);

    // Linear memory. The first versions are the 32-bit ABI of CUDA before 3.2.
    Charge   fn cuMemAlloc(dptr: *mut CUdeviceptr_v1, bytesize: c_uint) => memory::alloc(dptr, bytesize);
    Charge   fn cuMemAlloc_v2(dptr: *mut CUdeviceptr, bytesize: usize) => spill::alloc(dptr, bytesize);
    Charge   fn cuMemAllocManaged(dptr: *mut CUdeviceptr, bytesize: usize, flags: c_uint) => memory::alloc(dptr, bytesize);
    Charge   fn cuMemAllocPitch(dptr: *mut CUdeviceptr_v1, pPitch: *mut c_uint, WidthInBytes: c_uint, Height: c_uint, ElementSizeBytes: c_uint) => memory::alloc_pitch(dptr, pPitch, WidthInBytes, Height);
    Charge   fn cuMemAllocPitch_v2(dptr: *mut CUdeviceptr, pPitch: *mut usize, WidthInBytes: usize, Height: usize, ElementSizeBytes: c_uint) => memory::alloc_pitch(dptr, pPitch, WidthInBytes, Height);
    Uncharge fn cuMemFree(dptr: CUdeviceptr_v1) => memory::free(u64::from(dptr));
    Uncharge fn cuMemFree_v2(dptr: CUdeviceptr) => memory::free(dptr);

    // Pools, in stream order.
    Charge   fn cuMemAllocAsync(dptr: *mut CUdeviceptr, bytesize: usize, hStream: CUstream) => pool::alloc(dptr, bytesize, hStream);
    Charge   fn cuMemAllocAsync_ptsz(dptr: *mut CUdeviceptr, bytesize: usize, hStream: CUstream) => pool::alloc(dptr, bytesize, launch::per_thread(hStream));
    Charge   fn cuMemAllocFromPoolAsync(dptr: *mut CUdeviceptr, bytesize: usize, pool: CUmemoryPool, hStream: CUstream) => pool::alloc_from(dptr, bytesize, pool, hStream);
    Charge   fn cuMemAllocFromPoolAsync_ptsz(dptr: *mut CUdeviceptr, bytesize: usize, pool: CUmemoryPool, hStream: CUstream) => pool::alloc_from(dptr, bytesize, pool, launch::per_thread(hStream));
    Uncharge fn cuMemFreeAsync(dptr: CUdeviceptr, hStream: CUstream) => pool::free(dptr, hStream);
    Uncharge fn cuMemFreeAsync_ptsz(dptr: CUdeviceptr, hStream: CUstream) => pool::free(dptr, launch::per_thread(hStream));
    Track    fn cuMemPoolCreate(pool: *mut CUmemoryPool, poolProps: *const CUmemPoolProps) => pool::create(pool, poolProps);
    Uncharge fn cuMemPoolDestroy(pool: CUmemoryPool) => pool::destroy(pool);
    Uncharge fn cuMemPoolTrimTo(pool: CUmemoryPool, minBytesToKeep: usize) => pool::shrink(pool);
    Track    fn cuMemPoolSetAttribute(pool: CUmemoryPool, attr: CUmemPool_attribute, value: *mut c_void) => pool::shrink(pool);

    // Memory that graphs allocate: it is taken at launch or upload, and kept.
    Charge   fn cuGraphInstantiate(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, phErrorNode: *mut CUgraphNode, logBuffer: *mut c_char, bufferSize: usize) => graph_memory::instantiate(phGraphExec, hGraph, 0);
    Charge   fn cuGraphInstantiate_v2(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, phErrorNode: *mut CUgraphNode, logBuffer: *mut c_char, bufferSize: usize) => graph_memory::instantiate(phGraphExec, hGraph, 0);
    Charge   fn cuGraphInstantiateWithFlags(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, flags: c_ulonglong) => graph_memory::instantiate(phGraphExec, hGraph, flags);
    Charge   fn cuGraphInstantiateWithParams(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, instantiateParams: *mut CUDA_GRAPH_INSTANTIATE_PARAMS) => graph_memory::instantiate_with(phGraphExec, hGraph, instantiateParams);
    Charge   fn cuGraphInstantiateWithParams_ptsz(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, instantiateParams: *mut CUDA_GRAPH_INSTANTIATE_PARAMS) => graph_memory::instantiate_with(phGraphExec, hGraph, instantiateParams);
    Charge   fn cuGraphUpload(hGraph: CUgraphExec, hStream: CUstream) => graph_memory::upload(hGraph);
    Charge   fn cuGraphUpload_ptsz(hGraphExec: CUgraphExec, hStream: CUstream) => graph_memory::upload(hGraphExec);
    Track    fn cuGraphExecUpdate(hGraphExec: CUgraphExec, hGraph: CUgraph, hErrorNode_out: *mut CUgraphNode, updateResult_out: *mut CUgraphExecUpdateResult) => graph_memory::update(hGraphExec, hGraph);
    Track    fn cuGraphExecUpdate_v2(hGraphExec: CUgraphExec, hGraph: CUgraph, resultInfo: *mut CUgraphExecUpdateResultInfo) => graph_memory::update(hGraphExec, hGraph);
    Uncharge fn cuGraphExecDestroy(hGraphExec: CUgraphExec) => graph_memory::destroy(hGraphExec);
    Uncharge fn cuDeviceGraphMemTrim(device: CUdevice) => graph_memory::trim(device);

    // Virtual memory management: memory lives as long as a handle or a mapping of it does.
    Charge   fn cuMemCreate(handle: *mut CUmemGenericAllocationHandle, size: usize, prop: *const CUmemAllocationProp, flags: c_ulonglong) => vmm::create(handle, size, prop);
    Track    fn cuMemMap(ptr: CUdeviceptr, size: usize, offset: usize, handle: CUmemGenericAllocationHandle, flags: c_ulonglong) => vmm::map(ptr, size, handle);
    Track    fn cuMemRetainAllocationHandle(handle: *mut CUmemGenericAllocationHandle, addr: *mut c_void) => vmm::retain(handle, addr);
    Uncharge fn cuMemRelease(handle: CUmemGenericAllocationHandle) => vmm::release(handle);
    Uncharge fn cuMemUnmap(ptr: CUdeviceptr, size: usize) => vmm::unmap(ptr, size);

    // What else keeps that memory: descriptors, multicast objects, logical endpoints, sparse arrays.
    Track    fn cuMemExportToShareableHandle(shareableHandle: *mut c_void, handle: CUmemGenericAllocationHandle, handleType: CUmemAllocationHandleType, flags: c_ulonglong) => vmm::export(handle);
    Track    fn cuMemImportFromShareableHandle(handle: *mut CUmemGenericAllocationHandle, osHandle: *mut c_void, shHandleType: CUmemAllocationHandleType) => vmm::import(handle);
    Track    fn cuMemGetHandleForAddressRange(handle: *mut c_void, dptr: CUdeviceptr, size: usize, handleType: CUmemRangeHandleType, flags: c_ulonglong) => vmm::export_range(dptr, size);
    Track    fn cuMulticastCreate(mcHandle: *mut CUmemGenericAllocationHandle, prop: *const CUmulticastObjectProp) => vmm::create_multicast(mcHandle);
    Track    fn cuMulticastBindMem(mcHandle: CUmemGenericAllocationHandle, mcOffset: usize, memHandle: CUmemGenericAllocationHandle, memOffset: usize, size: usize, flags: c_ulonglong) => vmm::bind_multicast(mcHandle, (None, mcOffset, size), vmm::Bound::Handle(memHandle));
    Track    fn cuMulticastBindMem_v2(mcHandle: CUmemGenericAllocationHandle, dev: CUdevice, mcOffset: usize, memHandle: CUmemGenericAllocationHandle, memOffset: usize, size: usize, flags: c_ulonglong) => vmm::bind_multicast(mcHandle, (Some(dev), mcOffset, size), vmm::Bound::Handle(memHandle));
    Track    fn cuMulticastBindAddr(mcHandle: CUmemGenericAllocationHandle, mcOffset: usize, memptr: CUdeviceptr, size: usize, flags: c_ulonglong) => vmm::bind_multicast(mcHandle, (None, mcOffset, size), vmm::Bound::Address(memptr));
    Track    fn cuMulticastBindAddr_v2(mcHandle: CUmemGenericAllocationHandle, dev: CUdevice, mcOffset: usize, memptr: CUdeviceptr, size: usize, flags: c_ulonglong) => vmm::bind_multicast(mcHandle, (Some(dev), mcOffset, size), vmm::Bound::Address(memptr));
    Uncharge fn cuMulticastUnbind(mcHandle: CUmemGenericAllocationHandle, dev: CUdevice, mcOffset: usize, size: usize) => vmm::unbind_multicast(mcHandle, (dev, mcOffset, size));
    Track    fn cuLogicalEndpointBindMem(leId: CUlogicalEndpointId, dev: CUdevice, offset: u64, memHandle: CUmemGenericAllocationHandle, memOffset: u64, size: u64, flags: c_ulonglong) => vmm::bind_endpoint(leId, (dev, offset, size), vmm::Bound::Handle(memHandle));
    Track    fn cuLogicalEndpointBindAddr(leId: CUlogicalEndpointId, dev: CUdevice, offset: u64, ptr: *mut c_void, size: u64, flags: c_ulonglong) => vmm::bind_endpoint(leId, (dev, offset, size), vmm::Bound::Address(memory::Word::get(ptr.addr())));
    Uncharge fn cuLogicalEndpointUnbind(leId: CUlogicalEndpointId, dev: CUdevice, offset: u64, size: u64) => vmm::unbind_endpoint(leId, (dev, offset, size));
    Uncharge fn cuLogicalEndpointDestroy(leId: CUlogicalEndpointId) => vmm::destroy_endpoint(leId);
    Track    fn cuMemMapArrayAsync(mapInfoList: *mut CUarrayMapInfo, count: c_uint, hStream: CUstream) => vmm::map_array(mapInfoList, count);
    Track    fn cuMemMapArrayAsync_ptsz(mapInfoList: *mut CUarrayMapInfo, count: c_uint, hStream: CUstream) => vmm::map_array(mapInfoList, count);

    // Arrays. The first versions are the 32-bit ABI of CUDA before 3.2.
    Charge   fn cuArrayCreate(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY_DESCRIPTOR_v1) => array::create(pHandle, pAllocateArray);
    Charge   fn cuArray3DCreate(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY3D_DESCRIPTOR_v1) => array::create(pHandle, pAllocateArray);
    Charge   fn cuArrayCreate_v2(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY_DESCRIPTOR) => array::create(pHandle, pAllocateArray);
    Charge   fn cuArray3DCreate_v2(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY3D_DESCRIPTOR) => array::create(pHandle, pAllocateArray);
    Charge   fn cuMipmappedArrayCreate(pHandle: *mut CUmipmappedArray, pMipmappedArrayDesc: *const CUDA_ARRAY3D_DESCRIPTOR, numMipmapLevels: c_uint) => array::create_mipmapped(pHandle, pMipmappedArrayDesc, numMipmapLevels);
    Uncharge fn cuArrayDestroy(hArray: CUarray) => array::destroy(hArray.addr());
    Uncharge fn cuMipmappedArrayDestroy(hMipmappedArray: CUmipmappedArray) => array::destroy(hMipmappedArray.addr());

    // What a program is told about its GPU.
    Report   fn cuDeviceTotalMem(bytes: *mut c_uint, dev: CUdevice) => report::total_memory(bytes, dev);
    Report   fn cuDeviceTotalMem_v2(bytes: *mut usize, dev: CUdevice) => report::total_memory(bytes, dev);
    Report   fn cuMemGetInfo(free: *mut c_uint, total: *mut c_uint) => report::memory_info(free, total);
    Report   fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) => report::memory_info(free, total);

    // Launches.
    Throttle fn cuLaunch(f: CUfunction) => launch::kernel(f, [0; 3], [0; 3], 0, launch::DEFAULT_STREAM) unless launch::is_steady(f);
    Throttle fn cuLaunchGrid(f: CUfunction, grid_width: c_int, grid_height: c_int) => launch::kernel(f, [grid_width.cast_unsigned(), grid_height.cast_unsigned(), 1], [0; 3], 0, launch::DEFAULT_STREAM) unless launch::is_steady(f);
    Throttle fn cuLaunchGridAsync(f: CUfunction, grid_width: c_int, grid_height: c_int, hStream: CUstream) => launch::kernel(f, [grid_width.cast_unsigned(), grid_height.cast_unsigned(), 1], [0; 3], 0, hStream) unless launch::is_steady(f);
    Throttle fn cuLaunchKernel(f: CUfunction, gridDimX: c_uint, gridDimY: c_uint, gridDimZ: c_uint, blockDimX: c_uint, blockDimY: c_uint, blockDimZ: c_uint, sharedMemBytes: c_uint, hStream: CUstream, kernelParams: *mut *mut c_void, extra: *mut *mut c_void) => launch::kernel(f, [gridDimX, gridDimY, gridDimZ], [blockDimX, blockDimY, blockDimZ], sharedMemBytes, hStream) unless launch::is_steady(f);
    Throttle fn cuLaunchKernel_ptsz(f: CUfunction, gridDimX: c_uint, gridDimY: c_uint, gridDimZ: c_uint, blockDimX: c_uint, blockDimY: c_uint, blockDimZ: c_uint, sharedMemBytes: c_uint, hStream: CUstream, kernelParams: *mut *mut c_void, extra: *mut *mut c_void) => launch::kernel(f, [gridDimX, gridDimY, gridDimZ], [blockDimX, blockDimY, blockDimZ], sharedMemBytes, launch::per_thread(hStream)) unless launch::is_steady(f);
    Throttle fn cuLaunchCooperativeKernel(f: CUfunction, gridDimX: c_uint, gridDimY: c_uint, gridDimZ: c_uint, blockDimX: c_uint, blockDimY: c_uint, blockDimZ: c_uint, sharedMemBytes: c_uint, hStream: CUstream, kernelParams: *mut *mut c_void) => launch::kernel(f, [gridDimX, gridDimY, gridDimZ], [blockDimX, blockDimY, blockDimZ], sharedMemBytes, hStream) unless launch::is_steady(f);
    Throttle fn cuLaunchCooperativeKernel_ptsz(f: CUfunction, gridDimX: c_uint, gridDimY: c_uint, gridDimZ: c_uint, blockDimX: c_uint, blockDimY: c_uint, blockDimZ: c_uint, sharedMemBytes: c_uint, hStream: CUstream, kernelParams: *mut *mut c_void) => launch::kernel(f, [gridDimX, gridDimY, gridDimZ], [blockDimX, blockDimY, blockDimZ], sharedMemBytes, launch::per_thread(hStream)) unless launch::is_steady(f);
    Throttle fn cuLaunchKernelEx(config: *const CUlaunchConfig, f: CUfunction, kernelParams: *mut *mut c_void, extra: *mut *mut c_void) => launch::kernel_ex(config, f, launch::as_given) unless launch::is_steady(f);
    Throttle fn cuLaunchKernelEx_ptsz(config: *const CUlaunchConfig, f: CUfunction, kernelParams: *mut *mut c_void, extra: *mut *mut c_void) => launch::kernel_ex(config, f, launch::per_thread) unless launch::is_steady(f);
    Throttle fn cuLaunchCooperativeKernelMultiDevice(launchParamsList: *mut CUDA_LAUNCH_PARAMS, numDevices: c_uint, flags: c_uint) => launch::multi_device(launchParamsList, numDevices);
    Throttle fn cuGraphLaunch(hGraph: CUgraphExec, hStream: CUstream) => graph_memory::launch(hGraph, hStream);
    Throttle fn cuGraphLaunch_ptsz(hGraphExec: CUgraphExec, hStream: CUstream) => graph_memory::launch(hGraphExec, launch::per_thread(hStream));
}

hooks! {
    Management => Nvml in nvml_pfn,
    /// NVML's functions that rows forward to.
    NvmlRows,
    /// The hooked symbols of NVML.
    NVML_HOOKS:

    Report fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) => nvml::memory_info(device, memory);
    Report fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) => nvml::memory_info(device, memory);
    Report fn nvmlDeviceGetMemoryLimits_v1(device: nvmlDevice_t, limits: *mut nvmlGetMemoryLimits_v1_t) => nvml::memory_info(device, limits);

    // Who uses a GPU: the container's own.
    Report fn nvmlDeviceGetComputeRunningProcesses(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t) => processes::compute(|real| real.nvmlDeviceGetComputeRunningProcesses, device, infoCount, infos);
    Report fn nvmlDeviceGetComputeRunningProcesses_v2(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t) => processes::compute(|real| real.nvmlDeviceGetComputeRunningProcesses_v2, device, infoCount, infos);
    Report fn nvmlDeviceGetComputeRunningProcesses_v3(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_t) => processes::compute(|real| real.nvmlDeviceGetComputeRunningProcesses_v3, device, infoCount, infos);
    Report fn nvmlDeviceGetGraphicsRunningProcesses(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t) => processes::own(|real| real.nvmlDeviceGetGraphicsRunningProcesses, device, infoCount, infos);
    Report fn nvmlDeviceGetGraphicsRunningProcesses_v2(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t) => processes::own(|real| real.nvmlDeviceGetGraphicsRunningProcesses_v2, device, infoCount, infos);
    Report fn nvmlDeviceGetGraphicsRunningProcesses_v3(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_t) => processes::own(|real| real.nvmlDeviceGetGraphicsRunningProcesses_v3, device, infoCount, infos);
    Report fn nvmlDeviceGetMPSComputeRunningProcesses(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t) => processes::own(|real| real.nvmlDeviceGetMPSComputeRunningProcesses, device, infoCount, infos);
    Report fn nvmlDeviceGetMPSComputeRunningProcesses_v2(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t) => processes::own(|real| real.nvmlDeviceGetMPSComputeRunningProcesses_v2, device, infoCount, infos);
    Report fn nvmlDeviceGetMPSComputeRunningProcesses_v3(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_t) => processes::own(|real| real.nvmlDeviceGetMPSComputeRunningProcesses_v3, device, infoCount, infos);
    Report fn nvmlDeviceGetRunningProcessDetailList(device: nvmlDevice_t, plist: *mut nvmlProcessDetailList_t) => processes::details(device, plist);
    Report fn nvmlDeviceGetAccountingPids(device: nvmlDevice_t, count: *mut c_uint, pids: *mut c_uint) => processes::own(|real| real.nvmlDeviceGetAccountingPids, device, count, pids);
    Report fn nvmlDeviceGetAccountingStats(device: nvmlDevice_t, pid: c_uint, stats: *mut nvmlAccountingStats_t) => processes::accounting_stats(device, pid);
    Report fn nvmlDeviceGetAccountingStats_v2(device: nvmlDevice_t, stats: *mut nvmlAccountingStats_v2_t) => processes::accounting_record(device, stats);
    // How busy it is: with the container's own work.
    Report fn nvmlDeviceGetProcessUtilization(device: nvmlDevice_t, utilization: *mut nvmlProcessUtilizationSample_t, processSamplesCount: *mut c_uint, lastSeenTimeStamp: c_ulonglong) => utilization::by_process(device, utilization, processSamplesCount, lastSeenTimeStamp);
    Report fn nvmlDeviceGetProcessesUtilizationInfo(device: nvmlDevice_t, procesesUtilInfo: *mut nvmlProcessesUtilizationInfo_t) => utilization::by_process_in_record(device, procesesUtilInfo);
    Report fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, utilization: *mut nvmlUtilization_t) => utilization::rates(device, utilization);
    Report fn nvmlDeviceGetDynamicPstatesInfo(device: nvmlDevice_t, pDynamicPstatesInfo: *mut nvmlGpuDynamicPstatesInfo_t) => utilization::domains(device, pDynamicPstatesInfo);
    Report fn nvmlDeviceGetSamples(device: nvmlDevice_t, type_: nvmlSamplingType_t, lastSeenTimeStamp: c_ulonglong, sampleValType: *mut nvmlValueType_t, sampleCount: *mut c_uint, samples: *mut nvmlSample_t) => utilization::samples(device, type_, lastSeenTimeStamp, sampleValType, sampleCount, samples);
}

/// Our function of that name.
pub(crate) fn by_name(name: &CStr) -> Option<*mut c_void> {
    DRIVER_HOOKS
        .by_name(name)
        .or_else(|| NVML_HOOKS.by_name(name))
}
