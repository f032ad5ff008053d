//! Structs and unions of nvml.h 13.5 that a simulation or a hook reads.

use core::ffi::{c_char, c_int, c_longlong, c_uint, c_ulong, c_ulonglong, c_ushort};

use super::constants::*;
use super::enums::*;
use super::types::*;
use crate::layout::records;

records! {
    // devices

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlPciInfo_t {
        busIdLegacy: [c_char; 16],
        domain: c_uint,
        bus: c_uint,
        device: c_uint,
        pciDeviceId: c_uint,
        pciSubSystemId: c_uint,
        busId: [c_char; 32],
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlPciInfoExt_v1_t {
        version: c_uint,
        domain: c_uint,
        bus: c_uint,
        device: c_uint,
        pciDeviceId: c_uint,
        pciSubSystemId: c_uint,
        baseClass: c_uint,
        subClass: c_uint,
        busId: [c_char; 32],
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlDeviceAttributes_t {
        multiprocessorCount: c_uint,
        sharedCopyEngineCount: c_uint,
        sharedDecoderCount: c_uint,
        sharedEncoderCount: c_uint,
        sharedJpegCount: c_uint,
        sharedOfaCount: c_uint,
        gpuInstanceSliceCount: c_uint,
        computeInstanceSliceCount: c_uint,
        memorySizeMB: c_ulonglong,
    }

    // memory

    /// Bytes.
    #[derive(Debug, PartialEq, Eq)]
    struct nvmlMemory_t {
        total: c_ulonglong,
        free: c_ulonglong,
        used: c_ulonglong,
    }

    /// Bytes; `version` is the caller's, see [`nvmlMemory_v2`](super::nvmlMemory_v2).
    #[derive(Debug, PartialEq, Eq)]
    struct nvmlMemory_v2_t {
        version: c_uint,
        total: c_ulonglong,
        reserved: c_ulonglong,
        free: c_ulonglong,
        used: c_ulonglong,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlBAR1Memory_t {
        bar1Total: c_ulonglong,
        bar1Free: c_ulonglong,
        bar1Used: c_ulonglong,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlSetMemoryLimits_v1_t {
        nameSpace: *const c_char,
        softLimit: c_ulonglong,
        hardLimit: c_ulonglong,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlGetMemoryLimits_v1_t {
        nameSpace: *const c_char,
        softLimit: c_ulonglong,
        hardLimit: c_ulonglong,
        currentUsed: c_ulonglong,
    }

    // processes

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlProcessInfo_v1_t {
        pid: c_uint,
        usedGpuMemory: c_ulonglong,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlProcessInfo_v2_t {
        pid: c_uint,
        usedGpuMemory: c_ulonglong,
        gpuInstanceId: c_uint,
        computeInstanceId: c_uint,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlProcessDetail_v1_t {
        pid: c_uint,
        usedGpuMemory: c_ulonglong,
        gpuInstanceId: c_uint,
        computeInstanceId: c_uint,
        usedGpuCcProtectedMemory: c_ulonglong,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlProcessDetailList_v1_t {
        version: c_uint,
        mode: c_uint,
        numProcArrayEntries: c_uint,
        procArray: *mut nvmlProcessDetail_v1_t,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlAccountingStats_t {
        gpuUtilization: c_uint,
        memoryUtilization: c_uint,
        maxMemoryUsage: c_ulonglong,
        time: c_ulonglong,
        startTime: c_ulonglong,
        isRunning: c_uint,
        reserved: [c_uint; 5],
    }

    /// Names its process itself.
    #[derive(Debug, PartialEq, Eq)]
    struct nvmlAccountingStats_v2_t {
        pid: c_uint,
        isRunning: c_uint,
        gpuUtilization: c_uint,
        memoryUtilization: c_uint,
        maxMemoryUsage: c_ulonglong,
        sampleCount: c_uint,
        sumGpuUtil: c_ulonglong,
        sumFbUtil: c_ulonglong,
        time: c_ulonglong,
        startTime: c_ulonglong,
    }

    // utilization

    /// Percent of the last sample period.
    #[derive(Debug, PartialEq, Eq)]
    struct nvmlUtilization_t {
        gpu: c_uint,
        memory: c_uint,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct anonymous_utilization {
        bIsPresent: c_uint,
        percentage: c_uint,
        incThreshold: c_uint,
        decThreshold: c_uint,
    }

    /// Of the last second, by domain: GPU, frame buffer, video, bus, and room for more.
    #[derive(Debug, PartialEq, Eq)]
    struct nvmlGpuDynamicPstatesInfo_t {
        flags: c_uint,
        utilization: [anonymous_utilization; NVML_MAX_GPU_UTILIZATIONS],
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlProcessUtilizationSample_t {
        pid: c_uint,
        timeStamp: c_ulonglong,
        smUtil: c_uint,
        memUtil: c_uint,
        encUtil: c_uint,
        decUtil: c_uint,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlProcessUtilizationInfo_v1_t {
        timeStamp: c_ulonglong,
        pid: c_uint,
        smUtil: c_uint,
        memUtil: c_uint,
        encUtil: c_uint,
        decUtil: c_uint,
        jpgUtil: c_uint,
        ofaUtil: c_uint,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlProcessesUtilizationInfo_v1_t {
        version: c_uint,
        processSamplesCount: c_uint,
        lastSeenTimeStamp: c_ulonglong,
        procUtilArray: *mut nvmlProcessUtilizationInfo_v1_t,
    }

    /// Which member is valid is said by an `nvmlValueType_t` beside it.
    union nvmlValue_t {
        dVal: f64,
        siVal: c_int,
        uiVal: c_uint,
        ulVal: c_ulong,
        ullVal: c_ulonglong,
        sllVal: c_longlong,
        usVal: c_ushort,
    }

    struct nvmlSample_t {
        timeStamp: c_ulonglong,
        sampleValue: nvmlValue_t,
    }

    struct nvmlFieldValue_t {
        fieldId: c_uint,
        scopeId: c_uint,
        timestamp: c_longlong,
        latencyUsec: c_longlong,
        valueType: nvmlValueType_t,
        nvmlReturn: nvmlReturn_t,
        value: nvmlValue_t,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlViolationTime_t {
        referenceTime: c_ulonglong,
        violationTime: c_ulonglong,
    }

    // events and sensors

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlEventData_t {
        device: nvmlDevice_t,
        eventType: c_ulonglong,
        eventData: c_ulonglong,
        gpuInstanceId: c_uint,
        computeInstanceId: c_uint,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct nvmlTemperature_v1_t {
        version: c_uint,
        sensorType: nvmlTemperatureSensors_t,
        temperature: c_int,
    }
}
