//! Streams: which one a handle means, and the order between a context's null stream and its blocking streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::{Effect, Stream as GpuStream};
use gpu_sim::command::{Command, Sequence};

use crate::capture::{self, Capturing};
use crate::context::{self, Context};
use crate::door::{Answer, NullStream};
use crate::process::{Process, State, lost, refused};
use crate::table::Key;

/// Most and least urgent priority, as drivers have them for every device since Volta.
pub(crate) const PRIORITY_GREATEST: i32 = -5;
pub(crate) const PRIORITY_LEAST: i32 = 0;

/// Handles that mean a null stream whatever the API (cuda.h: `CU_STREAM_LEGACY`, `CU_STREAM_PER_THREAD`).
const HANDLE_LEGACY: usize = 1;
const HANDLE_PER_THREAD: usize = 2;

/// A stream.
pub(crate) struct Stream {
    pub(crate) context: Key<Context>,
    pub(crate) gpu: Arc<GpuStream>,
    pub(crate) kind: Kind,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    pub(crate) capture: Option<Capturing>,
    /// How far the streams that this one is ordered after had been given work when it last waited for them.
    waited: BTreeMap<Key<Stream>, Sequence>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Legacy,
    PerThread,
    Created,
}

impl Stream {
    /// Whether it is ordered with the context's null stream.
    pub(crate) fn is_blocking(&self) -> bool {
        self.flags & CU_STREAM_NON_BLOCKING == 0
    }
}

/// Makes a stream.
pub(crate) fn create(
    process: &Process,
    state: &mut State,
    context: Key<Context>,
    kind: Kind,
    flags: u32,
    priority: i32,
) -> Answer<Key<Stream>> {
    if flags & !CU_STREAM_NON_BLOCKING != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let priority = priority.clamp(PRIORITY_GREATEST, PRIORITY_LEAST);
    let gpu = process
        .machine
        .create_stream(context::get(state, context)?.gpu, priority)
        .map_err(refused)?;
    if let Some(part) = context::get(state, context)?.green {
        let limited = process.machine.limit_sms(&gpu, part.sms.count);
        limited.map_err(lost)?;
    }
    Ok(state.streams.insert(Stream {
        context,
        gpu: Arc::new(gpu),
        kind,
        flags,
        priority,
        capture: None,
        waited: BTreeMap::new(),
    }))
}

/// The stream behind a handle; a null stream is made when it is first meant.
pub(crate) fn resolve(
    process: &Process,
    state: &mut State,
    handle: CUstream,
    null: NullStream,
) -> Answer<Key<Stream>> {
    let null = match handle.addr() {
        0 => null,
        HANDLE_LEGACY => NullStream::Legacy,
        HANDLE_PER_THREAD => NullStream::PerThread,
        _ => {
            let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
            if state.detached.contains(&key) {
                return Err(CUDA_ERROR_STREAM_DETACHED);
            }
            context::check(state, get(state, key)?.context)?;
            return Ok(key);
        }
    };
    let context = context::current(state)?;
    null_stream(process, state, context, null)
}

/// A context's null stream.
pub(crate) fn null_stream(
    process: &Process,
    state: &mut State,
    context: Key<Context>,
    null: NullStream,
) -> Answer<Key<Stream>> {
    let thread = std::thread::current().id();
    let owner = context::get(state, context)?;
    let (known, kind) = match null {
        NullStream::Legacy => (owner.legacy, Kind::Legacy),
        NullStream::PerThread => (owner.per_thread.get(&thread).copied(), Kind::PerThread),
    };
    if let Some(key) = known {
        return Ok(key);
    }
    let key = create(
        process,
        state,
        context,
        kind,
        CU_STREAM_DEFAULT,
        PRIORITY_LEAST,
    )?;
    let owner = state
        .contexts
        .get_mut(context)
        .ok_or(CUDA_ERROR_INVALID_CONTEXT)?;
    match null {
        NullStream::Legacy => owner.legacy = Some(key),
        NullStream::PerThread => drop(owner.per_thread.insert(thread, key)),
    }
    Ok(key)
}

/// A stream that must exist, because its handle was looked up.
pub(crate) fn get(state: &State, key: Key<Stream>) -> Answer<&Stream> {
    state.streams.get(key).ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// Gives a stream a command, after what the null stream's rule puts before it.
pub(crate) fn submit(
    process: &Process,
    state: &mut State,
    key: Key<Stream>,
    command: Command,
    effect: Option<Effect>,
) -> Answer<Sequence> {
    order(process, state, key)?;
    let gpu = &get(state, key)?.gpu;
    match effect {
        Some(effect) => process.machine.submit_with(gpu, command, effect),
        None => process.machine.submit(gpu, command),
    }
    .map_err(lost)
}

/// Makes a stream wait for what it is implicitly ordered after: the null stream for all blocking streams of its context,
/// a blocking stream for the null stream (CUDA Driver API, "Stream synchronization behavior").
pub(crate) fn order(process: &Process, state: &mut State, key: Key<Stream>) -> Answer {
    let stream = get(state, key)?;
    if !stream.is_blocking() {
        return Ok(());
    }
    if stream.kind == Kind::Legacy {
        capture::refuse_implicit(state, stream.context)?;
    }
    let stream = get(state, key)?;
    let before = |other: &Stream| stream.kind == Kind::Legacy || other.kind == Kind::Legacy;
    let behind: Vec<_> = state
        .streams
        .iter()
        .filter(|(other_key, other)| {
            *other_key != key
                && other.context == stream.context
                && other.is_blocking()
                && before(other)
        })
        .map(|(other_key, other)| (other_key, other.gpu.submitted(), &other.gpu))
        .filter(|(other_key, submitted, _)| {
            *submitted > stream.waited.get(other_key).copied().unwrap_or(0)
        })
        .map(|(other_key, submitted, gpu)| {
            (
                other_key,
                submitted,
                (gpu.completed() < submitted).then(|| gpu.reached(submitted)),
            )
        })
        .collect();
    for (_, _, wait) in &behind {
        if let Some(wait) = wait {
            process.machine.submit(&stream.gpu, *wait).map_err(lost)?;
        }
    }
    let stream = state
        .streams
        .get_mut(key)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    stream.waited.extend(
        behind
            .into_iter()
            .map(|(other_key, submitted, _)| (other_key, submitted)),
    );
    Ok(())
}

/// Work that was given to streams: what to wait for when the lock is gone.
pub(crate) type Pending = Vec<(Arc<GpuStream>, Sequence)>;

/// All work of a context's streams, or of all streams.
pub(crate) fn pending(state: &State, context: Option<Key<Context>>) -> Pending {
    let wanted = state
        .streams
        .iter()
        .filter(|(_, stream)| context.is_none_or(|context| stream.context == context));
    wanted
        .map(|(_, stream)| (Arc::clone(&stream.gpu), stream.gpu.submitted()))
        .collect()
}

/// Waits for that work, however it ends: who answers for it asks [`context::check`] next. The state must not be locked.
pub(crate) fn wait_all(process: &Process, pending: &Pending) -> Answer {
    for (stream, sequence) in pending {
        process
            .machine
            .wait_stream(stream, *sequence)
            .map_err(lost)?;
    }
    Ok(())
}

/// Work that a stream's own call waits for: its own, and for the null stream that of all blocking streams.
fn asked_for(
    process: &Process,
    state: &mut State,
    handle: CUstream,
    null: NullStream,
) -> Answer<(Key<Context>, Pending)> {
    let key = resolve(process, state, handle, null)?;
    capture::refuse_query(state, key)?;
    let Stream { context, kind, .. } = *get(state, key)?;
    if kind == Kind::Legacy {
        capture::refuse_implicit(state, context)?;
    }
    let counts = |(other_key, other): &(Key<Stream>, &Stream)| {
        let joined = kind == Kind::Legacy && other.context == context && other.is_blocking();
        joined || *other_key == key
    };
    let asked = state.streams.iter().filter(counts);
    let asked = asked.map(|(_, stream)| (Arc::clone(&stream.gpu), stream.gpu.submitted()));
    Ok((context, asked.collect()))
}

/// Waits for one stream.
pub(crate) fn synchronize(process: &Process, handle: CUstream, null: NullStream) -> Answer {
    let (context, asked) = asked_for(process, &mut process.lock(), handle, null)?;
    wait_all(process, &asked)?;
    let mut state = process.lock();
    context::check(&state, context)?;
    crate::pool::reclaim(process, &mut state)
}

/// Whether a stream has done all its work.
pub(crate) fn query(process: &Process, handle: CUstream, null: NullStream) -> Answer {
    let (context, asked) = asked_for(process, &mut process.lock(), handle, null)?;
    for (stream, sequence) in asked {
        let done = process
            .machine
            .poll_stream(&stream, sequence)
            .map_err(lost)?;
        done.ok_or(CUDA_ERROR_NOT_READY)?;
    }
    context::check(&process.lock(), context)
}

/// `cuStreamDestroy`: work that was submitted still completes.
pub(crate) fn destroy(process: &Process, handle: CUstream) -> Answer {
    let mut state = process.lock();
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    if state.detached.remove(&key) {
        return Ok(());
    }
    let stream = get(&state, key)?;
    if stream.kind != Kind::Created {
        return Err(CUDA_ERROR_INVALID_HANDLE);
    }
    let stream = state.streams.remove(key).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    capture::forget_stream(&mut state, key, &stream);
    end(process, stream)
}

/// Ends a stream at the device. One that another thread waits for stays until its context goes.
pub(crate) fn end(process: &Process, stream: Stream) -> Answer {
    Arc::into_inner(stream.gpu).map_or(Ok(()), |gpu| {
        process.machine.destroy_stream(gpu).map_err(lost)
    })
}
