//! Which metrics there are, and where the value of each stands in a sample.

use std::collections::{BTreeMap, BTreeSet};

use limiter::sample::{BoardSample, ContainerSample, DeviceSample, GpuSample, Sample};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry;

use super::Exposition;

/// Names and values of a series' labels.
pub(crate) type LabelSet = Vec<(&'static str, String)>;

/// One series, at one moment.
pub(crate) type Series = (LabelSet, f64);

/// A metric family (OpenMetrics 1.0, "Metric Families").
pub(crate) struct Family {
    /// Without its unit, and without `_total`.
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) unit: Unit,
    pub(crate) kind: Kind,
    value: Value,
}

/// What a name ends with.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    None,
    Bytes,
    Seconds,
    Ratio,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

/// Where the series come from.
#[derive(Clone, Copy)]
enum Value {
    /// One for each container and GPU; `None`: unknown, or not limited.
    Device(fn(&DeviceSample) -> Option<f64>),
    /// One for each container.
    Container(fn(&ContainerSample) -> f64),
    /// One for each GPU whose memory is known.
    Gpu(fn(&GpuSample) -> f64),
    /// One for each GPU that a context was measured on.
    Board(fn(&BoardSample) -> f64),
    /// For each GPU whose driver's list is known, and each container in whose cgroup such a process runs.
    Unmanaged(fn(&Unmanaged) -> f64),
    /// One for the node.
    Node(fn(&Exposition) -> f64),
    /// One that says which version this is.
    Version,
}

/// Processes that use a GPU without any limit.
#[derive(Default)]
struct Unmanaged {
    processes: f64,
    memory_bytes: f64,
}

impl Unit {
    pub(crate) fn as_openmetrics(self) -> Option<registry::Unit> {
        match self {
            Self::None => None,
            Self::Bytes => Some(registry::Unit::Bytes),
            Self::Seconds => Some(registry::Unit::Seconds),
            Self::Ratio => Some(registry::Unit::Other("ratio".to_owned())),
        }
    }
}

impl Kind {
    pub(crate) fn as_openmetrics(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
        }
    }
}

/// Every metric, in the order in which they are told.
pub(crate) fn all() -> impl Iterator<Item = &'static Family> {
    MEMORY.iter().chain(&GPU_TIME).chain(&NODE)
}

/// Exact up to 2^53 (IEEE 754).
fn count(number: u64) -> f64 {
    number as f64
}

fn seconds(ns: u64) -> f64 {
    count(ns) / 1e9
}

fn ratio(percent: f64) -> f64 {
    percent / 100.0
}

fn guaranteed(device: &DeviceSample) -> Option<f64> {
    let limits = device.memory_limits();
    (limits.max.is_some() || limits.soft.is_some()).then(|| count(limits.guaranteed().get()))
}

const fn family(
    name: &'static str,
    help: &'static str,
    unit: Unit,
    kind: Kind,
    value: Value,
) -> Family {
    Family {
        name,
        help,
        unit,
        kind,
        value,
    }
}

static MEMORY: [Family; 13] = [
    family(
        "cuda_hook_memory_quota",
        "Device memory that the container may hold; absent: no limit.",
        Unit::Bytes,
        Kind::Gauge,
        Value::Device(|one| one.memory_bytes_max.map(count)),
    ),
    family(
        "cuda_hook_memory_guaranteed",
        "What of that is guaranteed.",
        Unit::Bytes,
        Kind::Gauge,
        Value::Device(guaranteed),
    ),
    family(
        "cuda_hook_memory_used",
        "Device memory that the container's living processes hold.",
        Unit::Bytes,
        Kind::Gauge,
        Value::Device(|one| Some(count(one.memory_bytes_current))),
    ),
    family(
        "cuda_hook_memory_peak",
        "The most that the container has held.",
        Unit::Bytes,
        Kind::Gauge,
        Value::Device(|one| Some(count(one.memory_bytes_peak))),
    ),
    family(
        "cuda_hook_memory_borrowed",
        "What is held past the guarantee.",
        Unit::Bytes,
        Kind::Gauge,
        Value::Device(|one| Some(count(one.memory_bytes_borrowed))),
    ),
    family(
        "cuda_hook_memory_spilled",
        "What lies on the host, as managed memory.",
        Unit::Bytes,
        Kind::Gauge,
        Value::Device(|one| Some(count(one.memory_bytes_spilled))),
    ),
    family(
        "cuda_hook_memory_unaccounted",
        "What the GPU's driver lists of the container beyond its books; absent: the driver's list is unknown.",
        Unit::Bytes,
        Kind::Gauge,
        Value::Device(|one| one.memory_bytes_unaccounted.map(count)),
    ),
    family(
        "cuda_hook_refusals",
        "Calls that were refused because the quota had no room.",
        Unit::None,
        Kind::Counter,
        Value::Device(|one| Some(count(one.refusals_total))),
    ),
    family(
        "cuda_hook_gpu_memory",
        "Memory of the GPU, as its driver says; absent: no program has asked the driver yet.",
        Unit::Bytes,
        Kind::Gauge,
        Value::Gpu(|one| count(one.memory_bytes_total)),
    ),
    family(
        "cuda_hook_gpu_memory_guaranteed",
        "What the containers that have processes are guaranteed of it together.",
        Unit::Bytes,
        Kind::Gauge,
        Value::Gpu(|one| count(one.memory_bytes_guaranteed)),
    ),
    family(
        "cuda_hook_gpu_memory_borrowed",
        "What they have borrowed of it together.",
        Unit::Bytes,
        Kind::Gauge,
        Value::Gpu(|one| count(one.memory_bytes_borrowed)),
    ),
    family(
        "cuda_hook_gpu_memory_outside",
        "What of it was in no container's books when somebody last borrowed.",
        Unit::Bytes,
        Kind::Gauge,
        Value::Gpu(|one| count(one.memory_bytes_outside)),
    ),
    family(
        "cuda_hook_gpu_context",
        "What a context takes of the GPU's memory, as measured.",
        Unit::Bytes,
        Kind::Gauge,
        Value::Board(|one| count(one.context_bytes)),
    ),
];

static GPU_TIME: [Family; 9] = [
    family(
        "cuda_hook_share_guaranteed",
        "Share of the GPU's time that the container is guaranteed; absent: no limit.",
        Unit::Ratio,
        Kind::Gauge,
        Value::Device(|one| one.sm_percent.map(ratio)),
    ),
    family(
        "cuda_hook_share_max",
        "Share that it may reach while others leave it; absent: no limit.",
        Unit::Ratio,
        Kind::Gauge,
        Value::Device(|one| one.sm_percent_max.map(ratio)),
    ),
    family(
        "cuda_hook_gpu_time",
        "GPU time that the container was charged; its rate is the share that it got.",
        Unit::Seconds,
        Kind::Counter,
        Value::Device(|one| Some(seconds(one.charged_ns_total))),
    ),
    family(
        "cuda_hook_launches",
        "Launches admitted.",
        Unit::None,
        Kind::Counter,
        Value::Device(|one| Some(count(one.launches_total))),
    ),
    family(
        "cuda_hook_throttled",
        "Time for which launches waited, whatever for.",
        Unit::Seconds,
        Kind::Counter,
        Value::Device(|one| Some(seconds(one.throttled_ns_total))),
    ),
    family(
        "cuda_hook_throttled_launches",
        "Launches that waited.",
        Unit::None,
        Kind::Counter,
        Value::Device(|one| Some(count(one.throttled_count_total))),
    ),
    family(
        "cuda_hook_throttled_by_cap",
        "Part of the time: the container's cap was used up.",
        Unit::Seconds,
        Kind::Counter,
        Value::Device(|one| Some(seconds(one.throttled_by_cap_ns_total))),
    ),
    family(
        "cuda_hook_throttled_by_share",
        "Part of the time: it was another container's turn.",
        Unit::Seconds,
        Kind::Counter,
        Value::Device(|one| Some(seconds(one.throttled_by_share_ns_total))),
    ),
    family(
        "cuda_hook_throttled_by_window",
        "Part of the time: enough was on the GPU.",
        Unit::Seconds,
        Kind::Counter,
        Value::Device(|one| Some(seconds(one.throttled_by_window_ns_total))),
    ),
];

static NODE: [Family; 6] = [
    family(
        "cuda_hook_processes",
        "Living processes of the container.",
        Unit::None,
        Kind::Gauge,
        Value::Container(|one| one.processes.len() as f64),
    ),
    family(
        "cuda_hook_unmanaged_processes",
        "Processes that use the GPU without any limit; absent: the driver's list is unknown.",
        Unit::None,
        Kind::Gauge,
        Value::Unmanaged(|one| one.processes),
    ),
    family(
        "cuda_hook_unmanaged_memory",
        "What those are listed with.",
        Unit::Bytes,
        Kind::Gauge,
        Value::Unmanaged(|one| one.memory_bytes),
    ),
    family(
        "cuda_hook_skipped_entries",
        "Entries of the folder of the shared state that are no state of this version's.",
        Unit::None,
        Kind::Gauge,
        Value::Node(|all| all.sample.skipped.len() as f64),
    ),
    family(
        "cuda_hook_reaped_processes",
        "Dead processes whose places the agent has freed since it was started.",
        Unit::None,
        Kind::Counter,
        Value::Node(|all| count(all.reaped)),
    ),
    family(
        "cuda_hook_build_info",
        "The agent's version.",
        Unit::None,
        Kind::Gauge,
        Value::Version,
    ),
];

impl Family {
    /// As its series are called.
    #[cfg(test)]
    pub(crate) fn full_name(&self) -> String {
        let unit = self.unit.as_openmetrics();
        let unit = unit.map_or_else(String::new, |unit| format!("_{}", unit.as_str()));
        let total = if self.kind == Kind::Counter {
            "_total"
        } else {
            ""
        };
        format!("{}{unit}{total}", self.name)
    }

    /// The series of this metric.
    pub(crate) fn series(&self, all: &Exposition) -> Vec<Series> {
        let sample = &all.sample;
        match self.value {
            Value::Device(value) => devices(all, value),
            Value::Container(value) => {
                let one = |container| (all.labels(container), value(container));
                sample.containers.iter().map(one).collect()
            }
            Value::Gpu(value) => {
                let one = |gpu: &GpuSample| (of_gpu(&gpu.device_uuid), value(gpu));
                sample.gpus.iter().map(one).collect()
            }
            Value::Board(value) => {
                let one = |board: &BoardSample| (of_gpu(&board.device_uuid), value(board));
                sample.boards.iter().map(one).collect()
            }
            Value::Unmanaged(value) => {
                let each = unmanaged(sample).into_iter();
                each.map(|(labels, found)| (labels, value(&found)))
                    .collect()
            }
            Value::Node(value) => vec![(LabelSet::new(), value(all))],
            Value::Version => {
                let version = env!("CARGO_PKG_VERSION").to_owned();
                vec![(vec![("version", version)], 1.0)]
            }
        }
    }
}

fn devices(all: &Exposition, value: fn(&DeviceSample) -> Option<f64>) -> Vec<Series> {
    let of_container = |container: &ContainerSample| {
        let labels = all.labels(container);
        let one = |device: &DeviceSample| {
            let mut labels = labels.clone();
            labels.extend(of_gpu(&device.device_uuid));
            Some((labels, value(device)?))
        };
        container.devices.iter().filter_map(one).collect::<Vec<_>>()
    };
    all.sample
        .containers
        .iter()
        .flat_map(of_container)
        .collect()
}

fn of_gpu(uuid: &str) -> LabelSet {
    vec![("gpu", uuid.to_owned())]
}

impl Exposition {
    fn labels(&self, container: &ContainerSample) -> LabelSet {
        let pod = self.pods.get(&container.container);
        let of_pod = [
            ("namespace", pod.and_then(|pod| pod.namespace.clone())),
            ("pod", pod.and_then(|pod| pod.pod.clone())),
        ];
        let known = of_pod
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        let container = ("container", container.container.clone());
        [container].into_iter().chain(known).collect()
    }
}

/// For each GPU and container. A GPU without such processes has a series, too, where its driver's list is known.
fn unmanaged(sample: &Sample) -> Vec<(LabelSet, Unmanaged)> {
    let listed = |device: &&DeviceSample| device.memory_bytes_listed.is_some();
    let devices = sample.containers.iter().flat_map(|one| &one.devices);
    let known: BTreeSet<&String> = devices.filter(listed).map(|one| &one.device_uuid).collect();
    let mut found: BTreeMap<(&String, Option<&String>), Unmanaged> = BTreeMap::new();
    for gpu in known {
        found.insert((gpu, None), Unmanaged::default());
    }
    for process in &sample.processes_without_slot {
        let key = (&process.device_uuid, process.container.as_ref());
        let sum = found.entry(key).or_default();
        sum.processes += 1.0;
        sum.memory_bytes += process.memory_bytes_listed.map_or(0.0, count);
    }
    let labels = |(gpu, container): (&String, Option<&String>)| {
        let container = container.map(|name| ("container", name.clone()));
        container.into_iter().chain(of_gpu(gpu)).collect()
    };
    found
        .into_iter()
        .map(|(key, sum)| (labels(key), sum))
        .collect()
}
