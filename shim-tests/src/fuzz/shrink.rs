//! The shortest sequence that still fails in the same way.

use super::{Failure, Sequence, Step, Tally};

/// How often a sequence is played to shorten it.
const ATTEMPTS_MAX: usize = 120;

/// Leaves out what a failure does not need: all after it, then halves, quarters and so on of the rest.
pub(super) fn shortest(
    sequence: &Sequence,
    failure: &Failure,
    play: impl Fn(&Sequence) -> Result<Tally, Failure>,
) -> (Sequence, Failure) {
    let mut shortest = sequence.clone();
    shortest.body.truncate(failure.at.saturating_add(1));
    let mut last = failure.clone();
    let one_by_one = without_concurrency(&shortest);
    if let Some(still) = failure_like(failure, play(&one_by_one)) {
        (shortest, last) = (one_by_one, still);
    }
    let mut attempts = 0;
    let mut part = shortest.body.len().div_ceil(2);
    loop {
        let mut start = 0;
        while start < shortest.body.len() && attempts < ATTEMPTS_MAX {
            attempts += 1;
            let mut without = shortest.clone();
            without
                .body
                .drain(start..shortest.body.len().min(start + part));
            match failure_like(failure, play(&without)) {
                Some(still) => {
                    shortest = without;
                    shortest.body.truncate(still.at.saturating_add(1));
                    last = still;
                }
                None => start += part,
            }
        }
        if part <= 1 || attempts == ATTEMPTS_MAX {
            return (shortest, last);
        }
        part = part.div_ceil(2);
    }
}

/// The same calls, none beside another.
fn without_concurrency(sequence: &Sequence) -> Sequence {
    let calls = sequence.body.iter().flat_map(|step| &step.0);
    Sequence {
        body: calls.map(|call| Step(vec![call.clone()])).collect(),
        end: sequence.end.clone(),
    }
}

/// What a sequence came to, if that is the same fault.
fn failure_like(failure: &Failure, played: Result<Tally, Failure>) -> Option<Failure> {
    played.err().filter(|still| still.fault == failure.fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Fault;

    fn sequence(names: &[&str]) -> Sequence {
        Sequence {
            body: names.iter().map(|name| Step::one(0, name)).collect(),
            end: Vec::new(),
        }
    }

    /// Fails at `b` where an `a` came before it.
    fn play(sequence: &Sequence) -> Result<Tally, Failure> {
        let is = |step: &Step, name| step.0[0].ends_with(name);
        let mut steps = sequence.body.iter().enumerate();
        let failing = steps
            .find(|(_, step)| is(step, "a"))
            .and_then(|_| steps.find(|(_, step)| is(step, "b")));
        failing.map_or(Ok(Tally::default()), |(at, _)| {
            Err(Failure {
                at,
                fault: Fault::Status,
                what: "b after a".to_owned(),
            })
        })
    }

    #[test]
    fn only_what_a_failure_needs_is_left() {
        let long = sequence(&["x", "b", "x", "a", "x", "x", "a", "x", "b", "x", "b"]);
        let failure = play(&long).expect_err("it fails");
        assert_eq!(failure.at, 8);
        let (short, last) = shortest(&long, &failure, play);
        assert_eq!(short, sequence(&["a", "b"]));
        assert_eq!(last.at, 1);
    }
}
