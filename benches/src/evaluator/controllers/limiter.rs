//! The project's own limiter: the very code that runs in a hooked process, here in virtual time.
//!
//! What `cuda-hook` does around it – events, looks, waits – is what [`Controller`] and the run do.

use crate::evaluator::{
    Admission, Change, Container, Controller, Ended, Launch, LaunchId, Policy, Seat, View, Watch,
};
use limiter::config::{self, GpuLimits};
use limiter::control;
use limiter::ledger::Ledger;
use limiter::price::KernelKey;
use limiter::share::{Admit, Credit, Reservation, Share};
use limiter::timing::{DeviceClock, Stood, Timing};
use limiter::units::{DeviceUuid, GpuNs, MonotonicNs, Percent};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use tempfile::TempDir;

/// The GPU of the evaluation.
const DEVICE: DeviceUuid = DeviceUuid::from_bytes([0; 16]);
/// Its index in the ledger and the share.
const INDEX: usize = 0;
/// As `cuda-hook` does (`timeline.rs`).
const ORIGIN_NS_MAX: u64 = 1_000_000_000;
/// A board counts silence from zero on: the run's clock begins later.
const BEGIN_NS: u64 = 1_000_000_000_000;

/// Without relearning, so many launches are timed.
const TIMED_FIRST: u64 = 8;

/// A mechanism of the limiter that can be left out, to see what it is good for. All of it is done around the limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// What containers know of each other: each has a board of its own. No turns, no leases, and foreign slices count as own time.
    Board,
    /// A price for each kernel: all have one.
    Prices,
    /// That it is drawn which launches are timed: every eighth is.
    Draw,
    /// Timings after the first few of each kernel.
    Relearning,
}

/// Containers under the limiter, with shared state in a folder of their own.
#[derive(Debug)]
pub struct Limited {
    dir: TempDir,
    seed: u64,
    without: Option<Mechanism>,
    /// What killed processes left as it was: nobody gave it back.
    left: Left,
}

/// Shares and ledgers of processes that were killed.
type Left = Rc<RefCell<Vec<(Share, Ledger)>>>;

impl Limited {
    /// The `seed` decides which launches are timed.
    ///
    /// # Errors
    /// There is no place for a temporary folder.
    pub fn new(seed: u64) -> std::io::Result<Self> {
        Ok(Self {
            dir: tempfile::tempdir()?,
            seed,
            without: None,
            left: Left::default(),
        })
    }

    /// Without this mechanism.
    #[must_use]
    pub fn without(self, mechanism: Mechanism) -> Self {
        Self {
            without: Some(mechanism),
            ..self
        }
    }

    /// Where the files of a container's processes are.
    fn dir_of(&self, container: &Container) -> PathBuf {
        match self.without {
            Some(Mechanism::Board) => self.dir.path().join(format!("{}.alone", container.name)),
            _ => self.dir.path().to_owned(),
        }
    }
}

/// Whether it would be timed if every eighth launch were.
fn is_eighth(launch: &Launch) -> bool {
    launch.id.0.is_multiple_of(8)
}

fn monotonic(now_ns: u64) -> MonotonicNs {
    MonotonicNs::new(BEGIN_NS + now_ns)
}

fn percent(value: f64) -> Option<Percent> {
    Percent::from_thousandths((value * 1_000.0).round() as u32)
}

/// A share without a cap is work-conserving: up to everything.
fn limits(container: &Container) -> GpuLimits {
    GpuLimits {
        sm: percent(container.share_percent),
        sm_max: percent(container.cap_percent.unwrap_or(100.0)),
        ..GpuLimits::default()
    }
}

impl Policy for Limited {
    fn name(&self) -> String {
        let without = match self.without {
            None => "",
            Some(Mechanism::Board) => " without a shared board",
            Some(Mechanism::Prices) => " with one price for all kernels",
            Some(Mechanism::Draw) => " with every eighth launch timed",
            Some(Mechanism::Relearning) => " with the first launches timed only",
        };
        format!("cuda-hook{without}")
    }

    fn attach(&mut self, seat: &Seat, now_ns: u64) -> Box<dyn Controller> {
        Box::new(self.member(seat, now_ns))
    }

    #[expect(
        clippy::unwrap_used,
        reason = "scenarios change what a running container has, within what may be asked for"
    )]
    fn change(&mut self, limits: &Container, change: &Change, now_ns: u64) {
        let asked = |percent: f64| format!("{percent}");
        let (sm, cap) = (asked(change.share_percent), change.cap_percent.map(asked));
        let wanted = config::Wanted {
            sm: Some(&sm),
            sm_max: cap.as_deref(),
            ..config::Wanted::default()
        };
        let change = config::Change::parse(wanted).unwrap();
        let container = limits.name.parse().unwrap();
        control::change(&self.dir_of(limits), &container, &change, monotonic(now_ns)).unwrap();
    }
}

impl Limited {
    #[expect(
        clippy::unwrap_used,
        reason = "names of scenarios are fit for containers, and the folder is our own"
    )]
    fn member(&self, seat: &Seat, now_ns: u64) -> Member {
        let container = seat.limits.name.parse().unwrap();
        let dir = self.dir_of(seat.limits);
        let ledger = Ledger::attach(&dir, &container, &[(DEVICE, limits(seat.limits))]).unwrap();
        let seed = self.seed.wrapping_add(seat.process as u64 + 1) << 32;
        let now = monotonic(now_ns);
        let share = Share::attach(&ledger, &dir, now, seed).unwrap();
        Member {
            process: seat.process,
            reservations: BTreeMap::new(),
            credits: BTreeMap::new(),
            granted: None,
            look_every_ns: share.look_every_ns(false, now),
            waiter_looked: false,
            held_until: None,
            share,
            clock: (0, DeviceClock::default()),
            ledger,
            without: self.without,
            left: Rc::clone(&self.left),
        }
    }
}

/// One process.
struct Member {
    process: usize,
    share: Share,
    /// Launches that were not seen to have ended.
    reservations: BTreeMap<LaunchId, Reservation>,
    /// What its thread has in hand, by stream.
    credits: BTreeMap<usize, Credit>,
    /// Of the launch that is on its way to the driver.
    granted: Option<Reservation>,
    look_every_ns: u64,
    /// Since the helper last looked.
    waiter_looked: bool,
    /// A launch waits until then, unless it is woken before.
    held_until: Option<MonotonicNs>,
    /// Since when it counts, by the device's clock, and how that stands to the host's.
    clock: (u64, DeviceClock),
    ledger: Ledger,
    without: Option<Mechanism>,
    left: Left,
}

impl Member {
    /// When a timed launch ended that was seen to have ended just now.
    fn ended_at(&mut self, device_ns: u64, now: MonotonicNs) -> MonotonicNs {
        if device_ns.saturating_sub(self.clock.0) > ORIGIN_NS_MAX {
            self.clock = (device_ns, DeviceClock::default());
        }
        self.clock.1.host_time(device_ns as i64, now)
    }

    fn key(&self, launch: &Launch) -> KernelKey {
        KernelKey(match self.without {
            Some(Mechanism::Prices) => 1,
            _ => launch.key,
        })
    }

    /// How a launch goes that may, if at once.
    fn watch(
        &self,
        launch: &Launch,
        credit: &mut Credit,
        reservation: &mut Reservation,
        now: MonotonicNs,
    ) -> Watch {
        let is_drawn = self.share.should_time(credit, reservation, now);
        let is_timed = match self.without {
            Some(Mechanism::Draw) => is_eighth(launch),
            Some(Mechanism::Relearning) if launch.id.0 > TIMED_FIRST => false,
            _ => is_drawn,
        };
        if is_timed { Watch::Timed } else { Watch::End }
    }
}

impl Member {
    fn admit_with(
        &mut self,
        credit: &mut Credit,
        launch: &Launch,
        key: KernelKey,
        now: MonotonicNs,
    ) -> Admission {
        let is_fixed = self.without == Some(Mechanism::Draw) && is_eighth(launch);
        if !is_fixed && self.share.spend(credit, key).is_some() {
            return Admission::Granted(Watch::No);
        }
        let admit = match self.held_until.filter(|until| now < *until) {
            Some(until) => Admit::NotBefore(until),
            None => self.share.admit(credit, key, now),
        };
        match admit {
            Admit::NotBefore(until) => {
                self.held_until = Some(until);
                let every_ns = self.share.waiter_looks_every_ns(now);
                let next = every_ns.map_or(until, |ns| until.min(now.saturating_add_ns(ns)));
                Admission::NotBefore(next.get() - BEGIN_NS)
            }
            Admit::Granted(mut reservation) => {
                self.held_until = None;
                let watch = self.watch(launch, credit, &mut reservation, now);
                self.granted = Some(reservation);
                Admission::Granted(watch)
            }
        }
    }
}

impl Controller for Member {
    fn killed(self: Box<Self>) {
        self.left.borrow_mut().push((self.share, self.ledger));
    }

    fn admit(&mut self, launch: &Launch, view: &mut View) -> Admission {
        let (key, now) = (self.key(launch), monotonic(view.now_ns()));
        if !self.share.is_limited(INDEX) {
            return Admission::Granted(Watch::No);
        }
        let Some(mut credit) = self
            .credits
            .remove(&launch.stream)
            .or_else(|| self.share.credit(INDEX))
        else {
            return Admission::Granted(Watch::No);
        };
        let admission = self.admit_with(&mut credit, launch, key, now);
        self.credits.insert(launch.stream, credit);
        admission
    }

    fn launched(&mut self, launch: &Launch, _view: &mut View) {
        self.reservations
            .extend(self.granted.take().map(|granted| (launch.id, granted)));
    }

    fn ended(&mut self, ended: &Ended, view: &mut View) {
        let now = monotonic(view.now_ns());
        let ended_at = ended
            .timing
            .map(|timing| self.ended_at(timing.ended_ns, now));
        let timing = ended.timing.zip(ended_at).map(|(timing, ended_at)| Timing {
            between: GpuNs::new(timing.elapsed_ns),
            stood: if timing.stood_behind {
                Stood::Behind
            } else {
                Stood::Alone {
                    lead_ns: timing.lead_ns,
                }
            },
            ended_at,
            part: Some(GpuNs::new(timing.part_ns)),
        });
        if let Some(reservation) = self.reservations.remove(&ended.launch)
            && self.share.completed(reservation, timing, now)
        {
            self.held_until = None;
            view.wake(self.process);
        }
    }

    fn look_every_ns(&self) -> Option<u64> {
        Some(self.look_every_ns)
    }

    fn looked_while_waiting(&mut self, view: &mut View) {
        self.waiter_looked = true;
        let now = monotonic(view.now_ns());
        if let Some(reservation) = self.reservations.values().next() {
            self.share.began(reservation, now);
        }
        self.share.heartbeat(now);
    }

    fn looked(&mut self, view: &mut View) -> bool {
        let now = monotonic(view.now_ns());
        // What was launched first runs: nothing else is waited for on the model's streams.
        if let Some(reservation) = self.reservations.values().next() {
            self.share.began(reservation, now);
        }
        let waiter_looked = std::mem::take(&mut self.waiter_looked) && self.reservations.len() > 1;
        self.look_every_ns = self.share.look_every_ns(waiter_looked, now);
        self.share.heartbeat(now)
    }
}
