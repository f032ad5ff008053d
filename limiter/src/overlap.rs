//! What ran beside a launch: launches of one context on several streams occupy the GPU together, once.

use std::collections::VecDeque;

/// So many spans are remembered: more than are timed at about the same time.
const SPANS_MAX: usize = 64;

/// From a launch's beginning to its end, by the device's clock, in ns since any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub begin_ns: i64,
    /// When it ended, or a later time while it runs.
    pub end_ns: i64,
}

/// When the launches of a context ran that were timed last.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    ended: VecDeque<Span>,
}

impl Spans {
    /// A launch has ended.
    pub fn push(&mut self, span: Span) {
        if self.ended.len() >= SPANS_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(span);
    }

    /// The part of an ended launch's `span`, in ns, that is its own if every moment is divided equally among the launches that ran: those
    /// that have ended, it among them, and those that are `running`. A launch that is not known of takes no part: then the others' are too large.
    ///
    /// The parts of all launches together are the time in which at least one ran.
    pub fn part_ns(&self, span: Span, running: &[Span]) -> u64 {
        if span.end_ns <= span.begin_ns {
            return 0; // shorter than its way from the host was thought to be
        }
        let others = self
            .ended
            .iter()
            .chain(running)
            .filter(|other| other.begin_ns < span.end_ns && other.end_ns > span.begin_ns);
        let mut edges: Vec<(i64, Edge)> = others
            .flat_map(|other| {
                let begin_ns = other.begin_ns.max(span.begin_ns);
                let end_ns = other.end_ns.min(span.end_ns);
                [(begin_ns, Edge::Begin), (end_ns, Edge::End)]
            })
            .collect();
        edges.sort_unstable();
        let (mut part_ns, mut at_ns, mut running) = (0_u64, span.begin_ns, 0_u64);
        for (edge_ns, edge) in edges {
            let piece_ns = edge_ns.abs_diff(at_ns);
            part_ns = part_ns.saturating_add(piece_ns.div_ceil(running.max(1)));
            at_ns = edge_ns;
            running = match edge {
                Edge::Begin => running.saturating_add(1),
                Edge::End => running.saturating_sub(1),
            };
        }
        part_ns.saturating_add(span.end_ns.abs_diff(at_ns))
    }
}

/// Where the number of launches that run changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Begin,
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(begin_ns: i64, end_ns: i64) -> Span {
        Span { begin_ns, end_ns }
    }

    fn spans(ended: &[Span]) -> Spans {
        let mut spans = Spans::default();
        ended.iter().for_each(|span| spans.push(*span));
        spans
    }

    #[test]
    fn a_launch_that_ran_by_itself_has_all_of_its_time() {
        let alone = span(-100, 200);
        let spans = spans(&[span(-400, -150), alone, span(200, 300)]);
        assert_eq!(spans.part_ns(alone, &[span(200, 900)]), 300);
    }

    #[test]
    fn every_moment_is_divided_among_those_that_ran() {
        let all = [span(0, 400), span(0, 100), span(50, 200)];
        let parts = all.map(|span| spans(&all).part_ns(span, &[]));
        assert_eq!(parts, [25 + 17 + 50 + 200, 25 + 17, 17 + 50]);
    }

    #[test]
    fn one_that_has_not_ended_takes_part() {
        let ended = span(0, 400);
        assert_eq!(spans(&[ended]).part_ns(ended, &[span(200, 9_000)]), 300);
    }

    #[test]
    fn the_parts_of_all_are_the_time_in_which_one_ran() {
        let all: Vec<Span> = (0..40)
            .map(|number| span(number * 37 % 101, 101 + number * 53 % 211))
            .collect();
        let sum: u64 = all.iter().map(|one| spans(&all).part_ns(*one, &[])).sum();
        let begin_ns = all.iter().map(|one| one.begin_ns).min().unwrap();
        let end_ns = all.iter().map(|one| one.end_ns).max().unwrap();
        let united_ns = u64::try_from(end_ns - begin_ns).unwrap();
        assert!(
            (united_ns..united_ns + 2_000).contains(&sum),
            "{sum} of {united_ns}"
        );
    }

    #[test]
    fn no_more_is_remembered_than_is_of_use() {
        let spans = spans(&[span(0, 10); 3 * SPANS_MAX]);
        assert_eq!(spans.ended.len(), SPANS_MAX);
    }
}
