//! Figures of a run, from the model's own books.

use super::case::{Case, Judgement, Wanted};
use super::row::Row;
use super::settings::Setting;
use super::variant::Variant;
use crate::evaluator::{Report, Scenario, quantile, run};
use std::ops::Range;

const MS: u64 = 1_000_000;
/// What comes before is not counted in means.
const SETTLED_NS: u64 = 2_000 * MS;
/// σ and settling are of windows of this length.
const WINDOW_NS: u64 = 100 * MS;
/// Jain's index is of this length.
const SECOND_NS: u64 = 1_000 * MS;
/// Settled is who is so near, as a part of the time, …
const SETTLED_WITHIN: f64 = 0.05;
/// … in every window for so long. What comes later is σ's to tell.
const SETTLED_FOR_NS: u64 = 500 * MS;

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Which.
    pub row: Row,
    /// In the row's unit.
    pub value: f64,
}

/// What a case, run once, answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Its figures.
    pub figures: Vec<Figure>,
    /// Part of the time that each container had.
    pub shares: Vec<f64>,
}

/// Runs a case in virtual time, and what it is compared with.
///
/// # Errors
/// The setting's board is not built in, or there is no place for the limiter's state.
pub fn judge(
    case: &Case,
    setting: &Setting,
    variant: Variant,
    seed: u64,
) -> Result<Judged, String> {
    let scenario = setting.scenario(case).map_err(failed)?;
    let play = |scenario: &Scenario, variant: Variant| {
        let mut policy = variant.policy(seed).map_err(failed)?;
        Ok(run(scenario, policy.as_mut()))
    };
    judge_by(case, Scenario { seed, ..scenario }, variant, &play)
}

/// Plays a case's scenario, and what it is compared with, by whatever means.
///
/// # Errors
/// That of `play`.
pub fn judge_by(
    case: &Case,
    scenario: Scenario,
    variant: Variant,
    play: &Play,
) -> Result<Judged, String> {
    let runs = Runs {
        case,
        scenario,
        play,
    };
    let report = play(&runs.scenario, variant)?;
    let figures = case
        .judged
        .iter()
        .map(|judgement| runs.figure(judgement, &report, variant))
        .collect::<Result<_, String>>()?;
    let containers = 0..case.containers.len();
    let shares = containers.map(|index| report.share(index, runs.settled()));
    Ok(Judged {
        figures,
        shares: shares.collect(),
    })
}

/// How a scenario is played under a controller.
pub type Play<'a> = dyn Fn(&Scenario, Variant) -> Result<Report, String> + 'a;

fn failed(failure: impl std::fmt::Display) -> String {
    failure.to_string()
}

/// A case and how it is played.
struct Runs<'a> {
    case: &'a Case,
    scenario: Scenario,
    play: &'a Play<'a>,
}

impl Runs<'_> {
    fn settled(&self) -> Range<u64> {
        SETTLED_NS..self.scenario.duration_ns
    }

    fn figure(
        &self,
        judgement: &Judgement,
        report: &Report,
        variant: Variant,
    ) -> Result<Figure, String> {
        let native = || match variant {
            Variant::Native => Ok(report.clone()),
            _ => (self.play)(&self.scenario, Variant::Native),
        };
        let busy_percent =
            |native: &Report| 100.0 * report.busy(self.settled()) / native.busy(self.settled());
        let (row, value) = match judgement {
            Judgement::Mean(row) => (*row, self.mean_points(report)),
            Judgement::Sigma => (Row::Sigma, self.sigma_points(report)),
            Judgement::Jain => (Row::Jain, self.jain(report)),
            Judgement::Stall => (Row::Stall, self.stall_ms(report)),
            Judgement::Settle {
                row,
                at_ns,
                until_ns,
                shares,
            } => (*row, settle_ms(report, *at_ns..*until_ns, shares)),
            Judgement::IdleUsed => (Row::IdleUsed, busy_percent(&native()?)),
            Judgement::LostContended => (Row::LostContended, 100.0 - busy_percent(&native()?)),
            Judgement::LostAlone => {
                let kernels = |report: &Report| report.processes[0].kernels as f64;
                let kept = kernels(report) / kernels(&native()?);
                (Row::LostAlone, 100.0 * (1.0 - kept))
            }
            Judgement::Watching => (Row::Watching, self.watching_percent(report)),
            Judgement::AddedP99 => (Row::AddedP99, self.added_p99_ms(report)?),
        };
        Ok(Figure { row, value })
    }

    /// Containers that are to get something, and what.
    fn wanted(&self) -> impl Iterator<Item = (usize, Wanted)> {
        let wanted = self.case.wanted.iter().copied().enumerate();
        wanted.filter(|(_, wanted)| *wanted != Wanted::Anything)
    }

    /// How far from it the container is that is furthest.
    fn mean_points(&self, report: &Report) -> f64 {
        let error = |(index, wanted)| match wanted {
            Wanted::Time(part) => report.share(index, self.settled()) - part,
            Wanted::Part(part) => report.part(index, self.settled()) - part,
            Wanted::Anything => 0.0,
        };
        let errors = self
            .wanted()
            .map(|container| 100.0 * error(container).abs());
        errors.fold(0.0, f64::max)
    }

    fn sigma_points(&self, report: &Report) -> f64 {
        let sigma = |(index, _)| 100.0 * report.sigma_of(index, self.settled(), WINDOW_NS);
        self.wanted().map(sigma).fold(0.0, f64::max)
    }

    fn watching_percent(&self, report: &Report) -> f64 {
        let times_ns = report.processes.iter().map(|process| process.helper_cpu_ns);
        100.0 * times_ns.max().unwrap_or(0) as f64 / self.scenario.duration_ns as f64
    }

    /// (Σx)² / (n Σx²) of what each container got of what it was to get, in the worst second (Jain, Chiu and Hawe 1984).
    fn jain(&self, report: &Report) -> f64 {
        let relative = |(index, wanted)| {
            let part = match wanted {
                Wanted::Time(part) | Wanted::Part(part) => part,
                Wanted::Anything => 1.0,
            };
            let shares = report.shares(index, self.settled(), SECOND_NS).into_iter();
            shares.map(|share| share / part).collect::<Vec<f64>>()
        };
        let relative: Vec<Vec<f64>> = self.wanted().map(relative).collect();
        let seconds = 0..relative.first().map_or(0, Vec::len);
        let index = |second: usize| {
            let of_second = || relative.iter().map(|shares| shares[second]);
            let squares: f64 = of_second().map(|share| share * share).sum();
            of_second().sum::<f64>().powi(2) / (relative.len() as f64 * squares)
        };
        seconds.map(index).fold(1.0, f64::min)
    }

    /// The longest wait of a launch for the controller, less the process's longest kernel divided by its container's share.
    fn stall_ms(&self, report: &Report) -> f64 {
        let plans = self.scenario.processes.iter().zip(&report.processes);
        let beyond_ns = plans
            .filter(|(plan, _)| self.case.wanted[plan.container] != Wanted::Anything)
            .map(|(plan, process)| {
                let container = &self.scenario.containers[plan.container];
                let share = container.cap_percent.unwrap_or(container.share_percent) / 100.0;
                process.held_ns_max as f64 - plan.program.work.longest_ns() as f64 / share
            });
        beyond_ns.fold(0.0, f64::max) / MS as f64
    }

    /// The first process's latencies beside those of the same process alone without a controller.
    fn added_p99_ms(&self, report: &Report) -> Result<f64, String> {
        let mut alone = self.scenario.clone();
        alone.processes.truncate(1);
        let alone = (self.play)(&alone, Variant::Native)?;
        let p99_ns = |report: &Report| quantile(&report.processes[0].latencies_ns, 0.99) as f64;
        Ok((p99_ns(report) - p99_ns(&alone)) / MS as f64)
    }
}

/// How long after the beginning of `range_ns` it is until every window has each share for a while; the whole range if it never is.
fn settle_ms(report: &Report, range_ns: Range<u64>, shares: &[Option<f64>]) -> f64 {
    let [window, hold] = [WINDOW_NS, SETTLED_FOR_NS].map(|ns| (ns / report.window_ns) as usize);
    let of_container = |(index, share): (usize, &Option<f64>)| {
        let share = (*share)?;
        let found = report.shares(index, range_ns.clone(), report.window_ns);
        let mean = |window: &[f64]| window.iter().sum::<f64>() / window.len() as f64;
        let means = found.windows(window).map(mean);
        Some(
            means
                .map(move |mean| (mean - share).abs() <= SETTLED_WITHIN)
                .collect::<Vec<bool>>(),
        )
    };
    let near: Vec<Vec<bool>> = shares.iter().enumerate().filter_map(of_container).collect();
    let windows = near.first().map_or(0, Vec::len);
    let are_near = |at: usize| near.iter().all(|near| near[at]);
    let holds = |from: &usize| (*from..windows.min(from + hold)).all(are_near);
    let settled = (0..windows).find(holds);
    match settled {
        Some(windows) => windows as f64 * report.window_ns as f64 / MS as f64,
        None => (range_ns.end - range_ns.start) as f64 / MS as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluator::Window;
    use gpu_sim::command::EngineUsage;

    /// Two containers' shares in percent, in windows of 10 ms.
    fn report(shares: impl Iterator<Item = [u64; 2]>) -> Report {
        let window = |(number, shares): (u64, [u64; 2])| Window {
            end_ns: number * 10 * MS,
            busy_ns: shares.map(|percent| percent * MS / 10).to_vec(),
        };
        Report {
            windows: (1..).zip(shares).map(window).collect(),
            window_ns: 10 * MS,
            engine: EngineUsage::default(),
            processes: Vec::new(),
            events: 0,
        }
    }

    #[test]
    fn settled_is_from_when_on_every_window_is_near_for_a_while() {
        // Far off for 150 ms, and again for 100 ms after 800.
        let is_off = |number: u64| number <= 115 || (181..=190).contains(&number);
        let shares = (1..=200).map(|number| if is_off(number) { [30, 60] } else { [60, 30] });
        let report = report(shares);
        let settled = |first, second| {
            let range = 1_000 * MS..2_000 * MS;
            settle_ms(&report, range, &[Some(first), second])
        };
        // A window that begins a little before is near enough.
        assert_eq!(settled(0.6, None), 140.0);
        assert_eq!(settled(0.6, Some(0.3)), 140.0);
        assert_eq!(settled(0.45, None), 1_000.0, "never");
        assert_eq!(settled(0.6, Some(0.6)), 1_000.0, "one never");
    }
}
