//! The calls of before CUDA 3.2 and their contexts: device addresses and sizes of 32 bits.

mod support;

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;
use support::{context, cu, measuring, ok, read, spin_ptx};

/// A fresh context of API version 3010, current for the calling thread.
fn narrow_context() -> CUcontext {
    ok!(cuInit(0));
    let (mut context, mut version) = (std::ptr::null_mut(), 0);
    ok!(cuCtxCreate(&mut context, 0, 0));
    ok!(cuCtxGetApiVersion(context, &mut version));
    assert_eq!(version, 3010);
    context
}

fn alloc(bytes: u32) -> CUdeviceptr_v1 {
    let mut address = 0;
    ok!(cuMemAlloc(&mut address, bytes));
    address
}

/// Room for `N` bytes on the host, and where it is.
fn host<const N: usize>(bytes: &mut [u8; N]) -> *mut c_void {
    bytes.as_mut_ptr().cast()
}

fn fetch<const N: usize>(address: CUdeviceptr_v1) -> [u8; N] {
    let mut bytes = [0; N];
    ok!(cuMemcpyDtoH(host(&mut bytes), address, N as u32));
    bytes
}

#[test]
fn memory_of_such_a_context_is_reached_with_32_bits() {
    let _measuring = measuring();
    narrow_context();
    let (first, second) = (alloc(4096), alloc(4096));
    let mut bytes = [1, 2, 3, 4, 5, 6, 7, 8];
    ok!(cuMemcpyHtoD(first, host(&mut bytes), 8));
    ok!(cuMemcpyDtoD(second + 8, first, 8));
    assert_eq!(fetch::<8>(second + 8), bytes);
    ok!(cuMemsetD8(first, 9, 8));
    ok!(cuMemsetD16(first + 2, 0x0b0a, 1));
    ok!(cuMemsetD2D32(first + 4, 8, 0x0f0e_0d0c, 1, 1));
    assert_eq!(fetch::<8>(first), [9, 9, 10, 11, 12, 13, 14, 15]);
    let (mut start, mut size) = (0, 0);
    ok!(cuMemGetAddressRange(&mut start, &mut size, second + 77));
    assert_eq!((start, size), (second, 4096));
    let (mut pitched, mut pitch) = (0, 0);
    ok!(cuMemAllocPitch(&mut pitched, &mut pitch, 100, 3, 4));
    assert_eq!(pitch, 512);
    for freed in [first, second, pitched] {
        ok!(cuMemFree(freed));
    }
    assert_eq!(cu!(cuMemFree(first)), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(alloc(4096), first, "addresses are used again");
}

#[test]
fn copies_of_rectangles_and_arrays_have_32_bit_records() {
    let _measuring = measuring();
    narrow_context();
    let description = CUDA_ARRAY_DESCRIPTOR_v1 {
        Width: 4,
        Height: 2,
        Format: CU_AD_FORMAT_UNSIGNED_INT8,
        NumChannels: 1,
    };
    let (mut array, mut told) = (std::ptr::null_mut(), description);
    ok!(cuArrayCreate(&mut array, &description));
    told.Width = 0;
    ok!(cuArrayGetDescriptor(&mut told, array));
    assert_eq!(told, description);
    let device = alloc(64);
    let mut bytes = [1, 2, 3, 4, 5, 6, 7, 8];
    ok!(cuMemcpyHtoD(device, host(&mut bytes), 8));
    // SAFETY: a record of numbers and pointers; zero is a value of each.
    let mut copy: CUDA_MEMCPY2D_v1 = unsafe { std::mem::zeroed() };
    (copy.srcMemoryType, copy.srcDevice, copy.srcPitch) = (CU_MEMORYTYPE_DEVICE, device, 4);
    (copy.dstMemoryType, copy.dstArray) = (CU_MEMORYTYPE_ARRAY, array);
    (copy.WidthInBytes, copy.Height) = (4, 2);
    ok!(cuMemcpy2D(&copy));
    ok!(cuMemcpyAtoD(device + 32, array, 4, 4));
    assert_eq!(fetch::<4>(device + 32), [5, 6, 7, 8]);
    let mut row = [0; 4];
    ok!(cuMemcpyAtoH(host(&mut row), array, 0, 4));
    assert_eq!(row, [1, 2, 3, 4]);
    // SAFETY: as above.
    let mut copy: CUDA_MEMCPY3D_v1 = unsafe { std::mem::zeroed() };
    (copy.srcMemoryType, copy.srcArray, copy.srcY) = (CU_MEMORYTYPE_ARRAY, array, 1);
    (copy.dstMemoryType, copy.dstHost) = (CU_MEMORYTYPE_HOST, host(&mut row));
    (copy.WidthInBytes, copy.Height, copy.Depth) = (4, 1, 1);
    ok!(cuMemcpy3D(&copy));
    assert_eq!(row, [5, 6, 7, 8]);
    ok!(cuArrayDestroy(array));
}

#[test]
fn host_memory_and_variables_of_such_a_context_have_short_addresses_too() {
    let _measuring = measuring();
    narrow_context();
    let (mut pages, mut device) = (std::ptr::null_mut(), 0);
    ok!(cuMemAllocHost(&mut pages, 5000));
    ok!(cuMemHostGetDevicePointer(&mut device, pages, 0));
    assert_eq!(pages.addr(), device as usize);
    // SAFETY: the driver made 5000 bytes there.
    unsafe { pages.cast::<u8>().add(4999).write(7) };
    ok!(cuMemFreeHost(pages));
    let ptx = spin_ptx(1000);
    let (mut module, mut size) = (std::ptr::null_mut(), 0);
    ok!(cuModuleLoadData(&mut module, ptx.as_ptr().cast()));
    ok!(cuModuleGetGlobal(
        &mut device,
        &mut size,
        module,
        c"counter".as_ptr()
    ));
    assert_eq!((size, fetch::<8>(device)), (8, [7, 0, 0, 0, 9, 0, 0, 0]));
}

#[test]
fn a_context_takes_the_calls_of_its_own_version() {
    let _measuring = measuring();
    let other = CUDA_ERROR_INVALID_CONTEXT;
    narrow_context();
    let (mut address, mut short, mut bytes, mut size) = (0, 0, 0, 0);
    assert_eq!(cu!(cuMemAlloc_v2(&mut address, 16)), other);
    assert_eq!(cu!(cuMemGetInfo_v2(&mut bytes, &mut bytes)), other);
    assert_eq!(cu!(cuMemsetD8_v2_ptds(0, 0, 0)), other);
    ok!(cuMemGetInfo(&mut size, &mut size));
    assert_eq!(size, u32::MAX, "a T4 has more than 32 bits can say");
    ok!(cuMemAllocManaged(&mut address, 16, CU_MEM_ATTACH_GLOBAL));
    ok!(cuMemsetD8Async(address, 5, 16, std::ptr::null_mut()));
    ok!(cuCtxSynchronize());
    context();
    assert_eq!(read(address, 4), [5; 4], "both have one address space");
    assert_eq!(cu!(cuMemAlloc(&mut short, 16)), other);
    assert_eq!(cu!(cuMemFree(short)), other);
    assert_eq!(cu!(cuMemGetInfo(&mut size, &mut size)), other);
}

#[test]
fn there_are_no_more_addresses_than_32_bits_have_and_they_come_back_with_the_context() {
    let _measuring = measuring();
    context();
    let free_bytes = || {
        let (mut free, mut total) = (0, 0);
        ok!(cuMemGetInfo_v2(&mut free, &mut total));
        free
    };
    let before = free_bytes();
    for _ in 0..2 {
        let own = narrow_context();
        alloc(3 << 29);
        let mut address = 0;
        let none = cu!(cuMemAlloc(&mut address, 7 << 29));
        assert_eq!((none, address), (CUDA_ERROR_OUT_OF_MEMORY, 0));
        ok!(cuCtxDestroy(own));
        assert_eq!(free_bytes(), before);
    }
}
