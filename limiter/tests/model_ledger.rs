//! Random sequences of everything that one ledger does, against a map.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;

use limiter::clock;
use limiter::config::{Change, ContainerName};
use limiter::control;
use limiter::ledger::Ledger;
use limiter::units::{Bytes, DeviceUuid};
use proptest::prelude::*;

const DEVICES: usize = 2;
const GPUS: [DeviceUuid; DEVICES] = [
    DeviceUuid::from_bytes([1; 16]),
    DeviceUuid::from_bytes([2; 16]),
];
const MAX_AT_FIRST: u64 = 1_000;

#[derive(Clone, Debug)]
enum Step {
    Attach,
    Detach(usize),
    Charge {
        process: usize,
        device: usize,
        bytes: u64,
        commit: bool,
    },
    Uncharge {
        process: usize,
        device: usize,
        bytes: u64,
    },
    SetMax {
        device: usize,
        max: Option<u64>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (process, device) = (0..6_usize, 0..DEVICES);
    prop_oneof![
        2 => Just(Step::Attach),
        1 => process.clone().prop_map(Step::Detach),
        8 => (process.clone(), device.clone(), 0..400_u64, any::<bool>())
            .prop_map(|(process, device, bytes, commit)| Step::Charge { process, device, bytes, commit }),
        4 => (process, device.clone(), 0..400_u64)
            .prop_map(|(process, device, bytes)| Step::Uncharge { process, device, bytes }),
        1 => (device, proptest::option::of(0..1_500_u64))
            .prop_map(|(device, max)| Step::SetMax { device, max }),
    ]
}

/// What `cuda-hook set --memory` does.
fn set_max(dir: &Path, device: usize, max: Option<u64>) {
    let max = max.map_or_else(|| "max".to_owned(), |max| max.to_string());
    let gpu = GPUS[device];
    let change = Change::parse(Some(&format!("{gpu}={max}")), None, None).unwrap();
    control::change(dir, &container(), &change, clock::monotonic()).unwrap();
}

/// What the ledger must say.
#[derive(Default)]
struct Model {
    held: BTreeMap<(usize, usize), u64>,
    max: [Option<u64>; DEVICES],
    peak: [u64; DEVICES],
}

impl Model {
    fn current(&self, device: usize) -> u64 {
        self.held
            .iter()
            .filter(|((_, of), _)| *of == device)
            .map(|(_, bytes)| bytes)
            .sum()
    }

    fn charge(&mut self, process: usize, device: usize, bytes: u64, commit: bool) -> bool {
        let wanted = self.current(device) + bytes;
        if self.max[device].is_some_and(|max| wanted > max) {
            return false;
        }
        self.peak[device] = self.peak[device].max(wanted);
        if commit {
            *self.held.entry((process, device)).or_default() += bytes;
        }
        true
    }
}

fn container() -> ContainerName {
    "model".parse().unwrap()
}

fn attach(dir: &Path) -> Ledger {
    let max = Some(Bytes::new(MAX_AT_FIRST));
    Ledger::attach(dir, &container(), &GPUS.map(|gpu| (gpu, max))).unwrap()
}

fn check(model: &Model, ledgers: &BTreeMap<usize, Ledger>) {
    for (process, ledger) in ledgers {
        for device in 0..DEVICES {
            assert_eq!(ledger.current(device).get(), model.current(device));
            assert_eq!(
                ledger.own(device).get(),
                model.held.get(&(*process, device)).copied().unwrap_or(0)
            );
            assert_eq!(ledger.max(device).map(Bytes::get), model.max[device]);
            assert_eq!(ledger.peak(device).get(), model.peak[device]);
        }
        assert_eq!(ledger.processes().len(), ledgers.len());
    }
}

fn take(
    step: &Step,
    next: usize,
    model: &mut Model,
    ledgers: &mut BTreeMap<usize, Ledger>,
    dir: &Path,
) {
    match *step {
        Step::Attach => {
            if ledgers.is_empty() {
                model.max = [Some(MAX_AT_FIRST); DEVICES];
            }
            ledgers.insert(next, attach(dir));
        }
        Step::Detach(process) => {
            ledgers.remove(&process);
            model.held.retain(|(of, _), _| *of != process);
        }
        Step::Charge {
            process,
            device,
            bytes,
            commit,
        } => {
            let Some(ledger) = ledgers.get(&process) else {
                return;
            };
            let granted = ledger
                .try_charge(device, Bytes::new(bytes))
                .map(|charge| commit.then(|| charge.commit()));
            assert_eq!(
                granted.is_ok(),
                model.charge(process, device, bytes, commit)
            );
        }
        Step::Uncharge {
            process,
            device,
            bytes,
        } => {
            let Some(ledger) = ledgers.get(&process) else {
                return;
            };
            ledger.uncharge(device, Bytes::new(bytes));
            let held = model.held.entry((process, device)).or_default();
            *held = held.saturating_sub(bytes);
        }
        Step::SetMax { device, max } => {
            if ledgers.is_empty() {
                return;
            }
            set_max(dir, device, max);
            model.max[device] = max;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_says_what_a_map_says(steps in proptest::collection::vec(step(), 1..80)) {
        let dir = tempfile::tempdir().unwrap();
        let (mut model, mut ledgers) = (Model::default(), BTreeMap::new());
        let mut next = 0;
        for step in &steps {
            take(step, next % 6, &mut model, &mut ledgers, dir.path());
            if matches!(step, Step::Attach) {
                model.held.retain(|(of, _), _| *of != next % 6);
                next += 1;
            }
            check(&model, &ledgers);
        }
    }
}
