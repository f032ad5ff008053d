//! The management library of the GPUs' driver, as far as it lists who uses them.
#![expect(
    unsafe_code,
    reason = "opens a C library, and calls it with buffers of ours"
)]

use std::ffi::CString;
use std::ptr;

use cuda_hook_libraries::{Gpu, NVML, Process, Unusable, is_simulated};
use cuda_sys_stubs::nvml_abi::{
    NVML_ERROR_INSUFFICIENT_SIZE, NVML_SUCCESS, nvmlDevice_t, nvmlProcessInfo_v2_t,
};
use cuda_sys_stubs::nvml_pfn as pfn;
use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};

use crate::mapped;

/// NVML, initialised.
pub(crate) struct Nvml {
    handle_by_uuid: pfn::nvmlDeviceGetHandleByUUID,
    compute_processes: pfn::nvmlDeviceGetComputeRunningProcesses_v2,
    shutdown: pfn::nvmlShutdown,
    /// What the functions stand in.
    _library: Library,
}

impl Nvml {
    pub(crate) fn open() -> Result<Self, Unusable> {
        // SAFETY: NVML's promise: it may be loaded into any process; its constructors assume nothing.
        let library = unsafe { Library::open(Some(NVML), RTLD_LAZY | RTLD_LOCAL) }
            .map_err(|error| Unusable::Absent(error.to_string()))?;
        // It would start its machine for us.
        if mapped::file("libnvidia-ml.so").is_some_and(|path| is_simulated(&path)) {
            return Err(Unusable::Absent("it is the simulated one".to_owned()));
        }
        macro_rules! function {
            ($name:ident as $like:ident) => {
                // SAFETY: the type is the ABI's for this name (nvml.h).
                unsafe { library.get::<pfn::$like>(concat!(stringify!($name), "\0").as_bytes()) }
                    .map(|function| *function)
                    .map_err(|error| Unusable::Absent(error.to_string()))
            };
        }
        let init = function!(nvmlInit_v2 as nvmlInit_v2)?;
        // The third version fills the records of the second (nvml.h, `nvmlProcessInfo_t`).
        let newest = function!(
            nvmlDeviceGetComputeRunningProcesses_v3 as nvmlDeviceGetComputeRunningProcesses_v2
        );
        let second = || {
            function!(
                nvmlDeviceGetComputeRunningProcesses_v2 as nvmlDeviceGetComputeRunningProcesses_v2
            )
        };
        let nvml = Self {
            handle_by_uuid: function!(nvmlDeviceGetHandleByUUID as nvmlDeviceGetHandleByUUID)?,
            compute_processes: newest.or_else(|_| second())?,
            shutdown: function!(nvmlShutdown as nvmlShutdown)?,
            _library: library,
        };
        // SAFETY: NVML's own function, without arguments.
        match unsafe { init() } {
            NVML_SUCCESS => Ok(nvml),
            status => Err(Unusable::Refused(status)),
        }
    }

    /// Who uses a GPU; `None` for one that NVML does not know.
    pub(crate) fn list(&self, uuid: &str) -> Option<Gpu> {
        let name = CString::new(uuid).ok()?;
        let mut handle: nvmlDevice_t = ptr::null_mut();
        // SAFETY: a C string and an out-pointer, both live.
        let status = unsafe { (self.handle_by_uuid)(name.as_ptr(), &raw mut handle) };
        let rows = (status == NVML_SUCCESS).then(|| self.rows(handle))??;
        let process = |row: &nvmlProcessInfo_v2_t| Process {
            pid: row.pid,
            // nvml.h: memory that is not available is told as all ones.
            memory_bytes: (row.usedGpuMemory != u64::MAX).then_some(row.usedGpuMemory),
        };
        Some(Gpu {
            uuid: uuid.to_owned(),
            processes: rows.iter().map(process).collect(),
        })
    }

    /// The list of a GPU of which `handle` is NVML's own.
    fn rows(&self, handle: nvmlDevice_t) -> Option<Vec<nvmlProcessInfo_v2_t>> {
        const EMPTY: nvmlProcessInfo_v2_t = nvmlProcessInfo_v2_t {
            pid: 0,
            usedGpuMemory: 0,
            gpuInstanceId: 0,
            computeInstanceId: 0,
        };
        let mut rows = vec![EMPTY; 64];
        loop {
            let mut count = u32::try_from(rows.len()).ok()?;
            // SAFETY: NVML's own handle; the array is as long as said.
            let status =
                unsafe { (self.compute_processes)(handle, &raw mut count, rows.as_mut_ptr()) };
            let listed = usize::try_from(count).ok()?;
            match status {
                NVML_SUCCESS => {
                    rows.truncate(listed);
                    return Some(rows);
                }
                // More may come meanwhile.
                NVML_ERROR_INSUFFICIENT_SIZE if listed > rows.len() => {
                    rows.resize(listed.saturating_mul(2), EMPTY);
                }
                _ => return None,
            }
        }
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: initialised in `open`, and the library is still there. What it answers helps nobody.
        let _status = unsafe { (self.shutdown)() };
    }
}
