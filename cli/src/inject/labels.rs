//! Which pod a container is of, as the runtime says it, for whoever watches the container.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::bundle::Container;

/// The file's name in the folder of what is made for a container.
pub(crate) const FILE: &str = "labels.json";

/// The pod of a container, by the annotations that runtimes of Kubernetes give it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Labels {
    /// Its name in `cuda-hook status`.
    pub(crate) container: String,
    pub(crate) namespace: Option<String>,
    pub(crate) pod: Option<String>,
}

/// CRI-O's (as the kubelet's own labels are called, k8s.io/kubelet, `types/labels.go`), then containerd's (`pkg/cri/annotations`).
const NAMESPACE: [&str; 2] = [
    "io.kubernetes.pod.namespace",
    "io.kubernetes.cri.sandbox-namespace",
];
const POD: [&str; 2] = ["io.kubernetes.pod.name", "io.kubernetes.cri.sandbox-name"];

impl Labels {
    /// Those of a container that is called `name`; `None`: it is of no pod.
    pub(crate) fn of(container: &Container, name: &str) -> Option<Self> {
        let first = |keys: [&str; 2]| {
            let mut found = keys
                .iter()
                .filter_map(|key| container.annotations.get(*key));
            found.next().cloned()
        };
        let (namespace, pod) = (first(NAMESPACE), first(POD));
        (namespace.is_some() || pod.is_some()).then(|| Self {
            container: name.to_owned(),
            namespace,
            pod,
        })
    }

    /// Those of all containers that were made, by the containers' names. Where containers of different pods share one name, only what they
    /// have in common. What cannot be read labels nobody.
    pub(crate) fn of_all(folder: &Path) -> BTreeMap<String, Self> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let read = entries.filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join(FILE)).ok()?;
            serde_json::from_str::<Self>(&text).ok()
        });
        let mut all: BTreeMap<String, Self> = BTreeMap::new();
        for labels in read {
            let known = all
                .entry(labels.container.clone())
                .or_insert_with(|| labels.clone());
            keep_common(&mut known.namespace, labels.namespace.as_ref());
            keep_common(&mut known.pod, labels.pod.as_ref());
        }
        all
    }
}

fn keep_common(known: &mut Option<String>, other: Option<&String>) {
    if known.as_ref() != other {
        *known = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(annotations: &[(&str, &str)]) -> Container {
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        let described = serde_json::json!({
            "root": { "path": "rootfs" },
            "process": { "cwd": "/" },
            "annotations": annotations,
        });
        serde_json::from_value(described).unwrap()
    }

    fn labels(container: &str, namespace: Option<&str>, pod: Option<&str>) -> Labels {
        Labels {
            container: container.to_owned(),
            namespace: namespace.map(str::to_owned),
            pod: pod.map(str::to_owned),
        }
    }

    #[test]
    fn the_annotations_of_both_runtimes_tell_the_pod() {
        let expected = Some(labels("a", Some("prod"), Some("train-0")));
        for (namespace, pod) in [(NAMESPACE[0], POD[0]), (NAMESPACE[1], POD[1])] {
            let described = container(&[(namespace, "prod"), (pod, "train-0"), ("other", "x")]);
            assert_eq!(Labels::of(&described, "a"), expected);
        }
        assert_eq!(Labels::of(&container(&[("other", "x")]), "a"), None);
    }

    #[test]
    fn containers_of_one_name_have_what_their_pods_have_in_common() {
        let folder = tempfile::tempdir().unwrap();
        let made = [
            ("1", labels("group", Some("prod"), Some("train-0"))),
            ("2", labels("group", Some("prod"), Some("train-1"))),
            ("3", labels("single", None, Some("eval"))),
        ];
        for (id, labels) in &made {
            let path = folder.path().join(id);
            fs::create_dir(&path).unwrap();
            fs::write(path.join(FILE), serde_json::to_string(labels).unwrap()).unwrap();
        }
        fs::create_dir(folder.path().join("without")).unwrap();
        let all = Labels::of_all(folder.path());
        assert_eq!(all["group"], labels("group", Some("prod"), None));
        assert_eq!(all["single"], made[2].1);
        assert_eq!(all.len(), 2);
    }
}
