//! `docs/cost.md`: a text that is written, with tables that are made.

use crate::results::{Machine, Results};
use crate::{failed, plots, tables, targets};
use std::fs;
use std::path::Path;

/// The text. `{name}` stands for what is made.
const TEXT: &str = include_str!("cost.md");

/// Writes the document and its figures.
pub(crate) fn write(folder: &Path, results: &Results) -> Result<(), String> {
    let figures = folder.join("cost");
    fs::create_dir_all(&figures).map_err(failed)?;
    plots::draw(&figures, results)?;
    fs::write(folder.join("cost.md"), text(results)?).map_err(failed)
}

fn text(results: &Results) -> Result<String, String> {
    let Results {
        calls,
        starts,
        resnet50,
        ..
    } = results;
    let measured = calls.worlds.first().map(|each| &each.report);
    let [batches, batch] = measured.map_or([0, 0], |report| [report.batches, report.calls]);
    let parts = [
        ("{batches}", batches.to_string()),
        ("{calls}", batch.to_string()),
        ("{targets}", targets::table(results)),
        ("{calls_machine}", machine(&calls.machine)),
        ("{calls_of_one_thread}", tables::calls(calls, 1)),
        ("{calls_of_two_threads}", tables::calls(calls, 2)),
        ("{counts}", tables::counts(results)),
        ("{starts_machine}", machine(&starts.machine)),
        ("{init}", tables::init(starts)),
        ("{without_cuda}", tables::without_cuda(starts)),
        ("{resnet50_machine}", machine(&resnet50.machine)),
        ("{resnet50_device}", resnet50.device.clone()),
        ("{resnet50_rounds}", resnet50.rounds.to_string()),
        ("{resnet50_seconds}", resnet50.window_seconds.to_string()),
        ("{resnet50}", tables::resnet50(resnet50)),
    ];
    let fill = |text: String, (name, made): &(&str, String)| text.replace(name, made);
    let text = parts.iter().fold(TEXT.to_owned(), fill);
    match text.split_once('{') {
        None => Ok(text),
        Some((_, rest)) => Err(format!(
            "cost.md: nothing is made for {{{}",
            rest.lines().next().unwrap_or_default()
        )),
    }
}

/// Where it was measured.
fn machine(machine: &Machine) -> String {
    format!(
        "{}, on {} × {}, load average {:.1} before and {:.1} after",
        machine.measured,
        machine.processors,
        machine.model,
        machine.load_before,
        machine.load_after
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The root of the workspace.
    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

    /// Names and texts of the page and its figures.
    fn page(docs: &Path) -> Vec<(String, String)> {
        let mut names = vec!["cost.md".to_owned()];
        for entry in fs::read_dir(docs.join("cost")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            names.extend(name.ends_with(".svg").then(|| format!("cost/{name}")));
        }
        names.sort();
        let read = |name: String| {
            let text = fs::read_to_string(docs.join(&name)).unwrap();
            (name, text)
        };
        names.into_iter().map(read).collect()
    }

    #[test]
    fn the_page_and_its_figures_are_what_the_results_beside_them_say() {
        let root = Path::new(ROOT);
        let results = Results::read(
            &root.join("docs/cost"),
            &root.join("benches/instructions.tsv"),
        )
        .unwrap();
        let made = tempfile::tempdir().unwrap();
        write(made.path(), &results).unwrap();
        let (found, wanted) = (page(&root.join("docs")), page(made.path()));
        let names = |page: &[(String, String)]| -> Vec<String> {
            page.iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names(&found), names(&wanted));
        for ((name, found), (_, wanted)) in found.iter().zip(&wanted) {
            assert!(
                found == wanted,
                "docs/{name} is not what docs/cost/*.json, benches/instructions.tsv and the text of the page \
                 say: scripts/bench cost --page makes it anew"
            );
        }
    }
}
