//! At most so many launches in flight, and a gate: XSched's first level of preemption.
//!
//! Each launch has an event behind it. A launch that would be one too many waits for the oldest event. While the gate is
//! shut no launch goes; what is in flight runs on, and when it has ended the process is preempted.

use crate::evaluator::{Admission, Controller, Ended, Launch, LaunchId, Policy, Seat, View, Watch};
use std::collections::VecDeque;
use std::ops::Range;

/// The policy.
#[derive(Clone, Debug)]
pub struct CountWindow {
    /// Launches of a process that may be in flight; at least 1.
    pub threshold: usize,
    /// When the gate is shut, in ns; in order of time.
    pub shut_ns: Vec<Range<u64>>,
}

impl Policy for CountWindow {
    fn name(&self) -> String {
        format!("window of {} launches", self.threshold)
    }

    fn attach(&mut self, _seat: &Seat, _now_ns: u64) -> Box<dyn Controller> {
        Box::new(Window {
            policy: self.clone(),
            in_flight: VecDeque::new(),
        })
    }
}

/// The window of one process.
struct Window {
    policy: CountWindow,
    in_flight: VecDeque<LaunchId>,
}

impl Controller for Window {
    fn admit(&mut self, _launch: &Launch, view: &mut View) -> Admission {
        let now_ns = view.now_ns();
        let mut shut = self.policy.shut_ns.iter();
        if let Some(shut) = shut.find(|shut| shut.contains(&now_ns)) {
            return Admission::NotBefore(shut.end);
        }
        match self.in_flight.front() {
            Some(&oldest) if self.in_flight.len() >= self.policy.threshold => {
                Admission::After(oldest)
            }
            _ => Admission::Granted(Watch::End),
        }
    }

    fn launched(&mut self, launch: &Launch, _view: &mut View) {
        self.in_flight.push_back(launch.id);
    }

    fn ended(&mut self, ended: &Ended, _view: &mut View) {
        self.in_flight.retain(|&launch| launch != ended.launch);
    }
}
