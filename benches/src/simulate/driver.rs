//! The driver and NVML, through the libraries that every CUDA program loads.
#![expect(unsafe_code, reason = "calls the driver API and NVML, which are C")]

use cuda_sys_stubs::abi::*;
use cuda_sys_stubs::nvml_abi::*;
use cuda_sys_stubs::{nvml_pfn, pfn};
use libloading::Library;
use std::ffi::{CString, c_uint};
use std::fmt::Write;
use std::ptr;

fn open(name: &str) -> Result<Library, String> {
    // SAFETY: driver and NVML, real or simulated, run nothing but their loader's work when they are loaded.
    unsafe { Library::new(name) }.map_err(|error| error.to_string())
}

/// A function of a library. `T` must be its type.
fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
    // SAFETY: each caller names the function-pointer type of that very symbol.
    let symbol = unsafe { library.get::<T>(name) }.map_err(|error| error.to_string())?;
    Ok(*symbol)
}

/// Declares functions of a library once: a field of its type for each, looked up by its name.
macro_rules! functions {
    ($structure:ident from $module:ident: $($symbol:ident),+ $(,)?) => {
        #[expect(non_snake_case, reason = "spelled as in the library's header")]
        struct $structure {
            $($symbol: $module::$symbol,)+
            /// Keeps the functions where they are.
            _library: Library,
        }

        impl $structure {
            fn open(name: &str) -> Result<Self, String> {
                let library = open(name)?;
                Ok(Self {
                    $($symbol: symbol(&library, stringify!($symbol))?,)+
                    _library: library,
                })
            }
        }
    };
}

functions! {
    Calls from pfn:
    cuInit, cuDeviceGet, cuDevicePrimaryCtxRetain, cuCtxSetCurrent, cuCtxSynchronize, cuModuleLoadData,
    cuModuleGetFunction, cuLaunchKernel, cuEventCreate, cuEventRecord, cuEventSynchronize, cuEventElapsedTime,
}

functions! {
    NvmlCalls from nvml_pfn:
    nvmlInit_v2, nvmlDeviceGetHandleByIndex_v2, nvmlDeviceGetProcessUtilization,
}

fn checked(call: &str, status: CUresult) -> Result<(), String> {
    match status {
        CUDA_SUCCESS => Ok(()),
        status => Err(format!("{call} answered {status}")),
    }
}

/// Calls a function of [`Calls`] and gives its refusal the function's name.
macro_rules! call {
    ($calls:expr, $symbol:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: out-pointers lead to live variables of the right types; handles are this device's own and live as long as
        // the process.
        checked(stringify!($symbol), unsafe { ($calls.$symbol)($($argument),*) })
    };
}

/// A kernel on the first device, launched on its default stream. It lives as long as the process.
pub(crate) struct Kernel {
    calls: Calls,
    function: CUfunction,
    blocks: u32,
    threads: u32,
}

/// An event that keeps the time.
#[derive(Clone, Copy)]
pub(crate) struct Event(CUevent);

impl Kernel {
    /// A kernel of so many blocks of so many threads, each of which runs about so many instructions.
    pub(crate) fn load(blocks: u32, threads: u32, instructions: u64) -> Result<Self, String> {
        let calls = Calls::open("libcuda.so.1")?;
        let mut device: CUdevice = 0;
        let mut context: CUcontext = ptr::null_mut();
        let mut module: CUmodule = ptr::null_mut();
        let mut function: CUfunction = ptr::null_mut();
        let text = CString::new(kernel_text(instructions)).map_err(|error| error.to_string())?;
        call!(calls, cuInit(0))?;
        call!(calls, cuDeviceGet(&raw mut device, 0))?;
        call!(calls, cuDevicePrimaryCtxRetain(&raw mut context, device))?;
        call!(calls, cuCtxSetCurrent(context))?;
        call!(
            calls,
            cuModuleLoadData(&raw mut module, text.as_ptr().cast())
        )?;
        call!(
            calls,
            cuModuleGetFunction(&raw mut function, module, c"spin".as_ptr())
        )?;
        Ok(Self {
            calls,
            function,
            blocks,
            threads,
        })
    }

    /// Launches it.
    pub(crate) fn launch(&self) -> Result<(), String> {
        let none = ptr::null_mut();
        call!(
            self.calls,
            cuLaunchKernel(
                self.function,
                self.blocks,
                1,
                1,
                self.threads,
                1,
                1,
                0,
                none,
                none.cast(),
                none.cast()
            )
        )
    }

    /// Waits until everything has completed.
    pub(crate) fn synchronize(&self) -> Result<(), String> {
        call!(self.calls, cuCtxSynchronize())
    }

    /// An event that was not recorded yet.
    pub(crate) fn event(&self) -> Result<Event, String> {
        let mut event: CUevent = ptr::null_mut();
        call!(self.calls, cuEventCreate(&raw mut event, CU_EVENT_DEFAULT))?;
        Ok(Event(event))
    }

    /// Records an event behind everything that was launched.
    pub(crate) fn record(&self, event: Event) -> Result<(), String> {
        call!(self.calls, cuEventRecord(event.0, ptr::null_mut()))
    }

    /// Waits for the second of two recorded events; the time between them, in ns.
    pub(crate) fn elapsed_ns(&self, from: Event, to: Event) -> Result<u64, String> {
        let mut elapsed_ms = 0.0_f32;
        call!(self.calls, cuEventSynchronize(to.0))?;
        call!(
            self.calls,
            cuEventElapsedTime(&raw mut elapsed_ms, from.0, to.0)
        )?;
        Ok((f64::from(elapsed_ms) * 1e6) as u64)
    }
}

/// PTX of a loop of three instructions.
fn kernel_text(instructions: u64) -> String {
    let mut text =
        String::from(".version 7.0\n.target sm_52\n.address_size 64\n.visible .entry spin()\n{\n");
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\t.reg .pred %p<2>;\n\t.reg .b32 %r<2>;\n\tmov.u32 %r1, 0;\n$again:\n\tadd.u32 %r1, %r1, 1;\n\
         \tsetp.lt.u32 %p1, %r1, {};\n\t@%p1 bra $again;\n\tret;\n}}\n",
        (instructions / 3).max(1)
    );
    text
}

/// NVML and its first device.
pub(crate) struct Nvml {
    calls: NvmlCalls,
    device: nvmlDevice_t,
}

impl Nvml {
    /// Opens it.
    pub(crate) fn open() -> Result<Self, String> {
        let calls = NvmlCalls::open("libnvidia-ml.so.1")?;
        let mut device: nvmlDevice_t = ptr::null_mut();
        // SAFETY: no arguments; an out-pointer to a live variable.
        let status = unsafe {
            match (calls.nvmlInit_v2)() {
                NVML_SUCCESS => (calls.nvmlDeviceGetHandleByIndex_v2)(0, &raw mut device),
                status => status,
            }
        };
        match status {
            NVML_SUCCESS => Ok(Self { calls, device }),
            status => Err(format!("NVML answered {status}")),
        }
    }

    /// A process's utilization since this time, in percent; `None`: NVML has seen none of it.
    pub(crate) fn utilization(&self, pid: u32, since_us: u64) -> Result<Option<u32>, String> {
        const ROWS: usize = 64;
        // SAFETY: plain numbers, for which zero is a value.
        let mut rows: [nvmlProcessUtilizationSample_t; ROWS] = unsafe { std::mem::zeroed() };
        let mut count = ROWS as c_uint;
        // SAFETY: room for `count` rows; out-pointer to a live variable; the device is NVML's own.
        let status = unsafe {
            (self.calls.nvmlDeviceGetProcessUtilization)(
                self.device,
                rows.as_mut_ptr(),
                &raw mut count,
                since_us,
            )
        };
        match status {
            NVML_SUCCESS => {
                let mut seen = rows.iter().take(count as usize);
                Ok(seen.find(|row| row.pid == pid).map(|row| row.smUtil))
            }
            NVML_ERROR_NOT_FOUND => Ok(None),
            status => Err(format!("nvmlDeviceGetProcessUtilization answered {status}")),
        }
    }
}
