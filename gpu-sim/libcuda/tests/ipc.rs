//! Memory and events that two processes share.

mod support;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use cuda_sys_stubs::abi::*;
use support::other::{Line, Other, here};
use support::{
    LONG, alloc, context, cu, event, free_stream, launch, measuring, ok, pool_props, read, spin,
};

const PAGE: usize = 2 << 20;
const INTERPROCESS: u32 = CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING;

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    free
}

fn memory_handle(address: CUdeviceptr) -> CUipcMemHandle {
    let mut handle = CUipcMemHandle { reserved: [0; 64] };
    ok!(cuIpcGetMemHandle(&mut handle, address));
    handle
}

fn open(handle: CUipcMemHandle) -> (CUresult, CUdeviceptr) {
    let mut address = 0;
    let flags = CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS;
    let status = cu!(cuIpcOpenMemHandle_v2(&mut address, handle, flags));
    (status, address)
}

fn hear_memory_handle(line: &mut Line) -> CUipcMemHandle {
    let reserved = line.hear::<64>().map(u8::cast_signed);
    CUipcMemHandle { reserved }
}

fn say_memory_handle(line: &mut Line, address: CUdeviceptr) {
    line.say(memory_handle(address).reserved.map(i8::cast_unsigned));
}

#[test]
fn memory_of_one_process_is_read_and_written_by_another_which_owns_none_of_it() {
    if let Some(mut line) = here() {
        context();
        let handle = hear_memory_handle(&mut line);
        let before = free_bytes();
        let (status, memory) = open(handle);
        assert_eq!(status, 0);
        assert_eq!(free_bytes(), before);
        assert_eq!(read(memory + 3, 1), [7]);
        ok!(cuMemsetD8_v2(memory + 3, 8, 1));
        ok!(cuCtxSynchronize());
        assert_eq!(cu!(cuMemFree_v2(memory)), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(open(handle), (0, memory));
        ok!(cuIpcCloseMemHandle(memory));
        assert_eq!(read(memory + 3, 1), [8]);
        ok!(cuIpcCloseMemHandle(memory));
        assert_eq!(cu!(cuIpcCloseMemHandle(memory)), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(cu!(cuMemsetD8_v2(memory, 0, 1)), CUDA_ERROR_INVALID_VALUE);
        return line.say([1]);
    }
    let _alone = measuring();
    context();
    let memory = alloc(PAGE);
    ok!(cuMemsetD8_v2(memory, 7, PAGE));
    ok!(cuCtxSynchronize());
    let mut other =
        Other::start("memory_of_one_process_is_read_and_written_by_another_which_owns_none_of_it");
    say_memory_handle(&mut other.line, memory);
    assert_eq!(other.line.hear(), [1]);
    assert_eq!(read(memory + 2, 3), [7, 8, 7]);
    other.end();
}

#[test]
fn memory_that_another_process_opened_stays_when_its_owner_frees_it() {
    if let Some(mut line) = here() {
        context();
        let handle = hear_memory_handle(&mut line);
        let memory = open(handle).1;
        line.say([1]);
        line.hear::<1>();
        assert_eq!(read(memory, 1), [9]);
        return ok!(cuIpcCloseMemHandle(memory));
    }
    let _alone = measuring();
    context();
    let before = free_bytes();
    let memory = alloc(4 * PAGE);
    ok!(cuMemsetD8_v2(memory, 9, PAGE));
    let mut other =
        Other::start("memory_that_another_process_opened_stays_when_its_owner_frees_it");
    say_memory_handle(&mut other.line, memory);
    other.line.hear::<1>();
    ok!(cuMemFree_v2(memory));
    let next = alloc(4 * PAGE);
    assert_ne!(next, memory, "its place is taken");
    ok!(cuMemFree_v2(next));
    assert!(free_bytes() <= before - 4 * PAGE);
    other.line.say([1]);
    other.end();
    while free_bytes() < before {
        std::thread::yield_now();
    }
}

#[test]
fn what_is_no_memory_of_cu_mem_alloc_has_no_handle_and_ones_own_cannot_be_opened() {
    let _alone = measuring();
    context();
    let memory = alloc(1000);
    let own = memory_handle(memory + 10);
    assert_eq!(open(own).0, CUDA_ERROR_INVALID_CONTEXT);
    assert_eq!(memory_handle(memory), own, "the handle is the allocation's");
    let stream = free_stream();
    let (mut pooled, mut managed, mut host) = (0, 0, std::ptr::null_mut());
    ok!(cuMemAllocAsync(&mut pooled, 1000, stream));
    ok!(cuMemAllocManaged(&mut managed, 1000, CU_MEM_ATTACH_GLOBAL));
    ok!(cuMemAllocHost_v2(&mut host, 1000));
    let mut handle = own;
    for address in [pooled, managed, host.expose_provenance() as u64, 5] {
        let refused = cu!(cuIpcGetMemHandle(&mut handle, address));
        assert_eq!(refused, CUDA_ERROR_INVALID_VALUE);
    }
    let capable = |address| {
        let (mut capable, which) = (9u8, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE);
        ok!(cuPointerGetAttribute(
            (&raw mut capable).cast(),
            which,
            address
        ));
        capable
    };
    assert_eq!((capable(memory), capable(pooled)), (1, 0));
    handle.reserved = [0; 64];
    assert_eq!(open(handle).0, CUDA_ERROR_INVALID_VALUE);
    let mut address = 0;
    let flagless = cu!(cuIpcOpenMemHandle_v2(&mut address, own, 0));
    assert_eq!(flagless, CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn a_stream_waits_for_an_event_of_another_process_and_then_sees_its_bytes() {
    if let Some(mut line) = here() {
        context();
        let memory = open(hear_memory_handle(&mut line)).1;
        let reserved = line.hear::<64>().map(u8::cast_signed);
        let (mut event, stream) = (std::ptr::null_mut(), free_stream());
        ok!(cuIpcOpenEventHandle(
            &mut event,
            CUipcEventHandle { reserved }
        ));
        assert_eq!(cu!(cuEventQuery(event)), CUDA_ERROR_NOT_READY);
        ok!(cuStreamWaitEvent(stream, event, 0));
        let mut seen = [0u8; 1];
        ok!(cuMemcpyDtoHAsync_v2(
            seen.as_mut_ptr().cast(),
            memory,
            1,
            stream
        ));
        ok!(cuStreamSynchronize(stream));
        assert_eq!(seen, [5]);
        ok!(cuMemsetD8Async(memory, 6, 1, stream));
        ok!(cuEventRecord(event, stream));
        line.say([1]);
        line.hear::<1>();
        return;
    }
    let _alone = measuring();
    context();
    let (memory, stream, ready) = (alloc(16), free_stream(), event(INTERPROCESS));
    ok!(cuMemsetD8_v2(memory, 0, 16));
    ok!(cuCtxSynchronize());
    let mut handle = CUipcEventHandle { reserved: [0; 64] };
    ok!(cuIpcGetEventHandle(&mut handle, ready));
    let mut other =
        Other::start("a_stream_waits_for_an_event_of_another_process_and_then_sees_its_bytes");
    // Enough for the other process to start: it has to meet an event that is recorded and not reached.
    let function = spin(LONG);
    for _ in 0..4 {
        assert_eq!(launch(function, stream), 0);
    }
    ok!(cuMemsetD8Async(memory, 5, 1, stream));
    ok!(cuEventRecord(ready, stream));
    say_memory_handle(&mut other.line, memory);
    other.line.say(handle.reserved.map(i8::cast_unsigned));
    // Nothing here waits meanwhile: the bytes are moved all the same.
    other.line.hear::<1>();
    ok!(cuEventSynchronize(ready));
    assert_eq!(read(memory, 2), [6, 0]);
    other.line.say([1]);
    other.end();
}

/// A node of a graph behind another one, if there is one.
fn event_node(
    graph: CUgraph,
    before: Option<CUgraphNode>,
    event: CUevent,
    records: bool,
) -> CUgraphNode {
    let mut node = std::ptr::null_mut();
    let behind = before.as_slice();
    let (first, count) = (behind.as_ptr(), behind.len());
    if records {
        ok!(cuGraphAddEventRecordNode(
            &mut node, graph, first, count, event
        ));
    } else {
        ok!(cuGraphAddEventWaitNode(
            &mut node, graph, first, count, event
        ));
    }
    node
}

fn fill_node(graph: CUgraph, memory: CUdeviceptr) -> CUgraphNode {
    let fill = CUDA_MEMSET_NODE_PARAMS {
        dst: memory,
        pitch: 0,
        value: 7,
        elementSize: 1,
        width: PAGE,
        height: 1,
    };
    let (mut node, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
    ok!(cuCtxGetCurrent(&mut context));
    let none = std::ptr::null();
    ok!(cuGraphAddMemsetNode(
        &mut node, graph, none, 0, &fill, context
    ));
    node
}

fn graph() -> CUgraph {
    let mut graph = std::ptr::null_mut();
    ok!(cuGraphCreate(&mut graph, 0));
    graph
}

fn instantiated(graph: CUgraph) -> CUgraphExec {
    let mut exec = std::ptr::null_mut();
    ok!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    exec
}

fn hear_event(line: &mut Line) -> CUevent {
    let reserved = line.hear::<64>().map(u8::cast_signed);
    let mut event = std::ptr::null_mut();
    ok!(cuIpcOpenEventHandle(
        &mut event,
        CUipcEventHandle { reserved }
    ));
    event
}

fn say_event(line: &mut Line, event: CUevent) {
    let mut handle = CUipcEventHandle { reserved: [0; 64] };
    ok!(cuIpcGetEventHandle(&mut handle, event));
    line.say(handle.reserved.map(i8::cast_unsigned));
}

/// A graph that fills memory, and then records an event.
fn filling(memory: CUdeviceptr, event: CUevent) -> (CUgraph, CUgraphNode) {
    let graph = graph();
    let node = fill_node(graph, memory);
    let node = event_node(graph, Some(node), event, true);
    (graph, node)
}

fn with_event(memory: CUdeviceptr, filled: CUevent) -> CUgraphExec {
    instantiated(filling(memory, filled).0)
}

/// The same, made with an event of this process's own.
fn given_event(memory: CUdeviceptr, filled: CUevent) -> CUgraphExec {
    let (graph, node) = filling(memory, event(0));
    let exec = instantiated(graph);
    ok!(cuGraphExecEventRecordNodeSetEvent(exec, node, filled));
    exec
}

/// The same, by an update as a whole.
fn updated_to_event(memory: CUdeviceptr, filled: CUevent) -> CUgraphExec {
    let exec = instantiated(filling(memory, event(0)).0);
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut result: CUgraphExecUpdateResultInfo = unsafe { std::mem::zeroed() };
    let (graph, _) = filling(memory, filled);
    ok!(cuGraphExecUpdate_v2(exec, graph, &mut result));
    exec
}

#[test]
fn nodes_of_graphs_record_and_wait_for_events_of_several_processes() {
    const NAME: &str = "nodes_of_graphs_record_and_wait_for_events_of_several_processes";
    if let Some(mut line) = here() {
        context();
        let (filled, seen) = (hear_event(&mut line), hear_event(&mut line));
        let memory = open(hear_memory_handle(&mut line)).1;
        for _ in 0..3 {
            line.hear::<1>();
            let (graph, stream) = (graph(), free_stream());
            let waited = event_node(graph, None, filled, false);
            event_node(graph, Some(waited), seen, true);
            ok!(cuGraphLaunch(instantiated(graph), stream));
            ok!(cuStreamSynchronize(stream));
            assert!(read(memory, PAGE).iter().all(|byte| *byte == 7));
            line.say([1]);
        }
        return;
    }
    let _alone = measuring();
    context();
    let (filled, seen) = (event(INTERPROCESS), event(INTERPROCESS));
    let (memory, function) = (alloc(PAGE), spin(LONG));
    let mut other = Other::start(NAME);
    say_event(&mut other.line, filled);
    say_event(&mut other.line, seen);
    say_memory_handle(&mut other.line, memory);
    for exec in [with_event, given_event, updated_to_event].map(|way| way(memory, filled)) {
        let stream = free_stream();
        ok!(cuMemsetD8_v2(memory, 0, PAGE));
        ok!(cuCtxSynchronize());
        assert_eq!(launch(function, stream), 0);
        ok!(cuGraphLaunch(exec, stream));
        other.line.say([1]);
        other.line.hear::<1>();
        ok!(cuEventSynchronize(seen));
    }
    other.end();
}

#[test]
fn only_an_event_made_for_other_processes_has_a_handle() {
    let _alone = measuring();
    context();
    let mut handle = CUipcEventHandle { reserved: [0; 64] };
    let refused = cu!(cuIpcGetEventHandle(&mut handle, event(0)));
    assert_eq!(refused, CUDA_ERROR_INVALID_HANDLE);
    let mut opened = std::ptr::null_mut();
    let unknown = cu!(cuIpcOpenEventHandle(&mut opened, handle));
    assert_eq!(unknown, CUDA_ERROR_INVALID_VALUE);
    let own = event(INTERPROCESS);
    assert_eq!(cu!(cuEventQuery(own)), 0, "it was never recorded");
    ok!(cuIpcGetEventHandle(&mut handle, own));
    ok!(cuIpcOpenEventHandle(&mut opened, handle));
    ok!(cuEventRecord(own, free_stream()));
    ok!(cuEventSynchronize(opened));
    ok!(cuEventDestroy_v2(own));
    ok!(cuEventQuery(opened));
    let mut timed = std::ptr::null_mut();
    let flags = CU_EVENT_INTERPROCESS;
    let refused = cu!(cuEventCreate(&mut timed, flags));
    assert_eq!(refused, CUDA_ERROR_INVALID_VALUE);
}

fn prop(handle_types: CUmemAllocationHandleType) -> CUmemAllocationProp {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut prop: CUmemAllocationProp = unsafe { std::mem::zeroed() };
    (prop.type_, prop.location.type_) =
        (CU_MEM_ALLOCATION_TYPE_PINNED, CU_MEM_LOCATION_TYPE_DEVICE);
    prop.requestedHandleTypes = handle_types;
    prop
}

const FD: CUmemAllocationHandleType = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

fn create(handle_types: CUmemAllocationHandleType) -> CUmemGenericAllocationHandle {
    let mut handle = 0;
    ok!(cuMemCreate(&mut handle, PAGE, &prop(handle_types), 0));
    handle
}

fn export(handle: CUmemGenericAllocationHandle) -> OwnedFd {
    let mut number: RawFd = -1;
    ok!(cuMemExportToShareableHandle(
        (&raw mut number).cast(),
        handle,
        FD,
        0
    ));
    // SAFETY: the driver made it for us.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn import(descriptor: &OwnedFd) -> (CUresult, CUmemGenericAllocationHandle) {
    let mut handle = 0;
    let number = std::ptr::without_provenance_mut(descriptor.as_raw_fd() as usize);
    let status = cu!(cuMemImportFromShareableHandle(&mut handle, number, FD));
    (status, handle)
}

fn map(handle: CUmemGenericAllocationHandle) -> CUdeviceptr {
    let mut start = 0;
    ok!(cuMemAddressReserve(&mut start, PAGE, 0, 0, 0));
    ok!(cuMemMap(start, PAGE, 0, handle, 0));
    let location = CUmemLocation {
        type_: CU_MEM_LOCATION_TYPE_DEVICE,
        id: 0,
    };
    let access = CUmemAccessDesc {
        location,
        flags: CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    ok!(cuMemSetAccess(start, PAGE, &access, 1));
    start
}

#[test]
fn mapped_memory_goes_to_another_process_as_a_descriptor_and_outlives_the_one_that_made_it() {
    if let Some(line) = here() {
        context();
        let handle = create(FD);
        let start = map(handle);
        ok!(cuMemsetD8_v2(start, 77, PAGE));
        ok!(cuCtxSynchronize());
        line.give(export(handle));
        loop {
            std::thread::park(); // until killed
        }
    }
    let _alone = measuring();
    context();
    let before = free_bytes();
    let mut other = Other::start(
        "mapped_memory_goes_to_another_process_as_a_descriptor_and_outlives_the_one_that_made_it",
    );
    let descriptor = other.line.take();
    other.kill();
    while free_bytes() < before - PAGE {
        std::thread::yield_now(); // its context goes with it
    }
    let (status, handle) = import(&descriptor);
    assert_eq!(status, 0);
    drop(descriptor);
    let start = map(handle);
    assert_eq!(read(start + 5, 2), [77, 77]);
    ok!(cuMemUnmap(start, PAGE));
    ok!(cuMemRelease(handle));
    while free_bytes() < before {
        std::thread::yield_now();
    }
}

#[test]
fn memory_is_exported_only_as_it_was_made_for_and_imported_only_from_a_descriptor_of_the_driver() {
    let _alone = measuring();
    context();
    let (private, shared, mut number) = (create(CU_MEM_HANDLE_TYPE_NONE), create(FD), -1);
    let to = || (&raw mut number).cast();
    let mut to = to;
    assert_eq!(
        cu!(cuMemExportToShareableHandle(to(), private, FD, 0)),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemExportToShareableHandle(to(), shared, FD, 1)),
        CUDA_ERROR_INVALID_VALUE
    );
    let fabric = prop(CU_MEM_HANDLE_TYPE_FABRIC);
    let mut handle = 0;
    assert_eq!(
        cu!(cuMemCreate(&mut handle, PAGE, &fabric, 0)),
        CUDA_ERROR_NOT_SUPPORTED
    );
    let null: OwnedFd = std::fs::File::open("/dev/null").expect("there").into();
    assert_eq!(import(&null).0, CUDA_ERROR_INVALID_VALUE);
    let descriptor = export(shared);
    assert_eq!(import(&descriptor), (0, shared), "it is known here");
    ok!(cuMemRelease(shared));
    let mut known = prop(0);
    ok!(cuMemGetAllocationPropertiesFromHandle(&mut known, shared));
    assert_eq!(known.requestedHandleTypes, FD);
    ok!(cuMemRelease(shared));
    assert_eq!(cu!(cuMemRelease(shared)), CUDA_ERROR_INVALID_VALUE);
    let (status, again) = import(&descriptor);
    assert_eq!(status, 0, "the descriptor kept it");
    ok!(cuMemRelease(again));
    ok!(cuMemRelease(private));
}

#[test]
fn a_pool_and_its_memory_go_to_another_process() {
    if let Some(mut line) = here() {
        context();
        let (descriptor, mut pool, mut memory) = (line.take(), std::ptr::null_mut(), 0);
        let number = std::ptr::without_provenance_mut(descriptor.as_raw_fd() as usize);
        ok!(cuMemPoolImportFromShareableHandle(&mut pool, number, FD, 0));
        let mut data = CUmemPoolPtrExportData {
            reserved: line.hear(),
        };
        let refused = cu!(cuMemAllocFromPoolAsync(
            &mut memory,
            8,
            pool,
            std::ptr::null_mut()
        ));
        assert_eq!(refused, CUDA_ERROR_INVALID_VALUE);
        ok!(cuMemPoolImportPointer(&mut memory, pool, &mut data));
        assert_eq!(read(memory, 1), [3]);
        ok!(cuMemFreeAsync(memory, std::ptr::null_mut()));
        ok!(cuCtxSynchronize());
        assert_eq!(cu!(cuMemFree_v2(memory)), CUDA_ERROR_INVALID_VALUE);
        return;
    }
    let _alone = measuring();
    context();
    let (mut pool, mut memory) = (std::ptr::null_mut(), 0);
    let location = CUmemLocation {
        type_: CU_MEM_LOCATION_TYPE_DEVICE,
        id: 0,
    };
    let props = pool_props(CU_MEM_ALLOCATION_TYPE_PINNED, location, FD);
    ok!(cuMemPoolCreate(&mut pool, &props));
    let stream = free_stream();
    ok!(cuMemAllocFromPoolAsync(&mut memory, 100, pool, stream));
    ok!(cuMemsetD8Async(memory, 3, 100, stream));
    ok!(cuStreamSynchronize(stream));
    let mut number: RawFd = -1;
    let to = (&raw mut number).cast();
    ok!(cuMemPoolExportToShareableHandle(to, pool, FD, 0));
    // SAFETY: the driver made it for us.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let mut data = CUmemPoolPtrExportData { reserved: [0; 64] };
    ok!(cuMemPoolExportPointer(&mut data, memory));
    assert_eq!(
        cu!(cuMemPoolExportPointer(&mut data, alloc(8))),
        CUDA_ERROR_INVALID_VALUE
    );
    let mut other = Other::start("a_pool_and_its_memory_go_to_another_process");
    other.line.give(descriptor);
    other.line.say(data.reserved);
    other.end();
    assert_eq!(read(memory, 1), [3]);
    ok!(cuMemFreeAsync(memory, stream));
    ok!(cuStreamSynchronize(stream));
}
