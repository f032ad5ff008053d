//! The experiments that make sense in real time, beside virtual time.
//!
//! The processes load `libcuda.so.1` and share the device process, as any CUDA program does. What they got is read from the
//! device's books.

use crate::driver::Nvml;
use crate::failed;
use benches::acceptance::{
    KERNEL_NS, NvmlFigures, QUEUE_KERNEL_NS, QueueExperiment, event_pairs_ns, nvml_figures,
    queue_experiment, shares, two,
};
use benches::evaluator::Program;
use benches::evaluator::controllers::Native;
use benches::table::{Table, microseconds, percent};
use gpu_sim::client::{Environment, Machine};
use gpu_sim::clock;
use gpu_sim::profile::MachineProfile;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

const S: u64 = 1_000_000_000;

/// Launches of the queue experiment in real time.
const QUEUE_LAUNCHES: usize = 3_000;

/// Launches that are timed by events.
const TIMED_LAUNCHES: usize = 1_000;

/// What two saturating tenants show.
struct Tenants {
    first_part: f64,
    busy: f64,
    nvml: NvmlFigures,
}

/// The table: virtual, real, and the difference.
pub(crate) fn compare(seconds: u64) -> Result<String, String> {
    let environment = Environment::from_process();
    let machine = MachineProfile::load(&environment.profile).map_err(failed)?;
    let tenants = [
        virtual_tenants(&machine),
        real_tenants(&environment, seconds)?,
    ];
    let queues = [queue_experiment(machine.clone()), real_queue()?];
    let alone = [
        event_pairs_ns(machine.clone(), KERNEL_NS, 0),
        real_event_pairs(0)?,
    ];
    let beside = [event_pairs_ns(machine, KERNEL_NS, 1), real_event_pairs(1)?];
    let mut table = Table::new(&["experiment", "virtual time", "real time", "difference"]);
    parts(
        &mut table,
        "two tenants: part of the first",
        tenants.each_ref().map(|both| both.first_part),
    );
    parts(
        &mut table,
        "… engine busy",
        tenants.each_ref().map(|both| both.busy),
    );
    parts(
        &mut table,
        "… NVML's mean of the first",
        tenants.each_ref().map(|both| both.nvml.mean),
    );
    parts(
        &mut table,
        "… its σ from second to second",
        tenants.each_ref().map(|both| both.nvml.sigma),
    );
    times(
        &mut table,
        "a launch of 190 µs, median",
        queues.map(|queue| queue.fast_ns_median),
    );
    let [virtual_launches, real_launches] = queues.map(|queue| queue.fast_launches);
    table.row(&[
        "… launches before one waits",
        &virtual_launches.to_string(),
        &real_launches.to_string(),
        &format!("{:+}", real_launches as i64 - virtual_launches as i64),
    ]);
    times(
        &mut table,
        "… and then each takes",
        queues.map(|queue| queue.slow_ns_mean),
    );
    times(&mut table, "event pair around 1.25 ms, alone", alone);
    times(&mut table, "… beside a saturating tenant", beside);
    Ok(format!(
        "Simulated {}; {seconds} s of two tenants in real time.\n\n{}",
        environment.profile,
        table.into_text()
    ))
}

fn parts(table: &mut Table, what: &str, [in_virtual, in_real]: [f64; 2]) {
    let points = (in_real - in_virtual) * 100.0;
    table.row(&[
        what,
        &percent(in_virtual),
        &percent(in_real),
        &format!("{points:+.1} points"),
    ]);
}

fn times(table: &mut Table, what: &str, [in_virtual, in_real]: [u64; 2]) {
    let change = (in_real as f64 / in_virtual as f64 - 1.0) * 100.0;
    table.row(&[
        what,
        &microseconds(in_virtual),
        &microseconds(in_real),
        &format!("{change:+.1} %"),
    ]);
}

fn virtual_tenants(machine: &MachineProfile) -> Tenants {
    let scenario = two(machine.clone(), [50.0; 2], [KERNEL_NS; 2], 60 * S);
    let shares = shares(&scenario, &mut Native);
    Tenants {
        first_part: shares.first_part,
        busy: shares.busy,
        nvml: nvml_figures(machine.clone(), &Program::saturating(KERNEL_NS), 2),
    }
}

/// A process of ours, killed when this is dropped.
struct Player {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Player {
    fn start(role: &[&str]) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .arg("play")
            .args(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let answers = child.stdout.take().ok_or("no pipe to a process of ours")?;
        Ok(Self {
            child,
            answers: BufReader::new(answers),
        })
    }

    /// A saturating tenant that waits to begin.
    fn tenant() -> Result<Self, String> {
        let mut player = Self::start(&["saturate", &KERNEL_NS.to_string()])?;
        let mut line = String::new();
        player.answers.read_line(&mut line).map_err(failed)?;
        match line.as_str() {
            "ready\n" => Ok(player),
            _ => Err("a tenant ended before it was ready".to_owned()),
        }
    }

    fn begin(&mut self) -> Result<(), String> {
        let stdin = self
            .child
            .stdin
            .as_mut()
            .ok_or("no pipe to a process of ours")?;
        writeln!(stdin, "begin").map_err(failed)
    }

    /// The numbers that it prints before it ends.
    fn numbers(mut self) -> Result<Vec<u64>, String> {
        let mut text = String::new();
        self.answers.read_to_string(&mut text).map_err(failed)?;
        text.split_whitespace()
            .map(|number| number.parse().map_err(failed))
            .collect()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn real_tenants(environment: &Environment, seconds: u64) -> Result<Tenants, String> {
    let mut players = [Player::tenant()?, Player::tenant()?];
    let machine = Machine::observe(environment).map_err(failed)?;
    let machine = machine.ok_or("the simulated device is gone")?;
    let nvml = Nvml::open()?;
    let pids = players.each_ref().map(|player| player.child.id());
    let busy_ns = || {
        let rows = machine.usage().map_err(failed)?;
        Ok::<_, String>(pids.map(|pid| {
            let own = rows.iter().filter(|row| row.pid == pid && row.alive);
            own.map(|row| row.gpu_busy_ns_total).sum::<u64>()
        }))
    };
    players.iter_mut().try_for_each(Player::begin)?;
    let mut at_ns = clock::monotonic_ns() + S; // settled by then
    clock::sleep_until(at_ns).map_err(failed)?;
    let (from_ns, before_ns) = (clock::monotonic_ns(), busy_ns()?);
    let mut percent = Vec::new();
    for _ in 0..seconds {
        at_ns += S;
        clock::sleep_until(at_ns).map_err(failed)?;
        let since_us = (clock::realtime_ns() - S) / 1_000;
        percent.push(nvml.utilization(pids[0], since_us)?.unwrap_or(0));
    }
    let (to_ns, after_ns) = (clock::monotonic_ns(), busy_ns()?);
    let wall_ns = (to_ns - from_ns) as f64;
    let [first, second] = [0, 1].map(|index| (after_ns[index] - before_ns[index]) as f64);
    Ok(Tenants {
        first_part: first / (first + second),
        busy: (first + second) / wall_ns,
        nvml: NvmlFigures::of(first / wall_ns, &percent),
    })
}

fn real_queue() -> Result<QueueExperiment, String> {
    let role = [
        "queue",
        &QUEUE_KERNEL_NS.to_string(),
        &QUEUE_LAUNCHES.to_string(),
    ];
    let took_ns = Player::start(&role)?.numbers()?;
    Ok(QueueExperiment::of(&took_ns, QUEUE_KERNEL_NS))
}

fn real_event_pairs(others: usize) -> Result<u64, String> {
    let tenants: Result<Vec<Player>, String> = (0..others).map(|_| Player::tenant()).collect();
    let mut tenants = tenants?;
    tenants.iter_mut().try_for_each(Player::begin)?;
    let role = ["time", &KERNEL_NS.to_string(), &TIMED_LAUNCHES.to_string()];
    let times_ns = Player::start(&role)?.numbers()?;
    Ok(times_ns.iter().sum::<u64>() / times_ns.len().max(1) as u64)
}
