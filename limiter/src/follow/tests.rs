use std::fs;
use std::path::Path;

use super::*;
use crate::config;
use crate::control;
use crate::share::Share;
use crate::units::{Bytes, DeviceUuid};

const GPU: DeviceUuid = DeviceUuid::from_bytes([7; 16]);

/// A process of the container `a` with a config file, and what its environment says.
struct Process {
    ledger: Ledger,
    _share: Share,
    follower: Follower,
}

fn attach(dir: &Path, memory: Option<&str>) -> Process {
    let file = dir.join("config.toml");
    let own = [
        ("CUDA_HOOK_CONFIG", file.to_str().unwrap()),
        ("CUDA_HOOK_CONTAINER", "a"),
        ("CUDA_HOOK_DIR", dir.to_str().unwrap()),
    ];
    let own = own
        .into_iter()
        .chain(memory.map(|size| ("CUDA_HOOK_MEMORY", size)));
    let settings = config::load_from(own.map(|(name, value)| (name.into(), value.into()))).unwrap();
    let limits = settings.limits.unwrap().bind(&[GPU]).unwrap();
    let ledger = Ledger::attach(dir, &settings.container, &[(GPU, limits[0])]).unwrap();
    let now = MonotonicNs::new(1);
    let share = Share::attach(&ledger, dir, now, 1).unwrap();
    let follower = Follower::new(settings.source.unwrap());
    let stamp = follower.stamp();
    Follower::obey(&ledger, &limits, stamp, Moment::Start, now).unwrap();
    Process {
        ledger,
        _share: share,
        follower,
    }
}

impl Process {
    /// Looks, long after whatever was written was written.
    fn look(&self) -> Result<bool, String> {
        let Some(version) = self.follower.rewritten(u64::MAX) else {
            return Ok(false);
        };
        let Version { limits, stamp } = version.map_err(|refusal| refusal.to_string())?;
        let limits = limits.bind(&[GPU]).unwrap();
        let now = MonotonicNs::new(1);
        Follower::obey(&self.ledger, &limits, stamp, Moment::Rewritten, now).unwrap();
        Ok(true)
    }

    fn max(&self) -> Option<u64> {
        self.ledger.max(0).map(Bytes::get)
    }
}

/// Writes the file anew; each time is another, whatever the clock of the file system.
fn write(dir: &Path, text: &str, second: u64) {
    let path = dir.join("config.toml");
    fs::write(&path, text).unwrap();
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(at).unwrap();
}

fn limits(memory: &str) -> String {
    format!("[limits]\nmemory = {memory}\n")
}

#[test]
fn a_rewritten_file_raises_and_lowers() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &limits("100"), 1);
    let process = attach(dir.path(), None);
    assert_eq!((process.look(), process.max()), (Ok(false), Some(100)));
    write(dir.path(), "[limits]\nmemory = 200\nsm = 30\n", 2);
    assert_eq!((process.look(), process.max()), (Ok(true), Some(200)));
    let device = &process.ledger.seat().file.devices[0];
    assert_eq!(device.limits().sm_max, "30".parse().ok());
    write(dir.path(), &limits("\"max\""), 3);
    assert_eq!((process.look(), process.max()), (Ok(true), None));
    write(dir.path(), &limits("50"), 4);
    assert_eq!((process.look(), process.max()), (Ok(true), Some(50)));
}

#[test]
fn the_environment_still_only_lowers() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &limits("100"), 1);
    let (lowered, other) = (attach(dir.path(), Some("40")), attach(dir.path(), None));
    assert_eq!(other.max(), Some(40));
    write(dir.path(), &limits("200"), 2);
    assert_eq!((other.look(), other.max()), (Ok(true), Some(200)));
    assert_eq!((lowered.look(), other.max()), (Ok(true), Some(40)));
    write(dir.path(), &limits("300"), 3);
    assert_eq!((lowered.look(), lowered.max()), (Ok(true), Some(40)));
    assert_eq!((other.look(), other.max()), (Ok(true), Some(40)));
}

#[test]
fn a_file_that_cannot_be_obeyed_leaves_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &limits("100"), 1);
    let process = attach(dir.path(), None);
    for (second, text, told) in [
        (2, "", "sets no limit any more"),
        (3, "[limits]\nmemory = ", "config.toml:2"),
        (4, "[limits]\nmemory = -1\n", "limits.memory"),
        (
            5,
            "container = \"b\"\n[limits]\nmemory = 1\n",
            "is another container",
        ),
    ] {
        write(dir.path(), text, second);
        let refusal = process.look().unwrap_err();
        assert!(refusal.contains(told), "{refusal}");
        assert_eq!(process.look(), Ok(false), "it is told once");
        assert_eq!(process.max(), Some(100));
    }
    fs::remove_file(dir.path().join("config.toml")).unwrap();
    assert_eq!((process.look(), process.max()), (Ok(false), Some(100)));
    write(dir.path(), &limits("7"), 6);
    assert_eq!((process.look(), process.max()), (Ok(true), Some(7)));
}

#[test]
fn a_file_that_is_being_written_is_left_to_settle() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &limits("100"), 1);
    let process = attach(dir.path(), None);
    write(dir.path(), &limits("7"), 2);
    let written_ns = 2_000_000_000;
    for (now_ns, is_read) in [
        (written_ns, false),
        (written_ns + SETTLE_NS - 1, false),
        (written_ns + SETTLE_NS, true),
    ] {
        let version = process.follower.rewritten(now_ns);
        assert_eq!(version.is_some(), is_read, "{now_ns}");
    }
    write(dir.path(), &limits("8"), 10);
    let of_the_future = process.follower.rewritten(written_ns);
    assert!(of_the_future.is_some(), "the clock was set back meanwhile");
}

#[test]
fn what_set_has_changed_stays_until_the_file_is_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &limits("100"), 1);
    let process = attach(dir.path(), None);
    let change = config::Change::parse(config::Wanted {
        memory: Some("60"),
        ..config::Wanted::default()
    })
    .unwrap();
    control::change(
        dir.path(),
        &"a".parse().unwrap(),
        &change,
        MonotonicNs::new(1),
    )
    .unwrap();
    let next = attach(dir.path(), None);
    assert_eq!((process.look(), next.max()), (Ok(false), Some(60)));
    write(dir.path(), &limits("90"), 2);
    assert_eq!((next.look(), next.max()), (Ok(true), Some(90)));
    assert_eq!((process.look(), next.max()), (Ok(true), Some(90)));
}

#[test]
fn who_starts_after_the_file_was_rewritten_tells_the_others() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &limits("100"), 1);
    let idle = attach(dir.path(), None);
    write(dir.path(), &limits("200"), 2);
    let starts = attach(dir.path(), None);
    assert_eq!((idle.max(), starts.max()), (Some(200), Some(200)));
}

#[test]
fn one_look_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &limits("100"), 1);
    let Process { follower, .. } = attach(dir.path(), None);
    let due = |ns: u64| follower.is_due(MonotonicNs::new(1_000_000_000 + ns));
    assert!(due(0));
    assert!(!due(0) && !due(Follower::LOOK_EVERY_NS - 1));
    assert!(due(Follower::LOOK_EVERY_NS));
    assert!(!due(Follower::LOOK_EVERY_NS + 1));
}
