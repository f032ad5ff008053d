//! Memory that graphs allocate and free.

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

use super::graph_node::{NO_EDGES, Position, add, ask};
use super::{get, put, wanted, wide};
use crate::context;
use crate::door::{Answer, exports};
use crate::graph::{Operation, memory};
use crate::location::Home;
use crate::process::{Process, State, process};

/// What memory of a graph can be: that of a pool which is for this process alone (CUDA Driver API, `CUDA_MEM_ALLOC_NODE_PARAMS`).
/// Gives the ordinal of the device that counts it, too: of managed memory that prefers none, the current one.
fn check_props(process: &Process, state: &State, props: &CUmemPoolProps) -> Answer<(Home, usize)> {
    if props.handleTypes != CU_MEM_HANDLE_TYPE_NONE {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let home = Home::of(process, &props.location, props.allocType)?;
    let current = context::current(state).and_then(|key| context::get(state, key));
    let current = current.map_or(0, |context| context.device);
    Ok((home, home.device().unwrap_or(current)))
}

/// Adds a node that allocates, and writes its address into the record.
///
/// # Safety
/// As [`add`]; the record can be read and written if it is not null.
pub(super) unsafe fn add_alloc(
    out: *mut CUgraphNode,
    position: Position,
    record: *mut CUDA_MEM_ALLOC_NODE_PARAMS,
) -> Answer {
    // SAFETY: the caller's promise.
    unsafe {
        let mut params = get(record.cast_const())?;
        let mut start = 0;
        add(out, position, |process, state| {
            let home = check_props(process, state, &params.poolProps)?;
            let alloc = memory::reserve_alloc(state, home, wide(params.bytesize))?;
            start = memory::address(state, alloc)?;
            Ok(Operation::Alloc(alloc))
        })?;
        params.dptr = start;
        put(record, params)
    }
}

/// What frees an allocation of a graph's.
pub(super) fn free_of(state: &State, start: CUdeviceptr) -> Answer<Operation> {
    let alloc = memory::find(state, start);
    alloc.map(Operation::Free).ok_or(CUDA_ERROR_INVALID_VALUE)
}

pub(super) fn alloc_params(
    state: &State,
    operation: &Operation,
) -> Option<CUDA_MEM_ALLOC_NODE_PARAMS> {
    let Operation::Alloc(alloc) = operation else {
        return None;
    };
    let alloc = state.graph_allocs.get(*alloc)?;
    let (kind, location) = alloc.home.described().ok()?;
    Some(CUDA_MEM_ALLOC_NODE_PARAMS {
        poolProps: CUmemPoolProps {
            allocType: kind,
            handleTypes: CU_MEM_HANDLE_TYPE_NONE,
            location,
            win32SecurityAttributes: std::ptr::null_mut(),
            maxSize: 0,
            usage: 0,
            gpuDirectRDMACapable: 0,
            reserved: [0; 53],
        },
        accessDescs: std::ptr::null(),
        accessDescCount: 0,
        bytesize: usize::try_from(alloc.bytes).ok()?,
        dptr: alloc.start,
    })
}

pub(super) fn freed(state: &State, operation: &Operation) -> Option<CUdeviceptr> {
    match operation {
        Operation::Free(alloc) => Some(state.graph_allocs.get(*alloc)?.start),
        _ => None,
    }
}

exports! {
    fn cuGraphAddMemAllocNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, numDependencies: usize, nodeParams: *mut CUDA_MEM_ALLOC_NODE_PARAMS) {
        add_alloc(phGraphNode, (hGraph, before, NO_EDGES, numDependencies), nodeParams)
    }
    fn cuGraphAddMemFreeNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, before: *const CUgraphNode, numDependencies: usize, dptr: CUdeviceptr) {
        add(phGraphNode, (hGraph, before, NO_EDGES, numDependencies), |_, state| free_of(state, dptr))
    }
    fn cuGraphMemAllocNodeGetParams(hNode: CUgraphNode, params_out: *mut CUDA_MEM_ALLOC_NODE_PARAMS) {
        put(params_out, ask(hNode, alloc_params)?)
    }
    fn cuGraphMemFreeNodeGetParams(hNode: CUgraphNode, dptr_out: *mut CUdeviceptr) {
        put(dptr_out, ask(hNode, freed)?)
    }
    fn cuDeviceGraphMemTrim(device: CUdevice) {
        let process = process()?;
        memory::trim(process, process.device(device)?.0)
    }
    fn cuDeviceGetGraphMemAttribute(device: CUdevice, attr: CUgraphMem_attribute, value: *mut c_void) {
        let process = process()?;
        wanted(value)?;
        put(value.cast::<u64>(), memory::attribute(process, process.device(device)?.0, attr)?)
    }
    fn cuDeviceSetGraphMemAttribute(device: CUdevice, attr: CUgraphMem_attribute, value: *mut c_void) {
        let process = process()?;
        if get(value.cast_const().cast::<u64>())? != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        memory::reset_high(process, process.device(device)?.0, attr)
    }
}
