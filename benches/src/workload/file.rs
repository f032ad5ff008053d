//! A workload as its file says it: read, checked, and with the networks that it names.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::catalogue;
use crate::check::{Invalid, within};
use crate::network::{Network, Pass};

/// Longest kernel of a wanted duration, in µs: well within what one counted loop of the player can take.
const DURATION_US_MAX: f64 = 200_000.0;
/// Largest `gridDim.x` (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
const GRID_MAX: u32 = i32::MAX as u32;
/// Most threads of a block (the same table).
const BLOCK_MAX: u32 = 1024;
/// Most kernels that one step may repeat.
const REPEAT_MAX: u32 = 100_000;
/// Largest copy, in bytes an item or a batch.
const COPY_BYTES_MAX: u64 = 1 << 32;
/// Largest batch.
const BATCH_MAX: u32 = 4096;

/// A workload, ready to be planned.
#[derive(Debug)]
pub(crate) struct Workload {
    /// As it was asked for.
    pub(crate) name: String,
    pub(crate) file: File,
    /// The networks of its steps, by the name that the steps use.
    networks: BTreeMap<String, Network>,
}

/// What a workload file says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// One line for `workload list`.
    pub(crate) summary: String,
    /// What an item of a batch is, in the plural.
    pub(crate) unit: String,
    /// Items of an iteration: those that are allowed, the first one by default.
    #[serde(default = "single_items")]
    pub(crate) batches: Vec<u32>,
    #[serde(default)]
    pub(crate) play: Play,
    #[serde(default)]
    pub(crate) arrival: Arrival,
    #[serde(default)]
    pub(crate) roofline: Efficiency,
    /// What an iteration does, in order on one stream. It ends when the last of it has completed.
    #[serde(rename = "step")]
    pub(crate) steps: Vec<Step>,
}

fn single_items() -> Vec<u32> {
    vec![1]
}

/// How the steps reach the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Play {
    /// Each as a call of its own.
    #[default]
    Calls,
    /// All of them as one CUDA graph, captured once and launched for each iteration.
    Graph,
}

/// When iterations begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Arrival {
    /// Each as soon as the one before has ended.
    #[default]
    ClosedLoop,
    /// At the times of a Poisson process, whether the one before has ended or not; who comes early waits.
    Poisson {
        /// Iterations a second: 0.001 to 1 000 000.
        rate_per_s: f64,
        /// Seed of the times. The same seed gives the same times.
        seed: u64,
    },
}

/// What part of the device's peaks the workload's kernels reach: 0.001 to 1 each.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Efficiency {
    /// Of the arithmetic peak.
    pub(crate) arithmetic_efficiency: f64,
    /// Of the memory's data rate.
    pub(crate) bandwidth_efficiency: f64,
}

impl Default for Efficiency {
    /// The bare roofline.
    fn default() -> Self {
        Self {
            arithmetic_efficiency: 1.0,
            bandwidth_efficiency: 1.0,
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    Kernel(Kernel),
    Copy(Copy),
    Network(NetworkRun),
    Synchronize(Synchronize),
}

/// A kernel, by the time that it is to take or by its work: one of the two.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kernel {
    /// How often it is launched in a row: 1 to 100 000.
    #[serde(default = "one")]
    pub(crate) repeat: u32,
    /// Blocks; without it as many as the device holds at once.
    pub(crate) grid: Option<u32>,
    /// Threads of a block: 1 to 1024.
    #[serde(default = "usual_block")]
    pub(crate) block: u32,
    /// Wanted duration in µs, up to 200 000.
    pub(crate) duration_us: Option<f64>,
    /// Floating-point operations, an item of the batch.
    pub(crate) flops_per_item: Option<f64>,
    /// Bytes of device memory read and written, an item.
    pub(crate) bytes_per_item: Option<f64>,
    /// Bytes of device memory read and written, whatever the batch.
    pub(crate) bytes_per_batch: Option<f64>,
}

/// A copy between page-locked host memory and the device.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Copy {
    pub(crate) direction: Direction,
    #[serde(default)]
    pub(crate) bytes_per_item: u64,
    #[serde(default)]
    pub(crate) bytes_per_batch: u64,
}

/// Where a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    ToDevice,
    ToHost,
}

/// A whole network.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkRun {
    /// A shipped network, or the path of a file beside this one.
    name: String,
    pub(crate) pass: Pass,
}

/// Waiting until everything so far has completed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Synchronize {}

fn one() -> u32 {
    1
}

fn usual_block() -> u32 {
    256
}

/// Why a workload cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkloadError {
    #[error("no workload is called {0}; there are {known}, or the path of a .toml file", known = catalogue::workload_names())]
    UnknownWorkload(String),
    #[error("{file}: no network is called {name}; there are {known}, or the path of a .toml file", known = catalogue::network_names())]
    UnknownNetwork { file: String, name: String },
    #[error("{path}: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{file}: {source}")]
    Malformed {
        file: String,
        source: toml::de::Error,
    },
    #[error("{file}: {source}")]
    Invalid { file: String, source: Invalid },
}

/// A file's text, and how to call it in a message.
struct Text {
    file: String,
    text: String,
}

/// Whether `name` is meant as a path.
fn is_path(name: &str) -> bool {
    name.contains('/') || name.ends_with(".toml")
}

fn read(path: &Path) -> Result<Text, WorkloadError> {
    let text = fs::read_to_string(path).map_err(|source| WorkloadError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    Ok(Text {
        file: path.display().to_string(),
        text,
    })
}

fn parse<T: for<'a> Deserialize<'a>>(
    text: &Text,
    check: fn(&T) -> Result<(), Invalid>,
) -> Result<T, WorkloadError> {
    let file = || text.file.clone();
    let parsed = toml::from_str(&text.text).map_err(|source| WorkloadError::Malformed {
        file: file(),
        source,
    })?;
    check(&parsed).map_err(|source| WorkloadError::Invalid {
        file: file(),
        source,
    })?;
    Ok(parsed)
}

impl Workload {
    /// The shipped workload of this name, or the one in this file.
    pub(crate) fn load(name: &str) -> Result<Self, WorkloadError> {
        if is_path(name) {
            let path = Path::new(name);
            let folder = path.parent().unwrap_or(Path::new("."));
            return Self::parse(name, &read(path)?, folder);
        }
        let text = catalogue::workload(name)
            .ok_or_else(|| WorkloadError::UnknownWorkload(name.to_owned()))?;
        let text = Text {
            file: name.to_owned(),
            text: text.to_owned(),
        };
        Self::parse(name, &text, Path::new("."))
    }

    fn parse(name: &str, text: &Text, folder: &Path) -> Result<Self, WorkloadError> {
        let file: File = parse(text, File::check)?;
        let mut networks = BTreeMap::new();
        for step in &file.steps {
            if let Step::Network(run) = step {
                let text = network_text(&run.name, &text.file, folder)?;
                networks.insert(run.name.clone(), parse(&text, Network::check)?);
            }
        }
        Ok(Self {
            name: name.to_owned(),
            file,
            networks,
        })
    }

    /// The network that a step of this workload runs.
    pub(crate) fn network(&self, run: &NetworkRun) -> Option<&Network> {
        self.networks.get(&run.name)
    }

    /// The batch to play: the one that is wanted if the workload has it, else its first.
    pub(crate) fn batch(&self, wanted: Option<u32>) -> Result<u32, Invalid> {
        let batches = &self.file.batches;
        match wanted {
            None => Ok(batches.first().copied().unwrap_or(1)),
            Some(batch) if batches.contains(&batch) => Ok(batch),
            Some(batch) => Err(Invalid::new(
                "--batch",
                format!("{batch} is not among those of {}: {batches:?}", self.name),
            )),
        }
    }
}

fn network_text(name: &str, file: &str, folder: &Path) -> Result<Text, WorkloadError> {
    if is_path(name) {
        return read(&folder.join(name));
    }
    let text = catalogue::network(name).ok_or_else(|| WorkloadError::UnknownNetwork {
        file: file.to_owned(),
        name: name.to_owned(),
    })?;
    Ok(Text {
        file: format!("network {name}"),
        text: text.to_owned(),
    })
}

impl File {
    fn check(&self) -> Result<(), Invalid> {
        for (index, batch) in self.batches.iter().enumerate() {
            within(&format!("batches[{index}]"), *batch, 1..=BATCH_MAX)?;
        }
        self.arrival.check("arrival.poisson.rate_per_s")?;
        let Efficiency {
            arithmetic_efficiency,
            bandwidth_efficiency,
        } = self.roofline;
        within(
            "roofline.arithmetic_efficiency",
            arithmetic_efficiency,
            0.001..=1.0,
        )?;
        within(
            "roofline.bandwidth_efficiency",
            bandwidth_efficiency,
            0.001..=1.0,
        )?;
        if self.batches.is_empty() || self.steps.is_empty() {
            let key = if self.steps.is_empty() {
                "step"
            } else {
                "batches"
            };
            return Err(Invalid::new(key, "there is none"));
        }
        self.steps
            .iter()
            .enumerate()
            .try_for_each(|(index, step)| step.check(&format!("step[{index}]"), self.play))
    }
}

impl Arrival {
    /// Refuses a rate out of range; `key` is what the rate is called where it comes from.
    pub(crate) fn check(&self, key: &str) -> Result<(), Invalid> {
        match self {
            Self::ClosedLoop => Ok(()),
            Self::Poisson { rate_per_s, .. } => within(key, *rate_per_s, 0.001..=1e6),
        }
    }
}

impl Step {
    fn check(&self, key: &str, play: Play) -> Result<(), Invalid> {
        match self {
            Self::Kernel(kernel) => kernel.check(&format!("{key}.kernel")),
            Self::Copy(copy) => copy.check(&format!("{key}.copy")),
            Self::Synchronize(_) if play == Play::Graph => Err(Invalid::new(
                format!("{key}.synchronize"),
                "a graph has no place to wait at",
            )),
            Self::Network(_) | Self::Synchronize(_) => Ok(()),
        }
    }
}

impl Kernel {
    fn check(&self, key: &str) -> Result<(), Invalid> {
        within(&format!("{key}.repeat"), self.repeat, 1..=REPEAT_MAX)?;
        within(&format!("{key}.grid"), self.grid.unwrap_or(1), 1..=GRID_MAX)?;
        within(&format!("{key}.block"), self.block, 1..=BLOCK_MAX)?;
        let work = [
            ("flops_per_item", self.flops_per_item),
            ("bytes_per_item", self.bytes_per_item),
            ("bytes_per_batch", self.bytes_per_batch),
        ];
        for (name, value) in work {
            within(&format!("{key}.{name}"), value.unwrap_or(0.0), 0.0..=1e18)?;
        }
        let has_work = work.iter().any(|(_, value)| value.is_some());
        match self.duration_us {
            Some(_) if has_work => Err(Invalid::new(
                key,
                "duration_us and work (flops_per_item, bytes_per_item, bytes_per_batch) exclude each other",
            )),
            Some(duration_us) => within(
                &format!("{key}.duration_us"),
                duration_us,
                0.001..=DURATION_US_MAX,
            ),
            None if has_work => Ok(()),
            None => Err(Invalid::new(
                key,
                "it has neither duration_us nor work (flops_per_item, bytes_per_item, bytes_per_batch)",
            )),
        }
    }
}

impl Copy {
    fn check(&self, key: &str) -> Result<(), Invalid> {
        within(
            &format!("{key}.bytes_per_item"),
            self.bytes_per_item,
            0..=COPY_BYTES_MAX,
        )?;
        within(
            &format!("{key}.bytes_per_batch"),
            self.bytes_per_batch,
            0..=COPY_BYTES_MAX,
        )?;
        if self.bytes_per_item + self.bytes_per_batch == 0 {
            return Err(Invalid::new(key, "it copies nothing"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Workload, WorkloadError> {
        let text = Text {
            file: "x.toml".to_owned(),
            text: text.to_owned(),
        };
        Workload::parse("x", &text, Path::new("."))
    }

    /// How a file with one kernel, or other steps, is refused.
    #[track_caller]
    fn refusal(head: &str, steps: &str) -> String {
        let text = format!("summary = \"s\"\nunit = \"u\"\n{head}\n[[step]]\n{steps}\n");
        load(&text).unwrap_err().to_string()
    }

    #[test]
    fn every_shipped_workload_and_network_is_valid() {
        for (name, _) in catalogue::WORKLOADS {
            let workload = Workload::load(name).unwrap();
            assert!(!workload.file.summary.is_empty());
        }
    }

    #[test]
    fn the_example_in_the_readme_is_valid() {
        let readme = include_str!("../../README.md");
        let (_, example) = readme.split_once("```toml\n").unwrap();
        let workload = load(example.split_once("```").unwrap().0).unwrap();
        assert_eq!(workload.file.steps.len(), 6);
        assert_eq!(workload.file.roofline.bandwidth_efficiency, 0.75);
    }

    #[test]
    fn a_range_is_refused_with_file_key_value_and_what_is_allowed() {
        assert_eq!(
            refusal("", "kernel = { duration_us = 5, block = 2000 }"),
            "x.toml: step[0].kernel.block: 2000 is not within 1 to 1024"
        );
        for (head, steps, key) in [
            (
                "",
                "kernel = { duration_us = 0 }",
                "step[0].kernel.duration_us",
            ),
            (
                "",
                "kernel = { duration_us = nan }",
                "step[0].kernel.duration_us",
            ),
            (
                "",
                "kernel = { duration_us = 1, repeat = 0 }",
                "step[0].kernel.repeat",
            ),
            (
                "",
                "kernel = { duration_us = 1, grid = 0 }",
                "step[0].kernel.grid",
            ),
            (
                "",
                "kernel = { flops_per_item = -1 }",
                "step[0].kernel.flops_per_item",
            ),
            (
                "batches = [1, 0]",
                "kernel = { duration_us = 1 }",
                "batches[1]",
            ),
            (
                "roofline.arithmetic_efficiency = 1.5\nroofline.bandwidth_efficiency = 1",
                "kernel = { flops_per_item = 1 }",
                "roofline.arithmetic_efficiency",
            ),
            (
                "arrival.poisson = { rate_per_s = 0, seed = 1 }",
                "kernel = { duration_us = 1 }",
                "arrival.poisson.rate_per_s",
            ),
        ] {
            let said = refusal(head, steps);
            assert!(said.starts_with(&format!("x.toml: {key}: ")), "{said}");
            assert!(said.contains("is not within"), "{said}");
        }
    }

    #[test]
    fn what_contradicts_itself_or_does_nothing_is_refused() {
        for (head, steps, reason) in [
            (
                "",
                "kernel = { duration_us = 1, flops_per_item = 1 }",
                "exclude each other",
            ),
            ("", "kernel = { grid = 1 }", "neither duration_us nor work"),
            ("", "copy = { direction = \"to_host\" }", "copies nothing"),
            ("play = \"graph\"", "synchronize = {}", "no place to wait"),
            (
                "batches = []",
                "kernel = { duration_us = 1 }",
                "batches: there is none",
            ),
            (
                "",
                "network = { name = \"resnet18\", pass = \"inference\" }",
                "no network is called resnet18",
            ),
        ] {
            let said = refusal(head, steps);
            assert!(said.contains(reason), "{said}");
        }
    }

    #[test]
    fn a_key_that_is_not_known_is_refused_by_line_and_name() {
        for (head, steps) in [
            ("colour = 1", "kernel = { duration_us = 1 }"),
            ("", "kernel = { duration_us = 1, colour = 1 }"),
            (
                "",
                "copy = { direction = \"to_host\", bytes_per_item = 1, colour = 1 }",
            ),
            ("", "synchronize = { colour = 1 }"),
            (
                "arrival.poisson = { rate_per_s = 1, seed = 1, colour = 1 }",
                "synchronize = {}",
            ),
        ] {
            let said = refusal(head, steps);
            assert!(said.contains("line") && said.contains("colour"), "{said}");
        }
    }

    #[test]
    fn a_name_that_is_not_known_is_answered_with_those_that_are() {
        let said = Workload::load("resnet").unwrap_err().to_string();
        assert!(said.contains("resnet50-training"), "{said}");
        let said = Workload::load("./none.toml").unwrap_err().to_string();
        assert!(said.starts_with("./none.toml: "), "{said}");
    }

    #[test]
    fn a_batch_is_one_of_the_files() {
        let workload = Workload::load("resnet50").unwrap();
        assert_eq!(workload.batch(None), Ok(1));
        assert_eq!(workload.batch(Some(16)), Ok(16));
        assert_eq!(
            workload.batch(Some(5)).unwrap_err().to_string(),
            "--batch: 5 is not among those of resnet50: [1, 4, 16]"
        );
    }

    #[test]
    fn a_workload_finds_a_network_beside_its_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("n.toml"),
            "element_bytes = 9\n[[block]]\nname = \"b\"\nlayers = []",
        )
        .unwrap();
        let path = folder.path().join("w.toml");
        fs::write(&path, "summary = \"s\"\nunit = \"u\"\n[[step]]\nnetwork = { name = \"n.toml\", pass = \"inference\" }").unwrap();
        let said = Workload::load(path.to_str().unwrap())
            .unwrap_err()
            .to_string();
        assert!(
            said.ends_with("n.toml: element_bytes: 9 is not within 1 to 8"),
            "{said}"
        );
    }
}
