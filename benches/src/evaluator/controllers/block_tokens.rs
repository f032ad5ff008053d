//! Tokens by the block, refilled as NVML says: the mechanism of vcuda-controller and HAMi-core.
//!
//! Each launch takes as many tokens from its process as its grid has blocks, and waits in steps of 10 ms while the balance
//! is negative. A thread compares, every 120 ms, NVML's figure of the last second, summed over the container's processes,
//! with the limit, moves the refill towards it, and adds the refill to the balance. Graphs take nothing.

use crate::evaluator::{Admission, Controller, Launch, Policy, Seat, Tick, View, Watch};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How long a launch sleeps before it looks at the balance again.
const LAUNCH_PAUSE_NS: u64 = 10_000_000;
/// How long the thread sleeps between two corrections.
const CORRECTION_PAUSE_NS: u64 = 120_000_000;
/// What NVML is asked about: the last second.
const PERIOD_NS: u64 = 1_000_000_000;
/// Tokens of the pool for each thread that the device holds.
const TOKENS_PER_THREAD: i64 = 32;
/// Errors below this many percent count as so many.
const ERROR_PERCENT_MIN: i64 = 5;
/// Divides the product of device size and error.
const STEP_DIVISOR: i64 = 2_560;

/// How a correction grows with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// With the square of its SMs: as released.
    Quadratic,
    /// With its SMs: as proposed in HAMi-core's pull request 317.
    Linear,
}

/// The policy. What the processes of a container share is who they are.
#[derive(Clone, Debug)]
pub struct BlockTokens {
    step: Step,
    /// Processes of each container.
    members: Rc<RefCell<BTreeMap<usize, Vec<usize>>>>,
}

impl BlockTokens {
    /// With corrections of this kind.
    pub fn new(step: Step) -> Self {
        Self {
            step,
            members: Rc::default(),
        }
    }
}

impl Policy for BlockTokens {
    fn name(&self) -> String {
        match self.step {
            Step::Quadratic => "block tokens".to_owned(),
            Step::Linear => "block tokens, linear step".to_owned(),
        }
    }

    fn attach(&mut self, seat: &Seat, _now_ns: u64) -> Box<dyn Controller> {
        let mut members = self.members.borrow_mut();
        members
            .entry(seat.container)
            .or_default()
            .push(seat.process);
        let threads = i64::from(seat.sm_count) * i64::from(seat.threads_per_sm);
        let step_per_percent = match self.step {
            Step::Quadratic => threads * i64::from(seat.sm_count),
            Step::Linear => threads,
        };
        Box::new(Tokens {
            container: seat.container,
            members: Rc::clone(&self.members),
            limit_percent: seat.limits.cap_percent.unwrap_or(100.0) as i64,
            step_per_percent,
            pool: threads * TOKENS_PER_THREAD,
            balance: 0,
            refill: 0,
        })
    }
}

/// The tokens of one process.
struct Tokens {
    container: usize,
    members: Rc<RefCell<BTreeMap<usize, Vec<usize>>>>,
    limit_percent: i64,
    /// [`STEP_DIVISOR`] times a correction for one percent.
    step_per_percent: i64,
    pool: i64,
    balance: i64,
    refill: i64,
}

impl Tokens {
    fn correct(&mut self, seen_percent: i64) {
        if self.refill == self.pool && self.balance < 0 {
            self.pool *= 2;
            self.refill = self.pool;
        }
        let error = (self.limit_percent - seen_percent)
            .abs()
            .max(ERROR_PERCENT_MIN);
        let mut step = self.step_per_percent * error / STEP_DIVISOR;
        if error > self.limit_percent / 2 {
            step = step * error * 2 / (self.limit_percent + 1);
        }
        self.refill = match seen_percent <= self.limit_percent {
            true => (self.refill + step).min(self.pool),
            false => (self.refill - step).max(0),
        };
        self.balance = (self.balance + self.refill).min(self.pool);
    }
}

impl Controller for Tokens {
    fn admit(&mut self, launch: &Launch, view: &mut View) -> Admission {
        if self.limit_percent >= 100 || launch.is_graph {
            return Admission::Granted(Watch::No);
        }
        if self.balance < 0 {
            return Admission::NotBefore(view.now_ns() + LAUNCH_PAUSE_NS);
        }
        self.balance -= launch.blocks as i64;
        Admission::Granted(Watch::No)
    }

    fn tick(&mut self, view: &mut View) -> Tick {
        let since_ns = view.now_ns().saturating_sub(PERIOD_NS);
        let members = self.members.borrow();
        let seen = view.nvml_utilization(&members[&self.container], since_ns);
        drop(members);
        // A process that NVML has not seen counts as one that did nothing.
        self.correct(seen.into_iter().flatten().map(i64::from).sum());
        Tick::At(view.now_ns() + CORRECTION_PAUSE_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(step_per_percent: i64) -> Tokens {
        Tokens {
            container: 0,
            members: Rc::default(),
            limit_percent: 30,
            step_per_percent,
            pool: 188 * 1_536 * TOKENS_PER_THREAD,
            balance: 0,
            refill: 0,
        }
    }

    #[test]
    fn the_smallest_step_is_what_was_reported_for_188_sms() {
        let mut tokens = tokens(188 * 188 * 1_536);
        tokens.correct(30);
        assert_eq!(tokens.refill, 106_032);
        assert_eq!(tokens.balance, 106_032);
    }

    #[test]
    fn a_large_error_is_boosted_and_one_above_the_limit_lowers_the_refill() {
        let mut tokens = tokens(2_560);
        tokens.correct(0);
        assert_eq!(tokens.refill, 30 * 30 * 2 / 31);
        tokens.correct(40);
        assert_eq!(tokens.refill, 58 - 10);
        tokens.correct(100);
        assert_eq!(tokens.refill, 0);
    }

    #[test]
    fn a_pool_that_does_not_suffice_doubles() {
        let mut tokens = tokens(188 * 188 * 1_536);
        let pool = tokens.pool;
        (tokens.refill, tokens.balance) = (pool, -1);
        tokens.correct(0);
        assert_eq!((tokens.pool, tokens.balance), (2 * pool, 2 * pool - 1));
    }
}
