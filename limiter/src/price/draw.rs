//! Which of a stream's launches are timed, once each kernel's first ones were: drawn, as a fixed stride locks onto the pattern of
//! slices, and the first launch after a pause is no fair sample: it tends to come at the beginning of a slice.
//!
//! What a launch stands behind is known if the end of that is watched. Of a launch on credit it is not: where that is drawn, its end
//! is watched, and the next one is timed.

/// When the pause is over, each launch is the timed one with this chance (one in so many).
const TIMED_OF_DUE: u64 = 8;

/// The launches of one stream, of which some are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    stage: Stage,
    random: u64,
}

/// How far a draw is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No timing is due, as far as was seen when a clock was last read.
    Early,
    /// One is due: each launch may be drawn.
    Due,
    /// The launch that is about to be made was drawn, and would have gone on credit.
    Drawn,
    /// The last one was.
    Next,
}

impl Draw {
    pub(super) fn new(random: u64) -> Self {
        Self {
            stage: Stage::Early,
            random: random | 1,
        }
    }

    /// Whether the next launch needs to be neither timed nor watched. Reads no clock.
    #[inline]
    pub(crate) fn passes(&mut self) -> bool {
        if self.stage == Stage::Due && self.is_drawn() {
            self.stage = Stage::Drawn;
        }
        matches!(self.stage, Stage::Early | Stage::Due)
    }

    /// The next launch is looked at: whether it is timed.
    pub(super) fn step(&mut self, is_due: bool) -> bool {
        let is_timed =
            self.stage == Stage::Next || self.stage != Stage::Drawn && is_due && self.is_drawn();
        self.stage = match self.stage {
            Stage::Drawn => Stage::Next,
            _ if is_due && !is_timed => Stage::Due,
            _ => Stage::Early,
        };
        is_timed
    }

    /// Whether no timing is due.
    #[cfg(test)]
    pub(crate) fn is_early(&self) -> bool {
        self.stage == Stage::Early
    }

    /// One launch in so many.
    fn is_drawn(&mut self) -> bool {
        self.random = xorshift(self.random);
        self.random.is_multiple_of(TIMED_OF_DUE)
    }
}

/// Marsaglia's xorshift64.
pub(super) fn xorshift(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    state
}
