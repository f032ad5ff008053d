//! `memory_soft` and `spill`.

use super::*;

fn soft(memory: Option<&str>, soft: Option<&str>, spill: bool) -> GpuLimits {
    GpuLimits {
        memory_bytes_soft: soft.map(|text| text.parse().unwrap()),
        spill,
        ..limits(memory, None, None)
    }
}

#[test]
fn a_guarantee_stands_beside_the_quota_and_is_never_above_it() {
    let file = format!(
        "[limits]\nmemory = \"8GiB\"\nmemory_soft = \"4GiB\"\nspill = true\n[limits.gpu.\"{B}\"]\nmemory_soft = 0\nspill = false\n"
    );
    assert_eq!(
        bound(&[], Some(&file)),
        [
            soft(Some("8GiB"), Some("4GiB"), true),
            soft(Some("8GiB"), Some("0"), false)
        ]
    );
    for (environment, wanted) in [
        (
            ("CUDA_HOOK_MEMORY_SOFT", "1GiB"),
            soft(Some("8GiB"), Some("1GiB"), true),
        ),
        (
            ("CUDA_HOOK_MEMORY_SOFT", "5GiB"),
            soft(Some("8GiB"), Some("4GiB"), true),
        ),
        (
            ("CUDA_HOOK_MEMORY", "2GiB"),
            soft(Some("2GiB"), Some("2GiB"), true),
        ),
        (
            ("CUDA_HOOK_SPILL", "false"),
            soft(Some("8GiB"), Some("4GiB"), false),
        ),
        (
            ("CUDA_HOOK_SPILL", "true"),
            soft(Some("8GiB"), Some("4GiB"), true),
        ),
    ] {
        assert_eq!(
            bound(&[environment], Some(&file))[0],
            wanted,
            "{environment:?}"
        );
    }
    let of_environment = [
        ("CUDA_HOOK_MEMORY_SOFT", "GPU-7c6c=1GiB,max"),
        ("CUDA_HOOK_SPILL", "GPU-7c6c=true"),
    ];
    assert_eq!(
        bound(&of_environment, None),
        [soft(None, Some("1GiB"), true), soft(None, None, false)]
    );
}

#[test]
fn a_guarantee_that_means_nothing_is_refused_with_its_line() {
    for (file, wanted) in [
        (
            "[limits]\nmemory = 5\nmemory_soft = 6\n",
            "config.toml:3: limits.memory_soft = \"6\": is more than memory; allowed: 0 to 5, or a greater memory",
        ),
        (
            "[limits]\nmemory_soft = 6\n[limits.gpu.\"GPU-1\"]\nmemory = 5\n",
            "config.toml:2: limits.memory_soft = \"6\": is more than memory",
        ),
        (
            "[limits]\nspill = 1\n",
            "config.toml:2: limits.spill = \"1\": is neither true nor false",
        ),
    ] {
        let line = refused(&[], Some(file));
        assert!(
            line.starts_with(&format!("cuda-hook: {wanted}")),
            "{line}\nwanted {wanted}"
        );
    }
}

/// Memory of the host is not the environment's to give.
#[test]
fn the_environment_spills_nothing_that_the_file_does_not() {
    let file = "[limits]\nmemory = \"8GiB\"\nmemory_soft = \"4GiB\"\n";
    assert_eq!(
        bound(&[("CUDA_HOOK_SPILL", "true")], Some(file))[0],
        soft(Some("8GiB"), Some("4GiB"), false)
    );
}

#[test]
fn a_spill_with_nothing_guaranteed_is_refused_with_the_way_out() {
    let way_out = "needs memory_soft: what is allocated past it is spilled, up to memory; allowed: memory_soft beside it, or false";
    assert_eq!(
        refused(
            &[("CUDA_HOOK_SPILL", "true"), ("CUDA_HOOK_MEMORY", "1")],
            None
        ),
        format!("cuda-hook: environment: CUDA_HOOK_SPILL = \"true\": {way_out}")
    );
    let file = "[limits]\nmemory = 5\nspill = true\n";
    assert_eq!(
        refused(&[("CUDA_HOOK_MEMORY_SOFT", "1")], Some(file)),
        format!("cuda-hook: config.toml:3: limits.spill = \"true\": {way_out}")
    );
    let file = "[limits]\nmemory = 5\n[limits.gpu.\"GPU-1\"]\nspill = true\n";
    let line = refused(&[], Some(file));
    assert!(
        line.contains("config.toml:4: limits.gpu.GPU-1.spill"),
        "{line}"
    );
}
