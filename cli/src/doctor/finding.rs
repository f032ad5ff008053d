//! What one check found, and what to do about it.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Limits hold, with a gap or a risk that the finding names.
    Warning,
    /// Limits cannot be enforced.
    Problem,
}

/// The outcome of one check.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// What was looked at, in one or two words; stable, for scripts.
    pub(crate) check: &'static str,
    pub(crate) level: Level,
    /// What was found there.
    pub(crate) found: String,
    /// What the reader can do; absent where nothing needs doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) way_out: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Ok,
            found: found.into(),
            way_out: None,
        }
    }

    pub(crate) fn warning(
        check: &'static str,
        found: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self {
            check,
            level: Level::Warning,
            found: found.into(),
            way_out: Some(way_out.into()),
        }
    }

    pub(crate) fn problem(
        check: &'static str,
        found: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self {
            check,
            level: Level::Problem,
            found: found.into(),
            way_out: Some(way_out.into()),
        }
    }
}
