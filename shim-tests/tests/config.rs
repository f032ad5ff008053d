//! Settings that cannot be meant are refused: `cuInit` fails, after one line on standard error that names the source, the
//! key, the value and what is allowed.
#![cfg(test)]

use shim_tests::{MIB, Machine, Tenant, World};
use std::fs;

const INVALID_VALUE: u64 = 1;

/// The one line that `cuInit` in `world` leaves on standard error.
#[track_caller]
fn refusal(machine: &Machine, world: &World) -> String {
    let mut tenant = Tenant::start(machine, world);
    assert_eq!(tenant.status("init"), INVALID_VALUE, "{world:?}");
    let outcome = tenant.end();
    assert!(outcome.status.success(), "{outcome:#?}");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{world:?}: {lines:#?}");
    outcome.stderr.trim_end().to_owned()
}

#[track_caller]
fn assert_names(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
    assert!(
        line.contains("allowed: ") && !line.ends_with("allowed: "),
        "{line:?} does not say what is allowed"
    );
}

/// Asserts that one environment variable's value is refused.
#[track_caller]
fn assert_refused(key: &str, value: &str, problem: &str) {
    let line = refusal(&Machine::new(), &World::limited([(key, value)]));
    assert_names(&line, &["environment", key, &format!("{value:?}"), problem]);
}

/// Asserts that a config file is refused at a line.
#[track_caller]
fn assert_file_refused(text: &str, line_number: usize, parts: &[&str]) {
    let machine = Machine::new();
    let path = machine.path("config.toml");
    fs::write(&path, text).expect("a config file");
    let path = path.to_str().expect("a path in text");
    let line = refusal(&machine, &World::limited([("CUDA_HOOK_CONFIG", path)]));
    assert_names(&line, &[&format!("{path}:{line_number}")]);
    assert_names(&line, parts);
}

/// A machine's config file and the world that reads it, with further variables.
fn configured(machine: &Machine, text: &str, further: &[(&str, &str)]) -> World {
    let path = machine.path("config.toml");
    fs::write(&path, text).expect("a config file");
    let path = path.to_str().expect("a path in text");
    World::limited([&[("CUDA_HOOK_CONFIG", path)], further].concat())
}

/// The memory a program in `world` sees in all.
fn total_bytes(machine: &Machine, world: &World) -> u64 {
    let mut tenant = Tenant::with_context(machine, world);
    let (_, total_bytes) = tenant.memory_info();
    assert_eq!(tenant.end().stderr, "");
    total_bytes
}

#[test]
fn a_memory_that_is_no_size_is_refused() {
    for value in [
        "abc",
        "-1",
        "",
        "1.5",
        "4 gigabytes",
        "0x100",
        "1e9",
        "99999999999999999999",
        "GiB",
        "0.3KiB",
    ] {
        assert_refused("CUDA_HOOK_MEMORY", value, "");
    }
}

#[test]
fn a_share_that_is_no_percentage_is_refused() {
    for key in ["CUDA_HOOK_SM", "CUDA_HOOK_SM_MAX"] {
        for value in ["abc", "-1", "", "200", "0", "100.1", "30%%", "max"] {
            assert_refused(key, value, "");
        }
    }
}

#[test]
fn a_cap_below_the_guarantee_is_refused() {
    let line = refusal(
        &Machine::new(),
        &World::limited([("CUDA_HOOK_SM", "60"), ("CUDA_HOOK_SM_MAX", "30")]),
    );
    assert_names(&line, &["environment", "CUDA_HOOK_SM_MAX", "30", "60"]);
}

#[test]
fn an_unknown_variable_of_ours_is_refused() {
    assert_refused("CUDA_HOOK_MEMROY", "4GiB", "CUDA_HOOK_MEMORY");
    assert_refused("CUDA_HOOK_", "1", "");
}

#[test]
fn a_bad_log_level_is_refused() {
    for value in ["loud", "", "ERROR"] {
        assert_refused("CUDA_HOOK_LOG", value, "debug");
    }
}

#[test]
fn a_bad_container_name_is_refused() {
    for value in ["", "../other", "a/b", "a b"] {
        assert_refused("CUDA_HOOK_CONTAINER", value, "");
    }
}

#[test]
fn a_gpu_that_does_not_exist_is_refused() {
    assert_refused("CUDA_HOOK_MEMORY", "GPU-00000000=8GiB,4GiB", "GPU-");
    assert_refused("CUDA_HOOK_MEMORY", "0=8GiB", "");
    assert_file_refused(
        "[limits.gpu.GPU-00000000]\nmemory = \"8GiB\"\n",
        1,
        &["GPU-00000000"],
    );
}

#[test]
fn a_config_file_that_is_named_must_be_there() {
    assert_refused("CUDA_HOOK_CONFIG", "/no/such/config.toml", "");
}

#[test]
fn a_driver_that_is_named_must_be_there() {
    assert_refused("CUDA_HOOK_DRIVER", "/no/such/libcuda.so.1", "");
}

#[test]
fn a_state_folder_that_cannot_be_made_is_refused() {
    assert_ne!(
        refusal(
            &Machine::new(),
            &World::limited([
                ("CUDA_HOOK_DIR", "/proc/nowhere"),
                ("CUDA_HOOK_MEMORY", "1GiB")
            ])
        ),
        ""
    );
}

#[test]
fn a_file_is_refused_by_line_and_key() {
    assert_file_refused("[limits]\nmemory = \"abc\"\n", 2, &["limits.memory", "abc"]);
    assert_file_refused(
        "[limits]\nmemory = \"1GiB\"\nsm = 200\n",
        3,
        &["limits.sm", "200"],
    );
    assert_file_refused("[limits]\nsm_max = -1\n", 2, &["limits.sm_max", "-1"]);
    assert_file_refused("container = \"a/b\"\n", 1, &["container", "a/b"]);
    assert_file_refused("[limits]\nmemroy = \"1GiB\"\n", 2, &["limits.memroy"]);
    assert_file_refused("\n\nlimit = 3\n", 3, &["limit"]);
    assert_file_refused("[limits]\nmemory = true\n", 2, &["limits.memory", "true"]);
    assert_file_refused("[limits]\nmemory = \n", 2, &["memory"]);
}

/// Calling again, or from two threads, must not make the log twice as long.
#[test]
fn a_refusal_is_said_once() {
    let machine = Machine::new();
    let world = World::limited([("CUDA_HOOK_SM", "200")]);
    let mut twice = Tenant::start(&machine, &world);
    assert_eq!(twice.status("init"), INVALID_VALUE);
    assert_eq!(twice.status("init"), INVALID_VALUE);
    assert_eq!(twice.end().stderr.lines().count(), 1);
    let mut threads = Tenant::start(&machine, &world);
    assert_eq!(threads.numbers("init-threads 8"), [INVALID_VALUE; 8]);
    assert_eq!(threads.end().stderr.lines().count(), 1);
}

/// A refused limit is not a lifted one: what follows `cuInit` fails too.
#[test]
fn after_a_refusal_nothing_is_granted() {
    let machine = Machine::new();
    let mut tenant = Tenant::start(&machine, &World::limited([("CUDA_HOOK_MEMORY", "abc")]));
    assert_ne!(tenant.status("context"), 0);
    assert_ne!(tenant.alloc("a", "cuMemAlloc_v2", 4096), 0);
    assert_eq!(tenant.end().stderr.lines().count(), 1);
}

#[test]
fn a_file_sets_limits() {
    let machine = Machine::new();
    let world = configured(
        &machine,
        "container = \"from-file\"\n[limits]\nmemory = \"3GiB\"\nsm = 50\n",
        &[],
    );
    assert_eq!(total_bytes(&machine, &world), 3 << 30);
    assert!(
        machine.hook_dir().join("from-file").is_dir(),
        "the file names the container"
    );
}

#[test]
fn the_environment_may_only_lower_what_a_file_sets() {
    let machine = Machine::new();
    for (value, expected_bytes) in [
        ("1GiB", 1 << 30),
        ("8GiB", 3 << 30),
        ("max", 3 << 30),
        ("0.5GiB", 1 << 29),
    ] {
        let world = configured(
            &machine,
            "[limits]\nmemory = \"3GiB\"\n",
            &[("CUDA_HOOK_MEMORY", value)],
        );
        assert_eq!(total_bytes(&machine, &world), expected_bytes, "{value}");
    }
}

#[test]
fn sizes_are_read_as_written() {
    let machine = Machine::new();
    for (value, expected_bytes) in [
        ("1073741824", 1 << 30),
        ("1.5GiB", 3 << 29),
        ("2G", 2 << 30),
        ("512mib", 512 * MIB),
        ("2GB", 2_000_000_000),
        ("300MB", 300_000_000),
    ] {
        assert_eq!(
            total_bytes(&machine, &World::memory("sizes", value)),
            expected_bytes,
            "{value}"
        );
    }
}

#[test]
fn one_gpu_can_have_a_limit_of_its_own() {
    let machine = Machine::new();
    let uuid = machine.device_uuids().remove(0);
    let by_variable = World::memory("own", &format!("{uuid}=2GiB,4GiB"));
    assert_eq!(total_bytes(&machine, &by_variable), 2 << 30);
    let text = format!("[limits]\nmemory = \"4GiB\"\n[limits.gpu.\"{uuid}\"]\nmemory = \"1GiB\"\n");
    let by_file = configured(&machine, &text, &[]);
    assert_eq!(total_bytes(&machine, &by_file), 1 << 30);
}

#[test]
fn hami_core_variables_limit_where_none_of_ours_does() {
    let machine = Machine::new();
    for (variables, expected_bytes) in [
        (vec![("CUDA_DEVICE_MEMORY_LIMIT", "1g")], 1 << 30),
        (
            vec![
                ("CUDA_DEVICE_MEMORY_LIMIT", "300m"),
                ("CUDA_DEVICE_SM_LIMIT", "30"),
            ],
            300 * MIB,
        ),
        (
            vec![
                ("CUDA_DEVICE_MEMORY_LIMIT", "1g"),
                ("CUDA_DEVICE_MEMORY_LIMIT_0", "2g"),
            ],
            2 << 30,
        ),
        (
            vec![
                ("CUDA_DEVICE_MEMORY_LIMIT", "1g"),
                ("CUDA_HOOK_MEMORY", "2GiB"),
            ],
            2 << 30,
        ),
    ] {
        assert_eq!(
            total_bytes(&machine, &World::limited(variables.clone())),
            expected_bytes,
            "{variables:?}"
        );
    }
    assert_refused("CUDA_DEVICE_MEMORY_LIMIT", "many", "");
}

/// Zero is a limit, `max` is none, and neither is what the other means.
#[test]
fn zero_allows_nothing_and_max_everything() {
    let machine = Machine::new();
    let mut nothing = Tenant::start(&machine, &World::memory("nothing", "0"));
    let context = nothing.status("context");
    assert!(
        [0, 2].contains(&context),
        "a context is granted or out of memory, not {context}"
    );
    assert_eq!(nothing.numbers("total"), [0, 0]);
    assert_ne!(nothing.alloc("a", "cuMemAlloc_v2", 1), 0);
    assert_eq!(
        total_bytes(&machine, &World::memory("all", "max")),
        machine.memory_bytes()
    );
}
