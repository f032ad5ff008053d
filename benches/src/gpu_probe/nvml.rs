//! NVML: what it says of a device and of the processes on it.
#![expect(unsafe_code, reason = "calls a C library")]

use std::ffi::{CStr, CString, c_char, c_uint};
use std::ptr;

use cuda_sys_stubs::nvml_abi::*;
use cuda_sys_stubs::nvml_pfn as pfn;
use libloading::Library;

/// NVML's SONAME.
const NAME: &str = "libnvidia-ml.so.1";

/// NVML, initialised, and one device.
pub(crate) struct Nvml {
    library: Library,
    device: nvmlDevice_t,
}

/// One sample of one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) pid: u32,
    /// Of the wall clock, in µs since 1970.
    pub(crate) time_us: u64,
    pub(crate) sm_percent: u32,
}

fn checked(call: &str, status: nvmlReturn_t) -> Result<(), String> {
    match status {
        NVML_SUCCESS => Ok(()),
        status => Err(format!("{call}: NVML status {status}")),
    }
}

/// Calls a function of NVML's and gives its refusal the function's name.
macro_rules! call {
    ($library:expr, $symbol:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: the type is the ABI's for this name (nvml.h).
        let function = unsafe { $library.get::<pfn::$symbol>(stringify!($symbol)) };
        let function = function.map_err(|error| error.to_string())?;
        // SAFETY: out-pointers lead to live variables of the right types, buffers are as long as is said.
        checked(stringify!($symbol), unsafe { function($($argument),*) })
    }};
}

impl Nvml {
    /// The device of that UUID.
    pub(crate) fn open(uuid: &str) -> Result<Self, String> {
        // SAFETY: NVML's promise: it may be loaded into any process; its constructors assume nothing.
        let library = unsafe { Library::new(NAME) }.map_err(|error| format!("no NVML: {error}"))?;
        call!(library, nvmlInit_v2())?;
        let uuid = CString::new(uuid).map_err(|error| error.to_string())?;
        let mut device = ptr::null_mut();
        call!(
            library,
            nvmlDeviceGetHandleByUUID(uuid.as_ptr(), &raw mut device)
        )?;
        Ok(Self { library, device })
    }

    /// As `nvidia-smi` calls the driver.
    pub(crate) fn driver_version(&self) -> Result<String, String> {
        let mut text = [0 as c_char; 96];
        let room = c_uint::try_from(text.len()).unwrap_or_default();
        call!(
            self.library,
            nvmlSystemGetDriverVersion(text.as_mut_ptr(), room)
        )?;
        // SAFETY: NVML ended the text with a NUL within the array.
        let text = unsafe { CStr::from_ptr(text.as_ptr()) };
        Ok(text.to_string_lossy().into_owned())
    }

    /// What is taken of the board's memory, in bytes.
    pub(crate) fn memory_bytes_used(&self) -> Result<u64, String> {
        let mut memory = nvmlMemory_t {
            total: 0,
            free: 0,
            used: 0,
        };
        call!(
            self.library,
            nvmlDeviceGetMemoryInfo(self.device, &raw mut memory)
        )?;
        Ok(memory.used)
    }

    /// How busy the compute engine was, in percent, as NVML averages it.
    pub(crate) fn gpu_percent(&self) -> Result<u32, String> {
        let mut utilization = nvmlUtilization_t { gpu: 0, memory: 0 };
        call!(
            self.library,
            nvmlDeviceGetUtilizationRates(self.device, &raw mut utilization)
        )?;
        Ok(utilization.gpu)
    }

    /// Samples of processes since a time of the wall clock in µs; none where NVML has none.
    pub(crate) fn samples(&self, since_us: u64) -> Result<Vec<Sample>, String> {
        const MOST: usize = 1024;
        let none = nvmlProcessUtilizationSample_t {
            pid: 0,
            timeStamp: 0,
            smUtil: 0,
            memUtil: 0,
            encUtil: 0,
            decUtil: 0,
        };
        let mut samples = [none; MOST];
        let mut count = c_uint::try_from(MOST).unwrap_or_default();
        // SAFETY: the type is the ABI's for this name (nvml.h).
        let function = unsafe {
            self.library
                .get::<pfn::nvmlDeviceGetProcessUtilization>("nvmlDeviceGetProcessUtilization")
        };
        let function = function.map_err(|error| error.to_string())?;
        // SAFETY: a buffer of so many samples, and a live count.
        match unsafe { function(self.device, samples.as_mut_ptr(), &raw mut count, since_us) } {
            NVML_ERROR_NOT_FOUND => return Ok(Vec::new()),
            status => checked("nvmlDeviceGetProcessUtilization", status)?,
        }
        let count = usize::try_from(count).unwrap_or_default().min(MOST);
        let sample = |each: &nvmlProcessUtilizationSample_t| Sample {
            pid: each.pid,
            time_us: each.timeStamp,
            sm_percent: each.smUtil,
        };
        Ok(samples[..count].iter().map(sample).collect())
    }
}
