//! Stream capture: what a capturing stream is asked to do becomes nodes of a graph.
//!
//! Rules and statuses: CUDA C++ Programming Guide, "Creating a Graph Using Stream Capture"; CUDA Driver API,
//! `cuStreamBeginCapture`, `cuThreadExchangeStreamCaptureMode`. That to ask after an event is forbidden, too, and to a thread that captures nothing:
//! pytorch/pytorch pull requests 104487, 105182 and 148594.

pub(crate) mod recapture;

use std::cell::Cell;
use std::thread::ThreadId;

use cuda_sys_stubs::abi::*;

use crate::context::Context;
use crate::door::Answer;
use crate::graph::{self, Dependency, Edge, Graph, Node, Operation};
use crate::process::State;
use crate::stream::{self, Kind, Stream};
use crate::table::Key;
use recapture::{Observer, Recapture};

/// A capture that has begun and not ended.
pub(crate) struct Capture {
    pub(crate) graph: Key<Graph>,
    mode: CUstreamCaptureMode,
    thread: ThreadId,
    origin: Key<Stream>,
    is_valid: bool,
    /// Whether the graph was the program's before, and stays when the capture fails.
    is_into_graph: bool,
    /// Of one that goes over the graph's own nodes.
    recapture: Option<Recapture>,
}

/// A stream's part in a capture.
#[derive(Clone, Debug)]
pub(crate) struct Capturing {
    pub(crate) capture: Key<Capture>,
    /// What the stream's next node comes after.
    pub(crate) tips: Vec<Dependency>,
}

/// A place in a capture, as an event remembers it.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    pub(crate) capture: Key<Capture>,
    tips: Vec<Key<Node>>,
}

thread_local! {
    static MODE: Cell<CUstreamCaptureMode> = const { Cell::new(CU_STREAM_CAPTURE_MODE_GLOBAL) };
}

/// Sets how the calling thread minds captures; gives how it did.
pub(crate) fn exchange_mode(mode: CUstreamCaptureMode) -> Answer<CUstreamCaptureMode> {
    if mode > CU_STREAM_CAPTURE_MODE_RELAXED {
        Err(CUDA_ERROR_INVALID_VALUE)
    } else {
        Ok(MODE.replace(mode))
    }
}

/// Refuses a call that a capture forbids, such as one that waits, asks after an event, or allocates. The capture is void then.
pub(crate) fn forbid(state: &mut State) -> Answer {
    let mode = MODE.get();
    if mode == CU_STREAM_CAPTURE_MODE_RELAXED {
        return Ok(());
    }
    let me = std::thread::current().id();
    let minds = |capture: &Capture| match capture.mode {
        CU_STREAM_CAPTURE_MODE_GLOBAL => {
            capture.thread == me || mode == CU_STREAM_CAPTURE_MODE_GLOBAL
        }
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL => capture.thread == me,
        _ => false,
    };
    let mut is_forbidden = false;
    for (_, capture) in state
        .captures
        .iter_mut()
        .filter(|(_, capture)| minds(capture))
    {
        capture.is_valid = false;
        is_forbidden = true;
    }
    if is_forbidden {
        Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
    } else {
        Ok(())
    }
}

/// Refuses to ask after a stream that is capturing.
pub(crate) fn refuse_query(state: &mut State, stream: Key<Stream>) -> Answer {
    let Some(capturing) = &stream::get(state, stream)?.capture else {
        return Ok(());
    };
    let capture = capturing.capture;
    invalidate(state, capture);
    Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
}

/// Refuses work on the legacy null stream while a stream that is ordered with it is capturing.
pub(crate) fn refuse_implicit(state: &mut State, context: Key<Context>) -> Answer {
    let capturing = state.streams.iter().find(|(_, stream)| {
        stream.context == context && stream.is_blocking() && stream.capture.is_some()
    });
    let Some(capture) = capturing.and_then(|(_, stream)| Some(stream.capture.as_ref()?.capture))
    else {
        return Ok(());
    };
    invalidate(state, capture);
    Err(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)
}

/// Makes a capture void: it can only be ended.
pub(crate) fn invalidate(state: &mut State, key: Key<Capture>) {
    if let Some(capture) = state.captures.get_mut(key) {
        capture.is_valid = false;
    }
}

/// Minds that a stream is gone: the capture that it began is over, one that it took part in is void.
pub(crate) fn forget_stream(state: &mut State, key: Key<Stream>, stream: &Stream) {
    let Some(capturing) = &stream.capture else {
        return;
    };
    let began = state
        .captures
        .get(capturing.capture)
        .is_some_and(|capture| capture.origin == key);
    if began {
        release(state, capturing.capture, true);
    } else {
        invalidate(state, capturing.capture);
    }
}

/// Where in a capture a stream is; `None`: it is not capturing. `CUDA_ERROR_STREAM_CAPTURE_INVALIDATED`: the capture is void.
pub(crate) fn place(state: &mut State, stream: Key<Stream>) -> Answer<Option<Captured>> {
    let Some(capturing) = &stream::get(state, stream)?.capture else {
        return Ok(None);
    };
    let capture = state
        .captures
        .get(capturing.capture)
        .ok_or(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)?;
    if !capture.is_valid {
        return Err(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    }
    Ok(Some(Captured {
        capture: capturing.capture,
        tips: capturing.tips.iter().map(|(node, _)| *node).collect(),
    }))
}

/// Begins a capture into a new graph, or into the program's.
pub(crate) fn begin(
    state: &mut State,
    stream: Key<Stream>,
    mode: CUstreamCaptureMode,
    into: Option<(Key<Graph>, Vec<Dependency>)>,
) -> Answer {
    let origin = stream::get(state, stream)?;
    if mode > CU_STREAM_CAPTURE_MODE_RELAXED {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if origin.kind == Kind::Legacy {
        return Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    if origin.capture.is_some() {
        return Err(CUDA_ERROR_ILLEGAL_STATE);
    }
    let is_into_graph = into.is_some();
    let (graph, tips) = into.unwrap_or_else(|| (state.graphs.insert(Graph::default()), Vec::new()));
    let thread = std::thread::current().id();
    let capture = state.captures.insert(Capture {
        graph,
        mode,
        thread,
        origin: stream,
        is_valid: true,
        is_into_graph,
        recapture: None,
    });
    set_tips(state, stream, capture, tips)
}

/// `cuStreamBeginRecaptureToGraph`: begins a capture over the nodes that a graph has. What it held of the program's objects is let go.
pub(crate) fn begin_again(
    state: &mut State,
    stream: Key<Stream>,
    mode: CUstreamCaptureMode,
    (graph, observer): (Key<Graph>, Observer),
) -> Answer {
    begin(state, stream, mode, Some((graph, Vec::new())))?;
    let capturing = stream::get(state, stream)?.capture.as_ref();
    let key = capturing.ok_or(CUDA_ERROR_ILLEGAL_STATE)?.capture;
    if let Some(capture) = state.captures.get_mut(key) {
        capture.recapture = Some(Recapture::new(observer));
    }
    recapture::release_objects(state, graph)
}

/// Records an operation behind what the stream recorded before.
pub(crate) fn append(state: &mut State, stream: Key<Stream>, operation: Operation) -> Answer {
    let capturing = stream::get(state, stream)?
        .capture
        .clone()
        .ok_or(CUDA_ERROR_ILLEGAL_STATE)?;
    let graph = state
        .captures
        .get(capturing.capture)
        .ok_or(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)?
        .graph;
    let again = recapture::replace(state, capturing.capture, &operation, &capturing.tips)?;
    let node = match again {
        Some(node) => node,
        None => graph::add(state, graph, operation, capturing.tips)?,
    };
    set_tips(
        state,
        stream,
        capturing.capture,
        vec![(node, Edge::default())],
    )
}

fn set_tips(
    state: &mut State,
    stream: Key<Stream>,
    capture: Key<Capture>,
    tips: Vec<Dependency>,
) -> Answer {
    state
        .streams
        .get_mut(stream)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)?
        .capture = Some(Capturing { capture, tips });
    Ok(())
}

/// Has a stream wait for a captured event: it forks into the capture, or joins what it already recorded with it.
pub(crate) fn join(state: &mut State, stream: Key<Stream>, event: Captured) -> Answer {
    if !state
        .captures
        .get(event.capture)
        .is_some_and(|capture| capture.is_valid)
    {
        return Err(CUDA_ERROR_CAPTURED_EVENT);
    }
    let waiting = stream::get(state, stream)?;
    let mut tips = match &waiting.capture {
        None if waiting.kind == Kind::Legacy => {
            invalidate(state, event.capture);
            return Err(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        None => Vec::new(),
        Some(capturing) if capturing.capture == event.capture => capturing.tips.clone(),
        Some(capturing) => {
            let other = capturing.capture;
            invalidate(state, other);
            invalidate(state, event.capture);
            return Err(CUDA_ERROR_STREAM_CAPTURE_MERGE);
        }
    };
    let new = event
        .tips
        .iter()
        .filter(|node| !tips.iter().any(|(tip, _)| tip == *node));
    let new: Vec<_> = new.map(|node| (*node, Edge::default())).collect();
    tips.extend(new);
    set_tips(state, stream, event.capture, tips)
}

/// A capturing stream must not wait for work outside of its capture.
pub(crate) fn isolation_error(state: &mut State, stream: Key<Stream>) -> Answer {
    if let Some(capturing) = &stream::get(state, stream)?.capture {
        let capture = capturing.capture;
        invalidate(state, capture);
    }
    Err(CUDA_ERROR_STREAM_CAPTURE_ISOLATION)
}

/// Ends a capture; gives its graph. Every stream that took part must have been joined.
pub(crate) fn end(state: &mut State, stream: Key<Stream>) -> Answer<Key<Graph>> {
    let capturing = stream::get(state, stream)?
        .capture
        .clone()
        .ok_or(CUDA_ERROR_ILLEGAL_STATE)?;
    let capture = state
        .captures
        .get(capturing.capture)
        .ok_or(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)?;
    if capture.mode != CU_STREAM_CAPTURE_MODE_RELAXED
        && capture.thread != std::thread::current().id()
    {
        return Err(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    }
    if capture.origin != stream {
        invalidate(state, capturing.capture);
        return Err(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    }
    let graph = graph::get(state, capture.graph)?;
    let is_whole = |recapture: &Recapture| recapture.is_whole(graph);
    let verdict = if !capture.is_valid {
        Err(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
    } else if !capture.recapture.as_ref().is_none_or(is_whole) {
        Err(CUDA_ERROR_GRAPH_RECAPTURE_FAILURE)
    } else if is_joined(state, stream, &capturing) {
        Ok(capture.graph)
    } else {
        Err(CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
    };
    release(state, capturing.capture, verdict.is_err());
    verdict
}

/// Whether everything that other streams recorded comes before the origin's tips.
fn is_joined(state: &State, origin: Key<Stream>, capturing: &Capturing) -> bool {
    let reaches = |tip: Key<Node>| {
        capturing
            .tips
            .iter()
            .any(|(end, _)| graph::depends_on(state, *end, tip))
    };
    let others = state
        .streams
        .iter()
        .filter(|(key, _)| *key != origin)
        .filter_map(|(_, stream)| stream.capture.as_ref());
    let mut others = others.filter(|other| other.capture == capturing.capture);
    others.all(|other| other.tips.iter().all(|(tip, _)| reaches(*tip)))
}

fn release(state: &mut State, key: Key<Capture>, failed: bool) {
    for (_, stream) in state.streams.iter_mut() {
        stream.capture.take_if(|capturing| capturing.capture == key);
    }
    let ended = state.captures.remove(key);
    if let Some(capture) = ended.filter(|capture| failed && !capture.is_into_graph) {
        // It was made for this capture, so it has no parent that could object.
        let _ = graph::destroy(state, capture.graph);
    }
}

/// What `cuStreamGetCaptureInfo` tells: status, id, graph, and what the next node comes after.
pub(crate) struct Info {
    pub(crate) status: CUstreamCaptureStatus,
    pub(crate) id: u64,
    pub(crate) graph: Option<Key<Graph>>,
    pub(crate) tips: Vec<Dependency>,
}

/// How a stream's capture stands. Asking for the legacy null stream while another captures voids that capture.
pub(crate) fn info(state: &mut State, stream: Key<Stream>) -> Answer<Info> {
    let asked = stream::get(state, stream)?;
    if asked.kind == Kind::Legacy {
        refuse_implicit(state, asked.context)?;
    }
    let Some(capturing) = &stream::get(state, stream)?.capture else {
        return Ok(Info {
            status: CU_STREAM_CAPTURE_STATUS_NONE,
            id: 0,
            graph: None,
            tips: Vec::new(),
        });
    };
    let capture = state
        .captures
        .get(capturing.capture)
        .filter(|capture| capture.is_valid);
    Ok(Info {
        status: if capture.is_some() {
            CU_STREAM_CAPTURE_STATUS_ACTIVE
        } else {
            CU_STREAM_CAPTURE_STATUS_INVALIDATED
        },
        id: capturing.capture.number(),
        graph: capture.map(|capture| capture.graph),
        tips: capturing.tips.clone(),
    })
}

/// Replaces or extends what the stream's next node comes after.
pub(crate) fn update_dependencies(
    state: &mut State,
    stream: Key<Stream>,
    nodes: Vec<Dependency>,
    replaces: bool,
) -> Answer {
    let Some(place) = place(state, stream)? else {
        return Err(CUDA_ERROR_ILLEGAL_STATE);
    };
    let graph = state
        .captures
        .get(place.capture)
        .ok_or(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)?
        .graph;
    for (node, _) in &nodes {
        if graph::node(state, *node)?.graph != graph {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
    }
    let mut tips = if replaces {
        Vec::new()
    } else {
        stream::get(state, stream)?
            .capture
            .as_ref()
            .map_or(Vec::new(), |capturing| capturing.tips.clone())
    };
    for node in nodes {
        if !tips.iter().any(|(tip, _)| *tip == node.0) {
            tips.push(node);
        }
    }
    set_tips(state, stream, place.capture, tips)
}
