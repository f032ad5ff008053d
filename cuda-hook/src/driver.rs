//! The real libraries: opened by the name under which every program opens them, resolved once.
//!
//! What a row of the table forwards to stands in its `Rows`; what we ask the driver ourselves stands below, behind
//! functions that say what they need.
#![expect(
    unsafe_code,
    reason = "loads a library and calls it through function pointers"
)]
#![expect(non_snake_case, reason = "fields are named as the driver's functions")]

use std::ffi::{CStr, OsStr, c_void};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use cuda_sys_stubs::abi::*;
use cuda_sys_stubs::pfn;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use limiter::lending::Physical;
use limiter::units::{Bytes, DeviceUuid};

use crate::elf::{Object, SymbolName};
use crate::lookup;
use crate::table::DriverRows;

mod memory;
mod nvml;

pub(crate) use memory::{GraphAllocation, Managed};
pub(crate) use nvml::{NVML_SONAME, Nvml};

/// The driver under the name that programs ask the loader for.
pub(crate) const DRIVER_SONAME: &CStr = c"libcuda.so.1";

/// The functions that a loaded library exports, by name: each `None` where it has none.
macro_rules! functions {
    ($(#[$meta:meta])* $visibility:vis struct $table:ident from $types:ident { $($name:ident),* $(,)? }) => {
        $(#[$meta])*
        $visibility struct $table { $( pub(crate) $name: Option<$types::$name>, )* }

        impl $table {
            /// # Safety
            /// `address_of` answers null, or the address of the function of that name and of the ABI's type.
            pub(crate) unsafe fn resolve(address_of: &dyn Fn(&CStr) -> *mut c_void) -> Self {
                Self { $(
                    // SAFETY: a pointer and an optional function pointer are alike, null being `None`; the
                    // caller promises the function's type.
                    $name: unsafe {
                        std::mem::transmute::<*mut c_void, Option<$types::$name>>(address_of(
                            const { $crate::table::c_name(concat!(stringify!($name), "\0")) }
                        ))
                    },
                )* }
            }
        }
    };
}
pub(crate) use functions;

functions! {
    /// What we ask the driver on our own account, under limits only.
    struct Questions from pfn {
        cuCtxFromGreenCtx, cuCtxGetCurrent, cuCtxGetDevice, cuCtxGetLimit, cuCtxPopCurrent_v2, cuCtxPushCurrent_v2,
        cuDeviceGet, cuDeviceGetCount, cuDeviceGetUuid, cuDeviceGetUuid_v2, cuDevicePrimaryCtxGetState, cuDevicePrimaryCtxRetain,
        cuDeviceTotalMem_v2,
        cuDriverGetVersion,
        cuMemGetInfo_v2,
        cuEventCreate, cuEventElapsedTime, cuEventQuery, cuEventRecord,
        cuStreamGetCtx, cuStreamIsCapturing, cuThreadExchangeStreamCaptureMode,
    }
}

/// Why a real library cannot be used.
#[derive(Debug)]
pub(crate) struct OpenError {
    name: String,
    reason: String,
    /// Somebody has to do something about it; otherwise there simply is no such library here.
    pub(crate) needs_attention: bool,
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

/// Opens `name` as a program does, without making its symbols global. An object of that SONAME that the program has
/// loaded already, from wherever, is the one that answers.
fn open(name: &OsStr) -> Result<Library, OpenError> {
    // SAFETY: the libraries opened here are those that a CUDA program opens itself; their initialisers are its own risk.
    unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) }.map_err(|reason| OpenError {
        name: name.to_string_lossy().into_owned(),
        reason: reason.to_string(),
        needs_attention: false,
    })
}

/// The address of a symbol of `library`, for who looks up many. What it defines itself is read where the loader reads it, at a fraction of
/// the cost of some two hundred lookups; the rest, as what the libraries behind it define, is asked of the real `dlsym`: ours would answer
/// with ourselves.
fn address_in(library: *mut c_void) -> impl Fn(&CStr) -> *mut c_void {
    let own = Object::of_handle(library).and_then(|object| object.symbols());
    move |name| {
        let found = own.and_then(|symbols| symbols.function(&SymbolName::new(name)));
        found.unwrap_or_else(|| lookup::real_dlsym(library, name))
    }
}

/// What an event of ours is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// Carries a timestamp.
    Timed,
    /// Tells only that it was reached: a tenth of the cost.
    Untimed,
}

/// The real driver.
pub(crate) struct Driver {
    /// What the rows of the table forward to.
    pub(crate) rows: DriverRows,
    questions: Questions,
    memory: memory::Questions,
    /// The loader's handle.
    library: AtomicPtr<c_void>,
}

/// Room for a symbol's name and its end; the longest that is known has 47 bytes.
const NAME_BYTES_MAX: usize = 128;

/// What the driver answered instead of success.
pub(crate) type Status = CUresult;

/// cuda.h: 0 and `CU_STREAM_LEGACY` (1), `CU_STREAM_PER_THREAD` (2) are handles of default streams.
const DEFAULT_STREAM_HANDLE_MAX: usize = 2;

fn bytes(count: usize) -> Bytes {
    Bytes::new(u64::try_from(count).unwrap_or(u64::MAX))
}

fn checked(status: CUresult) -> Result<(), Status> {
    if status == CUDA_SUCCESS {
        Ok(())
    } else {
        Err(status)
    }
}

/// Calls the driver's function, if it has it: `ask!(self.cuCtxGetDevice(&raw mut device))`.
macro_rules! ask {
    ($driver:ident.$name:ident($($argument:expr),* $(,)?)) => {
        match $driver.questions.$name {
            // SAFETY: the driver's own function, called as its reference demands: see the caller.
            Some(function) => checked(unsafe { function($($argument),*) }),
            None => Err(CUDA_ERROR_NOT_FOUND),
        }
    };
}

impl Driver {
    /// Opens the driver at `path`, or the one that the loader finds. It stays open for good.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, OpenError> {
        let soname = DRIVER_SONAME.to_string_lossy();
        let name = path.map_or(OsStr::new(&*soname), Path::as_os_str);
        let library = open(name)
            .map_err(|error| OpenError {
                needs_attention: path.is_some(),
                ..error
            })?
            .into_raw();
        let address = address_in(library);
        if Object::ours().is_some_and(|ours| Object::defining(address(c"cuInit")) == Some(ours)) {
            return Err(OpenError {
                name: name.to_string_lossy().into_owned(),
                reason: "is cuda-hook itself; CUDA_HOOK_DRIVER must name the real driver".into(),
                needs_attention: true,
            });
        }
        Ok(Self {
            // SAFETY: the driver's promise: what it exports under these names is what its headers declare.
            rows: unsafe { DriverRows::resolve(&address) },
            // SAFETY: as above.
            questions: unsafe { Questions::resolve(&address) },
            // SAFETY: as above.
            memory: unsafe { memory::Questions::resolve(&address) },
            library: AtomicPtr::new(library),
        })
    }

    /// The address of the driver's symbol `name`; null where it has none.
    pub(crate) fn address_of(&self, name: &CStr) -> *mut c_void {
        lookup::real_dlsym(self.library.load(Ordering::Relaxed), name)
    }

    /// As [`Driver::address_of`], of a name that is no C string yet: as long as any that the driver has.
    pub(crate) fn address_of_text(&self, name: &str) -> *mut c_void {
        let mut text = [0; NAME_BYTES_MAX];
        let room = text
            .get_mut(..name.len())
            .filter(|_| name.len() < NAME_BYTES_MAX);
        let Some(room) = room else {
            return ptr::null_mut();
        };
        room.copy_from_slice(name.as_bytes());
        CStr::from_bytes_until_nul(&text).map_or(ptr::null_mut(), |name| self.address_of(name))
    }

    /// The devices that the program sees, in its order, with their UUIDs.
    pub(crate) fn devices(&self) -> Result<Vec<(CUdevice, DeviceUuid)>, Status> {
        let mut count = 0;
        ask!(self.cuDeviceGetCount(&raw mut count))?;
        (0..count)
            .map(|ordinal| {
                let mut device = 0;
                ask!(self.cuDeviceGet(&raw mut device, ordinal))?;
                Ok((device, self.device_uuid(device)?))
            })
            .collect()
    }

    /// The second version tells MIG instances apart; drivers before 11.4 have only the first.
    fn device_uuid(&self, device: CUdevice) -> Result<DeviceUuid, Status> {
        let mut uuid = CUuuid { bytes: [0; 16] };
        match ask!(self.cuDeviceGetUuid_v2(&raw mut uuid, device)) {
            Err(CUDA_ERROR_NOT_FOUND) => ask!(self.cuDeviceGetUuid(&raw mut uuid, device))?,
            answer => answer?,
        }
        Ok(DeviceUuid::from_bytes(uuid.bytes.map(i8::cast_unsigned)))
    }

    /// The newest CUDA version that the driver supports, as `1000 × major + 10 × minor`.
    pub(crate) fn version(&self) -> Result<u32, Status> {
        let mut version = 0;
        ask!(self.cuDriverGetVersion(&raw mut version))?;
        Ok(u32::try_from(version).unwrap_or(0))
    }

    /// The device of this thread's current context.
    pub(crate) fn current_device(&self) -> Result<CUdevice, Status> {
        let mut device = 0;
        ask!(self.cuCtxGetDevice(&raw mut device))?;
        Ok(device)
    }

    /// This thread's current context, which may be null.
    pub(crate) fn current_context(&self) -> Result<CUcontext, Status> {
        let mut context = ptr::null_mut();
        ask!(self.cuCtxGetCurrent(&raw mut context))?;
        Ok(context)
    }

    /// Runs `work` with `context` current on this thread.
    pub(crate) fn with_context<T>(
        &self,
        context: CUcontext,
        work: impl FnOnce() -> T,
    ) -> Result<T, Status> {
        ask!(self.cuCtxPushCurrent_v2(context))?;
        let answer = work();
        let mut popped = ptr::null_mut();
        ask!(self.cuCtxPopCurrent_v2(&raw mut popped))?;
        Ok(answer)
    }

    /// Runs `work` with `context` current on this thread: at once, if it is.
    pub(crate) fn in_context<T>(
        &self,
        context: CUcontext,
        work: impl FnOnce() -> Result<T, Status>,
    ) -> Result<T, Status> {
        if self.current_context()? == context {
            work()
        } else {
            self.with_context(context, work)?
        }
    }

    /// Memory of the current context's device.
    pub(crate) fn memory(&self) -> Result<Physical, Status> {
        let (mut free, mut total) = (0, 0);
        ask!(self.cuMemGetInfo_v2(&raw mut free, &raw mut total))?;
        Ok(Physical {
            total: bytes(total),
            free: Some(bytes(free)),
        })
    }

    /// Free memory of the current context's device.
    pub(crate) fn memory_free(&self) -> Result<Bytes, Status> {
        Ok(self.memory()?.free.unwrap_or_default())
    }

    /// All memory of a device.
    pub(crate) fn memory_total(&self, device: CUdevice) -> Result<Bytes, Status> {
        let mut total = 0;
        ask!(self.cuDeviceTotalMem_v2(&raw mut total, device))?;
        Ok(bytes(total))
    }

    /// A limit of the current context.
    pub(crate) fn limit(&self, limit: CUlimit) -> Result<usize, Status> {
        let mut value = 0;
        ask!(self.cuCtxGetLimit(&raw mut value, limit))?;
        Ok(value)
    }

    /// The context by which a green context is made current.
    pub(crate) fn green_context(&self, green: CUgreenCtx) -> Result<CUcontext, Status> {
        let mut context = ptr::null_mut();
        ask!(self.cuCtxFromGreenCtx(&raw mut context, green))?;
        Ok(context)
    }

    /// The context that `stream` belongs to; a default stream, by any of its handles, is the current context's.
    pub(crate) fn context_of(&self, stream: CUstream) -> Result<CUcontext, Status> {
        if stream.addr() <= DEFAULT_STREAM_HANDLE_MAX {
            return self.current_context();
        }
        let mut context = ptr::null_mut();
        ask!(self.cuStreamGetCtx(stream, &raw mut context))?;
        Ok(context)
    }

    /// The device that `stream` runs on.
    pub(crate) fn stream_device(&self, stream: CUstream) -> Result<CUdevice, Status> {
        let context = self.context_of(stream)?;
        if context == self.current_context()? {
            return self.current_device();
        }
        self.with_context(context, || self.current_device())?
    }

    /// Whether what is submitted to `stream` is recorded into a graph instead of run.
    pub(crate) fn is_capturing(&self, stream: CUstream) -> Result<bool, Status> {
        let mut status = CU_STREAM_CAPTURE_STATUS_NONE;
        ask!(self.cuStreamIsCapturing(stream, &raw mut status))?;
        Ok(status != CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// Frees linear memory that the program does not know of.
    pub(crate) fn free(&self, pointer: CUdeviceptr) -> CUresult {
        // SAFETY: the driver's own function; a pointer that is not its own is refused by it.
        let status = self
            .rows
            .cuMemFree_v2
            .map_or(CUDA_ERROR_NOT_FOUND, |free| unsafe { free(pointer) });
        match (status, self.rows.cuMemFree, u32::try_from(pointer)) {
            // A context of before CUDA 3.2 takes only the function of that time.
            (CUDA_ERROR_INVALID_CONTEXT, Some(free), Ok(pointer)) => {
                // SAFETY: as above.
                unsafe { free(pointer) }
            }
            _ => status,
        }
    }

    /// Ends an array that the program does not know of.
    pub(crate) fn destroy_array(&self, array: CUarray) -> CUresult {
        // SAFETY: the driver's own function; the array was made in this call and nobody else has it.
        self.rows
            .cuArrayDestroy
            .map_or(CUDA_ERROR_NOT_FOUND, |destroy| unsafe { destroy(array) })
    }

    /// Ends a mipmapped array that the program does not know of.
    pub(crate) fn destroy_mipmapped_array(&self, array: CUmipmappedArray) -> CUresult {
        // SAFETY: as above.
        self.rows
            .cuMipmappedArrayDestroy
            .map_or(CUDA_ERROR_NOT_FOUND, |destroy| unsafe { destroy(array) })
    }

    /// Unloads a module that the program does not know of.
    pub(crate) fn unload_module(&self, module: CUmodule) -> CUresult {
        // SAFETY: the driver's own function; the module was loaded in this call and nobody else has it.
        self.rows
            .cuModuleUnload
            .map_or(CUDA_ERROR_NOT_FOUND, |unload| unsafe { unload(module) })
    }

    /// Unloads a library that the program does not know of.
    pub(crate) fn unload_library(&self, library: CUlibrary) -> CUresult {
        // SAFETY: as above.
        self.rows
            .cuLibraryUnload
            .map_or(CUDA_ERROR_NOT_FOUND, |unload| unsafe { unload(library) })
    }

    /// Puts a limit of the current context back.
    pub(crate) fn set_limit(&self, limit: CUlimit, value: usize) -> CUresult {
        // SAFETY: the driver's own function, without pointers.
        self.rows
            .cuCtxSetLimit
            .map_or(CUDA_ERROR_NOT_FOUND, |set| unsafe { set(limit, value) })
    }

    /// Ends a green context that the program does not know of.
    pub(crate) fn destroy_green_context(&self, green: CUgreenCtx) -> CUresult {
        // SAFETY: the driver's own function; it was made in this call and nobody else has it.
        self.rows
            .cuGreenCtxDestroy
            .map_or(CUDA_ERROR_NOT_FOUND, |destroy| unsafe { destroy(green) })
    }

    /// Ends a context that the program does not know of.
    pub(crate) fn destroy_context(&self, context: CUcontext) -> CUresult {
        // SAFETY: the driver's own function; the context was made in this call and nobody else has it.
        self.rows
            .cuCtxDestroy_v2
            .map_or(CUDA_ERROR_NOT_FOUND, |destroy| unsafe { destroy(context) })
    }

    /// Gives a primary context back that was retained for the program.
    pub(crate) fn release_primary_context(&self, device: CUdevice) -> CUresult {
        // SAFETY: the driver's own function; the caller has retained the context.
        self.rows
            .cuDevicePrimaryCtxRelease_v2
            .map_or(CUDA_ERROR_NOT_FOUND, |release| unsafe { release(device) })
    }

    /// Whether `device` has a primary context.
    pub(crate) fn has_primary_context(&self, device: CUdevice) -> Result<bool, Status> {
        let (mut flags, mut active) = (0, 0);
        ask!(self.cuDevicePrimaryCtxGetState(device, &raw mut flags, &raw mut active))?;
        Ok(active != 0)
    }

    /// The primary context of `device`, which must have one. It is retained and released to be told.
    pub(crate) fn primary_context(&self, device: CUdevice) -> Result<CUcontext, Status> {
        let mut context = ptr::null_mut();
        ask!(self.cuDevicePrimaryCtxRetain(&raw mut context, device))?;
        checked(self.release_primary_context(device))?;
        Ok(context)
    }

    /// A new event of the current context.
    pub(crate) fn create_event(&self, kind: EventKind) -> Result<CUevent, Status> {
        let flags = match kind {
            EventKind::Timed => CU_EVENT_DEFAULT,
            EventKind::Untimed => CU_EVENT_DISABLE_TIMING,
        };
        let mut event = ptr::null_mut();
        ask!(self.cuEventCreate(&raw mut event, flags))?;
        Ok(event)
    }

    /// Records `event` behind what `stream` holds.
    pub(crate) fn record_event(&self, event: CUevent, stream: CUstream) -> Result<(), Status> {
        ask!(self.cuEventRecord(event, stream))
    }

    /// Whether what stood before `event` in its stream has finished.
    pub(crate) fn event_reached(&self, event: CUevent) -> Result<bool, Status> {
        match ask!(self.cuEventQuery(event)) {
            Ok(()) => Ok(true),
            Err(CUDA_ERROR_NOT_READY) => Ok(false),
            Err(status) => Err(status),
        }
    }

    /// From now on nothing that this thread does disturbs a recording into a graph.
    pub(crate) fn leave_captures_alone(&self) -> Result<(), Status> {
        let mut mode = CU_STREAM_CAPTURE_MODE_RELAXED;
        self.set_capture_mode(&mut mode)
    }

    /// Does what would otherwise disturb a recording into a graph on some other stream.
    pub(crate) fn with_captures_left_alone<T>(
        &self,
        work: impl FnOnce() -> T,
    ) -> Result<T, Status> {
        let mut mode = CU_STREAM_CAPTURE_MODE_RELAXED;
        self.set_capture_mode(&mut mode)?;
        let answer = work();
        self.set_capture_mode(&mut mode)?;
        Ok(answer)
    }

    /// Sets how this thread minds recordings, and gives how it did. A driver that does not know of it (before CUDA 10.1) forbids nobody anything.
    fn set_capture_mode(&self, mode: &mut CUstreamCaptureMode) -> Result<(), Status> {
        match ask!(self.cuThreadExchangeStreamCaptureMode(mode)) {
            Err(CUDA_ERROR_NOT_FOUND) => Ok(()),
            answer => answer,
        }
    }

    /// Milliseconds between two reached events; resolution about 0.5 µs.
    pub(crate) fn elapsed_ms(&self, start: CUevent, end: CUevent) -> Result<f32, Status> {
        let mut elapsed_ms = 0.0;
        ask!(self.cuEventElapsedTime(&raw mut elapsed_ms, start, end))?;
        Ok(elapsed_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_librarys_functions_are_those_that_the_loader_finds_on_its_handle() {
        // SAFETY: the C library's own, which runs nothing.
        let library = unsafe { libc::dlopen(c"libm.so.6".as_ptr(), libc::RTLD_NOW) };
        let address = address_in(library);
        // Its own, its own as chosen for the processor, of a library behind it, of nobody.
        for (name, is_there) in [
            (c"nextafter", true),
            (c"cos", true),
            (c"malloc", true),
            (c"cuInit", false),
        ] {
            assert_eq!(address(name), lookup::real_dlsym(library, name), "{name:?}");
            assert_eq!(!address(name).is_null(), is_there, "{name:?}");
        }
    }
}
