//! The clocks of the real world. Nothing else reads them for the timeline.

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::io;
use std::sync::LazyLock;

const S: u64 = 1_000_000_000;

/// CLOCK_MONOTONIC in ns: the timeline that processes and device share.
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// CLOCK_REALTIME in ns since the epoch.
pub fn realtime_ns() -> u64 {
    nanoseconds(ClockId::Realtime)
}

/// What CLOCK_REALTIME shows at a time of CLOCK_MONOTONIC, in ns since the epoch. The distance of the two is taken once, so that
/// a moment keeps its name whatever becomes of the wall clock.
pub fn realtime_of(monotonic_ns: u64) -> u64 {
    static AHEAD_NS: LazyLock<u64> =
        LazyLock::new(|| realtime_ns().saturating_sub(self::monotonic_ns()));
    monotonic_ns.saturating_add(*AHEAD_NS)
}

/// Sleeps until CLOCK_MONOTONIC shows this, in ns.
///
/// # Errors
/// A signal came first.
pub fn sleep_until(monotonic_ns: u64) -> io::Result<()> {
    let at = Timespec {
        tv_sec: (monotonic_ns / S) as i64,
        tv_nsec: (monotonic_ns % S) as i64,
    };
    Ok(clock_nanosleep_absolute(ClockId::Monotonic, &at)?)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec as u64 * S + now.tv_nsec as u64
}
