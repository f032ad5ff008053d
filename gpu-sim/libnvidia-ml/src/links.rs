//! The PCIe link, as wide and as fast as the profile says, always; and what lies between two devices.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint};

use cuda_sys_stubs::nvml_abi::*;
use parking_lot::Mutex;

use crate::door::{exports, give, give_array};
use crate::session::{Device, lost};

exports! {
    fn nvmlDeviceGetMaxPcieLinkGeneration / nvmlDeviceGetCurrPcieLinkGeneration / nvmlDeviceGetGpuMaxPcieLinkGeneration(
        device: nvmlDevice_t, generation: *mut c_uint,
    ) {
        give(generation, Device::of(device)?.profile()?.pcie_generation)
    }
    fn nvmlDeviceGetMaxPcieLinkWidth / nvmlDeviceGetCurrPcieLinkWidth(device: nvmlDevice_t, width: *mut c_uint) {
        give(width, Device::of(device)?.profile()?.pcie_lanes)
    }
    fn nvmlDeviceGetPcieSpeed(device: nvmlDevice_t, pcieSpeed: *mut c_uint) {
        give(pcieSpeed, megatransfers(Device::of(device)?.profile()?.pcie_generation))
    }
    fn nvmlDeviceGetPcieReplayCounter(device: nvmlDevice_t, value: *mut c_uint) {
        Device::of(device)?;
        give(value, 0)
    }
    fn nvmlDeviceGetPcieThroughput(device: nvmlDevice_t, counter: nvmlPcieUtilCounter_t, value: *mut c_uint) {
        let device = Device::of(device)?;
        let copied = device.machine.engine_usage(device.index).map_err(lost)?.copied;
        // What the device sends goes to the host.
        let bytes = match counter {
            NVML_PCIE_UTIL_TX_BYTES => copied.d2h_bytes_total,
            NVML_PCIE_UTIL_RX_BYTES => copied.h2d_bytes_total,
            _ => return Err(NVML_ERROR_INVALID_ARGUMENT),
        };
        give(value, kilobytes_per_s((device.index, counter), gpu_sim::clock::monotonic_ns(), bytes))
    }
    fn nvmlDeviceGetBusType(device: nvmlDevice_t, type_: *mut nvmlBusType_t) {
        Device::of(device)?;
        give(type_, NVML_BUS_TYPE_PCIE)
    }
    // Two devices are two boards, on bridges of their own; peer access is not simulated.
    fn nvmlDeviceGetTopologyCommonAncestor(device1: nvmlDevice_t, device2: nvmlDevice_t, pathInfo: *mut nvmlGpuTopologyLevel_t) {
        let same = Device::of(device1)?.index == Device::of(device2)?.index;
        give(pathInfo, if same { NVML_TOPOLOGY_INTERNAL } else { NVML_TOPOLOGY_NODE })
    }
    fn nvmlDeviceGetTopologyNearestGpus(
        device: nvmlDevice_t, level: nvmlGpuTopologyLevel_t, count: *mut c_uint, deviceArray: *mut nvmlDevice_t,
    ) {
        let device = Device::of(device)?;
        let others = (0..device.machine.devices().len()).filter(|other| *other != device.index as usize);
        let nearest: Vec<_> = others.filter(|_| level == NVML_TOPOLOGY_NODE).map(Device::handle).collect();
        give_array(deviceArray, count, &nearest)
    }
    fn nvmlDeviceOnSameBoard(device1: nvmlDevice_t, device2: nvmlDevice_t, onSameBoard: *mut c_int) {
        let same = Device::of(device1)?.index == Device::of(device2)?.index;
        give(onSameBoard, same.into())
    }
    fn nvmlDeviceGetP2PStatus(
        device1: nvmlDevice_t, device2: nvmlDevice_t, _p2pIndex: nvmlGpuP2PCapsIndex_t, p2pStatus: *mut nvmlGpuP2PStatus_t,
    ) {
        Device::of(device1)?;
        Device::of(device2)?;
        give(p2pStatus, NVML_P2P_STATUS_NOT_SUPPORTED)
    }
}

/// Transfers a lane and second, in millions (PCI Express Base Specification, by generation).
fn megatransfers(generation: c_uint) -> c_uint {
    match generation {
        1 => 2_500,
        2 => 5_000,
        later => 8_000 << later.saturating_sub(3).min(4),
    }
}

/// The mean since this process asked last, 0 the first time. The real library looks on for 20 ms instead.
fn kilobytes_per_s(counter: (u32, nvmlPcieUtilCounter_t), now_ns: u64, bytes: u64) -> c_uint {
    static ASKED: Mutex<BTreeMap<(u32, nvmlPcieUtilCounter_t), (u64, u64)>> =
        Mutex::new(BTreeMap::new());
    let Some((before_ns, before)) = ASKED.lock().insert(counter, (now_ns, bytes)) else {
        return 0;
    };
    rate(
        now_ns.saturating_sub(before_ns),
        bytes.saturating_sub(before),
    )
}

fn rate(elapsed_ns: u64, bytes: u64) -> c_uint {
    // Bytes a ns are GB a second, and a million KB/s.
    let kilobytes = u128::from(bytes) * 1_000_000 / u128::from(elapsed_ns.max(1));
    c_uint::try_from(kilobytes).unwrap_or(c_uint::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lanes_speed_is_its_generations() {
        assert_eq!(
            [1, 2, 3, 4, 5].map(megatransfers),
            [2_500, 5_000, 8_000, 16_000, 32_000]
        );
    }

    #[test]
    fn a_megabyte_in_a_millisecond_is_a_gigabyte_a_second() {
        assert_eq!(rate(1_000_000, 1_000_000), 1_000_000);
        assert_eq!(rate(0, u64::MAX), c_uint::MAX);
    }
}
