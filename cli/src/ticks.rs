//! A clock that ticks evenly, and how its period is written.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// Ticks evenly, however long the work between two ticks takes.
pub(crate) struct Ticks(OwnedFd);

impl Ticks {
    pub(crate) fn every(period: Duration) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let period = Timespec::try_from(period).map_err(io::Error::other)?;
        let each = Itimerspec {
            it_interval: period,
            it_value: period,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &each)?;
        Ok(Self(timer))
    }

    /// Waits for the next tick; ticks that were missed are one.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let mut count = [0; 8];
        loop {
            match rustix::io::read(&self.0, &mut count) {
                Err(Errno::INTR) => {}
                other => return other.map(drop).map_err(io::Error::from),
            }
        }
    }
}

/// Reads the time between two lines: a whole number and `ms` or `s`.
pub(crate) fn period(text: &str) -> Result<Duration, String> {
    let milliseconds = text.strip_suffix("ms").map(|number| (number, 1));
    let seconds = || text.strip_suffix('s').map(|number| (number, 1000));
    let whole = milliseconds.or_else(seconds).and_then(|(number, unit)| {
        let number: u64 = number.parse().ok()?;
        number.checked_mul(unit)
    });
    match whole {
        Some(milliseconds @ 1..=3_600_000) => Ok(Duration::from_millis(milliseconds)),
        _ => Err("allowed is 1ms to 3600s, as 100ms or 2s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_a_number_with_its_unit() {
        assert_eq!(period("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(period("2s"), Ok(Duration::from_secs(2)));
        for refused in [
            "",
            "100",
            "0ms",
            "-1s",
            "1.5s",
            "1m",
            "ms",
            "4000s",
            "99999999999999999999s",
        ] {
            assert!(period(refused).is_err(), "{refused}");
        }
    }
}
