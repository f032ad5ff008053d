//! Pools of managed memory.

mod support;

use cuda_sys_stubs::abi::*;
use support::{context, cu, free_stream, measuring, ok, pool_props, read};

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
    pool_props(MANAGED, location, CU_MEM_HANDLE_TYPE_NONE)
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
fn a_managed_pool_is_neither_shared_nor_bounded() {
    let _measuring = measuring();
    context();
    let mut wrong = properties(DEVICE);
    wrong.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    assert_eq!(create(&wrong).0, CUDA_ERROR_INVALID_VALUE);
    let mut wrong = properties(DEVICE);
    wrong.maxSize = 1;
    assert_eq!(create(&wrong).0, CUDA_ERROR_INVALID_VALUE);
}

/// A graph that allocates from the pool by a captured call and fills what it got with sevens; and where that is.
fn captured(pool: CUmemoryPool, stream: CUstream, bytes: usize) -> (CUgraph, CUdeviceptr) {
    let mut graph = std::ptr::null_mut();
    let mode = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    ok!(cuStreamBeginCapture_v2(stream, mode));
    let address = alloc_from(pool, stream, bytes);
    ok!(cuMemsetD8Async(address, 7, bytes, stream));
    ok!(cuStreamEndCapture(stream, &mut graph));
    (graph, address)
}

/// What the graph's first node allocates.
fn allocated(graph: CUgraph) -> CUmemPoolProps {
    let (mut nodes, mut count) = ([std::ptr::null_mut(); 2], 2);
    ok!(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut params: CUDA_MEM_ALLOC_NODE_PARAMS = unsafe { std::mem::zeroed() };
    ok!(cuGraphMemAllocNodeGetParams(nodes[0], &mut params));
    params.poolProps
}

#[test]
fn a_capture_that_takes_from_a_managed_pool_allocates_managed_memory_at_its_launch() {
    let _measuring = measuring();
    context();
    let stream = free_stream();
    for location in [DEVICE, ANYWHERE] {
        let before = free_bytes();
        let (_, pool) = create(&properties(location));
        let (graph, address) = captured(pool, stream, 8 * MIB);
        let props = allocated(graph);
        assert_eq!(
            (props.allocType, props.location.type_),
            (MANAGED, location.type_)
        );
        let mut exec = std::ptr::null_mut();
        ok!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
        assert_eq!(free_bytes(), before, "nothing is launched");
        ok!(cuGraphLaunch(exec, stream));
        ok!(cuStreamSynchronize(stream));
        assert_eq!(before - free_bytes(), 8 * MIB);
        let (mut is_managed, mut reserved) = (0u8, 0u64);
        let which = CU_POINTER_ATTRIBUTE_IS_MANAGED;
        ok!(cuPointerGetAttribute(
            (&raw mut is_managed).cast(),
            which,
            address
        ));
        let which = CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT;
        ok!(cuDeviceGetGraphMemAttribute(
            0,
            which,
            (&raw mut reserved).cast()
        ));
        assert_eq!((is_managed, reserved), (1, 8 * MIB as u64));
        let last = address + 8 * MIB as u64 - 1;
        // SAFETY: managed memory, which the host reaches once it is there, and nothing else touches now.
        unsafe {
            assert_eq!((last as *const u8).read_volatile(), 7);
            (last as *mut u8).write_volatile(8);
        }
        assert_eq!(read(last, 1), [8]);
        ok!(cuMemPrefetchAsync(address, 8 * MIB, 0, stream));
        ok!(cuMemFreeAsync(address, stream));
        ok!(cuStreamSynchronize(stream));
        ok!(cuGraphExecDestroy(exec));
        ok!(cuGraphDestroy(graph));
        ok!(cuDeviceGraphMemTrim(0));
        assert_eq!(free_bytes(), before);
        ok!(cuMemPoolDestroy(pool));
    }
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

#[test]
fn where_memory_is_is_told_by_summaries_of_what_may_move() {
    let _measuring = measuring();
    context();
    let nowhere = CUmemLocation {
        type_: CU_MEM_LOCATION_TYPE_INVALID,
        id: 9,
    };
    let told = |start: CUdeviceptr, bytes: usize, summary: usize, sampling: usize| {
        let mut told = [nowhere; 4];
        let to = told.as_mut_ptr();
        let status = cu!(cuMemGetLocationInfo(start, bytes, summary, sampling, to));
        (status, told.map(|location| (location.type_, location.id)))
    };
    let (mut managed, mut device) = (0, 0);
    ok!(cuMemAllocManaged(
        &mut managed,
        4 * MIB,
        CU_MEM_ATTACH_GLOBAL
    ));
    ok!(cuMemAlloc_v2(&mut device, MIB));
    let (own, untouched) = ((CU_MEM_LOCATION_TYPE_DEVICE, 0), (nowhere.type_, 9));
    let thirds = told(managed, 4 * MIB, 3 * MIB / 2, 0);
    assert_eq!(thirds, (0, [own, own, own, untouched]));
    let pageable = [0u8; 64];
    let start = pageable.as_ptr().expose_provenance() as CUdeviceptr;
    let of_host = (CU_MEM_LOCATION_TYPE_HOST, 0);
    let found = told(start, 64, 64, 16);
    assert_eq!(found, (0, [of_host, untouched, untouched, untouched]));
    for (start, bytes, summary, sampling) in [
        (device, MIB, MIB, 0),
        (managed, 4 * MIB, 0, 0),
        (managed, MIB, 2 * MIB, 0),
        (managed, MIB, MIB, 2 * MIB),
        (managed, 8 * MIB, MIB, 0),
    ] {
        let refused = told(start, bytes, summary, sampling);
        assert_eq!(refused, (CUDA_ERROR_INVALID_VALUE, [untouched; 4]));
    }
    ok!(cuMemFree_v2(managed));
    ok!(cuMemFree_v2(device));
}
