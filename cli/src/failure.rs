//! How the command fails: one line and an exit status.

use std::fmt::Display;

/// A failure as the user sees it: what, why, and where there is one the way out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// 1 failed, 2 wrong usage, 126 and 127 as shells use them.
    pub(crate) exit_status: u8,
    message: String,
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;

impl Failure {
    /// It was asked rightly and did not work.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self::with_status(FAILED, message)
    }

    /// It was asked wrongly.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self::with_status(USAGE, message)
    }

    pub(crate) fn with_status(exit_status: u8, message: impl Display) -> Self {
        Self {
            exit_status,
            message: message.to_string(),
        }
    }

    pub(crate) fn is_usage(&self) -> bool {
        self.exit_status == USAGE
    }
}
