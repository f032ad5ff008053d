//! Mapped memory and arrays.

mod support;

use cuda_sys_stubs::abi::*;
use support::{context, cu, measuring, ok, read};

const PAGE: usize = 2 << 20;

fn prop() -> CUmemAllocationProp {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut prop: CUmemAllocationProp = unsafe { std::mem::zeroed() };
    (prop.type_, prop.location.type_) =
        (CU_MEM_ALLOCATION_TYPE_PINNED, CU_MEM_LOCATION_TYPE_DEVICE);
    prop
}

fn create(bytes: usize) -> CUmemGenericAllocationHandle {
    let mut handle = 0;
    ok!(cuMemCreate(&mut handle, bytes, &prop(), 0));
    handle
}

fn allow(start: CUdeviceptr, bytes: usize) {
    let location = CUmemLocation {
        type_: CU_MEM_LOCATION_TYPE_DEVICE,
        id: 0,
    };
    let access = CUmemAccessDesc {
        location,
        flags: CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    ok!(cuMemSetAccess(start, bytes, &access, 1));
}

fn used_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    total - free
}

#[test]
fn mapped_memory_is_copied_over_the_borders_of_its_mappings() {
    context();
    let (mut granularity, mut start) = (0, 0);
    ok!(cuMemGetAllocationGranularity(
        &mut granularity,
        &prop(),
        CU_MEM_ALLOC_GRANULARITY_MINIMUM
    ));
    assert_eq!(granularity, PAGE);
    ok!(cuMemAddressReserve(&mut start, 4 * PAGE, 0, 0, 0));
    let (first, second) = (create(PAGE), create(2 * PAGE));
    ok!(cuMemMap(start, PAGE, 0, first, 0));
    ok!(cuMemMap(start + PAGE as u64, 2 * PAGE, 0, second, 0));
    assert_eq!(
        cu!(cuMemMap(start, PAGE, 0, second, 0)),
        CUDA_ERROR_ALREADY_MAPPED
    );
    assert_eq!(cu!(cuMemsetD8_v2(start, 1, 1)), CUDA_ERROR_INVALID_VALUE);
    allow(start, 3 * PAGE);
    let bytes: Vec<u8> = (0..3 * PAGE).map(|index| (index % 251) as u8).collect();
    ok!(cuMemcpyHtoD_v2(start, bytes.as_ptr().cast(), bytes.len()));
    assert!(read(start, bytes.len()) == bytes);
    assert_eq!(
        cu!(cuMemsetD8_v2(start, 1, 3 * PAGE + 1)),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(cu!(cuMemFree_v2(start)), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(
        cu!(cuMemAddressFree(start, 4 * PAGE)),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(cu!(cuMemUnmap(start, 2 * PAGE)), CUDA_ERROR_INVALID_VALUE);
    ok!(cuMemUnmap(start, 3 * PAGE));
    assert_eq!(cu!(cuMemsetD8_v2(start, 1, 1)), CUDA_ERROR_INVALID_VALUE);
    ok!(cuMemAddressFree(start, 4 * PAGE));
    ok!(cuMemRelease(first));
    ok!(cuMemRelease(second));
    assert_eq!(cu!(cuMemRelease(second)), CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn the_same_memory_can_be_mapped_twice_and_lives_until_it_is_neither_held_nor_mapped() {
    let _measuring = measuring();
    context();
    let before = used_bytes();
    let (handle, mut start) = (create(512 * PAGE), 0);
    ok!(cuMemAddressReserve(&mut start, 1024 * PAGE, 0, 0, 0));
    let second = start + 512 * PAGE as u64;
    for at in [start, second] {
        ok!(cuMemMap(at, 512 * PAGE, 0, handle, 0));
        allow(at, 512 * PAGE);
    }
    ok!(cuMemRelease(handle));
    ok!(cuMemsetD8_v2(start + 5, 42, 1));
    assert_eq!(read(second + 5, 1), [42]);
    assert!(used_bytes() >= before + 512 * PAGE);
    let mut again = 0;
    ok!(cuMemRetainAllocationHandle(
        &mut again,
        std::ptr::without_provenance_mut(second as usize)
    ));
    assert_eq!(again, handle);
    ok!(cuMemUnmap(start, 1024 * PAGE));
    assert!(used_bytes() >= before + 512 * PAGE);
    ok!(cuMemRelease(again));
    assert!(used_bytes() < before + 512 * PAGE);
}

#[test]
fn sizes_that_are_no_pages_are_refused() {
    context();
    let mut handle = 0;
    assert_eq!(
        cu!(cuMemCreate(&mut handle, PAGE + 1, &prop(), 0)),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemCreate(&mut handle, 1 << 40, &prop(), 0)),
        CUDA_ERROR_OUT_OF_MEMORY
    );
    assert_eq!(
        cu!(cuMemAddressReserve(&mut handle, 4096, 0, 0, 0)),
        CUDA_ERROR_INVALID_VALUE
    );
}

#[test]
fn an_array_keeps_its_rows() {
    context();
    let description = CUDA_ARRAY_DESCRIPTOR {
        Width: 6,
        Height: 4,
        Format: CU_AD_FORMAT_UNSIGNED_INT8,
        NumChannels: 1,
    };
    let mut array = std::ptr::null_mut();
    ok!(cuArrayCreate_v2(&mut array, &description));
    let (source, mut back) = ([7u8, 8, 9, 10], [0u8; 24]);
    ok!(cuMemcpyHtoA_v2(array, 0, back.as_ptr().cast(), 6));
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut copy: CUDA_MEMCPY2D = unsafe { std::mem::zeroed() };
    (copy.srcMemoryType, copy.srcHost, copy.srcPitch) =
        (CU_MEMORYTYPE_HOST, source.as_ptr().cast(), 2);
    (
        copy.dstMemoryType,
        copy.dstArray,
        copy.dstXInBytes,
        copy.dstY,
    ) = (CU_MEMORYTYPE_ARRAY, array, 4, 1);
    (copy.WidthInBytes, copy.Height) = (2, 2);
    ok!(cuMemcpy2D_v2(&copy));
    copy.dstXInBytes = 5;
    assert_eq!(cu!(cuMemcpy2D_v2(&copy)), CUDA_ERROR_INVALID_VALUE);
    ok!(cuMemcpyAtoH_v2(back.as_mut_ptr().cast(), array, 10, 2));
    ok!(cuMemcpyAtoH_v2(back[2..].as_mut_ptr().cast(), array, 16, 2));
    assert_eq!(back[..4], source);
    ok!(cuArrayDestroy(array));
    assert_eq!(cu!(cuArrayDestroy(array)), CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn a_mipmapped_array_takes_all_its_levels_along() {
    let _measuring = measuring();
    context();
    let before = used_bytes();
    let mut description = CUDA_ARRAY3D_DESCRIPTOR {
        Width: 8192,
        Height: 8192,
        Depth: 0,
        Format: CU_AD_FORMAT_FLOAT,
        NumChannels: 4,
        Flags: 0,
    };
    let (mut mipmap, mut level) = (std::ptr::null_mut(), std::ptr::null_mut());
    ok!(cuMipmappedArrayCreate(&mut mipmap, &description, 3));
    assert!(used_bytes() >= before + (1 << 30) + (1 << 28) + (1 << 26));
    ok!(cuMipmappedArrayGetLevel(&mut level, mipmap, 2));
    ok!(cuArray3DGetDescriptor_v2(&mut description, level));
    assert_eq!(
        (description.Width, description.Height, description.Depth),
        (2048, 2048, 0)
    );
    assert_eq!(cu!(cuArrayDestroy(level)), CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(
        cu!(cuMipmappedArrayGetLevel(&mut level, mipmap, 3)),
        CUDA_ERROR_INVALID_VALUE
    );
    ok!(cuMipmappedArrayDestroy(mipmap));
    assert!(used_bytes() < before + (1 << 30));
}
