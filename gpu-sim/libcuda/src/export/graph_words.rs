//! Graph nodes that write words and wait for them.

use cuda_sys_stubs::abi::*;

use super::graph_node::{Describes, NO_EDGES, add_described, ask, set};
use super::stream_memory::words;
use super::{get, put};
use crate::door::{Answer, exports};
use crate::graph::Operation;
use crate::process::{Process, State};

impl Describes for CUDA_BATCH_MEM_OP_NODE_PARAMS {
    unsafe fn operation(&self, _: &Process, state: &mut State) -> Answer<Operation> {
        let described = (self.paramArray.cast_const(), self.count);
        // SAFETY: the list is as long as it is said to be; each operation says which member was written (caller).
        let words = unsafe { words(state, described, self.flags, self.ctx.addr())? };
        Ok(Operation::Words(words))
    }
}

fn described(operation: &Operation) -> Option<CUDA_BATCH_MEM_OP_NODE_PARAMS> {
    let Operation::Words(words) = operation else {
        return None;
    };
    Some(CUDA_BATCH_MEM_OP_NODE_PARAMS {
        ctx: std::ptr::without_provenance_mut(words.context),
        count: u32::try_from(words.described.len()).ok()?,
        paramArray: words.described.as_ptr().cast_mut(),
        flags: 0,
    })
}

exports! {
    fn cuGraphAddBatchMemOpNode(phGraphNode: *mut CUgraphNode, hGraph: CUgraph, dependencies: *const CUgraphNode, numDependencies: usize, nodeParams: *const CUDA_BATCH_MEM_OP_NODE_PARAMS) {
        add_described(phGraphNode, (hGraph, dependencies, NO_EDGES, numDependencies), nodeParams)
    }
    fn cuGraphBatchMemOpNodeGetParams(hNode: CUgraphNode, nodeParams_out: *mut CUDA_BATCH_MEM_OP_NODE_PARAMS) {
        put(nodeParams_out, ask(hNode, |_, operation| described(operation))?)
    }
    fn cuGraphBatchMemOpNodeSetParams(hNode: CUgraphNode, nodeParams: *const CUDA_BATCH_MEM_OP_NODE_PARAMS) {
        let params = get(nodeParams)?;
        set(hNode, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, |process, state| params.operation(process, state))
    }
    fn cuGraphExecBatchMemOpNodeSetParams(hGraphExec: CUgraphExec, hNode: CUgraphNode, nodeParams: *const CUDA_BATCH_MEM_OP_NODE_PARAMS) {
        super::graph_exec::set_described(hGraphExec, hNode, nodeParams)
    }
}
