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

/// The names of other objects that the loader binds.
fn bound_when_loaded() -> BTreeSet<String> {
    output_of("nm", &["-D", "--undefined-only", "--format=posix"])
        .lines()
        .filter_map(|line| line.split([' ', '@']).next().map(str::to_owned))
        .collect()
}

/// The names that are looked for when they are first called, as the source has them.
fn found_when_called() -> BTreeSet<String> {
    let source = include_str!("../../cuda-hook/src/late.rs");
    let (_, list) = source.split_once("\nlate! {\n").unwrap();
    let (list, _) = list.split_once("\n}\n").unwrap();
    list.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split([' ', ';', ':']))
        .map(str::to_owned)
        .collect()
}

/// What ends a process or registers something for its end, handles its signals, starts programs, or changes its environment, umask,
/// limits or folder. `abort` is not among these: std ends there when a panic cannot be handled.
#[test]
fn the_library_cannot_change_the_process_that_it_is_in() {
    const CHANGES: &str = "exit _exit _Exit quick_exit atexit on_exit at_quick_exit __cxa_atexit __cxa_at_quick_exit \
        kill tgkill raise signal sigaction sigprocmask setitimer alarm fork vfork clone execve execvp posix_spawn posix_spawnp \
        system popen setenv putenv unsetenv clearenv setlocale umask setrlimit prlimit setpriority chdir fchdir chroot prctl";
    let (bound, late) = (bound_when_loaded(), found_when_called());
    assert!(bound.contains("malloc"), "the list was read: {bound:?}");
    assert!(late.contains("mkdir"), "the list was read: {late:?}");
    let asked: BTreeSet<_> = bound.union(&late).map(String::as_str).collect();
    let changes: Vec<_> = CHANGES
        .split_whitespace()
        .filter(|name| asked.contains(name))
        .collect();
    assert_eq!(changes, Vec::<&str>::new());
}

/// Every name costs each program that starts; what only a CUDA process calls is found when it is called (`late.rs`).
#[test]
fn little_is_bound_when_the_library_is_loaded() {
    // What allocates, copies and compares, tells the time, and finds the rest; and what an old glibc does not export.
    const EARLY: &str = "abort bcmp calloc clock_gettime dl_iterate_phdr environ free malloc memcmp memcpy memmove memset \
        posix_memalign realloc strlen __tls_get_addr fstat fstat64 lstat64 stat64";
    // What std takes for absent where it is null, and the C runtime's own.
    const WEAK: &str = "getrandom gettid statx __cxa_thread_atexit_impl __cxa_finalize __gmon_start__ \
        _ITM_deregisterTMCloneTable _ITM_registerTMCloneTable";
    let expected: BTreeSet<_> = EARLY
        .split_whitespace()
        .chain(WEAK.split_whitespace())
        .collect();
    let bound = bound_when_loaded();
    let unexpected: Vec<_> = bound
        .iter()
        .filter(|name| !expected.contains(name.as_str()))
        .collect();
    assert_eq!(unexpected, Vec::<&String>::new());
    assert!(bound.contains("malloc"), "the list was read: {bound:?}");
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
