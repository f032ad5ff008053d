//! What tests of several crates need.

#![allow(
    clippy::expect_used,
    reason = "in a test, what goes wrong ends the test"
)]

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Copies a program to where a test starts it; makes the folders that are missing.
///
/// By a process of its own. A file that this one opened for writing would for a moment be open in every process that another test's
/// thread forks meanwhile, until that becomes something else (`O_CLOEXEC`), and a program that somebody has open for writing cannot be
/// started: `ETXTBSY`, execve(2).
///
/// # Panics
///
/// If it cannot be copied.
pub fn install(program: &Path, to: &Path) {
    let mut install = Command::new("install");
    let install = install.args(["-D", "-m", "755", "--"]).arg(program).arg(to);
    let status = install.status().expect("coreutils");
    assert!(status.success(), "{install:?}");
}

/// Writes a script that a test can start at once, as of [`install`]; `text` begins with its `#!`.
///
/// # Panics
///
/// If it cannot be written.
pub fn script(path: &Path, text: &str) {
    let mut written = OsString::from(path);
    written.push(".text");
    fs::write(&written, text).expect("a folder to write to");
    install(written.as_ref(), path);
    fs::remove_file(&written).expect("our own file");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_script_can_be_started_while_others_start_programs() {
        let folder = tempfile::tempdir().unwrap();
        let done = AtomicBool::new(false);
        let start = |program: &Path| Command::new(program).status();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        assert!(start(Path::new("true")).unwrap().success());
                    }
                });
            }
            let started = (0..200).map(|turn| {
                let path = folder.path().join(turn.to_string());
                script(&path, "#!/bin/sh\nexit 0\n");
                start(&path)
            });
            let failed: Vec<_> = started.filter_map(Result::err).collect();
            done.store(true, Ordering::Relaxed);
            assert!(failed.is_empty(), "{failed:?}");
        });
    }
}
