//! Initialisation, devices and what they say of themselves.

use std::ffi::c_char;

use cuda_sys_stubs::abi::*;
use gpu_sim::profile::CUDA_VERSION;

use super::{list, put, put_text, text, wanted};
use crate::context;
use crate::device;
use crate::door::{Answer, exports};
use crate::launch::{BLOCK_MAX, BLOCK_THREADS_MAX, GRID_MAX, SHARED_BYTES_DEFAULT};
use crate::process::{Device, process};

/// Memory of a device, in bytes, and the device.
fn with_device<T>(device: CUdevice, ask: impl FnOnce(&Device) -> T) -> Answer<T> {
    Ok(ask(process()?.device(device)?.1))
}

fn uuid(device: CUdevice) -> Answer<CUuuid> {
    with_device(device, |device| CUuuid {
        bytes: device.profile.uuid.map(u8::cast_signed),
    })
}

fn can_access_peer(from: CUdevice, to: CUdevice) -> Answer<bool> {
    let process = process()?;
    Ok(process.device(from)?.0 != process.device(to)?.0)
}

/// Over PCI Express no operation is atomic.
///
/// # Safety
/// Both lists have that many elements.
unsafe fn put_no_atomics(
    capabilities: *mut u32,
    operations: *const CUatomicOperation,
    count: u32,
) -> Answer {
    let count = usize::try_from(count).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    wanted(capabilities)?;
    // SAFETY: the caller's promise.
    let operations = unsafe { list(operations, count)? };
    for index in 0..operations.len() {
        // SAFETY: there is one for each operation (caller).
        unsafe { put(capabilities.wrapping_add(index), 0)? };
    }
    if count == 0 {
        Err(CUDA_ERROR_INVALID_VALUE)
    } else {
        Ok(())
    }
}

fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn properties(device: &Device) -> CUdevprop {
    CUdevprop {
        maxThreadsPerBlock: signed(BLOCK_THREADS_MAX),
        maxThreadsDim: BLOCK_MAX.map(signed),
        maxGridSize: GRID_MAX.map(signed),
        sharedMemPerBlock: signed(SHARED_BYTES_DEFAULT),
        totalConstantMemory: 64 << 10,
        SIMDWidth: 32,
        memPitch: i32::MAX,
        regsPerBlock: signed(device.profile.registers_per_sm),
        clockRate: signed(device.profile.sm_clock_mhz.saturating_mul(1000)),
        textureAlign: 512,
    }
}

exports! {
    fn cuInit(Flags: u32) {
        if Flags == 0 { crate::process::init() } else { Err(CUDA_ERROR_INVALID_VALUE) }
    }
    fn cuDriverGetVersion(driverVersion: *mut i32) {
        put(driverVersion, CUDA_VERSION)
    }
    fn cuDeviceGetCount(count: *mut i32) {
        put(count, i32::try_from(process()?.devices.len()).unwrap_or(i32::MAX))
    }
    fn cuDeviceGet(device: *mut CUdevice, ordinal: i32) {
        let process = process()?;
        wanted(device)?;
        process.device(ordinal)?;
        put(device, ordinal)
    }
    fn cuDeviceGetName(name: *mut c_char, len: i32, dev: CUdevice) {
        let profile = with_device(dev, |device| device.profile.name.clone())?;
        put_text(name, len, &profile)
    }
    fn cuDeviceGetUuid(out: *mut CUuuid, dev: CUdevice) {
        put(out, uuid(dev)?)
    }
    fn cuDeviceGetUuid_v2(out: *mut CUuuid, dev: CUdevice) {
        put(out, uuid(dev)?)
    }
    fn cuDeviceTotalMem(bytes: *mut u32, dev: CUdevice) {
        put(bytes, super::narrow(with_device(dev, |device| device.profile.memory_bytes)?))
    }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, dev: CUdevice) {
        let total = with_device(dev, |device| device.profile.memory_bytes)?;
        put(bytes, usize::try_from(total).unwrap_or(usize::MAX))
    }
    fn cuDeviceGetAttribute(pi: *mut i32, attrib: CUdevice_attribute, dev: CUdevice) {
        wanted(pi)?;
        put(pi, with_device(dev, |device| device::attribute(&device.profile, attrib))??)
    }
    fn cuDeviceComputeCapability(major: *mut i32, minor: *mut i32, dev: CUdevice) {
        let capability = with_device(dev, |device| device.profile.compute_capability)?;
        put(major, signed(capability.0))?;
        put(minor, signed(capability.1))
    }
    fn cuDeviceGetProperties(prop: *mut CUdevprop, dev: CUdevice) {
        put(prop, with_device(dev, properties)?)
    }
    fn cuDeviceGetPCIBusId(pciBusId: *mut c_char, len: i32, dev: CUdevice) {
        let id = with_device(dev, |device| device::pci_bus_id(&device.profile))?;
        put_text(pciBusId, len, &id)
    }
    fn cuDeviceGetByPCIBusId(dev: *mut CUdevice, pciBusId: *const c_char) {
        let process = process()?;
        let id = text(pciBusId)?;
        let found = process.devices.iter().position(|device| device::matches_pci_bus_id(&device.profile, id));
        let ordinal = found.and_then(|ordinal| CUdevice::try_from(ordinal).ok()).ok_or(CUDA_ERROR_INVALID_DEVICE)?;
        put(dev, ordinal)
    }
    fn cuDeviceGetExecAffinitySupport(pi: *mut i32, r#type: CUexecAffinityType, dev: CUdevice) {
        with_device(dev, |_| ())?;
        if r#type >= CU_EXEC_AFFINITY_TYPE_MAX { Err(CUDA_ERROR_INVALID_VALUE) } else { put(pi, 0) }
    }
    fn cuDeviceCanAccessPeer(canAccessPeer: *mut i32, dev: CUdevice, peerDev: CUdevice) {
        put(canAccessPeer, can_access_peer(dev, peerDev)?.into())
    }
    fn cuDeviceGetP2PAttribute(value: *mut i32, attrib: CUdevice_P2PAttribute, srcDevice: CUdevice, dstDevice: CUdevice) {
        if !can_access_peer(srcDevice, dstDevice)? {
            return Err(CUDA_ERROR_INVALID_DEVICE);
        }
        match attrib {
            CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED => put(value, 1),
            CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK..=CU_DEVICE_P2P_ATTRIBUTE_ONLY_PARTIAL_NATIVE_ATOMIC_SUPPORTED => put(value, 0),
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }
    fn cuDeviceGetP2PAtomicCapabilities(capabilities: *mut u32, operations: *const CUatomicOperation, count: u32, srcDevice: CUdevice, dstDevice: CUdevice) {
        if !can_access_peer(srcDevice, dstDevice)? {
            return Err(CUDA_ERROR_INVALID_DEVICE);
        }
        put_no_atomics(capabilities, operations, count)
    }
    fn cuDeviceGetHostAtomicCapabilities(capabilities: *mut u32, operations: *const CUatomicOperation, count: u32, dev: CUdevice) {
        with_device(dev, |_| ())?;
        put_no_atomics(capabilities, operations, count)
    }
    fn cuProfilerStart() {
        // Nobody profiles, so there is nothing to switch on.
        context::current(&process()?.lock()).map(drop)
    }
    fn cuProfilerStop() {
        context::current(&process()?.lock()).map(drop)
    }
    fn cuDeviceGetTexture1DLinearMaxWidth(maxWidthInElements: *mut usize, _format: CUarray_format, numChannels: u32, dev: CUdevice) {
        with_device(dev, |_| ())?;
        if matches!(numChannels, 1 | 2 | 4) { put(maxWidthInElements, 1 << 28) } else { Err(CUDA_ERROR_INVALID_VALUE) }
    }
    fn cuCtxGetExecAffinity(pExecAffinity: *mut CUexecAffinityParam, r#type: CUexecAffinityType) {
        let process = process()?;
        context::current(&process.lock())?;
        wanted(pExecAffinity)?;
        if r#type >= CU_EXEC_AFFINITY_TYPE_MAX { Err(CUDA_ERROR_INVALID_VALUE) } else { Err(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY) }
    }
}
