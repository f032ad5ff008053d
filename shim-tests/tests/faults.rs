//! A panic in any hook, before the driver is called or after: it takes nothing down, and lifts no limit.
//!
//! The debug build of the preload panics where `PANIC_IN_HOOK` says.
#![cfg(test)]

use shim_tests::Machine;
use shim_tests::coverage::{Case, Stage, cases, hooked, not_simulated};

/// `CUDA_ERROR_UNKNOWN`, and `NVML_ERROR_UNKNOWN`.
const UNKNOWN: &str = "999";

/// Calls that are made before a panic: a hook that panics in one of them has no case of its own.
const OF_EVERY_CASE: [&str; 3] = ["cuInit", "cuDevicePrimaryCtxRetain", "nvmlInit_v2"];

/// Under a limit these do without the call itself: they have NVML fill an array of theirs, or know that the answer is no.
const WITHOUT_THE_CALL: [&str; 6] = [
    "nvmlDeviceGetAccounting",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
    "nvmlDeviceGetProcess",
    "nvmlDeviceGetRunningProcessDetailList",
];

/// What these take, only a look at the device tells afterwards. A panic between the two leaves it off the books, and nothing more
/// is granted to the process.
const MEASURED: [&str; 8] = [
    "cuCtxSetLimit",
    "cuFunc",
    "cuGraph",
    "cuGreenCtx",
    "cuKernel",
    "cuLaunch",
    "cuLibrary",
    "cuModule",
];

fn starts_with_one_of(symbol: &str, starts: &[&str]) -> bool {
    starts.iter().any(|start| symbol.starts_with(start))
}

/// Plays the case of each hooked function with a panic at `moment`; what may then still be done, and what is on the books.
fn panic_in_every_hook(moment: &str) {
    let (machine, hooked, not_simulated) =
        (Machine::with_every_feature(1), hooked(), not_simulated());
    let is_played = |case: &Case| {
        let symbol = case.symbol.as_str();
        let is_needed_before = case.before.iter().any(|call| {
            let mut words = call.split(' ').skip(1);
            words.next() == Some(symbol)
        });
        hooked.contains(symbol)
            && !not_simulated.contains(symbol)
            && !OF_EVERY_CASE.contains(&symbol)
            && !is_needed_before
            && (moment == "before" || !starts_with_one_of(symbol, &WITHOUT_THE_CALL))
    };
    let cases: Vec<Case> = cases().into_iter().filter(is_played).collect();
    assert!(cases.len() > 90, "only {} cases", cases.len());
    for case in &cases {
        let wanted = format!("{}:{moment}", case.symbol);
        let mut stage = Stage::with(
            &machine,
            case,
            moment,
            Some(("PANIC_IN_HOOK", wanted.as_str())),
        );
        case.begin(&mut stage.player);
        assert_eq!(stage.player.make(&case.call), UNKNOWN, "{}", case.call);
        let alloc = stage.player.make("0 cuMemAlloc_v2 &24 4096");
        assert_eq!(alloc, UNKNOWN, "an allocation after {wanted}");
        let books = stage.books_now();
        let is_measured = starts_with_one_of(&case.symbol, &MEASURED);
        assert!(
            books.charged_bytes >= books.held_bytes || is_measured,
            "{wanted}: {books:?}"
        );
        let outcome = stage.end();
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        let told = lines.iter().filter(|line| line.contains("on purpose"));
        assert!(
            outcome.status.success() && told.count() == 1,
            "{wanted}: {outcome:?}"
        );
    }
}

#[test]
fn a_panic_before_the_driver_is_called_lifts_no_limit() {
    panic_in_every_hook("before");
}

#[test]
fn a_panic_after_the_driver_has_returned_lifts_no_limit() {
    panic_in_every_hook("after");
}
