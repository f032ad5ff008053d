//! The GPU to one process at a time, for a lease: the mechanism of KubeShare's Gemini, with a fixed quota.
//!
//! Who wants to launch asks a server for the lease. When it has run out the server gives it to the waiting process whose
//! container is furthest behind its share of the last 10 s, relative to that share; one that has used its cap of them is
//! passed over. A thread of the old holder waits for what it still has in flight and then reports what it used in all. The
//! server does not wait for that: what is in flight overruns into the next lease.

use crate::evaluator::{Admission, Controller, Launch, Policy, Seat, Tick, View, Watch};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Usage counts for so long.
const MEMORY_NS: u64 = 10_000_000_000;

/// The policy.
#[derive(Clone, Debug)]
pub struct ExclusiveLease {
    lease_ns: u64,
    server: Rc<RefCell<Server>>,
}

impl ExclusiveLease {
    /// With leases of this length.
    pub fn new(lease_ns: u64) -> Self {
        Self {
            lease_ns,
            server: Rc::default(),
        }
    }
}

impl Policy for ExclusiveLease {
    fn name(&self) -> String {
        format!("exclusive lease of {} ms", self.lease_ns / 1_000_000)
    }

    fn attach(&mut self, seat: &Seat, _now_ns: u64) -> Box<dyn Controller> {
        let waiter = Waiter {
            process: seat.process,
            container: seat.container,
            share: seat.limits.share_percent / 100.0,
            cap: seat.limits.cap_percent.unwrap_or(100.0) / 100.0,
        };
        Box::new(Lease {
            waiter,
            lease_ns: self.lease_ns,
            server: Rc::clone(&self.server),
            state: State::None,
        })
    }
}

/// Somebody who waits for the lease.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    process: usize,
    container: usize,
    share: f64,
    cap: f64,
}

/// Who has the lease, and who had it.
#[derive(Debug, Default)]
struct Server {
    /// The holder's process, and when its lease runs out.
    holder: Option<(usize, u64)>,
    waiting: Vec<Waiter>,
    /// Container, when it was reported, for how long.
    used: VecDeque<(usize, u64, u64)>,
}

impl Server {
    fn used_ns(&self, container: usize) -> u64 {
        let own = self.used.iter().filter(|(of, _, _)| *of == container);
        own.map(|(_, _, used_ns)| used_ns).sum()
    }

    /// By how much of its share a waiter's container is behind; `None`: it has used its cap.
    fn deficit(&self, waiter: &Waiter) -> Option<f64> {
        let used = self.used_ns(waiter.container) as f64 / MEMORY_NS as f64;
        (used < waiter.cap).then(|| (waiter.share - used) / waiter.share)
    }

    fn report(&mut self, container: usize, now_ns: u64, used_ns: u64) {
        self.used.push_back((container, now_ns, used_ns));
    }

    fn ask(&mut self, waiter: Waiter) {
        if self
            .waiting
            .iter()
            .all(|other| other.process != waiter.process)
        {
            self.waiting.push(waiter);
        }
    }

    /// Gives the lease to somebody, if it is free; to whom.
    fn give(&mut self, now_ns: u64, lease_ns: u64) -> Option<usize> {
        if self.holder.is_some_and(|(_, until_ns)| now_ns < until_ns) {
            return None;
        }
        self.used.retain(|(_, at_ns, _)| at_ns + MEMORY_NS > now_ns);
        let waiting = self.waiting.iter().enumerate();
        let deficits = waiting.filter_map(|(at, waiter)| Some((at, self.deficit(waiter)?)));
        let furthest = deficits.max_by(|a, b| a.1.total_cmp(&b.1))?.0;
        let next = self.waiting.swap_remove(furthest).process;
        self.holder = Some((next, now_ns + lease_ns));
        Some(next)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Neither has the lease nor has something to report.
    None,
    /// Holds the lease, since then and until then.
    Holding { since_ns: u64, until_ns: u64 },
    /// Its lease has run out, and what it left in flight has not been reported.
    Draining { since_ns: u64 },
}

/// One process's side.
struct Lease {
    waiter: Waiter,
    lease_ns: u64,
    server: Rc<RefCell<Server>>,
    state: State,
}

impl Lease {
    /// Takes the lease if the server has given it to this process.
    fn take(&mut self, view: &mut View) -> Admission {
        let now_ns = view.now_ns();
        let mut server = self.server.borrow_mut();
        if let Some(next) = server.give(now_ns, self.lease_ns)
            && next != self.waiter.process
        {
            view.wake(next);
        }
        match server.holder {
            Some((holder, until_ns)) if holder == self.waiter.process && now_ns < until_ns => {
                server
                    .waiting
                    .retain(|waiter| waiter.process != self.waiter.process);
                self.state = State::Holding {
                    since_ns: now_ns,
                    until_ns,
                };
                view.wake(self.waiter.process); // the helper, for the end of the lease
                Admission::Granted(Watch::No)
            }
            Some((_, until_ns)) if now_ns < until_ns => Admission::NotBefore(until_ns),
            _ => Admission::NotBefore(now_ns + self.lease_ns),
        }
    }
}

impl Controller for Lease {
    fn admit(&mut self, _launch: &Launch, view: &mut View) -> Admission {
        let now_ns = view.now_ns();
        match self.state {
            State::Holding { until_ns, .. } if now_ns < until_ns => Admission::Granted(Watch::No),
            State::None => {
                self.server.borrow_mut().ask(self.waiter);
                self.take(view)
            }
            State::Holding { .. } | State::Draining { .. } => {
                Admission::NotBefore(now_ns + self.lease_ns)
            }
        }
    }

    fn tick(&mut self, view: &mut View) -> Tick {
        let now_ns = view.now_ns();
        match self.state {
            State::None => Tick::Woken,
            State::Holding { until_ns, .. } if now_ns < until_ns => Tick::At(until_ns),
            State::Holding { since_ns, .. } => {
                self.state = State::Draining { since_ns };
                let next = self.server.borrow_mut().give(now_ns, self.lease_ns);
                next.into_iter().for_each(|next| view.wake(next));
                Tick::Drained
            }
            State::Draining { since_ns } => {
                let used_ns = now_ns - since_ns;
                self.server
                    .borrow_mut()
                    .report(self.waiter.container, now_ns, used_ns);
                self.state = State::None;
                view.wake(self.waiter.process); // the thread may ask again
                Tick::Woken
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_goes_to_who_is_furthest_behind_its_share_and_only_when_it_has_run_out() {
        let mut server = Server::default();
        server.report(0, 0, 2_000_000_000);
        server.report(1, 0, 4_000_000_000);
        for (process, share) in [(0, 0.3), (1, 0.7)] {
            server.ask(Waiter {
                process,
                container: process,
                share,
                cap: 0.5,
            });
        }
        assert_eq!(server.give(5, 100), Some(1)); // 3 of 7 behind, the other 1 of 3
        assert_eq!(server.give(104, 100), None);
        assert_eq!(server.give(105, 100), Some(0));
    }

    #[test]
    fn who_has_used_its_cap_is_passed_over_until_that_is_forgotten() {
        let mut server = Server::default();
        server.report(0, 7, 5_000_000_000);
        server.ask(Waiter {
            process: 0,
            container: 0,
            share: 0.3,
            cap: 0.5,
        });
        assert_eq!(server.give(8, 100), None);
        assert_eq!(server.give(7 + MEMORY_NS, 100), Some(0));
    }

    #[test]
    fn what_was_used_long_ago_is_forgotten() {
        let mut server = Server::default();
        server.report(0, 0, 7);
        server.report(0, MEMORY_NS - 1, 5);
        assert_eq!(server.used_ns(0), 12);
        assert_eq!(server.give(MEMORY_NS, 100), None);
        assert_eq!(server.used_ns(0), 5);
    }
}
