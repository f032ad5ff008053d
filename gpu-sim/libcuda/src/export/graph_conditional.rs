//! Conditional nodes.

use cuda_sys_stubs::abi::*;

use super::graph_node::{Position, add};
use super::{get, put, wanted};
use crate::door::{Answer, exports};
use crate::graph::{self, Operation, conditional};
use crate::process::process;
use crate::table::Key;

/// Adds a conditional node, and writes the list of its bodies into the record.
///
/// # Safety
/// As [`add`]; the record can be read and written if it is not null.
pub(super) unsafe fn add_conditional(
    out: *mut CUgraphNode,
    position: Position,
    record: *mut CUDA_CONDITIONAL_NODE_PARAMS,
) -> Answer {
    // SAFETY: the caller's promise.
    unsafe {
        let mut params = get(record.cast_const())?;
        add(out, position, |_, state| {
            let graph = graph::find(state, position.0)?;
            let handle = usize::try_from(params.handle).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
            let handle = Key::of(std::ptr::without_provenance_mut::<()>(handle));
            let condition = handle.ok_or(CUDA_ERROR_INVALID_VALUE)?;
            let made = conditional::create(state, graph, condition, params.type_, params.size)?;
            params.phGraph_out = std::ptr::with_exposed_provenance_mut(made.handles());
            Ok(Operation::Conditional(made))
        })?;
        put(record, params)
    }
}

exports! {
    fn cuGraphConditionalHandleCreate(pHandle_out: *mut CUgraphConditionalHandle, hGraph: CUgraph, _ctx: CUcontext, defaultLaunchValue: u32, flags: u32) {
        let process = process()?;
        wanted(pHandle_out)?;
        let mut state = process.lock();
        let graph = graph::find(&state, hGraph)?;
        let handle = conditional::create_handle(&mut state, graph, defaultLaunchValue, flags)?.handle::<()>();
        put(pHandle_out, super::address(handle))
    }
}
