//! Captures over an earlier one.

mod support;

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr::null_mut;

use cuda_sys_stubs::abi::*;
use support::{alloc, context, cu, free_stream, ok, read, spin};

const MODE: CUstreamCaptureMode = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

/// What a test is told, and what it does then.
#[derive(Default)]
struct Told {
    /// Nodes, and the values that they were to write and are to write now.
    changes: RefCell<Vec<(CUgraphNode, u32, u32)>>,
    /// Where the change is made, too.
    exec: Option<CUgraphExec>,
    answer: CUresult,
}

unsafe extern "C" fn tell(
    data: *mut c_void,
    node: CUgraphNode,
    before: *const CUgraphNodeParams,
    after: *const CUgraphNodeParams,
    status: CUgraphRecaptureStatus,
) -> CUresult {
    assert_eq!(status, CU_GRAPH_RECAPTURE_ELIGIBLE_FOR_UPDATE);
    // SAFETY: what the test gave, and what the driver passes.
    let (told, before, after) = unsafe { (&*data.cast::<Told>(), &*before, &*after) };
    assert_eq!(after.type_, CU_GRAPH_NODE_TYPE_MEMSET);
    // SAFETY: the type says so.
    let values = unsafe { (before.anonymous.memset.value, after.anonymous.memset.value) };
    told.changes.borrow_mut().push((node, values.0, values.1));
    if let Some(exec) = told.exec {
        let params = std::ptr::from_ref(after).cast_mut();
        ok!(cuGraphExecNodeSetParams(exec, node, params));
    }
    told.answer
}

/// A graph of what a stream was given.
fn captured(give: impl FnOnce(CUstream)) -> CUgraph {
    let (stream, mut graph) = (free_stream(), null_mut());
    ok!(cuStreamBeginCapture_v2(stream, MODE));
    give(stream);
    ok!(cuStreamEndCapture(stream, &mut graph));
    graph
}

/// Begins a capture over a graph; the stream.
fn again(graph: CUgraph, told: Option<&Told>) -> CUstream {
    let stream = free_stream();
    let callback = told.map(|_| tell as unsafe extern "C" fn(_, _, _, _, _) -> _);
    let data = told.map_or(null_mut(), |told| {
        std::ptr::from_ref(told).cast_mut().cast()
    });
    ok!(cuStreamBeginRecaptureToGraph(
        stream, MODE, graph, callback, data
    ));
    stream
}

fn end(stream: CUstream) -> (CUresult, CUgraph) {
    let mut graph = null_mut();
    let status = cu!(cuStreamEndCapture(stream, &mut graph));
    (status, graph)
}

fn fill(stream: CUstream, memory: CUdeviceptr, value: u8) -> CUresult {
    cu!(cuMemsetD8Async(memory, value, 16, stream))
}

fn nodes(graph: CUgraph) -> Vec<CUgraphNode> {
    let mut count = 9;
    let mut nodes = vec![null_mut(); count];
    ok!(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
    nodes.truncate(count);
    nodes
}

fn instantiate(graph: CUgraph) -> CUgraphExec {
    let mut exec = null_mut();
    ok!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    exec
}

#[test]
fn a_recapture_tells_of_each_node_that_does_something_else() {
    context();
    let (kernel, memory) = (spin(1000), alloc(64));
    let give = |stream, second| {
        assert_eq!(fill(stream, memory, 1), 0);
        assert_eq!(support::launch(kernel, stream), 0);
        fill(stream, memory + 16, second)
    };
    let graph = captured(|stream| assert_eq!(give(stream, 2), 0));
    let (before, exec) = (nodes(graph), instantiate(graph));
    let told = Told {
        exec: Some(exec),
        ..Told::default()
    };
    let stream = again(graph, Some(&told));
    assert_eq!(give(stream, 2), 0);
    assert_eq!(end(stream), (0, graph));
    assert!(told.changes.borrow().is_empty(), "all as before");
    let stream = again(graph, Some(&told));
    assert_eq!(give(stream, 7), 0);
    assert_eq!(end(stream), (0, graph));
    assert_eq!(nodes(graph), before);
    assert_eq!(*told.changes.borrow(), [(before[2], 2, 7)]);
    for exec in [exec, instantiate(graph)] {
        ok!(cuMemsetD8_v2(memory, 0, 64));
        ok!(cuGraphLaunch(exec, null_mut()));
        ok!(cuCtxSynchronize());
        assert_eq!(read(memory, 32), [[1; 16], [7; 16]].concat());
    }
}

#[test]
fn a_recapture_that_takes_another_way_fails() {
    context();
    let (kernel, memory) = (spin(1000), alloc(64));
    let two = || {
        captured(|stream| {
            assert_eq!(fill(stream, memory, 1), 0);
            assert_eq!(fill(stream, memory, 2), 0);
        })
    };
    const FAILURE: CUresult = CUDA_ERROR_GRAPH_RECAPTURE_FAILURE;
    let stream = again(two(), None);
    assert_eq!(fill(stream, memory, 1), 0);
    assert_eq!(end(stream).0, FAILURE, "one is missing");
    let stream = again(two(), None);
    (1..=2).for_each(|value| assert_eq!(fill(stream, memory, value), 0));
    assert_eq!(fill(stream, memory, 3), FAILURE, "one too many");
    assert_eq!(end(stream).0, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    let stream = again(two(), None);
    assert_eq!(support::launch(kernel, stream), FAILURE, "another type");
    end(stream);
    let stream = again(two(), None);
    assert_eq!(fill(stream, memory, 1), 0);
    let replaces = CU_STREAM_SET_CAPTURE_DEPENDENCIES;
    let none = null_mut();
    ok!(cuStreamUpdateCaptureDependencies(stream, none, 0, replaces));
    assert_eq!(fill(stream, memory, 2), FAILURE, "behind none");
    end(stream);
    let refuses = Told {
        answer: CUDA_ERROR_INVALID_VALUE,
        ..Told::default()
    };
    let stream = again(two(), Some(&refuses));
    assert_eq!(fill(stream, memory, 9), FAILURE, "not wanted");
    assert_eq!(end(stream).0, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn a_recaptured_allocation_keeps_its_addresses_and_its_size() {
    context();
    let give = |stream, bytes| {
        let mut memory = 0;
        let status = cu!(cuMemAllocAsync(&mut memory, bytes, stream));
        (status, memory)
    };
    let mut first = 0;
    let graph = captured(|stream| {
        first = give(stream, 1000).1;
        ok!(cuMemFreeAsync(first, stream));
    });
    let stream = again(graph, None);
    assert_eq!(give(stream, 1000), (0, first));
    ok!(cuMemFreeAsync(first, stream));
    assert_eq!(end(stream), (0, graph));
    let stream = again(graph, None);
    assert_eq!(give(stream, 2000).0, CUDA_ERROR_GRAPH_RECAPTURE_FAILURE);
    assert_eq!(end(stream).0, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    ok!(cuGraphDestroy(graph));
}

#[test]
fn a_recaptured_child_graph_takes_over_what_the_other_does() {
    context();
    let memory = alloc(16);
    let child = |value| captured(|stream| assert_eq!(fill(stream, memory, value), 0));
    let give = |stream, value| cu!(cuGraphLaunch(instantiate(child(value)), stream));
    let graph = captured(|stream| assert_eq!(give(stream, 1), 0));
    let stream = again(graph, None);
    assert_eq!(give(stream, 5), 0);
    assert_eq!(end(stream), (0, graph));
    ok!(cuGraphLaunch(instantiate(graph), null_mut()));
    ok!(cuCtxSynchronize());
    assert_eq!(read(memory, 2), [5, 5]);
    let two = captured(|stream| {
        assert_eq!(fill(stream, memory, 1), 0);
        assert_eq!(fill(stream, memory, 2), 0);
    });
    let stream = again(graph, None);
    let other = cu!(cuGraphLaunch(instantiate(two), stream));
    assert_eq!(other, CUDA_ERROR_GRAPH_RECAPTURE_FAILURE);
    end(stream);
}

unsafe extern "C" fn end_object(data: *mut c_void) {
    // SAFETY: the flag that the test gave.
    unsafe { *data.cast::<bool>() = true };
}

#[test]
fn a_recapture_lets_go_of_the_programs_objects() {
    context();
    let (memory, mut is_over, mut object) = (alloc(16), false, null_mut());
    let graph = captured(|stream| assert_eq!(fill(stream, memory, 1), 0));
    let data = (&raw mut is_over).cast();
    ok!(cuUserObjectCreate(
        &mut object,
        data,
        Some(end_object),
        1,
        CU_USER_OBJECT_NO_DESTRUCTOR_SYNC
    ));
    let moves = CU_GRAPH_USER_OBJECT_MOVE;
    ok!(cuGraphRetainUserObject(graph, object, 1, moves));
    let stream = again(graph, None);
    assert!(is_over);
    assert_eq!(fill(stream, memory, 1), 0);
    assert_eq!(end(stream), (0, graph));
}
