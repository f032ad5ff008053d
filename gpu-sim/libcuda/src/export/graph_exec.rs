//! Executable graphs.

use std::ffi::c_char;

use cuda_sys_stubs::abi::*;

use super::graph_node::Describes;
use super::{get, put, put_if, wanted};
use crate::door::{Answer, exports};
use crate::event;
use crate::graph::exec::{self, UpdateRefusal};
use crate::graph::{self, Node, Operation, device_launch};
use crate::process::{Process, State, process};
use crate::table::Key;
use crate::user_object;

/// Changes a node of an executable graph.
fn set(
    handle: CUgraphExec,
    node: CUgraphNode,
    describe: impl FnOnce(&Process, &mut State) -> Answer<Operation>,
) -> Answer {
    let process = process()?;
    let mut state = process.lock();
    let exec = exec::find(&state, handle)?;
    let node = Key::of(node).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let operation = describe(process, &mut state)?;
    exec::set_operation(process, &mut state, exec, node, operation)
}

/// Changes a node as a record describes it.
///
/// # Safety
/// Pointers in the record are good.
pub(super) unsafe fn set_described<T: Describes + Copy>(
    handle: CUgraphExec,
    node: CUgraphNode,
    description: *const T,
) -> Answer {
    // SAFETY: the caller's promise.
    unsafe {
        let description = get(description)?;
        set(handle, node, |process, state| {
            description.operation(process, state)
        })
    }
}

/// Why a graph could not be instantiated, and which node is the cause.
fn why_not(
    process: &Process,
    graph: CUgraph,
    flags: u64,
) -> (CUgraphInstantiateResult, Option<Key<Node>>) {
    let state = process.lock();
    let found = graph::find(&state, graph).ok();
    let for_device = found.filter(|_| flags & exec::FLAG_DEVICE_LAUNCH != 0);
    let obstacle = for_device.and_then(|key| device_launch::obstacle(&state, key).ok()?);
    obstacle.unwrap_or((CUDA_GRAPH_INSTANTIATE_ERROR, None))
}

fn update(handle: CUgraphExec, with: CUgraph) -> Answer<Result<(), UpdateRefusal>> {
    let process = process()?;
    let mut state = process.lock();
    let (exec, with) = (exec::find(&state, handle)?, graph::find(&state, with)?);
    exec::update(process, &mut state, exec, with)
}

fn ask<T>(
    handle: CUgraphExec,
    answer: impl FnOnce(&State, Key<exec::GraphExec>) -> Answer<T>,
) -> Answer<T> {
    let process = process()?;
    let state = process.lock();
    let key = exec::find(&state, handle)?;
    answer(&state, key)
}

exports! {
    fn cuGraphInstantiate(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, phErrorNode: *mut CUgraphNode, logBuffer: *mut c_char, bufferSize: usize) {
        let process = process()?;
        wanted(phGraphExec)?;
        put_if(phErrorNode, std::ptr::null_mut());
        if bufferSize > 0 {
            put_if(logBuffer, 0);
        }
        put(phGraphExec, exec::instantiate(process, hGraph, 0)?.handle())
    }
    fn cuGraphInstantiate_v2(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, phErrorNode: *mut CUgraphNode, logBuffer: *mut c_char, bufferSize: usize) {
        let process = process()?;
        wanted(phGraphExec)?;
        put_if(phErrorNode, std::ptr::null_mut());
        if bufferSize > 0 {
            put_if(logBuffer, 0);
        }
        put(phGraphExec, exec::instantiate(process, hGraph, 0)?.handle())
    }
    fn cuGraphInstantiateWithFlags(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, flags: u64) {
        let process = process()?;
        wanted(phGraphExec)?;
        put(phGraphExec, exec::instantiate(process, hGraph, flags)?.handle())
    }
    fn cuGraphInstantiateWithParams / cuGraphInstantiateWithParams_ptsz |_null| (phGraphExec: *mut CUgraphExec, hGraph: CUgraph, instantiateParams: *mut CUDA_GRAPH_INSTANTIATE_PARAMS) {
        let process = process()?;
        wanted(phGraphExec)?;
        let mut params = get(instantiateParams.cast_const())?;
        let made = exec::instantiate(process, hGraph, params.flags);
        let (result, node) = match made {
            Ok(_) => (CUDA_GRAPH_INSTANTIATE_SUCCESS, None),
            Err(_) => why_not(process, hGraph, params.flags),
        };
        params.hErrNode_out = node.map_or(std::ptr::null_mut(), Key::handle);
        params.result_out = result;
        put(instantiateParams, params)?;
        put(phGraphExec, made?.handle())
    }
    fn cuGraphLaunch / cuGraphLaunch_ptsz |null| (hGraph: CUgraphExec, hStream: CUstream) {
        exec::launch(process()?, hGraph, hStream, null)
    }
    fn cuGraphUpload / cuGraphUpload_ptsz |null| (hGraph: CUgraphExec, hStream: CUstream) {
        exec::upload_memory(process()?, hGraph, hStream, null)
    }
    fn cuGraphExecDestroy(hGraphExec: CUgraphExec) {
        let process = process()?;
        let destroyed = exec::destroy(process, hGraphExec);
        user_object::call_ended(process);
        destroyed
    }
    fn cuGraphExecGetFlags(hGraphExec: CUgraphExec, flags: *mut u64) {
        put(flags, ask(hGraphExec, |state, key| Ok(state.execs.get(key).ok_or(CUDA_ERROR_INVALID_VALUE)?.flags))?)
    }
    fn cuGraphExecGetId(hGraphExec: CUgraphExec, graphId: *mut u32) {
        let number = ask(hGraphExec, |_, key| Ok(key.number()))?;
        put(graphId, u32::try_from(number).map_err(|_| CUDA_ERROR_UNKNOWN)?)
    }
    fn cuGraphExecKernelNodeSetParams(hGraphExec: CUgraphExec, hNode: CUgraphNode, nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1) {
        set_described(hGraphExec, hNode, nodeParams)
    }
    fn cuGraphExecKernelNodeSetParams_v2(hGraphExec: CUgraphExec, hNode: CUgraphNode, nodeParams: *const CUDA_KERNEL_NODE_PARAMS) {
        set_described(hGraphExec, hNode, nodeParams)
    }
    fn cuGraphExecMemcpyNodeSetParams(hGraphExec: CUgraphExec, hNode: CUgraphNode, copyParams: *const CUDA_MEMCPY3D, _ctx: CUcontext) {
        set_described(hGraphExec, hNode, copyParams)
    }
    fn cuGraphExecMemsetNodeSetParams(hGraphExec: CUgraphExec, hNode: CUgraphNode, memsetParams: *const CUDA_MEMSET_NODE_PARAMS, _ctx: CUcontext) {
        set_described(hGraphExec, hNode, memsetParams)
    }
    fn cuGraphExecChildGraphNodeSetParams(hGraphExec: CUgraphExec, hNode: CUgraphNode, childGraph: CUgraph) {
        set(hGraphExec, hNode, |_, state| Ok(Operation::Child(graph::find(state, childGraph)?)))
    }
    fn cuGraphExecHostNodeSetParams(hGraphExec: CUgraphExec, hNode: CUgraphNode, nodeParams: *const CUDA_HOST_NODE_PARAMS) {
        set_described(hGraphExec, hNode, nodeParams)
    }
    fn cuGraphExecNodeSetParams(hGraphExec: CUgraphExec, hNode: CUgraphNode, nodeParams: *mut CUgraphNodeParams) {
        set_described(hGraphExec, hNode, nodeParams.cast_const())
    }
    fn cuGraphExecEventRecordNodeSetEvent(hGraphExec: CUgraphExec, hNode: CUgraphNode, event: CUevent) {
        set(hGraphExec, hNode, |_, state| Ok(Operation::RecordEvent(event::find(state, event)?)))
    }
    fn cuGraphExecEventWaitNodeSetEvent(hGraphExec: CUgraphExec, hNode: CUgraphNode, event: CUevent) {
        set(hGraphExec, hNode, |_, state| Ok(Operation::WaitEvent(event::find(state, event)?)))
    }
    fn cuGraphNodeSetEnabled(hGraphExec: CUgraphExec, hNode: CUgraphNode, isEnabled: u32) {
        let process = process()?;
        let mut state = process.lock();
        let exec = exec::find(&state, hGraphExec)?;
        let node = Key::of(hNode).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        exec::enable(process, &mut state, exec, node, isEnabled != 0)
    }
    fn cuGraphNodeGetEnabled(hGraphExec: CUgraphExec, hNode: CUgraphNode, isEnabled: *mut u32) {
        let node = Key::of(hNode).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        put(isEnabled, ask(hGraphExec, |state, key| exec::is_enabled(state, key, node))?.into())
    }
    fn cuGraphExecUpdate(hGraphExec: CUgraphExec, hGraph: CUgraph, hErrorNode_out: *mut CUgraphNode, updateResult_out: *mut CUgraphExecUpdateResult) {
        wanted(updateResult_out)?;
        let (result, node) = update(hGraphExec, hGraph)?.err().unwrap_or((CU_GRAPH_EXEC_UPDATE_SUCCESS, None));
        put_if(hErrorNode_out, node.map_or(std::ptr::null_mut(), Key::handle));
        put(updateResult_out, result)?;
        if result == CU_GRAPH_EXEC_UPDATE_SUCCESS { Ok(()) } else { Err(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE) }
    }
    fn cuGraphExecUpdate_v2(hGraphExec: CUgraphExec, hGraph: CUgraph, resultInfo: *mut CUgraphExecUpdateResultInfo) {
        wanted(resultInfo)?;
        let (result, node) = update(hGraphExec, hGraph)?.err().unwrap_or((CU_GRAPH_EXEC_UPDATE_SUCCESS, None));
        let errorNode = node.map_or(std::ptr::null_mut(), Key::handle);
        put(resultInfo, CUgraphExecUpdateResultInfo { result, errorNode, errorFromNode: std::ptr::null_mut() })?;
        if result == CU_GRAPH_EXEC_UPDATE_SUCCESS { Ok(()) } else { Err(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE) }
    }
}
