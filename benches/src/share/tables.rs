//! What was met, and the worst of everything.

use benches::evaluation::{Axis, Outcome, Part, Row, SETTINGS, Variant};
use benches::table::Table;
use std::collections::BTreeMap;

/// The worst of a row, and where it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worst<'a> {
    pub(crate) value: f64,
    pub(crate) outcome: &'a Outcome,
}

/// The worst of each row among these runs.
pub(crate) fn worst<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> BTreeMap<Row, Worst<'a>> {
    let mut rows: BTreeMap<Row, Worst> = BTreeMap::new();
    for outcome in outcomes {
        for figure in &outcome.judged.figures {
            let value = figure.value;
            let row = rows.entry(figure.row).or_insert(Worst { value, outcome });
            if figure.row.worse(row.value, value) != row.value {
                *row = Worst { value, outcome };
            }
        }
    }
    rows
}

/// Those that were run for this.
pub(crate) fn of(outcomes: &[Outcome], part: Part) -> impl Iterator<Item = &Outcome> + Clone {
    outcomes
        .iter()
        .filter(move |outcome| outcome.job.part == part)
}

fn shown(row: Row, value: f64) -> String {
    format!("{}{}", row.shown(value), row.unit())
}

/// One row for each figure: what is wanted, the worst, and where.
pub(crate) fn targets(outcomes: &[Outcome]) -> String {
    let found = worst(of(outcomes, Part::Matrix));
    let mut table = Table::new(&["simulated", "target", "stretch", "worst", "", "where"]);
    for row in Row::ALL {
        let Some(worst) = found.get(&row) else {
            continue;
        };
        let sign = if row.is_more_better() { "≥" } else { "≤" };
        let wanted = |target: f64| format!("{sign} {}", shown(row, target));
        let met = |target| row.is_met(worst.value, target);
        let [target, stretch, verdict] = match row.targets() {
            None => ["–".to_owned(), "–".to_owned(), "–".to_owned()],
            Some((target, stretch)) => {
                let verdict = match (met(target), met(stretch)) {
                    (false, _) => "**missed**",
                    (_, false) => "met",
                    (_, true) => "met, and the stretch",
                };
                [wanted(target), wanted(stretch), verdict.to_owned()]
            }
        };
        let case = &worst.outcome.job.case;
        table.row(&[
            row.title(),
            &target,
            &stretch,
            &shown(row, worst.value),
            &verdict,
            &case.name,
        ]);
    }
    table.into_text()
}

/// One table: scenarios of an axis and the worst of their figures.
pub(crate) fn details(outcomes: &[Outcome], axis: Axis) -> String {
    let of_axis =
        || of(outcomes, Part::Matrix).filter(move |outcome| outcome.job.case.axis == axis);
    let rows: Vec<Row> = worst(of_axis()).into_keys().collect();
    // Rows that differ in what they are asked of only share a column.
    let mut columns: Vec<String> = Vec::new();
    for title in rows.iter().map(|row| column(*row)) {
        if !columns.contains(&title) {
            columns.push(title);
        }
    }
    let mut head = vec!["scenario".to_owned(), "got, % of the time".to_owned()];
    head.extend(columns.iter().cloned());
    let mut table = Table::new(&head);
    let mut names: Vec<&str> = Vec::new();
    for outcome in of_axis() {
        if !names.contains(&outcome.job.case.name.as_str()) {
            names.push(&outcome.job.case.name);
        }
    }
    for name in names {
        let runs = || of_axis().filter(move |outcome| outcome.job.case.name == name);
        let found = worst(runs());
        let cell = |title: &String| {
            let mut rows = rows.iter().filter(|row| column(**row) == *title);
            let figure = rows.find_map(|row| Some((*row, found.get(row)?.value)));
            figure.map_or(String::new(), |(row, value)| marked(row, value))
        };
        let mut cells = vec![name.to_owned(), shares(runs())];
        cells.extend(columns.iter().map(cell));
        table.row(&cells);
    }
    table.into_text()
}

/// A figure, bold where it misses its target.
fn marked(row: Row, value: f64) -> String {
    let text = row.shown(value);
    match row.targets() {
        Some((target, _)) if !row.is_met(value, target) => format!("**{text}**"),
        _ => text,
    }
}

/// A head for a column of figures.
fn column(row: Row) -> String {
    let title = match row {
        Row::MeanShort
        | Row::MeanCrowd
        | Row::MeanLong
        | Row::MeanVeryLong
        | Row::MeanGraphs
        | Row::MeanMixed
        | Row::MeanPrograms
        | Row::MeanStreams
        | Row::MeanNeighbours => "error of the mean",
        Row::Sigma => "σ",
        Row::Settle | Row::SettleFaults => "settled after",
        Row::Stall => "longest stall",
        Row::Jain => "Jain",
        Row::IdleUsed => "idle used",
        Row::AddedP99 => "p99 added",
        Row::LostAlone | Row::LostContended => "lost",
        Row::Watching => "watching thread",
    };
    match row.unit() {
        "" => title.to_owned(),
        unit => format!("{title},{unit}"),
    }
}

/// What containers got, the least and most of the seeds.
fn shares<'a>(runs: impl Iterator<Item = &'a Outcome>) -> String {
    let mut ranges: Vec<(f64, f64)> = Vec::new();
    for outcome in runs {
        ranges.resize(outcome.judged.shares.len(), (1.0, 0.0));
        for (range, share) in ranges.iter_mut().zip(&outcome.judged.shares) {
            *range = (range.0.min(*share), range.1.max(*share));
        }
    }
    let text = |&(least, most): &(f64, f64)| {
        let [least, most] = [least, most].map(|share| format!("{:.1}", 100.0 * share));
        match least == most {
            true => least,
            false => format!("{least}–{most}"),
        }
    };
    const SHOWN: usize = 4;
    let mut texts: Vec<String> = ranges.iter().take(SHOWN).map(text).collect();
    if ranges.len() > SHOWN {
        texts.push("…".to_owned());
    }
    texts.join(", ")
}

/// One row for each figure, one column for each setting of the model.
pub(crate) fn sweep(outcomes: &[Outcome]) -> String {
    let representative = |outcome: &&Outcome| outcome.job.case.is_representative;
    let of_setting = |name: &'static str| {
        let runs = outcomes
            .iter()
            .filter(|outcome| outcome.job.part != Part::Comparison);
        worst(
            runs.filter(representative)
                .filter(move |outcome| outcome.job.setting.name == name),
        )
    };
    let columns: Vec<_> = SETTINGS
        .iter()
        .map(|setting| (setting.name, of_setting(setting.name)))
        .collect();
    by_column(&columns)
}

/// One row for each figure, one column for each controller.
pub(crate) fn comparison(outcomes: &[Outcome], variants: &[Variant]) -> String {
    let ours = of(outcomes, Part::Matrix).filter(|outcome| outcome.job.case.is_representative);
    let mut columns = vec![("cuda-hook", worst(ours))];
    for variant in variants {
        let runs =
            of(outcomes, Part::Comparison).filter(move |outcome| outcome.job.variant == *variant);
        columns.push((variant.name(), worst(runs)));
    }
    by_column(&columns)
}

fn by_column(columns: &[(&'static str, BTreeMap<Row, Worst>)]) -> String {
    let mut head = vec!["the worst of the representative scenarios, simulated"];
    head.extend(columns.iter().map(|(name, _)| *name));
    let mut table = Table::new(&head);
    for row in Row::ALL {
        let cell =
            |found: &BTreeMap<Row, Worst>| found.get(&row).map(|worst| marked(row, worst.value));
        let cells: Vec<Option<String>> = columns.iter().map(|(_, found)| cell(found)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let unit = match row.unit() {
            "" => String::new(),
            unit => format!(",{unit}"),
        };
        let mut texts = vec![format!("{}{unit}", row.title())];
        texts.extend(cells.into_iter().map(Option::unwrap_or_default));
        table.row(&texts);
    }
    table.into_text()
}

/// All tables, for standard output.
pub(crate) fn all(outcomes: &[Outcome]) -> String {
    let mut text = targets(outcomes);
    for axis in Axis::ALL {
        let has_any = of(outcomes, Part::Matrix).any(|outcome| outcome.job.case.axis == axis);
        if has_any {
            text += &format!("\n## {}\n\n{}", axis.title(), details(outcomes, axis));
        }
    }
    if of(outcomes, Part::Sweep).next().is_some() {
        text += &format!("\n## Sweep\n\n{}", sweep(outcomes));
        text += &format!(
            "\n## Baselines\n\n{}",
            comparison(outcomes, &Variant::BASELINES)
        );
        text += &format!(
            "\n## Ablations\n\n{}",
            comparison(outcomes, &Variant::ABLATIONS)
        );
    }
    text
}
