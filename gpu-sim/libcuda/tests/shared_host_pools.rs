//! Pools of a node of the host whose memory other processes use too.

mod support;

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use cuda_sys_stubs::abi::*;
use support::other::{Line, Other, here};
use support::{context, cu, free_stream, ok, pool_props, read};

const MIB: usize = 1 << 20;
const FD: CUmemAllocationHandleType = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
const READWRITE: CUmemAccess_flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
const NODE: CUmemLocation = CUmemLocation {
    type_: CU_MEM_LOCATION_TYPE_HOST_NUMA,
    id: 0,
};

fn create() -> CUmemoryPool {
    let mut pool = std::ptr::null_mut();
    let props = pool_props(CU_MEM_ALLOCATION_TYPE_PINNED, NODE, FD);
    ok!(cuMemPoolCreate(&mut pool, &props));
    pool
}

/// The pool as a descriptor.
fn export(pool: CUmemoryPool) -> File {
    let mut number: RawFd = -1;
    let to = (&raw mut number).cast();
    ok!(cuMemPoolExportToShareableHandle(to, pool, FD, 0));
    // SAFETY: the driver made it for us.
    unsafe { OwnedFd::from_raw_fd(number) }.into()
}

fn import(descriptor: &OwnedFd) -> CUmemoryPool {
    let mut pool = std::ptr::null_mut();
    let number = std::ptr::without_provenance_mut(descriptor.as_raw_fd() as usize);
    ok!(cuMemPoolImportFromShareableHandle(&mut pool, number, FD, 0));
    pool
}

/// Memory of a pool of which every byte is `value`.
fn alloc_from(pool: CUmemoryPool, bytes: usize, value: u8) -> CUdeviceptr {
    let (mut memory, stream) = (0, free_stream());
    ok!(cuMemAllocFromPoolAsync(&mut memory, bytes, pool, stream));
    ok!(cuMemsetD8Async(memory, value, bytes, stream));
    ok!(cuStreamSynchronize(stream));
    memory
}

fn name_of(memory: CUdeviceptr) -> CUmemPoolPtrExportData {
    let mut data = CUmemPoolPtrExportData { reserved: [0; 64] };
    ok!(cuMemPoolExportPointer(&mut data, memory));
    data
}

fn open(pool: CUmemoryPool, mut data: CUmemPoolPtrExportData) -> Result<CUdeviceptr, CUresult> {
    let mut memory = 0;
    match cu!(cuMemPoolImportPointer(&mut memory, pool, &mut data)) {
        CUDA_SUCCESS => Ok(memory),
        refusal => Err(refusal),
    }
}

/// The other process's part: the pool and its memory, as they come over the line.
fn received(line: &mut Line) -> (CUmemoryPool, CUmemPoolPtrExportData) {
    let pool = import(&line.take());
    let reserved = line.hear();
    (pool, CUmemPoolPtrExportData { reserved })
}

fn sent(line: &mut Line, pool: &File, memory: CUdeviceptr) {
    line.give(pool);
    line.say(name_of(memory).reserved);
}

/// Bytes that the host has for a pool, whoever keeps them.
fn backed_bytes(pool: &File) -> u64 {
    pool.metadata()
        .map_or(0, |metadata| 512 * metadata.blocks())
}

fn attribute(pool: CUmemoryPool, which: CUmemPool_attribute) -> u64 {
    let mut value = 0u64;
    let to = (&raw mut value).cast();
    ok!(cuMemPoolGetAttribute(pool, which, to));
    value
}

fn on_host(address: CUdeviceptr) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

#[test]
fn memory_of_a_shared_pool_of_a_host_node_is_the_same_in_another_process() {
    context();
    if let Some(mut line) = here() {
        let (pool, data) = received(&mut line);
        let memory = open(pool, data).expect("it is there");
        // SAFETY: the host may read and write what was imported.
        unsafe { on_host(memory + MIB as u64).write_volatile(on_host(memory).read_volatile() + 1) };
        assert_eq!(read(memory + MIB as u64 - 1, 2), [41, 42]);
        ok!(cuMemsetD8_v2(memory, 40, 1));
        assert_eq!(open(pool, data), Err(CUDA_ERROR_INVALID_VALUE), "once");
        let (mut kind, mut of) = (0u32, 0u64);
        let which = CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
        ok!(cuPointerGetAttribute((&raw mut kind).cast(), which, memory));
        let which = CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE;
        ok!(cuPointerGetAttribute((&raw mut of).cast(), which, memory));
        assert_eq!((kind, of), (CU_MEMORYTYPE_HOST, pool.addr() as u64));
        let (mut flags, mut own, mut other) = (0, NODE, 0);
        ok!(cuMemPoolGetAccess(&mut flags, pool, &mut own));
        assert_eq!(flags, READWRITE);
        let stream = free_stream();
        let taken = cu!(cuMemAllocFromPoolAsync(&mut other, 8, pool, stream));
        assert_eq!(taken, CUDA_ERROR_INVALID_VALUE, "another process's");
        ok!(cuMemFreeAsync(memory, stream));
        ok!(cuStreamSynchronize(stream));
        let again = open(pool, data).expect("the other process has it still");
        ok!(cuMemPoolDestroy(pool));
        assert_eq!(read(again, 1), [40]);
        ok!(cuMemFree_v2(again));
        assert_eq!(cu!(cuMemFree_v2(again)), CUDA_ERROR_INVALID_VALUE);
        return line.say([1]);
    }
    let pool = create();
    let memory = alloc_from(pool, 2 * MIB, 41);
    let mut types = 0u64;
    let which = CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES;
    ok!(cuPointerGetAttribute(
        (&raw mut types).cast(),
        which,
        memory
    ));
    assert_eq!(types, FD.into());
    let name = "memory_of_a_shared_pool_of_a_host_node_is_the_same_in_another_process";
    let mut other = Other::start(name);
    sent(&mut other.line, &export(pool), memory);
    assert_eq!(other.line.hear(), [1]);
    assert_eq!(read(memory, 2), [40, 41]);
    assert_eq!(read(memory + MIB as u64, 2), [42, 41]);
    ok!(cuMemFree_v2(memory));
    ok!(cuMemPoolDestroy(pool));
    other.end();
}

#[test]
fn a_shared_pool_of_the_host_keeps_what_its_threshold_says_until_a_trim() {
    context();
    let (pool, stream) = (create(), free_stream());
    let descriptor = export(pool);
    let mut keep = 2 * MIB as u64;
    let which = CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    ok!(cuMemPoolSetAttribute(pool, which, (&raw mut keep).cast()));
    let (first, second) = (alloc_from(pool, 2 * MIB, 7), alloc_from(pool, 2 * MIB, 8));
    assert_eq!(backed_bytes(&descriptor), 4 * MIB as u64);
    ok!(cuMemFreeAsync(first, stream));
    ok!(cuMemFreeAsync(second, stream));
    ok!(cuStreamSynchronize(stream));
    let reserved = attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
    assert_eq!((reserved, backed_bytes(&descriptor)), (keep, keep));
    assert_eq!(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH), 2 * keep);
    assert_eq!(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
    ok!(cuMemPoolTrimTo(pool, 0));
    assert_eq!(backed_bytes(&descriptor), 0);
    let mut fresh = 0;
    ok!(cuMemAllocFromPoolAsync(&mut fresh, 2 * MIB, pool, stream));
    assert_eq!(read(fresh, 1), [0], "what comes from the host is zeros");
    ok!(cuMemFree_v2(fresh));
    ok!(cuMemPoolDestroy(pool));
}

#[test]
fn a_pool_has_no_more_than_it_was_made_for() {
    context();
    let device = CUmemLocation {
        type_: CU_MEM_LOCATION_TYPE_DEVICE,
        id: 0,
    };
    for (location, handle_types) in [(NODE, FD), (NODE, 0), (device, 0)] {
        let mut props = pool_props(CU_MEM_ALLOCATION_TYPE_PINNED, location, handle_types);
        props.maxSize = 4 * MIB;
        let (mut pool, mut more, stream) = (std::ptr::null_mut(), 0, free_stream());
        ok!(cuMemPoolCreate(&mut pool, &props));
        let mut keep = u64::MAX;
        let which = CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        ok!(cuMemPoolSetAttribute(pool, which, (&raw mut keep).cast()));
        let first = alloc_from(pool, 2 * MIB, 1);
        let take =
            |more: &mut CUdeviceptr, bytes| cu!(cuMemAllocFromPoolAsync(more, bytes, pool, stream));
        assert_eq!(take(&mut more, 3 * MIB), CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(take(&mut more, 2 * MIB), 0);
        for memory in [first, more] {
            ok!(cuMemFreeAsync(memory, stream));
        }
        ok!(cuStreamSynchronize(stream));
        assert_eq!(take(&mut more, 4 * MIB), 0, "what it kept made room");
        let reserved = attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
        assert_eq!(reserved, 4 * MIB as u64);
        ok!(cuMemFree_v2(more));
        ok!(cuMemPoolDestroy(pool));
    }
}

#[test]
fn memory_of_a_shared_pool_of_the_host_goes_with_the_last_who_holds_it() {
    context();
    if let Some(mut line) = here() {
        let (pool, data) = received(&mut line);
        let memory = open(pool, data).expect("it is there");
        line.say([1]);
        let [_] = line.hear();
        assert_eq!(read(memory, 2), [9, 9], "its owner has freed it");
        if line.hear() == [2] {
            let stream = free_stream();
            ok!(cuMemFreeAsync(memory, stream));
            ok!(cuStreamSynchronize(stream));
            assert_eq!(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
        }
        line.say([3]);
        let [_] = line.hear();
        return;
    }
    let name = "memory_of_a_shared_pool_of_the_host_goes_with_the_last_who_holds_it";
    for is_killed in [false, true] {
        let pool = create();
        let (memory, descriptor) = (alloc_from(pool, MIB, 9), export(pool));
        let mut other = Other::start(name);
        sent(&mut other.line, &descriptor, memory);
        assert_eq!(other.line.hear(), [1]);
        ok!(cuMemFree_v2(memory));
        let reserved = attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
        assert_eq!((reserved, backed_bytes(&descriptor)), (0, MIB as u64));
        other.line.say([0]);
        other.line.say([if is_killed { 0 } else { 2 }]);
        assert_eq!(other.line.hear(), [3]);
        if is_killed {
            other.kill();
        } else {
            assert_eq!(backed_bytes(&descriptor), 0);
            other.line.say([0]);
            other.end();
        }
        // Of who was killed, the pool's owner finds it at its next allocation.
        let next = alloc_from(pool, 2 * MIB, 1);
        assert_eq!(backed_bytes(&descriptor), 2 * MIB as u64);
        ok!(cuMemFree_v2(next));
        ok!(cuMemPoolDestroy(pool));
    }
}

#[test]
fn a_name_of_other_memory_opens_nothing() {
    context();
    if let Some(mut line) = here() {
        let (pool, data) = received(&mut line);
        assert_eq!(open(pool, data), Err(CUDA_ERROR_INVALID_VALUE), "freed");
        let (_, of_another_pool) = received(&mut line);
        let refused = open(pool, of_another_pool);
        return assert_eq!(refused, Err(CUDA_ERROR_INVALID_VALUE), "another pool's");
    }
    let (pool, another) = (create(), create());
    let (_kept, memory) = (alloc_from(pool, MIB, 1), alloc_from(pool, MIB, 1));
    let descriptor = export(pool);
    let own = import(&descriptor.try_clone().expect("a copy").into());
    let refused = open(own, name_of(memory));
    assert_eq!(refused, Err(CUDA_ERROR_INVALID_VALUE), "this process's own");
    let mut number: RawFd = -1;
    let to = (&raw mut number).cast();
    let exported = cu!(cuMemPoolExportToShareableHandle(to, own, FD, 0));
    assert_eq!(exported, CUDA_ERROR_INVALID_VALUE, "another process's");
    let freed = name_of(memory);
    ok!(cuMemFree_v2(memory));
    let mut other = Other::start("a_name_of_other_memory_opens_nothing");
    other.line.give(&descriptor);
    other.line.say(freed.reserved);
    let of_another = alloc_from(another, MIB, 2);
    sent(&mut other.line, &export(another), of_another);
    other.end();
}
