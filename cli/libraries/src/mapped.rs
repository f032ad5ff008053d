//! What this very process has in its memory.

use std::fs;
use std::path::PathBuf;

/// The file whose name begins so (proc_pid_maps(5)).
pub(crate) fn file(name: &str) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let mut files = maps.lines().filter_map(|line| line.get(line.find('/')?..));
    files
        .find(|file| {
            file.rsplit('/')
                .next()
                .is_some_and(|file| file.starts_with(name))
        })
        .map(PathBuf::from)
}
