//! The one place that reads a clock.

use crate::shm;
use crate::units::MonotonicNs;

/// Now, on `CLOCK_MONOTONIC`: one clock for all processes of the machine, unmoved by whoever sets the date.
pub fn monotonic() -> MonotonicNs {
    shm::clock_monotonic()
}
