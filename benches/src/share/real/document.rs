//! `docs/share-real.md`: a text that is written, with tables that are made.

use std::fs;
use std::path::Path;

use benches::evaluation::{Axis, Outcome};

use super::{Stolen, axes};
use crate::tables::{details, targets};
use crate::{failed, results};

/// The text. `{name}` stands for what is made.
const TEXT: &str = include_str!("share-real.md");

/// Writes the document, and its figures as lines of JSON.
pub(crate) fn write(dir: &Path, outcomes: &[Outcome], stolen: Stolen) -> Result<(), String> {
    let lines: String = outcomes
        .iter()
        .map(results::line)
        .collect::<Result<_, _>>()?;
    fs::create_dir_all(dir.join("share")).map_err(failed)?;
    fs::write(dir.join("share/real.jsonl"), lines).map_err(failed)?;
    let load = fs::read_to_string("/proc/loadavg").map_err(failed)?;
    let processors = std::thread::available_parallelism().map_err(failed)?;
    let section = |axis: Axis| format!("### {}\n\n{}", axis.title(), details(outcomes, axis));
    let sections: Vec<String> = axes(outcomes).map(section).collect();
    let parts = [
        ("{scenarios}", outcomes.len().to_string()),
        ("{processors}", processors.to_string()),
        ("{load}", load.split(' ').next().unwrap_or("?").to_owned()),
        ("{runs}", stolen.runs.to_string()),
        ("{repeated}", stolen.repeated.to_string()),
        ("{stolen}", format!("{:.1}", stolen.percent_max)),
        ("{targets}", targets(outcomes)),
        ("{details}", sections.join("\n")),
    ];
    let fill = |text: String, (name, made): &(&str, String)| text.replace(name, made);
    let text = parts.iter().fold(TEXT.to_owned(), fill);
    fs::write(dir.join("share-real.md"), text).map_err(failed)
}
