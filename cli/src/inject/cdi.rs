//! `cuda-hook cdi`: a slice of a GPU as a device that containers can ask for (Container Device Interface).

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::{Value, json};

use super::{CONFIG, LIBRARY, PRELOAD_VARIABLE, PRELOADS, PRELOADS_ALONE, STATE, config};
use crate::args::{CdiGenerateArgs, Preload};
use crate::artefacts::{self, Artefacts};
use crate::failure::Failure;
use crate::folders::{self, lend};
use crate::output;

const KIND: &str = "cuda-hook/slice";

/// What a slice's containers get, by where it lies on the node.
#[derive(Debug)]
struct Slice<'a> {
    name: &'a str,
    /// What the runtime calls as hook.
    command: PathBuf,
    library: PathBuf,
    config: PathBuf,
    dir: PathBuf,
    preload: Preload,
    device_nodes: Vec<PathBuf>,
}

/// Writes the description of a slice, and makes the folder that it mounts.
pub(crate) fn generate(args: &CdiGenerateArgs) -> Result<(), Failure> {
    if !is_device_name(&args.slice) {
        return Err(Failure::usage(format_args!(
            "{:?} is no name of a slice; allowed: letters, digits, . _ -, with a letter or digit at either end",
            args.slice
        )));
    }
    let slice = Slice {
        name: &args.slice,
        command: artefacts::executable()?,
        library: Artefacts::locate()?.preload()?,
        config: artefacts::absolute(&args.config)?,
        dir: artefacts::absolute(&args.dir)?,
        preload: args.preload,
        device_nodes: device_nodes(),
    };
    config::check_slice(&slice.config)?;
    let spec = slice.spec();
    match &args.output {
        None => output::print_json(&spec),
        Some(path) => {
            if slice.preload == Preload::File {
                check_preloads(&slice)?;
            }
            lend(&slice.dir, folders::STATE_MODE)?;
            write(path, &spec)
        }
    }
}

/// The file that is mounted as [`PRELOADS`] lies beside the library.
fn check_preloads(slice: &Slice<'_>) -> Result<(), Failure> {
    let path = slice.preloads();
    match fs::read_to_string(&path) {
        Ok(text) if text == PRELOADS_ALONE => Ok(()),
        Ok(_) => Err(Failure::failed(format_args!(
            "{}: is not to name anything but {LIBRARY}",
            path.display()
        ))),
        Err(error) => Err(Failure::failed(format_args!("{}: {error}", path.display()))),
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

impl Slice<'_> {
    fn spec(&self) -> Value {
        json!({
            "cdiVersion": version(self.name),
            "kind": KIND,
            "devices": [{ "name": self.name, "containerEdits": self.edits() }],
        })
    }

    fn edits(&self) -> Value {
        let mut edits = json!({
            "mounts": self.mounts(),
            "hooks": [self.hook("createContainer"), self.hook("poststop")],
        });
        if self.preload == Preload::Environment {
            edits["env"] = json!([format!("{PRELOAD_VARIABLE}={LIBRARY}")]);
        }
        if !self.device_nodes.is_empty() {
            let node = |path| json!({ "path": path });
            edits["deviceNodes"] = self.device_nodes.iter().map(node).collect();
        }
        edits
    }

    /// Whatever the runtime makes of the hook.
    fn mounts(&self) -> Vec<Value> {
        let mount = |from: &Path, to: &str, options: [&str; 2]| {
            let [first, second] = options;
            let options = [first, second, "nosuid", "nodev", "bind"];
            json!({ "hostPath": from, "containerPath": to, "options": options })
        };
        let read = ["ro", "exec"];
        let mut mounts = vec![
            mount(&self.library, LIBRARY, read),
            mount(&self.config, CONFIG, read),
            mount(&self.dir, STATE, ["rw", "noexec"]),
        ];
        if self.preload == Preload::File {
            mounts.push(mount(&self.preloads(), PRELOADS, read));
        }
        mounts
    }

    fn preloads(&self) -> PathBuf {
        self.library.with_file_name("ld.so.preload")
    }

    fn hook(&self, stage: &str) -> Value {
        let preload = match self.preload {
            Preload::File => "file",
            Preload::Environment => "environment",
        };
        json!({
            "hookName": stage,
            "path": self.command,
            "args": [
                "cuda-hook", "oci-hook", "--config", self.config, "--dir", self.dir, "--preload", preload,
            ],
        })
    }
}

/// The lowest version that has all that is said (CDI specification, "Released versions": what 0.3.0 has, and from 0.5.0 on names that
/// begin with a digit): runtimes refuse newer ones than theirs.
fn version(slice: &str) -> &'static str {
    if slice.starts_with(|first: char| first.is_ascii_digit()) {
        "0.5.0"
    } else {
        "0.3.0"
    }
}

/// Writes it beside its place, and moves it there: a runtime that reads now sees the old one or the new. No runtime's package brings
/// `/etc/cdi`, so that the folder is made, too.
fn write(path: &Path, spec: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(spec).map_err(io::Error::from);
    let fresh = path.with_added_extension("new");
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    let written = folder
        .and(text)
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

    fn slice(name: &str, preload: Preload) -> Slice<'_> {
        Slice {
            name,
            command: "/usr/bin/cuda-hook".into(),
            library: "/usr/lib/cuda-hook/libcuda_hook.so".into(),
            config: "/etc/slice.toml".into(),
            dir: "/run/cuda-hook".into(),
            preload,
            device_nodes: vec!["/dev/nvidia0".into()],
        }
    }

    #[test]
    fn a_slice_brings_the_gpus_nodes_the_mounts_and_the_hooks() {
        let edits = slice("a", Preload::File).edits();
        assert_eq!(edits["deviceNodes"], json!([{ "path": "/dev/nvidia0" }]));
        let stages = [0, 1].map(|at| &edits["hooks"][at]["hookName"]);
        assert_eq!(stages, ["createContainer", "poststop"]);
        assert_eq!(edits["hooks"][0]["args"][3], "/etc/slice.toml");
        let mounted: Vec<_> = (0..5)
            .filter_map(|at| edits["mounts"][at]["containerPath"].as_str())
            .collect();
        assert_eq!(mounted, [LIBRARY, CONFIG, STATE, PRELOADS]);
        assert_eq!(edits["mounts"][1]["options"][0], "ro");
        assert_eq!(edits["env"], Value::Null);
    }

    #[test]
    fn a_slice_by_the_environment_has_the_variable_in_place_of_the_file() {
        let edits = slice("a", Preload::Environment).edits();
        assert_eq!(edits["env"], json!([format!("LD_PRELOAD={LIBRARY}")]));
        assert!(!edits["mounts"].to_string().contains(PRELOADS));
        assert_eq!(edits["hooks"][0]["args"][7], "environment");
    }

    #[test]
    fn a_description_is_written_where_no_runtime_has_made_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etc/cdi/small.json");
        for memory in ["1GiB", "2GiB"] {
            write(&path, &json!({ "memory": memory })).unwrap();
            assert!(fs::read_to_string(&path).unwrap().contains(memory));
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_description_says_the_lowest_version_that_holds_it() {
        let version = |name| slice(name, Preload::File).spec()["cdiVersion"].clone();
        assert_eq!([version("small"), version("4gib")], ["0.3.0", "0.5.0"]);
    }
}
