//! Scenarios in real time: processes, the preload, and the simulated device as it runs beside them on this host. What each container had is
//! read from the device's books.

mod document;
mod player;
mod stolen;

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use benches::evaluation::{
    Axis, Case, Job, Outcome, PROFILE, Part, SEED_FIRST, SETTINGS, Variant, judge_by, matrix,
};
use benches::evaluator::{Change, ProcessReport, Report, Scenario, Window};
use gpu_sim::client::{Environment, Machine};
use gpu_sim::clock;
use gpu_sim::command::EngineUsage;
use rustix::process::{Pid, Signal, kill_process};

use crate::failed;
use crate::progress::Progress;
pub(crate) use document::write;
pub(crate) use stolen::Stolen;

const MS: u64 = 1_000_000;
/// From the word that all are ready to the beginning.
const LEAD_NS: u64 = 100 * MS;

/// What is played: the quick evaluation, and one of each kind of what goes wrong and of several processes.
pub(crate) fn cases(texts: &[String]) -> Vec<Case> {
    const BESIDE_QUICK: [&str; 7] = [
        "three join at once, guarantees",
        "30 and 70 % become 70 and 30, 1 ms, guarantees",
        "one of 1 ms is stopped for 3 s, caps",
        "one of 20 ms is killed, guarantees",
        "30 % of 1 ms beside an unmanaged process of 100 µs",
        "3 and 1 processes of 1 ms, caps",
        "8 × 50 µs, guarantees",
    ];
    let is_asked = |case: &Case| match texts {
        [] => case.is_quick || BESIDE_QUICK.contains(&case.name.as_str()),
        texts => texts.iter().any(|text| case.name.contains(text)),
    };
    matrix().into_iter().filter(is_asked).collect()
}

/// Plays these, one after the other. What came out, and what the host had stolen.
pub(crate) fn run(cases: Vec<Case>) -> Result<(Vec<Outcome>, Stolen), String> {
    let progress = Progress::of(cases.len());
    let stolen = RefCell::new(Stolen::default());
    let setting = SETTINGS[0];
    let play = |(done, case): (usize, Case)| {
        let scenario = setting.scenario(&case).map_err(failed)?;
        let judged = judge_by(&case, scenario, Variant::Limiter, &|scenario, variant| {
            let play = || play_once(&case, scenario, variant);
            stolen.borrow_mut().keep_least(play)
        })
        .map_err(|failure| format!("{}: {failure}", case.name))?;
        progress.tell(done + 1);
        let job = Job {
            part: Part::Matrix,
            case,
            setting,
            variant: Variant::Limiter,
            seed: SEED_FIRST,
        };
        Ok(Outcome { job, judged })
    };
    let outcomes = cases
        .into_iter()
        .enumerate()
        .map(play)
        .collect::<Result<_, String>>()?;
    Ok((outcomes, stolen.into_inner()))
}

/// The part of one of a scenario's processes: see [`Tenant::start`].
pub(crate) fn play_process(axis: &str, name: &str, index: usize) -> Result<(), String> {
    let found = matrix()
        .into_iter()
        .find(|case| case.axis.title() == axis && case.name == name);
    let case = found.ok_or("there is no such scenario")?;
    let plan = case.processes.get(index).ok_or("it has no such process")?;
    player::play(plan, case.duration_ns, SEED_FIRST + index as u64)
}

/// Where things are, and the folders of one run.
struct Place {
    /// The folder of this program, with the preload, the command and the simulation.
    built: PathBuf,
    state: tempfile::TempDir,
    device: tempfile::TempDir,
}

impl Place {
    fn new() -> Result<Self, String> {
        let program = std::env::current_exe().map_err(failed)?;
        let built = program.parent().ok_or("this program lies nowhere")?;
        Ok(Self {
            built: built.to_owned(),
            state: tempfile::tempdir().map_err(failed)?,
            device: tempfile::tempdir().map_err(failed)?,
        })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("LD_LIBRARY_PATH", self.built.join("gpu-sim"))
            .env("GPU_SIM_PROFILE", PROFILE)
            .env("GPU_SIM_DIR", self.device.path())
            .env("CUDA_HOOK_DIR", self.state.path());
        command
    }

    fn machine(&self) -> Result<Machine, String> {
        let environment = Environment {
            profile: PROFILE.to_owned(),
            dir: self.device.path().to_owned(),
            ..Environment::from_process()
        };
        let machine = Machine::observe(&environment).map_err(failed)?;
        machine.ok_or_else(|| "the simulated device is gone".to_owned())
    }
}

/// A process of ours, killed when this is dropped.
struct Tenant {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Tenant {
    /// One that is ready to begin.
    fn start(
        place: &Place,
        case: &Case,
        scenario: &Scenario,
        index: usize,
        variant: Variant,
    ) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(failed)?;
        let container = &scenario.containers[scenario.processes[index].container];
        let mut command = place.command(&program);
        command
            .env("CUDA_HOOK_CONTAINER", &container.name)
            .args(["play", case.axis.title(), &case.name, &index.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if variant == Variant::Limiter && container.is_managed {
            let sm_max = container.cap_percent.unwrap_or(100.0);
            command
                .env("LD_PRELOAD", place.built.join("libcuda_hook.so"))
                .env("CUDA_HOOK_SM", container.share_percent.to_string())
                .env("CUDA_HOOK_SM_MAX", sm_max.to_string());
        }
        let mut child = command.spawn().map_err(failed)?;
        let answers = child.stdout.take().ok_or("no pipe to a process of ours")?;
        let mut tenant = Self {
            child,
            answers: BufReader::new(answers),
        };
        match tenant.answer()?.as_str() {
            "ready" => Ok(tenant),
            other => Err(format!("a process was not ready, but said {other:?}")),
        }
    }

    fn answer(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(failed)?;
        Ok(line.trim_end().to_owned())
    }

    fn begin(&mut self, at_ns: u64) -> Result<(), String> {
        let stdin = self.child.stdin.as_mut();
        let stdin = stdin.ok_or("no pipe to a process of ours")?;
        writeln!(stdin, "{at_ns}").map_err(failed)
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        kill_process(Pid::from_child(&self.child), signal).map_err(failed)
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Something that is done to a tenant, or to what one is promised.
enum Deed<'a> {
    Signal(usize, Signal),
    Change(&'a Change),
}

/// What is done, and when, in ns from the beginning; in order.
fn deeds(scenario: &Scenario) -> Vec<(u64, Deed<'_>)> {
    let mut deeds = Vec::new();
    for (index, plan) in scenario.processes.iter().enumerate() {
        if let Some(Range { start, end }) = plan.stopped_ns {
            deeds.push((start, Deed::Signal(index, Signal::STOP)));
            deeds.push((end, Deed::Signal(index, Signal::CONT)));
        }
        if let Some(at_ns) = plan.killed_ns {
            deeds.push((at_ns, Deed::Signal(index, Signal::KILL)));
        }
    }
    let changes = scenario.changes.iter();
    deeds.extend(changes.map(|change| (change.at_ns, Deed::Change(change))));
    deeds.sort_by_key(|(at_ns, _)| *at_ns);
    deeds
}

fn carry_out(
    deed: &Deed<'_>,
    place: &Place,
    scenario: &Scenario,
    tenants: &[Tenant],
) -> Result<(), String> {
    let change = match deed {
        Deed::Signal(index, signal) => return tenants[*index].signal(*signal),
        Deed::Change(change) => change,
    };
    let mut command = place.command(&place.built.join("cuda-hook"));
    command.args(["set", &scenario.containers[change.container].name]);
    command.args(["--sm", &change.share_percent.to_string()]);
    let sm_max = change.cap_percent.unwrap_or(100.0);
    command.args(["--sm-max", &sm_max.to_string()]);
    let output = command.output().map_err(failed)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Busy time of each container up to a moment, in ns from the beginning.
struct Reading {
    at_ns: u64,
    busy_ns: Vec<u64>,
}

fn read(machine: &Machine, scenario: &Scenario, begin_ns: u64) -> Result<Reading, String> {
    let rows = machine.containers().map_err(failed)?;
    let at_ns = clock::monotonic_ns().saturating_sub(begin_ns);
    let busy_ns = |name: &str| {
        let own = rows
            .iter()
            .filter(|row| row.container == name && row.device == 0);
        own.map(|row| row.gpu_busy_ns_total).sum()
    };
    let containers = scenario.containers.iter();
    Ok(Reading {
        at_ns,
        busy_ns: containers
            .map(|container| busy_ns(&container.name))
            .collect(),
    })
}

/// Plays a scenario once.
fn play_once(case: &Case, scenario: &Scenario, variant: Variant) -> Result<Report, String> {
    if scenario.processes.iter().any(|plan| plan.cpus.is_some()) {
        return Err("a host with little processor time is simulated in virtual time alone".into());
    }
    let place = Place::new()?;
    let indices = 0..scenario.processes.len();
    let start = |index| Tenant::start(&place, case, scenario, index, variant);
    let mut tenants = indices.map(start).collect::<Result<Vec<_>, String>>()?;
    let machine = place.machine()?;
    let begin_ns = clock::monotonic_ns() + LEAD_NS;
    tenants
        .iter_mut()
        .try_for_each(|tenant| tenant.begin(begin_ns))?;
    let mut deeds = deeds(scenario).into_iter().peekable();
    let mut readings = Vec::new();
    let marks = (0..=scenario.duration_ns).step_by(scenario.window_ns as usize);
    for mark_ns in marks {
        while let Some((at_ns, deed)) = deeds.next_if(|(at_ns, _)| *at_ns <= mark_ns) {
            clock::sleep_until(begin_ns + at_ns).map_err(failed)?;
            carry_out(&deed, &place, scenario, &tenants)?;
        }
        clock::sleep_until(begin_ns + mark_ns).map_err(failed)?;
        readings.push(read(&machine, scenario, begin_ns)?);
    }
    let processes = scenario.processes.iter().zip(&mut tenants);
    let processes = processes.map(|(plan, tenant)| match plan.killed_ns {
        Some(_) => Ok(ProcessReport::default()),
        None => player::report_of(&tenant.answer()?),
    });
    Ok(Report {
        windows: windows(&readings, scenario),
        window_ns: scenario.window_ns,
        engine: EngineUsage::default(),
        processes: processes.collect::<Result<_, String>>()?,
        events: 0,
    })
}

/// Busy time from mark to mark, by straight lines between readings, none of which came exactly at its mark.
fn windows(readings: &[Reading], scenario: &Scenario) -> Vec<Window> {
    let containers = scenario.containers.len();
    let busy_at = |mark_ns: u64| -> Vec<f64> {
        let after = readings.partition_point(|reading| reading.at_ns <= mark_ns);
        let [before, after] = [after.saturating_sub(1), after.min(readings.len() - 1)];
        let (before, after) = (&readings[before], &readings[after]);
        let apart_ns = after.at_ns.saturating_sub(before.at_ns).max(1) as f64;
        let part = mark_ns.saturating_sub(before.at_ns) as f64 / apart_ns;
        let between = |index: usize| {
            let [first, second] = [before, after].map(|reading| reading.busy_ns[index] as f64);
            first + (second - first) * part.min(1.0)
        };
        (0..containers).map(between).collect()
    };
    let ends = (1..).map(|number| number * scenario.window_ns);
    let ends = ends.take_while(|end_ns| *end_ns <= scenario.duration_ns);
    let mut before = busy_at(0);
    let window = |end_ns| {
        let now = busy_at(end_ns);
        let of = now
            .iter()
            .zip(&before)
            .map(|(now, before)| (now - before).max(0.0) as u64);
        let busy_ns = of.collect();
        before = now;
        Window { end_ns, busy_ns }
    };
    ends.map(window).collect()
}

/// The axes of these, in the order of tables.
pub(crate) fn axes(outcomes: &[Outcome]) -> impl Iterator<Item = Axis> {
    let has = |axis: &Axis| {
        outcomes
            .iter()
            .any(|outcome| outcome.job.case.axis == *axis)
    };
    Axis::ALL.into_iter().filter(has)
}

#[cfg(test)]
mod tests {
    use super::*;
    use benches::evaluator::Container;

    #[test]
    fn windows_are_of_marks_though_readings_come_late() {
        let mut scenario =
            Scenario::new(gpu_sim::profile::MachineProfile::load(PROFILE).unwrap(), 30);
        scenario.window_ns = 10;
        scenario.containers = vec![Container::capped("a", 50.0)];
        let reading = |at_ns, busy_ns| Reading {
            at_ns,
            busy_ns: vec![busy_ns],
        };
        // Busy half of the time, looked at 2 late, then 5, then not at all until the end.
        let readings = [
            reading(0, 0),
            reading(12, 6),
            reading(25, 12),
            reading(30, 15),
        ];
        let windows = windows(&readings, &scenario);
        let busy: Vec<u64> = windows.iter().map(|window| window.busy_ns[0]).collect();
        let ends: Vec<u64> = windows.iter().map(|window| window.end_ns).collect();
        assert_eq!((ends, busy), (vec![10, 20, 30], vec![5, 4, 5]));
    }

    #[test]
    fn what_is_done_to_tenants_is_done_in_order() {
        let stops = cases(&["one of 1 ms is stopped for 3 s, caps".to_owned()]);
        let machine = gpu_sim::profile::MachineProfile::load(PROFILE).unwrap();
        let scenario = stops[0].scenario(machine);
        let times: Vec<u64> = deeds(&scenario)
            .iter()
            .map(|(at_ns, _)| at_ns / (1_000 * MS))
            .collect();
        assert_eq!(times, [5, 8]);
    }

    #[test]
    fn every_scenario_that_is_played_besides_is_there() {
        let cases = cases(&[]);
        let is_beside = |case: &&Case| !case.is_quick;
        assert_eq!(cases.iter().filter(is_beside).count(), 7);
    }
}
