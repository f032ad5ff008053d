//! Copies in batches, words in batches, textures and surfaces, advice on managed memory.

mod support;

use cuda_sys_stubs::abi::*;
use support::{alloc, context, cu, free_stream, ok, read};

const LEGACY: CUstream = std::ptr::null_mut();

fn attributes(order: CUmemcpySrcAccessOrder) -> CUmemcpyAttributes {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut attributes: CUmemcpyAttributes = unsafe { std::mem::zeroed() };
    attributes.srcAccessOrder = order;
    attributes
}

#[test]
fn a_batch_of_copies_moves_each_of_them_and_names_the_one_that_it_cannot() {
    context();
    let (stream, memory) = (free_stream(), alloc(64));
    ok!(cuMemsetD8_v2(memory, 0, 64));
    let host: Vec<u8> = (1..=16).collect();
    let source = host.as_ptr().expose_provenance() as u64;
    let mut attrs = [
        attributes(CU_MEMCPY_SRC_ACCESS_ORDER_STREAM),
        attributes(CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL),
    ];
    let (mut to, mut from) = (
        [memory, memory + 8, memory + 32],
        [source, source + 4, memory],
    );
    let (mut sizes, mut starts, mut failed) = ([4usize, 4, 4], [0usize, 1], 5usize);
    let mut run = |to: &mut [u64; 3], sizes: &mut [usize; 3], starts: &mut [usize; 2], stream| {
        let status = cu!(cuMemcpyBatchAsync(
            to.as_mut_ptr(),
            from.as_mut_ptr(),
            sizes.as_mut_ptr(),
            3,
            attrs.as_mut_ptr(),
            starts.as_mut_ptr(),
            2,
            &mut failed,
            stream
        ));
        (status, failed)
    };
    assert_eq!(
        run(&mut to, &mut sizes, &mut starts, stream),
        (0, usize::MAX)
    );
    ok!(cuStreamSynchronize(stream));
    let all = read(memory, 36);
    assert_eq!(all[..16], [1, 2, 3, 4, 0, 0, 0, 0, 5, 6, 7, 8, 0, 0, 0, 0]);
    assert_eq!(all[32..], [1, 2, 3, 4]);
    let invalid = CUDA_ERROR_INVALID_VALUE;
    assert_eq!(run(&mut to, &mut sizes, &mut starts, LEGACY).0, invalid);
    assert_eq!(
        run(&mut to, &mut sizes, &mut [1, 2], stream),
        (invalid, usize::MAX)
    );
    assert_eq!(run(&mut to, &mut sizes, &mut [0, 0], stream).0, invalid);
    to[1] = memory + 61;
    assert_eq!(run(&mut to, &mut sizes, &mut starts, stream), (invalid, 1));
}

#[test]
fn a_batch_of_boxes_counts_in_the_arrays_elements() {
    context();
    let (stream, memory) = (free_stream(), alloc(256));
    let description = CUDA_ARRAY_DESCRIPTOR {
        Width: 4,
        Height: 4,
        Format: CU_AD_FORMAT_UNSIGNED_INT16,
        NumChannels: 1,
    };
    let mut array = std::ptr::null_mut();
    ok!(cuArrayCreate_v2(&mut array, &description));
    let bytes: Vec<u8> = (0..32).collect();
    ok!(cuMemcpyHtoD_v2(memory, bytes.as_ptr().cast(), bytes.len()));
    let location = CUmemLocation {
        type_: CU_MEM_LOCATION_TYPE_INVALID,
        id: 0,
    };
    let pointer = |ptr, row_length| CUmemcpy3DOperand_v1 {
        type_: CU_MEMCPY_OPERAND_TYPE_POINTER,
        op: anonymous_operand {
            ptr: anonymous_operand_ptr {
                ptr,
                rowLength: row_length,
                layerHeight: 0,
                locHint: location,
            },
        },
    };
    let in_array = |x, y| CUmemcpy3DOperand_v1 {
        type_: CU_MEMCPY_OPERAND_TYPE_ARRAY,
        op: anonymous_operand {
            array: anonymous_operand_array {
                array,
                offset: CUoffset3D_v1 { x, y, z: 0 },
            },
        },
    };
    let operation = |src, dst| CUDA_MEMCPY3D_BATCH_OP_v1 {
        src,
        dst,
        extent: CUextent3D_v1 {
            width: 2,
            height: 2,
            depth: 1,
        },
        srcAccessOrder: CU_MEMCPY_SRC_ACCESS_ORDER_STREAM,
        flags: 0,
    };
    let mut there = [operation(pointer(memory, 4), in_array(1, 2))];
    ok!(cuMemcpy3DBatchAsync_v2(1, there.as_mut_ptr(), 0, stream));
    let mut back = operation(in_array(1, 2), pointer(memory + 64, 0));
    ok!(cuMemcpy3DWithAttributesAsync(&mut back, 0, stream));
    ok!(cuStreamSynchronize(stream));
    assert_eq!(read(memory + 64, 8), [0, 1, 2, 3, 8, 9, 10, 11]);
    let mut outside = [operation(pointer(memory, 4), in_array(3, 0))];
    let mut failed = 0;
    assert_eq!(
        cu!(cuMemcpy3DBatchAsync(
            1,
            outside.as_mut_ptr(),
            &mut failed,
            0,
            stream
        )),
        CUDA_ERROR_INVALID_VALUE
    );
}

#[test]
fn words_are_written_and_waited_for_in_the_order_of_the_batch() {
    context();
    let (stream, memory) = (free_stream(), alloc(16));
    ok!(cuMemsetD8_v2(memory, 0, 16));
    let word = |operation, address, value64, flags| CUstreamBatchMemOpParams {
        waitValue: anonymous_memOpValue {
            operation,
            address,
            value64,
            flags,
            alias: 0,
        },
    };
    let mut operations = [
        word(CU_STREAM_MEM_OP_WRITE_VALUE_32, memory, 7, 0),
        word(CU_STREAM_MEM_OP_BARRIER, 0, 0, 0),
        word(
            CU_STREAM_MEM_OP_WAIT_VALUE_32,
            memory,
            7,
            CU_STREAM_WAIT_VALUE_EQ,
        ),
        word(CU_STREAM_MEM_OP_WRITE_VALUE_64, memory + 8, u64::MAX, 0),
    ];
    ok!(cuStreamBatchMemOp_v2(stream, 4, operations.as_mut_ptr(), 0));
    ok!(cuStreamSynchronize(stream));
    assert_eq!(read(memory, 16)[..5], [7, 0, 0, 0, 0]);
    assert_eq!(read(memory + 8, 8), [255; 8]);
    let mut flush = word(CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES, 0, 0, 0);
    assert_eq!(
        cu!(cuStreamBatchMemOp_v2(stream, 1, &mut flush, 0)),
        CUDA_ERROR_NOT_SUPPORTED
    );
    assert_eq!(
        cu!(cuStreamBatchMemOp_v2(stream, 257, &mut flush, 0)),
        CUDA_ERROR_INVALID_VALUE
    );
}

fn reduction(
    kind: (
        CUstreamAtomicReductionOpType,
        CUstreamAtomicReductionDataType,
    ),
    address: CUdeviceptr,
    value: u64,
) -> CUstreamBatchMemOpParams {
    CUstreamBatchMemOpParams {
        atomicReduction: anonymous_memOpReduction {
            operation: CU_STREAM_MEM_OP_ATOMIC_REDUCTION,
            flags: 0,
            reductionOp: kind.0,
            dataType: kind.1,
            address,
            value,
            alias: 0,
        },
    }
}

const ADD: CUstreamAtomicReductionOpType = CU_STREAM_ATOMIC_REDUCTION_OP_ADD;
const WORD: CUstreamAtomicReductionDataType = CU_STREAM_ATOMIC_REDUCTION_UNSIGNED_32;
const DOUBLE: CUstreamAtomicReductionDataType = CU_STREAM_ATOMIC_REDUCTION_UNSIGNED_64;

#[test]
fn words_are_reduced_in_the_order_of_the_batch() {
    context();
    let (stream, memory) = (free_stream(), alloc(16));
    let mut supported = 0;
    let attribute = CU_DEVICE_ATTRIBUTE_ATOMIC_REDUCTION_SUPPORTED;
    ok!(cuDeviceGetAttribute(&mut supported, attribute, 0));
    assert_eq!(supported, 1);
    ok!(cuMemsetD8_v2(memory, 0xff, 16));
    let mut operations = [
        reduction((ADD, WORD), memory, 6),
        reduction((CU_STREAM_ATOMIC_REDUCTION_OP_OR, WORD), memory, 8),
        reduction((CU_STREAM_ATOMIC_REDUCTION_OP_AND, WORD), memory, 12),
        reduction((ADD, DOUBLE), memory + 8, (1 << 40) + 1),
    ];
    ok!(cuStreamBatchMemOp_v2(stream, 4, operations.as_mut_ptr(), 0));
    ok!(cuStreamSynchronize(stream));
    assert_eq!(read(memory, 8), [12, 0, 0, 0, 255, 255, 255, 255]);
    assert_eq!(read(memory + 8, 8), (1u64 << 40).to_le_bytes());
    let exclusive = 7;
    for wrong in [
        reduction((exclusive, WORD), memory, 1),
        reduction((ADD, 0), memory, 1),
        reduction((ADD, DOUBLE), memory + 4, 1),
    ] {
        let status = cu!(cuStreamBatchMemOp_v2(stream, 1, &mut { wrong }, 0));
        assert_eq!(status, CUDA_ERROR_INVALID_VALUE);
    }
}

fn linear(address: CUdeviceptr, bytes: usize) -> CUDA_RESOURCE_DESC {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut resource: CUDA_RESOURCE_DESC = unsafe { std::mem::zeroed() };
    resource.resType = CU_RESOURCE_TYPE_LINEAR;
    resource.res.linear = anonymous_linear {
        devPtr: address,
        format: CU_AD_FORMAT_FLOAT,
        numChannels: 1,
        sizeInBytes: bytes,
    };
    resource
}

#[test]
fn a_texture_object_keeps_what_it_was_made_of() {
    context();
    let (memory, mut texture) = (alloc(4096), 0);
    // SAFETY: a record of plain numbers; zero is a value of each.
    let mut sampling: CUDA_TEXTURE_DESC = unsafe { std::mem::zeroed() };
    (sampling.filterMode, sampling.maxAnisotropy) = (1, 4);
    let none = std::ptr::null();
    let resource = linear(memory, 4096);
    ok!(cuTexObjectCreate(&mut texture, &resource, &sampling, none));
    let (mut kept, mut known) = (linear(0, 0), sampling);
    known.maxAnisotropy = 0;
    ok!(cuTexObjectGetResourceDesc(&mut kept, texture));
    ok!(cuTexObjectGetTextureDesc(&mut known, texture));
    // SAFETY: the driver wrote a linear resource.
    assert_eq!(unsafe { kept.res.linear.devPtr }, memory);
    assert_eq!(known, sampling);
    // SAFETY: a record of plain numbers; zero is a value of each.
    let mut view: CUDA_RESOURCE_VIEW_DESC = unsafe { std::mem::zeroed() };
    let invalid = CUDA_ERROR_INVALID_VALUE;
    assert_eq!(
        cu!(cuTexObjectGetResourceViewDesc(&mut view, texture)),
        invalid
    );
    for (resource, view) in [
        (linear(memory + 1, 16), none),
        (linear(memory, 4097), none),
        (linear(memory, 16), &raw const view),
    ] {
        let status = cu!(cuTexObjectCreate(&mut texture, &resource, &sampling, view));
        assert_eq!(status, invalid);
    }
    ok!(cuTexObjectDestroy(texture));
    assert_eq!(cu!(cuTexObjectDestroy(texture)), invalid);
}

#[test]
fn a_surface_object_lies_over_an_array_that_was_made_for_it() {
    context();
    let mut description = CUDA_ARRAY3D_DESCRIPTOR {
        Width: 8,
        Height: 8,
        Depth: 0,
        Format: CU_AD_FORMAT_FLOAT,
        NumChannels: 1,
        Flags: 0,
    };
    let (mut plain, mut made_for_it) = (std::ptr::null_mut(), std::ptr::null_mut());
    ok!(cuArray3DCreate_v2(&mut plain, &description));
    description.Flags = CUDA_ARRAY3D_SURFACE_LDST;
    ok!(cuArray3DCreate_v2(&mut made_for_it, &description));
    let (mut resource, mut surface) = (linear(alloc(512), 512), 0);
    let invalid = CUDA_ERROR_INVALID_VALUE;
    assert_eq!(cu!(cuSurfObjectCreate(&mut surface, &resource)), invalid);
    resource.resType = CU_RESOURCE_TYPE_ARRAY;
    resource.res.array = plain;
    assert_eq!(cu!(cuSurfObjectCreate(&mut surface, &resource)), invalid);
    resource.res.array = made_for_it;
    ok!(cuSurfObjectCreate(&mut surface, &resource));
    resource.res.array = plain;
    ok!(cuSurfObjectGetResourceDesc(&mut resource, surface));
    // SAFETY: the driver wrote an array.
    assert_eq!(unsafe { resource.res.array }, made_for_it);
    ok!(cuSurfObjectDestroy(surface));
    assert_eq!(cu!(cuSurfObjectDestroy(surface)), invalid);
}

#[test]
fn a_texture_reference_keeps_what_is_set_on_it() {
    context();
    let (memory, mut reference) = (alloc(4096), std::ptr::null_mut());
    ok!(cuTexRefCreate(&mut reference));
    let (mut address, mut offset) = (0, 9);
    let invalid = CUDA_ERROR_INVALID_VALUE;
    assert_eq!(cu!(cuTexRefGetAddress_v2(&mut address, reference)), invalid);
    ok!(cuTexRefSetAddress_v2(
        &mut offset,
        reference,
        memory + 520,
        64
    ));
    ok!(cuTexRefGetAddress_v2(&mut address, reference));
    assert_eq!((address, offset), (memory + 520, 8));
    let nowhere = std::ptr::null_mut();
    let aligned = cu!(cuTexRefSetAddress_v2(nowhere, reference, memory + 520, 64));
    assert_eq!(aligned, invalid);
    ok!(cuTexRefSetFilterMode(reference, CU_TR_FILTER_MODE_LINEAR));
    ok!(cuTexRefSetAddressMode(reference, 2, 3));
    ok!(cuTexRefSetMipmapLevelClamp(reference, 1.0, 2.5));
    let (mut filter, mut mode, mut clamp) = (9, 9, [0f32; 2]);
    ok!(cuTexRefGetFilterMode(&mut filter, reference));
    ok!(cuTexRefGetAddressMode(&mut mode, reference, 2));
    let [least, most] = &mut clamp;
    ok!(cuTexRefGetMipmapLevelClamp(least, most, reference));
    assert_eq!(
        (filter, mode, clamp),
        (CU_TR_FILTER_MODE_LINEAR, 3, [1.0, 2.5])
    );
    assert_eq!(cu!(cuTexRefSetAddressMode(reference, 3, 0)), invalid);
    ok!(cuTexRefDestroy(reference));
    let gone = CUDA_ERROR_INVALID_HANDLE;
    assert_eq!(cu!(cuTexRefDestroy(reference)), gone);
}

#[test]
fn advice_on_managed_memory_is_kept() {
    context();
    let mut managed = 0;
    ok!(cuMemAllocManaged(&mut managed, 4096, CU_MEM_ATTACH_GLOBAL));
    let asked = |which, room: usize| {
        let mut words = vec![99i32; room];
        let status = cu!(cuMemRangeGetAttribute(
            words.as_mut_ptr().cast(),
            room * 4,
            which,
            managed,
            4096
        ));
        (status, words)
    };
    let preferred = CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION;
    let prefetched = CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION;
    let accessed = CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY;
    assert_eq!(asked(preferred, 1), (0, vec![CU_DEVICE_INVALID]));
    let set = CU_MEM_ADVISE_SET_PREFERRED_LOCATION;
    ok!(cuMemAdvise(managed, 4096, set, CU_DEVICE_CPU));
    ok!(cuMemAdvise(managed, 4096, CU_MEM_ADVISE_SET_ACCESSED_BY, 0));
    ok!(cuMemAdvise(managed, 4096, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    ok!(cuMemPrefetchAsync(managed, 4096, 0, LEGACY));
    assert_eq!(asked(preferred, 1), (0, vec![CU_DEVICE_CPU]));
    assert_eq!(asked(prefetched, 1), (0, vec![0]));
    assert_eq!(asked(accessed, 2), (0, vec![0, CU_DEVICE_INVALID]));
    let read_mostly = CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY;
    assert_eq!(asked(read_mostly, 1), (0, vec![1]));
    let unset = CU_MEM_ADVISE_UNSET_READ_MOSTLY;
    ok!(cuMemAdvise(managed, 1, unset, 0));
    assert_eq!(asked(read_mostly, 1), (0, vec![0]));
    let invalid = CUDA_ERROR_INVALID_VALUE;
    assert_eq!(cu!(cuMemAdvise(alloc(8), 8, set, 0)), invalid);
    assert_eq!(cu!(cuMemAdvise(managed, 4097, set, 0)), invalid);
    let no_device = CUDA_ERROR_INVALID_DEVICE;
    assert_eq!(cu!(cuMemAdvise(managed, 1, set, 9)), no_device);
}
