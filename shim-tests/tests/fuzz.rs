//! Random sequences of driver calls, a fixed number of fixed seeds; `scripts/fuzz --minutes 10` plays as many as it can of others.
#![cfg(test)]

use shim_tests::fuzz::{self, Mode, Tally};

const SEQUENCES: u64 = 120;
const STEPS: usize = 250;

/// Plays the sequences of the first seeds; half of the calls must be such as a driver grants.
#[track_caller]
fn assert_plays(mode: Mode) {
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
}

#[test]
fn without_limits_random_calls_are_made_and_answered_as_bare() {
    assert_plays(Mode::Unlimited);
}

#[test]
fn under_a_quota_the_ledger_says_after_every_random_call_what_the_device_says() {
    assert_plays(Mode::Limited);
}
