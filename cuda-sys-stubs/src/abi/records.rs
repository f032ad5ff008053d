//! Structs and unions of cuda.h 13.5 that cross by value, or that a simulation or a hook reads.
//!
//! Of unions only the members that somebody here reads are declared; `pad` or `reserved` members keep the size.
//! A field called `anonymous…` is an unnamed member in C.

use core::ffi::{c_char, c_int, c_longlong, c_uchar, c_uint, c_ulonglong, c_ushort, c_void};

use super::callbacks::CUhostFn;
use super::enums::*;
use super::types::*;
use crate::layout::records;

records! {
    // identity

    /// A device's UUID: 16 raw bytes.
    #[derive(Debug, PartialEq, Eq)]
    struct CUuuid {
        bytes: [c_char; 16],
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUdevprop_v1 {
        maxThreadsPerBlock: c_int,
        maxThreadsDim: [c_int; 3],
        maxGridSize: [c_int; 3],
        sharedMemPerBlock: c_int,
        totalConstantMemory: c_int,
        SIMDWidth: c_int,
        memPitch: c_int,
        regsPerBlock: c_int,
        clockRate: c_int,
        textureAlign: c_int,
    }

    // contexts

    #[derive(Debug, PartialEq, Eq)]
    struct CUexecAffinitySmCount_v1 {
        val: c_uint,
    }

    struct CUexecAffinityParam_v1 {
        type_: CUexecAffinityType,
        param: CUexecAffinitySmCount_v1,
    }

    struct CUctxCreateParams {
        execAffinityParams: *mut CUexecAffinityParam_v1,
        numExecAffinityParams: c_int,
        cigParams: *mut CUctxCigParam,
    }

    // inter-process handles

    #[derive(Debug, PartialEq, Eq)]
    struct CUipcMemHandle_v1 {
        reserved: [c_char; 64],
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUipcEventHandle_v1 {
        reserved: [c_char; 64],
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUmemPoolPtrExportData_v1 {
        reserved: [c_uchar; 64],
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUmemFabricHandle_v1 {
        data: [c_uchar; 64],
    }

    // virtual memory management and pools

    /// Where memory lies. `id` is a device ordinal, a NUMA node, or (type 6, locality domain) a device in its low byte.
    #[derive(Debug, PartialEq, Eq)]
    struct CUmemLocation_v1 {
        type_: CUmemLocationType,
        id: c_int,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUmemAccessDesc_v1 {
        location: CUmemLocation,
        flags: CUmemAccess_flags,
    }

    /// The `allocFlags` of a `CUmemAllocationProp`; an unnamed struct in C.
    #[derive(Debug, PartialEq, Eq)]
    struct anonymous_allocFlags {
        compressionType: c_uchar,
        gpuDirectRDMACapable: c_uchar,
        usage: c_ushort,
        reserved: [c_uchar; 4],
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUmemAllocationProp_v1 {
        type_: CUmemAllocationType,
        requestedHandleTypes: CUmemAllocationHandleType,
        location: CUmemLocation,
        win32HandleMetaData: *mut c_void,
        allocFlags: anonymous_allocFlags,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUmemPoolProps_v1 {
        allocType: CUmemAllocationType,
        handleTypes: CUmemAllocationHandleType,
        location: CUmemLocation,
        win32SecurityAttributes: *mut c_void,
        maxSize: usize,
        usage: c_ushort,
        gpuDirectRDMACapable: c_uchar,
        reserved: [c_uchar; 53],
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUmulticastObjectProp_v1 {
        numDevices: c_uint,
        size: usize,
        handleTypes: c_ulonglong,
        flags: c_ulonglong,
    }

    // arrays

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_ARRAY_DESCRIPTOR_v1 {
        Width: c_uint,
        Height: c_uint,
        Format: CUarray_format,
        NumChannels: c_uint,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_ARRAY_DESCRIPTOR_v2 {
        Width: usize,
        Height: usize,
        Format: CUarray_format,
        NumChannels: c_uint,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_ARRAY3D_DESCRIPTOR_v1 {
        Width: c_uint,
        Height: c_uint,
        Depth: c_uint,
        Format: CUarray_format,
        NumChannels: c_uint,
        Flags: c_uint,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_ARRAY3D_DESCRIPTOR_v2 {
        Width: usize,
        Height: usize,
        Depth: usize,
        Format: CUarray_format,
        NumChannels: c_uint,
        Flags: c_uint,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_ARRAY_MEMORY_REQUIREMENTS_v1 {
        size: usize,
        alignment: usize,
        reserved: [c_uint; 4],
    }

    /// Extent of a tile (width, height, depth: an unnamed struct in C) and what the smallest levels take together.
    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_ARRAY_SPARSE_PROPERTIES_v1 {
        tileExtent: [c_uint; 3],
        miptailFirstLevel: c_uint,
        miptailSize: c_ulonglong,
        flags: c_uint,
        reserved: [c_uint; 4],
    }

    // copies

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_MEMCPY2D_v1 {
        srcXInBytes: c_uint,
        srcY: c_uint,
        srcMemoryType: CUmemorytype,
        srcHost: *const c_void,
        srcDevice: CUdeviceptr_v1,
        srcArray: CUarray,
        srcPitch: c_uint,
        dstXInBytes: c_uint,
        dstY: c_uint,
        dstMemoryType: CUmemorytype,
        dstHost: *mut c_void,
        dstDevice: CUdeviceptr_v1,
        dstArray: CUarray,
        dstPitch: c_uint,
        WidthInBytes: c_uint,
        Height: c_uint,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_MEMCPY2D_v2 {
        srcXInBytes: usize,
        srcY: usize,
        srcMemoryType: CUmemorytype,
        srcHost: *const c_void,
        srcDevice: CUdeviceptr,
        srcArray: CUarray,
        srcPitch: usize,
        dstXInBytes: usize,
        dstY: usize,
        dstMemoryType: CUmemorytype,
        dstHost: *mut c_void,
        dstDevice: CUdeviceptr,
        dstArray: CUarray,
        dstPitch: usize,
        WidthInBytes: usize,
        Height: usize,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_MEMCPY3D_v1 {
        srcXInBytes: c_uint,
        srcY: c_uint,
        srcZ: c_uint,
        srcLOD: c_uint,
        srcMemoryType: CUmemorytype,
        srcHost: *const c_void,
        srcDevice: CUdeviceptr_v1,
        srcArray: CUarray,
        reserved0: *mut c_void,
        srcPitch: c_uint,
        srcHeight: c_uint,
        dstXInBytes: c_uint,
        dstY: c_uint,
        dstZ: c_uint,
        dstLOD: c_uint,
        dstMemoryType: CUmemorytype,
        dstHost: *mut c_void,
        dstDevice: CUdeviceptr_v1,
        dstArray: CUarray,
        reserved1: *mut c_void,
        dstPitch: c_uint,
        dstHeight: c_uint,
        WidthInBytes: c_uint,
        Height: c_uint,
        Depth: c_uint,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_MEMCPY3D_v2 {
        srcXInBytes: usize,
        srcY: usize,
        srcZ: usize,
        srcLOD: usize,
        srcMemoryType: CUmemorytype,
        srcHost: *const c_void,
        srcDevice: CUdeviceptr,
        srcArray: CUarray,
        reserved0: *mut c_void,
        srcPitch: usize,
        srcHeight: usize,
        dstXInBytes: usize,
        dstY: usize,
        dstZ: usize,
        dstLOD: usize,
        dstMemoryType: CUmemorytype,
        dstHost: *mut c_void,
        dstDevice: CUdeviceptr,
        dstArray: CUarray,
        reserved1: *mut c_void,
        dstPitch: usize,
        dstHeight: usize,
        WidthInBytes: usize,
        Height: usize,
        Depth: usize,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_MEMCPY3D_PEER_v1 {
        srcXInBytes: usize,
        srcY: usize,
        srcZ: usize,
        srcLOD: usize,
        srcMemoryType: CUmemorytype,
        srcHost: *const c_void,
        srcDevice: CUdeviceptr,
        srcArray: CUarray,
        srcContext: CUcontext,
        srcPitch: usize,
        srcHeight: usize,
        dstXInBytes: usize,
        dstY: usize,
        dstZ: usize,
        dstLOD: usize,
        dstMemoryType: CUmemorytype,
        dstHost: *mut c_void,
        dstDevice: CUdeviceptr,
        dstArray: CUarray,
        dstContext: CUcontext,
        dstPitch: usize,
        dstHeight: usize,
        WidthInBytes: usize,
        Height: usize,
        Depth: usize,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUmemcpyAttributes_v1 {
        srcAccessOrder: CUmemcpySrcAccessOrder,
        srcLocHint: CUmemLocation,
        dstLocHint: CUmemLocation,
        flags: c_uint,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUoffset3D_v1 {
        x: usize,
        y: usize,
        z: usize,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUextent3D_v1 {
        width: usize,
        height: usize,
        depth: usize,
    }

    /// Memory by address; an unnamed struct in C. Lengths in elements.
    #[derive(Debug, PartialEq, Eq)]
    struct anonymous_operand_ptr {
        ptr: CUdeviceptr,
        rowLength: usize,
        layerHeight: usize,
        locHint: CUmemLocation,
    }

    /// An array and a place in it, in elements; an unnamed struct in C.
    #[derive(Debug, PartialEq, Eq)]
    struct anonymous_operand_array {
        array: CUarray,
        offset: CUoffset3D_v1,
    }

    /// One side of a copy; an unnamed union in C. Which member is valid is said by the operand's type.
    union anonymous_operand {
        ptr: anonymous_operand_ptr,
        array: anonymous_operand_array,
    }

    struct CUmemcpy3DOperand_v1 {
        type_: CUmemcpy3DOperandType,
        op: anonymous_operand,
    }

    struct CUDA_MEMCPY3D_BATCH_OP_v1 {
        src: CUmemcpy3DOperand_v1,
        dst: CUmemcpy3DOperand_v1,
        extent: CUextent3D_v1,
        srcAccessOrder: CUmemcpySrcAccessOrder,
        flags: c_uint,
    }

    // sparse arrays

    /// What is mapped into; an unnamed union in C. Which member is valid is said by the resource's type.
    union anonymous_mapResource {
        mipmap: CUmipmappedArray,
        array: CUarray,
    }

    /// The end of a mipmap that is mapped as one; an unnamed struct in C.
    #[derive(Debug, PartialEq, Eq)]
    struct anonymous_miptail {
        layer: c_uint,
        offset: c_ulonglong,
        size: c_ulonglong,
    }

    /// Which part of it; an unnamed union in C. Of a level: level, layer, offset (x, y, z), extent (width, height, depth).
    union anonymous_subresource {
        sparseLevel: [c_uint; 8],
        miptail: anonymous_miptail,
    }

    struct CUarrayMapInfo_v1 {
        resourceType: CUresourcetype,
        resource: anonymous_mapResource,
        subresourceType: CUarraySparseSubresourceType,
        subresource: anonymous_subresource,
        memOperationType: CUmemOperationType,
        memHandleType: CUmemHandleType,
        memHandle: CUmemGenericAllocationHandle,
        offset: c_ulonglong,
        deviceBitMask: c_uint,
        flags: c_uint,
        reserved: [c_uint; 2],
    }

    // streams that write words and wait for them

    /// A wait for, or a write of, a word; two unnamed structs of the same form in C. Of the value, a 32-bit operation has the lower half.
    #[derive(Debug, PartialEq, Eq)]
    struct anonymous_memOpValue {
        operation: CUstreamBatchMemOpType,
        address: CUdeviceptr,
        value64: u64,
        flags: c_uint,
        alias: CUdeviceptr,
    }

    /// A barrier, or a flush; two unnamed structs of the same form in C.
    #[derive(Debug, PartialEq, Eq)]
    struct anonymous_memOpBarrier {
        operation: CUstreamBatchMemOpType,
        flags: c_uint,
    }

    /// An atomic reduction; an unnamed struct in C. Of the value, a 32-bit operation has the lower half.
    #[derive(Debug, PartialEq, Eq)]
    struct anonymous_memOpReduction {
        operation: CUstreamBatchMemOpType,
        flags: c_uint,
        reductionOp: CUstreamAtomicReductionOpType,
        dataType: CUstreamAtomicReductionDataType,
        address: CUdeviceptr,
        value: u64,
        alias: CUdeviceptr,
    }

    /// One operation. Which member is valid is said by `operation`, which each begins with.
    union CUstreamBatchMemOpParams_v1 {
        operation: CUstreamBatchMemOpType,
        waitValue: anonymous_memOpValue,
        writeValue: anonymous_memOpValue,
        memoryBarrier: anonymous_memOpBarrier,
        atomicReduction: anonymous_memOpReduction,
        pad: [u64; 6],
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_BATCH_MEM_OP_NODE_PARAMS_v1 {
        ctx: CUcontext,
        count: c_uint,
        paramArray: *mut CUstreamBatchMemOpParams,
        flags: c_uint,
    }

    // textures and surfaces

    /// Linear memory; an unnamed struct in C.
    #[derive(Debug, PartialEq, Eq)]
    struct anonymous_linear {
        devPtr: CUdeviceptr,
        format: CUarray_format,
        numChannels: c_uint,
        sizeInBytes: usize,
    }

    /// Pitched memory; an unnamed struct in C.
    #[derive(Debug, PartialEq, Eq)]
    struct anonymous_pitch2D {
        devPtr: CUdeviceptr,
        format: CUarray_format,
        numChannels: c_uint,
        width: usize,
        height: usize,
        pitchInBytes: usize,
    }

    /// What a texture or surface lies over; an unnamed union in C, whose first two members are structs of one handle there.
    union anonymous_resource {
        array: CUarray,
        mipmap: CUmipmappedArray,
        linear: anonymous_linear,
        pitch2D: anonymous_pitch2D,
        reserved: [c_int; 32],
    }

    struct CUDA_RESOURCE_DESC_v1 {
        resType: CUresourcetype,
        res: anonymous_resource,
        flags: c_uint,
    }

    #[derive(Debug, PartialEq)]
    struct CUDA_TEXTURE_DESC_v1 {
        addressMode: [CUaddress_mode; 3],
        filterMode: CUfilter_mode,
        flags: c_uint,
        maxAnisotropy: c_uint,
        mipmapFilterMode: CUfilter_mode,
        mipmapLevelBias: f32,
        minMipmapLevelClamp: f32,
        maxMipmapLevelClamp: f32,
        borderColor: [f32; 4],
        reserved: [c_int; 12],
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_RESOURCE_VIEW_DESC_v1 {
        format: CUresourceViewFormat,
        width: usize,
        height: usize,
        depth: usize,
        firstMipmapLevel: c_uint,
        lastMipmapLevel: c_uint,
        firstLayer: c_uint,
        lastLayer: c_uint,
        reserved: [c_uint; 16],
    }

    // parts of a device

    #[derive(Debug, PartialEq, Eq)]
    struct CUdevSmResource {
        smCount: c_uint,
        minSmPartitionSize: c_uint,
        smCoscheduledAlignment: c_uint,
        flags: c_uint,
        localityDomainId: c_uint,
    }

    /// What a part of `cuDevSmResourceSplit` is to be; also written where its size was asked for.
    #[derive(Debug, PartialEq, Eq)]
    struct CU_DEV_SM_RESOURCE_GROUP_PARAMS {
        smCount: c_uint,
        coscheduledSmCount: c_uint,
        preferredCoscheduledSmCount: c_uint,
        flags: c_uint,
        localityDomainId: c_uint,
        reserved: [c_uint; 11],
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUdevWorkqueueConfigResource {
        device: CUdevice,
        wqConcurrencyLimit: c_uint,
        sharingScope: CUdevWorkqueueConfigScope,
    }

    struct CUdevWorkqueueResource {
        reserved: [c_uchar; 40],
    }

    /// What a resource is; an unnamed union in C. Which member is valid is said by its type.
    union anonymous_devResource {
        sm: CUdevSmResource,
        wqConfig: CUdevWorkqueueConfigResource,
        wq: CUdevWorkqueueResource,
        _oversize: [c_uchar; 40],
    }

    struct CUdevResource_v1 {
        type_: CUdevResourceType,
        _internal_padding: [c_uchar; 92],
        anonymous: anonymous_devResource,
        nextResource: *mut CUdevResource_v1,
    }

    // launches

    #[derive(Debug, PartialEq)]
    struct CUaccessPolicyWindow_v1 {
        base_ptr: *mut c_void,
        num_bytes: usize,
        hitRatio: f32,
        hitProp: CUaccessProperty,
        missProp: CUaccessProperty,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUlaunchMemSyncDomainMap {
        default_: c_uchar,
        remote: c_uchar,
    }

    /// Which member is valid is said by the attribute's `id`. 64 bytes since CUDA 11.8 (32 before).
    union CUlaunchAttributeValue {
        pad: [c_char; 64],
        accessPolicyWindow: CUaccessPolicyWindow_v1,
        cooperative: c_int,
        syncPolicy: CUsynchronizationPolicy,
        clusterDim: [c_uint; 3],
        clusterSchedulingPolicyPreference: CUclusterSchedulingPolicy,
        programmaticStreamSerializationAllowed: c_int,
        priority: c_int,
        memSyncDomainMap: CUlaunchMemSyncDomainMap,
        memSyncDomain: CUlaunchMemSyncDomain,
        preferredClusterDim: [c_uint; 3],
        sharedMemCarveout: c_uint,
    }

    struct CUlaunchAttribute {
        id: CUlaunchAttributeID,
        pad: [c_char; 4],
        value: CUlaunchAttributeValue,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUlaunchConfig {
        gridDimX: c_uint,
        gridDimY: c_uint,
        gridDimZ: c_uint,
        blockDimX: c_uint,
        blockDimY: c_uint,
        blockDimZ: c_uint,
        sharedMemBytes: c_uint,
        hStream: CUstream,
        attrs: *mut CUlaunchAttribute,
        numAttrs: c_uint,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_LAUNCH_PARAMS_v1 {
        function: CUfunction,
        gridDimX: c_uint,
        gridDimY: c_uint,
        gridDimZ: c_uint,
        blockDimX: c_uint,
        blockDimY: c_uint,
        blockDimZ: c_uint,
        sharedMemBytes: c_uint,
        hStream: CUstream,
        kernelParams: *mut *mut c_void,
    }

    // graphs

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_KERNEL_NODE_PARAMS_v1 {
        func: CUfunction,
        gridDimX: c_uint,
        gridDimY: c_uint,
        gridDimZ: c_uint,
        blockDimX: c_uint,
        blockDimY: c_uint,
        blockDimZ: c_uint,
        sharedMemBytes: c_uint,
        kernelParams: *mut *mut c_void,
        extra: *mut *mut c_void,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_KERNEL_NODE_PARAMS_v2 {
        func: CUfunction,
        gridDimX: c_uint,
        gridDimY: c_uint,
        gridDimZ: c_uint,
        blockDimX: c_uint,
        blockDimY: c_uint,
        blockDimZ: c_uint,
        sharedMemBytes: c_uint,
        kernelParams: *mut *mut c_void,
        extra: *mut *mut c_void,
        kern: CUkernel,
        ctx: CUcontext,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_MEMSET_NODE_PARAMS_v1 {
        dst: CUdeviceptr,
        pitch: usize,
        value: c_uint,
        elementSize: c_uint,
        width: usize,
        height: usize,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_MEMSET_NODE_PARAMS_v2 {
        dst: CUdeviceptr,
        pitch: usize,
        value: c_uint,
        elementSize: c_uint,
        width: usize,
        height: usize,
        ctx: CUcontext,
    }

    #[derive(Debug)]
    struct CUDA_HOST_NODE_PARAMS_v1 {
        fn_: CUhostFn,
        userData: *mut c_void,
    }

    /// 16 bytes until 13.1, 24 from 13.2, 32 from 13.4: read no further than the driver that wrote it.
    #[derive(Debug)]
    struct CUDA_HOST_NODE_PARAMS_v2 {
        fn_: CUhostFn,
        userData: *mut c_void,
        syncMode: c_uint,
        ctx: CUcontext,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_MEMCPY_NODE_PARAMS {
        flags: c_int,
        reserved: c_int,
        copyCtx: CUcontext,
        copyParams: CUDA_MEMCPY3D_v2,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_CHILD_GRAPH_NODE_PARAMS {
        graph: CUgraph,
        ownership: CUgraphChildGraphNodeOwnership,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_EVENT_WAIT_NODE_PARAMS {
        event: CUevent,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_EVENT_RECORD_NODE_PARAMS {
        event: CUevent,
        ctx: CUcontext,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_MEM_ALLOC_NODE_PARAMS_v1 {
        poolProps: CUmemPoolProps,
        accessDescs: *const CUmemAccessDesc,
        accessDescCount: usize,
        bytesize: usize,
        dptr: CUdeviceptr,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_MEM_FREE_NODE_PARAMS {
        dptr: CUdeviceptr,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_CONDITIONAL_NODE_PARAMS {
        handle: CUgraphConditionalHandle,
        type_: CUgraphConditionalNodeType,
        size: c_uint,
        phGraph_out: *mut CUgraph,
        ctx: CUcontext,
    }

    /// The parameters of one node; an unnamed union in C. Which member is valid is said by the node's type.
    union anonymous_CUgraphNodeParams {
        reserved1: [c_longlong; 29],
        kernel: CUDA_KERNEL_NODE_PARAMS_v3,
        memcpy: CUDA_MEMCPY_NODE_PARAMS,
        memset: CUDA_MEMSET_NODE_PARAMS_v2,
        host: CUDA_HOST_NODE_PARAMS_v2,
        graph: CUDA_CHILD_GRAPH_NODE_PARAMS,
        eventWait: CUDA_EVENT_WAIT_NODE_PARAMS,
        eventRecord: CUDA_EVENT_RECORD_NODE_PARAMS,
        alloc: CUDA_MEM_ALLOC_NODE_PARAMS_v2,
        free: CUDA_MEM_FREE_NODE_PARAMS,
        conditional: CUDA_CONDITIONAL_NODE_PARAMS,
    }

    struct CUgraphNodeParams {
        type_: CUgraphNodeType,
        reserved0: [c_int; 3],
        anonymous: anonymous_CUgraphNodeParams,
        reserved2: c_longlong,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUgraphEdgeData {
        from_port: c_uchar,
        to_port: c_uchar,
        type_: c_uchar,
        reserved: [c_uchar; 5],
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUgraphExecUpdateResultInfo_v1 {
        result: CUgraphExecUpdateResult,
        errorNode: CUgraphNode,
        errorFromNode: CUgraphNode,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct CUDA_GRAPH_INSTANTIATE_PARAMS {
        flags: u64,
        hUploadStream: CUstream,
        hErrNode_out: CUgraphNode,
        result_out: CUgraphInstantiateResult,
    }
}
