//! Events: a semaphore that a stream raises, and the time at which it did.

use std::sync::Arc;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::{Effect, SemaphoreHandle};
use gpu_sim::command::Command;

use crate::capture::{self, Captured};
use crate::context::{self, Context};
use crate::door::{Answer, NullStream};
use crate::fault::Sticky;
use crate::graph::Operation;
use crate::process::{Process, State, lost, refused};
use crate::stream::{self, Kind, Stream};
use crate::table::Key;

const FLAGS_ALL: u32 = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;

/// An event.
pub(crate) struct Event {
    pub(crate) context: Key<Context>,
    flags: u32,
    pub(crate) semaphore: Arc<SemaphoreHandle>,
    /// Payload of the last record by this process; 0 = never.
    recorded: u64,
    /// Where in a capture it was last recorded.
    pub(crate) captured: Option<Captured>,
}

impl Event {
    /// An event that another process made.
    pub(crate) fn interprocess(context: Key<Context>, semaphore: SemaphoreHandle) -> Self {
        Self {
            context,
            flags: CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING,
            semaphore: Arc::new(semaphore),
            recorded: 0,
            captured: None,
        }
    }

    pub(crate) fn is_interprocess(&self) -> bool {
        self.flags & CU_EVENT_INTERPROCESS != 0
    }

    /// Payload of the last record, of an interprocess event by any process; 0 = never recorded.
    fn recorded(&self) -> u64 {
        if !self.is_interprocess() {
            return self.recorded;
        }
        let last = self.semaphore.last_payload();
        if last > self.semaphore.first_payload() {
            last
        } else {
            0
        }
    }
}

/// Makes an event.
pub(crate) fn create(process: &Process, flags: u32) -> Answer<Key<Event>> {
    let mut state = process.lock();
    let context = context::owner(&state)?;
    let timed_interprocess =
        flags & (CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING) == CU_EVENT_INTERPROCESS;
    if flags & !FLAGS_ALL != 0 || timed_interprocess {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let semaphore = if flags & CU_EVENT_INTERPROCESS != 0 {
        process.machine.create_shared_semaphore()
    } else {
        process.machine.create_semaphore()
    };
    let semaphore = Arc::new(semaphore.map_err(refused)?);
    Ok(state.events.insert(Event {
        context,
        flags,
        semaphore,
        recorded: 0,
        captured: None,
    }))
}

/// The event behind a handle.
pub(crate) fn find(state: &State, handle: CUevent) -> Answer<Key<Event>> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    state
        .events
        .get(key)
        .map(|_| key)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// An event that must exist, because its handle was looked up.
pub(crate) fn get(state: &State, key: Key<Event>) -> Answer<&Event> {
    state.events.get(key).ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// `cuEventRecord`: on a capturing stream it marks a place in the graph.
pub(crate) fn record(
    process: &Process,
    handle: CUevent,
    stream: CUstream,
    null: NullStream,
    flags: u32,
) -> Answer {
    let mut state = process.lock();
    let event = find(&state, handle)?;
    let stream = stream::resolve(process, &mut state, stream, null)?;
    if flags & !CU_EVENT_RECORD_EXTERNAL != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let owner = context::owner_of(&state, stream::get(&state, stream)?.context);
    if get(&state, event)?.context != owner {
        return Err(CUDA_ERROR_INVALID_HANDLE);
    }
    if let Some(place) = capture::place(&mut state, stream)? {
        if flags & CU_EVENT_RECORD_EXTERNAL != 0 {
            return capture::append(&mut state, stream, Operation::RecordEvent(event));
        }
        let event = state
            .events
            .get_mut(event)
            .ok_or(CUDA_ERROR_INVALID_HANDLE)?;
        event.captured = Some(place);
        return Ok(());
    }
    signal(process, &mut state, event, stream)
}

/// Has a stream raise the event's semaphore. Bytes are moved by the process whose stream it is, so before another process may
/// go on, this one has to have moved them: a call in the stream comes when it has.
pub(crate) fn signal(
    process: &Process,
    state: &mut State,
    key: Key<Event>,
    stream: Key<Stream>,
) -> Answer {
    if get(state, key)?.is_interprocess() {
        stream::submit(process, state, stream, Command::HostCall, Some(moved()))?;
    }
    // A record that a capture elsewhere refuses is none: nobody may wait for it.
    stream::order(process, state, stream)?;
    let command = next_signal(state, key)?;
    stream::submit(process, state, stream, command, None).map(drop)
}

/// The call that comes when this process has moved the bytes of what is before it.
pub(crate) fn moved() -> Effect {
    Effect::HostCall(Box::new(|| ()))
}

/// `cuCtxRecordEvent`: behind everything that a context's streams were given to do.
pub(crate) fn record_context(process: &Process, handle: CUevent, context: Key<Context>) -> Answer {
    let mut state = process.lock();
    let event = find(&state, handle)?;
    capture::forbid(&mut state)?;
    if get(&state, event)?.context != context::owner_of(&state, context) {
        return Err(CUDA_ERROR_INVALID_HANDLE);
    }
    // A stream of its own, so that none of the program's waits for another.
    let flags = CU_STREAM_NON_BLOCKING;
    let least = stream::PRIORITY_LEAST;
    let own = stream::create(process, &mut state, context, Kind::Created, flags, least)?;
    let recorded = behind_all(process, &mut state, context, own)
        .and_then(|()| signal(process, &mut state, event, own));
    let own = state.streams.remove(own).ok_or(CUDA_ERROR_UNKNOWN)?;
    stream::end(process, own)?;
    recorded
}

fn behind_all(
    process: &Process,
    state: &mut State,
    context: Key<Context>,
    own: Key<Stream>,
) -> Answer {
    let others = state
        .streams
        .iter()
        .filter(|(key, other)| other.context == context && *key != own);
    let waits: Vec<_> = others
        .map(|(_, other)| other.gpu.reached(other.gpu.submitted()))
        .collect();
    for wait in waits {
        stream::submit(process, state, own, wait, None)?;
    }
    Ok(())
}

/// `cuCtxWaitEvent`: what the context's streams are given to do from now on waits for the event's last record.
pub(crate) fn wait_in_context(process: &Process, handle: CUevent, context: Key<Context>) -> Answer {
    let mut state = process.lock();
    let event = find(&state, handle)?;
    capture::forbid(&mut state)?;
    let command = wait_command(&state, event)?;
    let streams = state
        .streams
        .iter()
        .filter(|(_, stream)| stream.context == context);
    let streams: Vec<_> = streams.map(|(key, _)| key).collect();
    for stream in streams {
        stream::submit(process, &mut state, stream, command, None)?;
    }
    Ok(())
}

/// The command that raises the event's semaphore for one more record.
pub(crate) fn next_signal(state: &mut State, key: Key<Event>) -> Answer<Command> {
    let event = state.events.get_mut(key).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    event.captured = None;
    event.recorded = event.semaphore.next_payload();
    Ok(Command::Signal {
        semaphore: event.semaphore.id(),
        payload: event.recorded,
    })
}

/// The command that waits for the event's last record.
pub(crate) fn wait_command(state: &State, key: Key<Event>) -> Answer<Command> {
    let event = get(state, key)?;
    Ok(match event.recorded() {
        0 => Command::Marker,
        payload => Command::Wait {
            semaphore: event.semaphore.id(),
            payload,
        },
    })
}

/// `cuStreamWaitEvent`: on a captured event it joins the stream to the capture.
pub(crate) fn wait_on_stream(
    process: &Process,
    stream: CUstream,
    null: NullStream,
    handle: CUevent,
    flags: u32,
) -> Answer {
    let mut state = process.lock();
    let stream = stream::resolve(process, &mut state, stream, null)?;
    let event = find(&state, handle)?;
    if flags & !CU_EVENT_WAIT_EXTERNAL != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let is_capturing = capture::place(&mut state, stream)?.is_some();
    if is_capturing && flags & CU_EVENT_WAIT_EXTERNAL != 0 {
        return capture::append(&mut state, stream, Operation::WaitEvent(event));
    }
    match (get(&state, event)?.captured.clone(), is_capturing) {
        (Some(place), _) => capture::join(&mut state, stream, place),
        (None, true) => capture::isolation_error(&mut state, stream),
        (None, false) => {
            let command = wait_command(&state, event)?;
            if command != Command::Marker {
                stream::submit(process, &mut state, stream, command, None)?;
            }
            Ok(())
        }
    }
}

/// `cuEventQuery`.
pub(crate) fn query(process: &Process, handle: CUevent) -> Answer {
    let (semaphore, payload, sticky) = outside_capture(process, handle)?;
    if payload == 0 {
        return Ok(());
    }
    let reached = process.machine.poll(&semaphore, payload).map_err(lost)?;
    reached.ok_or(CUDA_ERROR_NOT_READY)?;
    sticky.check()
}

/// `cuEventSynchronize`.
pub(crate) fn synchronize(process: &Process, handle: CUevent) -> Answer {
    let (semaphore, payload, sticky) = outside_capture(process, handle)?;
    if payload != 0 {
        process.machine.wait(&semaphore, payload).map_err(lost)?;
    }
    sticky.check()
}

/// What an event is reached by, and what to ask then.
fn outside_capture(
    process: &Process,
    handle: CUevent,
) -> Answer<(Arc<SemaphoreHandle>, u64, Sticky)> {
    let mut state = process.lock();
    let key = find(&state, handle)?;
    let event = get(&state, key)?;
    let sticky = context::get(&state, event.context)?.sticky.clone();
    sticky.check()?;
    let answer = (Arc::clone(&event.semaphore), event.recorded(), sticky);
    if let Some(captured) = &event.captured {
        let capture = captured.capture;
        capture::invalidate(&mut state, capture);
        return Err(CUDA_ERROR_CAPTURED_EVENT);
    }
    capture::forbid(&mut state)?;
    Ok(answer)
}

/// `cuEventElapsedTime`, in ms. Hardware counts in steps of about half a microsecond; so does this.
pub(crate) fn elapsed_ms(process: &Process, start: CUevent, end: CUevent) -> Answer<f32> {
    let times = {
        let state = process.lock();
        let untimed =
            |event: &Event| event.flags & CU_EVENT_DISABLE_TIMING != 0 || event.recorded == 0;
        let events = (
            get(&state, find(&state, start)?)?,
            get(&state, find(&state, end)?)?,
        );
        context::check(&state, events.0.context)?;
        if untimed(events.0)
            || untimed(events.1)
            || events.0.captured.is_some()
            || events.1.captured.is_some()
        {
            return Err(CUDA_ERROR_INVALID_HANDLE);
        }
        [events.0, events.1].map(|event| (Arc::clone(&event.semaphore), event.recorded))
    };
    let reached = |(semaphore, payload): &(Arc<SemaphoreHandle>, u64)| {
        process
            .machine
            .poll(semaphore, *payload)
            .map_err(lost)?
            .ok_or(CUDA_ERROR_NOT_READY)
    };
    let (start_ns, end_ns) = (reached(&times[0])?, reached(&times[1])?);
    Ok(milliseconds(start_ns, end_ns))
}

/// Nanoseconds between two stamps, in steps of 512 ns, as milliseconds; negative when `end_ns` is earlier.
fn milliseconds(start_ns: u64, end_ns: u64) -> f32 {
    const STEP_NS: u64 = 512;
    let steps = end_ns.abs_diff(start_ns) / STEP_NS;
    #[expect(clippy::cast_precision_loss, reason = "the API's own type")]
    let milliseconds = (steps * STEP_NS) as f32 / 1e6;
    if end_ns < start_ns {
        -milliseconds
    } else {
        milliseconds
    }
}

/// `cuEventDestroy`: streams that wait for it still do.
pub(crate) fn destroy(process: &Process, handle: CUevent) -> Answer {
    let mut state = process.lock();
    let key = find(&state, handle)?;
    state
        .events
        .remove(key)
        .map(drop)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn elapsed_time_comes_in_steps_and_has_a_sign() {
        assert_eq!(milliseconds(1_000, 1_000 + 2 * 512 + 511), 1024.0 / 1e6);
        assert_eq!(milliseconds(10_000_000, 9_488_000), -0.512);
    }
}
