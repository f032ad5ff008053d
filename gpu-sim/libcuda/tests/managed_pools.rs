//! Pools of managed memory.

mod support;

use cuda_sys_stubs::abi::*;
use support::{context, cu, free_stream, measuring, ok, read};

const MIB: usize = 1 << 20;
const MANAGED: CUmemAllocationType = CU_MEM_ALLOCATION_TYPE_MANAGED;

const DEVICE: CUmemLocation = CUmemLocation {
    type_: CU_MEM_LOCATION_TYPE_DEVICE,
    id: 0,
};

const ANYWHERE: CUmemLocation = CUmemLocation {
    type_: CU_MEM_LOCATION_TYPE_NONE,
    id: 0,
};

fn properties(location: CUmemLocation) -> CUmemPoolProps {
    CUmemPoolProps {
        allocType: MANAGED,
        handleTypes: CU_MEM_HANDLE_TYPE_NONE,
        location,
        win32SecurityAttributes: std::ptr::null_mut(),
        maxSize: 0,
        usage: 0,
        gpuDirectRDMACapable: 0,
        reserved: [0; 53],
    }
}

fn create(properties: &CUmemPoolProps) -> (CUresult, CUmemoryPool) {
    let mut pool = std::ptr::null_mut();
    (cu!(cuMemPoolCreate(&mut pool, properties)), pool)
}

fn alloc_from(pool: CUmemoryPool, stream: CUstream, bytes: usize) -> CUdeviceptr {
    let mut address = 0;
    ok!(cuMemAllocFromPoolAsync(&mut address, bytes, pool, stream));
    address
}

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    free
}

#[test]
fn a_managed_pool_has_memory_that_the_host_reaches_and_a_device_counts() {
    let _measuring = measuring();
    context();
    let stream = free_stream();
    for location in [DEVICE, ANYWHERE] {
        let before = free_bytes();
        let (status, pool) = create(&properties(location));
        assert_eq!(status, 0);
        let address = alloc_from(pool, stream, 8 * MIB);
        assert_eq!(before - free_bytes(), 8 * MIB);
        let mut is_managed = 0u8;
        ok!(cuPointerGetAttribute(
            (&raw mut is_managed).cast(),
            CU_POINTER_ATTRIBUTE_IS_MANAGED,
            address
        ));
        assert_eq!(is_managed, 1);
        // SAFETY: managed memory of that many bytes, which nothing else touches now.
        unsafe { (address as *mut u8).add(8 * MIB - 1).write(7) };
        assert_eq!(read(address + 8 * MIB as u64 - 1, 1), [7]);
        let mut preferred = 9i32;
        ok!(cuMemRangeGetAttribute(
            (&raw mut preferred).cast(),
            4,
            CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION,
            address,
            8 * MIB
        ));
        let wanted = if location.type_ == CU_MEM_LOCATION_TYPE_DEVICE {
            0
        } else {
            CU_DEVICE_INVALID
        };
        assert_eq!(preferred, wanted);
        ok!(cuMemFreeAsync(address, stream));
        ok!(cuStreamSynchronize(stream));
        ok!(cuMemPoolDestroy(pool));
        assert_eq!(free_bytes(), before);
    }
}

#[test]
fn a_managed_pool_is_neither_shared_nor_bounded_nor_captured() {
    let _measuring = measuring();
    context();
    let mut wrong = properties(DEVICE);
    wrong.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    assert_eq!(create(&wrong).0, CUDA_ERROR_INVALID_VALUE);
    let mut wrong = properties(DEVICE);
    wrong.maxSize = 1;
    assert_eq!(create(&wrong).0, CUDA_ERROR_INVALID_VALUE);
    let (_, pool) = create(&properties(DEVICE));
    let (stream, mut address, mut graph) = (free_stream(), 0, std::ptr::null_mut());
    ok!(cuStreamBeginCapture_v2(
        stream,
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    ));
    let captured = cu!(cuMemAllocFromPoolAsync(&mut address, 16, pool, stream));
    assert_eq!(captured, CUDA_ERROR_NOT_SUPPORTED);
    ok!(cuStreamEndCapture(stream, &mut graph));
    ok!(cuMemPoolDestroy(pool));
}

#[test]
fn each_location_has_managed_pools_of_its_own() {
    let _measuring = measuring();
    context();
    let pinned = CU_MEM_ALLOCATION_TYPE_PINNED;
    let default = |mut location: CUmemLocation, kind| {
        let mut pool = std::ptr::null_mut();
        ok!(cuMemGetDefaultMemPool(&mut pool, &mut location, kind));
        pool
    };
    let current = |mut location: CUmemLocation| {
        let mut pool = std::ptr::null_mut();
        ok!(cuMemGetMemPool(&mut pool, &mut location, MANAGED));
        pool
    };
    let of_device = default(DEVICE, MANAGED);
    assert_eq!(default(DEVICE, MANAGED), of_device);
    assert_ne!(default(DEVICE, pinned), of_device);
    assert_ne!(default(ANYWHERE, MANAGED), of_device);
    let (_, own) = create(&properties(DEVICE));
    let mut elsewhere = ANYWHERE;
    let wrong = cu!(cuMemSetMemPool(&mut elsewhere, MANAGED, own));
    assert_eq!(wrong, CUDA_ERROR_INVALID_VALUE);
    ok!(cuMemSetMemPool(&mut { DEVICE }, MANAGED, own));
    assert_eq!(current(DEVICE), own);
    ok!(cuMemPoolDestroy(own));
    assert_eq!(current(DEVICE), of_device);
    let user = CUmemAccessDesc {
        location: DEVICE,
        flags: CU_MEM_ACCESS_FLAGS_PROT_NONE,
    };
    let closed = cu!(cuMemPoolSetAccess(of_device, &user, 1));
    assert_eq!(closed, CUDA_ERROR_INVALID_VALUE, "everybody reaches it");
}
