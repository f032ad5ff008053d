//! A driver that does nothing and answers at once.
//!
//! The simulated device is another process: a memory call's round trip to it hides what a hook adds. This library has the functions that
//! [`call-cost`](../../src/call_cost/main.rs) measures and those that the preload asks under limits, and every one succeeds within a few
//! instructions. One device, one context; memory is numbers that never come again; kernels are over before they are launched, and
//! events say that each took 10 µs.
#![expect(
    unsafe_code,
    reason = "exports the driver API, and writes through its callers' out-pointers"
)]
#![expect(non_snake_case, reason = "functions are named as the driver's")]

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use cuda_sys_stubs::abi::*;

/// CUDA 12.8.
const VERSION: c_int = 12_080;
/// What the one device has, in bytes: 64 GiB.
const MEMORY_BYTES: usize = 64 << 30;
/// Where the next block will lie.
static NEXT_BLOCK: AtomicU64 = AtomicU64::new(0x7_0000_0000);
/// No two blocks share so many bytes.
const BLOCK_ALIGNMENT_BYTES: u64 = 512;

/// A handle that means something to nobody. `number` is not 0.
fn handle<T>(number: usize) -> *mut T {
    ptr::without_provenance_mut(number << 12)
}

const CONTEXT: usize = 1;
const MODULE: usize = 2;
const FUNCTION: usize = 3;
const POOL: usize = 4;
const EXECUTABLE_GRAPH: usize = 5;
const GRAPH: usize = 6;

/// What a function writes where its caller told it to, if it did.
fn put<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: the driver API's demand on the caller: out-pointers are null or may be written.
        unsafe { place.write(value) };
    }
}

/// A block's address.
fn allocate(place: *mut CUdeviceptr, bytes: usize) {
    let bytes = u64::try_from(bytes)
        .unwrap_or(u64::MAX)
        .next_multiple_of(BLOCK_ALIGNMENT_BYTES);
    put(place, NEXT_BLOCK.fetch_add(bytes, Ordering::Relaxed));
}

/// What a kernel takes, in ms.
const KERNEL_MS: f32 = 0.01;

thread_local! {
    /// Launches of this thread: a clock of its own, that nobody waits for.
    static LAUNCHES: Cell<u64> = const { Cell::new(0) };
}

fn launch() {
    LAUNCHES.set(LAUNCHES.get().wrapping_add(1));
}

/// How many launches its thread had made when it was recorded.
type Event = AtomicU64;

/// The event behind a handle, if there is one.
fn event<'a>(handle: CUevent) -> Option<&'a Event> {
    // SAFETY: the driver API's demand on the caller: NULL, or an event of `cuEventCreate`, none of which ever ends here.
    unsafe { handle.cast::<Event>().as_ref() }
}

fn launches_before(handle: CUevent) -> f32 {
    event(handle).map_or(0.0, |event| event.load(Ordering::Relaxed) as f32)
}

/// Exports functions that succeed when they have done what their bodies say, and finds them by name.
macro_rules! exports {
    ($( fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block )*) => {
        $(
            /// The driver's function of that name.
            ///
            /// # Safety
            /// As the driver's.
            #[unsafe(no_mangle)]
            #[allow(unused_variables, reason = "a function that does nothing has no use for most of its arguments")]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> CUresult {
                const { let _: cuda_sys_stubs::pfn::$name = $name; }
                $body
                CUDA_SUCCESS
            }
        )*

        /// The function that a name, of the driver's or without its version, stands for.
        fn address_of(name: &CStr) -> Option<*mut c_void> {
            let is_it = |exported: &str| {
                let (name, exported) = (name.to_bytes(), exported.as_bytes());
                exported == name || exported.strip_suffix(b"_v2") == Some(name)
            };
            $( if is_it(stringify!($name)) { return Some($name as *mut c_void); } )*
            None
        }
    };
}

exports! {
    fn cuInit(Flags: c_uint) {}
    fn cuDriverGetVersion(driverVersion: *mut c_int) { put(driverVersion, VERSION); }

    fn cuDeviceGetCount(count: *mut c_int) { put(count, 1); }
    fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) { put(device, 0); }
    fn cuDeviceGetName(name: *mut c_char, len: c_int, dev: CUdevice) {
        let Ok(room) = usize::try_from(len) else { return CUDA_ERROR_INVALID_VALUE };
        for (index, byte) in c"no device".to_bytes_with_nul().iter().take(room).enumerate() {
            put(name.wrapping_add(index), byte.cast_signed());
        }
    }
    fn cuDeviceGetUuid_v2(uuid: *mut CUuuid, dev: CUdevice) { put(uuid, CUuuid { bytes: [7; 16] }); }
    fn cuDeviceGetAttribute(pi: *mut c_int, attrib: CUdevice_attribute, dev: CUdevice) { put(pi, 64); }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, dev: CUdevice) { put(bytes, MEMORY_BYTES); }
    fn cuDevicePrimaryCtxRetain(pctx: *mut CUcontext, dev: CUdevice) { put(pctx, handle(CONTEXT)); }
    fn cuDevicePrimaryCtxRelease_v2(dev: CUdevice) {}
    fn cuDevicePrimaryCtxGetState(dev: CUdevice, flags: *mut c_uint, active: *mut c_int) {
        put(flags, 0);
        put(active, 1);
    }
    fn cuCtxGetCurrent(pctx: *mut CUcontext) { put(pctx, handle(CONTEXT)); }
    fn cuCtxSetCurrent(ctx: CUcontext) {}
    fn cuCtxPushCurrent_v2(ctx: CUcontext) {}
    fn cuCtxPopCurrent_v2(pctx: *mut CUcontext) { put(pctx, handle(CONTEXT)); }
    fn cuCtxGetDevice(device: *mut CUdevice) { put(device, 0); }
    fn cuCtxSynchronize() {}

    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        put(free, MEMORY_BYTES);
        put(total, MEMORY_BYTES);
    }
    fn cuMemAlloc_v2(dptr: *mut CUdeviceptr, bytesize: usize) { allocate(dptr, bytesize); }
    fn cuMemFree_v2(dptr: CUdeviceptr) {}
    fn cuMemAllocAsync(dptr: *mut CUdeviceptr, bytesize: usize, hStream: CUstream) { allocate(dptr, bytesize); }
    fn cuMemFreeAsync(dptr: CUdeviceptr, hStream: CUstream) {}
    fn cuMemcpyHtoD_v2(dstDevice: CUdeviceptr, srcHost: *const c_void, ByteCount: usize) {}
    fn cuDeviceGetMemPool(pool: *mut CUmemoryPool, dev: CUdevice) { put(pool, handle(POOL)); }
    fn cuDeviceGetDefaultMemPool(pool_out: *mut CUmemoryPool, dev: CUdevice) { put(pool_out, handle(POOL)); }
    fn cuMemPoolGetAttribute(pool: CUmemoryPool, attr: CUmemPool_attribute, value: *mut c_void) {
        // Room for any block that is measured, and none of it used.
        put(value.cast::<u64>(), if attr == CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT { 32 << 20 } else { 0 });
    }

    fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) { put(module, handle(MODULE)); }
    fn cuModuleGetFunction(hfunc: *mut CUfunction, hmod: CUmodule, name: *const c_char) { put(hfunc, handle(FUNCTION)); }
    fn cuFuncGetModule(hmod: *mut CUmodule, hfunc: CUfunction) { put(hmod, handle(MODULE)); }
    fn cuLaunchKernel(
        f: CUfunction,
        gridDimX: c_uint,
        gridDimY: c_uint,
        gridDimZ: c_uint,
        blockDimX: c_uint,
        blockDimY: c_uint,
        blockDimZ: c_uint,
        sharedMemBytes: c_uint,
        hStream: CUstream,
        kernelParams: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) { launch(); }
    fn cuLaunchKernelEx(config: *const CUlaunchConfig, f: CUfunction, kernelParams: *mut *mut c_void, extra: *mut *mut c_void) { launch(); }
    fn cuGraphCreate(phGraph: *mut CUgraph, flags: c_uint) { put(phGraph, handle(GRAPH)); }
    fn cuGraphLaunch(hGraph: CUgraphExec, hStream: CUstream) { launch(); }
    fn cuGraphInstantiateWithFlags(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, flags: u64) {
        put(phGraphExec, handle(EXECUTABLE_GRAPH));
    }

    fn cuStreamIsCapturing(hStream: CUstream, captureStatus: *mut CUstreamCaptureStatus) {
        put(captureStatus, CU_STREAM_CAPTURE_STATUS_NONE);
    }
    fn cuStreamGetCtx(hStream: CUstream, pctx: *mut CUcontext) { put(pctx, handle(CONTEXT)); }
    fn cuStreamSynchronize(hStream: CUstream) {}
    fn cuThreadExchangeStreamCaptureMode(mode: *mut CUstreamCaptureMode) {}
    fn cuEventCreate(phEvent: *mut CUevent, Flags: c_uint) { put(phEvent, Box::into_raw(Box::<Event>::default()).cast()); }
    fn cuEventRecord(hEvent: CUevent, hStream: CUstream) {
        let Some(event) = event(hEvent) else { return CUDA_ERROR_INVALID_HANDLE };
        event.store(LAUNCHES.get(), Ordering::Relaxed);
    }
    fn cuEventQuery(hEvent: CUevent) {}
    fn cuEventElapsedTime(pMilliseconds: *mut f32, hStart: CUevent, hEnd: CUevent) {
        put(pMilliseconds, KERNEL_MS * (launches_before(hEnd) - launches_before(hStart)));
    }

    fn cuGetProcAddress_v2(
        symbol: *const c_char,
        pfn: *mut *mut c_void,
        cudaVersion: c_int,
        flags: u64,
        symbolStatus: *mut CUdriverProcAddressQueryResult,
    ) {
        // SAFETY: the driver API's demand on the caller: a C string.
        let found = address_of(unsafe { CStr::from_ptr(symbol) });
        put(pfn, found.unwrap_or(ptr::null_mut()));
        put(symbolStatus, if found.is_some() { CU_GET_PROC_ADDRESS_SUCCESS } else { CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND });
        if found.is_none() {
            return CUDA_ERROR_NOT_FOUND;
        }
    }
}
