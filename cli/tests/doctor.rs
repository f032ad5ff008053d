//! `cuda-hook doctor`, seen from outside.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what fails here fails the test"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use support::{Sandbox, shown, stderr, stdout};

/// A driver with one call that we know to allocate, and one that nobody knows.
const DRIVER: &str = "
int cuDriverGetVersion(int *version) { *version = 12020; return 0; }
int cuMemAlloc_v2(void) { return 0; }
int cuFromTheFuture(void) { return 0; }
";

/// The findings of one check, with the text of each.
fn findings<'a>(report: &'a Value, check: &str) -> Vec<(&'a str, &'a str)> {
    let all = report["findings"].as_array().unwrap().iter();
    let named = all.filter(|finding| finding["check"] == check);
    named
        .map(|finding| {
            (
                finding["level"].as_str().unwrap(),
                finding["found"].as_str().unwrap(),
            )
        })
        .collect()
}

/// The names in all findings of one check that are a warning.
fn names<'a>(report: &'a Value, check: &str) -> Vec<&'a str> {
    let all = report["findings"].as_array().unwrap().iter();
    let warnings = all.filter(|finding| finding["check"] == check && finding["level"] == "warning");
    let names = warnings.flat_map(|finding| finding["names"].as_array().unwrap());
    names.map(|name| name.as_str().unwrap()).collect()
}

/// Doctor on a machine with a simulated driver.
fn doctor(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    let driver = sandbox.compile(DRIVER, &["-shared", "-fPIC"], "gpu-sim/libcuda.so.1");
    fs::write(sandbox.path("gpu-sim/gpu-sim-device"), "").unwrap();
    let arguments = [&["doctor"], arguments].concat();
    sandbox
        .command(&arguments)
        .env("CUDA_HOOK_DRIVER", driver)
        .output()
        .unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_machine_with_everything_is_able_and_gaps_are_named() {
    let output = doctor(&Sandbox::new(), &["--json"]);
    let report = report(&output);
    assert_eq!(
        (output.status.code(), &report["able"], &report["schema"]),
        (Some(0), &true.into(), &1.into())
    );
    let [("ok", driver)] = findings(&report, "driver")[..] else {
        panic!("{report}")
    };
    assert!(
        driver.starts_with("simulated driver, CUDA 12.2"),
        "{driver}"
    );
    assert_eq!(names(&report, "symbols"), ["cuFromTheFuture"]);
    assert_eq!(
        names(&report, "hooks"),
        ["cuMemAlloc_v2"],
        "the stand-in hooks nothing"
    );
    let [("ok", preload)] = findings(&report, "preload")[..] else {
        panic!("{report}")
    };
    assert!(preload.ends_with("libcuda_hook.so: loads"), "{preload}");
}

/// Names of the finding about what sounds like use, and its level.
fn suspects(report: &Value) -> (&str, Vec<&str>) {
    let mut all = report["findings"].as_array().unwrap().iter();
    let found = all
        .rfind(|finding| finding["found"].as_str().unwrap().contains("sound like"))
        .unwrap();
    let names = found["names"].as_array().unwrap().iter();
    (
        found["level"].as_str().unwrap(),
        names.map(|name| name.as_str().unwrap()).collect(),
    )
}

#[test]
fn what_a_newer_driver_brings_is_named_and_strict_closes_the_gap() {
    let sandbox = Sandbox::new();
    let source = format!("{DRIVER}int cuMemAllocNew(void) {{ return 0; }}\n");
    let driver = sandbox.compile(&source, &["-shared", "-fPIC"], "gpu-sim/libcuda.so.1");
    fs::write(sandbox.path("gpu-sim/gpu-sim-device"), "").unwrap();
    for (strict, level) in [("false", "warning"), ("true", "ok")] {
        let mut command = sandbox.command(&["doctor", "--json"]);
        let command = command.env("CUDA_HOOK_DRIVER", &driver);
        let output = command.env("CUDA_HOOK_STRICT", strict).output().unwrap();
        let report = report(&output);
        assert_eq!(
            suspects(&report),
            (level, vec!["cuMemAllocNew"]),
            "{report}"
        );
        let unknown = names(&report, "symbols");
        assert!(unknown.contains(&"cuFromTheFuture"), "{report}");
    }
}

/// What exports as this library does in the driver's place.
fn second_door(sandbox: &Sandbox) -> PathBuf {
    let source =
        format!("{DRIVER}int cuInit(void) {{ return 1; }}\nint dlsym(void) {{ return 0; }}\n");
    let flags = ["-shared", "-fPIC", "-fno-builtin"];
    fs::create_dir(sandbox.path("second-door")).unwrap();
    sandbox.compile(&source, &flags, "second-door/libcuda.so.1")
}

#[test]
fn the_library_in_the_drivers_place_is_told_with_the_driver_behind_it() {
    let sandbox = Sandbox::new();
    let door = second_door(&sandbox);
    let driver = sandbox.compile(DRIVER, &["-shared", "-fPIC"], "gpu-sim/libcuda.so.1");
    fs::write(sandbox.path("gpu-sim/gpu-sim-device"), "").unwrap();
    let doors = |folder: &Path| {
        let mut command = sandbox.command(&["doctor", "--json"]);
        let command = command.env("CUDA_HOOK_DRIVER", &driver);
        let output = command.env("LD_LIBRARY_PATH", folder).output().unwrap();
        let report = report(&output);
        let doors = findings(&report, "second door").into_iter();
        doors
            .map(|(level, found)| (level.to_owned(), found.to_owned()))
            .collect::<Vec<_>>()
    };
    let found = format!(
        "{} is cuda-hook's own, in the driver's place; behind it is {}",
        door.display(),
        driver.display()
    );
    assert_eq!(doors(door.parent().unwrap()), [("ok".to_owned(), found)]);
    assert_eq!(doors(driver.parent().unwrap()), []);
}

#[test]
fn the_library_in_the_drivers_place_is_no_driver() {
    let sandbox = Sandbox::new();
    let driver = second_door(&sandbox);
    let mut command = sandbox.command(&["doctor", "--json"]);
    let output = command.env("CUDA_HOOK_DRIVER", driver).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report = report(&output);
    let [("problem", found)] = findings(&report, "driver")[..] else {
        panic!("{report}")
    };
    assert!(found.contains("in the driver's place"), "{found}");
}

#[test]
fn a_driver_that_is_none_is_a_problem_with_a_way_out() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["doctor"]);
    let output = command
        .env("CUDA_HOOK_DRIVER", sandbox.path("config.toml"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = stdout(&output);
    assert!(
        text.contains("PROBLEM  driver") && text.contains("--sim t4"),
        "{text}"
    );
    assert!(text.ends_with("not able to enforce limits.\n"), "{text}");
}

#[test]
fn a_bad_limit_is_found_with_the_librarys_own_words() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("config.toml"), "[limits]\nmemory = \"abc\"\n").unwrap();
    let output = sandbox.run(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report = report(&output);
    let [("problem", line)] = findings(&report, "configuration")[..] else {
        panic!("{report}")
    };
    assert!(
        line.contains("config.toml") && line.contains("abc"),
        "{line}"
    );
}

#[test]
fn a_missing_library_is_a_problem() {
    let sandbox = Sandbox::new();
    fs::remove_file(sandbox.path("libcuda_hook.so")).unwrap();
    let output = doctor(&sandbox, &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(findings(&report(&output), "preload")[0].0, "problem");
}

#[test]
fn a_static_program_cannot_be_limited() {
    let sandbox = Sandbox::new();
    let output = doctor(&sandbox, &["--json", shown(&sandbox.static_program())]);
    assert_eq!(output.status.code(), Some(1));
    let report = report(&output);
    let [("problem", found)] = findings(&report, "program")[..] else {
        panic!("{report}")
    };
    assert!(found.contains("statically linked"), "{found}");
}

#[test]
fn a_script_is_judged_by_what_runs_it() {
    let sandbox = Sandbox::new();
    let program = sandbox.static_program();
    let script = sandbox.script("script", &format!("#!{}\n", shown(&program)));
    let output = doctor(&sandbox, &["--json", shown(&script)]);
    let report = report(&output);
    let [("ok", first), ("problem", second)] = findings(&report, "program")[..] else {
        panic!("{report}")
    };
    assert!(
        first.contains("a script, run by") && second.contains("statically linked"),
        "{report}"
    );
    assert_eq!(
        doctor(&sandbox, &[shown(&sandbox.script("fine", "#!/bin/sh\n"))])
            .status
            .code(),
        Some(0)
    );
}

#[test]
fn a_program_that_brings_its_own_driver_is_warned_of() {
    let sandbox = Sandbox::new();
    let main = "int cuMemAlloc_v2(void); int main(void) { return cuMemAlloc_v2(); }";
    sandbox.compile(
        DRIVER,
        &["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"],
        "libcuda.so.1",
    );
    let flags = [
        "-Wl,--disable-new-dtags,-rpath,$ORIGIN",
        "-Wl,--no-as-needed",
    ];
    let library = sandbox.text("libcuda.so.1");
    let linked = sandbox.compile(main, &["-Wl,--no-as-needed", &library], "linked");
    let bound = sandbox.compile(main, &[flags[0], flags[1], &library], "bound");
    for (program, level, text) in [
        (linked, "ok", "links libcuda.so.1 itself"),
        (bound, "warning", "DT_RPATH"),
    ] {
        let output = doctor(&sandbox, &["--json", shown(&program)]);
        let report = report(&output);
        let last = *findings(&report, "program").last().unwrap();
        assert!(last.0 == level && last.1.contains(text), "{report}");
    }
}

#[test]
fn a_program_that_is_not_there_is_a_problem() {
    let output = doctor(&Sandbox::new(), &["no-such-program"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).contains("no-such-program: not found") && stderr(&output).is_empty(),
        "{output:?}"
    );
}

#[test]
fn without_its_companion_the_command_is_not_able_and_says_what_is_missing() {
    let sandbox = Sandbox::new();
    let output = sandbox
        .command_alone(&["doctor", "--json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = report(&output);
    for check in ["glibc", "driver"] {
        let [("problem", found)] = findings(&report, check)[..] else {
            panic!("{report}")
        };
        let places = [sandbox.text("alone"), sandbox.text("lib/cuda-hook")].join(" or ");
        let missing = format!("cuda-hook-libraries is not in {places}");
        assert!(found.contains(&missing), "{found}");
    }
}
