//! The limiter's ledger beside the simulated device's own books.

use crate::machine::Machine;
use crate::tenant::Tenant;

/// What a tenant, alone in its container, held on the first device when the books were opened, by either's account.
pub struct Books<'a> {
    machine: &'a Machine,
    free_bytes: u64,
    device_bytes: u64,
}

impl<'a> Books<'a> {
    /// Opens the books of a tenant with a quota that the device has room for.
    #[track_caller]
    pub fn open(machine: &'a Machine, tenant: &mut Tenant) -> Self {
        Self {
            machine,
            free_bytes: tenant.free_bytes(),
            device_bytes: machine.truth_of(tenant.pid()).memory_bytes,
        }
    }

    /// Bytes that its quota had left.
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes
    }

    /// Asserts that the tenant holds `bytes` more than when the books were opened: by the ledger, and by the device, which it asks
    /// first, because the ledger's answer may make the driver look after its memory.
    #[track_caller]
    pub fn assert_more(&self, tenant: &mut Tenant, bytes: u64, when: &str) {
        let device_bytes = self.machine.truth_of(tenant.pid()).memory_bytes;
        let ledger_bytes = self.free_bytes.wrapping_sub(tenant.free_bytes());
        let device_bytes = device_bytes.wrapping_sub(self.device_bytes);
        assert_eq!(
            (ledger_bytes, device_bytes),
            (bytes, bytes),
            "{when}: by the ledger and by the device"
        );
    }
}
