//! User objects, and the references to them that graphs hold.

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

use super::{put, wanted};
use crate::door::exports;
use crate::graph;
use crate::host_call::HostCall;
use crate::process::process;
use crate::user_object;

exports! {
    fn cuUserObjectCreate(object_out: *mut CUuserObject, ptr: *mut c_void, destroy: CUhostFn, initialRefcount: u32, flags: u32) {
        let process = process()?;
        wanted(object_out)?;
        let function = destroy.filter(|_| flags == CU_USER_OBJECT_NO_DESTRUCTOR_SYNC).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let call = HostCall::Function { function, data: ptr.expose_provenance() };
        put(object_out, user_object::create(&mut process.lock(), call, initialRefcount)?.handle())
    }
    fn cuUserObjectRetain(object: CUuserObject, count: u32) {
        let process = process()?;
        let mut state = process.lock();
        let key = user_object::find(&state, object)?;
        user_object::retain(&mut state, key, count)
    }
    fn cuUserObjectRelease(object: CUuserObject, count: u32) {
        let process = process()?;
        let released = {
            let mut state = process.lock();
            let key = user_object::find(&state, object)?;
            user_object::release(&mut state, key, count)
        };
        user_object::call_ended(process);
        released
    }
    fn cuGraphRetainUserObject(graph: CUgraph, object: CUuserObject, count: u32, flags: u32) {
        let process = process()?;
        let mut state = process.lock();
        let (graph, object) = (graph::find(&state, graph)?, user_object::find(&state, object)?);
        match flags {
            0 => user_object::retain(&mut state, object, count)?,
            CU_GRAPH_USER_OBJECT_MOVE => {}
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        }
        graph::hold(&mut state, graph, object, count)
    }
    fn cuGraphReleaseUserObject(graph: CUgraph, object: CUuserObject, count: u32) {
        let process = process()?;
        let released = {
            let mut state = process.lock();
            let (graph, object) = (graph::find(&state, graph)?, user_object::find(&state, object)?);
            graph::let_go(&mut state, graph, object, count)
        };
        user_object::call_ended(process);
        released
    }
}
