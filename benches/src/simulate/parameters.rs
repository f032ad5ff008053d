//! The tables of parameters, out of their definitions.

use benches::evaluator::HostTiming;
use benches::table::Table;
use gpu_sim::parameters::{Parameter, Timing};

/// Both tables.
pub(crate) fn parameters() -> String {
    let table = |parameters: Vec<Parameter>| {
        let mut table = Table::new(&["parameter", "what it is", "default", "range", "source"]);
        for parameter in parameters {
            let shown = |value: &str| shown(parameter.name, value);
            let range = match parameter.name {
                "seed" => "any".to_owned(),
                _ => format!("{} – {}", shown(&parameter.least), shown(&parameter.most)),
            };
            table.row(&[
                &format!("`{}`", parameter.name),
                parameter.meaning,
                &shown(&parameter.default),
                &range,
                parameter.source,
            ]);
        }
        table.into_text()
    };
    format!(
        "### The device (`[timing]` of a profile)\n\n{}\n### The host (virtual time only)\n\n{}",
        table(Timing::parameters()),
        table(HostTiming::parameters())
    )
}

/// A value as it is read best: times in the largest unit that leaves something before the point.
fn shown(name: &str, value: &str) -> String {
    let is_time = name.ends_with("_ns") || name.contains("_ns_");
    match value.parse::<f64>() {
        Ok(ns) if is_time && ns > 0.0 => {
            let units = [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")];
            let unit = units.into_iter().find(|(length_ns, _)| ns >= *length_ns);
            let (length_ns, unit) = unit.unwrap_or((1.0, "ns"));
            format!("{} {unit}", (ns / length_ns * 1e3).round() / 1e3)
        }
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_the_parameters_as_they_are() {
        let documentation = include_str!("../../../docs/simulated-gpu.md");
        assert!(
            documentation.contains(&parameters()),
            "put what `simulate parameters` prints into docs/simulated-gpu.md"
        );
    }

    #[test]
    fn times_are_shown_in_the_unit_that_fits_and_the_rest_as_it_is() {
        let values = [
            ("a_ns", "2000000"),
            ("b_ns_max", "1500"),
            ("c_ns", "0"),
            ("d", "1024"),
            ("e_ns", "138888888"),
        ];
        let shown = values.map(|(name, value)| shown(name, value));
        assert_eq!(shown, ["2 ms", "1.5 µs", "0", "1024", "138.889 ms"]);
    }
}
