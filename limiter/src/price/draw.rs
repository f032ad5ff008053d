//! Which launches are timed: where a process uses several streams, some in a row on each of them at about the same time, so that what
//! runs beside the middle ones is seen.
//!
//! Which of a stream's launches are timed, once each kernel's first ones were: drawn, as a fixed stride locks onto the pattern of
//! slices, and the first launch after a pause is no fair sample: it tends to come at the beginning of a slice.
//!
//! What a launch stands behind is known if the end of that is watched. Of a launch on credit it is not: where that is drawn, its end
//! is watched, and the next one is timed.

/// When the pause is over, each launch is the timed one with this chance (one in so many).
const TIMED_OF_DUE: u64 = 8;

/// Launches in a row that a group has on each stream: while the middle one runs, that of another stream is one of the group, too.
const GROUP: u8 = 3;

/// The launches of one stream, of which some are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    stage: Stage,
    random: u64,
    /// Tells it from others'.
    stream: u64,
    /// The last group of timings that it took part in, or had not to.
    group: u64,
    /// Whether all that runs beside the launch that was stepped to last is timed.
    sees_beside: bool,
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
    /// The next so many are timed, in a group.
    Group(u8),
}

impl Draw {
    pub(super) fn new(random: u64, group: u64) -> Self {
        Self {
            stage: Stage::Early,
            random: random | 1,
            stream: random,
            group,
            sees_beside: false,
        }
    }

    pub(super) fn stream(&self) -> u64 {
        self.stream
    }

    /// Whether what is timed of other streams tells what runs beside the launch that was stepped to last.
    pub(crate) fn sees_beside(&self) -> bool {
        self.sees_beside
    }

    /// A launch is timed, whatever was drawn.
    pub(super) fn step_by(&mut self, sees_beside: bool) {
        self.sees_beside = sees_beside;
    }

    /// The launch that was stepped to is the first one of this group.
    pub(super) fn begin(&mut self, group: u64) {
        self.group = group.wrapping_sub(1);
        self.step_in(group);
    }

    /// Whether the next launch needs to be neither timed nor watched. Reads no clock.
    #[inline]
    pub(crate) fn passes(&mut self, group: u64) -> bool {
        if self.group != group {
            return false;
        }
        if self.stage == Stage::Due && self.is_drawn() {
            self.stage = Stage::Drawn;
        }
        matches!(self.stage, Stage::Early | Stage::Due)
    }

    /// The next launch is looked at: whether it is timed as one of this group, which is the latest.
    pub(super) fn step_in(&mut self, group: u64) -> bool {
        if self.group != group {
            self.group = group;
            self.stage = Stage::Group(GROUP);
        }
        let Stage::Group(left) = self.stage else {
            return false;
        };
        let rest = left.saturating_sub(1);
        self.stage = if rest > 0 {
            Stage::Group(rest)
        } else {
            Stage::Early
        };
        self.sees_beside = rest == GROUP / 2;
        true
    }

    /// The next launch is looked at, and is none of a group: whether it is timed.
    pub(super) fn step(&mut self, is_due: bool) -> bool {
        let is_timed =
            self.stage == Stage::Next || self.stage != Stage::Drawn && is_due && self.is_drawn();
        self.stage = match self.stage {
            Stage::Drawn => Stage::Next,
            _ if is_due && !is_timed => Stage::Due,
            _ => Stage::Early,
        };
        self.sees_beside = is_timed;
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
