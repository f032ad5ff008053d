//! Every function that is hooked, in every version and for both default streams, does to the books what its symbol says.
//!
//! The cases are planned from `calls.tsv`. `docs/coverage.md` names, for each symbol, the test here that plays its case.
#![cfg(test)]

use cuda_sys_stubs::Effect;
use shim_tests::Machine;
use shim_tests::accounts::{Accounts, loads_at_first_use};
use shim_tests::coverage::{Case, QUOTA_BYTES, Stage, cases, effect, hooked, not_simulated};
use std::collections::BTreeSet;

const OUT_OF_MEMORY: &str = "2";

/// The cases of what is hooked, is simulated and has this effect.
fn cases_of(wanted: Effect) -> Vec<Case> {
    let (hooked, not_simulated) = (hooked(), not_simulated());
    let mut cases = cases();
    cases.retain(|case| {
        let symbol = case.symbol.as_str();
        hooked.contains(symbol) && !not_simulated.contains(symbol) && effect(symbol) == wanted
    });
    assert!(!cases.is_empty(), "nothing is hooked that is {wanted:?}");
    cases
}

/// Plays what comes before a case's call, and sees that the books are right.
fn begun<'a>(machine: &'a Machine, case: &Case, purpose: &str) -> Stage<'a> {
    let mut stage = Stage::of(machine, case, purpose);
    case.begin(&mut stage.player);
    let books = stage.books();
    assert!(books.agree(), "before {}: {books:?}", case.symbol);
    stage
}

/// Plays every case of an effect: its call succeeds, and leaves the books right. They are judged as they were before, and after.
#[track_caller]
fn assert_books_stay_right(wanted: Effect, judge: impl Fn(&Case, Accounts, Accounts)) {
    let machine = Machine::with_every_feature(1);
    for case in cases_of(wanted) {
        let mut stage = begun(&machine, &case, "books");
        let before = stage.books();
        let status = stage.player.make(&case.call);
        assert_eq!(status, "0", "{}", case.call);
        let after = stage.books();
        assert!(after.agree(), "{}: {after:?}", case.call);
        judge(&case, before, after);
        stage.end();
    }
}

#[test]
fn every_hooked_function_has_a_case() {
    let have: BTreeSet<String> = cases().into_iter().map(|case| case.symbol).collect();
    let missing: Vec<String> = hooked().difference(&have).cloned().collect();
    assert_eq!(
        missing,
        Vec::<String>::new(),
        "hooked, and not in calls.tsv"
    );
}

#[test]
fn what_takes_memory_is_charged_what_the_device_gave() {
    assert_books_stay_right(Effect::Charge, |_, _, _| ());
}

#[test]
fn what_takes_memory_beyond_the_quota_is_refused_and_changes_nothing() {
    let machine = Machine::with_every_feature(1);
    let mut refused = 0;
    for case in cases_of(Effect::Charge) {
        let mut stage = begun(&machine, &case, "refuse");
        stage.fill();
        let full = stage.books();
        assert_eq!(full.charged_bytes, QUOTA_BYTES);
        let status = stage.player.make(&case.call);
        let books = stage.books();
        if loads_at_first_use(&case.symbol) {
            assert!(books.agree(), "{} = {status}: {books:?}", case.call);
        } else {
            assert_eq!(books, full, "{} = {status}", case.call);
        }
        refused += u32::from(status == OUT_OF_MEMORY);
        // What had been taken before the call, such as a module's image, is granted again.
        assert!(
            ["0", OUT_OF_MEMORY].contains(&&*status),
            "{} = {status}",
            case.call
        );
        stage.end();
    }
    assert!(refused >= 10, "only {refused} were refused");
}

#[test]
fn what_gives_memory_back_gives_back_what_the_device_got() {
    assert_books_stay_right(Effect::Uncharge, |case, before, after| {
        assert!(after.charged_bytes <= before.charged_bytes, "{}", case.call);
    });
}

#[test]
fn what_launches_is_admitted_by_the_share() {
    let machine = Machine::with_every_feature(1);
    for case in cases_of(Effect::Throttle) {
        let mut stage = Stage::of(&machine, &case, "launch");
        case.begin(&mut stage.player);
        let before = stage.books_now();
        let status = stage.player.make(&case.call);
        assert_eq!(status, "0", "{}", case.call);
        let after = stage.books_now();
        assert_eq!(after.launches, before.launches + 1, "{}", case.call);
        stage.end();
    }
}

/// The bytes in all that a case was told, where it asks for them.
fn total_bytes(case: &Case, stage: &mut Stage<'_>) -> Option<u64> {
    let at = |stage: &mut Stage<'_>, answer: usize| stage.player.value(case.answers[answer], 0);
    match case.symbol.as_str() {
        "cuDeviceTotalMem" => Some(at(stage, 0) & u64::from(u32::MAX)),
        "cuMemGetInfo" => Some(at(stage, 1) & u64::from(u32::MAX)),
        "cuMemGetInfo_v2" => Some(at(stage, 1)),
        "cuDeviceTotalMem_v2" | "nvmlDeviceGetMemoryInfo" | "nvmlDeviceGetMemoryInfo_v2" => {
            Some(at(stage, 0))
        }
        _ => None,
    }
}

#[test]
fn what_tells_of_memory_tells_of_the_quota() {
    let machine = Machine::with_every_feature(1);
    let mut told = 0;
    for case in cases_of(Effect::Report) {
        let mut stage = Stage::of(&machine, &case, "report");
        case.begin(&mut stage.player);
        let status = stage.player.make(&case.call);
        if let Some(total_bytes) = total_bytes(&case, &mut stage) {
            told += 1;
            assert_eq!(
                (status.as_str(), total_bytes),
                ("0", QUOTA_BYTES),
                "{}",
                case.call
            );
        }
        stage.end();
    }
    assert_eq!(told, 6);
}

#[test]
fn what_is_only_followed_leaves_the_books_right() {
    assert_books_stay_right(Effect::Track, |_, _, _| ());
}

#[test]
fn a_call_that_the_driver_refuses_charges_nothing() {
    let (hooked, machine) = (hooked(), Machine::with_every_feature(1));
    let not_simulated = not_simulated();
    for case in cases() {
        let symbol = case.symbol.as_str();
        if !hooked.contains(symbol) || !not_simulated.contains(symbol) {
            continue;
        }
        let mut stage = Stage::of(&machine, &case, "absent");
        case.begin(&mut stage.player);
        let before = stage.books_now();
        let status = stage.player.make(&case.call);
        assert_ne!(status, "0", "{} is simulated by now", case.call);
        let after = stage.books_now();
        let bytes = |books: Accounts| (books.charged_bytes, books.held_bytes);
        assert_eq!(bytes(after), bytes(before), "{} = {status}", case.call);
        stage.end();
    }
}
