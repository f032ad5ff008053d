//! One kernel on several devices at once.
//!
//! CUDA Driver API, `cuLaunchCooperativeKernelMultiDevice`: which launches belong together, and what waits for what. Which status
//! stands for which mistake is not documented in every case: an estimate.

use std::sync::Arc;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::Stream as GpuStream;

use super::{Arguments, Launch, Shape, plan};
use crate::door::{Answer, NullStream};
use crate::graph::{self, Operation};
use crate::module;
use crate::process::{Process, State, lost};
use crate::stream::{self, Kind, Stream};
use crate::table::Key;
use crate::{capture, context};

const FLAGS: u32 = CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_PRE_LAUNCH_SYNC
    | CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_POST_LAUNCH_SYNC;

/// Launches each kernel on the stream beside it, all or none.
pub(crate) fn on_devices(
    process: &'static Process,
    launches: &[(CUfunction, Shape, CUstream)],
    flags: u32,
) -> Answer {
    let mut state = process.lock();
    if launches.is_empty() || flags & !FLAGS != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let mut planned = Vec::new();
    for launch in launches {
        planned.push(plan_one(process, &mut state, launch)?);
    }
    check_together(process, &state, &planned)?;
    let streams: Vec<Key<Stream>> = planned.iter().map(|(stream, _)| *stream).collect();
    if flags & CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_PRE_LAUNCH_SYNC == 0 {
        meet(process, &mut state, &streams)?;
    }
    for (stream, launch) in planned {
        graph::perform(process, &mut state, stream, Operation::Kernel(launch))?;
    }
    if flags & CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_POST_LAUNCH_SYNC == 0 {
        meet(process, &mut state, &streams)?;
    }
    Ok(())
}

/// Only streams that the program made will do, and no capture.
fn plan_one(
    process: &Process,
    state: &mut State,
    (handle, shape, stream): &(CUfunction, Shape, CUstream),
) -> Answer<(Key<Stream>, Launch)> {
    let stream = stream::resolve(process, state, *stream, NullStream::Legacy)?;
    if stream::get(state, stream)?.kind != Kind::Created {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    capture::refuse_query(state, stream)?;
    let context = context::owner_of(state, stream::get(state, stream)?.context);
    let function = module::find_function_in(process, state, *handle, context)?;
    let (number, arguments) = (handle.addr(), Arguments::default());
    let launch = plan(process, state, function, number, *shape, arguments)?;
    Ok((stream, launch))
}

/// Each on a device of its own, all devices alike, and all kernels and shapes the same.
fn check_together(process: &Process, state: &State, planned: &[(Key<Stream>, Launch)]) -> Answer {
    let (mut seen, mut first) = (Vec::new(), None);
    for (stream, launch) in planned {
        let context = stream::get(state, *stream)?.context;
        let ordinal = context::get(state, context)?.device;
        let device = process.devices.get(ordinal);
        let profile = &device.ok_or(CUDA_ERROR_INVALID_DEVICE)?.profile;
        let kernel = &module::get_function(state, launch.function)?.kernel;
        let own = (&profile.name, kernel, launch.shape);
        if seen.contains(&ordinal) || *first.get_or_insert(own) != own {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        seen.push(ordinal);
    }
    Ok(())
}

/// Has what each stream is given next wait for what all of them were given.
fn meet(process: &Process, state: &mut State, streams: &[Key<Stream>]) -> Answer {
    let mut reached: Vec<(Arc<GpuStream>, _)> = Vec::new();
    for key in streams {
        stream::order(process, state, *key)?;
        let gpu = &stream::get(state, *key)?.gpu;
        reached.push((Arc::clone(gpu), gpu.submitted()));
    }
    for (own, _) in &reached {
        for (other, sequence) in &reached {
            if !Arc::ptr_eq(own, other) && other.completed() < *sequence {
                let wait = other.reached(*sequence);
                process.machine.submit(own, wait).map_err(lost)?;
            }
        }
    }
    Ok(())
}
