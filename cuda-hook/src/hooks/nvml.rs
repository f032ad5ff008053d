//! What NVML tells about memory: the container's, as the driver's own reports.
//!
//! NVML calls its own exports through its procedure linkage table, and so comes back in here from inside a hooked call: the
//! door lets such calls through.
#![expect(
    unsafe_code,
    reason = "rewrites what NVML has written to the caller's out-pointers"
)]

use cuda_sys_stubs::nvml_abi::{
    NVML_SUCCESS, nvmlDevice_t, nvmlGetMemoryLimits_v1_t, nvmlMemory_t, nvmlMemory_v2_t,
    nvmlReturn_t,
};
use limiter::ledger::MemoryUse;

use crate::charge;
use crate::entry::{Bare, Management};
use crate::hooks::measure::owed;
use crate::hooks::report;
use crate::runtime::{self, Stance};

/// NVML's records of memory.
pub(crate) trait MemoryRecord {
    /// Tells the container's memory in the place of the board's. What the driver keeps for itself is not the container's.
    fn show(&mut self, memory: MemoryUse);
}

impl MemoryRecord for nvmlMemory_t {
    fn show(&mut self, memory: MemoryUse) {
        (self.total, self.free) = report::seen(memory, self.total, self.free);
        self.used = memory.current.get().min(self.total);
    }
}

impl MemoryRecord for nvmlMemory_v2_t {
    fn show(&mut self, memory: MemoryUse) {
        (self.total, self.free) = report::seen(memory, self.total, self.free);
        self.used = memory.current.get().min(self.total);
        self.reserved = 0;
    }
}

/// The driver's own limits of a control group: what is enforced here is less, or the same.
impl MemoryRecord for nvmlGetMemoryLimits_v1_t {
    fn show(&mut self, memory: MemoryUse) {
        self.hardLimit = self.hardLimit.min(memory.max.get());
        self.softLimit = self.softLimit.min(memory.max.get());
        self.currentUsed = memory.current.get();
    }
}

/// `nvmlDeviceGetMemoryInfo`, `nvmlDeviceGetMemoryLimits_v1`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn memory_info(
    cx: Bare<Management>,
    call: impl FnOnce() -> nvmlReturn_t,
    device: nvmlDevice_t,
    record: *mut impl MemoryRecord,
) -> nvmlReturn_t {
    if let Some(cx) = runtime::attached() {
        owed::pay(cx);
        charge::refresh_all(cx);
    }
    let status = call();
    let Stance::Limited(limited) = cx.runtime.stance() else {
        return status;
    };
    let nvml = cx.library();
    if status != NVML_SUCCESS {
        return status;
    }
    let memory = nvml
        .device_uuid(device)
        .and_then(|uuid| limited.memory_use(uuid, || nvml.device_uuids()));
    if let Some(memory) = memory {
        // SAFETY: NVML's promise: after success it has written there.
        unsafe { &mut *record }.show(memory);
    }
    status
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use limiter::units::Bytes;

    use super::*;

    #[test]
    fn the_lower_of_two_limits_is_told() {
        let mut record = nvmlGetMemoryLimits_v1_t {
            nameSpace: ptr::null(),
            softLimit: 500,
            hardLimit: u64::MAX,
            currentUsed: 900,
        };
        let memory = MemoryUse {
            max: Bytes::new(1000),
            is_guaranteed: true,
            current: Bytes::new(30),
        };
        record.show(memory);
        let told = (record.softLimit, record.hardLimit, record.currentUsed);
        assert_eq!(told, (500, 1000, 30));
    }
}
