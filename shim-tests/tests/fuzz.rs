//! Random sequences of driver calls, a fixed number of fixed seeds; `scripts/fuzz --minutes 10` plays as many as it can of others.
#![cfg(test)]

use shim_tests::coverage::{hooked, not_simulated};
use shim_tests::fuzz::{self, Mode, TIMELY, Tally};

const SEQUENCES: u64 = 240;
const STEPS: usize = 250;

/// Hooked functions that are never granted without limits, and why, besides those that the simulated driver refuses.
const NEVER_GRANTED: &[(&str, &[&str])] = &[
    (
        "the simulated board keeps no accounts of processes that have ended",
        &[
            "nvmlDeviceGetAccountingPids",
            "nvmlDeviceGetAccountingStats",
            "nvmlDeviceGetAccountingStats_v2",
        ],
    ),
    (
        "the simulated board has no limits of control groups",
        &["nvmlDeviceGetMemoryLimits_v1"],
    ),
    (
        "granted only in a context of 32 bits, of which there are few: `coverage.rs` makes one",
        &[
            "cuArray3DCreate",
            "cuArrayCreate",
            "cuMemAllocPitch",
            "cuMemFree",
            "cuMemGetInfo",
            "cuModuleGetGlobal",
        ],
    ),
    (
        "granted only where graph, node and what was made of the graph belong together: `coverage.rs` has such",
        &[
            "cuGraphExecKernelNodeSetParams",
            "cuGraphExecKernelNodeSetParams_v2",
        ],
    ),
    ("not called: its answer is a matter of time", &TIMELY),
];

/// Plays the sequences of the first seeds, in which every hooked function is called but for `uncalled`, and many calls are granted.
#[track_caller]
fn plays(mode: Mode, uncalled: &[&str]) -> Tally {
    let mut all = Tally::default();
    for seed in 1..=SEQUENCES {
        match fuzz::check(mode, seed, STEPS) {
            Ok(tally) => all.add(tally),
            Err(failure) => panic!("{failure}"),
        }
    }
    let (calls, successes) = all.rows().fold((0, 0), |sum, (_, calls, successes)| {
        (sum.0 + calls, sum.1 + successes)
    });
    assert!(
        successes > calls * 2 / 5,
        "only {successes} of {calls} calls were granted: this shows little"
    );
    let hooked = hooked();
    let [never_called, _] = all.lacking(&hooked);
    assert_eq!(never_called, uncalled, "hooked, and not reached");
    all
}

/// What differs from run to run in any world is played under a quota only. All that is played is granted at least once.
#[test]
fn without_limits_random_calls_are_made_and_answered_as_bare() {
    let mut timely = TIMELY.to_vec();
    let hooked = hooked();
    timely.retain(|name| hooked.contains(*name));
    timely.sort_unstable();
    let tally = plays(Mode::Unlimited, &timely);
    let [_, mut never_granted] = tally.lacking(&hooked);
    let known: Vec<&str> = NEVER_GRANTED
        .iter()
        .flat_map(|(_, names)| *names)
        .copied()
        .collect();
    let not_simulated = not_simulated();
    never_granted.retain(|name| !not_simulated.contains(name) && !known.contains(name));
    assert_eq!(never_granted, [""; 0], "hooked, and always refused");
}

#[test]
fn under_a_quota_the_ledger_says_after_every_random_call_what_the_device_says() {
    plays(Mode::Limited, &[]);
}
