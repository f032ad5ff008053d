//! `cuda-hook-libraries`, asked as the command asks it, with libraries made for the purpose.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cuda_hook_libraries::{Driver, Gpu, Process, Question, Unusable};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

/// GPU 0 has two processes, GPU 1 a hundred, and there is no other. What the first holds tells how often NVML was initialised.
const NVML: &str = r#"
#include <string.h>
struct row { unsigned pid; unsigned long long memory; unsigned instance, part; };
static unsigned long long inits;
int nvmlInit_v2(void) { inits += 1; return STATUS; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    *handle = (void *) uuid;
    return strcmp(uuid, "GPU-0") == 0 || strcmp(uuid, "GPU-1") == 0 ? 0 : 6;
}
int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, struct row *rows) {
    unsigned room = *count;
    *count = strcmp(handle, "GPU-0") == 0 ? 2 : 100;
    if (room < *count) return 7;
    for (unsigned at = 0; at < *count; at++)
        rows[at] = (struct row) { at + 1, at == 0 ? inits : ~0ULL, 0, 0 };
    return 0;
}
"#;

const DRIVER: &str = "int cuDriverGetVersion(int *version) { *version = 12020; return 0; }";

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn compile(folder: &Path, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let (input, library) = (folder.join("source.c"), folder.join(name));
    fs::write(&input, source).unwrap();
    let mut cc = Command::new("cc");
    let cc = cc.args(["-shared", "-fPIC", "-o"]).arg(&library);
    assert!(cc.arg(&input).args(flags).status().unwrap().success());
    library
}

fn start(libraries: &Path, lines: &str, arguments: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cuda-hook-libraries"))
        .args(arguments)
        .env("LD_LIBRARY_PATH", libraries)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // One that takes no questions has gone.
    drop(input.write_all(lines.as_bytes()));
    drop(input);
    child.wait_with_output().unwrap()
}

/// What it answers to each of these where the loader looks in that folder.
fn ask<Answer: DeserializeOwned>(libraries: &Path, questions: &[Question]) -> Vec<Answer> {
    let lines = questions
        .iter()
        .map(|question| serde_json::to_string(question).unwrap() + "\n");
    let output = start(libraries, &lines.collect::<String>(), &[]);
    assert!(output.status.success(), "{output:?}");
    let answers = std::str::from_utf8(&output.stdout).unwrap().lines();
    answers
        .map(|answer| serde_json::from_str(answer).unwrap())
        .collect()
}

fn processes(uuids: &[&str]) -> Question {
    Question::Processes(uuids.iter().map(|&uuid| uuid.to_owned()).collect())
}

#[test]
fn glibc_says_its_version_in_numbers() {
    let answers: Vec<String> = ask(folder().path(), &[Question::CLibrary]);
    let numbers: Result<Vec<u32>, _> = answers[0].split('.').map(str::parse).collect();
    assert_eq!(numbers.map(|numbers| numbers[0]), Ok(2), "{answers:?}");
}

#[test]
fn a_driver_is_the_file_that_the_loader_finds() {
    let folder = folder();
    let driver = compile(folder.path(), "libcuda.so.535.183.01", DRIVER, &[]);
    let link = folder.path().join("libcuda.so.1");
    std::os::unix::fs::symlink(&driver, &link).unwrap();
    let questions = ["libcuda.so.1".into(), link].map(Question::Driver);
    let answers: Vec<Result<Driver, String>> = ask(folder.path(), &questions);
    // The loader maps a link by its name.
    let paths = answers.into_iter().map(|answer| {
        let found = answer.unwrap();
        assert_eq!(found.cuda_version, Some(12020));
        found.path.canonicalize().unwrap()
    });
    assert_eq!(paths.collect::<Vec<_>>(), [driver.clone(), driver]);
}

#[test]
fn a_driver_that_is_not_there_is_an_error_with_its_name() {
    let question = Question::Driver("/nonexistent/libcuda.so.1".into());
    let answers: Vec<Result<Driver, String>> = ask(folder().path(), &[question]);
    let said = answers[0].as_ref().unwrap_err();
    assert!(said.contains("/nonexistent/libcuda.so.1"), "{said}");
}

#[test]
fn processes_are_those_that_nvml_lists_however_many() {
    let folder = folder();
    compile(folder.path(), "libnvidia-ml.so.1", NVML, &["-DSTATUS=0"]);
    let question = processes(&["GPU-0", "GPU-2", "GPU-1"]);
    let answers: Vec<Result<Vec<Gpu>, Unusable>> =
        ask(folder.path(), &[question, processes(&["GPU-0"])]);
    let first = answers[0].as_ref().unwrap();
    let process = |pid, memory_bytes| Process { pid, memory_bytes };
    let zero = Gpu {
        uuid: "GPU-0".to_owned(),
        processes: vec![process(1, Some(1)), process(2, None)],
    };
    assert_eq!((first.len(), &first[0]), (2, &zero));
    assert_eq!(
        (first[1].uuid.as_str(), first[1].processes.len()),
        ("GPU-1", 100)
    );
    assert_eq!(answers[1], Ok(vec![zero]), "initialised once");
}

#[test]
fn an_nvml_that_does_not_work_says_with_which_error() {
    let folder = folder();
    compile(folder.path(), "libnvidia-ml.so.1", NVML, &["-DSTATUS=9"]);
    let answers: Vec<Result<Vec<Gpu>, Unusable>> =
        ask(folder.path(), &[processes(&["GPU-0"]), processes(&[])]);
    assert_eq!(
        answers,
        [Err(Unusable::Refused(9)), Err(Unusable::Refused(9))]
    );
}

#[test]
fn the_simulated_nvml_is_not_started() {
    let folder = folder();
    compile(folder.path(), "libnvidia-ml.so.1", NVML, &["-DSTATUS=0"]);
    fs::write(folder.path().join("gpu-sim-device"), "").unwrap();
    let answers: Vec<Result<Vec<Gpu>, Unusable>> = ask(folder.path(), &[processes(&["GPU-0"])]);
    assert!(
        matches!(&answers[0], Err(Unusable::Absent(why)) if why.contains("simulated")),
        "{answers:?}"
    );
}

#[test]
fn who_asks_in_another_way_is_told_how_it_is_done() {
    for (lines, arguments, told) in [
        ("", ["--help"].as_slice(), "standard input"),
        ("what?\n", &[], "expected value"),
    ] {
        let output = start(folder().path(), lines, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(
            said.starts_with("cuda-hook-libraries: ") && said.contains(told),
            "{said}"
        );
    }
}
