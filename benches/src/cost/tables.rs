//! Everything that was measured, as tables.

use crate::results::{
    CallRow, Calls, InitRow, Instructions, ResNet50, ResNet50Row, Results, Starts, SystemCallRow,
};
use benches::table::Table;

/// Names of the worlds, as `scripts/cost.py` and `scripts/check-instructions` write them.
pub(crate) const NO_LIMITS: &str = "no limits";
/// A memory quota.
pub(crate) const MEMORY: &str = "memory = 8GiB";
/// A memory quota and a share.
pub(crate) const SHARE: &str = "memory = 8GiB, sm = 50, sm_max = 100";

/// One row for each call, three columns for each world.
pub(crate) fn calls(calls: &Calls, threads: u32) -> String {
    let worlds = [NO_LIMITS, MEMORY, SHARE];
    let mut head = ["call", "alive", "driver, ns", "p99"]
        .map(str::to_owned)
        .to_vec();
    for world in worlds {
        head.extend([
            format!("{world}: added"),
            "ratio".to_owned(),
            "p99".to_owned(),
        ]);
    }
    let mut table = Table::new(&head);
    let bare = calls
        .worlds
        .iter()
        .find(|each| each.world == NO_LIMITS && each.report.threads == threads);
    for row in bare.iter().flat_map(|each| &each.report.rows) {
        let alive = row.live_blocks.map(grouped).unwrap_or_default();
        let mut cells = vec![
            call_name(&row.call),
            alive,
            format!("{:.1}", row.driver_ns.p50),
            format!("{:.0}", row.driver_ns.p99),
        ];
        for world in worlds {
            cells.extend(added(calls.row(world, threads, &row.call, row.live_blocks)));
        }
        table.row(&cells);
    }
    table.into_text()
}

/// What one world adds to a call: the median, the ratio, and the slowest in a hundred.
fn added(row: Option<&CallRow>) -> [String; 3] {
    row.map_or_else(Default::default, |row| {
        [
            format!("{:+.1}", row.added_p50()),
            format!("{:.2}", row.ratio()),
            format!("{:+.0}", row.added_p99()),
        ]
    })
}

/// Driver symbols as code, with what stands behind them.
fn call_name(name: &str) -> String {
    match name.split_once(", ") {
        _ if !name.starts_with("cu") => name.to_owned(),
        Some((symbols, rest)) => format!("`{symbols}`, {rest}"),
        None => format!("`{name}`"),
    }
}

/// 100000 as 100,000.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Instructions and system calls: what no neighbour disturbs.
pub(crate) fn counts(results: &Results) -> String {
    let mut table = Table::new(&[
        "limits",
        "call",
        "instructions, driver",
        "hooked",
        "added",
        "system calls, hooked",
    ]);
    let mut add = |world: &str, call: &str, row: Option<&Instructions>, per_call: Option<f64>| {
        let instructions = row.map_or_else(Default::default, |row| {
            [
                row.driver,
                row.hooked,
                row.hooked.saturating_sub(row.driver),
            ]
            .map(grouped)
        });
        let mut cells = vec![world.to_owned(), call_name(call)];
        cells.extend(instructions);
        cells.push(per_call.map_or_else(String::new, |calls| format!("{calls:.3}")));
        table.row(&cells);
    };
    let counted = &results.system_calls.rows;
    for SystemCallRow {
        world,
        call,
        per_call,
    } in counted
    {
        let mut rows = results.instructions.iter();
        let row = rows.find(|row| row.world == *world && row.call == *call);
        add(world, call, row, Some(*per_call));
    }
    for row in &results.instructions {
        let mut known = counted.iter();
        if !known.any(|each| each.world == row.world && each.call == row.call) {
            add(&row.world, &row.call, Some(row), None);
        }
    }
    table.into_text()
}

/// `cuInit`, of one process and of many at once.
pub(crate) fn init(starts: &Starts) -> String {
    let mut table = Table::new(&["processes", "", "rounds", "fastest, ms", "p50", "p99"]);
    let side = |row: &InitRow| ["bare", "hooked, under a limit"][usize::from(row.hooked)];
    for row in &starts.init {
        let mut add = |what: String, ms: &crate::results::Quantiles| {
            table.row(&[
                row.processes.to_string(),
                what,
                row.rounds.to_string(),
                format!("{:.3}", ms.fastest),
                format!("{:.3}", ms.p50),
                format!("{:.3}", ms.p99),
            ]);
        };
        add(format!("`cuInit`, {}", side(row)), &row.init_ms);
        if let Some(whole) = &row.whole_ms {
            add(
                format!("from the process's making to there, {}", side(row)),
                whole,
            );
        }
    }
    table.into_text()
}

/// `/bin/true`, with and without libraries before it.
pub(crate) fn without_cuda(starts: &Starts) -> String {
    let mut table = Table::new(&[
        "preloaded",
        "fastest, µs",
        "a tenth, µs",
        "median, µs",
        "page faults",
        "instructions",
    ]);
    let count = |count: Option<u64>| count.map_or_else(|| "–".to_owned(), grouped);
    for row in &starts.without_cuda {
        table.row(&[
            row.preloaded.clone(),
            format!("{:.0}", row.fastest_us),
            format!("{:.0}", row.tenth_us),
            format!("{:.0}", row.median_us),
            count(row.page_faults),
            count(row.instructions),
        ]);
    }
    table.into_text()
}

/// The name of the world without the preload in `scripts/resnet50.py`.
const BARE: &str = "bare";

/// One row for each program and batch, one column for each world.
pub(crate) fn resnet50(resnet50: &ResNet50) -> String {
    let mut worlds: Vec<&str> = Vec::new();
    for row in &resnet50.results {
        if row.world != BARE && !worlds.contains(&&*row.world) {
            worlds.push(&row.world);
        }
    }
    let mut head = ["program", "batch", "bare, images/s"]
        .map(str::to_owned)
        .to_vec();
    head.extend(worlds.iter().map(|world| format!("{world}: lost, %")));
    let mut table = Table::new(&head);
    for bare in resnet50.results.iter().filter(|row| row.world == BARE) {
        let mut cells = vec![
            bare.framework.clone(),
            bare.batch.to_string(),
            format!("{:.0}", bare.images_per_second),
        ];
        let of = |world: &str| resnet50.row(&bare.framework, bare.batch, world);
        cells.extend(
            worlds
                .iter()
                .map(|world| of(world).map_or_else(String::new, lost)),
        );
        table.row(&cells);
    }
    table.into_text()
}

/// The middle of the rounds, and the least and the most.
pub(crate) fn lost(row: &ResNet50Row) -> String {
    format!(
        "{:.2} ({:.1} to {:.1})",
        row.lost_percent, row.lost_percent_least, row.lost_percent_most
    )
}

impl ResNet50 {
    /// A row, by everything that tells it from others.
    pub(crate) fn row(&self, framework: &str, batch: u32, world: &str) -> Option<&ResNet50Row> {
        self.results
            .iter()
            .find(|row| row.framework == framework && row.batch == batch && row.world == world)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_told_apart() {
        let text = [0, 999, 1_000, 100_000, 1_000_000].map(grouped);
        assert_eq!(text, ["0", "999", "1,000", "100,000", "1,000,000"]);
    }

    #[test]
    fn symbols_are_code_and_words_are_not() {
        assert_eq!(call_name("cuGraphLaunch"), "`cuGraphLaunch`");
        assert_eq!(
            call_name("cuMemcpyHtoD_v2, not hooked"),
            "`cuMemcpyHtoD_v2`, not hooked"
        );
        assert_eq!(call_name("an eager forward"), "an eager forward");
    }
}
