//! What is judged: the limiter, the limiter without one of its mechanisms, and what others do.

use crate::evaluator::Policy;
use crate::evaluator::controllers::{
    BlockTokens, ExclusiveLease, Limited, Mechanism, Native, NvmlLoop, Step,
};

/// A controller of the evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The limiter, as it is.
    Limiter,
    /// The limiter without a mechanism.
    Without(Mechanism),
    /// No controller.
    Native,
    /// Tokens by the block, refilled as NVML says.
    BlockTokens(Step),
    /// Launches in a part of the time that NVML moves.
    NvmlLoop,
    /// The whole GPU to one process at a time, for 100 ms.
    ExclusiveLease,
}

impl Variant {
    /// What others do.
    pub const BASELINES: [Self; 5] = [
        Self::Native,
        Self::BlockTokens(Step::Quadratic),
        Self::BlockTokens(Step::Linear),
        Self::NvmlLoop,
        Self::ExclusiveLease,
    ];

    /// The limiter without each of its mechanisms.
    pub const ABLATIONS: [Self; 4] = [
        Self::Without(Mechanism::Board),
        Self::Without(Mechanism::Prices),
        Self::Without(Mechanism::Draw),
        Self::Without(Mechanism::Relearning),
    ];

    /// Its controllers for one run.
    ///
    /// # Errors
    /// There is no place for the limiter's state.
    pub fn policy(self, seed: u64) -> std::io::Result<Box<dyn Policy>> {
        Ok(match self {
            Self::Limiter => Box::new(Limited::new(seed)?),
            Self::Without(mechanism) => Box::new(Limited::new(seed)?.without(mechanism)),
            Self::Native => Box::new(Native),
            Self::BlockTokens(step) => Box::new(BlockTokens::new(step)),
            Self::NvmlLoop => Box::new(NvmlLoop::default()),
            Self::ExclusiveLease => Box::new(ExclusiveLease::new(100_000_000)),
        })
    }

    /// As tables say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Limiter => "cuda-hook",
            Self::Without(Mechanism::Board) => "without a shared board",
            Self::Without(Mechanism::Prices) => "one price for all kernels",
            Self::Without(Mechanism::Draw) => "every eighth launch timed",
            Self::Without(Mechanism::Relearning) => "the first launches timed only",
            Self::Native => "native",
            Self::BlockTokens(Step::Quadratic) => "block tokens",
            Self::BlockTokens(Step::Linear) => "block tokens, linear step",
            Self::NvmlLoop => "NVML loop",
            Self::ExclusiveLease => "exclusive lease of 100 ms",
        }
    }
}
