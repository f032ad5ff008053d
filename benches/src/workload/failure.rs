//! How the program fails: one line and an exit status.

use std::fmt::Display;

/// A failure as the user sees it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// 1 failed, 2 asked wrongly.
    pub(crate) exit_status: u8,
    message: String,
}

impl Failure {
    /// It was asked rightly and did not work.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self {
            exit_status: 1,
            message: message.to_string(),
        }
    }

    /// It was asked wrongly.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self {
            exit_status: 2,
            message: message.to_string(),
        }
    }
}
