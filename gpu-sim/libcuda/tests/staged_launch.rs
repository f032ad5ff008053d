//! Launches in parts, from before CUDA 4.0.

mod support;

use cuda_sys_stubs::abi::*;
use support::{context, cu, free_stream, ok, spin};

const PARAMETER_BYTES_MAX: u32 = 4096;

/// Blocks and threads of the only kernel that a capture of `launch` recorded, its shared memory, and its two parameters.
fn recorded(launch: impl FnOnce(CUstream)) -> ([u32; 3], [u32; 3], u32, (u64, u32)) {
    let (stream, mut graph, mut count) = (free_stream(), std::ptr::null_mut(), 1);
    ok!(cuStreamBeginCapture_v2(
        stream,
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    ));
    launch(stream);
    ok!(cuStreamEndCapture(stream, &mut graph));
    let mut node = std::ptr::null_mut();
    ok!(cuGraphGetNodes(graph, &mut node, &mut count));
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut params: CUDA_KERNEL_NODE_PARAMS_v1 = unsafe { std::mem::zeroed() };
    ok!(cuGraphKernelNodeGetParams(node, &mut params));
    // SAFETY: `spin` has two parameters, of eight and four bytes, which the node keeps.
    let values = unsafe {
        let [first, second] = params.kernelParams.cast::<[*mut u64; 2]>().read();
        (
            first.read_unaligned(),
            second.cast::<u32>().read_unaligned(),
        )
    };
    ok!(cuGraphDestroy(graph));
    (
        [params.gridDimX, params.gridDimY, params.gridDimZ],
        [params.blockDimX, params.blockDimY, params.blockDimZ],
        params.sharedMemBytes,
        values,
    )
}

#[test]
fn a_launch_in_parts_is_the_launch_that_its_parts_make() {
    context();
    let (spin, address) = (spin(1000), 0x1234_5678_9abc_u64);
    ok!(cuFuncSetBlockShape(spin, 32, 2, 1));
    ok!(cuFuncSetSharedSize(spin, 512));
    let mut value = address;
    ok!(cuParamSetv(spin, 0, (&raw mut value).cast(), 8));
    ok!(cuParamSetf(spin, 8, 1.0));
    ok!(cuParamSetSize(spin, 12));
    let float = recorded(|stream| ok!(cuLaunchGridAsync(spin, 3, 2, stream)));
    let one = 1f32.to_bits();
    assert_eq!(float, ([3, 2, 1], [32, 2, 1], 512, (address, one)));
    ok!(cuParamSeti(spin, 8, 77));
    let word = recorded(|stream| ok!(cuLaunchGridAsync(spin, 1, 1, stream)));
    assert_eq!(word.3, (address, 77));
    ok!(cuParamSetSize(spin, 8));
    let cut = recorded(|stream| ok!(cuLaunchGridAsync(spin, 1, 1, stream)));
    assert_eq!(cut.3, (address, 0));
}

#[test]
fn a_launch_in_parts_is_work_of_the_null_stream() {
    context();
    let (long, legacy) = (spin(support::LONG), std::ptr::null_mut());
    let per_thread = std::ptr::without_provenance_mut(2);
    ok!(cuFuncSetBlockShape(long, 128, 1, 1));
    for grid in [None, Some(2)] {
        match grid {
            None => ok!(cuLaunch(long)),
            Some(width) => ok!(cuLaunchGrid(long, width, 1)),
        }
        assert_eq!(cu!(cuStreamQuery(per_thread)), CUDA_SUCCESS);
        assert_eq!(cu!(cuStreamQuery(legacy)), CUDA_ERROR_NOT_READY);
        ok!(cuCtxSynchronize());
    }
}

#[test]
fn a_part_out_of_bounds_is_refused() {
    context();
    let (spin, invalid) = (spin(1000), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(cu!(cuLaunch(spin)), invalid);
    assert_eq!(cu!(cuFuncSetBlockShape(spin, 32, 0, 1)), invalid);
    assert_eq!(cu!(cuParamSetSize(spin, PARAMETER_BYTES_MAX + 1)), invalid);
    ok!(cuParamSetSize(spin, PARAMETER_BYTES_MAX));
    assert_eq!(cu!(cuParamSeti(spin, -4, 0)), invalid);
    assert_eq!(cu!(cuParamSeti(spin, 4093, 0)), invalid);
    ok!(cuParamSeti(spin, 4092, 0));
    let nothing = std::ptr::null_mut();
    assert_eq!(cu!(cuParamSetv(spin, 0, nothing, 4)), invalid);
    ok!(cuFuncSetBlockShape(spin, 1025, 1, 1));
    assert_eq!(cu!(cuLaunch(spin)), invalid);
    ok!(cuFuncSetBlockShape(spin, 32, 1, 1));
    assert_eq!(cu!(cuLaunchGrid(spin, 1, 0)), invalid);
    assert_eq!(cu!(cuLaunchGrid(spin, 1, 65536)), invalid);
    ok!(cuFuncSetSharedSize(spin, 48 << 10));
    assert_eq!(cu!(cuLaunch(spin)), invalid);
    ok!(cuFuncSetSharedSize(spin, 0));
    ok!(cuLaunch(spin));
    ok!(cuCtxSynchronize());
}

#[test]
fn a_texture_reference_is_a_part_only_in_its_own_place() {
    context();
    let (spin, mut reference) = (spin(1000), std::ptr::null_mut());
    ok!(cuTexRefCreate(&mut reference));
    ok!(cuParamSetTexRef(spin, CU_PARAM_TR_DEFAULT, reference));
    assert_eq!(
        cu!(cuParamSetTexRef(spin, 0, reference)),
        CUDA_ERROR_INVALID_VALUE
    );
    ok!(cuTexRefDestroy(reference));
    assert_eq!(
        cu!(cuParamSetTexRef(spin, CU_PARAM_TR_DEFAULT, reference)),
        CUDA_ERROR_INVALID_HANDLE
    );
}
