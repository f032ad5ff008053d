//! The tables of parameters, out of their definitions.

use crate::table::Table;
use benches::evaluator::HostTiming;
use gpu_sim::parameters::{Parameter, Timing};

/// Both tables.
pub(crate) fn parameters() -> String {
    let table = |parameters: Vec<Parameter>| {
        let mut table = Table::new(&["parameter", "what it is", "default", "range", "source"]);
        for parameter in parameters {
            let range = match parameter.name {
                "seed" => "any".to_owned(),
                _ => format!("{}–{}", parameter.least, parameter.most),
            };
            table.row(&[
                &format!("`{}`", parameter.name),
                parameter.meaning,
                &parameter.default,
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
