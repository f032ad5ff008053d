//! Attributes of kernel nodes; nodes as records of any kind.

use cuda_sys_stubs::abi::*;

use super::graph_memory::{alloc_params, freed};
use super::graph_node::{ask, copy_params, event_of, fill_params, host_params, kernel_params};
use super::{get, put, wanted};
use crate::door::{Answer, exports};
use crate::graph::{self, Operation};
use crate::launch::Launch;
use crate::process::{State, process};

fn value(launch: &Launch, attribute: CUkernelNodeAttrID) -> Answer<CUkernelNodeAttrValue> {
    let mut value = CUkernelNodeAttrValue { pad: [0; 64] };
    match attribute {
        CU_LAUNCH_ATTRIBUTE_COOPERATIVE => value.cooperative = launch.shape.is_cooperative.into(),
        CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION => value.clusterDim = launch.shape.cluster,
        CU_LAUNCH_ATTRIBUTE_PRIORITY => value.priority = launch.priority,
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    }
    Ok(value)
}

/// Changes the launch of a kernel node.
fn change(node: CUgraphNode, change: impl FnOnce(&mut Launch) -> Answer) -> Answer {
    let process = process()?;
    let mut state = process.lock();
    let key = graph::find_node(&state, node)?;
    match state.nodes.get_mut(key).map(|node| &mut node.operation) {
        Some(Operation::Kernel(launch)) => change(launch),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

fn launch_of(node: CUgraphNode) -> Answer<Launch> {
    ask(node, |_, operation| match operation {
        Operation::Kernel(launch) => Some(launch.clone()),
        _ => None,
    })
}

/// What a node does with memory, written into its record.
fn describe_memory(
    state: &State,
    operation: &Operation,
    anonymous: &mut anonymous_CUgraphNodeParams,
) -> Option<()> {
    let (copyCtx, ctx) = (std::ptr::null_mut(), std::ptr::null_mut());
    match operation {
        Operation::Copy(_) => {
            anonymous.memcpy = CUDA_MEMCPY_NODE_PARAMS {
                flags: 0,
                reserved: 0,
                copyCtx,
                copyParams: copy_params(state, operation)?,
            };
        }
        Operation::Fill(_) => {
            let fill = fill_params(state, operation)?;
            anonymous.memset = CUDA_MEMSET_NODE_PARAMS_v2 {
                dst: fill.dst,
                pitch: fill.pitch,
                value: fill.value,
                elementSize: fill.elementSize,
                width: fill.width,
                height: fill.height,
                ctx,
            };
        }
        Operation::Alloc(_) => anonymous.alloc = alloc_params(state, operation)?,
        Operation::Free(_) => {
            let dptr = freed(state, operation)?;
            anonymous.free = CUDA_MEM_FREE_NODE_PARAMS { dptr };
        }
        _ => return None,
    }
    Some(())
}

/// A node as the record that `cuGraphAddNode` takes. `None`: a conditional one, whose handle is not kept.
pub(super) fn record(state: &State, operation: &Operation) -> Option<CUgraphNodeParams> {
    let mut anonymous = anonymous_CUgraphNodeParams { reserved1: [0; 29] };
    let ctx = std::ptr::null_mut();
    match operation {
        Operation::Kernel(_) => anonymous.kernel = kernel_params(state, operation)?,
        Operation::Host(_) => {
            let CUDA_HOST_NODE_PARAMS { fn_, userData } = host_params(state, operation)?;
            anonymous.host = CUDA_HOST_NODE_PARAMS_v2 {
                fn_,
                userData,
                syncMode: 0,
                ctx,
            };
        }
        Operation::Child(child) => {
            anonymous.graph = CUDA_CHILD_GRAPH_NODE_PARAMS {
                graph: child.handle(),
                ownership: CU_GRAPH_CHILD_GRAPH_OWNERSHIP_CLONE,
            };
        }
        Operation::WaitEvent(_) => {
            let event = event_of(operation, false)?;
            anonymous.eventWait = CUDA_EVENT_WAIT_NODE_PARAMS { event };
        }
        Operation::RecordEvent(_) => {
            let event = event_of(operation, true)?;
            anonymous.eventRecord = CUDA_EVENT_RECORD_NODE_PARAMS { event, ctx };
        }
        Operation::Empty => {}
        _ => describe_memory(state, operation, &mut anonymous)?,
    }
    Some(CUgraphNodeParams {
        type_: operation.node_type(),
        reserved0: [0; 3],
        anonymous,
        reserved2: 0,
    })
}

exports! {
    fn cuGraphKernelNodeGetAttribute(hNode: CUgraphNode, attr: CUkernelNodeAttrID, value_out: *mut CUkernelNodeAttrValue) {
        wanted(value_out)?;
        put(value_out, value(&launch_of(hNode)?, attr)?)
    }
    fn cuGraphKernelNodeSetAttribute(hNode: CUgraphNode, attr: CUkernelNodeAttrID, value: *const CUkernelNodeAttrValue) {
        let value = get(value)?;
        change(hNode, |launch| {
            match attr {
                CU_LAUNCH_ATTRIBUTE_COOPERATIVE => launch.shape.is_cooperative = value.cooperative != 0,
                CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION => launch.shape.cluster = value.clusterDim,
                CU_LAUNCH_ATTRIBUTE_PRIORITY => launch.priority = value.priority,
                // Policies without effect on the simulated device.
                CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW..=CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN => {}
                _ => return Err(CUDA_ERROR_INVALID_VALUE),
            }
            Ok(())
        })
    }
    fn cuGraphKernelNodeCopyAttributes(dst: CUgraphNode, src: CUgraphNode) {
        let from = launch_of(src)?;
        change(dst, |launch| {
            launch.shape.is_cooperative = from.shape.is_cooperative;
            launch.shape.cluster = from.shape.cluster;
            launch.priority = from.priority;
            Ok(())
        })
    }
    fn cuGraphNodeGetParams(hNode: CUgraphNode, nodeParams: *mut CUgraphNodeParams) {
        put(nodeParams, ask(hNode, record)?)
    }
}
