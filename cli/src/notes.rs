//! What a table has no column for, as sentences: who was refused and why, who is over, and who escapes.

use limiter::sample::{
    ContainerSample, DeviceSample, GpuSample, ProcessWithoutSlot, RefusalSample, Sample,
};

use crate::quantity;
use crate::status::short_uuid;

/// Processes without limits that are named; the rest is counted.
const OUTSIDERS_SHOWN_MAX: usize = 4;

/// The sentences, in the order of the containers.
pub(crate) fn of(sample: &Sample) -> Vec<String> {
    let containers = sample.containers.iter();
    let mut notes: Vec<String> = containers
        .flat_map(|container| of_container(container, sample.now_ns))
        .collect();
    notes.extend(sample.gpus.iter().filter_map(overcommitted));
    let outsiders = &sample.processes_without_slot;
    notes.extend(outsiders.iter().take(OUTSIDERS_SHOWN_MAX).map(outsider));
    match outsiders.len().saturating_sub(OUTSIDERS_SHOWN_MAX) {
        0 => {}
        rest => notes.push(format!(
            "So do {rest} more: `cuda-hook status --json` has all."
        )),
    }
    notes
}

fn of_container(container: &ContainerSample, now_ns: u64) -> Vec<String> {
    let over = container.devices.iter();
    let over = over.flat_map(|device| [excess(device), loan(device), spill(device)]);
    let over = over.flatten();
    let over = over.map(|what| format!("{}: {what}.", container.container));
    let last = container.last_refusal.as_ref();
    let refused = last.map(|last| {
        format!(
            "{}: {}. Refused so far: {}.",
            container.container,
            refusal(last, now_ns),
            by_call(container)
        )
    });
    over.chain(refused).collect()
}

/// A quota that was lowered below what is in use.
fn excess(device: &DeviceSample) -> Option<String> {
    let max = device.memory_bytes_max?;
    (device.memory_bytes_current > max).then(|| {
        format!(
            "{} in use of {}, {} allowed: nothing more is granted",
            quantity::bytes(device.memory_bytes_current),
            short_uuid(&device.device_uuid),
            quantity::bytes(max)
        )
    })
}

/// Who borrows.
fn loan(device: &DeviceSample) -> Option<String> {
    let soft = device.memory_bytes_soft?;
    (device.memory_bytes_borrowed > 0).then(|| {
        format!(
            "borrows {} of {}: {} in use, {} guaranteed",
            quantity::bytes(device.memory_bytes_borrowed),
            short_uuid(&device.device_uuid),
            quantity::bytes(device.memory_bytes_current),
            quantity::bytes(soft)
        )
    })
}

/// What lies on the host.
fn spill(device: &DeviceSample) -> Option<String> {
    (device.memory_bytes_spilled > 0).then(|| {
        format!(
            "{} beside {} lie on the host as managed memory, and are slow",
            quantity::bytes(device.memory_bytes_spilled),
            short_uuid(&device.device_uuid),
        )
    })
}

/// More is guaranteed than there is; said of every GPU where it is so.
pub(crate) fn overcommitted(gpu: &GpuSample) -> Option<String> {
    (gpu.memory_bytes_guaranteed > gpu.memory_bytes_total).then(|| {
        format!(
            "{} of {} are guaranteed to its containers together, and it has {}: no guarantee is sure; lower memory_soft, or memory where that is not set.",
            quantity::bytes(gpu.memory_bytes_guaranteed),
            short_uuid(&gpu.device_uuid),
            quantity::bytes(gpu.memory_bytes_total)
        )
    })
}

/// `cuMemAlloc_v2 of process 17 was refused 512 MiB of GPU-7c6c3c6e 3 s ago: 3.8 GiB of 4 GiB in use, 204.8 MiB left`.
fn refusal(last: &RefusalSample, now_ns: u64) -> String {
    let whole_seconds = now_ns.saturating_sub(last.at_ns) / 1_000_000_000;
    format!(
        "{} of process {} was refused {} of {} {whole_seconds} s ago: {} of {}{} in use, {} left",
        last.call.as_deref().unwrap_or("a call"),
        last.pid,
        quantity::bytes(last.memory_bytes_asked),
        short_uuid(&last.device_uuid),
        quantity::bytes(last.memory_bytes_current),
        quantity::bytes(last.memory_bytes_max),
        match last.bound {
            "quota" => "",
            "guarantee" => " guaranteed",
            _ => " that the others' guarantees leave",
        },
        quantity::bytes(last.memory_bytes_left),
    )
}

fn by_call(container: &ContainerSample) -> String {
    let calls = container.refusals.iter();
    let calls: Vec<String> = calls
        .map(|calls| format!("{} {}", calls.call, calls.count))
        .collect();
    calls.join(", ")
}

fn outsider(process: &ProcessWithoutSlot) -> String {
    let memory = process
        .memory_bytes_listed
        .map_or_else(|| "memory".to_owned(), quantity::bytes);
    let place = process.container.as_ref().map_or_else(
        || format!("in no container's cgroup ({})", process.cgroup),
        |container| format!("in the cgroup of {container}"),
    );
    format!(
        "Process {} ({}) uses {memory} of {} {place}, and no limit reaches it: started without limits, without the preload, or a static program.",
        process.pid,
        process.name,
        short_uuid(&process.device_uuid),
    )
}

#[cfg(test)]
mod tests {
    use limiter::sample::CallRefusals;

    use super::*;
    use crate::status::tests::{container, sample};

    const GPU: &str = "GPU-7c6c3c6e-0000-0000-0000-000000000000";

    #[test]
    fn the_last_refusal_says_who_asked_how_much_and_what_was_left() {
        let mut one = container("trainer-7", &[17]);
        one.refusals = [("cuMemAlloc_v2", 12), ("cuMemCreate", 3)]
            .map(|(call, count)| CallRefusals {
                call: call.into(),
                count,
            })
            .into();
        one.last_refusal = Some(RefusalSample {
            call: Some("cuMemCreate".into()),
            pid: 17,
            device_uuid: GPU.into(),
            memory_bytes_asked: 512 << 20,
            memory_bytes_current: 3 << 30,
            memory_bytes_max: 13 << 28,
            memory_bytes_left: 1 << 28,
            bound: "quota",
            at_ns: 6_900_000_000,
        });
        assert_eq!(
            of(&sample(vec![one])),
            [
                "trainer-7: cuMemCreate of process 17 was refused 512 MiB of GPU-7c6c3c6e 3 s ago: 3 GiB of 3.25 GiB in use, \
                 256 MiB left. Refused so far: cuMemAlloc_v2 12, cuMemCreate 3."
            ]
        );
    }

    #[test]
    fn a_quota_below_what_is_in_use_is_said() {
        let mut one = container("a", &[17]);
        one.devices[0].memory_bytes_max = Some(1 << 20);
        assert_eq!(
            of(&sample(vec![one])),
            ["a: 1 GiB in use of GPU-7c6c3c6e, 1 MiB allowed: nothing more is granted."]
        );
        assert!(of(&sample(vec![container("a", &[17])])).is_empty());
    }

    #[test]
    fn who_borrows_and_who_spills_is_said() {
        let mut one = container("a", &[17]);
        let device = &mut one.devices[0];
        device.memory_bytes_soft = Some(3 << 28);
        device.memory_bytes_borrowed = 1 << 28;
        device.memory_bytes_spilled = 1 << 20;
        assert_eq!(
            of(&sample(vec![one])),
            [
                "a: borrows 256 MiB of GPU-7c6c3c6e: 1 GiB in use, 768 MiB guaranteed.",
                "a: 1 MiB beside GPU-7c6c3c6e lie on the host as managed memory, and are slow."
            ]
        );
    }

    #[test]
    fn more_guarantees_than_memory_are_said() {
        let gpu = |guaranteed| GpuSample {
            device_uuid: GPU.into(),
            memory_bytes_total: 2 << 30,
            memory_bytes_guaranteed: guaranteed,
            memory_bytes_borrowed: 0,
            memory_bytes_outside: 0,
        };
        assert_eq!(overcommitted(&gpu(2 << 30)), None);
        let told = overcommitted(&gpu(3 << 30)).unwrap();
        assert!(
            told.starts_with(
                "3 GiB of GPU-7c6c3c6e are guaranteed to its containers together, and it has 2 GiB"
            ),
            "{told}"
        );
    }

    #[test]
    fn who_escapes_is_named_and_many_are_counted() {
        let process = |pid, container: Option<&str>| ProcessWithoutSlot {
            pid,
            name: "python3".into(),
            device_uuid: GPU.into(),
            memory_bytes_listed: Some(1 << 20),
            cgroup: "0::/x".into(),
            container: container.map(str::to_owned),
        };
        let mut sample = sample(Vec::new());
        sample.processes_without_slot = vec![process(1, Some("a")), process(2, None)];
        let notes = of(&sample);
        assert!(notes[0].starts_with(
            "Process 1 (python3) uses 1 MiB of GPU-7c6c3c6e in the cgroup of a, and no limit"
        ));
        assert!(notes[1].contains("in no container's cgroup (0::/x)"));
        sample.processes_without_slot = (1..=7).map(|pid| process(pid, None)).collect();
        let notes = of(&sample);
        assert_eq!(notes.len(), 5);
        assert!(notes[4].starts_with("So do 3 more"));
    }
}
