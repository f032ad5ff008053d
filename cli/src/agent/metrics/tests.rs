use limiter::sample::ProcessWithoutSlot;

use super::*;
use crate::status::tests::{container, sample};

const GPU: &str = "GPU-7c6c3c6e-0000-0000-0000-000000000000";

fn exposition(sample: Sample) -> Exposition {
    Exposition {
        sample,
        pods: BTreeMap::new(),
        reaped: 3,
    }
}

fn text(exposition: Exposition) -> String {
    exposition.text(Format::OpenMetrics).unwrap()
}

#[test]
fn every_figure_of_a_container_is_told_with_its_unit() {
    let text = text(exposition(sample(vec![container("a", &[1, 2])])));
    let device = format!("{{container=\"a\",gpu=\"{GPU}\"}}");
    let expected = [
        format!("cuda_hook_memory_quota_bytes{device} 2147483648.0"),
        format!("cuda_hook_memory_guaranteed_bytes{device} 1610612736.0"),
        format!("cuda_hook_memory_used_bytes{device} 1073741824.0"),
        format!("cuda_hook_memory_peak_bytes{device} 1610612736.0"),
        format!("cuda_hook_memory_unaccounted_bytes{device} 268435456.0"),
        format!("cuda_hook_refusals_total{device} 4.0"),
        format!("cuda_hook_share_guaranteed_ratio{device} 0.3"),
        format!("cuda_hook_gpu_time_seconds_total{device} 2.0"),
        format!("cuda_hook_launches_total{device} 7.0"),
        format!("cuda_hook_throttled_seconds_total{device} 0.0015"),
        format!("cuda_hook_throttled_by_window_seconds_total{device} 0.0005"),
        format!("cuda_hook_gpu_context_bytes{{gpu=\"{GPU}\"}} 109051904.0"),
        format!("cuda_hook_unmanaged_processes{{gpu=\"{GPU}\"}} 0.0"),
        "cuda_hook_processes{container=\"a\"} 2.0".to_owned(),
        "cuda_hook_reaped_processes_total{} 3.0".to_owned(),
    ];
    let lines: Vec<&str> = text.lines().collect();
    for line in expected {
        assert!(lines.contains(&line.as_str()), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn what_is_not_limited_or_not_known_is_absent() {
    let mut unlimited = container("a", &[1]);
    let device = &mut unlimited.devices[0];
    (device.memory_bytes_max, device.memory_bytes_soft) = (None, None);
    (device.sm_percent, device.memory_bytes_unaccounted) = (None, None);
    device.memory_bytes_listed = None;
    let text = text(exposition(sample(vec![unlimited])));
    for name in [
        "memory_quota_bytes",
        "memory_guaranteed_bytes",
        "share_guaranteed_ratio",
        "memory_unaccounted_bytes",
        "unmanaged_processes",
    ] {
        let begin = format!("cuda_hook_{name}{{");
        assert!(!text.lines().any(|line| line.starts_with(&begin)), "{text}");
    }
}

#[test]
fn a_pod_is_told_whatever_it_is_called() {
    let mut all = exposition(sample(vec![container("a", &[1])]));
    let labels = Labels {
        container: "a".to_owned(),
        namespace: Some("pro\"d".to_owned()),
        pod: Some("back\\slash\nline".to_owned()),
    };
    all.pods.insert("a".to_owned(), labels);
    let text = text(all);
    let expected =
        r#"cuda_hook_processes{container="a",namespace="pro\"d",pod="back\\slash\nline"} 1.0"#;
    assert!(text.lines().any(|line| line == expected), "{text}");
}

#[test]
fn processes_without_limits_are_counted_by_the_container_that_they_run_in() {
    let mut sample = sample(vec![container("a", &[1])]);
    let stranger = |container: Option<&str>| ProcessWithoutSlot {
        pid: 7,
        name: "x".to_owned(),
        device_uuid: GPU.to_owned(),
        memory_bytes_listed: Some(10),
        cgroup: String::new(),
        container: container.map(str::to_owned),
    };
    sample.processes_without_slot = vec![stranger(None), stranger(Some("a")), stranger(Some("a"))];
    let text = text(exposition(sample));
    for line in [
        format!("cuda_hook_unmanaged_processes{{gpu=\"{GPU}\"}} 1.0"),
        format!("cuda_hook_unmanaged_processes{{container=\"a\",gpu=\"{GPU}\"}} 2.0"),
        format!("cuda_hook_unmanaged_memory_bytes{{container=\"a\",gpu=\"{GPU}\"}} 20.0"),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}

#[test]
fn many_containers_are_each_told_once() {
    let names: Vec<String> = (0..300).map(|number| format!("c{number}")).collect();
    let containers = names.iter().map(|name| container(name, &[1])).collect();
    let text = text(exposition(sample(containers)));
    let mut series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let all = series.len();
    series.sort_unstable();
    series.dedup_by_key(|line| line.rsplit_once(' ').unwrap().0);
    assert_eq!(series.len(), all);
    let used = series
        .iter()
        .filter(|line| line.starts_with("cuda_hook_memory_used_bytes{"));
    assert_eq!(used.count(), 300);
}

#[test]
fn gpu_time_never_falls_but_where_a_ledger_begins_anew() {
    let mut highest = Highest::default();
    let mut told = |charged| {
        let mut one = sample(vec![container("a", &[1])]);
        one.containers[0].devices[0].charged_ns_total = charged;
        highest.keep(&mut one);
        one.containers[0].devices[0].charged_ns_total
    };
    assert_eq!(
        [100, 90, 120, 119, 10, 20].map(&mut told),
        [100, 100, 120, 120, 10, 20]
    );
}

/// What a user reads of metrics is what there is.
#[test]
fn the_guide_has_every_metric_and_no_other() {
    let guide = include_str!("../../../../docs/operations.md");
    let told: Vec<&str> = guide
        .lines()
        .filter_map(|line| line.strip_prefix("| `cuda_hook_")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let names = families::all().map(|family| family.full_name());
    let names: Vec<String> = names
        .map(|name| name.replacen("cuda_hook_", "", 1))
        .collect();
    assert_eq!(told, names);
}
