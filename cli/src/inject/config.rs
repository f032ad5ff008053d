//! A container's limits, from whoever asked for it, as the file that the library will read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use limiter::config::ContainerName;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::STATE;
use super::bundle::{Container, State};
use crate::failure::Failure;
use crate::folders::failed;
use crate::settings;

/// What may be said of a container: a key of the config file, its annotation and its variable.
const LIMITS: [(&str, &str, &str); 5] = [
    ("memory", "cuda-hook.memory", "CUDA_HOOK_MEMORY"),
    (
        "memory_soft",
        "cuda-hook.memory_soft",
        "CUDA_HOOK_MEMORY_SOFT",
    ),
    ("spill", "cuda-hook.spill", "CUDA_HOOK_SPILL"),
    ("sm", "cuda-hook.sm", "CUDA_HOOK_SM"),
    ("sm_max", "cuda-hook.sm_max", "CUDA_HOOK_SM_MAX"),
];
const NAME: &str = "cuda-hook.container";
const PREFIX: &str = "cuda-hook.";

/// The file's name in the folder of what is made for a container.
pub(crate) const FILE: &str = "config.toml";

/// Whether a container was made, and is there still, whose programs share the quota of that name. `folder` is that of what is made for
/// containers.
pub(crate) fn is_in_use(folder: &Path, name: &ContainerName) -> Result<bool, Failure> {
    #[derive(Deserialize)]
    struct Named {
        container: String,
    }
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(failed(folder))?,
    };
    for entry in entries {
        let path = entry.map_err(failed(folder))?.path().join(FILE);
        // What is half written, or gone by now, is of a container that does not run.
        let text = fs::read_to_string(path).unwrap_or_default();
        let named = toml::from_str::<Named>(&text);
        if named.is_ok_and(|named| named.container == name.as_str()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The config file of one container.
#[derive(Debug, Serialize)]
pub(crate) struct File {
    container: String,
    /// No variable of a program's leads to another file, or to other books.
    sealed: bool,
    #[serde(flatten)]
    rest: Table,
}

impl File {
    /// The name under which its programs share one quota.
    pub(crate) fn container(&self) -> &str {
        &self.container
    }

    pub(crate) fn text(&self) -> Result<String, Failure> {
        let text = toml::to_string(self);
        text.map_err(|error| Failure::failed(format_args!("cannot write TOML: {error}")))
    }
}

/// The config file for a container; `None`: nobody asked for limits. `slice` is a file that sets them: then the container's
/// own annotations must not.
pub(crate) fn of(
    state: &State,
    container: &Container,
    slice: Option<&Path>,
) -> Result<Option<File>, Failure> {
    let annotated = annotated(&container.annotations)?;
    let rest = match slice {
        Some(slice) if annotated.is_empty() => of_slice(slice)?,
        Some(slice) => {
            return Err(Failure::failed(format_args!(
                "{} sets this container's limits, and its annotations do, too: leave one of them out",
                slice.display()
            )));
        }
        None if annotated.is_empty() => limits(of_environment(container)),
        None => limits(annotated),
    };
    if rest.is_empty() {
        return Ok(None);
    }
    let named = container.annotations.get(NAME);
    let name = named.map_or_else(|| last_part(&state.id), String::as_str);
    if let Err(error) = name.parse::<ContainerName>() {
        return Err(Failure::failed(format_args!(
            "{NAME}: {name:?} {error}; allowed: {}",
            ContainerName::ALLOWED
        )));
    }
    Ok(Some(File {
        container: name.to_owned(),
        sealed: true,
        rest,
    }))
}

/// What of an id a container's name has room for.
fn last_part(id: &str) -> &str {
    const LENGTH_MAX: usize = 64;
    id.get(id.len().saturating_sub(LENGTH_MAX)..).unwrap_or(id)
}

fn annotated(annotations: &BTreeMap<String, String>) -> Result<Table, Failure> {
    let known = LIMITS.map(|(_, annotation, _)| annotation);
    let ours = annotations.keys().filter(|key| key.starts_with(PREFIX));
    for key in ours {
        if key != NAME && !known.contains(&key.as_str()) {
            return Err(Failure::failed(format_args!(
                "{key}: no such annotation; there are {} and {NAME}",
                known.join(", ")
            )));
        }
    }
    let given = |(key, annotation, _)| Some((key, annotations.get(annotation)?.as_str()));
    Ok(LIMITS.into_iter().filter_map(given).map(entry).collect())
}

fn of_environment(container: &Container) -> Table {
    let given = |(key, _, variable)| Some((key, container.process.variable(variable)?));
    LIMITS.into_iter().filter_map(given).map(entry).collect()
}

/// A key of the config file; a flag is one there, too.
fn entry((key, text): (&str, &str)) -> (String, Value) {
    let flag = text.parse().ok().map(Value::Boolean);
    (key.to_owned(), flag.unwrap_or_else(|| text.into()))
}

fn limits(keys: Table) -> Table {
    if keys.is_empty() {
        return keys;
    }
    Table::from_iter([("limits".to_owned(), Value::Table(keys))])
}

fn of_slice(slice: &Path) -> Result<Table, Failure> {
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::failed(format_args!("{}: {error}", slice.display()))
    };
    let text = fs::read_to_string(slice).map_err(|error| unusable(&error))?;
    let mut table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| unusable(&error))?;
    table.remove("container");
    table.remove("sealed");
    if table.contains_key("limits") {
        Ok(table)
    } else {
        Err(unusable(&"sets no limits"))
    }
}

/// Refuses a slice's file without limits, or that the library would refuse.
pub(crate) fn check_slice(slice: &Path) -> Result<(), Failure> {
    of_slice(slice)?;
    check(slice)
}

/// Refuses what the library would refuse, with its own line.
pub(crate) fn check(file: &Path) -> Result<(), Failure> {
    let environment = [
        ("CUDA_HOOK_CONFIG", file.as_os_str()),
        ("CUDA_HOOK_DIR", STATE.as_ref()),
    ];
    let environment = environment.map(|(name, value)| (OsString::from(name), value.to_owned()));
    let read = settings::of_container(BTreeMap::from(environment));
    read.map(drop).map_err(Failure::failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(annotations: &[(&str, &str)], env: &[&str]) -> Container {
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        let described = serde_json::json!({
            "root": { "path": "rootfs" },
            "process": { "args": ["sh"], "env": env, "cwd": "/" },
            "annotations": annotations,
        });
        serde_json::from_value(described).unwrap()
    }

    fn text(container: &Container, slice: Option<&Path>) -> Result<Option<String>, String> {
        let id = "ab".repeat(40);
        let state = serde_json::json!({ "id": id, "bundle": "/b" });
        let state: State = serde_json::from_value(state).unwrap();
        let file = of(&state, container, slice).map_err(|failure| failure.to_string())?;
        Ok(file.map(|file| file.text().unwrap()))
    }

    #[test]
    fn annotations_become_the_containers_config_file() {
        let asked = [
            ("cuda-hook.memory", "2GiB"),
            ("cuda-hook.spill", "true"),
            ("cuda-hook.sm", "30"),
            ("cuda-hook.container", "trainer"),
            ("other", "x"),
        ];
        let text = text(&container(&asked, &["CUDA_HOOK_MEMORY=1GiB"]), None);
        let expected = "container = \"trainer\"\nsealed = true\n\n[limits]\nmemory = \"2GiB\"\nsm = \"30\"\nspill = true\n";
        assert_eq!(text.unwrap().unwrap(), expected);
    }

    #[test]
    fn variables_count_where_no_annotation_limits() {
        let env = ["CUDA_HOOK_SM=10", "CUDA_HOOK_SM=20", "CUDA_HOOK_LOG=info"];
        let limited = text(&container(&[], &env), None).unwrap().unwrap();
        let name = "ab".repeat(32);
        assert_eq!(
            limited,
            format!("container = \"{name}\"\nsealed = true\n\n[limits]\nsm = \"20\"\n")
        );
        assert_eq!(
            text(&container(&[], &["CUDA_HOOK_LOG=info"]), None),
            Ok(None)
        );
    }

    #[test]
    fn what_is_misspelt_is_refused() {
        let misspelt = text(&container(&[("cuda-hook.memroy", "1")], &[]), None);
        assert!(
            misspelt
                .unwrap_err()
                .starts_with("cuda-hook.memroy: no such annotation")
        );
        let asked = [("cuda-hook.memory", "1"), ("cuda-hook.container", "a/b")];
        let named = text(&container(&asked, &[]), None).unwrap_err();
        assert!(
            named.starts_with("cuda-hook.container: \"a/b\" is not"),
            "{named}"
        );
    }

    #[test]
    fn a_slice_limits_alone_and_names_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let slice = folder.path().join("small.toml");
        fs::write(
            &slice,
            "container = \"x\"\nstrict = true\n[limits]\nsm = 30\n",
        )
        .unwrap();
        let limited = text(
            &container(&[("cuda-hook.container", "y")], &[]),
            Some(&slice),
        );
        let limited = limited.unwrap().unwrap();
        assert!(
            limited.starts_with("container = \"y\"\nsealed = true\nstrict = true\n"),
            "{limited}"
        );
        let both = text(&container(&[("cuda-hook.sm", "20")], &[]), Some(&slice));
        assert!(both.unwrap_err().ends_with("leave one of them out"));
        fs::write(&slice, "strict = true\n").unwrap();
        let nothing = text(&container(&[], &[]), Some(&slice)).unwrap_err();
        assert!(nothing.ends_with("sets no limits"), "{nothing}");
    }
}
