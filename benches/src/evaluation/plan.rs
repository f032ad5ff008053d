//! What is run, by several threads.

use super::case::Case;
use super::figures::{Judged, judge};
use super::settings::{SETTINGS, Setting};
use super::variant::Variant;
use super::{SEED_FIRST, matrix};
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Why a job is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The limiter in every scenario.
    Matrix,
    /// The limiter where parameters of the model are others.
    Sweep,
    /// The limiter without a mechanism, and what others do.
    Comparison,
}

/// One case under one setting, controller and seed.
#[derive(Clone, Debug)]
pub struct Job {
    /// Why.
    pub part: Part,
    /// Which scenario.
    pub case: Case,
    /// The model's parameters.
    pub setting: Setting,
    /// The controller.
    pub variant: Variant,
    /// Of everything random.
    pub seed: u64,
}

/// A job and what came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was run.
    pub job: Job,
    /// Its answers.
    pub judged: Judged,
}

/// Everything that is run: the matrix with so many seeds, the sweep with as many, ablations and baselines with one. Quick: a part of the
/// matrix with one seed.
pub fn jobs(seeds: u64, is_quick: bool) -> Vec<Job> {
    let cases = matrix();
    let job = |part, case: &Case, setting: &Setting, variant, seed| Job {
        part,
        case: case.clone(),
        setting: *setting,
        variant,
        seed,
    };
    let mut jobs = Vec::new();
    let default = &SETTINGS[0];
    if is_quick {
        let quick = cases.iter().filter(|case| case.is_quick);
        jobs.extend(
            quick.map(|case| job(Part::Matrix, case, default, Variant::Limiter, SEED_FIRST)),
        );
        return jobs;
    }
    let representative = || cases.iter().filter(|case| case.is_representative);
    for seed in SEED_FIRST..SEED_FIRST + seeds {
        for case in &cases {
            jobs.push(job(Part::Matrix, case, default, Variant::Limiter, seed));
        }
        for case in representative() {
            let swept = &SETTINGS[1..];
            jobs.extend(
                swept
                    .iter()
                    .map(|setting| job(Part::Sweep, case, setting, Variant::Limiter, seed)),
            );
        }
    }
    for case in representative() {
        let variants = Variant::ABLATIONS.into_iter().chain(Variant::BASELINES);
        jobs.extend(
            variants.map(|variant| job(Part::Comparison, case, default, variant, SEED_FIRST)),
        );
    }
    jobs
}

/// The limiter in the scenarios whose names contain one of these.
pub fn only(jobs: Vec<Job>, texts: &[String]) -> Vec<Job> {
    let is_asked = |job: &Job| {
        job.part == Part::Matrix && texts.iter().any(|text| job.case.name.contains(text))
    };
    jobs.into_iter().filter(is_asked).collect()
}

/// Runs them on as many threads as there are processors; `told` is called after each, with how many there were. In the order of the jobs.
///
/// # Errors
/// One of them could not be run.
pub fn run_jobs(jobs: Vec<Job>, told: impl Fn(usize) + Sync) -> Result<Vec<Outcome>, String> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let outcomes = Mutex::new(Vec::new());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(number) else { break };
            let judged = judge(&job.case, &job.setting, job.variant, job.seed);
            let outcome = judged.map(|judged| Outcome {
                job: job.clone(),
                judged,
            });
            let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            outcomes.push((number, outcome));
            drop(outcomes);
            told(done.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(number, _)| *number);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}
