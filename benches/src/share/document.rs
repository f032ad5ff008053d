//! `docs/share.md`: a text that is written, with tables that are made.

use crate::tables::{comparison, details, of, sweep, targets};
use crate::{failed, plots};
use benches::evaluation::{Axis, Outcome, Part, Variant};
use std::fs;
use std::path::Path;

/// The text. `{name}` stands for what is made.
const TEXT: &str = include_str!("share.md");

/// Writes the document and its figures.
pub(crate) fn write(dir: &Path, outcomes: &[Outcome], seeds: u64) -> Result<(), String> {
    let figures = dir.join("share");
    fs::create_dir_all(&figures).map_err(failed)?;
    plots::draw(&figures, outcomes)?;
    let scenarios: Vec<&Outcome> = of(outcomes, Part::Matrix).collect();
    let representative = scenarios
        .iter()
        .filter(|outcome| outcome.job.case.is_representative);
    let representative = representative.count() as u64 / seeds;
    let parts = [
        ("{scenarios}", (scenarios.len() as u64 / seeds).to_string()),
        ("{runs}", outcomes.len().to_string()),
        ("{representative}", representative.to_string()),
        ("{seeds}", seeds.to_string()),
        ("{targets}", targets(outcomes)),
        ("{baselines}", comparison(outcomes, &Variant::BASELINES)),
        ("{ablations}", comparison(outcomes, &Variant::ABLATIONS)),
        ("{sweep}", sweep(outcomes)),
        ("{details}", every_axis(outcomes)),
    ];
    let fill = |text: String, (name, made): &(&str, String)| text.replace(name, made);
    let text = parts.iter().fold(TEXT.to_owned(), fill);
    fs::write(dir.join("share.md"), text).map_err(failed)
}

fn every_axis(outcomes: &[Outcome]) -> String {
    let section = |axis: Axis| format!("### {}\n\n{}", axis.title(), details(outcomes, axis));
    Axis::ALL.map(section).join("\n")
}
