//! What a launch asks before it goes to the driver.
//!
//! ```text
//! loop { match share.admit(device_index, key, now) {
//!     Granted(r) => break r,
//!     NotBefore(t) => now = share.wait(device_index, t),   // exact; hold no lock here
//! } }
//! let timed = share.should_time(device_index, key, now);   // put timing events around it?
//! launch; on failure: share.cancel(r)
//! when it has finished: share.completed(r, timing if timed, now)
//! ```

use std::path::Path;

use crate::config::GpuLimits;
use crate::ledger::Ledger;
use crate::price::KernelKey;
use crate::shm::AttachError;
use crate::units::{GpuNs, MonotonicNs};

/// This process's part in its container's share. All methods are thread-safe; none allocates after `attach`.
#[derive(Debug)]
pub struct Share {}

/// The answer to a launch.
#[derive(Debug)]
pub enum Admit {
    /// Go. Hand the reservation back when the launch has finished or failed.
    Granted(Reservation),
    /// Ask again at this time.
    NotBefore(MonotonicNs),
}

/// GPU time set aside for one launch.
#[derive(Clone, Copy, Debug)]
#[must_use = "give it to `completed` or `cancel`"]
pub struct Reservation {
    device_index: u32,
    key: KernelKey,
    reserved: GpuNs,
}

/// What a pair of timing events around one launch said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time between the two events.
    pub elapsed: GpuNs,
    /// When the second was reached, as nearly as the host knows.
    pub ended_at: MonotonicNs,
}

impl Share {
    /// Take part in the shares of `ledger`'s container; `limits` in the ledger's device order.
    /// `dir` holds the per-GPU boards `gpu-<uuid>.board`.
    pub fn attach(
        _ledger: &Ledger,
        _dir: &Path,
        _limits: &[GpuLimits],
    ) -> Result<Self, AttachError> {
        unimplemented!()
    }
    /// May a launch of `key` go to the device now?
    pub fn admit(&self, _device_index: usize, _key: KernelKey, _now: MonotonicNs) -> Admit {
        unimplemented!()
    }
    /// Wait until `deadline`, or until the limits change; returns the time then. Counts as throttled.
    pub fn wait(&self, _device_index: usize, _deadline: MonotonicNs) -> MonotonicNs {
        unimplemented!()
    }
    /// Whether this launch should be put between two timing events.
    pub fn should_time(&self, _device_index: usize, _key: KernelKey, _now: MonotonicNs) -> bool {
        unimplemented!()
    }
    /// A launch has finished: learn from its timing, if it was timed, and correct its charge.
    pub fn completed(&self, reservation: Reservation, _timing: Option<Timing>, _now: MonotonicNs) {
        let _ = (
            reservation.device_index,
            reservation.key,
            reservation.reserved,
        );
        unimplemented!()
    }
    /// The driver refused the launch: give its reservation back.
    pub fn cancel(&self, _reservation: Reservation) {
        unimplemented!()
    }
    /// Whether launches on this device are limited at all; where not, skip everything else.
    pub fn is_limited(&self, _device_index: usize) -> bool {
        unimplemented!()
    }
    /// While launches are outstanding: call every few hundred microseconds (says "alive and busy" to the other tenants).
    pub fn heartbeat(&self, _now: MonotonicNs) {
        unimplemented!()
    }
    /// In a forked child: let go of the parent's place without touching it.
    pub fn forget_after_fork(self) {
        unimplemented!()
    }
}
