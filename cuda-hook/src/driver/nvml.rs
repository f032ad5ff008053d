//! The real management library, and what we ask it.
#![expect(unsafe_code, reason = "calls NVML through its function pointers")]
#![expect(non_snake_case, reason = "fields are named as NVML's functions")]

use std::ffi::{CStr, CString, OsStr, c_char, c_uint, c_void};
use std::ptr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cuda_sys_stubs::nvml_abi::*;
use cuda_sys_stubs::nvml_pfn;
use limiter::lending::Physical;
use limiter::units::{Bytes, DeviceUuid};

use super::{OpenError, address_in, functions, open};
use crate::table::NvmlRows;

/// The management library under the name that programs ask the loader for.
pub(crate) const NVML_SONAME: &CStr = c"libnvidia-ml.so.1";

functions! {
    /// What we ask NVML on our own account.
    struct NvmlQuestions from nvml_pfn {
        nvmlDeviceGetComputeRunningProcesses_v2, nvmlDeviceGetComputeRunningProcesses_v3,
        nvmlDeviceGetCount_v2, nvmlDeviceGetHandleByIndex_v2, nvmlDeviceGetHandleByUUID, nvmlDeviceGetMemoryInfo, nvmlDeviceGetUUID,
        nvmlInit_v2, nvmlShutdown,
    }
}

/// The real management library.
pub(crate) struct Nvml {
    /// What the rows of the table forward to.
    pub(crate) rows: NvmlRows,
    questions: NvmlQuestions,
}

/// nvml.h, `NVML_VALUE_NOT_AVAILABLE` as 64 bits: what the platform does not tell.
const MEMORY_NOT_AVAILABLE: u64 = u64::MAX;
/// Processes on one GPU that a list has room for.
const PROCESSES_MAX: usize = 1024;
/// Room for a UUID as NVML writes it (`NVML_DEVICE_UUID_V2_BUFFER_SIZE`).
const UUID_TEXT_BYTES: usize = 96;

impl Nvml {
    /// Opens the library that the loader finds. It stays open for good.
    pub(crate) fn open() -> Result<Self, OpenError> {
        let soname = NVML_SONAME.to_string_lossy();
        let library = open(OsStr::new(&*soname))?.into_raw();
        let address = address_in(library);
        Ok(Self {
            // SAFETY: the library's promise: what it exports under these names is what its headers declare.
            rows: unsafe { NvmlRows::resolve(&address) },
            // SAFETY: as above.
            questions: unsafe { NvmlQuestions::resolve(&address) },
        })
    }

    /// The UUIDs of the devices that this process may see, in NVML's order.
    pub(crate) fn device_uuids(&self) -> Option<Vec<DeviceUuid>> {
        let mut count = 0;
        // SAFETY: NVML's own function; the out-pointer is live.
        let status = unsafe { (self.questions.nvmlDeviceGetCount_v2?)(&raw mut count) };
        (status == NVML_SUCCESS).then_some(())?;
        (0..count)
            .map(|index| {
                let mut device = ptr::null_mut();
                // SAFETY: as above.
                let status = unsafe {
                    (self.questions.nvmlDeviceGetHandleByIndex_v2?)(index, &raw mut device)
                };
                (status == NVML_SUCCESS)
                    .then(|| self.device_uuid(device))
                    .flatten()
            })
            .collect()
    }

    /// The UUID of a device that the caller holds a valid handle of.
    pub(crate) fn device_uuid(&self, device: nvmlDevice_t) -> Option<DeviceUuid> {
        let mut text = [0 as c_char; UUID_TEXT_BYTES];
        let length = c_uint::try_from(text.len()).ok()?;
        // SAFETY: the caller's handle; the buffer is as long as said.
        let status =
            unsafe { (self.questions.nvmlDeviceGetUUID?)(device, text.as_mut_ptr(), length) };
        if status != NVML_SUCCESS {
            return None;
        }
        let bytes = text.map(c_char::cast_unsigned);
        CStr::from_bytes_until_nul(&bytes)
            .ok()?
            .to_str()
            .ok()?
            .parse()
            .ok()
    }

    /// What everybody together holds of the memory of that GPU.
    pub(crate) fn memory_used(&self, uuid: DeviceUuid) -> Option<Bytes> {
        Some(Bytes::new(self.memory_info(uuid)?.used))
    }

    /// The memory of that GPU.
    pub(crate) fn memory(&self, uuid: DeviceUuid) -> Option<Physical> {
        let memory = self.memory_info(uuid)?;
        Some(Physical {
            total: Bytes::new(memory.total),
            free: Some(Bytes::new(memory.free)),
        })
    }

    fn memory_info(&self, uuid: DeviceUuid) -> Option<nvmlMemory_t> {
        self.of_device(uuid, |device| {
            let mut memory = nvmlMemory_t {
                total: 0,
                free: 0,
                used: 0,
            };
            // SAFETY: NVML's own function; the handle is its own, the out-pointer is live.
            let status =
                unsafe { (self.questions.nvmlDeviceGetMemoryInfo?)(device, &raw mut memory) };
            (status == NVML_SUCCESS).then_some(memory)
        })
    }

    /// What NVML lists of that GPU's memory as the process's; `None` where it does not list it.
    pub(crate) fn process_memory(&self, uuid: DeviceUuid, pid: u32) -> Option<Bytes> {
        let used = self
            .of_device(uuid, |device| self.compute_processes(device))?
            .into_iter()
            .find(|process| process.pid == pid)?
            .usedGpuMemory;
        (used != MEMORY_NOT_AVAILABLE).then_some(Bytes::new(used))
    }

    /// How busy each process kept a device since `last_seen_us` (CPU time in µs, as NVML's samples have it).
    pub(crate) fn process_utilization(
        &self,
        device: nvmlDevice_t,
        last_seen_us: u64,
    ) -> Result<Vec<nvmlProcessUtilizationSample_t>, nvmlReturn_t> {
        let ask = self.rows.nvmlDeviceGetProcessUtilization;
        let ask = ask.ok_or(NVML_ERROR_FUNCTION_NOT_FOUND)?;
        let empty = nvmlProcessUtilizationSample_t {
            pid: 0,
            timeStamp: 0,
            smUtil: 0,
            memUtil: 0,
            encUtil: 0,
            decUtil: 0,
        };
        let mut rows = vec![empty; PROCESSES_MAX];
        let mut count = c_uint::try_from(rows.len()).unwrap_or(0);
        // SAFETY: NVML's own function; the caller's device, an array that is as long as said.
        let status = unsafe { ask(device, rows.as_mut_ptr(), &raw mut count, last_seen_us) };
        rows.truncate(usize::try_from(count).unwrap_or(0));
        if status == NVML_SUCCESS {
            Ok(rows)
        } else {
            Err(status)
        }
    }

    /// The same of the last second: as far back as `nvmlDeviceGetUtilizationRates` looks at most (nvml.h).
    pub(crate) fn recent_process_utilization(
        &self,
        device: nvmlDevice_t,
    ) -> Result<Vec<nvmlProcessUtilizationSample_t>, nvmlReturn_t> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let begin = now
            .unwrap_or_default()
            .saturating_sub(Duration::from_secs(1));
        self.process_utilization(device, u64::try_from(begin.as_micros()).unwrap_or(0))
    }

    /// The processes with a context on a device.
    pub(crate) fn compute_processes(&self, device: nvmlDevice_t) -> Option<Vec<nvmlProcessInfo_t>> {
        let list = self
            .questions
            .nvmlDeviceGetComputeRunningProcesses_v3
            .or(self.questions.nvmlDeviceGetComputeRunningProcesses_v2)?;
        let empty = nvmlProcessInfo_t {
            pid: 0,
            usedGpuMemory: 0,
            gpuInstanceId: 0,
            computeInstanceId: 0,
        };
        let mut processes = vec![empty; PROCESSES_MAX];
        let mut count = c_uint::try_from(processes.len()).ok()?;
        // SAFETY: NVML's own function; the array is as long as said. The third version has the second's record
        // (nvml.h, nvmlProcessInfo_t).
        let status = unsafe { list(device, &raw mut count, processes.as_mut_ptr()) };
        processes.truncate(usize::try_from(count).ok()?);
        (status == NVML_SUCCESS).then_some(processes)
    }

    /// Asks about that GPU. NVML is initialised for the question: it counts that.
    fn of_device<T>(
        &self,
        uuid: DeviceUuid,
        question: impl FnOnce(nvmlDevice_t) -> Option<T>,
    ) -> Option<T> {
        // SAFETY: NVML's own functions; each initialisation is paired with a shutdown.
        let status = unsafe { (self.questions.nvmlInit_v2?)() };
        (status == NVML_SUCCESS).then_some(())?;
        let answer = self.handle(uuid).and_then(question);
        // SAFETY: as above.
        unsafe { (self.questions.nvmlShutdown?)() };
        answer
    }

    fn handle(&self, uuid: DeviceUuid) -> Option<nvmlDevice_t> {
        let text = CString::new(uuid.to_string()).ok()?;
        let mut device = ptr::null_mut();
        // SAFETY: NVML's own function; the text and the out-pointer are live.
        let status =
            unsafe { (self.questions.nvmlDeviceGetHandleByUUID?)(text.as_ptr(), &raw mut device) };
        (status == NVML_SUCCESS).then_some(device)
    }
}
