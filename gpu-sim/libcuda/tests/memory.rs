//! Memory: what is allocated, copied, filled, and refused.

mod support;

use std::ffi::c_void;
use std::time::{Duration, Instant};

use cuda_sys_stubs::abi::*;
use support::{LONG, alloc, context, cu, event, free_stream, launch, measuring, ok, read, spin};

const NULL: CUstream = std::ptr::null_mut();

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 7 % 251) as u8).collect()
}

fn pinned(bytes: usize) -> *mut u8 {
    let mut host = std::ptr::null_mut();
    ok!(cuMemHostAlloc(&mut host, bytes, 0));
    host.cast()
}

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    assert!(free <= total);
    free
}

#[test]
fn bytes_come_back_as_they_went() {
    context();
    let (first, second, bytes) = (alloc(100_000), alloc(100_000), pattern(100_000));
    ok!(cuMemcpyHtoD_v2(first, bytes.as_ptr().cast(), bytes.len()));
    ok!(cuMemcpyDtoD_v2(second, first, bytes.len()));
    assert_eq!(read(second, bytes.len()), bytes);
    let mut part = vec![0u8; 10];
    ok!(cuMemcpy(
        part.as_mut_ptr().expose_provenance() as u64,
        second + 5000,
        10
    ));
    assert_eq!(part, bytes[5000..5010]);
}

#[test]
fn a_pitched_copy_moves_its_rectangle_and_nothing_else() {
    context();
    let (mut image, mut pitch) = (0, 0);
    ok!(cuMemAllocPitch_v2(&mut image, &mut pitch, 100, 8, 4));
    assert_eq!(pitch % 512, 0);
    ok!(cuMemsetD8_v2(image, 0xee, pitch * 8));
    let source = pattern(10 * 3);
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut copy: CUDA_MEMCPY2D = unsafe { std::mem::zeroed() };
    (copy.srcMemoryType, copy.srcHost, copy.srcPitch) =
        (CU_MEMORYTYPE_HOST, source.as_ptr().cast(), 10);
    (copy.dstMemoryType, copy.dstDevice, copy.dstPitch) = (CU_MEMORYTYPE_DEVICE, image, pitch);
    (copy.dstXInBytes, copy.dstY, copy.WidthInBytes, copy.Height) = (4, 2, 10, 3);
    ok!(cuMemcpy2D_v2(&copy));
    let all = read(image, pitch * 8);
    for (index, byte) in all.iter().enumerate() {
        let (x, y) = (index % pitch, index / pitch);
        let inside = (4..14).contains(&x) && (2..5).contains(&y);
        let wanted = if inside {
            source[(y - 2) * 10 + x - 4]
        } else {
            0xee
        };
        assert_eq!(*byte, wanted, "{x} {y}");
    }
    copy.WidthInBytes = pitch + 1;
    assert_eq!(cu!(cuMemcpy2DUnaligned_v2(&copy)), CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn a_copy_of_slices_follows_the_height_of_each_side() {
    context();
    let (device, source) = (alloc(4096), pattern(4 * 3 * 2));
    ok!(cuMemsetD8_v2(device, 0, 4096));
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut copy: CUDA_MEMCPY3D = unsafe { std::mem::zeroed() };
    (
        copy.srcMemoryType,
        copy.srcHost,
        copy.srcPitch,
        copy.srcHeight,
    ) = (CU_MEMORYTYPE_HOST, source.as_ptr().cast(), 4, 3);
    (
        copy.dstMemoryType,
        copy.dstDevice,
        copy.dstPitch,
        copy.dstHeight,
    ) = (CU_MEMORYTYPE_DEVICE, device, 16, 10);
    (copy.WidthInBytes, copy.Height, copy.Depth) = (4, 3, 2);
    ok!(cuMemcpy3D_v2(&copy));
    let all = read(device, 16 * 10 * 2);
    for (z, y) in [(0, 0), (0, 2), (1, 0), (1, 2)] {
        let (to, from) = (z * 160 + y * 16, z * 12 + y * 4);
        assert_eq!(
            all[to..to + 5],
            [&source[from..from + 4], &[0]].concat(),
            "{z} {y}"
        );
    }
}

#[test]
fn fills_write_whole_elements() {
    context();
    let device = alloc(64);
    ok!(cuMemsetD8_v2(device, 0, 64));
    ok!(cuMemsetD16_v2(device, 0x1234, 3));
    ok!(cuMemsetD32Async(device + 8, 0xaabb_ccdd, 1, NULL));
    ok!(cuMemsetD2D8_v2(device + 16, 16, 5, 2, 2));
    let all = read(device, 48);
    assert_eq!(all[..8], [0x34, 0x12, 0x34, 0x12, 0x34, 0x12, 0, 0]);
    assert_eq!(all[8..12], [0xdd, 0xcc, 0xbb, 0xaa]);
    assert_eq!(
        (&all[16..19], &all[32..35]),
        (&[5, 5, 0][..], &[5, 5, 0][..])
    );
    assert_eq!(
        cu!(cuMemsetD32_v2(device + 1, 0, 1)),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(cu!(cuMemsetD8_v2(device, 0, 65)), CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn a_copy_to_page_locked_memory_happens_in_stream_order_and_not_before() {
    context();
    let (stream, device, host) = (free_stream(), alloc(16), pinned(16));
    ok!(cuMemsetD8_v2(device, 42, 16));
    ok!(cuCtxSynchronize());
    assert_eq!(launch(spin(LONG), stream), 0);
    ok!(cuMemcpyDtoHAsync_v2(host.cast(), device, 16, stream));
    assert_eq!(cu!(cuStreamQuery(stream)), CUDA_ERROR_NOT_READY);
    // SAFETY: page-locked memory of the driver, which the pending copy does not write yet.
    assert_eq!(unsafe { host.read_volatile() }, 0);
    ok!(cuStreamSynchronize(stream));
    // SAFETY: as above; the copy is done.
    assert_eq!(unsafe { host.read_volatile() }, 42);
}

#[test]
fn a_fill_of_memory_that_the_host_sees_is_done_when_the_call_returns() {
    context();
    let (host, mut managed) = (pinned(16), 0);
    ok!(cuMemAllocManaged(&mut managed, 16, CU_MEM_ATTACH_GLOBAL));
    for at in [host.expose_provenance() as u64, managed] {
        assert_eq!(launch(spin(LONG), NULL), 0);
        ok!(cuMemsetD8_v2(at, 7, 16));
        let byte: *const u8 = std::ptr::with_exposed_provenance(at as usize);
        // SAFETY: memory of the driver that the host may read.
        assert_eq!(unsafe { byte.read_volatile() }, 7);
    }
}

#[test]
fn page_locked_memory_changes_for_who_only_looks() {
    context();
    let (stream, device, host) = (free_stream(), alloc(1), pinned(1));
    ok!(cuMemsetD8_v2(device, 1, 1));
    ok!(cuCtxSynchronize());
    ok!(cuMemcpyDtoHAsync_v2(host.cast(), device, 1, stream));
    let patience = Instant::now();
    // SAFETY: page-locked memory of the driver, which lives until the test program ends.
    while unsafe { host.read_volatile() } != 1 {
        assert!(
            patience.elapsed() < Duration::from_secs(60),
            "the byte never came"
        );
        std::thread::yield_now();
    }
}

#[test]
fn pageable_memory_may_be_reused_as_soon_as_the_copy_from_it_returns() {
    context();
    let (stream, device) = (free_stream(), alloc(4));
    assert_eq!(launch(spin(LONG), stream), 0);
    let mut host = [1u8, 2, 3, 4];
    ok!(cuMemcpyHtoDAsync_v2(
        device,
        host.as_ptr().cast(),
        4,
        stream
    ));
    host.fill(9);
    ok!(cuStreamSynchronize(stream));
    assert_eq!(read(device, 4), [1, 2, 3, 4]);
}

#[test]
fn a_copy_to_pageable_memory_returns_when_it_is_done() {
    context();
    let (stream, device, mut host) = (free_stream(), alloc(4), vec![0u8; 4]);
    ok!(cuMemsetD8Async(device, 3, 4, stream));
    assert_eq!(launch(spin(LONG), stream), 0);
    ok!(cuMemcpyDtoHAsync_v2(
        host.as_mut_ptr().cast(),
        device,
        4,
        stream
    ));
    assert_eq!(host, [3; 4]);
    ok!(cuStreamQuery(stream));
}

#[test]
fn freeing_waits_for_the_work_that_may_use_the_memory() {
    context();
    let (stream, device, done) = (
        free_stream(),
        alloc(1 << 20),
        event(CU_EVENT_DISABLE_TIMING),
    );
    assert_eq!(launch(spin(LONG), stream), 0);
    ok!(cuMemsetD8Async(device, 1, 1 << 20, stream));
    ok!(cuEventRecord(done, stream));
    assert_eq!(cu!(cuEventQuery(done)), CUDA_ERROR_NOT_READY);
    ok!(cuMemFree_v2(device));
    ok!(cuEventQuery(done));
}

#[test]
fn more_than_the_device_has_is_refused_and_takes_nothing() {
    let _measuring = measuring();
    context();
    let (mut address, before) = (17, free_bytes());
    assert_eq!(
        cu!(cuMemAlloc_v2(&mut address, 1 << 40)),
        CUDA_ERROR_OUT_OF_MEMORY
    );
    assert_eq!(
        cu!(cuMemAlloc_v2(&mut address, 0)),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(address, 17);
    let big = alloc(1 << 30);
    assert!(free_bytes() + (1 << 30) <= before + (64 << 20));
    ok!(cuMemFree_v2(big));
}

#[test]
fn bytes_outside_of_a_block_are_refused_in_either_direction() {
    context();
    let (device, mut host) = (alloc(1000), vec![0u8; 2000]);
    assert_eq!(
        cu!(cuMemcpyHtoD_v2(device, host.as_ptr().cast(), 1001)),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), device + 999, 2)),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), 0x1000, 1)),
        CUDA_ERROR_INVALID_VALUE
    );
    ok!(cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), device + 999, 1));
}

#[test]
fn managed_memory_is_one_memory_for_host_and_device() {
    let _measuring = measuring();
    context();
    let (mut managed, device) = (0, alloc(8));
    // More than the contexts that other tests may end meanwhile.
    let (bytes, others_bytes) = (4 << 30, 1 << 30);
    let before = free_bytes();
    ok!(cuMemAllocManaged(&mut managed, bytes, CU_MEM_ATTACH_GLOBAL));
    assert!(free_bytes() + bytes <= before + others_bytes);
    let host: *mut u8 = std::ptr::with_exposed_provenance_mut(managed as usize);
    // SAFETY: managed memory, which nothing else uses now.
    unsafe { host.write(77) };
    ok!(cuMemcpyDtoD_v2(device, managed, 1));
    assert_eq!(read(device, 1), [77]);
    ok!(cuMemsetD8_v2(managed, 5, 3));
    ok!(cuCtxSynchronize());
    // SAFETY: as above.
    assert_eq!(unsafe { host.add(2).read() }, 5);
    ok!(cuMemFree_v2(managed));
}

#[test]
fn managed_memory_that_prefers_the_host_takes_nothing_of_the_device() {
    let _measuring = measuring();
    context();
    let (mut managed, bytes, others_bytes) = (0, 4 << 30, 1 << 30);
    ok!(cuMemAllocManaged(&mut managed, bytes, CU_MEM_ATTACH_GLOBAL));
    let before = free_bytes();
    let prefer = CU_MEM_ADVISE_SET_PREFERRED_LOCATION;
    ok!(cuMemAdvise(managed, bytes, prefer, CU_DEVICE_CPU));
    assert!(free_bytes() + others_bytes >= before + bytes);
    ok!(cuMemsetD8_v2(managed, 7, bytes.min(64)));
    assert_eq!(read(managed, 2), [7, 7]);
    ok!(cuMemFree_v2(managed));
}

/// What does not fit on the device has its place on the host.
#[test]
fn managed_memory_may_be_more_than_the_device_has() {
    let _measuring = measuring();
    context();
    let (mut managed, bytes) = (0, free_bytes() + (1 << 30));
    ok!(cuMemAllocManaged(&mut managed, bytes, CU_MEM_ATTACH_GLOBAL));
    ok!(cuMemsetD8_v2(managed, 7, 64));
    assert_eq!(read(managed, 1), [7]);
    ok!(cuMemFree_v2(managed));
}

#[test]
fn a_pointer_tells_what_it_is() {
    let context = context();
    let (device, host) = (alloc(4096), pinned(64));
    let ask = |attribute, pointer| {
        let mut word = 0u32;
        let status = cu!(cuPointerGetAttribute(
            (&raw mut word).cast(),
            attribute,
            pointer
        ));
        (status, word)
    };
    assert_eq!(
        ask(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, device + 9),
        (0, CU_MEMORYTYPE_DEVICE)
    );
    assert_eq!(
        ask(
            CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
            host.expose_provenance() as u64
        ),
        (0, CU_MEMORYTYPE_HOST)
    );
    assert_eq!(
        ask(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 0x10).0,
        CUDA_ERROR_INVALID_VALUE
    );
    let mut owner: CUcontext = std::ptr::null_mut();
    ok!(cuPointerGetAttribute(
        (&raw mut owner).cast(),
        CU_POINTER_ATTRIBUTE_CONTEXT,
        device
    ));
    assert_eq!(owner, context);
    let (mut start, mut bytes) = (0, 0);
    ok!(cuMemGetAddressRange_v2(
        &mut start,
        &mut bytes,
        device + 100
    ));
    assert_eq!((start, bytes), (device, 4096));
    let mut kind = 7u32;
    let (mut attributes, mut data) = ([CU_POINTER_ATTRIBUTE_MEMORY_TYPE], [(&raw mut kind).cast()]);
    ok!(cuPointerGetAttributes(
        1,
        attributes.as_mut_ptr(),
        data.as_mut_ptr(),
        0x10
    ));
    assert_eq!(kind, 0);
}

#[test]
fn host_memory_is_registered_once() {
    context();
    let mut host = vec![0u8; 8192];
    let (start, bytes) = (host.as_mut_ptr().cast::<c_void>(), host.len());
    ok!(cuMemHostRegister_v2(start, bytes, 0));
    assert_eq!(
        cu!(cuMemHostRegister_v2(start, 10, 0)),
        CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED
    );
    let mut device = 0;
    ok!(cuMemHostGetDevicePointer_v2(&mut device, start, 0));
    assert_eq!(device, start.expose_provenance() as u64);
    ok!(cuMemHostUnregister(start));
    assert_eq!(
        cu!(cuMemHostUnregister(start)),
        CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED
    );
}

#[test]
fn memory_freed_in_stream_order_is_gone_for_the_program_at_once() {
    context();
    let (stream, mut device, mut pool) = (free_stream(), 0, std::ptr::null_mut());
    ok!(cuMemAllocAsync(&mut device, 1 << 20, stream));
    ok!(cuMemsetD8Async(device, 1, 1 << 20, stream));
    ok!(cuMemFreeAsync(device, stream));
    assert_eq!(
        cu!(cuMemFreeAsync(device, stream)),
        CUDA_ERROR_INVALID_VALUE
    );
    ok!(cuStreamSynchronize(stream));
    ok!(cuDeviceGetDefaultMemPool(&mut pool, 0));
    let mut used = 1u64;
    ok!(cuMemPoolGetAttribute(
        pool,
        CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
        (&raw mut used).cast()
    ));
    let mut high = 0u64;
    ok!(cuMemPoolGetAttribute(
        pool,
        CU_MEMPOOL_ATTR_USED_MEM_HIGH,
        (&raw mut high).cast()
    ));
    assert!(used == 0 && high >= 1 << 20, "{used} {high}");
}

#[test]
fn a_pool_keeps_what_its_threshold_allows_until_it_is_trimmed() {
    context();
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut props: CUmemPoolProps = unsafe { std::mem::zeroed() };
    (props.allocType, props.location.type_) =
        (CU_MEM_ALLOCATION_TYPE_PINNED, CU_MEM_LOCATION_TYPE_DEVICE);
    let (mut pool, mut device, mut keep, mut reserved) = (std::ptr::null_mut(), 0, u64::MAX, 0u64);
    ok!(cuMemPoolCreate(&mut pool, &props));
    ok!(cuMemPoolSetAttribute(
        pool,
        CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
        (&raw mut keep).cast()
    ));
    ok!(cuMemAllocFromPoolAsync(&mut device, 1 << 20, pool, NULL));
    ok!(cuMemFreeAsync(device, NULL));
    ok!(cuStreamSynchronize(NULL));
    ok!(cuMemPoolGetAttribute(
        pool,
        CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT,
        (&raw mut reserved).cast()
    ));
    assert_eq!(reserved, 1 << 20);
    ok!(cuMemPoolTrimTo(pool, 0));
    ok!(cuMemPoolGetAttribute(
        pool,
        CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT,
        (&raw mut reserved).cast()
    ));
    assert_eq!(reserved, 0);
    ok!(cuMemPoolDestroy(pool));
    assert_eq!(cu!(cuMemPoolTrimTo(pool, 0)), CUDA_ERROR_INVALID_VALUE);
}
