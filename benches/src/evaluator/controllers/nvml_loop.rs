//! Launches in a part of each period only, which is moved as NVML says: feedback alone, without any count of work.
//!
//! A thread asks NVML every 100 ms for the figure of the last second, summed over the container's processes, and moves the part of the
//! period in which launches go by a tenth of the error. What was launched in that part runs on afterwards.

use crate::evaluator::{Admission, Controller, Launch, Policy, Seat, Tick, View, Watch};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Launches go in the first part of so long, and the part is corrected once in it.
const PERIOD_NS: u64 = 100_000_000;
/// What NVML is asked about: the last second.
const ASKED_NS: u64 = 1_000_000_000;
/// Part of the error by which a correction moves the open part.
const GAIN: f64 = 0.1;
/// The open part is never less, or nothing would be measured.
const OPEN_MIN: f64 = 0.005;

/// The policy. What the processes of a container share is who they are.
#[derive(Clone, Debug, Default)]
pub struct NvmlLoop {
    /// Processes of each container.
    members: Rc<RefCell<BTreeMap<usize, Vec<usize>>>>,
}

impl Policy for NvmlLoop {
    fn name(&self) -> String {
        "NVML loop".to_owned()
    }

    fn attach(&mut self, seat: &Seat, _now_ns: u64) -> Box<dyn Controller> {
        let mut members = self.members.borrow_mut();
        members
            .entry(seat.container)
            .or_default()
            .push(seat.process);
        let cap = seat.limits.cap_percent.unwrap_or(100.0) / 100.0;
        Box::new(Loop {
            container: seat.container,
            members: Rc::clone(&self.members),
            cap,
            open: cap,
        })
    }
}

/// The loop of one process.
struct Loop {
    container: usize,
    members: Rc<RefCell<BTreeMap<usize, Vec<usize>>>>,
    cap: f64,
    /// Part of the period in which launches go.
    open: f64,
}

impl Loop {
    fn correct(&mut self, seen: f64) {
        self.open = (self.open + GAIN * (self.cap - seen)).clamp(OPEN_MIN, 1.0);
    }

    /// When a launch may go that is wanted now; `None`: now.
    fn not_before(&self, now_ns: u64) -> Option<u64> {
        let since_ns = now_ns % PERIOD_NS;
        let is_open = (since_ns as f64) < self.open * PERIOD_NS as f64;
        (!is_open).then(|| now_ns - since_ns + PERIOD_NS)
    }
}

impl Controller for Loop {
    fn admit(&mut self, _launch: &Launch, view: &mut View) -> Admission {
        let shut = (self.cap < 1.0).then(|| self.not_before(view.now_ns()));
        match shut.flatten() {
            Some(at_ns) => Admission::NotBefore(at_ns),
            None => Admission::Granted(Watch::No),
        }
    }

    fn tick(&mut self, view: &mut View) -> Tick {
        let asked_ns = view.now_ns();
        let since_ns = asked_ns.saturating_sub(ASKED_NS);
        let members = self.members.borrow();
        let seen = view.nvml_utilization(&members[&self.container], since_ns);
        drop(members);
        // A process that NVML has not seen counts as one that did nothing.
        let percent: u32 = seen.into_iter().flatten().sum();
        self.correct(f64::from(percent) / 100.0);
        Tick::At(asked_ns + PERIOD_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_go_in_the_first_part_of_a_period_which_follows_the_error() {
        let mut tenant = Loop {
            container: 0,
            members: Rc::default(),
            cap: 0.3,
            open: 0.3,
        };
        let shut_at = |tenant: &Loop, ms: u64| tenant.not_before(ms * 1_000_000);
        assert_eq!(shut_at(&tenant, 129), None);
        assert_eq!(shut_at(&tenant, 130), Some(200_000_000));
        tenant.correct(0.5);
        assert!((tenant.open - 0.28).abs() < 1e-12, "{}", tenant.open);
        assert_eq!(shut_at(&tenant, 129), Some(200_000_000));
        (0..100).for_each(|_| tenant.correct(1.0));
        assert_eq!(tenant.open, OPEN_MIN);
    }
}
