//! Which devices there are, and what they are called.

use std::ffi::{c_char, c_int, c_uint};
use std::mem::offset_of;

use cuda_sys_stubs::nvml_abi::*;
use gpu_sim::profile::Profile;

use crate::door::{Answer, exports, give, give_text, take, text};
use crate::session::{Device, machine};

/// PCI class and subclass of a GPU without a display (PCI Code and ID Assignment Specification).
const DISPLAY_CONTROLLER: c_uint = 0x03;
const THREE_D_CONTROLLER: c_uint = 0x02;

exports! {
    fn nvmlDeviceGetCount / nvmlDeviceGetCount_v2(deviceCount: *mut c_uint) {
        let machine = machine()?;
        give(deviceCount, c_uint::try_from(machine.devices().len()).map_err(|_| NVML_ERROR_UNKNOWN)?)
    }
    fn nvmlDeviceGetHandleByIndex / nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) {
        let handle = Device::handle(index as usize);
        Device::of(handle)?;
        give(device, handle)
    }
    fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) {
        let wanted = text(uuid)?;
        give(device, find(|profile| profile.uuid_text() == wanted)?)
    }
    fn nvmlDeviceGetHandleByPciBusId / nvmlDeviceGetHandleByPciBusId_v2(pciBusId: *const c_char, device: *mut nvmlDevice_t) {
        let wanted = text(pciBusId)?.to_ascii_uppercase();
        // The domain may have four or eight digits, or be left out.
        give(device, find(|profile| !wanted.is_empty() && bus_id(profile, 8).ends_with(&wanted) && wanted.len() >= 7)?)
    }
    fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) { give(index, Device::of(device)?.index) }
    fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minorNumber: *mut c_uint) { give(minorNumber, Device::of(device)?.index) }
    fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) {
        give_text(name, length, &Device::of(device)?.profile()?.name)
    }
    fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) {
        give_text(uuid, length, &Device::of(device)?.profile()?.uuid_text())
    }
    fn nvmlDeviceGetBrand(device: nvmlDevice_t, type_: *mut nvmlBrandType_t) {
        let device = Device::of(device)?;
        let name = &device.profile()?.name;
        give(type_, if name.contains("RTX") { NVML_BRAND_GEFORCE_RTX } else if name.contains("Tesla") { NVML_BRAND_TESLA } else { NVML_BRAND_NVIDIA })
    }
    fn nvmlDeviceGetArchitecture(device: nvmlDevice_t, arch: *mut nvmlDeviceArchitecture_t) {
        give(arch, architecture(Device::of(device)?.profile()?.compute_capability))
    }
    fn nvmlDeviceGetCudaComputeCapability(device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int) {
        let (high, low) = Device::of(device)?.profile()?.compute_capability;
        give(major, c_int::try_from(high).map_err(|_| NVML_ERROR_UNKNOWN)?)?;
        give(minor, c_int::try_from(low).map_err(|_| NVML_ERROR_UNKNOWN)?)
    }
    fn nvmlDeviceGetNumGpuCores(device: nvmlDevice_t, numCores: *mut c_uint) {
        let device = Device::of(device)?;
        let profile = device.profile()?;
        give(numCores, profile.sm_count.saturating_mul(profile.cores_per_sm))
    }
    fn nvmlDeviceGetMultiGpuBoard(device: nvmlDevice_t, multiGpuBool: *mut c_uint) {
        Device::of(device)?;
        give(multiGpuBool, 0)
    }
    // The record ended before `busId` when these two came out; what lies there may not be the caller's.
    fn nvmlDeviceGetPciInfo / nvmlDeviceGetPciInfo_v2(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) {
        let info = pci_info(Device::of(device)?.profile()?);
        let bytes: [u8; offset_of!(nvmlPciInfo_t, busId)] = (&raw const info).cast::<[u8; offset_of!(nvmlPciInfo_t, busId)]>().read();
        give(pci.cast(), bytes)
    }
    fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) {
        give(pci, pci_info(Device::of(device)?.profile()?))
    }
    fn nvmlDeviceGetPciInfoExt(device: nvmlDevice_t, pci: *mut nvmlPciInfoExt_t) {
        let device = Device::of(device)?;
        if take((&raw const (*pci).version).cast::<c_uint>())? != nvmlPciInfoExt_v1 {
            return Err(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        }
        give(pci, pci_info_ext(device.profile()?))
    }
    fn nvmlDeviceGetSerial(device: nvmlDevice_t, serial: *mut c_char, length: c_uint) {
        let device = Device::of(device)?;
        give_text(serial, length, &serial_of(device.profile()?).ok_or(NVML_ERROR_NOT_SUPPORTED)?)
    }
    fn nvmlDeviceGetHandleBySerial(serial: *const c_char, device: *mut nvmlDevice_t) {
        let wanted = text(serial)?;
        give(device, find(|profile| serial_of(profile).is_some_and(|serial| serial == wanted))?)
    }
    fn nvmlDeviceGetVbiosVersion(device: nvmlDevice_t, version: *mut c_char, length: c_uint) {
        give_text(version, length, &vbios_version(Device::of(device)?.profile()?.compute_capability))
    }
    // Bus and device number, as `nvidia-smi -q` shows it.
    fn nvmlDeviceGetBoardId(device: nvmlDevice_t, boardId: *mut c_uint) {
        let device = Device::of(device)?;
        let profile = device.profile()?;
        give(boardId, c_uint::from(profile.pci_bus) << 8 | c_uint::from(profile.pci_device))
    }
    fn nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, mode: *mut nvmlEnableState_t) {
        Device::of(device)?;
        give(mode, NVML_FEATURE_ENABLED)
    }
    fn nvmlDeviceGetComputeMode(device: nvmlDevice_t, mode: *mut nvmlComputeMode_t) {
        Device::of(device)?;
        give(mode, NVML_COMPUTEMODE_DEFAULT)
    }
    fn nvmlDeviceGetDisplayMode / nvmlDeviceGetDisplayActive(device: nvmlDevice_t, mode: *mut nvmlEnableState_t) {
        Device::of(device)?;
        give(mode, NVML_FEATURE_DISABLED)
    }
}

/// The handle of the first device of which `is` is true.
fn find(is: impl Fn(&Profile) -> bool) -> Answer<nvmlDevice_t> {
    machine()?
        .devices()
        .iter()
        .position(is)
        .map(Device::handle)
        .ok_or(NVML_ERROR_NOT_FOUND)
}

/// Compute capability → generation (CUDA programming guide, "Compute Capabilities").
fn architecture(compute_capability: (u32, u32)) -> nvmlDeviceArchitecture_t {
    match compute_capability {
        (3, _) => NVML_DEVICE_ARCH_KEPLER,
        (5, _) => NVML_DEVICE_ARCH_MAXWELL,
        (6, _) => NVML_DEVICE_ARCH_PASCAL,
        (7, 5) => NVML_DEVICE_ARCH_TURING,
        (7, _) => NVML_DEVICE_ARCH_VOLTA,
        (8, 9) => NVML_DEVICE_ARCH_ADA,
        (8, _) => NVML_DEVICE_ARCH_AMPERE,
        (9, _) => NVML_DEVICE_ARCH_HOPPER,
        (10 | 12, _) => NVML_DEVICE_ARCH_BLACKWELL,
        _ => NVML_DEVICE_ARCH_UNKNOWN,
    }
}

/// The number that begins a generation's VBIOS versions, as `nvidia-smi -q` shows them; no such version was ever released.
fn vbios_version(compute_capability: (u32, u32)) -> String {
    let generation = match compute_capability {
        (7, 0) => 88,
        (7, 5) => 90,
        (8, 0) => 92,
        (8, 6) => 94,
        (8, 9) => 95,
        (9, 0) => 96,
        _ => 0,
    };
    format!("{generation:02}.00.00.00.00")
}

/// `domain:bus:device.function`, the domain with that many digits.
fn bus_id(profile: &Profile, domain_digits: usize) -> String {
    format!(
        "{:0domain_digits$X}:{:02X}:{:02X}.0",
        0, profile.pci_bus, profile.pci_device
    )
}

fn pci_info(profile: &Profile) -> nvmlPciInfo_t {
    nvmlPciInfo_t {
        busIdLegacy: characters(&bus_id(profile, 4)),
        domain: 0,
        bus: profile.pci_bus.into(),
        device: profile.pci_device.into(),
        pciDeviceId: profile.pci_device_id,
        pciSubSystemId: profile.pci_subsystem_id,
        busId: characters(&bus_id(profile, 8)),
    }
}

fn pci_info_ext(profile: &Profile) -> nvmlPciInfoExt_t {
    nvmlPciInfoExt_t {
        version: nvmlPciInfoExt_v1,
        domain: 0,
        bus: profile.pci_bus.into(),
        device: profile.pci_device.into(),
        pciDeviceId: profile.pci_device_id,
        pciSubSystemId: profile.pci_subsystem_id,
        baseClass: DISPLAY_CONTROLLER,
        subClass: THREE_D_CONTROLLER,
        busId: characters(&bus_id(profile, 8)),
    }
}

/// 13 digits out of the UUID. GeForce boards show none.
fn serial_of(profile: &Profile) -> Option<String> {
    let (high, _) = profile.uuid.split_first_chunk()?;
    let number = u64::from_be_bytes(*high) % 10_u64.pow(13);
    (!profile.name.contains("GeForce")).then(|| format!("{number:013}"))
}

/// A string in a fixed field, cut where it does not leave room for the NUL.
fn characters<const N: usize>(value: &str) -> [c_char; N] {
    let mut field = [0; N];
    for (to, byte) in field
        .iter_mut()
        .take(N.saturating_sub(1))
        .zip(value.bytes())
    {
        *to = byte.cast_signed() as c_char;
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_always_ends_in_nul() {
        assert_eq!(characters::<4>("0000:00").last(), Some(&0));
    }

    #[test]
    fn turing_is_not_volta_though_both_have_a_7() {
        assert_eq!(architecture((7, 5)), NVML_DEVICE_ARCH_TURING);
        assert_eq!(architecture((7, 0)), NVML_DEVICE_ARCH_VOLTA);
    }
}
