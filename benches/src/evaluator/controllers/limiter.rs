//! The project's own limiter: the very code that runs in a hooked process, here in virtual time.
//!
//! What `cuda-hook` does around it – events, looks, waits – is what [`Controller`] and the run do.

use crate::evaluator::{
    Admission, Container, Controller, Ended, Launch, LaunchId, Policy, Seat, View, Watch,
};
use limiter::config::GpuLimits;
use limiter::ledger::Ledger;
use limiter::price::KernelKey;
use limiter::share::{Admit, Reservation, Share};
use limiter::timing::{Stood, Timing};
use limiter::units::{DeviceUuid, GpuNs, MonotonicNs, Percent};
use std::collections::BTreeMap;
use tempfile::TempDir;

/// The GPU of the evaluation.
const DEVICE: DeviceUuid = DeviceUuid::from_bytes([0; 16]);
/// Its index in the ledger and the share.
const INDEX: usize = 0;
/// As `cuda-hook` does (`completion.rs`).
const LOOK_EVERY_NS: u64 = 100_000;
/// A board counts silence from zero on: the run's clock begins later.
const BEGIN_NS: u64 = 1_000_000_000_000;

/// Containers under the limiter, with shared state in a folder of their own.
#[derive(Debug)]
pub struct Limited {
    dir: TempDir,
    seed: u64,
}

impl Limited {
    /// The `seed` decides which launches are timed.
    ///
    /// # Errors
    /// There is no place for a temporary folder.
    pub fn new(seed: u64) -> std::io::Result<Self> {
        Ok(Self {
            dir: tempfile::tempdir()?,
            seed,
        })
    }
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
        memory_bytes_max: None,
        sm: percent(container.share_percent),
        sm_max: percent(container.cap_percent.unwrap_or(100.0)),
    }
}

impl Policy for Limited {
    fn name(&self) -> String {
        "cuda-hook".to_owned()
    }

    fn attach(&mut self, seat: &Seat, now_ns: u64) -> Box<dyn Controller> {
        Box::new(self.member(seat, now_ns))
    }
}

impl Limited {
    #[expect(
        clippy::unwrap_used,
        reason = "names of scenarios are fit for containers, and the folder is our own"
    )]
    fn member(&self, seat: &Seat, now_ns: u64) -> Member {
        let container = seat.limits.name.parse().unwrap();
        let ledger = Ledger::attach(self.dir.path(), &container, &[(DEVICE, None)]).unwrap();
        let seed = self.seed.wrapping_add(seat.process as u64 + 1) << 32;
        let share = Share::attach(
            &ledger,
            self.dir.path(),
            &[limits(seat.limits)],
            monotonic(now_ns),
            seed,
        );
        Member {
            process: seat.process,
            share: share.unwrap(),
            reservations: BTreeMap::new(),
            granted: None,
            _ledger: ledger,
        }
    }
}

/// One process.
struct Member {
    process: usize,
    share: Share,
    /// Launches that were not seen to have ended.
    reservations: BTreeMap<LaunchId, Reservation>,
    /// Of the launch that is on its way to the driver.
    granted: Option<Reservation>,
    _ledger: Ledger,
}

impl Controller for Member {
    fn admit(&mut self, launch: &Launch, view: &mut View) -> Admission {
        let (key, now) = (KernelKey(launch.key), monotonic(view.now_ns()));
        if !self.share.is_limited(INDEX) {
            return Admission::Granted(Watch::No);
        }
        match self.share.admit(INDEX, key, now) {
            Admit::NotBefore(earliest) => Admission::NotBefore(earliest.get() - BEGIN_NS),
            Admit::Granted(reservation) => {
                self.granted = Some(reservation);
                Admission::Granted(if self.share.should_time(INDEX, key, now) {
                    Watch::Timed
                } else {
                    Watch::End
                })
            }
        }
    }

    fn launched(&mut self, launch: &Launch, _view: &mut View) {
        self.reservations
            .extend(self.granted.take().map(|granted| (launch.id, granted)));
    }

    fn ended(&mut self, ended: &Ended, view: &mut View) {
        let now = monotonic(view.now_ns());
        let timing = ended.timing.map(|timing| Timing {
            between: GpuNs::new(timing.elapsed_ns),
            stood: if timing.stood_behind {
                Stood::Behind
            } else {
                Stood::Alone {
                    lead_ns: timing.lead_ns,
                }
            },
            ended_at: now,
        });
        if let Some(reservation) = self.reservations.remove(&ended.launch)
            && self.share.completed(reservation, timing, now)
        {
            view.wake(self.process);
        }
    }

    fn look_every_ns(&self) -> Option<u64> {
        Some(LOOK_EVERY_NS)
    }

    fn looked(&mut self, view: &mut View) {
        self.share.heartbeat(monotonic(view.now_ns()));
    }
}
