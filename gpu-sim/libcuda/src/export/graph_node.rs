//! Nodes of graphs: made, asked and changed, in each form in which the API describes one.

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

use super::copy::from_3d;
use super::graph::dependencies;
use super::graph_conditional::add_conditional;
use super::graph_memory::{add_alloc, free_of};
use super::launch::arguments;
use super::{get, put, wanted};
use crate::copy::{Copy, CopyParams, SideParams};
use crate::door::{Answer, exports};
use crate::event;
use crate::fill::{Fill, FillParams};
use crate::graph::{self, Dependency, Operation};
use crate::host_call::HostCall;
use crate::launch::{self, Shape};
use crate::module;
use crate::process::{Process, State, process};

/// A description of a node that becomes an operation.
///
/// # Safety
/// Pointers in it are good for what the call documents.
pub(super) trait Describes {
    unsafe fn operation(&self, process: &Process, state: &mut State) -> Answer<Operation>;
}

impl Describes for CUDA_KERNEL_NODE_PARAMS_v1 {
    unsafe fn operation(&self, process: &Process, state: &mut State) -> Answer<Operation> {
        let shape = Shape::new(
            [self.gridDimX, self.gridDimY, self.gridDimZ],
            [self.blockDimX, self.blockDimY, self.blockDimZ],
            self.sharedMemBytes,
        );
        // SAFETY: the caller's promise.
        unsafe {
            kernel(
                process,
                state,
                self.func,
                shape,
                self.kernelParams,
                self.extra,
            )
        }
    }
}

impl Describes for CUDA_KERNEL_NODE_PARAMS {
    unsafe fn operation(&self, process: &Process, state: &mut State) -> Answer<Operation> {
        let shape = Shape::new(
            [self.gridDimX, self.gridDimY, self.gridDimZ],
            [self.blockDimX, self.blockDimY, self.blockDimZ],
            self.sharedMemBytes,
        );
        let function = if self.func.is_null() {
            self.kern.cast()
        } else {
            self.func
        };
        // SAFETY: the caller's promise.
        unsafe {
            kernel(
                process,
                state,
                function,
                shape,
                self.kernelParams,
                self.extra,
            )
        }
    }
}

/// # Safety
/// As [`arguments`].
unsafe fn kernel(
    process: &Process,
    state: &mut State,
    handle: CUfunction,
    shape: Shape,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Answer<Operation> {
    let key = module::find_function(process, state, handle)?;
    let image = std::sync::Arc::clone(&module::get_function(state, key)?.kernel);
    // SAFETY: the caller's promise.
    let arguments = unsafe { arguments(&image.params, params, extra) };
    Ok(Operation::Kernel(launch::plan(
        process,
        state,
        key,
        handle.addr(),
        shape,
        arguments,
    )?))
}

impl Describes for CUDA_MEMCPY3D {
    unsafe fn operation(&self, process: &Process, state: &mut State) -> Answer<Operation> {
        Ok(Operation::Copy(Copy::plan(process, state, from_3d(self))?))
    }
}

impl Describes for CUDA_MEMSET_NODE_PARAMS {
    unsafe fn operation(&self, _: &Process, state: &mut State) -> Answer<Operation> {
        if !matches!(self.elementSize, 1 | 2 | 4) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let (width, height) = (super::wide(self.width), super::wide(self.height));
        let params = FillParams {
            address: self.dst,
            pitch: super::wide(self.pitch),
            value: self.value.into(),
            element_bytes: self.elementSize,
            width,
            height,
        };
        Ok(Operation::Fill(Fill::plan(state, params)?))
    }
}

impl Describes for CUDA_HOST_NODE_PARAMS {
    unsafe fn operation(&self, _: &Process, _: &mut State) -> Answer<Operation> {
        let function = self.fn_.ok_or(CUDA_ERROR_INVALID_VALUE)?;
        Ok(Operation::Host(HostCall::Function {
            function,
            data: self.userData.expose_provenance(),
        }))
    }
}

impl Describes for CUgraphNodeParams {
    unsafe fn operation(&self, process: &Process, state: &mut State) -> Answer<Operation> {
        // SAFETY: the type says which member was written (caller); each is read only under its own type.
        unsafe {
            match self.type_ {
                CU_GRAPH_NODE_TYPE_KERNEL => self.anonymous.kernel.operation(process, state),
                CU_GRAPH_NODE_TYPE_MEMCPY => {
                    self.anonymous.memcpy.copyParams.operation(process, state)
                }
                CU_GRAPH_NODE_TYPE_MEMSET => {
                    let CUDA_MEMSET_NODE_PARAMS_v2 {
                        dst,
                        pitch,
                        value,
                        elementSize,
                        width,
                        height,
                        ..
                    } = self.anonymous.memset;
                    CUDA_MEMSET_NODE_PARAMS {
                        dst,
                        pitch,
                        value,
                        elementSize,
                        width,
                        height,
                    }
                    .operation(process, state)
                }
                CU_GRAPH_NODE_TYPE_HOST => {
                    // The record grew at its end; only what its first version has is read.
                    let host = (&raw const self.anonymous.host).cast::<CUDA_HOST_NODE_PARAMS>();
                    get(host)?.operation(process, state)
                }
                CU_GRAPH_NODE_TYPE_GRAPH => Ok(Operation::Child(graph::find(
                    state,
                    self.anonymous.graph.graph,
                )?)),
                CU_GRAPH_NODE_TYPE_EMPTY => Ok(Operation::Empty),
                CU_GRAPH_NODE_TYPE_WAIT_EVENT => Ok(Operation::WaitEvent(event::find(
                    state,
                    self.anonymous.eventWait.event,
                )?)),
                CU_GRAPH_NODE_TYPE_EVENT_RECORD => Ok(Operation::RecordEvent(event::find(
                    state,
                    self.anonymous.eventRecord.event,
                )?)),
                CU_GRAPH_NODE_TYPE_MEM_FREE => free_of(state, self.anonymous.free.dptr),
                CU_GRAPH_NODE_TYPE_MEM_ALLOC | CU_GRAPH_NODE_TYPE_CONDITIONAL => {
                    // Made by `add_any`; there is nothing to change of one.
                    Err(CUDA_ERROR_INVALID_VALUE)
                }
                CU_GRAPH_NODE_TYPE_BATCH_MEM_OP => {
                    let batch = &raw const self.anonymous;
                    get(batch.cast::<CUDA_BATCH_MEM_OP_NODE_PARAMS>())?.operation(process, state)
                }
                CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL..=CU_GRAPH_NODE_TYPE_FABRIC_CPY_BATCH => {
                    Err(CUDA_ERROR_NOT_SUPPORTED)
                }
                _ => Err(CUDA_ERROR_INVALID_VALUE),
            }
        }
    }
}

/// Where a new node goes: graph, nodes before it, edges to them.
pub(super) type Position = (CUgraph, *const CUgraphNode, *const CUgraphEdgeData, usize);

/// Adds a node.
///
/// # Safety
/// `out` can be written if it is not null; lists are as long as they are said to be.
pub(super) unsafe fn add(
    out: *mut CUgraphNode,
    (graph, before, edges, count): Position,
    describe: impl FnOnce(&Process, &mut State) -> Answer<Operation>,
) -> Answer {
    let process = process()?;
    wanted(out)?;
    let mut state = process.lock();
    let graph = graph::find(&state, graph)?;
    // SAFETY: the caller's promise.
    let before: Vec<Dependency> = unsafe { dependencies(&state, before, edges, count)? };
    let operation = describe(process, &mut state)?;
    let node = graph::add(&mut state, graph, operation, before)?;
    // SAFETY: the caller's promise.
    unsafe { put(out, node.handle()) }
}

/// Adds a node as a record describes it.
///
/// # Safety
/// As [`add`]; pointers in the record are good.
pub(super) unsafe fn add_described<T: Describes + std::marker::Copy>(
    out: *mut CUgraphNode,
    position: Position,
    description: *const T,
) -> Answer {
    // SAFETY: the caller's promise.
    unsafe {
        let description = get(description)?;
        add(out, position, |process, state| {
            description.operation(process, state)
        })
    }
}

/// Adds a node of any kind; what it is given, such as an address, is written into its record.
///
/// # Safety
/// As [`add_described`].
unsafe fn add_any(
    out: *mut CUgraphNode,
    position: Position,
    record: *mut CUgraphNodeParams,
) -> Answer {
    // SAFETY: the caller's promise; the type says which member was written.
    unsafe {
        match get(record.cast_const())?.type_ {
            CU_GRAPH_NODE_TYPE_MEM_ALLOC => {
                let alloc = (&raw mut (*record).anonymous.alloc).cast();
                add_alloc(out, position, alloc)
            }
            CU_GRAPH_NODE_TYPE_CONDITIONAL => {
                add_conditional(out, position, &raw mut (*record).anonymous.conditional)
            }
            _ => add_described(out, position, record.cast_const()),
        }
    }
}

/// Changes what a node does; it has to stay of its kind.
pub(super) fn set(
    handle: CUgraphNode,
    kind: CUgraphNodeType,
    describe: impl FnOnce(&Process, &mut State) -> Answer<Operation>,
) -> Answer {
    let process = process()?;
    let mut state = process.lock();
    let key = graph::find_node(&state, handle)?;
    let operation = describe(process, &mut state)?;
    let node = state.nodes.get_mut(key).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    if node.operation.node_type() != kind || operation.node_type() != kind {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    node.operation = operation;
    Ok(())
}

/// Asks a node of one kind something.
pub(super) fn ask<T>(
    handle: CUgraphNode,
    answer: impl FnOnce(&State, &Operation) -> Option<T>,
) -> Answer<T> {
    let process = process()?;
    let state = process.lock();
    let node = graph::node(&state, graph::find_node(&state, handle)?)?;
    answer(&state, &node.operation).ok_or(CUDA_ERROR_INVALID_VALUE)
}

pub(super) fn kernel_params(
    state: &State,
    operation: &Operation,
) -> Option<CUDA_KERNEL_NODE_PARAMS> {
    let Operation::Kernel(launch) = operation else {
        return None;
    };
    let ([gridDimX, gridDimY, gridDimZ], [blockDimX, blockDimY, blockDimZ]) =
        (launch.shape.grid, launch.shape.block);
    let function = state.functions.get(launch.function)?;
    let is_function = launch.function.handle::<CUfunc_st>().addr() == launch.handle;
    let handle = std::ptr::without_provenance_mut::<CUfunc_st>(launch.handle);
    Some(CUDA_KERNEL_NODE_PARAMS {
        func: if is_function {
            handle
        } else {
            std::ptr::null_mut()
        },
        gridDimX,
        gridDimY,
        gridDimZ,
        blockDimX,
        blockDimY,
        blockDimZ,
        sharedMemBytes: launch.shape.dynamic_shared_bytes,
        kernelParams: std::ptr::with_exposed_provenance_mut(launch.arguments.address()),
        extra: std::ptr::null_mut(),
        kern: if is_function {
            std::ptr::null_mut()
        } else {
            handle.cast()
        },
        ctx: function.context.handle(),
    })
}

fn kernel_params_v1(state: &State, operation: &Operation) -> Option<CUDA_KERNEL_NODE_PARAMS_v1> {
    let CUDA_KERNEL_NODE_PARAMS {
        func,
        gridDimX,
        gridDimY,
        gridDimZ,
        blockDimX,
        blockDimY,
        blockDimZ,
        sharedMemBytes,
        kernelParams,
        extra,
        kern,
        ..
    } = kernel_params(state, operation)?;
    let func = if func.is_null() { kern.cast() } else { func };
    Some(CUDA_KERNEL_NODE_PARAMS_v1 {
        func,
        gridDimX,
        gridDimY,
        gridDimZ,
        blockDimX,
        blockDimY,
        blockDimZ,
        sharedMemBytes,
        kernelParams,
        extra,
    })
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

pub(super) fn copy_params(_: &State, operation: &Operation) -> Option<CUDA_MEMCPY3D> {
    let Operation::Copy(Copy {
        params:
            CopyParams {
                src,
                dst,
                width,
                height,
                depth,
            },
        ..
    }) = operation
    else {
        return None;
    };
    // Of the three ways to name memory, the one that the type says is filled in.
    let of = |side: &SideParams, kind: CUmemorytype| match side.memory_type {
        CU_MEMORYTYPE_UNIFIED if kind == CU_MEMORYTYPE_DEVICE => side.address,
        own if own == kind => side.address,
        _ => 0,
    };
    let host = |side| length(of(side, CU_MEMORYTYPE_HOST));
    let device = |side| of(side, CU_MEMORYTYPE_DEVICE);
    let array = |side| std::ptr::without_provenance_mut(length(of(side, CU_MEMORYTYPE_ARRAY)));
    Some(CUDA_MEMCPY3D {
        srcXInBytes: length(src.x),
        srcY: length(src.y),
        srcZ: length(src.z),
        srcLOD: 0,
        srcMemoryType: src.memory_type,
        srcHost: std::ptr::with_exposed_provenance(host(src)),
        srcDevice: device(src),
        srcArray: array(src),
        reserved0: std::ptr::null_mut(),
        srcPitch: length(src.pitch),
        srcHeight: length(src.height),
        dstXInBytes: length(dst.x),
        dstY: length(dst.y),
        dstZ: length(dst.z),
        dstLOD: 0,
        dstMemoryType: dst.memory_type,
        dstHost: std::ptr::with_exposed_provenance_mut(host(dst)),
        dstDevice: device(dst),
        dstArray: array(dst),
        reserved1: std::ptr::null_mut(),
        dstPitch: length(dst.pitch),
        dstHeight: length(dst.height),
        WidthInBytes: length(*width),
        Height: length(*height),
        Depth: length(*depth),
    })
}

pub(super) fn fill_params(_: &State, operation: &Operation) -> Option<CUDA_MEMSET_NODE_PARAMS> {
    let Operation::Fill(Fill { params, .. }) = operation else {
        return None;
    };
    Some(CUDA_MEMSET_NODE_PARAMS {
        dst: params.address,
        pitch: length(params.pitch),
        value: u32::try_from(params.value).ok()?,
        elementSize: params.element_bytes,
        width: length(params.width),
        height: length(params.height),
    })
}

pub(super) fn host_params(_: &State, operation: &Operation) -> Option<CUDA_HOST_NODE_PARAMS> {
    let Operation::Host(HostCall::Function { function, data }) = operation else {
        return None;
    };
    Some(CUDA_HOST_NODE_PARAMS {
        fn_: Some(*function),
        userData: std::ptr::with_exposed_provenance_mut(*data),
    })
}

/// An event of a node that waits for one, or records one.
pub(super) fn event_of(operation: &Operation, records: bool) -> Option<CUevent> {
    match operation {
        Operation::RecordEvent(event) if records => Some(event.handle()),
        Operation::WaitEvent(event) if !records => Some(event.handle()),
        _ => None,
    }
}

pub(super) const NO_EDGES: *const CUgraphEdgeData = std::ptr::null();

exports! {
    fn cuGraphAddKernelNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, numDependencies: usize, nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1) {
        add_described(phGraphNode, (hGraph, before, NO_EDGES, numDependencies), nodeParams)
    }
    fn cuGraphAddKernelNode_v2(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, numDependencies: usize, nodeParams: *const CUDA_KERNEL_NODE_PARAMS) {
        add_described(phGraphNode, (hGraph, before, NO_EDGES, numDependencies), nodeParams)
    }
    fn cuGraphAddMemcpyNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, numDependencies: usize, copyParams: *const CUDA_MEMCPY3D, _ctx: CUcontext) {
        add_described(phGraphNode, (hGraph, before, NO_EDGES, numDependencies), copyParams)
    }
    fn cuGraphAddMemsetNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, numDependencies: usize, memsetParams: *const CUDA_MEMSET_NODE_PARAMS, _ctx: CUcontext) {
        add_described(phGraphNode, (hGraph, before, NO_EDGES, numDependencies), memsetParams)
    }
    fn cuGraphAddHostNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, numDependencies: usize, nodeParams: *const CUDA_HOST_NODE_PARAMS) {
        add_described(phGraphNode, (hGraph, before, NO_EDGES, numDependencies), nodeParams)
    }
    fn cuGraphAddEmptyNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, numDependencies: usize) {
        add(phGraphNode, (hGraph, before, NO_EDGES, numDependencies), |_, _| Ok(Operation::Empty))
    }
    fn cuGraphAddChildGraphNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, numDependencies: usize, childGraph: CUgraph) {
        add(phGraphNode, (hGraph, before, NO_EDGES, numDependencies), |_, state| Ok(Operation::Child(graph::find(state, childGraph)?)))
    }
    fn cuGraphAddEventRecordNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, numDependencies: usize, event: CUevent) {
        add(phGraphNode, (hGraph, before, NO_EDGES, numDependencies), |_, state| Ok(Operation::RecordEvent(event::find(state, event)?)))
    }
    fn cuGraphAddEventWaitNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, numDependencies: usize, event: CUevent) {
        add(phGraphNode, (hGraph, before, NO_EDGES, numDependencies), |_, state| Ok(Operation::WaitEvent(event::find(state, event)?)))
    }
    fn cuGraphAddNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, numDependencies: usize, nodeParams: *mut CUgraphNodeParams) {
        add_any(phGraphNode, (hGraph, before, NO_EDGES, numDependencies), nodeParams)
    }
    fn cuGraphAddNode_v2(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, dependencyData: *const CUgraphEdgeData, numDependencies: usize, nodeParams: *mut CUgraphNodeParams) {
        add_any(phGraphNode, (hGraph, before, dependencyData, numDependencies), nodeParams)
    }
    fn cuGraphAddNode_v3(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, dependencyData: *const CUgraphEdgeData, numDependencies: usize, nodeParams: *mut CUgraphNodeParams) {
        add_any(phGraphNode, (hGraph, before, dependencyData, numDependencies), nodeParams)
    }
    fn cuGraphKernelNodeGetParams(hNode: CUgraphNode, nodeParams: *mut CUDA_KERNEL_NODE_PARAMS_v1) {
        put(nodeParams, ask(hNode, kernel_params_v1)?)
    }
    fn cuGraphKernelNodeGetParams_v2(hNode: CUgraphNode, nodeParams: *mut CUDA_KERNEL_NODE_PARAMS) {
        put(nodeParams, ask(hNode, kernel_params)?)
    }
    fn cuGraphKernelNodeSetParams(hNode: CUgraphNode, nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1) {
        let params = get(nodeParams)?;
        set(hNode, CU_GRAPH_NODE_TYPE_KERNEL, |process, state| params.operation(process, state))
    }
    fn cuGraphKernelNodeSetParams_v2(hNode: CUgraphNode, nodeParams: *const CUDA_KERNEL_NODE_PARAMS) {
        let params = get(nodeParams)?;
        set(hNode, CU_GRAPH_NODE_TYPE_KERNEL, |process, state| params.operation(process, state))
    }
    fn cuGraphMemcpyNodeGetParams(hNode: CUgraphNode, nodeParams: *mut CUDA_MEMCPY3D) {
        put(nodeParams, ask(hNode, copy_params)?)
    }
    fn cuGraphMemcpyNodeSetParams(hNode: CUgraphNode, nodeParams: *const CUDA_MEMCPY3D) {
        let params = get(nodeParams)?;
        set(hNode, CU_GRAPH_NODE_TYPE_MEMCPY, |process, state| params.operation(process, state))
    }
    fn cuGraphMemsetNodeGetParams(hNode: CUgraphNode, nodeParams: *mut CUDA_MEMSET_NODE_PARAMS) {
        put(nodeParams, ask(hNode, fill_params)?)
    }
    fn cuGraphMemsetNodeSetParams(hNode: CUgraphNode, nodeParams: *const CUDA_MEMSET_NODE_PARAMS) {
        let params = get(nodeParams)?;
        set(hNode, CU_GRAPH_NODE_TYPE_MEMSET, |process, state| params.operation(process, state))
    }
    fn cuGraphHostNodeGetParams(hNode: CUgraphNode, nodeParams: *mut CUDA_HOST_NODE_PARAMS) {
        put(nodeParams, ask(hNode, host_params)?)
    }
    fn cuGraphHostNodeSetParams(hNode: CUgraphNode, nodeParams: *const CUDA_HOST_NODE_PARAMS) {
        let params = get(nodeParams)?;
        set(hNode, CU_GRAPH_NODE_TYPE_HOST, |process, state| params.operation(process, state))
    }
    fn cuGraphNodeSetParams(hNode: CUgraphNode, nodeParams: *mut CUgraphNodeParams) {
        let params = get(nodeParams.cast_const())?;
        set(hNode, params.type_, |process, state| params.operation(process, state))
    }
    fn cuGraphNodeSetParams_v2(hNode: CUgraphNode, nodeParams: *mut CUgraphNodeParams) {
        let params = get(nodeParams.cast_const())?;
        set(hNode, params.type_, |process, state| params.operation(process, state))
    }
    fn cuGraphChildGraphNodeGetGraph(hNode: CUgraphNode, phGraph: *mut CUgraph) {
        let child = ask(hNode, |_, operation| if let Operation::Child(child) = operation { Some(child.handle()) } else { None });
        put(phGraph, child?)
    }
    fn cuGraphEventRecordNodeGetEvent(hNode: CUgraphNode, event_out: *mut CUevent) {
        put(event_out, ask(hNode, |_, operation| event_of(operation, true))?)
    }
    fn cuGraphEventRecordNodeSetEvent(hNode: CUgraphNode, event: CUevent) {
        set(hNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD, |_, state| Ok(Operation::RecordEvent(event::find(state, event)?)))
    }
    fn cuGraphEventWaitNodeGetEvent(hNode: CUgraphNode, event_out: *mut CUevent) {
        put(event_out, ask(hNode, |_, operation| event_of(operation, false))?)
    }
    fn cuGraphEventWaitNodeSetEvent(hNode: CUgraphNode, event: CUevent) {
        set(hNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT, |_, state| Ok(Operation::WaitEvent(event::find(state, event)?)))
    }
}
