//! The scenarios, declared.

mod faults;
mod lengths;
mod programs;
mod tenants;

use super::case::{Axis, Case, Judgement, Wanted};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// Every scenario.
pub fn matrix() -> Vec<Case> {
    [lengths::cases(), programs::cases(), faults::cases()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::row::Row;
    use std::collections::BTreeSet;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_is_asked_something() {
        let cases = matrix();
        let names: BTreeSet<_> = cases.iter().map(|case| (case.axis, &case.name)).collect();
        assert_eq!(names.len(), cases.len());
        for case in &cases {
            assert!(!case.judged.is_empty(), "{}", case.name);
            assert_eq!(case.wanted.len(), case.containers.len());
        }
        assert!(cases.len() >= 200, "{}", cases.len());
    }

    #[test]
    fn every_row_is_asked_of_some_scenario() {
        let cases = matrix();
        let asked = |row: Row| {
            let mut judgements = cases.iter().flat_map(|case| &case.judged);
            judgements.any(|judgement| match judgement {
                Judgement::Mean(of) | Judgement::Settle { row: of, .. } => *of == row,
                Judgement::Sigma => row == Row::Sigma,
                Judgement::Jain => row == Row::Jain,
                Judgement::Stall => row == Row::Stall,
                Judgement::IdleUsed => row == Row::IdleUsed,
                Judgement::AddedP99 => row == Row::AddedP99,
                Judgement::LostAlone => row == Row::LostAlone,
                Judgement::LostContended => row == Row::LostContended,
                Judgement::Watching => row == Row::Watching,
            })
        };
        assert_eq!(Row::ALL.into_iter().find(|row| !asked(*row)), None);
    }
}
