//! Every run as a line of JSON.

use crate::failed;
use benches::evaluation::{Outcome, Part};
use serde_json::{Value, json};

/// What came out, and a line break.
pub(crate) fn line(outcome: &Outcome) -> Result<String, String> {
    let job = &outcome.job;
    let figures = outcome.judged.figures.iter();
    let figures =
        figures.map(|figure| json!({ "figure": figure.row.key(), "value": figure.value }));
    let part = match job.part {
        Part::Matrix => "matrix",
        Part::Sweep => "sweep",
        Part::Comparison => "comparison",
    };
    let record = json!({
        "simulated": true,
        "part": part,
        "axis": job.case.axis.title(),
        "scenario": job.case.name,
        "setting": job.setting.name,
        "controller": job.variant.name(),
        "seed": job.seed,
        "shares": outcome.judged.shares,
        "figures": figures.collect::<Vec<Value>>(),
    });
    let text = serde_json::to_string(&record).map_err(failed)?;
    Ok(text + "\n")
}
