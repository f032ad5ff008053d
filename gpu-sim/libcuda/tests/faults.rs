//! Kernels that fault, and the errors that stick.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};

use cuda_sys_stubs::abi::*;
use support::other::{Other, here};
use support::{alloc, context, cu, event, free_stream, launch, measuring, ok, spin, stream};

const ASSERT: CUresult = CUDA_ERROR_ASSERT;
const FAILED: CUresult = CUDA_ERROR_LAUNCH_FAILED;

/// A kernel of this body, in the current context.
fn kernel(body: &str) -> CUfunction {
    let ptx = format!(
        ".version 7.5\n.target sm_70\n.address_size 64\n\
         .extern .func __assertfail(.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 s);\n\
         .visible .entry doomed() {{ {body} }}\0"
    );
    let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
    ok!(cuModuleLoadData(&mut module, ptx.as_ptr().cast()));
    ok!(cuModuleGetFunction(
        &mut function,
        module,
        c"doomed".as_ptr()
    ));
    function
}

/// A kernel whose assertion fails.
fn asserting() -> CUfunction {
    kernel("{ .param .b64 p; .param .b32 l; call.uni __assertfail, (p, p, l, p, p); } ret;")
}

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    free
}

#[test]
fn a_failed_assertion_is_what_its_context_answers_until_it_is_destroyed() {
    let _measuring = measuring();
    let other = context();
    let before = free_bytes();
    let own = context();
    let (memory, stream, event, doomed) = (alloc(1 << 21), stream(), event(0), asserting());
    assert_eq!(launch(doomed, stream), CUDA_SUCCESS);
    assert_eq!(cu!(cuStreamSynchronize(stream)), ASSERT);
    let (mut address, mut device, mut host) = (0, 0, [0u8; 16]);
    let (mut free, mut total) = (0, 0);
    for _ in 0..2 {
        let answers = [
            cu!(cuMemAlloc_v2(&mut address, 16)),
            cu!(cuMemFree_v2(memory)),
            cu!(cuMemsetD8_v2(memory, 1, 16)),
            cu!(cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), memory, 16)),
            cu!(cuMemGetInfo_v2(&mut free, &mut total)),
            cu!(cuCtxGetDevice(&mut device)),
            cu!(cuCtxSynchronize()),
            cu!(cuStreamQuery(stream)),
            cu!(cuEventRecord(event, stream)),
            cu!(cuEventQuery(event)),
            launch(doomed, stream),
        ];
        assert_eq!(answers, [ASSERT; 11]);
    }
    ok!(cuCtxPushCurrent_v2(other));
    ok!(cuMemFree_v2(alloc(16)));
    assert_eq!(cu!(cuStreamSynchronize(stream)), ASSERT, "whoever asks");
    ok!(cuCtxDestroy_v2(own));
    assert_eq!(free_bytes(), before, "its memory went with it");
}

#[test]
fn what_is_behind_a_fault_is_not_done_and_who_waits_for_it_goes_on() {
    let _measuring = measuring();
    let other = context();
    let waiting = free_stream();
    let own = context();
    let (stream, event, doomed) = (stream(), event(0), asserting());
    let mut host = std::ptr::null_mut();
    ok!(cuMemHostAlloc(&mut host, 16, 0));
    let words = host.cast::<AtomicU32>();
    let address = host.expose_provenance() as CUdeviceptr;
    let equal = CU_STREAM_WAIT_VALUE_EQ;
    ok!(cuStreamWaitValue32_v2(stream, address, 1, equal));
    assert_eq!(launch(doomed, stream), CUDA_SUCCESS);
    ok!(cuMemsetD8Async(address + 8, 7, 8, stream));
    ok!(cuEventRecord(event, stream));
    ok!(cuCtxPushCurrent_v2(other));
    ok!(cuStreamWaitEvent(waiting, event, 0));
    // SAFETY: the driver made 16 bytes there, which whoever writes them writes atomically or not while we look.
    let (gate, behind) = unsafe { (&*words, &*words.add(2)) };
    gate.store(1, Ordering::Release);
    ok!(cuStreamSynchronize(waiting));
    assert_eq!(behind.load(Ordering::Acquire), 0);
    assert_eq!(cu!(cuEventSynchronize(event)), ASSERT);
    ok!(cuCtxDestroy_v2(own));
}

#[test]
fn a_node_of_a_graph_can_fault_and_a_reset_makes_the_primary_context_good_again() {
    let _measuring = measuring();
    ok!(cuInit(0));
    let mut primary = std::ptr::null_mut();
    ok!(cuDevicePrimaryCtxRetain(&mut primary, 0));
    ok!(cuCtxSetCurrent(primary));
    let (stream, doomed) = (free_stream(), asserting());
    let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
    ok!(cuStreamBeginCapture_v2(
        stream,
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    ));
    assert_eq!(launch(doomed, stream), CUDA_SUCCESS);
    ok!(cuStreamEndCapture(stream, &mut graph));
    ok!(cuCtxSynchronize());
    ok!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    ok!(cuGraphLaunch(exec, stream));
    assert_eq!(cu!(cuCtxSynchronize()), ASSERT);
    ok!(cuDevicePrimaryCtxReset_v2(0));
    ok!(cuDevicePrimaryCtxRetain(&mut primary, 0));
    ok!(cuCtxSetCurrent(primary));
    ok!(cuMemFree_v2(alloc(16)));
    ok!(cuDevicePrimaryCtxRelease_v2(0));
}

#[test]
fn a_trap_is_what_its_process_answers_for_good_and_other_processes_go_on() {
    if let Some(mut parent) = here() {
        let own = context();
        let memory = alloc(1 << 30);
        let stream = stream();
        assert_eq!(launch(kernel("trap; ret;"), stream), CUDA_SUCCESS);
        assert_eq!(cu!(cuStreamSynchronize(stream)), FAILED);
        let (mut context, mut count) = (std::ptr::null_mut(), 0);
        for _ in 0..2 {
            let answers = [
                cu!(cuMemFree_v2(memory)),
                cu!(cuCtxDestroy_v2(own)),
                cu!(cuCtxCreate_v2(&mut context, 0, 0)),
                cu!(cuDevicePrimaryCtxRetain(&mut context, 0)),
                cu!(cuDeviceGetCount(&mut count)),
            ];
            assert_eq!(answers, [FAILED; 5]);
        }
        ok!(cuDriverGetVersion(&mut count));
        parent.say([1]);
        parent.hear::<1>();
        return;
    }
    let _measuring = measuring();
    context();
    let (stream, work) = (stream(), spin(1000));
    let before = free_bytes();
    let name = "a_trap_is_what_its_process_answers_for_good_and_other_processes_go_on";
    let mut ruined = Other::start(name);
    ruined.line.hear::<1>();
    assert!(free_bytes() <= before - (1 << 30), "it holds its memory");
    assert_eq!(launch(work, stream), CUDA_SUCCESS);
    ok!(cuStreamSynchronize(stream));
    ruined.line.say([1]);
    ruined.end();
    while free_bytes() != before {
        std::thread::yield_now();
    }
}
