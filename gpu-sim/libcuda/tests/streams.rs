//! Order: streams, events, the null stream, functions that a stream calls, words that it waits for.

mod support;

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

use cuda_sys_stubs::abi::*;
use parking_lot::Mutex;
use support::{LONG, alloc, context, cu, event, free_stream, launch, ok, read, spin, stream};

const NULL: CUstream = std::ptr::null_mut();

#[test]
fn elapsed_time_is_at_least_what_the_instructions_take() {
    context();
    let (stream, start, end) = (stream(), event(0), event(0));
    let function = spin(LONG);
    ok!(cuEventRecord(start, stream));
    assert_eq!(launch(function, stream), 0);
    ok!(cuEventRecord(end, stream));
    let mut milliseconds = 0f32;
    assert_eq!(
        cu!(cuEventElapsedTime(&mut milliseconds, start, end)),
        CUDA_ERROR_NOT_READY
    );
    ok!(cuEventSynchronize(end));
    ok!(cuEventElapsedTime(&mut milliseconds, start, end));
    // One block of four warps a multiprocessor, which issues four warp instructions a cycle of 1590 MHz; a tenth for the noise.
    let least = LONG as f32 / 1_590_000.0 * 0.9;
    assert!(
        milliseconds >= least,
        "{milliseconds} ms, at least {least} ms"
    );
    ok!(cuEventElapsedTime(&mut milliseconds, end, start));
    assert!(milliseconds < 0.0);
}

#[test]
fn only_events_that_were_recorded_and_keep_time_have_an_elapsed_time() {
    context();
    let (timed, untimed, never) = (event(0), event(CU_EVENT_DISABLE_TIMING), event(0));
    let mut milliseconds = 0f32;
    ok!(cuEventQuery(never));
    ok!(cuEventRecord(timed, NULL));
    ok!(cuEventRecord(untimed, NULL));
    ok!(cuCtxSynchronize());
    assert_eq!(
        cu!(cuEventElapsedTime(&mut milliseconds, timed, untimed)),
        CUDA_ERROR_INVALID_HANDLE
    );
    assert_eq!(
        cu!(cuEventElapsedTime(&mut milliseconds, timed, never)),
        CUDA_ERROR_INVALID_HANDLE
    );
    ok!(cuEventDestroy_v2(timed));
    assert_eq!(cu!(cuEventQuery(timed)), CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn a_stream_that_waits_for_an_event_goes_on_after_it() {
    context();
    let (first, second, device, done) = (
        free_stream(),
        free_stream(),
        alloc(1),
        event(CU_EVENT_DISABLE_TIMING),
    );
    assert_eq!(launch(spin(LONG), first), 0);
    ok!(cuMemsetD8Async(device, 1, 1, first));
    ok!(cuEventRecord(done, first));
    ok!(cuStreamWaitEvent(second, done, 0));
    ok!(cuMemsetD8Async(device, 2, 1, second));
    assert_eq!(cu!(cuStreamQuery(second)), CUDA_ERROR_NOT_READY);
    ok!(cuStreamSynchronize(second));
    ok!(cuStreamQuery(first));
    assert_eq!(read(device, 1), [2]);
}

#[test]
fn the_null_stream_waits_for_blocking_streams_and_they_for_it() {
    context();
    let (blocking, long) = (stream(), spin(LONG));
    assert_eq!(launch(long, blocking), 0);
    assert_eq!(cu!(cuStreamQuery(NULL)), CUDA_ERROR_NOT_READY);
    ok!(cuStreamSynchronize(NULL));
    ok!(cuStreamQuery(blocking));
    let after = event(CU_EVENT_DISABLE_TIMING);
    assert_eq!(launch(long, NULL), 0);
    ok!(cuEventRecord(after, blocking));
    assert_eq!(cu!(cuEventQuery(after)), CUDA_ERROR_NOT_READY);
    ok!(cuStreamSynchronize(blocking));
    ok!(cuStreamQuery(NULL));
}

#[test]
fn a_non_blocking_stream_and_the_null_stream_pay_no_heed_to_each_other() {
    context();
    let (free, after) = (free_stream(), event(CU_EVENT_DISABLE_TIMING));
    assert_eq!(launch(spin(LONG), free), 0);
    ok!(cuEventRecord(after, NULL));
    ok!(cuEventSynchronize(after));
    assert_eq!(cu!(cuStreamQuery(free)), CUDA_ERROR_NOT_READY);
}

#[test]
fn each_thread_has_a_null_stream_of_its_own() {
    let context = context();
    let id = || {
        let mut id = 0;
        ok!(cuStreamGetId_ptsz(NULL, &mut id));
        id
    };
    let (mine, mut legacy) = (id(), 0);
    ok!(cuStreamGetId(NULL, &mut legacy));
    let context = context.expose_provenance();
    let theirs = std::thread::spawn(move || {
        ok!(cuCtxSetCurrent(std::ptr::with_exposed_provenance_mut(
            context
        )));
        let mut id = 0;
        ok!(cuStreamGetId_ptsz(NULL, &mut id));
        id
    });
    let theirs = theirs.join().unwrap();
    assert!(mine == id() && mine != theirs && mine != legacy);
}

static ORDER: Mutex<Vec<u32>> = Mutex::new(Vec::new());

extern "C" fn note(which: *mut c_void) {
    ORDER.lock().push(which.addr() as u32);
}

extern "C" fn note_stream(_: CUstream, status: CUresult, which: *mut c_void) {
    assert_eq!(status, CUDA_SUCCESS);
    note(which);
}

#[test]
fn functions_are_called_in_stream_order_and_the_stream_waits_for_them() {
    context();
    let (stream, device) = (free_stream(), alloc(1));
    assert_eq!(launch(spin(LONG), stream), 0);
    for which in 1..=3 {
        ok!(cuLaunchHostFunc(
            stream,
            Some(note),
            std::ptr::without_provenance_mut(which)
        ));
    }
    ok!(cuStreamAddCallback(
        stream,
        Some(note_stream),
        std::ptr::without_provenance_mut(4),
        0
    ));
    assert!(ORDER.lock().is_empty());
    ok!(cuMemsetD8Async(device, 1, 1, stream));
    ok!(cuStreamSynchronize(stream));
    assert_eq!(*ORDER.lock(), [1, 2, 3, 4]);
}

static ANSWER: AtomicU32 = AtomicU32::new(0);

extern "C" fn call_the_driver(_: *mut c_void) {
    let mut count = 0;
    ANSWER.store(cu!(cuDeviceGetCount(&mut count)), Ordering::SeqCst);
}

#[test]
fn a_function_that_a_stream_calls_must_not_call_the_driver() {
    context();
    ok!(cuLaunchHostFunc(
        NULL,
        Some(call_the_driver),
        std::ptr::null_mut()
    ));
    ok!(cuStreamSynchronize(NULL));
    assert_eq!(ANSWER.load(Ordering::SeqCst), CUDA_ERROR_NOT_PERMITTED);
}

#[test]
fn a_stream_waits_for_a_word_until_the_host_or_another_stream_writes_it() {
    context();
    let (waiting, writing, device) = (free_stream(), free_stream(), alloc(1));
    let mut host = std::ptr::null_mut();
    ok!(cuMemHostAlloc(&mut host, 8, CU_MEMHOSTALLOC_DEVICEMAP));
    let word = host.expose_provenance() as CUdeviceptr;
    // What another stream was given later is done: so would this one be.
    let still_waits = || {
        ok!(cuMemsetD8Async(device, 0, 1, writing));
        ok!(cuStreamSynchronize(writing));
        assert_eq!(cu!(cuStreamQuery(waiting)), CUDA_ERROR_NOT_READY);
    };
    ok!(cuStreamWaitValue32_v2(
        waiting,
        word,
        5,
        CU_STREAM_WAIT_VALUE_GEQ
    ));
    still_waits();
    ok!(cuStreamWriteValue32_v2(writing, word, 5, 0));
    ok!(cuStreamSynchronize(waiting));
    ok!(cuStreamWaitValue64_v2(
        waiting,
        word,
        1 << 40,
        CU_STREAM_WAIT_VALUE_EQ
    ));
    still_waits();
    // SAFETY: page-locked memory of the driver, aligned for it; the stream only reads it.
    unsafe { host.cast::<u64>().write_volatile(1 << 40) };
    ok!(cuStreamSynchronize(waiting));
}

#[test]
fn a_stream_that_was_destroyed_still_does_its_work_and_is_no_handle_any_more() {
    context();
    let (stream, device) = (free_stream(), alloc(1));
    assert_eq!(launch(spin(LONG), stream), 0);
    ok!(cuMemsetD8Async(device, 8, 1, stream));
    let done = event(CU_EVENT_DISABLE_TIMING);
    ok!(cuEventRecord(done, stream));
    ok!(cuStreamDestroy_v2(stream));
    assert_eq!(cu!(cuStreamSynchronize(stream)), CUDA_ERROR_INVALID_HANDLE);
    ok!(cuEventSynchronize(done));
    assert_eq!(read(device, 1), [8]);
}

#[test]
fn more_launches_than_a_queue_holds_all_run() {
    context();
    let (stream, function, long) = (stream(), spin(3000), spin(LONG));
    // So long that the queue is full before they have ended.
    for _ in 0..8 {
        assert_eq!(launch(long, stream), 0);
    }
    for _ in 0..3000 {
        assert_eq!(launch(function, stream), 0);
    }
    ok!(cuStreamSynchronize(stream));
    ok!(cuStreamQuery(stream));
}
