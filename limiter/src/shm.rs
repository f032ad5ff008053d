//! Shared memory: files mapped by several processes, the locks on them, and futexes in them.

use std::path::PathBuf;

/// Why shared state cannot be used. Displays as one line that names the file.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A call to the operating system failed: folder not writable, disk full, …
    #[error("{path}: {action}: {source}", path = path.display())]
    Io {
        /// What was being opened.
        path: PathBuf,
        /// What was being done, as a verb: "create", "map".
        action: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is not ours, or of a version whose layout differs.
    #[error("{path}: {what}", path = path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// How it differs.
        what: String,
    },
    /// Every place for a process or for a GPU is taken.
    #[error("{path}: no place left: {what}", path = path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// Places of which kind.
        what: &'static str,
    },
}
