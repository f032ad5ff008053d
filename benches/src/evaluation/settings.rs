//! The model's uncertain parameters, from one end of their ranges to the other.

use super::PROFILE;
use super::case::Case;
use crate::evaluator::Scenario;
use gpu_sim::profile::{MachineProfile, ProfileError};

/// Values of parameters: a name, and how they are set.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// As tables say it.
    pub name: &'static str,
    /// The board's profile.
    pub profile: &'static str,
    set: fn(&mut Scenario),
}

impl Setting {
    /// A case's scenario with these values.
    ///
    /// # Errors
    /// The profile is not built in.
    pub fn scenario(&self, case: &Case) -> Result<Scenario, ProfileError> {
        let mut scenario = case.scenario(MachineProfile::load(self.profile)?);
        (self.set)(&mut scenario);
        Ok(scenario)
    }
}

const fn on(name: &'static str, set: fn(&mut Scenario)) -> Setting {
    Setting {
        name,
        profile: PROFILE,
        set,
    }
}

/// The defaults first, then one parameter after the other.
pub const SETTINGS: &[Setting] = &[
    on("as assumed", |_| {}),
    on("slices of 0.3 ms", |scenario| {
        scenario.machine.timing.slice_ns = 300_000;
    }),
    on("slices of 1.024 ms", |scenario| {
        scenario.machine.timing.slice_ns = 1_024_000;
    }),
    on("slices of 5 ms", |scenario| {
        scenario.machine.timing.slice_ns = 5_000_000;
    }),
    on("switches of 20 µs", |scenario| {
        scenario.machine.timing.switch_preemptive_ns = 20_000;
    }),
    on("switches of 200 µs", |scenario| {
        scenario.machine.timing.switch_preemptive_ns = 200_000;
    }),
    on("kernels that spread by 0.1", |scenario| {
        scenario.machine.timing.kernel_sigma = 0.1;
    }),
    on("kernels that spread by 0.3", |scenario| {
        scenario.machine.timing.kernel_sigma = 0.3;
    }),
    on("a clock that steps by 30 % every second", |scenario| {
        scenario.machine.timing.clock_step_pause_ns = 1_000_000_000;
    }),
    on("threads that wake up to 1 ms late", |scenario| {
        scenario.host.wake_ns_max = 1_000_000;
    }),
    on("launches of 8 µs", |scenario| {
        scenario.host.launch_ns = 8_000
    }),
    Setting {
        name: "a T4",
        profile: "t4",
        set: |_| {},
    },
];
