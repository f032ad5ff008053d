//! Memory by handle and from pools that lies on the host.

mod support;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use cuda_sys_stubs::abi::*;
use support::other::{Other, here};
use support::{alloc, context, cu, free_stream, measuring, ok, pool_props, read};

const PAGE: usize = 2 << 20;

/// More than the contexts of all tests here.
const MUCH: usize = 1024 * PAGE;
const FD: CUmemAllocationHandleType = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
const READ: CUmemAccess_flags = CU_MEM_ACCESS_FLAGS_PROT_READ;
const READWRITE: CUmemAccess_flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;

const DEVICE: CUmemLocation = location(CU_MEM_LOCATION_TYPE_DEVICE, 0);
const HOST: CUmemLocation = location(CU_MEM_LOCATION_TYPE_HOST, 0);
const NODE: CUmemLocation = location(CU_MEM_LOCATION_TYPE_HOST_NUMA, 0);

const fn location(type_: CUmemLocationType, id: i32) -> CUmemLocation {
    CUmemLocation { type_, id }
}

fn prop(location: CUmemLocation, handle_types: CUmemAllocationHandleType) -> CUmemAllocationProp {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut prop: CUmemAllocationProp = unsafe { std::mem::zeroed() };
    (prop.type_, prop.location) = (CU_MEM_ALLOCATION_TYPE_PINNED, location);
    prop.requestedHandleTypes = handle_types;
    prop
}

fn props(location: CUmemLocation, handle_types: CUmemAllocationHandleType) -> CUmemPoolProps {
    pool_props(CU_MEM_ALLOCATION_TYPE_PINNED, location, handle_types)
}

fn create(
    location: CUmemLocation,
    handle_types: CUmemAllocationHandleType,
) -> CUmemGenericAllocationHandle {
    let mut handle = 0;
    let prop = prop(location, handle_types);
    ok!(cuMemCreate(&mut handle, MUCH, &prop, 0));
    handle
}

fn map(handle: CUmemGenericAllocationHandle) -> CUdeviceptr {
    let mut start = 0;
    ok!(cuMemAddressReserve(&mut start, MUCH, 0, 0, 0));
    ok!(cuMemMap(start, MUCH, 0, handle, 0));
    start
}

fn allow(start: CUdeviceptr, location: CUmemLocation, flags: CUmemAccess_flags) -> CUresult {
    let access = CUmemAccessDesc { location, flags };
    cu!(cuMemSetAccess(start, MUCH, &access, 1))
}

fn allowed(start: CUdeviceptr, location: CUmemLocation) -> u64 {
    let mut flags = 0;
    ok!(cuMemGetAccess(&mut flags, &location, start));
    flags
}

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    free
}

fn on_host(address: CUdeviceptr) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

fn memory_type(address: CUdeviceptr) -> u32 {
    let mut kind = 0u32;
    let which = CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
    ok!(cuPointerGetAttribute(
        (&raw mut kind).cast(),
        which,
        address
    ));
    kind
}

#[test]
fn host_memory_by_handle_is_reached_by_host_and_device_and_takes_none_of_the_devices() {
    let _measuring = measuring();
    context();
    let before = free_bytes();
    for place in [HOST, NODE] {
        let handle = create(place, 0);
        let start = map(handle);
        assert_eq!(cu!(cuMemsetD8_v2(start, 7, 4)), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(allow(start, DEVICE, READWRITE), 0);
        ok!(cuMemsetD8_v2(start, 7, 4));
        assert_eq!((allowed(start, DEVICE), allowed(start, place)), (3, 0));
        assert_eq!(allow(start, place, READWRITE), 0);
        // SAFETY: the host may read and write what is mapped here.
        unsafe {
            assert_eq!(on_host(start).read_volatile(), 7);
            on_host(start + 1).write_volatile(8);
        }
        assert_eq!(read(start, 4), [7, 8, 7, 7]);
        let on_device = alloc(4);
        ok!(cuMemcpyDtoD_v2(on_device, start, 4));
        assert_eq!(read(on_device, 2), [7, 8]);
        ok!(cuMemFree_v2(on_device));
        assert_eq!(memory_type(start), CU_MEMORYTYPE_HOST);
        assert_eq!(allow(start, HOST, READ), 0);
        assert_eq!(allowed(start, place), READ.into());
        let (mut again, mut seen) = (0, prop(DEVICE, FD));
        let address = std::ptr::without_provenance_mut(start as usize);
        ok!(cuMemRetainAllocationHandle(&mut again, address));
        ok!(cuMemGetAllocationPropertiesFromHandle(&mut seen, again));
        assert_eq!((seen.location.type_, seen.location.id), (place.type_, 0));
        assert_eq!((again, seen.requestedHandleTypes), (handle, 0));
        assert!(free_bytes() > before - MUCH);
        ok!(cuMemUnmap(start, MUCH));
        ok!(cuMemRelease(handle));
        ok!(cuMemRelease(again));
        assert_eq!(cu!(cuMemRelease(handle)), CUDA_ERROR_INVALID_VALUE);
    }
}

#[test]
fn memory_of_a_host_node_goes_to_another_process_as_a_descriptor() {
    context();
    if let Some(mut line) = here() {
        let descriptor = line.take();
        let number = std::ptr::without_provenance_mut(descriptor.as_raw_fd() as usize);
        let (mut handle, mut again, mut seen) = (0, 0, prop(DEVICE, 0));
        ok!(cuMemImportFromShareableHandle(&mut handle, number, FD));
        ok!(cuMemImportFromShareableHandle(&mut again, number, FD));
        assert_eq!(again, handle);
        ok!(cuMemGetAllocationPropertiesFromHandle(&mut seen, handle));
        assert_eq!(seen.location.type_, CU_MEM_LOCATION_TYPE_HOST_NUMA);
        let start = map(handle);
        assert_eq!(allow(start, NODE, READWRITE), 0);
        // SAFETY: the host may read and write what is mapped here.
        unsafe { on_host(start).write_volatile(on_host(start).read_volatile() + 1) };
        return line.say([1]);
    }
    let handle = create(NODE, FD);
    let mut number: RawFd = -1;
    let to = (&raw mut number).cast();
    ok!(cuMemExportToShareableHandle(to, handle, FD, 0));
    // SAFETY: the driver made it for us.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let start = map(handle);
    assert_eq!(allow(start, DEVICE, READWRITE), 0);
    ok!(cuMemsetD8_v2(start, 41, 1));
    let mut other = Other::start("memory_of_a_host_node_goes_to_another_process_as_a_descriptor");
    other.line.give(&descriptor);
    assert_eq!(other.line.hear(), [1]);
    assert_eq!(read(start, 1), [42]);
    other.end();
}

#[test]
fn a_pool_of_the_host_gives_memory_that_the_host_reaches_and_keeps_what_it_may() {
    let _measuring = measuring();
    context();
    let (before, stream) = (free_bytes(), free_stream());
    for place in [HOST, NODE] {
        let (mut pool, mut memory, mut reserved) = (std::ptr::null_mut(), 0, 0u64);
        ok!(cuMemPoolCreate(&mut pool, &props(place, 0)));
        let (mut keep, mut flags, mut own) = (u64::MAX, 0, place);
        let which = CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        ok!(cuMemPoolSetAttribute(pool, which, (&raw mut keep).cast()));
        ok!(cuMemPoolGetAccess(&mut flags, pool, &mut own));
        assert_eq!(flags, READWRITE);
        ok!(cuMemAllocFromPoolAsync(&mut memory, MUCH, pool, stream));
        ok!(cuMemsetD8Async(memory, 5, PAGE, stream));
        ok!(cuStreamSynchronize(stream));
        assert_eq!(memory_type(memory), CU_MEMORYTYPE_HOST);
        // SAFETY: the pool's memory is the host's.
        assert_eq!(unsafe { on_host(memory).read_volatile() }, 5);
        assert!(free_bytes() > before - MUCH);
        ok!(cuMemFreeAsync(memory, stream));
        ok!(cuStreamSynchronize(stream));
        let which = CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT;
        ok!(cuMemPoolGetAttribute(
            pool,
            which,
            (&raw mut reserved).cast()
        ));
        assert_eq!(reserved, MUCH as u64);
        let mut again = 0;
        ok!(cuMemAllocFromPoolAsync(
            &mut again,
            MUCH - PAGE,
            pool,
            stream
        ));
        assert_eq!(again, memory);
        ok!(cuMemFree_v2(again));
        ok!(cuMemPoolGetAttribute(
            pool,
            which,
            (&raw mut reserved).cast()
        ));
        assert_eq!(reserved, 0);
        ok!(cuMemPoolDestroy(pool));
    }
}

#[test]
fn a_location_of_the_host_has_a_current_pool_of_its_own() {
    context();
    let kind = CU_MEM_ALLOCATION_TYPE_PINNED;
    for mut place in [HOST, NODE] {
        let [mut default, mut current, mut own] = [std::ptr::null_mut(); 3];
        ok!(cuMemGetDefaultMemPool(&mut default, &mut place, kind));
        ok!(cuMemPoolCreate(&mut own, &props(place, 0)));
        ok!(cuMemSetMemPool(&mut place, kind, own));
        ok!(cuMemGetMemPool(&mut current, &mut place, kind));
        assert!(current == own && own != default);
        ok!(cuMemPoolDestroy(own));
        ok!(cuMemGetMemPool(&mut current, &mut place, kind));
        assert_eq!(current, default);
        assert_eq!(
            cu!(cuDeviceSetMemPool(0, default)),
            CUDA_ERROR_INVALID_VALUE
        );
    }
}

#[test]
fn what_the_host_cannot_have_is_refused() {
    let _measuring = measuring();
    context();
    let (mut handle, mut pool) = (0, std::ptr::null_mut());
    let current = location(CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT, 0);
    let absent = location(CU_MEM_LOCATION_TYPE_HOST_NUMA, 1);
    for (location, handle_types) in [(current, 0), (absent, 0), (HOST, FD)] {
        let by_handle = cu!(cuMemCreate(
            &mut handle,
            PAGE,
            &prop(location, handle_types),
            0
        ));
        let from_pool = cu!(cuMemPoolCreate(&mut pool, &props(location, handle_types)));
        assert_eq!(
            (by_handle, from_pool),
            (CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_INVALID_VALUE)
        );
    }
    let on_device = create(DEVICE, 0);
    let start = map(on_device);
    assert_eq!(allow(start, HOST, READWRITE), CUDA_ERROR_NOT_SUPPORTED);
    let on_host = create(HOST, 0);
    let to = (&raw mut pool).cast();
    let exported = cu!(cuMemExportToShareableHandle(to, on_host, FD, 0));
    assert_eq!(exported, CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn a_capture_that_takes_from_a_pool_of_the_host_allocates_there() {
    context();
    let (stream, mut pool, mut start) = (free_stream(), std::ptr::null_mut(), 0);
    let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
    ok!(cuMemPoolCreate(&mut pool, &props(NODE, 0)));
    ok!(cuStreamBeginCapture_v2(
        stream,
        CU_STREAM_CAPTURE_MODE_RELAXED
    ));
    ok!(cuMemAllocFromPoolAsync(&mut start, PAGE, pool, stream));
    ok!(cuMemsetD8Async(start, 7, PAGE, stream));
    ok!(cuStreamEndCapture(stream, &mut graph));
    let (mut nodes, mut count) = ([std::ptr::null_mut(); 2], 2);
    ok!(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut params: CUDA_MEM_ALLOC_NODE_PARAMS = unsafe { std::mem::zeroed() };
    ok!(cuGraphMemAllocNodeGetParams(nodes[0], &mut params));
    let location = params.poolProps.location;
    assert_eq!(
        (location.type_, location.id, params.dptr),
        (NODE.type_, 0, start)
    );
    ok!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    ok!(cuGraphLaunch(exec, stream));
    ok!(cuStreamSynchronize(stream));
    // SAFETY: the host may read and write what the launch allocated here.
    unsafe {
        assert_eq!(on_host(start + PAGE as u64 - 1).read_volatile(), 7);
        on_host(start).write_volatile(8);
    }
    assert_eq!(read(start, 2), [8, 7]);
    assert_eq!(memory_type(start), CU_MEMORYTYPE_HOST);
    let mut of_device = 9u64;
    ok!(cuDeviceGetGraphMemAttribute(
        0,
        CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH,
        (&raw mut of_device).cast()
    ));
    assert_eq!(of_device, 0);
    ok!(cuMemFree_v2(start));
    ok!(cuGraphExecDestroy(exec));
    ok!(cuGraphDestroy(graph));
    assert_eq!(cu!(cuMemFree_v2(start)), CUDA_ERROR_INVALID_VALUE);
}
