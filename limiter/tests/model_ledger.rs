//! Random sequences of everything that processes do with one ledger, and of their deaths, against a map.
//!
//! Each member is a process of its own, a fork of this one, that does as it is told.
#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(unsafe_code, reason = "fork(2) has no safe form")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use limiter::clock;
use limiter::config::{Change, ContainerName, Wanted};
use limiter::control;
use limiter::ledger::Ledger;
use limiter::sample;
use limiter::units::{Bytes, DeviceUuid};
use proptest::prelude::*;

const DEVICES: usize = 2;
const GPUS: [DeviceUuid; DEVICES] = [
    DeviceUuid::from_bytes([1; 16]),
    DeviceUuid::from_bytes([2; 16]),
];
const MAX_AT_FIRST: u64 = 1_000;
/// Living members, at most.
const MEMBERS: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    Attach,
    Detach(usize),
    Kill(usize),
    /// Killed while it charges this, at whatever moment that is.
    KillInCharge(usize, Charge),
    Charge(usize, Charge),
    Uncharge(usize, Charge),
    SetMax {
        device: usize,
        max: Option<u64>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Charge {
    device: usize,
    bytes: u64,
    commit: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let member = 0..MEMBERS;
    let charge =
        (0..DEVICES, 0..400_u64, any::<bool>()).prop_map(|(device, bytes, commit)| Charge {
            device,
            bytes,
            commit,
        });
    let with_charge = (member.clone(), charge);
    prop_oneof![
        3 => Just(Step::Attach),
        1 => member.clone().prop_map(Step::Detach),
        1 => member.prop_map(Step::Kill),
        1 => with_charge.clone().prop_map(|(member, charge)| Step::KillInCharge(member, charge)),
        9 => with_charge.clone().prop_map(|(member, charge)| Step::Charge(member, charge)),
        4 => with_charge.prop_map(|(member, charge)| Step::Uncharge(member, charge)),
        1 => (0..DEVICES, proptest::option::of(0..1_500_u64))
            .prop_map(|(device, max)| Step::SetMax { device, max }),
    ]
}

fn container() -> ContainerName {
    "model".parse().unwrap()
}

/// A process of the container. Killed when dropped.
struct Member {
    pid: libc::pid_t,
    line: BufReader<UnixStream>,
}

impl Member {
    fn start(dir: &Path) -> Self {
        let (ours, its) = UnixStream::pair().unwrap();
        // SAFETY: this process has no other thread that could hold a lock: the harness waits for its only test.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            obey(dir, BufReader::new(its));
            // SAFETY: ends the child without the harness's exit code.
            unsafe { libc::_exit(0) };
        }
        let mut member = Self {
            pid,
            line: BufReader::new(ours),
        };
        assert_eq!(member.hear(), "attached");
        member
    }

    fn pid(&self) -> u32 {
        self.pid.cast_unsigned()
    }

    fn tell(&mut self, order: &str) {
        writeln!(self.line.get_mut(), "{order}").unwrap();
    }

    fn hear(&mut self) -> String {
        let mut answer = String::new();
        self.line.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.hear()
    }

    /// Waits until it is a zombie, and leaves it one.
    fn wait_unburied(&self) {
        let id = libc::id_t::try_from(self.pid).unwrap();
        // SAFETY: all-zero bytes are a valid `siginfo_t`, a plain struct.
        let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOWAIT;
        // SAFETY: waits for our own child; `found` is writable.
        let answer = unsafe { libc::waitid(libc::P_PID, id, &raw mut found, options) };
        assert_eq!(answer, 0);
    }

    fn kill(&self) {
        // SAFETY: a child that has not been waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        self.wait_unburied();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
        // SAFETY: waits for our own child, which has ended, and wants no status.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

/// A member's life: a line in, a line out.
fn obey(dir: &Path, mut line: BufReader<UnixStream>) {
    let max = Some(Bytes::new(MAX_AT_FIRST));
    let ledger = Ledger::attach(dir, &container(), &GPUS.map(|gpu| (gpu, max))).unwrap();
    let mut order = String::from("attach");
    while let Some(answer) = answer(&ledger, order.trim_end()) {
        writeln!(line.get_mut(), "{answer}").unwrap();
        order.clear();
        line.read_line(&mut order).unwrap();
    }
}

fn answer(ledger: &Ledger, order: &str) -> Option<String> {
    let words: Vec<&str> = order.split(' ').collect();
    let number = |at: usize| words[at].parse::<u64>().unwrap();
    let device = || usize::try_from(number(1)).unwrap();
    match words[0] {
        "attach" => Some("attached".to_owned()),
        "charge" => {
            let charge = ledger.try_charge(device(), Bytes::new(number(2)));
            let granted = charge.map(|charge| (words[3] == "true").then(|| charge.commit()));
            Some(granted.is_ok().to_string())
        }
        "uncharge" => {
            ledger.uncharge(device(), Bytes::new(number(2)));
            Some("done".to_owned())
        }
        "tell" => {
            let told = (0..DEVICES).map(|device| {
                let max = ledger.max(device).map(Bytes::get);
                let (current, own) = (ledger.current(device), ledger.own(device));
                told(current.get(), own.get(), max, ledger.peak(device).get())
            });
            let processes = ledger.processes().len();
            Some(format!(
                "{processes}: {}",
                told.collect::<Vec<_>>().join(", ")
            ))
        }
        _ => None, // it leaves, and gives its place back
    }
}

/// What a ledger says of one GPU.
fn told(current: u64, own: u64, max: Option<u64>, peak: u64) -> String {
    format!("{own} of {current} of {max:?}, once {peak}")
}

/// What the ledger must say.
#[derive(Default)]
struct Model {
    held: BTreeMap<(usize, usize), u64>,
    max: [Option<u64>; DEVICES],
    /// What the dead held that may not have been reaped yet: until then it is in the peak of whoever charges beside it.
    dead: [u64; DEVICES],
    /// The least and the most that the peak may be.
    peak: [(u64, u64); DEVICES],
}

impl Model {
    fn held(&self, member: usize, device: usize) -> u64 {
        self.held.get(&(member, device)).copied().unwrap_or(0)
    }

    fn current(&self, device: usize) -> u64 {
        let of_device = self.held.iter().filter(|((_, of), _)| *of == device);
        of_device.map(|(_, bytes)| bytes).sum()
    }

    fn charge(&mut self, member: usize, charge: Charge) -> bool {
        let Charge { device, bytes, .. } = charge;
        let wanted = self.current(device) + bytes;
        if self.max[device].is_some_and(|max| wanted > max) {
            let own = self.held(member, device) + bytes;
            if self.max[device].is_some_and(|max| own <= max) {
                // Who is refused for the others' sake has looked for them; for its own sake nobody need be looked for.
                self.dead = [0; DEVICES];
            }
            return false;
        }
        let (least, most) = self.peak[device];
        self.peak[device] = (least.max(wanted), most.max(wanted + self.dead[device]));
        if charge.commit {
            *self.held.entry((member, device)).or_default() += bytes;
        }
        true
    }

    /// It may have come to the grant, or not.
    fn die_in_charge(&mut self, member: usize, charge: Charge) {
        let Charge { device, bytes, .. } = charge;
        let (least, most) = self.peak[device];
        let wanted = self.current(device) + bytes;
        if self.max[device].is_none_or(|max| wanted <= max) {
            self.peak[device] = (least, most.max(wanted + self.dead[device]));
            self.dead[device] += bytes;
        }
        self.die(member);
    }

    fn die(&mut self, member: usize) {
        for device in 0..DEVICES {
            self.dead[device] += self.held(member, device);
        }
        self.leave(member);
    }

    fn leave(&mut self, member: usize) {
        self.held.retain(|(of, _), _| *of != member);
    }
}

/// The members, and what is known of them.
struct Run {
    dir: tempfile::TempDir,
    model: Model,
    living: BTreeMap<usize, Member>,
    /// Zombies, until the end.
    dead: Vec<Member>,
}

impl Run {
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Attach => self.attach(),
            Step::Detach(number) => {
                let end = |member: &mut Member| {
                    member.tell("leave");
                    member.wait_unburied();
                };
                self.end(number, end, Model::leave);
            }
            Step::Kill(number) => self.end(number, |member| member.kill(), Model::die),
            Step::KillInCharge(number, charge) => {
                let end = |member: &mut Member| {
                    member.tell(&format!("charge {} {} true", charge.device, charge.bytes));
                    member.kill();
                };
                self.end(number, end, |model, member| {
                    model.die_in_charge(member, charge)
                });
            }
            Step::Charge(number, charge) => {
                let Some(member) = self.living.get_mut(&number) else {
                    return;
                };
                let Charge {
                    device,
                    bytes,
                    commit,
                } = charge;
                let granted = member.ask(&format!("charge {device} {bytes} {commit}"));
                assert_eq!(granted, self.model.charge(number, charge).to_string());
            }
            Step::Uncharge(number, Charge { device, bytes, .. }) => {
                let Some(member) = self.living.get_mut(&number) else {
                    return;
                };
                assert_eq!(member.ask(&format!("uncharge {device} {bytes}")), "done");
                let held = self.model.held.entry((number, device)).or_default();
                *held = held.saturating_sub(bytes);
            }
            Step::SetMax { device, max } => self.set_max(device, max),
        }
    }

    fn attach(&mut self) {
        let Some(number) = (0..MEMBERS).find(|number| !self.living.contains_key(number)) else {
            return;
        };
        if self.living.is_empty() {
            self.model.max = [Some(MAX_AT_FIRST); DEVICES];
        }
        self.living.insert(number, Member::start(self.dir.path()));
        self.model.dead = [0; DEVICES];
    }

    fn end(
        &mut self,
        number: usize,
        how: impl FnOnce(&mut Member),
        in_model: impl FnOnce(&mut Model, usize),
    ) {
        if let Some(mut member) = self.living.remove(&number) {
            how(&mut member);
            self.dead.push(member);
            in_model(&mut self.model, number);
        }
    }

    /// What `cuda-hook set --memory` does.
    fn set_max(&mut self, device: usize, max: Option<u64>) {
        if self.living.is_empty() {
            return;
        }
        let text = max.map_or_else(|| "max".to_owned(), |max| max.to_string());
        let gpu = GPUS[device];
        let wanted = Wanted {
            memory: Some(&format!("{gpu}={text}")),
            ..Wanted::default()
        };
        let change = Change::parse(wanted).unwrap();
        control::change(self.dir.path(), &container(), &change, clock::monotonic()).unwrap();
        self.model.max[device] = max;
    }

    /// What `cuda-hook status` reads is what the model says: the processes, and of each GPU its use. The peaks; `None`: nobody came yet.
    fn report(&self) -> Option<[u64; DEVICES]> {
        let sample = sample::read(self.dir.path(), clock::monotonic()).unwrap();
        let container = sample.containers.first()?;
        let mut pids: Vec<u32> = container
            .processes
            .iter()
            .map(|process| process.pid)
            .collect();
        let mut living: Vec<u32> = self.living.values().map(Member::pid).collect();
        pids.sort_unstable();
        living.sort_unstable();
        assert_eq!(pids, living);
        Some(std::array::from_fn(|device| {
            let told = &container.devices[device];
            assert_eq!(told.memory_bytes_current, self.model.current(device));
            let (least, most) = self.model.peak[device];
            assert!(
                (least..=most).contains(&told.memory_bytes_peak),
                "{told:?} {least} {most}"
            );
            told.memory_bytes_peak
        }))
    }

    /// A report from outside, and every member, say what the model does.
    fn check(&mut self) {
        let Some(peaks) = self.report() else {
            return;
        };
        let count = self.living.len();
        for (&number, member) in &mut self.living {
            let model = &self.model;
            let of_gpus = (0..DEVICES).map(|device| {
                let (current, own) = (model.current(device), model.held(number, device));
                told(current, own, model.max[device], peaks[device])
            });
            let of_gpus: Vec<String> = of_gpus.collect();
            assert_eq!(
                member.ask("tell"),
                format!("{count}: {}", of_gpus.join(", "))
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_says_what_a_map_says(steps in proptest::collection::vec(step(), 1..80)) {
        let mut run = Run {
            dir: tempfile::tempdir().unwrap(),
            model: Model::default(),
            living: BTreeMap::new(),
            dead: Vec::new(),
        };
        for step in &steps {
            run.take(step);
            run.check();
        }
    }
}
