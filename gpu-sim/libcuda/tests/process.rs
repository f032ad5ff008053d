//! Whole processes: a C program that is linked against the driver.
#![expect(clippy::expect_used, reason = "what goes wrong fails the test")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

struct Program {
    folder: PathBuf,
    driver: PathBuf,
}

/// The program, compiled once.
fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned();
        let driver = support::lay_out(&folder);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/life.c");
        let mut compiler = Command::new("cc");
        compiler
            .arg(source)
            .arg("-o")
            .arg(folder.join("life"))
            .arg("-L")
            .arg(&driver)
            .arg("-lcuda");
        assert!(compiler.status().expect("a C compiler").success());
        Program { folder, driver }
    })
}

/// Runs it on a machine of this name with these variables.
fn run(machine: &str, scene: &str, variables: &[(&str, &str)]) -> Output {
    let Program { folder, driver } = program();
    let mut command = Command::new(folder.join("life"));
    command
        .arg(scene)
        .env("LD_LIBRARY_PATH", driver)
        .env("GPU_SIM_DIR", support::machine_dir(machine));
    command
        .envs(variables.iter().copied())
        .output()
        .expect("the program starts")
}

fn lines(output: &Output) -> Vec<&str> {
    std::str::from_utf8(&output.stdout)
        .expect("text")
        .lines()
        .collect()
}

#[test]
fn a_linked_program_runs_and_nothing_works_before_cu_init() {
    let output = run("plain", "", &[]);
    let lines = lines(&output);
    assert_eq!(
        lines[..4],
        [
            "cuDeviceGetCount(&count) = 3",
            "cuInit(0) = 0",
            "cuDeviceGetCount(&count) = 0",
            "count 1"
        ]
    );
    assert!(lines.contains(&"over and back"), "{lines:?}");
    assert_eq!(
        lines
            .iter()
            .filter(|line| line.starts_with("cuMemFree_v2"))
            .collect::<Vec<_>>(),
        [&"cuMemFree_v2(memory) = 0", &"cuMemFree_v2(memory) = 1"]
    );
    assert_eq!(lines.last(), Some(&"active 0"));
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}

#[test]
fn a_forked_child_has_no_driver_and_its_parent_keeps_its_own() {
    let output = run("fork", "fork", &[]);
    let lines = lines(&output);
    assert!(
        lines.contains(&"cuMemGetInfo_v2(&free_bytes, &total_bytes) = 3"),
        "{lines:?}"
    );
    assert_eq!(
        lines
            .iter()
            .filter(|line| **line == "cuInit(0) = 3")
            .count(),
        1
    );
    assert!(
        lines.contains(&"over and back") && output.status.success(),
        "{lines:?}"
    );
}

#[test]
fn devices_can_be_hidden() {
    for hidden in ["", "-1", "7"] {
        let output = run("hidden", "", &[("CUDA_VISIBLE_DEVICES", hidden)]);
        assert!(
            lines(&output).contains(&"cuInit(0) = 100"),
            "{hidden}: {output:?}"
        );
    }
    assert!(lines(&run("hidden", "", &[("CUDA_VISIBLE_DEVICES", "0")])).contains(&"count 1"));
}

#[test]
fn a_machine_that_cannot_start_fails_cu_init_with_one_line() {
    let output = run(
        "nowhere",
        "",
        &[("GPU_SIM_DEVICE", "/nowhere/gpu-sim-device")],
    );
    assert!(lines(&output).contains(&"cuInit(0) = 802"), "{output:?}");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(
        said.lines().count() == 1 && said.contains("/nowhere/gpu-sim-device"),
        "{said}"
    );
    let silent = run(
        "nowhere",
        "",
        &[
            ("GPU_SIM_DEVICE", "/nowhere/gpu-sim-device"),
            ("GPU_SIM_LOG", "off"),
        ],
    );
    assert!(silent.stderr.is_empty());
}

/// The one trace in a folder.
fn trace(folder: &Path) -> String {
    let files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|file| file.expect("a file").path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    std::fs::read_to_string(&files[0]).expect("the trace")
}

#[test]
fn two_runs_leave_the_same_trace_with_every_call_in_it() {
    let traces = ["first", "second"].map(|name| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_str().expect("text");
        run(name, "", &[("GPU_SIM_TRACE", path)]);
        trace(folder.path())
    });
    assert_eq!(traces[0], traces[1]);
    let calls: Vec<&str> = traces[0].lines().collect();
    assert_eq!(calls[..2], ["cuDeviceGetCount ptr = 3", "cuInit 0 = 0"]);
    assert!(
        calls.contains(&"cuMemcpyHtoD_v2 ptr ptr 16 = 0"),
        "{calls:?}"
    );
}

#[test]
fn a_trace_that_cannot_be_written_is_said_once_and_harms_nothing() {
    let output = run("untraced", "", &[("GPU_SIM_TRACE", "/nowhere")]);
    assert!(lines(&output).contains(&"over and back"));
    assert_eq!(
        String::from_utf8(output.stderr)
            .expect("text")
            .lines()
            .count(),
        1
    );
}
