//! Arrays of compressed blocks, and of several planes.

mod support;

use std::ptr::null_mut;

use cuda_sys_stubs::abi::*;
use support::{context, cu, measuring, ok};

fn used() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    total - free
}

fn description(
    (width, height): (usize, usize),
    format: CUarray_format,
    channels: u32,
) -> CUDA_ARRAY_DESCRIPTOR {
    CUDA_ARRAY_DESCRIPTOR {
        Width: width,
        Height: height,
        Format: format,
        NumChannels: channels,
    }
}

fn array(extent: (usize, usize), format: CUarray_format, channels: u32) -> CUarray {
    let mut array = null_mut();
    let description = description(extent, format, channels);
    ok!(cuArrayCreate_v2(&mut array, &description));
    array
}

fn plane(array: CUarray, index: u32) -> CUarray {
    let mut plane = null_mut();
    ok!(cuArrayGetPlane(&mut plane, array, index));
    plane
}

/// A copy of as many rows of so many bytes between an array and the host.
fn copy(
    array: CUarray,
    host: &mut [u8],
    (width, height): (usize, usize),
    is_to_array: bool,
) -> CUresult {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut params: CUDA_MEMCPY2D_v2 = unsafe { std::mem::zeroed() };
    (params.WidthInBytes, params.Height) = (width, height);
    if is_to_array {
        (params.srcMemoryType, params.srcHost) = (CU_MEMORYTYPE_HOST, host.as_ptr().cast());
        (params.dstMemoryType, params.dstArray) = (CU_MEMORYTYPE_ARRAY, array);
    } else {
        (params.srcMemoryType, params.srcArray) = (CU_MEMORYTYPE_ARRAY, array);
        (params.dstMemoryType, params.dstHost) = (CU_MEMORYTYPE_HOST, host.as_mut_ptr().cast());
    }
    cu!(cuMemcpy2D_v2(&params))
}

#[test]
fn a_compressed_array_takes_its_blocks_and_is_copied_row_of_blocks_by_row() {
    let _alone = measuring();
    context();
    let before = used();
    let (extent, bytes) = ((2048, 4096), 4 << 20);
    let blocks = array(extent, CU_AD_FORMAT_BC1_UNORM, 4);
    assert_eq!(used(), before + bytes, "8 bytes for 16 elements");
    let mut host: Vec<u8> = (0..bytes).map(|byte| (byte % 251) as u8).collect();
    let written = host.clone();
    let row = 2048 / 4 * 8;
    assert_eq!(copy(blocks, &mut host, (row, 1024), true), 0);
    host.fill(0);
    assert_eq!(copy(blocks, &mut host, (row, 1024), false), 0);
    assert!(host == written);
    let beyond = copy(blocks, &mut host, (row, 1025), true);
    assert_eq!(beyond, CUDA_ERROR_INVALID_VALUE);
    let mut seen = description((0, 0), 0, 0);
    ok!(cuArrayGetDescriptor_v2(&mut seen, blocks));
    assert_eq!((seen.Width, seen.Height), extent, "in elements");
    let mut none = null_mut();
    let single = cu!(cuArrayGetPlane(&mut none, blocks, 0));
    assert_eq!(single, CUDA_ERROR_INVALID_VALUE);
    ok!(cuArrayDestroy(blocks));
    assert_eq!(used(), before);
}

#[test]
fn planes_of_an_array_are_arrays_in_its_memory_and_go_with_it() {
    let _alone = measuring();
    context();
    let before = used();
    let nv12 = array((4096, 2048), CU_AD_FORMAT_NV12, 3);
    assert_eq!(used(), before + (12 << 20), "12 bits a pixel");
    let (bright, colour) = (plane(nv12, 0), plane(nv12, 1));
    assert_eq!(plane(nv12, 1), colour, "always the same");
    let mut none = null_mut();
    let third = cu!(cuArrayGetPlane(&mut none, nv12, 2));
    assert_eq!(third, CUDA_ERROR_INVALID_VALUE);
    let mut seen = description((0, 0), 0, 0);
    ok!(cuArrayGetDescriptor_v2(&mut seen, colour));
    assert_eq!((seen.Width, seen.Height), (2048, 1024));
    assert_eq!(
        (seen.Format, seen.NumChannels),
        (CU_AD_FORMAT_UNSIGNED_INT8, 2)
    );
    let mut host = vec![7u8; 8 << 20];
    assert_eq!(copy(bright, &mut host, (4096, 2048), true), 0);
    host.fill(9);
    assert_eq!(copy(colour, &mut host, (4096, 1024), true), 0);
    assert_eq!(copy(bright, &mut host, (4096, 2048), false), 0);
    assert!(host.iter().all(|byte| *byte == 7));
    let whole = copy(nv12, &mut host, (4096, 1), true);
    assert_eq!(whole, CUDA_ERROR_INVALID_VALUE, "plane by plane");
    assert_eq!(cu!(cuArrayDestroy(colour)), CUDA_ERROR_INVALID_HANDLE);
    ok!(cuArrayDestroy(nv12));
    assert_eq!(used(), before);
    let gone = copy(colour, &mut host, (16, 1), true);
    assert_eq!(gone, CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn what_cannot_have_planes_is_refused() {
    let _alone = measuring();
    context();
    let mut handle = null_mut();
    let mut refuse = |extent, channels, flags, levels| {
        let CUDA_ARRAY_DESCRIPTOR { Width, Height, .. } = description(extent, 0, 0);
        let description = CUDA_ARRAY3D_DESCRIPTOR {
            Width,
            Height,
            Depth: 0,
            Format: CU_AD_FORMAT_NV12,
            NumChannels: channels,
            Flags: flags,
        };
        let refused = if levels == 0 {
            cu!(cuArray3DCreate_v2(&mut handle, &description))
        } else {
            let mipmap = (&raw mut handle).cast();
            cu!(cuMipmappedArrayCreate(mipmap, &description, levels))
        };
        assert_eq!(refused, CUDA_ERROR_INVALID_VALUE);
    };
    refuse((15, 16), 3, 0, 0);
    refuse((16, 15), 3, 0, 0);
    refuse((16, 0), 3, 0, 0);
    refuse((16, 16), 1, 0, 0);
    refuse((16, 16), 3, CUDA_ARRAY3D_SPARSE, 0);
    refuse((16, 16), 3, 0, 2);
}

#[test]
fn a_sparse_compressed_array_has_tiles_of_whole_blocks() {
    let _alone = measuring();
    context();
    let (mut array, flags) = (null_mut(), CUDA_ARRAY3D_SPARSE);
    let description = CUDA_ARRAY3D_DESCRIPTOR {
        Width: 1024,
        Height: 512,
        Depth: 0,
        Format: CU_AD_FORMAT_BC1_UNORM,
        NumChannels: 4,
        Flags: flags,
    };
    ok!(cuArray3DCreate_v2(&mut array, &description));
    // SAFETY: a record of plain numbers; zero is a value of each.
    let mut properties: CUDA_ARRAY_SPARSE_PROPERTIES = unsafe { std::mem::zeroed() };
    ok!(cuArrayGetSparseProperties(&mut properties, array));
    assert_eq!(
        properties.tileExtent,
        [512, 256, 1],
        "64 KiB of blocks of 8 bytes"
    );
    ok!(cuArrayDestroy(array));
}
