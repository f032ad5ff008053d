//! One kernel on several devices at once: `cuLaunchCooperativeKernelMultiDevice`.

mod support;

use std::sync::Once;

use cuda_sys_stubs::abi::*;
use support::{LONG, alloc, cu, event, free_stream, ok, spin, spin_ptx};

const NO_PRE: u32 = CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_PRE_LAUNCH_SYNC;
const NO_POST: u32 = CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_POST_LAUNCH_SYNC;
const SHORT: u32 = 1000;

/// What a kernel on one of two devices needs.
struct Side {
    context: CUcontext,
    kernel: CUfunction,
    stream: CUstream,
    /// A word that is 0.
    word: CUdeviceptr,
}

/// A context on each device of a machine with two, and a stream and a kernel in it.
fn sides() -> [Side; 2] {
    static MACHINE: Once = Once::new();
    // SAFETY: nobody has the driver yet, so nobody reads the environment now.
    MACHINE.call_once(|| unsafe { std::env::set_var("GPU_SIM_PROFILE", "2xt4") });
    ok!(cuInit(0));
    [0, 1].map(|device| {
        let mut context = std::ptr::null_mut();
        ok!(cuCtxCreate_v2(&mut context, 0, device));
        let word = alloc(4);
        ok!(cuMemsetD32_v2(word, 0, 1));
        ok!(cuCtxSynchronize());
        let (kernel, stream) = (spin(SHORT), free_stream());
        Side {
            context,
            kernel,
            stream,
            word,
        }
    })
}

impl Side {
    fn params(&self) -> CUDA_LAUNCH_PARAMS {
        // SAFETY: a record of plain numbers and pointers; zero is a value of each.
        let mut params: CUDA_LAUNCH_PARAMS = unsafe { std::mem::zeroed() };
        (params.function, params.hStream) = (self.kernel, self.stream);
        (params.gridDimX, params.gridDimY, params.gridDimZ) = (40, 1, 1);
        (params.blockDimX, params.blockDimY, params.blockDimZ) = (32, 1, 1);
        params
    }

    /// Has the stream wait until [`Side::release`].
    fn hold(&self) {
        let at_least = CU_STREAM_WAIT_VALUE_GEQ;
        ok!(cuStreamWaitValue32_v2(self.stream, self.word, 1, at_least));
    }

    fn release(&self) {
        ok!(cuCtxSetCurrent(self.context));
        ok!(cuMemsetD32Async(self.word, 1, 1, free_stream()));
        ok!(cuStreamSynchronize(self.stream));
    }

    /// Whether the stream has come nowhere when the device has done something long that was given to it later.
    fn is_held(&self) -> bool {
        ok!(cuCtxSetCurrent(self.context));
        let later = free_stream();
        assert_eq!(support::launch(spin(LONG), later), 0);
        ok!(cuStreamSynchronize(later));
        self.query() == CUDA_ERROR_NOT_READY
    }

    fn query(&self) -> CUresult {
        cu!(cuStreamQuery(self.stream))
    }
}

fn launch(mut params: [CUDA_LAUNCH_PARAMS; 2], flags: u32) -> CUresult {
    let (list, count) = (params.as_mut_ptr(), params.len() as u32);
    cu!(cuLaunchCooperativeKernelMultiDevice(list, count, flags))
}

#[test]
fn kernels_of_one_launch_wait_for_what_all_their_streams_were_given() {
    let [first, second] = sides();
    first.hold();
    assert_eq!(launch([first.params(), second.params()], NO_POST), 0);
    assert!(second.is_held());
    first.release();
    ok!(cuStreamSynchronize(second.stream));
}

#[test]
fn what_follows_one_launch_waits_for_all_its_kernels() {
    let [first, second] = sides();
    first.hold();
    assert_eq!(launch([first.params(), second.params()], NO_PRE), 0);
    assert!(second.is_held());
    first.release();
    ok!(cuStreamSynchronize(second.stream));
}

#[test]
fn kernels_of_one_launch_wait_for_nothing_that_they_need_not() {
    let [first, second] = sides();
    first.hold();
    let long = [&first, &second].map(|side| {
        ok!(cuCtxSetCurrent(side.context));
        CUDA_LAUNCH_PARAMS {
            function: spin(LONG),
            ..side.params()
        }
    });
    let [begin, end] = [0; 2].map(event);
    ok!(cuEventRecord(begin, second.stream));
    assert_eq!(launch(long, NO_PRE | NO_POST), 0);
    ok!(cuEventRecord(end, second.stream));
    ok!(cuStreamSynchronize(second.stream));
    let mut elapsed_ms = 0.0;
    ok!(cuEventElapsedTime(&mut elapsed_ms, begin, end));
    assert!(elapsed_ms > 5.0, "its kernel ran: {elapsed_ms}");
    assert_eq!(first.query(), CUDA_ERROR_NOT_READY);
    first.release();
}

#[test]
fn a_kernel_of_a_library_is_launched_in_the_contexts_of_the_streams() {
    let [first, second] = sides();
    let (mut library, mut kernel, ptx) =
        (std::ptr::null_mut(), std::ptr::null_mut(), spin_ptx(SHORT));
    let none = std::ptr::null_mut();
    ok!(cuLibraryLoadData(
        &mut library,
        ptx.as_ptr().cast(),
        none,
        std::ptr::null_mut(),
        0,
        std::ptr::null_mut(),
        std::ptr::null_mut(),
        0
    ));
    ok!(cuLibraryGetKernel(&mut kernel, library, c"spin".as_ptr()));
    let [mut one, mut other] = [first.params(), second.params()];
    (one.function, other.function) = (kernel.cast(), kernel.cast());
    assert_eq!(launch([one, other], 0), 0);
    ok!(cuStreamSynchronize(first.stream));
    ok!(cuStreamSynchronize(second.stream));
}

#[test]
fn launches_that_do_not_belong_together_are_refused() {
    let [first, second] = sides();
    let with = |change: &dyn Fn(&mut CUDA_LAUNCH_PARAMS)| {
        let mut changed = second.params();
        change(&mut changed);
        launch([first.params(), changed], 0)
    };
    let (other_kernel, foreign) = (spin(2 * SHORT), first.kernel);
    let legacy = std::ptr::without_provenance_mut(1);
    let mut again = first.params();
    ok!(cuCtxSetCurrent(first.context));
    again.hStream = free_stream();
    for (status, refused) in [
        (CUDA_ERROR_INVALID_VALUE, with(&|other| *other = again)),
        (CUDA_ERROR_INVALID_VALUE, with(&|other| other.gridDimX = 39)),
        (
            CUDA_ERROR_INVALID_VALUE,
            with(&|other| other.hStream = legacy),
        ),
        (
            CUDA_ERROR_INVALID_VALUE,
            with(&|other| other.function = other_kernel),
        ),
        (
            CUDA_ERROR_INVALID_HANDLE,
            with(&|other| other.function = foreign),
        ),
        (
            CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
            with(&|other| other.gridDimX = 1 << 20),
        ),
        (
            CUDA_ERROR_INVALID_VALUE,
            launch([first.params(), second.params()], 4),
        ),
    ] {
        assert_eq!(refused, status);
    }
    let none = cu!(cuLaunchCooperativeKernelMultiDevice(
        std::ptr::null_mut(),
        0,
        0
    ));
    assert_eq!(none, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(
        (first.query(), second.query()),
        (0, 0),
        "nothing was launched"
    );
}
