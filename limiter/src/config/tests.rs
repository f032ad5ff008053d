use super::*;
use proptest::prelude::*;

mod guarantee;

const A: &str = "GPU-7c6c3c6e-0000-0000-0000-000000000001";
const B: &str = "GPU-7c6d0000-0000-0000-0000-000000000002";

fn devices() -> [DeviceUuid; 2] {
    [A.parse().unwrap(), B.parse().unwrap()]
}

/// Settings from variables and, where given, the text of a config file at the usual place.
fn settings(environment: &[(&str, &str)], file: Option<&str>) -> Result<Settings, Refusal> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    if let Some(text) = file {
        fs::write(&path, text).unwrap();
    }
    let host = Host {
        environment: environment
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        cgroup: LazyCell::new(|| "0::/pod/abc\n".to_owned()),
        dir: LazyCell::new(|| PathBuf::from("/run/cuda-hook")),
    };
    resolve(&host, &path)
}

/// Each would be system calls of every start.
#[test]
fn neither_cgroup_nor_default_folder_is_looked_at_where_both_are_named() {
    let named = [
        ("CUDA_HOOK_CONTAINER", "trainer-7"),
        ("CUDA_HOOK_DIR", "/run/elsewhere"),
    ];
    let host = Host {
        environment: named
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        cgroup: LazyCell::new(|| panic!("the cgroup is looked at")),
        dir: LazyCell::new(|| panic!("the default folder is looked at")),
    };
    let folder = tempfile::tempdir().unwrap();
    let settings = resolve(&host, &folder.path().join("config.toml")).unwrap();
    assert_eq!(settings.container.as_str(), "trainer-7");
    assert_eq!(settings.dir, Path::new("/run/elsewhere"));
}

/// The refusal's line, the config file's folder taken out.
fn refused(environment: &[(&str, &str)], file: Option<&str>) -> String {
    let line = settings(environment, file)
        .expect_err("must be refused")
        .to_string();
    assert!(!line.contains('\n'), "{line}");
    match line.split_once("/config.toml") {
        Some((_, rest)) if file.is_some() => format!("cuda-hook: config.toml{rest}"),
        _ => line,
    }
}

fn bound(environment: &[(&str, &str)], file: Option<&str>) -> Vec<GpuLimits> {
    settings(environment, file)
        .unwrap()
        .limits
        .expect("limits are set")
        .bind(&devices())
        .unwrap()
}

fn limits(memory: Option<&str>, sm: Option<&str>, sm_max: Option<&str>) -> GpuLimits {
    GpuLimits {
        memory_bytes_max: memory.map(|text| text.parse().unwrap()),
        sm: sm.map(|text| text.parse().unwrap()),
        sm_max: sm_max.map(|text| text.parse().unwrap()),
        ..GpuLimits::default()
    }
}

#[test]
fn without_a_source_nothing_is_limited() {
    let settings = settings(&[("CUDA_HOOK_LOG", "debug"), ("PATH", "/bin")], None).unwrap();
    assert!(settings.limits.is_none());
    assert_eq!(settings.log, LogLevel::Debug);
    assert_eq!(settings.container.as_str(), "pod_abc");
    assert_eq!(settings.dir, Path::new("/run/cuda-hook"));
}

#[test]
fn an_empty_file_limits_nothing() {
    assert!(
        settings(&[], Some("container = \"a\"\n[limits]\n"))
            .unwrap()
            .limits
            .is_none()
    );
}

#[test]
fn the_file_limits_every_gpu_and_single_ones() {
    let file = format!(
        "container = \"trainer-7\"\n[limits]\nmemory = \"4GiB\"\nsm = 30\nsm_max = 60.5\n[limits.gpu.\"{B}\"]\nmemory = 8589934592\n"
    );
    assert_eq!(
        settings(&[], Some(&file)).unwrap().container.as_str(),
        "trainer-7"
    );
    assert_eq!(
        bound(&[], Some(&file)),
        [
            limits(Some("4GiB"), Some("30"), Some("60.5")),
            limits(Some("8GiB"), Some("30"), Some("60.5"))
        ]
    );
}

#[test]
fn the_environment_limits_every_gpu_and_single_ones() {
    let found = bound(
        &[
            ("CUDA_HOOK_MEMORY", "GPU-7c6c=8GiB,4GiB"),
            ("CUDA_HOOK_SM", "25%"),
        ],
        None,
    );
    assert_eq!(
        found,
        [
            limits(Some("8GiB"), Some("25"), Some("25")),
            limits(Some("4GiB"), Some("25"), Some("25"))
        ]
    );
}

#[test]
fn max_is_set_but_limits_nothing_and_zero_is_nothing_at_all() {
    assert_eq!(
        bound(&[("CUDA_HOOK_MEMORY", "max")], None)[0],
        GpuLimits::default()
    );
    assert_eq!(
        bound(&[("CUDA_HOOK_MEMORY", "0")], None)[0],
        limits(Some("0"), None, None)
    );
}

#[test]
fn the_environment_only_lowers_what_the_file_sets() {
    let file = "[limits]\nmemory = \"4GiB\"\nsm = 30\nsm_max = 60\n";
    for (environment, wanted) in [
        (
            ("CUDA_HOOK_MEMORY", "8GiB"),
            limits(Some("4GiB"), Some("30"), Some("60")),
        ),
        (
            ("CUDA_HOOK_MEMORY", "max"),
            limits(Some("4GiB"), Some("30"), Some("60")),
        ),
        (
            ("CUDA_HOOK_MEMORY", "1GiB"),
            limits(Some("1GiB"), Some("30"), Some("60")),
        ),
        (
            ("CUDA_HOOK_SM", "20"),
            limits(Some("4GiB"), Some("20"), Some("60")),
        ),
        (
            ("CUDA_HOOK_SM", "70"),
            limits(Some("4GiB"), Some("30"), Some("60")),
        ),
        (
            ("CUDA_HOOK_SM_MAX", "20"),
            limits(Some("4GiB"), Some("20"), Some("20")),
        ),
        (
            ("CUDA_HOOK_SM_MAX", "90"),
            limits(Some("4GiB"), Some("30"), Some("60")),
        ),
    ] {
        assert_eq!(
            bound(&[environment], Some(file))[1],
            wanted,
            "{environment:?}"
        );
    }
    // The file's `sm` alone is a hard cap: the environment cannot make it a floor.
    assert_eq!(
        bound(&[("CUDA_HOOK_SM_MAX", "90")], Some("[limits]\nsm = 30\n"))[0],
        limits(None, Some("30"), Some("30"))
    );
    // What the file leaves open, the environment may limit.
    assert_eq!(
        bound(&[("CUDA_HOOK_SM", "20")], Some("[limits]\nmemory = 5\n"))[0],
        limits(Some("5"), Some("20"), Some("20"))
    );
}

proptest! {
    #[test]
    fn no_environment_raises_what_a_file_sets(
        of_file in 0..1_u64 << 40,
        of_environment in 0..1_u64 << 40,
    ) {
        let file = format!("[limits]\nmemory = {of_file}\n");
        let environment = of_environment.to_string();
        for limits in bound(&[("CUDA_HOOK_MEMORY", &environment)], Some(&file)) {
            let bytes_max = limits.memory_bytes_max.map(Bytes::get);
            prop_assert_eq!(bytes_max, Some(of_file.min(of_environment)));
        }
    }
}

#[test]
fn a_containers_name_in_the_file_stands() {
    let file = Some("container = \"a\"\n");
    assert!(settings(&[("CUDA_HOOK_CONTAINER", "a")], file).is_ok());
    assert_eq!(
        refused(&[("CUDA_HOOK_CONTAINER", "b")], file),
        "cuda-hook: environment: CUDA_HOOK_CONTAINER = \"b\": differs from the config file's container; allowed: a"
    );
    assert_eq!(
        settings(&[("CUDA_HOOK_CONTAINER", "b")], None)
            .unwrap()
            .container
            .as_str(),
        "b"
    );
}

#[test]
fn a_sealed_file_is_the_one_that_counts_and_its_books_are_where_all_containers_have_theirs() {
    let sealed = "sealed = true\n[limits]\nmemory = \"1GiB\"";
    let dir = |environment: &[(&str, &str)]| settings(environment, Some(sealed)).map(|it| it.dir);
    assert_eq!(dir(&[]).unwrap(), Path::new(RUN_DIR));
    assert_eq!(
        dir(&[("CUDA_HOOK_DIR", RUN_DIR)]).unwrap(),
        Path::new(RUN_DIR)
    );
    let own = tempfile::tempdir().unwrap();
    let own_config = own.path().join("own.toml");
    fs::write(&own_config, "").unwrap();
    for (name, value) in [
        ("CUDA_HOOK_DIR", own.path()),
        ("CUDA_HOOK_CONFIG", own_config.as_path()),
    ] {
        let value = value.to_str().unwrap();
        let line = refused(&[(name, value)], Some(sealed));
        assert!(line.contains("is sealed"), "{line}");
        assert!(settings(&[(name, value)], Some("sealed = false")).is_ok());
    }
}

#[test]
fn strict_is_what_either_source_says_and_neither_takes_it_back() {
    let is_strict = |environment: &[(&str, &str)], file: &str| {
        settings(environment, Some(file)).unwrap().strict
    };
    assert!(!is_strict(&[], ""));
    assert!(!is_strict(
        &[("CUDA_HOOK_STRICT", "false")],
        "strict = false"
    ));
    assert!(is_strict(&[("CUDA_HOOK_STRICT", "true")], ""));
    assert!(is_strict(&[("CUDA_HOOK_STRICT", "true")], "strict = false"));
    assert!(is_strict(&[("CUDA_HOOK_STRICT", "false")], "strict = true"));
    for value in ["yes", "1", "", "TRUE"] {
        let line = refused(&[("CUDA_HOOK_STRICT", value)], None);
        assert!(line.ends_with("allowed: true, false"), "{line}");
    }
    for value in ["1", "\"true\"", "[]"] {
        let line = refused(&[], Some(&format!("strict = {value}")));
        assert!(
            line.starts_with("cuda-hook: config.toml:1: strict"),
            "{line}"
        );
    }
}

#[test]
fn a_driver_in_the_file_stands() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = ["one", "other"].map(|name| folder.path().join(name).display().to_string());
    for path in [&one, &other] {
        fs::write(path, "").unwrap();
    }
    let file = format!("driver = {one:?}\n");
    let driver = |environment: &[(&str, &str)]| settings(environment, Some(&file));
    for same in [driver(&[]), driver(&[("CUDA_HOOK_DRIVER", &one)])] {
        assert_eq!(same.unwrap().driver.as_deref(), Some(Path::new(&one)));
    }
    let line = driver(&[("CUDA_HOOK_DRIVER", &other)]).expect_err("another");
    assert!(
        line.to_string()
            .contains("differs from the config file's driver"),
        "{line}"
    );
    let missing = settings(&[], Some("driver = \"/nonexistent\"")).expect_err("missing");
    assert!(
        missing.to_string().contains("config.toml:1: driver"),
        "{missing}"
    );
}

#[test]
fn hamis_variables_count_where_none_of_ours_sets_a_limit() {
    let hami = [
        ("CUDA_DEVICE_MEMORY_LIMIT", "4096m"),
        ("CUDA_DEVICE_MEMORY_LIMIT_1", "2g"),
        ("CUDA_DEVICE_SM_LIMIT", "30"),
    ];
    assert_eq!(
        bound(&hami, None),
        [
            limits(Some("4GiB"), Some("30"), Some("30")),
            limits(Some("2GiB"), Some("30"), Some("30"))
        ]
    );
    let both = [
        hami[0],
        hami[2],
        ("CUDA_HOOK_MEMORY", "6GiB"),
        ("CUDA_HOOK_LOG", "off"),
    ];
    assert_eq!(bound(&both, None)[0], limits(Some("6GiB"), None, None));
    assert_eq!(
        bound(&hami, Some("[limits]\nsm = 5\n"))[0],
        limits(None, Some("5"), Some("5"))
    );
    assert_eq!(
        bound(
            &[
                ("CUDA_DEVICE_MEMORY_LIMIT_7", "1g"),
                ("CUDA_DEVICE_SM_LIMIT", "9")
            ],
            None
        )[0],
        limits(None, Some("9"), Some("9"))
    );
}

#[test]
fn hamis_zero_is_no_limit() {
    for value in ["0", "0m", ""] {
        assert!(
            settings(
                &[
                    ("CUDA_DEVICE_MEMORY_LIMIT", value),
                    ("CUDA_DEVICE_SM_LIMIT", "0")
                ],
                None
            )
            .unwrap()
            .limits
            .is_none()
        );
    }
}

#[test]
fn every_bad_variable_is_refused_by_name_value_and_what_is_allowed() {
    for (name, value) in [
        ("CUDA_HOOK_MEMORY", "abc"),
        ("CUDA_HOOK_MEMORY", "-1"),
        ("CUDA_HOOK_MEMORY", ""),
        ("CUDA_HOOK_MEMORY", "1.5"),
        ("CUDA_HOOK_MEMORY", "1.0000000001KiB"),
        ("CUDA_HOOK_MEMORY", "4GiB,2GiB"),
        ("CUDA_HOOK_MEMORY", "GPU-1=4GiB,GPU-1=2GiB"),
        ("CUDA_HOOK_MEMORY", "GPU-=4GiB"),
        ("CUDA_HOOK_MEMORY", "0=4GiB"),
        ("CUDA_HOOK_MEMORY", "4GiB,"),
        ("CUDA_HOOK_MEMORY", "4GiB\n"),
        ("CUDA_HOOK_MEMORY_SOFT", "-1"),
        ("CUDA_HOOK_MEMORY_SOFT", ""),
        ("CUDA_HOOK_SPILL", "yes"),
        ("CUDA_HOOK_SPILL", ""),
        ("CUDA_HOOK_SPILL", "1"),
        ("CUDA_HOOK_SM", "200"),
        ("CUDA_HOOK_SM", "0"),
        ("CUDA_HOOK_SM", "max"),
        ("CUDA_HOOK_SM_MAX", "abc"),
        ("CUDA_HOOK_LOG", "verbose"),
        ("CUDA_HOOK_LOG", ""),
        ("CUDA_HOOK_CONTAINER", "../x"),
        ("CUDA_HOOK_CONTAINER", ""),
        ("CUDA_HOOK_DIR", "relative"),
        ("CUDA_HOOK_DIR", ""),
        ("CUDA_HOOK_DIR", "/proc/self/status"),
        ("CUDA_HOOK_DIR", "/tmp/\u{fffd}"),
        ("CUDA_HOOK_DRIVER", "libcuda.so.1"),
        ("CUDA_HOOK_DRIVER", "/nowhere/libcuda.so.1"),
        ("CUDA_HOOK_DRIVER", "/"),
        ("CUDA_HOOK_CONFIG", "/nowhere/config.toml"),
        ("CUDA_HOOK_CONFIG", ""),
        ("CUDA_HOOK_MEMROY", "4GiB"),
        ("CUDA_DEVICE_MEMORY_LIMIT", "lots"),
        ("CUDA_DEVICE_MEMORY_LIMIT_x", "4g"),
        ("CUDA_DEVICE_SM_LIMIT", "150"),
    ] {
        let line = refused(&[(name, value)], None);
        assert!(
            line.starts_with(&format!("cuda-hook: environment: {name} = ")),
            "{line}"
        );
        assert!(line.contains("; allowed: "), "{line}");
    }
    assert_eq!(
        refused(&[("CUDA_HOOK_SM", "200")], None),
        "cuda-hook: environment: CUDA_HOOK_SM = \"200\": is out of range; allowed: 1 to 100, up to three decimals, with or without %"
    );
}

#[test]
fn every_bad_line_of_the_file_is_refused_with_its_number_and_key() {
    for (file, wanted) in [
        (
            "memory = 1\n",
            "config.toml:1: memory: is not a known key; allowed: container, driver, strict, sealed, limits",
        ),
        (
            "[limits]\nmemroy = 1\n",
            "config.toml:2: limits.memroy: is not a known key",
        ),
        (
            "[limits]\n\nmemory = \"abc\"\n",
            "config.toml:3: limits.memory = \"abc\": is not a size",
        ),
        (
            "[limits]\nmemory = -1\n",
            "config.toml:2: limits.memory = \"-1\": is not a number",
        ),
        (
            "[limits]\nmemory = 0x10\n",
            "config.toml:2: limits.memory = \"0x10\": is not a size",
        ),
        (
            "[limits]\nmemory = true\n",
            "config.toml:2: limits.memory = \"true\": is neither text nor a number",
        ),
        (
            "[limits]\nsm = 200\n",
            "config.toml:2: limits.sm = \"200\": is out of range",
        ),
        (
            "[limits]\nsm = nan\n",
            "config.toml:2: limits.sm = \"nan\": is not a number",
        ),
        (
            "[limits]\nsm = 30\nsm_max = 20\n",
            "config.toml:3: limits.sm_max = \"20\": is less than sm; allowed: 30% to 100%",
        ),
        (
            "[limits]\nsm = 30\nsm = 40\n",
            "config.toml:3: sm: duplicate key",
        ),
        ("[limits\nsm = 30\n", "config.toml:1: [limits: "),
        (
            "limits = 3\n",
            "config.toml:1: limits = \"3\": is not a table",
        ),
        (
            "container = \"a/b\"\n",
            "config.toml:1: container = \"a/b\": is not a container's name",
        ),
        (
            "[limits.gpu.0]\nsm = 3\n",
            "config.toml:1: limits.gpu.0 = \"0\": does not name a GPU",
        ),
        (
            "[limits.gpu.\"GPU-1\"]\nsm_min = 3\n",
            "config.toml:2: limits.gpu.GPU-1.sm_min: is not a known key",
        ),
        (
            "[limits]\nsm_max = 40\n[limits.gpu.\"GPU-1\"]\nsm = 50\n",
            "config.toml:2: limits.sm_max = \"40\": is less than sm",
        ),
    ] {
        let line = refused(&[], Some(file));
        assert!(
            line.starts_with(&format!("cuda-hook: {wanted}")),
            "{line}\nwanted {wanted}"
        );
    }
}

#[test]
fn a_gpu_that_does_not_exist_is_refused_when_the_gpus_are_known() {
    for (value, problem) in [
        ("GPU-9=1GiB", "names a GPU that does not exist"),
        ("GPU-7=1GiB", "names more than one GPU"),
        (
            "GPU-7c6c=1GiB,GPU-7c6c3=2GiB",
            "names a GPU that is named already",
        ),
    ] {
        let limits = settings(&[("CUDA_HOOK_MEMORY", value)], None)
            .unwrap()
            .limits
            .unwrap();
        let line = limits.bind(&devices()).unwrap_err().to_string();
        assert!(
            line.starts_with(&format!(
                "cuda-hook: environment: CUDA_HOOK_MEMORY = \"{value}\": {problem}; allowed: "
            )),
            "{line}"
        );
    }
    let limits = settings(&[], Some("[limits.gpu.\"GPU-9\"]\nsm = 3\n"))
        .unwrap()
        .limits
        .unwrap();
    assert!(
        limits
            .bind(&[])
            .unwrap_err()
            .to_string()
            .contains("names a GPU that does not exist")
    );
}

#[test]
fn the_named_config_file_takes_the_usual_ones_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    fs::write(&path, "[limits]\nsm = 10\n").unwrap();
    let found = bound(
        &[("CUDA_HOOK_CONFIG", path.to_str().unwrap())],
        Some("[limits]\nsm = 90\n"),
    );
    assert_eq!(found[0].sm_max, "10".parse().ok());
}

#[test]
fn a_folder_that_root_has_made_may_be_relied_on() {
    let [root, user, other] = [0, 1000, 1001];
    assert!(is_trusted(user, user) && is_trusted(root, user));
    assert!(!is_trusted(other, user) && !is_trusted(user, root));
}

#[test]
fn the_default_folder_of_somebody_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refuse_foreign_folder(folder.path()).is_ok());
    assert!(refuse_foreign_folder(&folder.path().join("absent")).is_ok());
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    let line = refuse_foreign_folder(&link).unwrap_err().to_string();
    assert!(
        line.starts_with("cuda-hook: default: CUDA_HOOK_DIR = ")
            && line.contains("is not a folder of this user"),
        "{line}"
    );
}
