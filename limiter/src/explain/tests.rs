use super::*;
use crate::ledger::Ledger;
use crate::sample;
use crate::share::Share;
use crate::units::MonotonicNs;

const GPU: DeviceUuid = DeviceUuid::from_bytes([7; 16]);
const CGROUP: &str = "0::/tenants/a\n";

/// A `/proc` of our own making.
struct Proc(tempfile::TempDir);

impl Proc {
    fn new() -> Self {
        let proc = Self(tempfile::tempdir().unwrap());
        let own = std::process::id().to_string();
        std::os::unix::fs::symlink(own, proc.0.path().join("self")).unwrap();
        proc
    }

    /// A process that started at 99, in a namespace of `own_pid`; the inode of that.
    fn add(&self, pid: u32, own_pid: u32, cgroup: &str) -> u64 {
        let folder = self.0.path().join(pid.to_string());
        fs::create_dir_all(folder.join("ns")).unwrap();
        let stat = format!("{pid} (a) b) S {}99 0", "0 ".repeat(18));
        for (name, text) in [
            ("stat", stat.as_str()),
            ("comm", "python3\n"),
            ("status", &format!("Name:\tx\nNSpid:\t{pid}\t{own_pid}\n")),
            ("cgroup", cgroup),
            ("ns/pid", ""),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        fs::metadata(folder.join("ns/pid")).unwrap().ino()
    }

    fn explain(&self, sample: &mut Sample, listed: &[(u32, Option<u64>)]) {
        let listed = listed.iter().map(|(pid, memory)| Listed {
            pid: *pid,
            memory: memory.map(Bytes::new),
        });
        let list = GpuList {
            device: GPU,
            processes: listed.collect(),
        };
        explain_by(sample, &[list], self.0.path());
    }
}

/// Containers with a process each that holds so many bytes by its ledger.
fn sampled(containers: &[(&str, u64)]) -> Sample {
    let dir = tempfile::tempdir().unwrap();
    let attached = containers.iter().map(|(name, held)| {
        let ledger = Ledger::attach(dir.path(), &name.parse().unwrap(), &[(GPU, None)]).unwrap();
        let share = Share::attach(&ledger, dir.path(), MonotonicNs::new(1), 1).unwrap();
        ledger.charge(0, Bytes::new(*held));
        (ledger, share)
    });
    let _attached: Vec<_> = attached.collect();
    sample::read(dir.path(), MonotonicNs::new(1)).unwrap()
}

/// Says who the process of a container is.
fn name(sample: &mut Sample, container: usize, pid: u32, namespace: u64) {
    let process = &mut sample.containers[container].processes[0];
    process.pid = pid;
    process.start_time_ticks = 99;
    process.pid_namespace = namespace;
}

#[test]
fn what_is_listed_beyond_the_books_is_unaccounted() {
    let proc = Proc::new();
    let mut sample = sampled(&[("a", 40)]);
    let namespace = proc.add(1234, 5, CGROUP);
    name(&mut sample, 0, 5, namespace);
    proc.explain(&mut sample, &[(1234, Some(70))]);
    let container = &sample.containers[0];
    let device = &container.devices[0];
    assert_eq!(
        (device.memory_bytes_listed, device.memory_bytes_unaccounted),
        (Some(70), Some(30))
    );
    let device = &container.processes[0].devices[0];
    assert_eq!(
        (device.memory_bytes_listed, device.memory_bytes_unaccounted),
        (Some(70), Some(30))
    );
    assert_eq!(sample.processes_without_slot, []);
}

#[test]
fn a_process_of_the_containers_cgroup_without_a_slot_is_told() {
    let proc = Proc::new();
    let mut sample = sampled(&[("a", 40), ("b", 0)]);
    let namespace = proc.add(1234, 5, CGROUP);
    name(&mut sample, 0, 5, namespace);
    let told = |sample: &mut Sample| {
        proc.explain(sample, &[(1234, Some(40)), (1300, Some(7))]);
        let [outside] = &sample.processes_without_slot[..] else {
            panic!("one: {:?}", sample.processes_without_slot);
        };
        assert_eq!((outside.pid, outside.name.as_str()), (1300, "python3"));
        assert_eq!(outside.memory_bytes_listed, Some(7));
        outside.container.clone()
    };
    proc.add(1300, 6, CGROUP);
    assert_eq!(told(&mut sample.clone()).as_deref(), Some("a"));
    proc.add(1300, 6, "0::/b\n");
    assert_eq!(
        told(&mut sample.clone()).as_deref(),
        Some("b"),
        "the container is called after its cgroup"
    );
    proc.add(1300, 6, "0::/elsewhere\n");
    assert_eq!(told(&mut sample).as_deref(), None);
}

#[test]
fn a_cgroup_that_containers_share_names_none_of_them() {
    let proc = Proc::new();
    let mut sample = sampled(&[("a", 40), ("b", 40)]);
    for (container, pid) in [(0, 1234), (1, 1235)] {
        let namespace = proc.add(pid, pid, CGROUP);
        name(&mut sample, container, pid, namespace);
    }
    proc.add(1300, 6, CGROUP);
    proc.explain(
        &mut sample,
        &[(1234, Some(40)), (1235, Some(40)), (1300, None)],
    );
    let outside = &sample.processes_without_slot[0];
    assert_eq!(outside.container, None);
    assert_eq!(outside.memory_bytes_listed, None);
}

#[test]
fn a_list_of_other_numbers_says_nothing() {
    let proc = Proc::new();
    let mut sample = sampled(&[("a", 40)]);
    let namespace = proc.add(1234, 5, CGROUP);
    let unknown = |sample: &Sample| {
        let device = &sample.containers[0].devices[0];
        device.memory_bytes_listed.is_none()
            && device.memory_bytes_unaccounted.is_none()
            && sample.processes_without_slot.is_empty()
    };
    // The ledger's process, another one of that number, one of another namespace, and one that is gone.
    for (start_time, pid, namespace, says_something) in [
        (99, 5, namespace, true),
        (98, 5, namespace, false),
        (99, 6, namespace, false),
        (99, 5, namespace + 1, false),
    ] {
        let mut sample = sample.clone();
        name(&mut sample, 0, pid, namespace);
        sample.containers[0].processes[0].start_time_ticks = start_time;
        proc.explain(&mut sample, &[(1234, Some(40))]);
        assert_eq!(!unknown(&sample), says_something, "{start_time} {pid}");
    }
    name(&mut sample, 0, 5, namespace);
    proc.explain(&mut sample, &[(77, Some(40))]);
    assert!(unknown(&sample), "nobody of that number lives");
}

#[test]
fn who_holds_nothing_need_not_be_listed() {
    let proc = Proc::new();
    let mut sample = sampled(&[("a", 0)]);
    proc.explain(&mut sample, &[]);
    let device = &sample.containers[0].devices[0];
    assert_eq!(
        (device.memory_bytes_listed, device.memory_bytes_unaccounted),
        (Some(0), Some(0))
    );
}

#[test]
fn a_process_whose_proc_was_hidden_is_known_by_its_number() {
    let proc = Proc::new();
    let mut sample = sampled(&[("a", 40)]);
    name(&mut sample, 0, 1234, 0);
    proc.explain(&mut sample, &[(1234, Some(50))]);
    let device = &sample.containers[0].devices[0];
    assert_eq!(device.memory_bytes_unaccounted, Some(10));
}

#[test]
fn a_proc_of_another_namespace_names_nobody() {
    let proc = Proc::new();
    let mut sample = sampled(&[("a", 40)]);
    name(&mut sample, 0, 1234, 0);
    proc.add(1300, 6, CGROUP);
    fs::remove_file(proc.0.path().join("self")).unwrap();
    proc.explain(&mut sample, &[(1234, Some(50)), (1300, Some(7))]);
    let device = &sample.containers[0].devices[0];
    assert_eq!(device.memory_bytes_unaccounted, Some(10));
    assert_eq!(sample.processes_without_slot, []);
}
