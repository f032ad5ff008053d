//! The driver: the calls that the player makes, on one device and one stream.
#![expect(unsafe_code, reason = "calls the driver API, which is C")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};

use benches::driver;
use cuda_sys_stubs::abi::*;

use crate::failure::Failure;
use crate::file::Direction;
use crate::plan::Shape;
use crate::roofline::Attributes;

benches::driver_calls! {
    cuInit, cuDeviceGet, cuDeviceGetName, cuDeviceGetAttribute, cuDevicePrimaryCtxRetain, cuCtxSetCurrent,
    cuStreamCreate, cuStreamSynchronize, cuStreamBeginCapture_v2, cuStreamEndCapture,
    cuEventCreate, cuEventRecord, cuEventElapsedTime, cuLaunchHostFunc,
    cuModuleLoadData, cuModuleGetFunction, cuLaunchKernel,
    cuMemAlloc_v2, cuMemAllocHost_v2, cuMemcpyHtoDAsync_v2, cuMemcpyDtoHAsync_v2,
    cuGraphInstantiateWithFlags, cuGraphLaunch,
}

fn checked(call: &str, status: CUresult) -> Result<(), Failure> {
    driver::checked(call, status).map_err(Failure::failed)
}

/// Calls a function of [`Calls`] and gives its refusal the function's name.
macro_rules! call {
    ($gpu:expr, $symbol:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: out-pointers lead to live variables of the right types, handles and buffers are this device's own and
        // live as long as the process.
        checked(stringify!($symbol), unsafe { ($gpu.$symbol)($($argument),*) })
    };
}

/// The first visible device, with a stream on its primary context. What is made on it lives as long as the process.
pub(crate) struct Gpu {
    calls: Calls,
    /// As the device calls itself.
    pub(crate) name: String,
    /// Whether the driver is the project's simulation.
    pub(crate) simulated: bool,
    pub(crate) attributes: Attributes,
    stream: CUstream,
    /// Where kernels would store, if they stored.
    sink: CUdeviceptr,
}

/// A kernel of a loaded module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Function(CUfunction);

/// A loaded module.
pub(crate) struct Module(CUmodule);

/// An event with a time.
pub(crate) struct Event(CUevent);

/// A graph that can be launched.
pub(crate) struct GraphExec(CUgraphExec);

/// A stream that waits for the host. Dropping this lets it go on.
pub(crate) struct Held {
    _released_when_dropped: Sender<()>,
}

/// Page-locked host memory and device memory of the same size.
pub(crate) struct Buffers {
    host: *mut c_void,
    device: CUdeviceptr,
}

impl Gpu {
    /// Opens the driver and takes the first device.
    pub(crate) fn open() -> Result<Self, Failure> {
        let calls = Calls::open().map_err(Failure::failed)?;
        let mut device: CUdevice = 0;
        let mut context: CUcontext = ptr::null_mut();
        let mut stream: CUstream = ptr::null_mut();
        call!(calls, cuInit(0))?;
        call!(calls, cuDeviceGet(&raw mut device, 0))?;
        let name = device_name(&calls, device)?;
        let attributes = attributes(&calls, device)?;
        call!(calls, cuDevicePrimaryCtxRetain(&raw mut context, device))?;
        call!(calls, cuCtxSetCurrent(context))?;
        call!(
            calls,
            cuStreamCreate(&raw mut stream, CU_STREAM_NON_BLOCKING)
        )?;
        let mut gpu = Self {
            calls,
            name,
            simulated: driver::is_simulation(),
            attributes,
            stream,
            sink: 0,
        };
        gpu.sink = gpu.allocate(size_of::<f32>() as u64)?;
        Ok(gpu)
    }

    /// Allocates device memory, which stays until the process ends.
    pub(crate) fn allocate(&self, bytes: u64) -> Result<CUdeviceptr, Failure> {
        let mut pointer = 0;
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        call!(self.calls, cuMemAlloc_v2(&raw mut pointer, size)).map_err(|failure| {
            Failure::failed(format_args!("{failure} at {bytes} bytes of device memory"))
        })?;
        Ok(pointer)
    }

    /// Memory on both sides of a copy.
    pub(crate) fn buffers(&self, bytes: u64) -> Result<Buffers, Failure> {
        let mut host = ptr::null_mut();
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        call!(self.calls, cuMemAllocHost_v2(&raw mut host, size))?;
        Ok(Buffers {
            host,
            device: self.allocate(bytes)?,
        })
    }

    /// Copies the first `bytes` of `buffers`, which must have as many.
    pub(crate) fn copy(
        &self,
        buffers: &Buffers,
        direction: Direction,
        bytes: u64,
    ) -> Result<(), Failure> {
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        let Buffers { host, device } = *buffers;
        match direction {
            Direction::ToDevice => call!(
                self.calls,
                cuMemcpyHtoDAsync_v2(device, host, size, self.stream)
            ),
            Direction::ToHost => call!(
                self.calls,
                cuMemcpyDtoHAsync_v2(host, device, size, self.stream)
            ),
        }
    }

    /// Loads PTX.
    pub(crate) fn load(&self, text: String) -> Result<Module, Failure> {
        let text = CString::new(text).map_err(Failure::failed)?;
        let mut module: CUmodule = ptr::null_mut();
        call!(
            self.calls,
            cuModuleLoadData(&raw mut module, text.as_ptr().cast())
        )?;
        Ok(Module(module))
    }

    /// A kernel of a module, by name. It takes a pointer to store at, and whether to store.
    pub(crate) fn function(&self, module: &Module, name: &str) -> Result<Function, Failure> {
        let name = CString::new(name).map_err(Failure::failed)?;
        let mut function: CUfunction = ptr::null_mut();
        call!(
            self.calls,
            cuModuleGetFunction(&raw mut function, module.0, name.as_ptr())
        )?;
        Ok(Function(function))
    }

    /// Launches a kernel.
    pub(crate) fn launch(&self, function: Function, shape: Shape) -> Result<(), Failure> {
        let (mut sink, mut keep) = (self.sink, 0u32);
        let mut parameters: [*mut c_void; 2] = [(&raw mut sink).cast(), (&raw mut keep).cast()];
        let (grid, block) = (shape.grid, shape.block);
        call!(
            self.calls,
            cuLaunchKernel(
                function.0,
                grid,
                1,
                1,
                block,
                1,
                1,
                0,
                self.stream,
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        )
    }

    /// Waits until the stream is empty.
    pub(crate) fn synchronize(&self) -> Result<(), Failure> {
        call!(self.calls, cuStreamSynchronize(self.stream))
    }

    /// Has the stream wait until what this gives is dropped, while more is queued behind.
    pub(crate) fn hold(&self) -> Result<Held, Failure> {
        let (sender, receiver) = channel::<()>();
        let receiver = Box::into_raw(Box::new(receiver));
        let held = call!(
            self.calls,
            cuLaunchHostFunc(self.stream, Some(wait_for_release), receiver.cast())
        );
        if held.is_err() {
            // SAFETY: the box made above; a driver that refuses the call does not call the function.
            drop(unsafe { Box::from_raw(receiver) });
        }
        held.map(|()| Held {
            _released_when_dropped: sender,
        })
    }

    /// An event that nothing has recorded yet.
    pub(crate) fn event(&self) -> Result<Event, Failure> {
        let mut event: CUevent = ptr::null_mut();
        call!(self.calls, cuEventCreate(&raw mut event, CU_EVENT_DEFAULT))?;
        Ok(Event(event))
    }

    /// Records an event behind what the stream has so far.
    pub(crate) fn record(&self, event: &Event) -> Result<(), Failure> {
        call!(self.calls, cuEventRecord(event.0, self.stream))
    }

    /// Time from one recorded and completed event to another, in ns.
    pub(crate) fn elapsed_ns(&self, from: &Event, to: &Event) -> Result<f64, Failure> {
        let mut elapsed_ms = 0.0f32;
        call!(
            self.calls,
            cuEventElapsedTime(&raw mut elapsed_ms, from.0, to.0)
        )?;
        Ok(f64::from(elapsed_ms) * 1e6)
    }

    /// What `steps` asks of the stream, as a graph; none of it is done now.
    pub(crate) fn capture(
        &self,
        steps: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<GraphExec, Failure> {
        let mut graph: CUgraph = ptr::null_mut();
        let mut exec: CUgraphExec = ptr::null_mut();
        call!(
            self.calls,
            cuStreamBeginCapture_v2(self.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        )?;
        let captured = steps();
        call!(self.calls, cuStreamEndCapture(self.stream, &raw mut graph))?;
        captured?;
        call!(
            self.calls,
            cuGraphInstantiateWithFlags(&raw mut exec, graph, 0)
        )?;
        Ok(GraphExec(exec))
    }

    /// Launches a graph.
    pub(crate) fn launch_graph(&self, graph: &GraphExec) -> Result<(), Failure> {
        call!(self.calls, cuGraphLaunch(graph.0, self.stream))
    }
}

/// The host's part of [`Gpu::hold`], on a thread of the driver's.
unsafe extern "C" fn wait_for_release(receiver: *mut c_void) {
    // SAFETY: the box that `hold` made for this call, of which there is one.
    let receiver = unsafe { Box::from_raw(receiver.cast::<Receiver<()>>()) };
    // It ends with the sender: nothing is ever sent.
    let _ended: Result<(), RecvError> = receiver.recv();
}

fn device_name(calls: &Calls, device: CUdevice) -> Result<String, Failure> {
    const BYTES: c_int = 128;
    let mut name = [0 as c_char; BYTES as usize];
    call!(calls, cuDeviceGetName(name.as_mut_ptr(), BYTES, device))?;
    // SAFETY: the driver ended the name with a NUL within the array.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    Ok(name.to_string_lossy().into_owned())
}

fn attributes(calls: &Calls, device: CUdevice) -> Result<Attributes, Failure> {
    let ask = |what: &str, attribute| {
        let mut value = 0;
        call!(
            calls,
            cuDeviceGetAttribute(&raw mut value, attribute, device)
        )?;
        u32::try_from(value).map_err(|_| {
            Failure::failed(format_args!("the device says that its {what} is {value}"))
        })
    };
    let ask_positive = |what: &str, attribute| match ask(what, attribute)? {
        0 => Err(Failure::failed(format_args!(
            "the device does not say its {what}, which the roofline needs"
        ))),
        value => Ok(value),
    };
    Ok(Attributes {
        sm_count: ask_positive("SM count", CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        threads_per_sm_max: ask_positive(
            "threads per SM",
            CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
        )?,
        blocks_per_sm_max: ask_positive(
            "blocks per SM",
            CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR,
        )?,
        sm_clock_khz: ask_positive("SM clock", CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
        memory_clock_khz: ask_positive("memory clock", CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
        memory_bus_bits: ask_positive(
            "memory bus width",
            CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH,
        )?,
        compute_capability: (
            ask_positive(
                "compute capability",
                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            )?,
            ask(
                "compute capability",
                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )?,
        ),
    })
}
