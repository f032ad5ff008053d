//! Without limits: what a sequence does bare it does preloaded, status for status and call for call.

use super::{Failure, Fault, Patience, Sequence, Tally, Telling};
use crate::machine::Machine;
use crate::trace::Trace;
use crate::world::World;

fn observe(
    sequence: &Sequence,
    world: &World,
    patience: Patience,
) -> Result<(Vec<String>, Trace), Failure> {
    let machine = Machine::with_every_feature(2);
    let mut told = Telling::start(&machine, world, patience);
    let steps = sequence.steps().enumerate();
    let statuses = steps
        .map(|(at, step)| told.play(at, step))
        .collect::<Result<_, _>>()?;
    let outcome = told.player.end();
    assert!(outcome.status.success(), "{world:?}: {outcome:?}");
    Ok((statuses, machine.trace()))
}

/// Plays a sequence in both worlds.
pub(super) fn play(sequence: &Sequence, patience: Patience) -> Result<Tally, Failure> {
    let (bare, calls) = observe(sequence, &World::Bare, patience)?;
    let (preloaded, calls_preloaded) = observe(sequence, &World::Transparent, patience)?;
    let mut tally = Tally::default();
    for (at, step) in sequence.steps().enumerate() {
        if bare[at] != preloaded[at] {
            return Err(Failure {
                at,
                fault: Fault::Status,
                what: format!(
                    "{step}: status {} bare and {} preloaded",
                    bare[at], preloaded[at]
                ),
            });
        }
        tally.count(step, &bare[at]);
    }
    match calls.difference(&calls_preloaded) {
        None => Ok(tally),
        Some(what) => Err(Failure {
            at: bare.len(),
            fault: Fault::Trace,
            what,
        }),
    }
}
