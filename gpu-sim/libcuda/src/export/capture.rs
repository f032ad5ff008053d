//! Stream capture.

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

use super::graph::{dependencies, edge_data};
use super::graph_kernel::record;
use super::{put, put_if, wanted};
use crate::capture::recapture::{self, Observer};
use crate::capture::{self, Info};
use crate::door::{Answer, NullStream, exports};
use crate::graph;
use crate::process::process;
use crate::stream;
use crate::table::Key;
use crate::user_object;

fn begin(handle: CUstream, null: NullStream, mode: CUstreamCaptureMode) -> Answer {
    let process = process()?;
    let mut state = process.lock();
    let key = stream::resolve(process, &mut state, handle, null)?;
    capture::begin(&mut state, key, mode, None)
}

fn info(handle: CUstream, null: NullStream) -> Answer<Info> {
    let process = process()?;
    let mut state = process.lock();
    let key = stream::resolve(process, &mut state, handle, null)?;
    capture::info(&mut state, key)
}

/// Tells the program what the call that is just over has recaptured differently. `CUDA_ERROR_GRAPH_RECAPTURE_FAILURE`: it does not
/// want that, and the capture is void.
pub(crate) fn tell_changes() -> Answer {
    for change in recapture::take_changes() {
        let process = process()?;
        let (before, after) = {
            let state = process.lock();
            (
                record(&state, &change.before),
                record(&state, &change.after),
            )
        };
        let (Some(before), Some(after)) = (before, after) else {
            continue;
        };
        let Some(callback) = change.observer.callback else {
            continue;
        };
        let data = std::ptr::with_exposed_provenance_mut(change.observer.data);
        let status = CU_GRAPH_RECAPTURE_ELIGIBLE_FOR_UPDATE;
        // SAFETY: the program's contract: its function may be called with this data until the capture ends. Both records live so long.
        let answer = unsafe { callback(data, change.node.handle(), &before, &after, status) };
        if answer != CUDA_SUCCESS {
            capture::invalidate(&mut process.lock(), change.capture);
            return Err(CUDA_ERROR_GRAPH_RECAPTURE_FAILURE);
        }
    }
    Ok(())
}

thread_local! {
    /// The lists that `cuStreamGetCaptureInfo` last handed out to this thread; good until its next call, as documented.
    static HANDED_OUT: std::cell::RefCell<(Vec<CUgraphNode>, Vec<CUgraphEdgeData>)> = const { std::cell::RefCell::new((Vec::new(), Vec::new())) };
}

/// Keeps the dependencies where the caller can read them.
fn hand_out(info: &Info) -> (*const CUgraphNode, *const CUgraphEdgeData) {
    HANDED_OUT.with_borrow_mut(|(nodes, edges)| {
        *nodes = info.tips.iter().map(|(node, _)| node.handle()).collect();
        *edges = info.tips.iter().map(|(_, edge)| edge_data(*edge)).collect();
        (nodes.as_ptr(), edges.as_ptr())
    })
}

fn graph_handle(info: &Info) -> CUgraph {
    info.graph.map_or(std::ptr::null_mut(), Key::handle)
}

exports! {
    fn cuStreamBeginCapture / cuStreamBeginCapture_ptsz |null| (hStream: CUstream) {
        begin(hStream, null, CU_STREAM_CAPTURE_MODE_GLOBAL)
    }
    fn cuStreamBeginCapture_v2 / cuStreamBeginCapture_v2_ptsz |null| (hStream: CUstream, mode: CUstreamCaptureMode) {
        begin(hStream, null, mode)
    }
    fn cuStreamBeginCaptureToGraph / cuStreamBeginCaptureToGraph_ptsz |null| (hStream: CUstream, hGraph: CUgraph, dependencies_in: *const CUgraphNode, dependencyData: *const CUgraphEdgeData, numDependencies: usize, mode: CUstreamCaptureMode) {
        let process = process()?;
        let mut state = process.lock();
        let graph = graph::find(&state, hGraph)?;
        let tips = dependencies(&state, dependencies_in, dependencyData, numDependencies)?;
        let key = stream::resolve(process, &mut state, hStream, null)?;
        capture::begin(&mut state, key, mode, Some((graph, tips)))
    }
    fn cuStreamBeginRecaptureToGraph / cuStreamBeginRecaptureToGraph_ptsz |null| (hStream: CUstream, mode: CUstreamCaptureMode, hGraph: CUgraph, callbackFunc: CUgraphRecaptureCallback, userData: *mut c_void) {
        let process = process()?;
        let mut state = process.lock();
        let graph = graph::find(&state, hGraph)?;
        let key = stream::resolve(process, &mut state, hStream, null)?;
        let observer = Observer { callback: callbackFunc, data: userData.expose_provenance() };
        capture::begin_again(&mut state, key, mode, (graph, observer))?;
        drop(state);
        user_object::call_ended(process);
        Ok(())
    }
    fn cuStreamEndCapture / cuStreamEndCapture_ptsz |null| (hStream: CUstream, phGraph: *mut CUgraph) {
        let process = process()?;
        wanted(phGraph)?;
        let mut state = process.lock();
        let key = stream::resolve(process, &mut state, hStream, null)?;
        let ended = capture::end(&mut state, key);
        put(phGraph, ended.map_or(std::ptr::null_mut(), Key::handle))?;
        ended.map(drop)
    }
    fn cuStreamIsCapturing / cuStreamIsCapturing_ptsz |null| (hStream: CUstream, captureStatus: *mut CUstreamCaptureStatus) {
        wanted(captureStatus)?;
        put(captureStatus, info(hStream, null)?.status)
    }
    fn cuStreamGetCaptureInfo / cuStreamGetCaptureInfo_ptsz |null| (hStream: CUstream, captureStatus_out: *mut CUstreamCaptureStatus, id_out: *mut u64) {
        wanted(captureStatus_out)?;
        let info = info(hStream, null)?;
        put_if(id_out, info.id);
        put(captureStatus_out, info.status)
    }
    fn cuStreamGetCaptureInfo_v2 / cuStreamGetCaptureInfo_v2_ptsz |null| (hStream: CUstream, captureStatus_out: *mut CUstreamCaptureStatus, id_out: *mut u64, graph_out: *mut CUgraph, dependencies_out: *mut *const CUgraphNode, numDependencies_out: *mut usize) {
        wanted(captureStatus_out)?;
        let info = info(hStream, null)?;
        put_if(id_out, info.id);
        put_if(graph_out, graph_handle(&info));
        put_if(dependencies_out, hand_out(&info).0);
        put_if(numDependencies_out, info.tips.len());
        put(captureStatus_out, info.status)
    }
    fn cuStreamGetCaptureInfo_v3 / cuStreamGetCaptureInfo_v3_ptsz |null| (hStream: CUstream, captureStatus_out: *mut CUstreamCaptureStatus, id_out: *mut u64, graph_out: *mut CUgraph, dependencies_out: *mut *const CUgraphNode, edgeData_out: *mut *const CUgraphEdgeData, numDependencies_out: *mut usize) {
        wanted(captureStatus_out)?;
        let info = info(hStream, null)?;
        let (nodes, edges) = hand_out(&info);
        put_if(id_out, info.id);
        put_if(graph_out, graph_handle(&info));
        put_if(dependencies_out, nodes);
        put_if(edgeData_out, edges);
        put_if(numDependencies_out, info.tips.len());
        put(captureStatus_out, info.status)
    }
    fn cuStreamUpdateCaptureDependencies / cuStreamUpdateCaptureDependencies_ptsz |null| (hStream: CUstream, nodes: *mut CUgraphNode, numDependencies: usize, flags: u32) {
        let process = process()?;
        let mut state = process.lock();
        let key = stream::resolve(process, &mut state, hStream, null)?;
        let tips = dependencies(&state, nodes, std::ptr::null(), numDependencies)?;
        capture::update_dependencies(&mut state, key, tips, replaces(flags)?)
    }
    fn cuStreamUpdateCaptureDependencies_v2 / cuStreamUpdateCaptureDependencies_v2_ptsz |null| (hStream: CUstream, nodes: *mut CUgraphNode, dependencyData: *const CUgraphEdgeData, numDependencies: usize, flags: u32) {
        let process = process()?;
        let mut state = process.lock();
        let key = stream::resolve(process, &mut state, hStream, null)?;
        let tips = dependencies(&state, nodes, dependencyData, numDependencies)?;
        capture::update_dependencies(&mut state, key, tips, replaces(flags)?)
    }
}

fn replaces(flags: u32) -> Answer<bool> {
    match flags {
        CU_STREAM_ADD_CAPTURE_DEPENDENCIES => Ok(false),
        CU_STREAM_SET_CAPTURE_DEPENDENCIES => Ok(true),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}
