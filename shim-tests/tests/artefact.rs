//! The built library as a file: what it exports, what it needs, how it is marked. A preload with an unmet need kills
//! every program of a container, and an export too many stands in somebody's way.
#![cfg(test)]

use shim_tests::{artefacts, child};
use std::collections::BTreeSet;
use std::process::Command;

fn output_of(tool: &str, arguments: &[&str]) -> String {
    let outcome = child::run(Command::new(tool).args(arguments).arg(&artefacts().hook));
    outcome.lines().join("\n")
}

/// The symbols of the table's rows, as the source has them: `Charge fn cuMemAlloc_v2(…`.
fn rows() -> BTreeSet<&'static str> {
    include_str!("../../cuda-hook/src/table.rs")
        .lines()
        .filter_map(|line| {
            let (effect, rest) = line.trim_start().split_once(" fn ")?;
            let is_effect = effect.trim_end().chars().all(char::is_alphabetic);
            let (name, _) = rest.split_once('(')?;
            (is_effect && (name.starts_with("cu") || name.starts_with("nvml"))).then_some(name)
        })
        .collect()
}

#[test]
fn the_library_exports_its_rows_and_the_two_lookups_and_nothing_else() {
    let listing = output_of("nm", &["-D", "--defined-only", "--format=posix"]);
    let exported: BTreeSet<_> = listing
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let mut wanted = rows();
    assert!(wanted.len() > 50, "the table was read: {wanted:?}");
    wanted.extend(["dlsym", "dlvsym"]);
    assert_eq!(exported, wanted);
}

#[test]
fn the_library_needs_what_every_process_has() {
    let dynamic = output_of("readelf", &["--dynamic", "--wide"]);
    let needed: BTreeSet<_> = dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split(['[', ']']).nth(1))
        .collect();
    assert_eq!(
        needed,
        BTreeSet::from(["ld-linux-x86-64.so.2", "libc.so.6"])
    );
}

/// What ends a process or registers something for its end, handles its signals, starts programs, or changes its environment, umask,
/// limits or folder. `abort` is not among these: std ends there when a panic cannot be handled.
#[test]
fn the_library_cannot_change_the_process_that_it_is_in() {
    const CHANGES: &str = "exit _exit _Exit quick_exit atexit on_exit at_quick_exit __cxa_atexit __cxa_at_quick_exit \
        kill tgkill raise signal sigaction sigprocmask setitimer alarm fork vfork clone execve execvp posix_spawn posix_spawnp \
        system popen setenv putenv unsetenv clearenv setlocale umask setrlimit prlimit setpriority chdir fchdir chroot prctl";
    let listing = output_of("nm", &["-D", "--undefined-only", "--format=posix"]);
    let asked: BTreeSet<_> = listing
        .lines()
        .filter_map(|line| line.split([' ', '@']).next())
        .collect();
    assert!(asked.contains("malloc"), "the list was read: {asked:?}");
    let changes: Vec<_> = CHANGES
        .split_whitespace()
        .filter(|name| asked.contains(name))
        .collect();
    assert_eq!(changes, Vec::<&str>::new());
}

#[test]
fn the_library_stays_loaded_and_needs_no_writable_code() {
    let dynamic = output_of("readelf", &["--dynamic", "--wide"]);
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
    assert!(!dynamic.contains("TEXTREL"), "{dynamic}");
}

/// The newest symbol version asked of glibc: the floor below which no program of the container would start. Built on the
/// oldest glibc that is supported it is lower; it may not rise here unnoticed.
#[test]
fn the_library_asks_for_no_newer_glibc_than_recorded() {
    const RECORDED: (u32, u32) = (2, 34);
    let versions = output_of("readelf", &["--version-info", "--wide"]);
    let newest = versions
        .split("Name: GLIBC_")
        .skip(1)
        .filter_map(|rest| {
            let (major, minor) = rest.split_whitespace().next()?.split_once('.')?;
            Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
        })
        .max();
    assert!(
        newest.is_some_and(|newest| newest <= RECORDED),
        "{newest:?} is asked for"
    );
}
