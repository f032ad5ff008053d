//! Kernel launches: what the driver refuses, and what a launch costs.

use std::sync::Arc;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::Effect;
use gpu_sim::command::{Command, KernelCost};
use gpu_sim::profile::Profile;

mod devices;

pub(crate) use devices::on_devices;

use crate::door::{Answer, NullStream};
use crate::fault::Fault;
use crate::graph::{self, Operation};
use crate::image::Param;
use crate::module::{self, Function};
use crate::process::{Process, State};
use crate::table::Key;
use crate::{capture, context, occupancy, stream};

/// Largest grid and block (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
pub(crate) const GRID_MAX: [u32; 3] = [0x7fff_ffff, 65535, 65535];
pub(crate) const BLOCK_MAX: [u32; 3] = [1024, 1024, 64];
pub(crate) const BLOCK_THREADS_MAX: u32 = 1024;
/// Shared memory that a block may have without opting in.
pub(crate) const SHARED_BYTES_DEFAULT: u32 = 48 << 10;

/// Shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_shared_bytes: u32,
    /// All blocks have to be resident at once.
    pub(crate) is_cooperative: bool,
    /// Blocks of a cluster; `[1, 1, 1]` is none.
    pub(crate) cluster: [u32; 3],
}

impl Shape {
    pub(crate) fn new(grid: [u32; 3], block: [u32; 3], dynamic_shared_bytes: u32) -> Self {
        Self {
            grid,
            block,
            dynamic_shared_bytes,
            is_cooperative: false,
            cluster: [1; 3],
        }
    }

    pub(crate) fn block_threads(&self) -> Option<u32> {
        self.block
            .iter()
            .try_fold(1u32, |product, dim| product.checked_mul(*dim))
    }
}

/// A launch that was found good.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) function: Key<Function>,
    /// The handle that the program used: a function's or a library kernel's.
    pub(crate) handle: usize,
    pub(crate) shape: Shape,
    pub(crate) cost: KernelCost,
    /// How it ends, if not well.
    pub(crate) fault: Option<Fault>,
    /// Of a graph's node; kept, and without effect.
    pub(crate) priority: i32,
    /// Values of the parameters, kept for a graph's node.
    pub(crate) arguments: Arc<Arguments>,
}

impl Launch {
    /// The device's command for it.
    pub(crate) fn command(&self) -> Command {
        match self.fault {
            Some(_) => Command::FaultingKernel(self.cost),
            None => Command::Kernel(self.cost),
        }
    }

    /// What happens in this process when it ends.
    pub(crate) fn effect(&self) -> Option<Effect> {
        self.fault.as_ref().map(Fault::effect)
    }
}

/// Values of a kernel's parameters. Kernels compute nothing: they are kept for who asks a graph's node.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    values: Vec<Box<[u8]>>,
    /// Addresses of the values: what `kernelParams` points to.
    addresses: Box<[usize]>,
}

impl Arguments {
    pub(crate) fn new(values: Vec<Box<[u8]>>) -> Self {
        let addresses = values
            .iter()
            .map(|value| value.as_ptr().expose_provenance())
            .collect();
        Self { values, addresses }
    }

    pub(crate) fn values(&self) -> &[Box<[u8]>] {
        &self.values
    }

    /// As `kernelParams` wants it; good for as long as this lives. 0: the kernel has none.
    pub(crate) fn address(&self) -> usize {
        if self.values.is_empty() {
            0
        } else {
            self.addresses.as_ptr().expose_provenance()
        }
    }
}

/// Checks a launch of `function` and prices it.
pub(crate) fn plan(
    process: &Process,
    state: &State,
    function: Key<Function>,
    handle: usize,
    shape: Shape,
    arguments: Arguments,
) -> Answer<Launch> {
    let Function {
        context,
        kernel,
        dynamic_shared_bytes_max,
        ..
    } = module::get_function(state, function)?;
    let owner = context::get(state, *context)?;
    let profile = &process
        .devices
        .get(owner.device)
        .ok_or(CUDA_ERROR_INVALID_DEVICE)?
        .profile;
    let threads = check_dims(&shape)?;
    let is_bound = kernel.max_threads != 0 && threads > kernel.max_threads;
    if is_bound || shape.dynamic_shared_bytes > *dynamic_shared_bytes_max {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let shared_bytes = kernel
        .shared_bytes
        .saturating_add(shape.dynamic_shared_bytes);
    check_cluster(profile, &shape)?;
    let resident = occupancy::blocks_per_sm(profile, threads, kernel.registers, shared_bytes);
    if resident == 0 {
        return Err(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    }
    let blocks = shape
        .grid
        .iter()
        .map(|dim| u64::from(*dim))
        .fold(1u64, u64::saturating_mul);
    if shape.is_cooperative && blocks > u64::from(resident).saturating_mul(profile.sm_count.into())
    {
        return Err(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    }
    let cost = KernelCost {
        grid: shape.grid,
        block: shape.block,
        shared_bytes,
        registers_per_thread: kernel.registers,
        instructions_per_thread: kernel.instructions,
    };
    Ok(Launch {
        function,
        handle,
        shape,
        cost,
        fault: kernel.fault.map(|kind| Fault::new(kind, &owner.sticky)),
        priority: 0,
        arguments: Arc::new(arguments),
    })
}

/// Threads of a block, if grid and block are within bounds.
fn check_dims(shape: &Shape) -> Answer<u32> {
    let within = |dims: &[u32; 3], most: &[u32; 3]| {
        dims.iter()
            .zip(most)
            .all(|(dim, most)| (1..=*most).contains(dim))
    };
    let threads = shape
        .block_threads()
        .filter(|threads| *threads <= BLOCK_THREADS_MAX);
    match threads {
        Some(threads) if within(&shape.grid, &GRID_MAX) && within(&shape.block, &BLOCK_MAX) => {
            Ok(threads)
        }
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// Clusters came with compute capability 9.0; eight blocks are what every such device takes.
fn check_cluster(profile: &Profile, shape: &Shape) -> Answer {
    const CLUSTER_BLOCKS_MAX: u32 = 8;
    let blocks = shape
        .cluster
        .iter()
        .fold(1u32, |product, dim| product.saturating_mul(*dim));
    let divides = shape
        .grid
        .iter()
        .zip(&shape.cluster)
        .all(|(grid, cluster)| *cluster > 0 && grid.is_multiple_of(*cluster));
    let has_clusters = profile.compute_capability.0 >= 9;
    if blocks == 1 || (has_clusters && divides && blocks <= CLUSTER_BLOCKS_MAX) {
        Ok(())
    } else {
        Err(CUDA_ERROR_INVALID_CLUSTER_SIZE)
    }
}

/// Launches on a stream, or records the launch if the stream is capturing. `read` copies the arguments where they are kept.
pub(crate) fn launch(
    process: &'static Process,
    handle: CUfunction,
    shape: Shape,
    (stream, null): (CUstream, NullStream),
    read: impl FnOnce(&[Param]) -> Arguments,
) -> Answer {
    let mut state = process.lock();
    let stream = stream::resolve(process, &mut state, stream, null)?;
    let function = module::find_function(process, &mut state, handle)?;
    let owner = module::get_function(&state, function)?;
    if owner.context != context::owner_of(&state, stream::get(&state, stream)?.context) {
        return Err(CUDA_ERROR_INVALID_HANDLE);
    }
    let params = Arc::clone(&owner.kernel);
    let arguments = if capture::place(&mut state, stream)?.is_some() {
        read(&params.params)
    } else {
        Arguments::default()
    };
    let launch = plan(process, &state, function, handle.addr(), shape, arguments)?;
    graph::perform(process, &mut state, stream, Operation::Kernel(launch))
}
