//! Arrays whose memory the program maps: tile by tile, or at once.

mod support;

use cuda_sys_stubs::abi::*;
use support::{LONG, alloc, context, cu, free_stream, launch, measuring, ok, spin};

const TILE: usize = 64 << 10;
const PAGE: usize = 2 << 20;

/// More than the contexts of all tests here, twice.
const MUCH: usize = 1024 * PAGE;

/// An array of words: so many in a row, rows, slices or layers.
fn described(extent: [usize; 3], flags: u32) -> CUDA_ARRAY3D_DESCRIPTOR {
    let [width, height, depth] = extent;
    CUDA_ARRAY3D_DESCRIPTOR {
        Width: width,
        Height: height,
        Depth: depth,
        Format: CU_AD_FORMAT_UNSIGNED_INT32,
        NumChannels: 1,
        Flags: flags,
    }
}

fn create(extent: [usize; 3], flags: u32) -> CUarray {
    let mut array = std::ptr::null_mut();
    ok!(cuArray3DCreate_v2(&mut array, &described(extent, flags)));
    array
}

fn create_mipmap(extent: [usize; 3], flags: u32, levels: u32) -> CUmipmappedArray {
    let (mut mipmap, description) = (std::ptr::null_mut(), described(extent, flags));
    ok!(cuMipmappedArrayCreate(&mut mipmap, &description, levels));
    mipmap
}

fn level(mipmap: CUmipmappedArray, level: u32) -> CUarray {
    let mut array = std::ptr::null_mut();
    ok!(cuMipmappedArrayGetLevel(&mut array, mipmap, level));
    array
}

/// Physical memory for tiles, or for nothing in particular.
fn memory(bytes: usize, usage: u32) -> CUmemGenericAllocationHandle {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut prop: CUmemAllocationProp = unsafe { std::mem::zeroed() };
    prop.type_ = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location.type_ = CU_MEM_LOCATION_TYPE_DEVICE;
    prop.allocFlags.usage = usage.try_into().unwrap_or(0);
    let mut handle = 0;
    ok!(cuMemCreate(&mut handle, bytes, &prop, 0));
    handle
}

fn tile_pool(bytes: usize) -> CUmemGenericAllocationHandle {
    memory(bytes, CU_MEM_CREATE_USAGE_TILE_POOL)
}

/// An operation on the only level of an array: memory from an offset on, or none.
fn operation(
    array: CUarray,
    part: [u32; 8],
    memory: Option<(CUmemGenericAllocationHandle, usize)>,
) -> CUarrayMapInfo {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut info: CUarrayMapInfo = unsafe { std::mem::zeroed() };
    info.resourceType = CU_RESOURCE_TYPE_ARRAY;
    info.resource.array = array;
    info.subresource.sparseLevel = part;
    info.memOperationType = CU_MEM_OPERATION_TYPE_UNMAP;
    if let Some((handle, offset)) = memory {
        (info.memOperationType, info.memHandle) = (CU_MEM_OPERATION_TYPE_MAP, handle);
        info.offset = offset as u64;
    }
    info.deviceBitMask = 1;
    info
}

fn of_mipmap(mipmap: CUmipmappedArray, mut info: CUarrayMapInfo) -> CUarrayMapInfo {
    info.resourceType = CU_RESOURCE_TYPE_MIPMAPPED_ARRAY;
    info.resource.mipmap = mipmap;
    info
}

fn of_tail(layer: u32, bytes: usize, mut info: CUarrayMapInfo) -> CUarrayMapInfo {
    info.subresourceType = CU_ARRAY_SPARSE_SUBRESOURCE_TYPE_MIPTAIL;
    info.subresource.miptail = anonymous_miptail {
        layer,
        offset: 0,
        size: bytes as u64,
    };
    info
}

/// A box of words: level, layer, offsets, extents.
fn words(level: u32, layer: u32, [x, y]: [u32; 2], [width, height]: [u32; 2]) -> [u32; 8] {
    [level, layer, x, y, 0, width, height, 1]
}

fn map(mut info: CUarrayMapInfo, stream: CUstream) -> CUresult {
    cu!(cuMemMapArrayAsync(&mut info, 1, stream))
}

/// The whole of a slice of an array as host memory, row after row.
fn slice_copy(array: CUarray, extent: [usize; 2], z: usize) -> CUDA_MEMCPY3D {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut copy: CUDA_MEMCPY3D = unsafe { std::mem::zeroed() };
    (copy.srcMemoryType, copy.dstMemoryType) = (CU_MEMORYTYPE_ARRAY, CU_MEMORYTYPE_ARRAY);
    (copy.srcArray, copy.dstArray) = (array, array);
    (copy.srcZ, copy.dstZ) = (z, z);
    (copy.WidthInBytes, copy.Height, copy.Depth) = (4 * extent[0], extent[1], 1);
    copy
}

fn write(array: CUarray, extent: [usize; 2], z: usize, value: u32) {
    let from = vec![value; extent[0] * extent[1]];
    let mut copy = slice_copy(array, extent, z);
    (copy.srcMemoryType, copy.srcZ) = (CU_MEMORYTYPE_HOST, 0);
    copy.srcHost = from.as_ptr().cast();
    ok!(cuMemcpy3D_v2(&copy));
}

fn read(array: CUarray, extent: [usize; 2], z: usize) -> Vec<u32> {
    let mut to = vec![u32::MAX; extent[0] * extent[1]];
    let mut copy = slice_copy(array, extent, z);
    (copy.dstMemoryType, copy.dstZ) = (CU_MEMORYTYPE_HOST, 0);
    copy.dstHost = to.as_mut_ptr().cast();
    ok!(cuMemcpy3D_v2(&copy));
    to
}

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    free
}

fn sparse_properties(array: CUarray) -> Result<CUDA_ARRAY_SPARSE_PROPERTIES, CUresult> {
    // SAFETY: a record of plain numbers; zero is a value of each.
    let mut found: CUDA_ARRAY_SPARSE_PROPERTIES = unsafe { std::mem::zeroed() };
    match cu!(cuArrayGetSparseProperties(&mut found, array)) {
        CUDA_SUCCESS => Ok(found),
        refusal => Err(refusal),
    }
}

#[test]
fn a_sparse_array_has_what_is_mapped_and_keeps_its_memory() {
    let _measuring = measuring();
    context();
    let (before, stream, extent) = (free_bytes(), free_stream(), [256, 256]);
    let array = create([256, 256, 0], CUDA_ARRAY3D_SPARSE);
    let properties = sparse_properties(array).expect("it is sparse");
    assert_eq!(properties.tileExtent, [128, 128, 1]);
    assert_eq!((properties.miptailSize, properties.flags), (0, 0));
    let huge = create([32_768, 32_768, 0], CUDA_ARRAY3D_SPARSE);
    assert!(free_bytes() > before - MUCH / 2, "it has no memory");
    ok!(cuArrayDestroy(huge));
    write(array, extent, 0, 7);
    assert_eq!(
        read(array, extent, 0),
        vec![0; 256 * 256],
        "nothing is there"
    );
    let pool = tile_pool(MUCH);
    let right = words(0, 0, [128, 0], [128, 256]);
    assert_eq!(map(operation(array, right, Some((pool, TILE))), stream), 0);
    ok!(cuStreamSynchronize(stream));
    ok!(cuMemRelease(pool));
    write(array, extent, 0, 7);
    write(array, [256, 128], 0, 8);
    let rows = |value: u32| [vec![0; 128], vec![value; 128]].concat().repeat(128);
    assert_eq!(read(array, extent, 0), [rows(8), rows(7)].concat());
    assert!(free_bytes() < before - MUCH / 2, "its tiles keep it");
    let upper = words(0, 0, [128, 0], [128, 128]);
    assert_eq!(map(operation(array, upper, None), stream), 0);
    ok!(cuStreamSynchronize(stream));
    let found = read(array, extent, 0);
    assert_eq!((found[255], found[256 * 255 + 255]), (0, 7));
    assert!(free_bytes() < before - MUCH / 2, "a tile keeps it");
    ok!(cuArrayDestroy(array));
    assert!(free_bytes() > before - MUCH / 2);
}

#[test]
fn tiles_of_two_arrays_can_be_the_same_memory() {
    context();
    let (stream, pool, extent) = (free_stream(), tile_pool(PAGE), [128, 128]);
    let volume = create([32, 32, 32], CUDA_ARRAY3D_SPARSE);
    let found = sparse_properties(volume).expect("it is sparse");
    assert_eq!(found.tileExtent, [32, 32, 16]);
    let [first, second] = [0, 1].map(|_| create([128, 128, 0], CUDA_ARRAY3D_SPARSE));
    let whole = words(0, 0, [0, 0], [128, 128]);
    let mut both = [first, second].map(|array| operation(array, whole, Some((pool, TILE))));
    ok!(cuMemMapArrayAsync(both.as_mut_ptr(), 2, stream));
    ok!(cuStreamSynchronize(stream));
    write(first, extent, 0, 9);
    assert_eq!(read(second, extent, 0), vec![9; 128 * 128]);
    let back = [0, 0, 0, 0, 16, 32, 32, 16];
    assert_eq!(map(operation(volume, back, Some((pool, TILE))), stream), 0);
    ok!(cuStreamSynchronize(stream));
    let of = |z| read(volume, [32, 32], z)[0];
    assert_eq!((of(15), of(16), of(31)), (0, 9, 9));
    let elsewhere = operation(second, whole, Some((pool, 2 * TILE)));
    assert_eq!(map(elsewhere, stream), 0);
    ok!(cuStreamSynchronize(stream));
    assert_eq!(read(second, extent, 0)[0], 0, "mapped anew");
    assert_eq!(read(first, extent, 0)[0], 9);
    for array in [first, second, volume] {
        ok!(cuArrayDestroy(array));
    }
    ok!(cuMemRelease(pool));
}

#[test]
fn small_levels_of_a_sparse_mipmapped_array_are_mapped_together() {
    context();
    let (stream, pool) = (free_stream(), tile_pool(PAGE));
    let flags = CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_LAYERED;
    let mipmap = create_mipmap([256, 256, 2], flags, 9);
    // SAFETY: a record of plain numbers; zero is a value of each.
    let mut found: CUDA_ARRAY_SPARSE_PROPERTIES = unsafe { std::mem::zeroed() };
    ok!(cuMipmappedArrayGetSparseProperties(&mut found, mipmap));
    assert_eq!((found.miptailFirstLevel, found.flags), (2, 0));
    assert_eq!(found.miptailSize, TILE as u64, "of one layer");
    let plain = operation(std::ptr::null_mut(), [0; 8], Some((pool, 0)));
    let tail = of_tail(1, TILE, of_mipmap(mipmap, plain));
    let second = words(1, 1, [0, 0], [128, 128]);
    let plain = operation(std::ptr::null_mut(), second, Some((pool, TILE)));
    let mut both = [tail, of_mipmap(mipmap, plain)];
    ok!(cuMemMapArrayAsync(both.as_mut_ptr(), 2, stream));
    ok!(cuStreamSynchronize(stream));
    for (at, extent) in [(0, [256, 256]), (1, [128, 128]), (2, [64, 64]), (8, [1, 1])] {
        let array = level(mipmap, at);
        for z in 0..2 {
            write(array, extent, z, 10 + at);
            let is_there = at > 0 && z == 1;
            let wanted = if is_there { 10 + at } else { 0 };
            let whole = vec![wanted; extent[0] * extent[1]];
            assert_eq!(read(array, extent, z), whole, "level {at}, layer {z}");
        }
    }
    assert_eq!(
        read(level(mipmap, 2), [64, 64], 1)[0],
        12,
        "they do not overlap"
    );
    assert_eq!(
        sparse_properties(level(mipmap, 0)),
        Err(CUDA_ERROR_INVALID_VALUE)
    );
    let of_level = operation(level(mipmap, 0), second, Some((pool, 0)));
    assert_eq!(map(of_level, stream), CUDA_ERROR_INVALID_VALUE);
    ok!(cuMipmappedArrayDestroy(mipmap));
    ok!(cuMemRelease(pool));
}

#[test]
fn an_array_of_deferred_mapping_is_mapped_at_once() {
    context();
    let (stream, extent) = (free_stream(), [100, 50]);
    let array = create([100, 50, 0], CUDA_ARRAY3D_DEFERRED_MAPPING);
    // SAFETY: a record of plain numbers; zero is a value of each.
    let mut needs: CUDA_ARRAY_MEMORY_REQUIREMENTS = unsafe { std::mem::zeroed() };
    ok!(cuArrayGetMemoryRequirements(&mut needs, array, 0));
    assert_eq!((needs.size, needs.alignment), (TILE, TILE), "20,000 bytes");
    let mipmap = create_mipmap([256, 256, 0], CUDA_ARRAY3D_DEFERRED_MAPPING, 2);
    ok!(cuMipmappedArrayGetMemoryRequirements(&mut needs, mipmap, 0));
    assert_eq!(needs.size, 5 * TILE);
    let pool = tile_pool(PAGE);
    let too_far = operation(array, [0; 8], Some((pool, PAGE)));
    assert_eq!(map(too_far, stream), CUDA_ERROR_INVALID_VALUE);
    let plain = operation(array, [0; 8], Some((pool, 5 * TILE)));
    assert_eq!(map(plain, stream), 0);
    let of_all = of_mipmap(mipmap, operation(array, [9; 8], Some((pool, 0))));
    assert_eq!(map(of_all, stream), 0);
    ok!(cuStreamSynchronize(stream));
    write(array, extent, 0, 3);
    write(level(mipmap, 1), [128, 128], 0, 4);
    assert_eq!(read(array, extent, 0), vec![3; 5000]);
    assert_eq!(read(level(mipmap, 1), [128, 128], 0)[0], 4);
    assert_eq!(sparse_properties(array), Err(CUDA_ERROR_INVALID_VALUE));
    ok!(cuArrayDestroy(array));
    ok!(cuMipmappedArrayDestroy(mipmap));
    ok!(cuMemRelease(pool));
}

#[test]
fn tiles_are_mapped_and_let_go_in_stream_order() {
    let _measuring = measuring();
    context();
    let (before, stream, kernel) = (free_bytes(), free_stream(), spin(LONG));
    let array = create([128, 128, 0], CUDA_ARRAY3D_SPARSE);
    let (pool, source, back) = (tile_pool(MUCH), alloc(TILE), alloc(TILE));
    ok!(cuMemsetD8_v2(source, 1, TILE));
    let whole = words(0, 0, [0, 0], [128, 128]);
    assert_eq!(launch(kernel, stream), 0);
    assert_eq!(map(operation(array, whole, Some((pool, 0))), stream), 0);
    let mut copy = slice_copy(array, [128, 128], 0);
    (copy.srcMemoryType, copy.srcDevice) = (CU_MEMORYTYPE_DEVICE, source);
    ok!(cuMemcpy3DAsync_v2(&copy, stream));
    let mut copy = slice_copy(array, [128, 128], 0);
    (copy.dstMemoryType, copy.dstDevice) = (CU_MEMORYTYPE_DEVICE, back);
    ok!(cuMemcpy3DAsync_v2(&copy, stream));
    assert_eq!(map(operation(array, whole, None), stream), 0);
    ok!(cuMemRelease(pool));
    assert_eq!(cu!(cuStreamQuery(stream)), CUDA_ERROR_NOT_READY);
    assert!(
        free_bytes() < before - MUCH / 2,
        "the stream is not there yet"
    );
    ok!(cuStreamSynchronize(stream));
    assert!(free_bytes() > before - MUCH / 2);
    assert_eq!(support::read(back, 4), [1; 4], "mapped for the copies");
    assert_eq!(read(array, [128, 128], 0)[0], 0, "unmapped again");
    ok!(cuArrayDestroy(array));
}

#[test]
fn arrays_that_are_mapped_end_with_their_context() {
    let _measuring = measuring();
    let outer = context();
    let before = free_bytes();
    let own = context();
    let stream = free_stream();
    let mapped = create([128, 128, 0], CUDA_ARRAY3D_SPARSE);
    let mipmap = create_mipmap([128, 128, 0], CUDA_ARRAY3D_SPARSE, 2);
    let whole = words(0, 0, [0, 0], [128, 128]);
    for of in [None, Some(mipmap)] {
        let pool = tile_pool(MUCH);
        let plain = operation(mapped, whole, Some((pool, 0)));
        let operation = of.map_or(plain, |mipmap| of_mipmap(mipmap, plain));
        assert_eq!(map(operation, stream), 0);
        ok!(cuMemRelease(pool));
    }
    ok!(cuCtxDestroy_v2(own));
    ok!(cuCtxSetCurrent(outer));
    assert!(free_bytes() > before - MUCH);
    assert_eq!(cu!(cuArrayDestroy(mapped)), CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn what_cannot_be_mapped_is_refused_and_changes_nothing() {
    context();
    let (stream, mut array) = (free_stream(), std::ptr::null_mut());
    let both = CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING;
    for wrong in [
        described([128, 128, 0], both),
        described([128, 0, 0], CUDA_ARRAY3D_SPARSE),
    ] {
        let status = cu!(cuArray3DCreate_v2(&mut array, &wrong));
        assert_eq!(status, CUDA_ERROR_INVALID_VALUE);
    }
    let (array, ordinary) = (
        create([128, 128, 0], CUDA_ARRAY3D_SPARSE),
        create([128, 128, 0], 0),
    );
    let (pool, other) = (tile_pool(PAGE), memory(PAGE, 0));
    let whole = words(0, 0, [0, 0], [128, 128]);
    let right = operation(array, whole, Some((pool, 0)));
    let with = |change: fn(&mut CUarrayMapInfo)| {
        let mut changed = right;
        change(&mut changed);
        changed
    };
    for (index, wrong) in [
        operation(array, whole, Some((other, 0))),
        operation(array, whole, Some((pool, 512))),
        operation(array, whole, Some((pool, PAGE))),
        operation(ordinary, whole, Some((pool, 0))),
        operation(array, words(0, 1, [0, 0], [128, 128]), Some((pool, 0))),
        operation(array, words(1, 0, [0, 0], [128, 128]), Some((pool, 0))),
        with(|info| info.deviceBitMask = 3),
        with(|info| info.flags = 1),
        with(|info| info.memOperationType = CU_MEM_OPERATION_TYPE_UNMAP),
        with(|info| info.memOperationType = 0),
    ]
    .into_iter()
    .enumerate()
    {
        let mut list = [right, wrong];
        let status = cu!(cuMemMapArrayAsync(list.as_mut_ptr(), 2, stream));
        assert_eq!(status, CUDA_ERROR_INVALID_VALUE, "{index}");
    }
    ok!(cuStreamSynchronize(stream));
    write(array, [128, 128], 0, 1);
    assert_eq!(read(array, [128, 128], 0)[0], 0, "all or nothing");
    let mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    ok!(cuStreamBeginCapture_v2(stream, mode));
    assert_eq!(map(right, stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    let mut graph = std::ptr::null_mut();
    let ended = cu!(cuStreamEndCapture(stream, &mut graph));
    assert_eq!(ended, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    let mut copy = slice_copy(array, [128, 128], 0);
    copy.dstY = 1;
    assert_eq!(cu!(cuMemcpy3D_v2(&copy)), CUDA_ERROR_INVALID_VALUE);
    ok!(cuMemRelease(other));
    ok!(cuMemRelease(pool));
}
