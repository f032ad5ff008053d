//! Processor time that the host of this virtual machine gave to others: a run that lacked it says little of the limiter, and is repeated.

use std::fs;

use crate::failed;

/// So much may be stolen of a run, in percent of the processors' time. Two points are what a share is allowed to be worse by here.
const PERCENT_MAX: f64 = 1.0;
/// A run is played no more often.
const ATTEMPTS_MAX: u32 = 3;

/// What was stolen of all runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stolen {
    /// Runs.
    pub(crate) runs: u32,
    /// Those that were played again.
    pub(crate) repeated: u32,
    /// The most of one that counts, in percent of the processors' time.
    pub(crate) percent_max: f64,
}

impl Stolen {
    /// Plays until little was stolen, but no more than three times; what was played with the least counts.
    pub(crate) fn keep_least<R>(
        &mut self,
        play: impl FnMut() -> Result<R, String>,
    ) -> Result<R, String> {
        let (played, percent, attempts) = least(play, ticks)?;
        self.runs += 1;
        self.repeated += u32::from(attempts > 1);
        self.percent_max = self.percent_max.max(percent);
        Ok(played)
    }
}

/// The processors' time until now, and what of it was stolen, in the kernel's ticks.
fn ticks() -> Result<(u64, u64), String> {
    let stat = fs::read_to_string("/proc/stat").map_err(failed)?;
    ticks_of(&stat).ok_or_else(|| "/proc/stat does not tell the processors' time".to_owned())
}

/// The same, as the first line tells it: user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)).
fn ticks_of(stat: &str) -> Option<(u64, u64)> {
    let words = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace();
    let numbers: Vec<u64> = words.take(8).map_while(|word| word.parse().ok()).collect();
    let stolen = *numbers.get(7)?;
    Some((numbers.iter().sum(), stolen))
}

/// What was played with the least stolen, how much that was, in percent, and how often it was played.
fn least<R>(
    mut play: impl FnMut() -> Result<R, String>,
    mut ticks: impl FnMut() -> Result<(u64, u64), String>,
) -> Result<(R, f64, u32), String> {
    let mut attempts = 0;
    let mut least: Option<(R, f64)> = None;
    loop {
        let (before, stolen_before) = ticks()?;
        let played = play()?;
        let (after, stolen_after) = ticks()?;
        attempts += 1;
        let passed = after.saturating_sub(before).max(1) as f64;
        let percent = 100.0 * stolen_after.saturating_sub(stolen_before) as f64 / passed;
        let kept = match least {
            Some(kept) if kept.1 <= percent => kept,
            _ => (played, percent),
        };
        if kept.1 <= PERCENT_MAX || attempts == ATTEMPTS_MAX {
            return Ok((kept.0, kept.1, attempts));
        }
        least = Some(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_was_stolen() {
        let stat = "cpu  100 2 30 4000 5 6 7 8 90 1\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(ticks_of(stat), Some((4158, 8)));
        assert_eq!(ticks_of("cpu  100 2 30 4000\n"), None);
    }

    /// What is kept where these parts, in percent, are stolen of one run after the other.
    fn kept(stolen_percent: &[u64]) -> (usize, f64, u32) {
        let (mut run, mut reading, mut time) = (0, 0, (0, 0));
        let play = || {
            run += 1;
            Ok(run)
        };
        let ticks = || {
            let is_after = reading % 2 == 1;
            if is_after {
                time = (time.0 + 100, time.1 + stolen_percent[reading / 2]);
            }
            reading += 1;
            Ok(time)
        };
        least(play, ticks).unwrap()
    }

    #[test]
    fn what_lacked_processor_time_is_played_again_and_the_least_stolen_counts() {
        assert_eq!(kept(&[1]), (1, 1.0, 1));
        assert_eq!(kept(&[5, 0]), (2, 0.0, 2));
        assert_eq!(kept(&[5, 3, 9]), (2, 3.0, 3), "no more than three times");
    }
}
