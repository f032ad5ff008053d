//! The workloads and networks that are shipped, compiled in.

/// Workloads by name, in the order in which they are listed.
pub(crate) const WORKLOADS: &[(&str, &str)] = &[
    ("resnet50", include_str!("../../workloads/resnet50.toml")),
    (
        "resnet50-poisson",
        include_str!("../../workloads/resnet50-poisson.toml"),
    ),
    (
        "resnet50-training",
        include_str!("../../workloads/resnet50-training.toml"),
    ),
    (
        "llm-decode",
        include_str!("../../workloads/llm-decode.toml"),
    ),
    (
        "tiny-kernels",
        include_str!("../../workloads/tiny-kernels.toml"),
    ),
    (
        "long-kernels",
        include_str!("../../workloads/long-kernels.toml"),
    ),
    ("graph-2ms", include_str!("../../workloads/graph-2ms.toml")),
];

/// Networks by the name that a workload calls them.
const NETWORKS: &[(&str, &str)] = &[
    (
        "resnet50",
        include_str!("../../workloads/networks/resnet50.toml"),
    ),
    (
        "llama-2-7b",
        include_str!("../../workloads/networks/llama-2-7b.toml"),
    ),
];

/// The text of a shipped workload.
pub(crate) fn workload(name: &str) -> Option<&'static str> {
    text(WORKLOADS, name)
}

/// The text of a shipped network.
pub(crate) fn network(name: &str) -> Option<&'static str> {
    text(NETWORKS, name)
}

fn text(of: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    of.iter()
        .find(|(known, _)| *known == name)
        .map(|(_, text)| *text)
}

/// The names of shipped networks, for whoever asked for another.
pub(crate) fn network_names() -> String {
    names(NETWORKS)
}

/// The names of shipped workloads, likewise.
pub(crate) fn workload_names() -> String {
    names(WORKLOADS)
}

fn names(of: &[(&str, &str)]) -> String {
    of.iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(", ")
}
