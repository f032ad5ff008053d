//! A machine of a test's own, in a folder of its own.

pub(crate) mod program;

use gpu_sim::client::{Environment, Machine};
use gpu_sim::command::KernelCost;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder in which a machine can be started.
pub(crate) struct Sandbox {
    root: TempDir,
    pub(crate) profile: String,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            profile: "t4".to_owned(),
        }
    }

    /// The machine's folder; the machine makes and removes it.
    pub(crate) fn dir(&self) -> PathBuf {
        self.root.path().join("machine")
    }

    pub(crate) fn environment(&self) -> Environment {
        Environment {
            profile: self.profile.clone(),
            dir: self.dir(),
            device: Some(env!("CARGO_BIN_EXE_gpu-sim-device").into()),
            container: "test".to_owned(),
            linger_ms: Some("0".to_owned()),
            alloc_us: None,
            log: Some("debug".to_owned()),
        }
    }

    pub(crate) fn connect(&self) -> Machine {
        Machine::connect_to(&self.environment()).unwrap()
    }
}

/// A kernel that fills a T4 for about this long.
pub(crate) fn kernel(us: u64) -> KernelCost {
    // 32 warps an SM on 4 schedulers: 8 cycles an instruction at 1590 MHz.
    KernelCost {
        grid: [160, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        registers_per_thread: 32,
        instructions_per_thread: us * 1_590 / 8,
    }
}

/// How long a condition may take to come true. Generous: the machine may be busy.
#[allow(dead_code, reason = "not every test program waits")]
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until it is so.
#[allow(dead_code, reason = "not every test program waits")]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::yield_now();
    }
}
