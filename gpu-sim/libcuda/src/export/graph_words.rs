//! Graph nodes that write words and wait for them.

use cuda_sys_stubs::abi::*;

use super::graph_node::{Describes, NO_EDGES, add_described, ask, set};
use super::stream_memory::{BATCH_MAX, Word, decode};
use super::{get, list, put};
use crate::door::{Answer, exports};
use crate::graph::Operation;
use crate::graph::words::Words;
use crate::process::{Process, State};
use crate::watch::WordOperation;

impl Describes for CUDA_BATCH_MEM_OP_NODE_PARAMS {
    unsafe fn operation(&self, _: &Process, state: &mut State) -> Answer<Operation> {
        if self.flags != 0 || self.count > BATCH_MAX {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let count = usize::try_from(self.count).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
        // SAFETY: the list is as long as it is said to be (caller).
        let described = unsafe { list(self.paramArray.cast_const(), count)? };
        let mut operations = Vec::with_capacity(count);
        for each in described {
            // SAFETY: each operation says which member was written (caller).
            match unsafe { decode(each)? } {
                Some(Word::Write(params)) => operations.push(WordOperation::write(state, params)?),
                Some(Word::Wait(address, condition)) => {
                    operations.push(WordOperation::wait(state, address, condition)?);
                }
                None => {}
            }
        }
        let words = Words::new(operations, described, self.ctx.addr());
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
