//! Tensor maps, on a device that has them and on one that has not.

mod support;

use std::sync::Once;

use cuda_sys_stubs::abi::*;
use support::{alloc, cu, ok};

/// An H100, and a T4 beside it.
fn context(device: CUdevice) {
    static MACHINE: Once = Once::new();
    // SAFETY: nobody has the driver yet, so nobody reads the environment now.
    MACHINE.call_once(|| unsafe { std::env::set_var("GPU_SIM_PROFILE", "h100,t4") });
    ok!(cuInit(0));
    let mut context = std::ptr::null_mut();
    ok!(cuCtxCreate_v2(&mut context, 0, device));
}

#[repr(align(64))]
struct Map([u8; 128]);

impl Map {
    fn handle(&mut self) -> *mut CUtensorMap {
        self.0.as_mut_ptr().cast()
    }
}

/// A matrix of 64 by 32 half-precision numbers, copied in tiles of 32 by 8.
#[derive(Clone, Copy)]
struct Matrix {
    data_type: CUtensorMapDataType,
    rank: u32,
    address: u64,
    dims: [u64; 3],
    strides: [u64; 2],
    tile: [u32; 3],
    steps: [u32; 3],
    interleave: CUtensorMapInterleave,
    swizzle: CUtensorMapSwizzle,
    fill: CUtensorMapFloatOOBfill,
}

fn matrix(address: u64) -> Matrix {
    Matrix {
        data_type: CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        rank: 2,
        address,
        dims: [64, 32, 1],
        strides: [128, 4096],
        tile: [32, 8, 1],
        steps: [1; 3],
        interleave: CU_TENSOR_MAP_INTERLEAVE_NONE,
        swizzle: CU_TENSOR_MAP_SWIZZLE_64B,
        fill: CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA,
    }
}

fn tiled(map: *mut CUtensorMap, matrix: &Matrix) -> CUresult {
    cu!(cuTensorMapEncodeTiled(
        map,
        matrix.data_type,
        matrix.rank,
        std::ptr::without_provenance_mut(matrix.address as usize),
        matrix.dims.as_ptr(),
        matrix.strides.as_ptr(),
        matrix.tile.as_ptr(),
        matrix.steps.as_ptr(),
        matrix.interleave,
        matrix.swizzle,
        CU_TENSOR_MAP_L2_PROMOTION_NONE,
        matrix.fill
    ))
}

#[test]
fn a_tiled_map_is_made_and_one_out_of_bounds_is_refused_and_writes_nothing() {
    context(0);
    let good = matrix(alloc(1 << 16));
    let mut map = Map([0; 128]);
    assert_eq!(tiled(map.handle(), &good), CUDA_SUCCESS);
    assert_ne!(map.0, [0; 128]);
    let wrong: [fn(&mut Matrix); 12] = [
        |matrix| matrix.data_type = CU_TENSOR_MAP_DATA_TYPE_16U6_ALIGN16B,
        |matrix| matrix.rank = 0,
        |matrix| matrix.rank = 6,
        |matrix| matrix.address += 8,
        |matrix| matrix.dims[1] = 0,
        |matrix| matrix.strides[0] = 136,
        |matrix| matrix.strides[0] = 1 << 40,
        |matrix| matrix.tile[1] = 257,
        |matrix| matrix.tile[0] = 4,
        |matrix| matrix.tile[0] = 64, // 128 bytes, in a swizzle of 64
        |matrix| matrix.steps[1] = 9,
        |matrix| matrix.interleave = CU_TENSOR_MAP_INTERLEAVE_16B, // of three dimensions at least
    ];
    let mut untouched = Map([0; 128]);
    for (index, change) in wrong.iter().enumerate() {
        let mut changed = good;
        change(&mut changed);
        let status = tiled(untouched.handle(), &changed);
        assert_eq!(status, CUDA_ERROR_INVALID_VALUE, "{index}");
    }
    let mut whole = good;
    whole.data_type = CU_TENSOR_MAP_DATA_TYPE_UINT16; // which has no NaN
    assert_eq!(tiled(untouched.handle(), &whole), CUDA_ERROR_INVALID_VALUE);
    let askew = untouched.handle().cast::<u8>().wrapping_add(32).cast();
    assert_eq!(tiled(askew, &good), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(untouched.0, [0; 128]);
}

#[test]
fn a_map_moves_only_to_an_address_that_it_could_have_been_made_for() {
    context(0);
    let memory = alloc(1 << 16);
    let mut interleaved = matrix(memory);
    (interleaved.rank, interleaved.interleave) = (3, CU_TENSOR_MAP_INTERLEAVE_32B);
    interleaved.swizzle = CU_TENSOR_MAP_SWIZZLE_32B;
    let mut map = Map([0; 128]);
    assert_eq!(tiled(map.handle(), &interleaved), CUDA_SUCCESS);
    let mut replace = |address: u64| {
        let address = std::ptr::without_provenance_mut(address as usize);
        let status = cu!(cuTensorMapReplaceAddress(map.handle(), address));
        (status, map.0)
    };
    let (moved, bytes) = replace(memory + 32);
    assert_eq!(moved, CUDA_SUCCESS);
    assert_eq!(replace(memory + 48), (CUDA_ERROR_INVALID_VALUE, bytes));
    interleaved.address = memory + 32;
    let mut other = Map([0; 128]);
    assert_eq!(tiled(other.handle(), &interleaved), CUDA_SUCCESS);
    assert_eq!(other.0, bytes);
}

#[test]
fn a_map_of_columns_has_corners_that_fit_its_rank() {
    context(0);
    let (memory, mut map) = (alloc(1 << 16), Map([0; 128]));
    let (dims, strides) = ([64u64, 8, 8, 2], [128u64, 1024, 8192]);
    let mut columns = |lower: [i32; 2], channels, pixels, rank| {
        cu!(cuTensorMapEncodeIm2col(
            map.handle(),
            CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            rank,
            std::ptr::without_provenance_mut(memory as usize),
            dims.as_ptr(),
            strides.as_ptr(),
            lower.as_ptr(),
            [127, 0].as_ptr(),
            channels,
            pixels,
            [1; 4].as_ptr(),
            CU_TENSOR_MAP_INTERLEAVE_NONE,
            CU_TENSOR_MAP_SWIZZLE_128B,
            CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE
        ))
    };
    assert_eq!(columns([-128, -1], 64, 1024, 4), CUDA_SUCCESS);
    let invalid = CUDA_ERROR_INVALID_VALUE;
    assert_eq!(columns([-129, -1], 64, 1024, 4), invalid);
    assert_eq!(columns([-129, -1], 64, 1024, 3), CUDA_SUCCESS);
    assert_eq!(columns([-1, -1], 65, 1024, 4), invalid);
    assert_eq!(columns([-1, -1], 64, 1025, 4), invalid);
    assert_eq!(columns([-1, -1], 64, 1024, 2), invalid);
}

#[test]
fn a_device_without_tensor_maps_says_so() {
    context(1);
    let memory = alloc(1 << 16);
    let supported = |device| {
        let (mut value, attribute) = (9, CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED);
        ok!(cuDeviceGetAttribute(&mut value, attribute, device));
        value
    };
    assert_eq!([supported(0), supported(1)], [1, 0]);
    let mut map = Map([0; 128]);
    assert_eq!(
        tiled(map.handle(), &matrix(memory)),
        CUDA_ERROR_NOT_SUPPORTED
    );
}
