//! `cuda-hook run`, seen from outside.

mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use support::{Sandbox, shown, stderr, stdout};

#[test]
fn the_exit_status_is_the_programs() {
    let output = Sandbox::new().run(&["run", "--memory", "1GiB", "--", "sh", "-c", "exit 37"]);
    assert_eq!(output.status.code(), Some(37), "{output:?}");
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_signal_that_ends_the_program_is_seen_as_such() {
    let output = Sandbox::new().run(&["run", "--", "sh", "-c", "kill -KILL $$"]);
    assert_eq!(output.status.signal(), Some(9), "{output:?}");
}

#[test]
fn the_program_takes_the_place_of_the_command() {
    let sandbox = Sandbox::new();
    let child = sandbox
        .command(&["run", "sh", "-c", "echo $$"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id().to_string();
    assert_eq!(stdout(&child.wait_with_output().unwrap()).trim(), pid);
}

#[test]
fn the_library_is_in_the_programs_memory() {
    let sandbox = Sandbox::new();
    let output = sandbox.run(&["run", "--", "cat", "/proc/self/maps"]);
    let library = sandbox.path("libcuda_hook.so").canonicalize().unwrap();
    assert!(stdout(&output).contains(shown(&library)), "{output:?}");
}

#[test]
fn arguments_reach_the_program_untouched() {
    let arguments = [
        "run", "--sm", "30", "--", "printf", "%s|", "--sm", "--", "a b", "", "-h",
    ];
    assert_eq!(stdout(&Sandbox::new().run(&arguments)), "--sm|--|a b||-h|");
}

#[test]
fn an_existing_preload_stays_behind_ours() {
    let sandbox = Sandbox::new();
    let other = sandbox.compile("", &["-shared"], "other.so");
    let mut command = sandbox.command(&["run", "--", "sh", "-c", "echo $LD_PRELOAD"]);
    let output = command.env("LD_PRELOAD", &other).output().unwrap();
    assert_eq!(
        stdout(&output).trim(),
        format!("{}:{}", sandbox.text("libcuda_hook.so"), shown(&other))
    );
}

#[test]
fn a_value_that_means_nothing_is_refused_before_the_program_starts() {
    let sandbox = Sandbox::new();
    let bad = [
        ("--memory", "abc"),
        ("--memory", "-1"),
        ("--memory", ""),
        ("--memory", "1.5 bananas"),
        ("--sm", "200"),
        ("--sm", "0"),
        ("--sm-max", "x"),
        ("--container", "a/b"),
    ];
    for (flag, value) in bad {
        let output = sandbox.run(&["run", flag, value, "--", "touch", "started"]);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{flag} {value:?}: {output:?}"
        );
        let message = stderr(&output);
        assert!(message.contains("Usage: cuda-hook run"), "{message}");
        assert!(
            message.contains(&format!("{value:?}")) && message.contains("allowed"),
            "{message}"
        );
    }
    assert!(!sandbox.path("started").exists());
}

#[test]
fn a_bad_variable_that_was_there_before_is_refused_too() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["run", "--", "true"]);
    let output = command.env("CUDA_HOOK_LOG", "loud").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stderr(&output).contains("CUDA_HOOK_LOG"), "{output:?}");
}

#[test]
fn an_unknown_flag_is_wrong_usage() {
    let output = Sandbox::new().run(&["run", "--memroy", "1G", "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("--memory"),
        "the nearest flag is named: {output:?}"
    );
}

#[test]
fn a_program_that_is_not_there_is_127_and_one_that_cannot_run_is_126() {
    let sandbox = Sandbox::new();
    let output = sandbox.run(&["run", "--memory", "1GiB", "--", "no-such-program"]);
    assert_eq!(output.status.code(), Some(127));
    assert_eq!(stderr(&output).lines().count(), 1, "{output:?}");
    assert!(
        stderr(&output).contains("cannot run no-such-program"),
        "{output:?}"
    );
    assert_eq!(
        sandbox.run(&["run", "--", "./config.toml"]).status.code(),
        Some(126)
    );
}

#[test]
fn each_run_with_limits_has_a_container_of_its_own() {
    let sandbox = Sandbox::new();
    let show = [
        "run",
        "--memory",
        "1GiB",
        "--",
        "sh",
        "-c",
        "echo $CUDA_HOOK_CONTAINER $CUDA_HOOK_MEMORY",
    ];
    let (one, other) = (sandbox.run(&show), sandbox.run(&show));
    assert!(
        stdout(&one).starts_with("run-") && stdout(&one).ends_with(" 1GiB\n"),
        "{one:?}"
    );
    assert_ne!(stdout(&one), stdout(&other));
}

#[test]
fn a_container_that_was_named_is_kept() {
    let sandbox = Sandbox::new();
    let show = ["sh", "-c", "echo $CUDA_HOOK_CONTAINER"];
    let named = [
        ["run", "--sm", "30", "--container", "mine", "--"].as_slice(),
        &show,
    ]
    .concat();
    assert_eq!(stdout(&sandbox.run(&named)), "mine\n");
    let unnamed = [["run", "--sm", "30", "--"].as_slice(), &show].concat();
    let output = sandbox
        .command(&unnamed)
        .env("CUDA_HOOK_CONTAINER", "outer")
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "outer\n");
    std::fs::write(sandbox.path("config.toml"), "container = \"from-file\"\n").unwrap();
    assert_eq!(
        stdout(&sandbox.run(&unnamed)),
        "\n",
        "the file's name holds without a variable"
    );
}

#[test]
fn a_run_without_limits_sets_nothing_but_the_preload() {
    let sandbox = Sandbox::new();
    let output = sandbox
        .command(&["run", "--", "env"])
        .env("GPU_SIM_TRACE", "/t")
        .output()
        .unwrap();
    let mut names: Vec<_> = stdout(&output)
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    names.sort_unstable();
    let expected = [
        "CUDA_HOOK_CONFIG",
        "CUDA_HOOK_DIR",
        "GPU_SIM_DIR",
        "GPU_SIM_TRACE",
        "LD_PRELOAD",
        "PATH",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_simulation_is_found_before_any_other_driver() {
    let sandbox = Sandbox::new();
    let show = [
        "run",
        "--sim",
        "a100",
        "--",
        "sh",
        "-c",
        "echo $LD_LIBRARY_PATH $GPU_SIM_PROFILE",
    ];
    let output = sandbox
        .command(&show)
        .env("LD_LIBRARY_PATH", "/mine")
        .output()
        .unwrap();
    assert_eq!(
        stdout(&output),
        format!("{}:/mine a100\n", sandbox.text("gpu-sim"))
    );
}

#[test]
fn a_profile_of_ones_own_is_named_by_an_absolute_path() {
    let sandbox = Sandbox::new();
    let (_, profile) = gpu_sim::profile::BUILT_IN[0];
    std::fs::write(sandbox.path("mine.toml"), profile).unwrap();
    let output = sandbox.run(&[
        "run",
        "--sim",
        "mine.toml",
        "--",
        "sh",
        "-c",
        "echo $GPU_SIM_PROFILE",
    ]);
    assert_eq!(
        stdout(&output).trim(),
        sandbox.text("mine.toml"),
        "{output:?}"
    );
}

#[test]
fn an_unknown_gpu_is_answered_with_the_known_ones() {
    let output = Sandbox::new().run(&["run", "--sim", "t5", "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("rtx3090, t4, v100"), "{output:?}");
}

#[test]
fn two_drivers_at_once_are_refused() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["run", "--sim", "t4", "--", "true"]);
    let output = command
        .env("CUDA_HOOK_DRIVER", "/lib/libcuda.so.1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("unset CUDA_HOOK_DRIVER"),
        "{output:?}"
    );
}

#[test]
fn a_program_that_no_preload_can_enter_runs_and_is_warned_of() {
    let sandbox = Sandbox::new();
    let program = sandbox.static_program();
    let limited = sandbox.run(&["run", "--memory", "1GiB", "--", shown(&program)]);
    assert_eq!(limited.status.code(), Some(7), "{limited:?}");
    assert!(
        stderr(&limited).contains("warning: ") && stderr(&limited).contains("statically linked"),
        "{limited:?}"
    );
    let free = sandbox.run(&["run", "--", shown(&program)]);
    assert_eq!((free.status.code(), stderr(&free)), (Some(7), ""));
}

#[test]
fn a_program_of_another_c_library_is_refused_with_or_without_limits() {
    let sandbox = Sandbox::new();
    let loader = "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1";
    let program = sandbox.compile("int main(void) { return 0; }", &[loader], "musl");
    for limits in [["--memory", "1GiB"].as_slice(), &[]] {
        let arguments = [&["run"], limits, &["--", shown(&program)]].concat();
        let output = sandbox.run(&arguments);
        assert_eq!(output.status.code(), Some(126), "{output:?}");
        let told = stderr(&output);
        assert!(
            told.contains("its loader /lib/ld-musl-x86_64.so.1 is not glibc's")
                && told.contains("use a build for glibc"),
            "{told}"
        );
    }
}

#[test]
fn a_missing_library_is_named_and_nothing_starts() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["run", "--memory", "1GiB", "--", "touch", "started"]);
    let output = command
        .env("CUDA_HOOK_LIBRARY", "/nonexistent/libcuda_hook.so")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr(&output).contains("/nonexistent/libcuda_hook.so"),
        "{output:?}"
    );
    assert!(!sandbox.path("started").exists());
}
