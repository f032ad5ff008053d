//! Contexts, and the stack of them that each thread has.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::thread::ThreadId;

use cuda_sys_stubs::abi::*;
use gpu_sim::command::ContextId;

use crate::door::Answer;
use crate::fault::Sticky;
use crate::graph::memory::GraphPool;
use crate::green::Sms;
use crate::limit::{self, Limits};
use crate::pool::Pools;
use crate::process::{Process, State, process, refused};
use crate::stream::{self, Stream};
use crate::table::Key;
use crate::{abi, array, capture, graph, memory, module, pool};

/// A context.
pub(crate) struct Context {
    /// Ordinal of its device.
    pub(crate) device: usize,
    pub(crate) gpu: ContextId,
    pub(crate) flags: u32,
    pub(crate) api_version: u32,
    pub(crate) is_primary: bool,
    /// Of a green context: what it is a part of, and its SMs.
    pub(crate) green: Option<Part>,
    /// How often it was made or attached to (CUDA Driver API, `cuCtxAttach`).
    pub(crate) usage_count: u32,
    /// The null stream of the legacy API, made when first meant.
    pub(crate) legacy: Option<Key<Stream>>,
    /// The null stream of each thread, for the per-thread API.
    pub(crate) per_thread: HashMap<ThreadId, Key<Stream>>,
    pub(crate) limits: Limits,
    pub(crate) cache_config: CUfunc_cache,
    pub(crate) shared_config: CUsharedconfig,
    /// Contexts whose memory kernels of this one may reach.
    pub(crate) peers: BTreeSet<Key<Context>>,
    /// Whether it can still be used.
    pub(crate) sticky: Sticky,
}

impl Context {
    /// Whether its device addresses have 32 bits.
    pub(crate) fn is_narrow(&self) -> bool {
        self.api_version == abi::NARROW
    }
}

/// What a green context has of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The primary context, which owns what is made here.
    primary: Key<Context>,
    pub(crate) sms: Sms,
}

impl Context {
    fn new(device: usize, gpu: ContextId) -> Self {
        Self {
            device,
            gpu,
            flags: 0,
            api_version: abi::WIDE,
            is_primary: false,
            green: None,
            usage_count: 1,
            legacy: None,
            per_thread: HashMap::new(),
            limits: Limits::default(),
            cache_config: CU_FUNC_CACHE_PREFER_NONE,
            shared_config: CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE,
            peers: BTreeSet::new(),
            sticky: Sticky::default(),
        }
    }
}

/// The primary context of a device, and what stays when it goes.
pub(crate) struct Primary {
    pub(crate) context: Option<Key<Context>>,
    pub(crate) retained: u32,
    pub(crate) flags: u32,
    pub(crate) pools: Pools,
    pub(crate) graph_pool: GraphPool,
}

impl Primary {
    pub(crate) fn new(pools: Pools) -> Self {
        Self {
            context: None,
            retained: 0,
            flags: 0,
            pools,
            graph_pool: GraphPool::default(),
        }
    }
}

thread_local! {
    static STACK: RefCell<Vec<Key<Context>>> = const { RefCell::new(Vec::new()) };
}

/// The top of the calling thread's stack, whether the context still exists or not.
pub(crate) fn top() -> Option<Key<Context>> {
    STACK.with_borrow(|stack| stack.last().copied())
}

/// The calling thread's context, if it can be used.
pub(crate) fn current(state: &State) -> Answer<Key<Context>> {
    let key = top().ok_or(CUDA_ERROR_INVALID_CONTEXT)?;
    check(state, key)?;
    Ok(key)
}

/// Refuses a call of another API version than the calling thread's context has.
pub(crate) fn check_version(api_version: u32) -> Answer {
    let state = process()?.lock();
    let context = top().and_then(|key| state.contexts.get(key));
    match context {
        Some(context) if context.api_version != api_version => Err(CUDA_ERROR_INVALID_CONTEXT),
        _ => Ok(()),
    }
}

/// Answers the error that sticks to a context.
pub(crate) fn check(state: &State, key: Key<Context>) -> Answer {
    get(state, key)?.sticky.check()
}

/// The context that owns what the calling thread makes: its own, or the primary one behind a green one.
pub(crate) fn owner(state: &State) -> Answer<Key<Context>> {
    Ok(owner_of(state, current(state)?))
}

/// The context that owns what is made in another: itself, or the primary one behind a green one.
pub(crate) fn owner_of(state: &State, key: Key<Context>) -> Key<Context> {
    let green = state.contexts.get(key).and_then(|context| context.green);
    green.map_or(key, |part| part.primary)
}

/// The calling thread's context, itself.
pub(crate) fn current_mut(state: &mut State) -> Answer<&mut Context> {
    let key = current(state)?;
    state
        .contexts
        .get_mut(key)
        .ok_or(CUDA_ERROR_CONTEXT_IS_DESTROYED)
}

/// Puts a context on the calling thread's stack.
pub(crate) fn push(key: Key<Context>) {
    STACK.with_borrow_mut(|stack| stack.push(key));
}

/// Takes the top off the calling thread's stack.
pub(crate) fn pop() -> Option<Key<Context>> {
    STACK.with_borrow_mut(Vec::pop)
}

/// Replaces the top of the calling thread's stack; `None` takes it off.
pub(crate) fn replace(key: Option<Key<Context>>) {
    STACK.with_borrow_mut(|stack| {
        stack.pop();
        stack.extend(key);
    });
}

/// The context behind a handle.
pub(crate) fn find(state: &State, handle: CUcontext) -> Answer<Key<Context>> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_CONTEXT)?;
    state
        .contexts
        .get(key)
        .map(|_| key)
        .ok_or(CUDA_ERROR_INVALID_CONTEXT)
}

/// As [`find`]; null is the calling thread's.
pub(crate) fn find_or_current(state: &State, handle: CUcontext) -> Answer<Key<Context>> {
    if handle.is_null() {
        current(state)
    } else {
        find(state, handle)
    }
}

/// A context that must exist, because its handle was looked up.
pub(crate) fn get(state: &State, key: Key<Context>) -> Answer<&Context> {
    state
        .contexts
        .get(key)
        .ok_or(CUDA_ERROR_CONTEXT_IS_DESTROYED)
}

/// Refuses flags that do not exist, or more than one way to wait.
pub(crate) fn check_flags(flags: u32) -> Answer {
    let ways = flags & CU_CTX_SCHED_MASK;
    if flags & !CU_CTX_FLAGS_MASK != 0 || ![0, 1, 2, 4].contains(&ways) {
        Err(CUDA_ERROR_INVALID_VALUE)
    } else {
        Ok(())
    }
}

/// Makes a context on a device; the device counts its overhead.
pub(crate) fn create(
    process: &Process,
    state: &mut State,
    device: usize,
    flags: u32,
    api_version: u32,
) -> Answer<Key<Context>> {
    check_flags(flags)?;
    if api_version == abi::NARROW {
        state.book.open_low()?;
    }
    let index = process
        .devices
        .get(device)
        .ok_or(CUDA_ERROR_INVALID_DEVICE)?
        .index;
    let gpu = process.machine.create_context(index).map_err(refused)?;
    Ok(state.contexts.insert(Context {
        flags,
        api_version,
        ..Context::new(device, gpu)
    }))
}

/// Makes a green context; the device knows only the primary one.
pub(crate) fn create_green(
    state: &mut State,
    primary: Key<Context>,
    sms: Sms,
) -> Answer<Key<Context>> {
    let Context { device, gpu, .. } = *get(state, primary)?;
    let sticky = get(state, primary)?.sticky.clone();
    Ok(state.contexts.insert(Context {
        green: Some(Part { primary, sms }),
        sticky,
        ..Context::new(device, gpu)
    }))
}

/// The primary context of a device, made if there is none.
pub(crate) fn retain_primary(process: &Process, device: usize) -> Answer<Key<Context>> {
    let mut state = process.lock();
    let primary = state
        .primaries
        .get(device)
        .ok_or(CUDA_ERROR_INVALID_DEVICE)?;
    let key = match primary.context {
        Some(key) => key,
        None => {
            let flags = primary.flags;
            let key = create(process, &mut state, device, flags, abi::WIDE)?;
            state
                .contexts
                .get_mut(key)
                .ok_or(CUDA_ERROR_UNKNOWN)?
                .is_primary = true;
            key
        }
    };
    let primary = state
        .primaries
        .get_mut(device)
        .ok_or(CUDA_ERROR_INVALID_DEVICE)?;
    primary.context = Some(key);
    primary.retained = primary.retained.saturating_add(1);
    Ok(key)
}

/// Gives a primary context back; the last one resets the device (CUDA Driver API, `cuDevicePrimaryCtxRelease`).
pub(crate) fn release_primary(process: &Process, device: usize) -> Answer {
    let ended = {
        let mut state = process.lock();
        let primary = state
            .primaries
            .get_mut(device)
            .ok_or(CUDA_ERROR_INVALID_DEVICE)?;
        primary.retained = primary
            .retained
            .checked_sub(1)
            .ok_or(CUDA_ERROR_INVALID_CONTEXT)?;
        if primary.retained == 0 {
            primary.context.take()
        } else {
            None
        }
    };
    ended.map_or(Ok(()), |key| reset(process, device, key))
}

/// Ends a primary context, and with it all that the process has of its device and that is no context's: "all resources associated
/// with the current device in the current process" (CUDA Driver API, `cuDevicePrimaryCtxReset`).
fn reset(process: &Process, device: usize, primary: Key<Context>) -> Answer {
    destroy(process, primary)?;
    let mut state = process.lock();
    pool::reset(process, &mut state, device)?;
    graph::memory::reset(process, &mut state, device)
}

/// Ends a primary context whoever holds it. That does not release it: who retained it still has to.
pub(crate) fn reset_primary(process: &Process, device: usize) -> Answer {
    let ended = {
        let mut state = process.lock();
        state
            .primaries
            .get_mut(device)
            .ok_or(CUDA_ERROR_INVALID_DEVICE)?
            .context
            .take()
    };
    ended.map_or(Ok(()), |key| reset(process, device, key))
}

/// Ends a green context with its streams, after their work is done.
pub(crate) fn destroy_green(process: &Process, key: Key<Context>) -> Answer {
    stream::wait_all(process, &stream::pending(&process.lock(), Some(key)))?;
    let mut state = process.lock();
    // Its primary context may have taken it along meanwhile.
    state.contexts.remove(key);
    end_streams(process, &mut state, key)
}

fn end_streams(process: &Process, state: &mut State, key: Key<Context>) -> Answer {
    for (stream_key, each) in state.streams.extract(|stream| stream.context == key) {
        capture::forget_stream(state, stream_key, &each);
        stream::end(process, each)?;
    }
    Ok(())
}

/// Ends a context with everything in it, and the green contexts that are parts of it, after its work is done.
pub(crate) fn destroy(process: &Process, key: Key<Context>) -> Answer {
    let parts: Vec<_> = process
        .lock()
        .contexts
        .iter()
        .filter(|(_, context)| context.green.is_some_and(|part| part.primary == key))
        .map(|(part, _)| part)
        .collect();
    for part in parts {
        destroy_green(process, part)?;
    }
    stream::wait_all(process, &stream::pending(&process.lock(), Some(key)))?;
    let mut state = process.lock();
    let context = state
        .contexts
        .remove(key)
        .ok_or(CUDA_ERROR_INVALID_CONTEXT)?;
    end_streams(process, &mut state, key)?;
    state.events.extract(|event| event.context == key);
    module::unload_all(&mut state, key);
    array::end_mapped(process, &mut state, key)?;
    for range in state.book.remove_all(|range| range.context == Some(key)) {
        pool::forget(&mut state, &range);
        memory::give_back(process, range)?;
    }
    limit::give_back(process, &context.limits)?;
    for (_, other) in state.contexts.iter_mut() {
        other.peers.remove(&key);
    }
    process
        .machine
        .destroy_context(context.gpu)
        .map_err(refused)
}

/// Waits for everything that the context was given to do.
pub(crate) fn synchronize(process: &Process, key: Key<Context>) -> Answer {
    let pending = {
        let mut state = process.lock();
        capture::forbid(&mut state)?;
        if state
            .streams
            .iter()
            .any(|(_, stream)| stream.context == key && stream.capture.is_some())
        {
            return Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        stream::pending(&state, Some(key))
    };
    stream::wait_all(process, &pending)?;
    let mut state = process.lock();
    check(&state, key)?;
    pool::reclaim(process, &mut state)
}
