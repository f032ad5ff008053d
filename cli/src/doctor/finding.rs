//! What one check found, and what to do about it.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

/// Names shown of one finding; the JSON has them all.
const NAMES_SHOWN_MAX: usize = 8;

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
    /// The names that were found, where the check is about many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) names: Vec<String>,
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
            names: Vec::new(),
            way_out: None,
        }
    }

    pub(crate) fn warning(
        check: &'static str,
        found: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warning,
            way_out: Some(way_out.into()),
            ..Self::ok(check, found)
        }
    }

    pub(crate) fn problem(
        check: &'static str,
        found: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Problem,
            ..Self::warning(check, found, way_out)
        }
    }

    /// The same, about these.
    pub(crate) fn naming(self, names: &[&str]) -> Self {
        Self {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..self
        }
    }
}

impl Display for Finding {
    /// What was found on one line, a long list of names cut short, and the way out on a second.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        write!(f, "{level:<8} {:<14} {}", self.check, self.found)?;
        if !self.names.is_empty() {
            let shown = self.names.get(..NAMES_SHOWN_MAX).unwrap_or(&self.names);
            write!(f, ": {}", shown.join(", "))?;
        }
        if let Some(rest) = self
            .names
            .len()
            .checked_sub(NAMES_SHOWN_MAX)
            .filter(|rest| *rest > 0)
        {
            write!(f, " and {rest} more")?;
        }
        match &self.way_out {
            Some(way_out) => write!(f, "\n{:24}-> {way_out}", ""),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_out_stands_below_its_problem() {
        let text = Finding::problem("driver", "missing", "install it").to_string();
        assert_eq!(
            text,
            "PROBLEM  driver         missing\n                        -> install it"
        );
        assert_eq!(
            Finding::ok("glibc", "2.36").to_string(),
            "ok       glibc          2.36"
        );
    }

    #[test]
    fn a_long_list_is_cut_and_counted_and_a_short_one_is_not() {
        let text = |count| {
            Finding::ok("x", "some")
                .naming(&vec!["cuInit"; count])
                .to_string()
        };
        let eight = ["cuInit"; 8].join(", ");
        assert!(
            text(20).ends_with(&format!("some: {eight} and 12 more")),
            "{}",
            text(20)
        );
        assert!(text(8).ends_with(&format!("some: {eight}")), "{}", text(8));
        assert!(text(1).ends_with("some: cuInit"), "{}", text(1));
    }
}
