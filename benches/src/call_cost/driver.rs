//! The driver functions that are measured, of one library, and a context in which to call them.

use std::ffi::{CStr, c_char};
use std::path::Path;
use std::ptr;

use cuda_sys_stubs::abi::*;
use cuda_sys_stubs::pfn;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};

/// One library's functions: the driver's own, or the preload's of the same names. The driver of a machine may lack the newer ones.
pub(crate) struct Calls {
    path: String,
    library: Library,
    pub(crate) mem_get_info: Symbol<pfn::cuMemGetInfo_v2>,
    pub(crate) mem_alloc: Symbol<pfn::cuMemAlloc_v2>,
    pub(crate) mem_free: Symbol<pfn::cuMemFree_v2>,
    pub(crate) mem_alloc_async: Symbol<pfn::cuMemAllocAsync>,
    pub(crate) mem_free_async: Symbol<pfn::cuMemFreeAsync>,
    pub(crate) launch_kernel: Symbol<pfn::cuLaunchKernel>,
    pub(crate) launch_kernel_ex: Symbol<pfn::cuLaunchKernelEx>,
    pub(crate) graph_launch: Symbol<pfn::cuGraphLaunch>,
    /// Hooked by nobody: the preload has none, and programs get the driver's.
    pub(crate) copy_to_device: Symbol<pfn::cuMemcpyHtoD_v2>,
    /// Likewise.
    pub(crate) ctx_get_device: Symbol<pfn::cuCtxGetDevice>,
    /// Likewise.
    pub(crate) primary_ctx_get_state: Symbol<pfn::cuDevicePrimaryCtxGetState>,
    pub(crate) get_proc_address: Symbol<pfn::cuGetProcAddress_v2>,
}

impl Calls {
    /// Open `path` without letting its symbols stand in for anybody else's. What it does not hook, if it hooks, is of `driver`.
    pub(crate) fn open(path: &Path, driver: Option<&Self>) -> Result<Self, String> {
        let shown = path.display().to_string();
        // SAFETY: both libraries promise that loading runs nothing but the loader's own work.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|e| format!("{shown}: {e}"))?;
        let unhooked = driver.map_or(&library, |driver| &driver.library);
        Ok(Self {
            mem_get_info: symbol(&library, "cuMemGetInfo_v2")?,
            mem_alloc: symbol(&library, "cuMemAlloc_v2")?,
            mem_free: symbol(&library, "cuMemFree_v2")?,
            mem_alloc_async: symbol(&library, "cuMemAllocAsync")?,
            mem_free_async: symbol(&library, "cuMemFreeAsync")?,
            launch_kernel: symbol(&library, "cuLaunchKernel")?,
            launch_kernel_ex: symbol(&library, "cuLaunchKernelEx")?,
            graph_launch: symbol(&library, "cuGraphLaunch")?,
            copy_to_device: symbol(unhooked, "cuMemcpyHtoD_v2")?,
            ctx_get_device: symbol(unhooked, "cuCtxGetDevice")?,
            primary_ctx_get_state: symbol(unhooked, "cuDevicePrimaryCtxGetState")?,
            get_proc_address: symbol(&library, "cuGetProcAddress_v2")?,
            library,
            path: shown,
        })
    }

    fn check(&self, call: &str, status: CUresult) -> Result<(), String> {
        if status == CUDA_SUCCESS {
            Ok(())
        } else {
            Err(format!("{}: {call} answered {status}", self.path))
        }
    }
}

/// A function of `library`. `T` must be its type in `pfn`.
fn symbol<T>(library: &Library, name: &str) -> Result<Symbol<T>, String> {
    // SAFETY: each caller names the function-pointer type of that very symbol.
    unsafe { library.get(name.as_bytes()) }.map_err(|e| e.to_string())
}

/// A context with one empty kernel.
pub(crate) struct Context {
    pub(crate) device_name: String,
    pub(crate) device: CUdevice,
    context: CUcontext,
    pub(crate) function: CUfunction,
    /// A graph without nodes.
    pub(crate) graph: CUgraphExec,
}

// SAFETY: the driver's promise: its handles are the same in every thread of a process (CUDA Driver API, "Context Management").
unsafe impl Sync for Context {}

const KERNEL: &CStr =
    c".version 7.0\n.target sm_52\n.address_size 64\n.visible .entry empty()\n{\n\tret;\n}\n";

impl Context {
    /// Initialises both sides, the hooked one first so that its limits are in force, and makes a context current in which either
    /// may be called.
    pub(crate) fn new(bare: &Calls, hooked: &Calls) -> Result<Self, String> {
        for calls in [hooked, bare] {
            let init: Symbol<pfn::cuInit> = symbol(&calls.library, "cuInit")?;
            // SAFETY: no arguments but a zero flag.
            calls.check("cuInit", unsafe { init(0) })?;
        }
        let driver = &bare.library; // of what is not hooked, both are the same
        let (mut device, mut context): (CUdevice, CUcontext) = (0, ptr::null_mut());
        let (mut module, mut function): (CUmodule, CUfunction) = (ptr::null_mut(), ptr::null_mut());
        let mut name = [0 as c_char; 128];
        let device_get: Symbol<pfn::cuDeviceGet> = symbol(driver, "cuDeviceGet")?;
        let get_name: Symbol<pfn::cuDeviceGetName> = symbol(driver, "cuDeviceGetName")?;
        let retain: Symbol<pfn::cuDevicePrimaryCtxRetain> =
            symbol(&hooked.library, "cuDevicePrimaryCtxRetain")?;
        let set_current: Symbol<pfn::cuCtxSetCurrent> = symbol(driver, "cuCtxSetCurrent")?;
        let load: Symbol<pfn::cuModuleLoadData> = symbol(&hooked.library, "cuModuleLoadData")?;
        let get_function: Symbol<pfn::cuModuleGetFunction> =
            symbol(&hooked.library, "cuModuleGetFunction")?;
        let (mut definition, mut graph): (CUgraph, CUgraphExec) =
            (ptr::null_mut(), ptr::null_mut());
        let create_graph: Symbol<pfn::cuGraphCreate> = symbol(driver, "cuGraphCreate")?;
        let instantiate: Symbol<pfn::cuGraphInstantiateWithFlags> =
            symbol(&hooked.library, "cuGraphInstantiateWithFlags")?;
        // SAFETY: out-pointers to live variables of the right types, throughout.
        unsafe {
            bare.check("cuDeviceGet", device_get(&raw mut device, 0))?;
            bare.check("cuDeviceGetName", get_name(name.as_mut_ptr(), 128, device))?;
            hooked.check("cuDevicePrimaryCtxRetain", retain(&raw mut context, device))?;
            bare.check("cuCtxSetCurrent", set_current(context))?;
            hooked.check(
                "cuModuleLoadData",
                load(&raw mut module, KERNEL.as_ptr().cast()),
            )?;
            hooked.check(
                "cuModuleGetFunction",
                get_function(&raw mut function, module, c"empty".as_ptr()),
            )?;
            bare.check("cuGraphCreate", create_graph(&raw mut definition, 0))?;
            hooked.check(
                "cuGraphInstantiateWithFlags",
                instantiate(&raw mut graph, definition, 0),
            )?;
        }
        // SAFETY: the driver ended the name with a NUL within the 128 bytes.
        let device_name = unsafe { CStr::from_ptr(name.as_ptr()) }
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            device_name,
            device,
            context,
            function,
            graph,
        })
    }

    /// Makes the context current in this thread.
    pub(crate) fn enter(&self, bare: &Calls) -> Result<(), String> {
        let set_current: Symbol<pfn::cuCtxSetCurrent> = symbol(&bare.library, "cuCtxSetCurrent")?;
        // SAFETY: a context that lives as long as this program.
        bare.check("cuCtxSetCurrent", unsafe { set_current(self.context) })
    }

    /// Waits until the device has done what was submitted, so that the next batch starts with an empty queue.
    pub(crate) fn drain(&self, bare: &Calls) -> Result<(), String> {
        let synchronize: Symbol<pfn::cuCtxSynchronize> = symbol(&bare.library, "cuCtxSynchronize")?;
        // SAFETY: no arguments.
        bare.check("cuCtxSynchronize", unsafe { synchronize() })
    }
}
