//! The driver functions that are measured, of one library, and a context in which to call them.

use std::ffi::{CStr, c_char};
use std::path::Path;
use std::ptr;

use cuda_sys_stubs::abi::{CUDA_SUCCESS, CUcontext, CUdevice, CUfunction, CUmodule, CUresult};
use cuda_sys_stubs::pfn;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};

/// One library's functions: the driver's own, or the preload's of the same names.
pub(crate) struct Calls {
    path: String,
    library: Library,
    mem_get_info: Symbol<pfn::cuMemGetInfo_v2>,
    mem_alloc: Symbol<pfn::cuMemAlloc_v2>,
    mem_free: Symbol<pfn::cuMemFree_v2>,
    launch_kernel: Symbol<pfn::cuLaunchKernel>,
}

impl Calls {
    /// Open `path` without letting its symbols stand in for anybody else's.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let shown = path.display().to_string();
        // SAFETY: both libraries promise that loading runs nothing but the loader's own work.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|e| format!("{shown}: {e}"))?;
        Ok(Self {
            mem_get_info: symbol(&library, "cuMemGetInfo_v2")?,
            mem_alloc: symbol(&library, "cuMemAlloc_v2")?,
            mem_free: symbol(&library, "cuMemFree_v2")?,
            launch_kernel: symbol(&library, "cuLaunchKernel")?,
            library,
            path: shown,
        })
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
    function: CUfunction,
}

const KERNEL: &CStr =
    c".version 7.0\n.target sm_52\n.address_size 64\n.visible .entry empty()\n{\n\tret;\n}\n";

impl Context {
    /// Initialise through `calls`' library where it hooks, so that its limits are in force.
    pub(crate) fn new(calls: &Calls) -> Result<Self, String> {
        let init: Symbol<pfn::cuInit> = symbol(&calls.library, "cuInit")?;
        // SAFETY: no arguments but a zero flag.
        check(&calls.path, "cuInit", unsafe { init(0) })?;
        // The rest is not hooked: the preload does not export it, the driver that it opened does.
        // SAFETY: the driver is loaded already; this takes another handle of it.
        let driver = unsafe { Library::open(Some("libcuda.so.1"), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|e| e.to_string())?;
        let (mut device, mut context): (CUdevice, CUcontext) = (0, ptr::null_mut());
        let (mut module, mut function): (CUmodule, CUfunction) = (ptr::null_mut(), ptr::null_mut());
        let mut name = [0 as c_char; 128];
        let device_get: Symbol<pfn::cuDeviceGet> = symbol(&driver, "cuDeviceGet")?;
        let get_name: Symbol<pfn::cuDeviceGetName> = symbol(&driver, "cuDeviceGetName")?;
        let retain: Symbol<pfn::cuDevicePrimaryCtxRetain> =
            symbol(&driver, "cuDevicePrimaryCtxRetain")?;
        let set_current: Symbol<pfn::cuCtxSetCurrent> = symbol(&driver, "cuCtxSetCurrent")?;
        let load: Symbol<pfn::cuModuleLoadData> = symbol(&driver, "cuModuleLoadData")?;
        let get_function: Symbol<pfn::cuModuleGetFunction> =
            symbol(&driver, "cuModuleGetFunction")?;
        // SAFETY: out-pointers to live variables of the right types, throughout.
        unsafe {
            check(&calls.path, "cuDeviceGet", device_get(&raw mut device, 0))?;
            check(
                &calls.path,
                "cuDeviceGetName",
                get_name(name.as_mut_ptr(), 128, device),
            )?;
            check(
                &calls.path,
                "cuDevicePrimaryCtxRetain",
                retain(&raw mut context, device),
            )?;
            check(&calls.path, "cuCtxSetCurrent", set_current(context))?;
            check(
                &calls.path,
                "cuModuleLoadData",
                load(&raw mut module, KERNEL.as_ptr().cast()),
            )?;
            check(
                &calls.path,
                "cuModuleGetFunction",
                get_function(&raw mut function, module, c"empty".as_ptr()),
            )?;
        }
        // SAFETY: the driver ended the name with a NUL within the 128 bytes.
        let device_name = unsafe { CStr::from_ptr(name.as_ptr()) }
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            device_name,
            function,
        })
    }

    /// Wait until the device has done what was submitted, so that the next batch starts with an empty queue.
    pub(crate) fn drain(&self, calls: &Calls) {
        // A free waits for the device: the driver API says so of cuMemFree.
        allocate_and_free(calls, self, 1);
    }
}

fn check(library: &str, call: &str, status: CUresult) -> Result<(), String> {
    if status == CUDA_SUCCESS {
        Ok(())
    } else {
        Err(format!("{library}: {call} answered {status}"))
    }
}

/// `cuMemGetInfo_v2`, `calls` times.
pub(crate) fn memory_info(library: &Calls, _context: &Context, calls: u32) {
    let (mut free, mut total) = (0, 0);
    for _ in 0..calls {
        // SAFETY: out-pointers to live variables.
        unsafe { (library.mem_get_info)(&raw mut free, &raw mut total) };
    }
}

/// `cuMemAlloc_v2` of 1 MiB and `cuMemFree_v2` of the same, `calls` times.
pub(crate) fn allocate_and_free(library: &Calls, _context: &Context, calls: u32) {
    for _ in 0..calls {
        let mut pointer = 0;
        // SAFETY: out-pointer to a live variable, and the free of what was just allocated.
        unsafe {
            (library.mem_alloc)(&raw mut pointer, 1 << 20);
            (library.mem_free)(pointer);
        }
    }
}

/// `cuLaunchKernel` of an empty kernel on the default stream, `calls` times.
pub(crate) fn launch(library: &Calls, context: &Context, calls: u32) {
    for _ in 0..calls {
        // SAFETY: a function of the current context, which takes no parameters.
        unsafe {
            (library.launch_kernel)(
                context.function,
                1,
                1,
                1,
                32,
                1,
                1,
                0,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
    }
}
