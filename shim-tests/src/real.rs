//! A real driver beside the simulated one, and beside itself behind the preload: `scripts/test-real`.

use crate::build::{Door, program};
use crate::child::{self, Outcome};
use crate::machine::Machine;
use crate::trace::Trace;
use crate::world::World;
use std::path::Path;

/// What one comparison came to.
#[derive(Debug)]
pub struct Comparison {
    /// What was compared, for a person to read.
    pub what: String,
    /// Where the two differ; nothing if they are the same.
    pub difference: Option<String>,
}

/// Why there is no real GPU to compare with; nothing if there is one.
pub fn absence() -> Option<String> {
    let found =
        child::run(&mut Machine::real().command(&World::Bare, program("driver", Door::Dlopen)));
    let facts: Vec<&str> = found.stdout.lines().collect();
    match facts[..] {
        [path, _, _] if is_simulation(path) => Some(format!("{path} is the simulation")),
        [_, "0", devices] if devices != "0" => None,
        [path, status, devices] => Some(format!(
            "{path} answers with status {status} and {devices} devices"
        )),
        _ => Some(found.stderr.trim_end().to_owned()),
    }
}

/// The simulated libraries lie beside their device, wherever they are.
fn is_simulation(driver: &str) -> bool {
    Path::new(driver).with_file_name("gpu-sim-device").exists()
}

/// Compares, door by door: the statuses of a real driver with the simulated one's, and what a program sees of a real driver
/// behind the preload without limits with what it sees without; at last, whether a quota holds.
pub fn comparisons(doors: Vec<Door>) -> impl Iterator<Item = Comparison> {
    let by_door = doors
        .into_iter()
        .flat_map(|door| [statuses(door), transparency(door)]);
    by_door.chain(std::iter::once_with(quota))
}

fn statuses(door: Door) -> Comparison {
    let [simulated, real] = [Machine::new(), Machine::real()].map(|machine| {
        let outcome = body(&machine, &World::Bare, door);
        let answers = |line: &&str| line.starts_with("cu") || line.starts_with("nvml");
        outcome
            .lines()
            .into_iter()
            .filter(answers)
            .collect::<Trace>()
    });
    Comparison {
        what: format!("{}: statuses, simulated and real", door.name()),
        difference: simulated.difference(&real),
    }
}

fn transparency(door: Door) -> Comparison {
    let machine = Machine::real();
    let [bare, transparent] = [World::Bare, World::Transparent].map(|world| {
        body(&machine, &world, door)
            .lines()
            .into_iter()
            .collect::<Trace>()
    });
    Comparison {
        what: format!("{}: without and with the preload", door.name()),
        difference: bare.difference(&transparent),
    }
}

/// Neither a context nor the program's first allocation, of 3 MiB and a byte, fits into this quota.
fn quota() -> Comparison {
    let world = World::memory("real", "1MiB");
    let outcome = body(&Machine::real(), &world, Door::Linked);
    let answers = outcome
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("cu"));
    let answers: Vec<&str> = answers.collect();
    let refused = answers.iter().any(|answer| answer.ends_with(" 2"));
    let granted = answers.contains(&"cuMemAlloc_v2 0");
    Comparison {
        what: "what a quota of 1 MiB has to refuse, and what it refuses".to_owned(),
        difference: (!refused || granted).then(|| format!("{answers:#?}")),
    }
}

fn body(machine: &Machine, world: &World, door: Door) -> Outcome {
    child::run(
        machine
            .command(world, program("body", door))
            .arg(door.name()),
    )
}
