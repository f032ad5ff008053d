//! What was measured, as it lies beside the page.

use crate::failed;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::path::Path;

/// All of it.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) calls: Calls,
    pub(crate) system_calls: SystemCalls,
    pub(crate) starts: Starts,
    pub(crate) resnet50: ResNet50,
    pub(crate) instructions: Vec<Instructions>,
}

/// Where and when something was measured.
#[derive(Debug, Deserialize)]
pub(crate) struct Machine {
    /// The day.
    pub(crate) measured: String,
    pub(crate) processors: u32,
    pub(crate) model: String,
    /// Of the last minute (`getloadavg(3)`), before and after.
    pub(crate) load_before: f64,
    pub(crate) load_after: f64,
}

/// `calls.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Calls {
    pub(crate) machine: Machine,
    pub(crate) worlds: Vec<CallsOfWorld>,
}

/// What `call-cost --json` said under these limits.
#[derive(Debug, Deserialize)]
pub(crate) struct CallsOfWorld {
    pub(crate) world: String,
    pub(crate) report: CallReport,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CallReport {
    pub(crate) batches: u32,
    pub(crate) calls: u32,
    pub(crate) threads: u32,
    pub(crate) rows: Vec<CallRow>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CallRow {
    pub(crate) call: String,
    pub(crate) live_blocks: Option<u64>,
    pub(crate) driver_ns: CallFigures,
    pub(crate) hooked_ns: CallFigures,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CallFigures {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl CallRow {
    /// Added to the driver's median, in ns.
    pub(crate) fn added_p50(&self) -> f64 {
        self.hooked_ns.p50 - self.driver_ns.p50
    }

    /// Added to what the driver's slowest call in a hundred takes, in ns.
    pub(crate) fn added_p99(&self) -> f64 {
        self.hooked_ns.p99 - self.driver_ns.p99
    }

    /// The hooked call's median in the driver's.
    pub(crate) fn ratio(&self) -> f64 {
        self.hooked_ns.p50 / self.driver_ns.p50
    }
}

impl Calls {
    /// A row, by everything that tells it from others. `live` is of calls beside living blocks.
    pub(crate) fn row(
        &self,
        world: &str,
        threads: u32,
        call: &str,
        live: Option<u64>,
    ) -> Option<&CallRow> {
        let mut worlds = self.worlds.iter();
        let found = worlds.find(|each| each.world == world && each.report.threads == threads)?;
        let mut rows = found.report.rows.iter();
        rows.find(|row| row.call == call && row.live_blocks == live)
    }
}

/// `system-calls.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct SystemCalls {
    pub(crate) rows: Vec<SystemCallRow>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SystemCallRow {
    pub(crate) world: String,
    pub(crate) call: String,
    /// Of a hooked call, on the average of many.
    pub(crate) per_call: f64,
}

/// `starts.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Starts {
    pub(crate) machine: Machine,
    pub(crate) init: Vec<InitRow>,
    pub(crate) without_cuda: Vec<StartRow>,
}

/// What `start-many --json` says.
#[derive(Debug, Deserialize)]
pub(crate) struct InitRow {
    pub(crate) processes: u32,
    pub(crate) hooked: bool,
    pub(crate) rounds: u32,
    pub(crate) init_ms: Quantiles,
    pub(crate) whole_ms: Option<Quantiles>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) fastest: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Starts {
    /// Bare, and hooked.
    pub(crate) fn of(&self, processes: u32) -> Option<[&InitRow; 2]> {
        let of = |hooked| {
            let mut rows = self.init.iter();
            rows.find(move |row| row.processes == processes && row.hooked == hooked)
        };
        Some([of(false)?, of(true)?])
    }
}

/// What `start-cost --json` says.
#[derive(Debug, Deserialize)]
pub(crate) struct StartRow {
    pub(crate) preloaded: String,
    pub(crate) fastest_us: f64,
    pub(crate) tenth_us: f64,
    pub(crate) median_us: f64,
    pub(crate) page_faults: Option<u64>,
    pub(crate) instructions: Option<u64>,
}

/// `resnet50.json`: what `scripts/bench resnet50 --json` says, and where.
#[derive(Debug, Deserialize)]
pub(crate) struct ResNet50 {
    pub(crate) machine: Machine,
    pub(crate) device: String,
    pub(crate) rounds: u32,
    pub(crate) window_seconds: f64,
    pub(crate) results: Vec<ResNet50Row>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ResNet50Row {
    pub(crate) framework: String,
    pub(crate) batch: u32,
    pub(crate) world: String,
    pub(crate) images_per_second: f64,
    pub(crate) lost_percent: f64,
    pub(crate) lost_percent_least: f64,
    pub(crate) lost_percent_most: f64,
}

/// A line of `instructions.tsv`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Instructions {
    pub(crate) world: String,
    pub(crate) call: String,
    pub(crate) driver: u64,
    pub(crate) hooked: u64,
}

impl Results {
    /// Reads what lies in the folder, and the table of instructions.
    pub(crate) fn read(folder: &Path, instructions: &Path) -> Result<Self, String> {
        let table = fs::read_to_string(instructions)
            .map_err(|error| format!("{}: {error}", instructions.display()))?;
        Ok(Self {
            calls: json(folder, "calls.json")?,
            system_calls: json(folder, "system-calls.json")?,
            starts: json(folder, "starts.json")?,
            resnet50: json(folder, "resnet50.json")?,
            instructions: table
                .lines()
                .skip(1)
                .map(instructions_of)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn json<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T, String> {
    let path = folder.join(name);
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(&path).map_err(|error| failed(&error))?;
    serde_json::from_str(&text).map_err(|error| failed(&error))
}

fn instructions_of(line: &str) -> Result<Instructions, String> {
    let cells: Vec<&str> = line.split('\t').collect();
    let [world, call, driver, hooked] = cells[..] else {
        return Err(format!("not four columns: {line}"));
    };
    Ok(Instructions {
        world: world.to_owned(),
        call: call.to_owned(),
        driver: driver.parse().map_err(failed)?,
        hooked: hooked.parse().map_err(failed)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_instructions_has_four_columns() {
        let line = instructions_of("no limits\tcuLaunchKernel\t16\t34").unwrap();
        assert_eq!((line.driver, line.hooked), (16, 34));
        assert_eq!((&*line.world, &*line.call), ("no limits", "cuLaunchKernel"));
        assert!(instructions_of("no limits\tcuLaunchKernel\t16").is_err());
    }
}
