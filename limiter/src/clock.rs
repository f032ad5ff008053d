//! The one place that reads clocks.

use crate::shm;
use crate::units::MonotonicNs;

/// Now, on `CLOCK_MONOTONIC`: one clock for all processes of the machine, unmoved by whoever sets the date.
pub fn monotonic() -> MonotonicNs {
    shm::clock(shm::Clock::Monotonic)
}

/// The same as of the kernel's last tick, at most 10 ms ago, for a fraction of the cost: for what is done now and then.
pub fn coarse() -> MonotonicNs {
    shm::clock(shm::Clock::MonotonicCoarse)
}

/// Nanoseconds since 1970, as files are stamped. Somebody may set it.
pub fn wall_ns() -> u64 {
    shm::clock(shm::Clock::Realtime).get()
}
