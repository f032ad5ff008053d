//! `cuda-hook cdi`: a slice of a GPU as a device that containers can ask for (Container Device Interface).

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::{Value, json};

use super::config;
use crate::args::CdiGenerateArgs;
use crate::artefacts;
use crate::failure::Failure;
use crate::output;

/// The lowest version that has all that is said here (CDI specification, "Released versions"): runtimes refuse newer ones than theirs.
const VERSION: &str = "0.3.0";
const KIND: &str = "cuda-hook/slice";

/// Writes the description of a slice.
pub(crate) fn generate(args: &CdiGenerateArgs) -> Result<(), Failure> {
    if !is_device_name(&args.slice) {
        return Err(Failure::usage(format_args!(
            "{:?} is no name of a slice; allowed: letters, digits, . _ -, with a letter or digit at either end",
            args.slice
        )));
    }
    let [file, dir] = [
        artefacts::absolute(&args.config)?,
        artefacts::absolute(&args.dir)?,
    ];
    config::check_slice(&file)?;
    let called = [file.as_path(), &dir];
    let spec = spec(
        &args.slice,
        called,
        &artefacts::executable()?,
        &device_nodes(),
    );
    match &args.output {
        None => output::print_json(&spec),
        Some(path) => write(path, &spec),
    }
}

/// A device's name (CDI specification, "CDI Devices").
fn is_device_name(name: &str) -> bool {
    let is_inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let ends = [name.chars().next(), name.chars().next_back()];
    let ends_well = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.chars().all(is_inside) && ends.into_iter().all(ends_well)
}

/// The nodes of NVIDIA's kernel driver that this machine has.
fn device_nodes() -> Vec<PathBuf> {
    let is_one = |name: &str| {
        let number = name.strip_prefix("nvidia");
        let is_gpu = number.is_some_and(|number| number.parse::<u32>().is_ok());
        is_gpu
            || matches!(
                name,
                "nvidiactl" | "nvidia-uvm" | "nvidia-uvm-tools" | "nvidia-modeset"
            )
    };
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_one));
    let mut nodes: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    nodes.sort();
    nodes
}

/// `called` is what the hook is called with: its config file, and the folder of the shared state.
fn spec(slice: &str, called: [&Path; 2], command: &Path, nodes: &[PathBuf]) -> Value {
    let [config, dir] = called;
    let hook = |stage: &str| {
        json!({
            "hookName": stage,
            "path": command,
            "args": ["cuda-hook", "oci-hook", "--config", config, "--dir", dir],
        })
    };
    let nodes: Vec<Value> = nodes.iter().map(|path| json!({ "path": path })).collect();
    let mut edits = json!({ "hooks": [hook("createContainer"), hook("poststop")] });
    if !nodes.is_empty() {
        edits["deviceNodes"] = nodes.into();
    }
    json!({
        "cdiVersion": VERSION,
        "kind": KIND,
        "devices": [{ "name": slice, "containerEdits": edits }],
    })
}

/// Writes it beside its place, and moves it there: a runtime that reads now sees the old one or the new.
fn write(path: &Path, spec: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(spec).map_err(io::Error::from);
    let fresh = path.with_added_extension("new");
    let written = text
        .and_then(|text| fs::write(&fresh, text + "\n"))
        .and_then(|()| fs::rename(&fresh, path));
    written.map_err(|error| Failure::failed(format_args!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_has_a_devices_name() {
        for name in ["a", "small", "t4-30.2_x9"] {
            assert!(is_device_name(name), "{name}");
        }
        for name in ["", "-a", "a.", "a b", "a/b", "ä", "cuda-hook/slice=a"] {
            assert!(!is_device_name(name), "{name}");
        }
    }

    #[test]
    fn a_slice_brings_the_gpus_nodes_and_the_hooks() {
        let node = PathBuf::from("/dev/nvidia0");
        let called = ["/etc/slice.toml", "/run/cuda-hook"].map(Path::new);
        let command = Path::new("/usr/bin/cuda-hook");
        let edits = &spec("a", called, command, &[node])["devices"][0]["containerEdits"];
        assert_eq!(edits["deviceNodes"], json!([{ "path": "/dev/nvidia0" }]));
        let stages = [
            &edits["hooks"][0]["hookName"],
            &edits["hooks"][1]["hookName"],
        ];
        assert_eq!(stages, ["createContainer", "poststop"]);
        assert_eq!(edits["hooks"][0]["args"][3], "/etc/slice.toml");
    }
}
