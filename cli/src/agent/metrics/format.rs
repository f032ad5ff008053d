//! The two forms of the text.

use std::fmt::Write;

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's own (prometheus.io, "Exposition formats", text format 0.0.4).
    Prometheus,
}

const OPENMETRICS: &str = "application/openmetrics-text";

impl Format {
    /// By what the caller's `Accept` says. OpenMetrics is for who asks for it.
    pub(crate) fn accepted(accept: &str) -> Self {
        let asks = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            parts.next() == Some(OPENMETRICS) && !parts.any(is_zero)
        };
        if accept.split(',').any(asks) {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// In this form, what is written as OpenMetrics.
    pub(crate) fn of(self, openmetrics: String) -> String {
        match self {
            Self::OpenMetrics => openmetrics,
            Self::Prometheus => as_prometheus(&openmetrics),
        }
    }
}

/// A weight of nothing: "not acceptable" (RFC 9110, 12.4.2).
fn is_zero(parameter: &str) -> bool {
    parameter
        .strip_prefix("q=")
        .is_some_and(|weight| weight.parse() == Ok(0.0))
}

/// There a counter's family has the name of its samples, with `_total`, and nothing says units or an end.
fn as_prometheus(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = "";
    for line in openmetrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|typed| typed.split_once(' '))
        {
            let total = if kind == "counter" { "_total" } else { "" };
            // A string takes whatever is written to it.
            let _ = writeln!(
                text,
                "# HELP {name}{total} {help}\n# TYPE {name}{total} {kind}"
            );
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_who_asks_for_it() {
        let of_prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(of_prometheus), Format::OpenMetrics);
        for accept in [
            "",
            "*/*",
            "text/plain",
            "application/openmetrics-text;q=0, */*",
        ] {
            assert_eq!(Format::accepted(accept), Format::Prometheus, "{accept}");
        }
    }

    #[test]
    fn a_counter_is_called_as_its_samples_are() {
        let openmetrics = "# HELP a_bytes What.\n# TYPE a_bytes gauge\n# UNIT a_bytes bytes\na_bytes 1.0\n\
            # HELP b_seconds How long.\n# TYPE b_seconds counter\n# UNIT b_seconds seconds\nb_seconds_total{c=\"d\"} 2.0\n# EOF\n";
        let expected = "# HELP a_bytes What.\n# TYPE a_bytes gauge\na_bytes 1.0\n\
            # HELP b_seconds_total How long.\n# TYPE b_seconds_total counter\nb_seconds_total{c=\"d\"} 2.0\n";
        assert_eq!(Format::Prometheus.of(openmetrics.to_owned()), expected);
        assert_eq!(Format::OpenMetrics.of(openmetrics.to_owned()), openmetrics);
    }
}
