//! The driver: the calls that the probes make, on one device.
#![expect(unsafe_code, reason = "calls the driver API, which is C")]

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use benches::{driver, ptx};
use cuda_sys_stubs::abi::*;

benches::driver_calls! {
    cuInit, cuDriverGetVersion, cuDeviceGetCount, cuDeviceGet, cuDeviceGetName, cuDeviceGetUuid, cuDeviceTotalMem_v2, cuDeviceGetAttribute,
    cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRelease_v2, cuCtxCreate_v2, cuCtxDestroy_v2, cuCtxSetCurrent, cuCtxSynchronize,
    cuStreamCreate, cuStreamSynchronize, cuEventCreate, cuEventRecord, cuEventQuery, cuEventElapsedTime,
    cuModuleLoadData, cuModuleUnload, cuModuleGetFunction, cuLaunchKernel,
    cuMemAlloc_v2, cuMemFree_v2, cuMemGetInfo_v2, cuMemAllocHost_v2, cuMemcpyHtoDAsync_v2, cuMemcpyDtoH_v2, cuMemsetD8_v2,
    cuStreamWriteValue32_v2, cuStreamBeginCapture_v2, cuStreamEndCapture, cuGraphInstantiateWithFlags, cuGraphLaunch,
    cuGetProcAddress_v2,
}

/// Calls a function of [`Calls`] and gives its refusal the function's name.
macro_rules! call {
    ($gpu:expr, $symbol:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: out-pointers lead to live variables of the right types, handles and buffers are this device's own and
        // live as long as they are used.
        driver::checked(stringify!($symbol), unsafe { ($gpu.$symbol)($($argument),*) })
    };
}

/// The first visible device, with its primary context current.
pub(crate) struct Gpu {
    calls: Calls,
    device: CUdevice,
}

/// A stream of the device's.
#[derive(Clone, Copy)]
pub(crate) struct Stream(CUstream);

/// An event.
#[derive(Clone, Copy)]
pub(crate) struct Event(CUevent);

/// A kernel, which takes no time worth speaking of, or a stated number of instructions.
#[derive(Clone, Copy)]
pub(crate) struct Kernel(CUfunction);

/// A graph that can be launched.
#[derive(Clone, Copy)]
pub(crate) struct Graph(CUgraphExec);

/// Device memory.
#[derive(Clone, Copy)]
pub(crate) struct Block(CUdeviceptr);

/// A loaded module.
pub(crate) struct Module(CUmodule);

/// Page-locked memory of the host.
#[derive(Clone, Copy)]
pub(crate) struct HostBlock(*mut c_void);

impl Gpu {
    /// Loads the driver and initialises it, without a context.
    pub(crate) fn initialised() -> Result<Self, String> {
        let calls = Calls::open()?;
        let mut device = 0;
        call!(calls, cuInit(0))?;
        call!(calls, cuDeviceGet(&raw mut device, 0))?;
        Ok(Self { calls, device })
    }

    /// As [`Self::initialised`], with the primary context.
    pub(crate) fn open() -> Result<Self, String> {
        let gpu = Self::initialised()?;
        gpu.retain_primary_context()?;
        Ok(gpu)
    }

    pub(crate) fn retain_primary_context(&self) -> Result<(), String> {
        let mut context: CUcontext = ptr::null_mut();
        call!(
            self.calls,
            cuDevicePrimaryCtxRetain(&raw mut context, self.device)
        )?;
        call!(self.calls, cuCtxSetCurrent(context))
    }

    pub(crate) fn release_primary_context(&self) -> Result<(), String> {
        call!(self.calls, cuDevicePrimaryCtxRelease_v2(self.device))
    }

    /// A further context, which is current then.
    pub(crate) fn create_context(&self) -> Result<(), String> {
        let mut context: CUcontext = ptr::null_mut();
        call!(self.calls, cuCtxCreate_v2(&raw mut context, 0, self.device))
    }

    /// As the driver numbers its versions: 12080 is 12.8.
    pub(crate) fn driver_version(&self) -> Result<c_int, String> {
        let mut version = 0;
        call!(self.calls, cuDriverGetVersion(&raw mut version))?;
        Ok(version)
    }

    pub(crate) fn device_count(&self) -> Result<c_int, String> {
        let mut count = 0;
        call!(self.calls, cuDeviceGetCount(&raw mut count))?;
        Ok(count)
    }

    pub(crate) fn name(&self) -> Result<String, String> {
        const BYTES: c_int = 128;
        let mut name = [0 as c_char; BYTES as usize];
        call!(
            self.calls,
            cuDeviceGetName(name.as_mut_ptr(), BYTES, self.device)
        )?;
        // SAFETY: the driver ended the name with a NUL within the array.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        Ok(name.to_string_lossy().into_owned())
    }

    /// As NVML and `nvidia-smi` write it.
    pub(crate) fn uuid(&self) -> Result<String, String> {
        let mut uuid = CUuuid { bytes: [0; 16] };
        call!(self.calls, cuDeviceGetUuid(&raw mut uuid, self.device))?;
        let hex: String = uuid
            .bytes
            .iter()
            .map(|byte| format!("{:02x}", *byte as u8))
            .collect();
        let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
        let parts = parts.map(|(from, to)| hex.get(from..to).unwrap_or_default());
        Ok(format!("GPU-{}", parts.join("-")))
    }

    pub(crate) fn attribute(&self, attribute: CUdevice_attribute) -> Result<c_int, String> {
        let mut value = 0;
        call!(
            self.calls,
            cuDeviceGetAttribute(&raw mut value, attribute, self.device)
        )?;
        Ok(value)
    }

    pub(crate) fn memory_bytes(&self) -> Result<usize, String> {
        let mut bytes = 0;
        call!(self.calls, cuDeviceTotalMem_v2(&raw mut bytes, self.device))?;
        Ok(bytes)
    }

    /// Free and total, in bytes.
    pub(crate) fn memory_info(&self) -> Result<(usize, usize), String> {
        let (mut free, mut total) = (0, 0);
        call!(self.calls, cuMemGetInfo_v2(&raw mut free, &raw mut total))?;
        Ok((free, total))
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Result<Block, String> {
        let mut pointer = 0;
        call!(self.calls, cuMemAlloc_v2(&raw mut pointer, bytes))?;
        Ok(Block(pointer))
    }

    pub(crate) fn free(&self, block: Block) -> Result<(), String> {
        call!(self.calls, cuMemFree_v2(block.0))
    }

    pub(crate) fn host_block(&self, bytes: usize) -> Result<HostBlock, String> {
        let mut host = ptr::null_mut();
        call!(self.calls, cuMemAllocHost_v2(&raw mut host, bytes))?;
        Ok(HostBlock(host))
    }

    pub(crate) fn copy_to_device(
        &self,
        block: Block,
        host: HostBlock,
        bytes: usize,
        stream: Stream,
    ) -> Result<(), String> {
        call!(
            self.calls,
            cuMemcpyHtoDAsync_v2(block.0, host.0, bytes, stream.0)
        )
    }

    pub(crate) fn clear(&self, block: Block, bytes: usize) -> Result<(), String> {
        call!(self.calls, cuMemsetD8_v2(block.0, 0, bytes))
    }

    /// The first words of a block, once the device has done all that it was asked for.
    pub(crate) fn words(&self, block: Block, count: usize) -> Result<Vec<u64>, String> {
        let mut words = vec![0u64; count];
        self.synchronize()?;
        call!(
            self.calls,
            cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), block.0, size_of_val(&*words))
        )?;
        Ok(words)
    }

    pub(crate) fn stream(&self) -> Result<Stream, String> {
        let mut stream = ptr::null_mut();
        call!(
            self.calls,
            cuStreamCreate(&raw mut stream, CU_STREAM_NON_BLOCKING)
        )?;
        Ok(Stream(stream))
    }

    pub(crate) fn wait(&self, stream: Stream) -> Result<(), String> {
        call!(self.calls, cuStreamSynchronize(stream.0))
    }

    pub(crate) fn synchronize(&self) -> Result<(), String> {
        call!(self.calls, cuCtxSynchronize())
    }

    pub(crate) fn event(&self, is_timing: bool) -> Result<Event, String> {
        let flags = match is_timing {
            true => CU_EVENT_DEFAULT,
            false => CU_EVENT_DISABLE_TIMING,
        };
        let mut event = ptr::null_mut();
        call!(self.calls, cuEventCreate(&raw mut event, flags))?;
        Ok(Event(event))
    }

    pub(crate) fn record(&self, event: Event, stream: Stream) -> Result<(), String> {
        call!(self.calls, cuEventRecord(event.0, stream.0))
    }

    /// Whether it has come.
    pub(crate) fn query(&self, event: Event) -> Result<bool, String> {
        // SAFETY: an event of this device's.
        match unsafe { (self.calls.cuEventQuery)(event.0) } {
            CUDA_ERROR_NOT_READY => Ok(false),
            status => driver::checked("cuEventQuery", status).map(|()| true),
        }
    }

    pub(crate) fn elapsed_us(&self, from: Event, to: Event) -> Result<f64, String> {
        let mut elapsed_ms = 0.0f32;
        call!(
            self.calls,
            cuEventElapsedTime(&raw mut elapsed_ms, from.0, to.0)
        )?;
        Ok(f64::from(elapsed_ms) * 1e3)
    }

    pub(crate) fn load(&self, text: &str) -> Result<Module, String> {
        let text = CString::new(text).map_err(|error| error.to_string())?;
        let mut module = ptr::null_mut();
        call!(
            self.calls,
            cuModuleLoadData(&raw mut module, text.as_ptr().cast())
        )?;
        Ok(Module(module))
    }

    pub(crate) fn unload(&self, module: Module) -> Result<(), String> {
        call!(self.calls, cuModuleUnload(module.0))
    }

    pub(crate) fn function(&self, module: &Module, name: &str) -> Result<Kernel, String> {
        let name = CString::new(name).map_err(|error| error.to_string())?;
        let mut function = ptr::null_mut();
        call!(
            self.calls,
            cuModuleGetFunction(&raw mut function, module.0, name.as_ptr())
        )?;
        Ok(Kernel(function))
    }

    /// A kernel of so many instructions ([`ptx::kernel_name`]).
    pub(crate) fn spinning(&self, instructions: u64) -> Result<Kernel, String> {
        let module = self.load(&ptx::module(&BTreeSet::from([instructions])))?;
        self.function(&module, &ptx::kernel_name(instructions))
    }

    /// Launches a spinning kernel in so many blocks of 128 threads. It stores nothing, so that it needs nowhere to store.
    pub(crate) fn launch(&self, kernel: Kernel, blocks: u32, stream: Stream) -> Result<(), String> {
        let (mut sink, mut keep): (CUdeviceptr, u32) = (0, 0);
        let mut parameters: [*mut c_void; 2] = [(&raw mut sink).cast(), (&raw mut keep).cast()];
        self.launch_with(kernel, [blocks, 128], stream, &mut parameters)
    }

    /// Launches one thread of a kernel that takes a block and three numbers.
    pub(crate) fn launch_on(
        &self,
        kernel: Kernel,
        block: Block,
        mut numbers: [u64; 3],
        stream: Stream,
    ) -> Result<(), String> {
        let mut pointer = block.0;
        let [first, second, third] = &mut numbers;
        let mut parameters: [*mut c_void; 4] = [
            (&raw mut pointer).cast(),
            ptr::from_mut(first).cast(),
            ptr::from_mut(second).cast(),
            ptr::from_mut(third).cast(),
        ];
        self.launch_with(kernel, [1, 1], stream, &mut parameters)
    }

    fn launch_with(
        &self,
        kernel: Kernel,
        [blocks, threads]: [u32; 2],
        stream: Stream,
        parameters: &mut [*mut c_void],
    ) -> Result<(), String> {
        call!(
            self.calls,
            cuLaunchKernel(
                kernel.0,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                stream.0,
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        )
    }

    /// What `steps` asks of a stream, as a graph.
    pub(crate) fn capture(
        &self,
        stream: Stream,
        steps: impl FnOnce() -> Result<(), String>,
    ) -> Result<Graph, String> {
        let (mut graph, mut exec) = (ptr::null_mut(), ptr::null_mut());
        call!(
            self.calls,
            cuStreamBeginCapture_v2(stream.0, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        )?;
        let captured = steps();
        call!(self.calls, cuStreamEndCapture(stream.0, &raw mut graph))?;
        captured?;
        call!(
            self.calls,
            cuGraphInstantiateWithFlags(&raw mut exec, graph, 0)
        )?;
        Ok(Graph(exec))
    }

    pub(crate) fn launch_graph(&self, graph: Graph, stream: Stream) -> Result<(), String> {
        call!(self.calls, cuGraphLaunch(graph.0, stream.0))
    }

    /// Has the stream write a word of device memory.
    pub(crate) fn write_word(&self, stream: Stream, block: Block) -> Result<(), String> {
        call!(self.calls, cuStreamWriteValue32_v2(stream.0, block.0, 1, 0))
    }

    /// The address that the loader finds for a symbol of the driver's library.
    pub(crate) fn loader_address(&self, symbol: &str) -> Option<usize> {
        // SAFETY: the symbol is not called, only looked at.
        let found = unsafe { self.calls._library.get::<*const c_void>(symbol) };
        found.ok().map(|found| found.addr())
    }

    /// What the driver hands out for a name, and as which address; nothing where it has none.
    pub(crate) fn proc_address(&self, name: &str, version: c_int) -> Result<Option<usize>, String> {
        let name = CString::new(name).map_err(|error| error.to_string())?;
        let (mut address, mut found) = (ptr::null_mut(), 0);
        let asked = call!(
            self.calls,
            cuGetProcAddress_v2(name.as_ptr(), &raw mut address, version, 0, &raw mut found)
        );
        Ok(asked.ok().and((!address.is_null()).then(|| address.addr())))
    }
}

/// The file that an address is in.
pub(crate) fn file_of(address: usize) -> Option<String> {
    let mut info = libc::Dl_info {
        dli_fname: ptr::null(),
        dli_fbase: ptr::null_mut(),
        dli_sname: ptr::null(),
        dli_saddr: ptr::null_mut(),
    };
    // SAFETY: any address may be asked about; the record is written where one is found.
    let found = unsafe { libc::dladdr(ptr::without_provenance(address), &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's own string, of an object that is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(name.to_string_lossy().into_owned())
}
