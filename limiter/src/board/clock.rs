//! A clock that runs at the speed at which one of the busy processes gets the GPU: `dV/dt = 1 / n_busy`.
//!
//! It stands on the board, and whoever begins, ends or looks reads it, which counts the time since it was last read: so no change in
//! the number of the busy falls between two readings. It is set by compare-and-swap: who dies in between takes the time of one reading
//! with it. What is wrong here costs accuracy, and limits nobody.

use super::{Board, HEARTBEAT_NS_MAX};
use crate::sync::Ordering;
use crate::units::MonotonicNs;

/// Corners that a process remembers.
const POINTS: usize = 512;
/// Readings that are so near a straight line are on it: the clock shows whole nanoseconds.
const STRAIGHT_NS: u64 = 2;

impl Board {
    /// What the clock shows, in ns.
    pub(crate) fn virtual_ns(&self, now: MonotonicNs) -> u64 {
        let clock = &self.seat.file.clock;
        let at_ns = clock.at_ns.load(Ordering::Acquire);
        // Later than that nobody can have read it: the host's clock began anew.
        let is_anew = at_ns == 0 || at_ns > now.get().saturating_add(HEARTBEAT_NS_MAX);
        let since_ns = now.get().saturating_sub(at_ns);
        if since_ns > 0 || is_anew {
            let n_busy = u64::from(self.n_busy(now).max(1));
            let read =
                clock
                    .at_ns
                    .compare_exchange(at_ns, now.get(), Ordering::AcqRel, Ordering::Relaxed);
            if read.is_ok() && at_ns == 0 {
                // From somewhere on, so that there is a before.
                clock.virtual_ns.fetch_max(now.get(), Ordering::AcqRel);
            } else if read.is_ok() && !is_anew {
                let own_ns = since_ns.checked_div(n_busy).unwrap_or(since_ns);
                clock.virtual_ns.fetch_add(own_ns, Ordering::AcqRel);
            }
        }
        clock.virtual_ns.load(Ordering::Acquire)
    }
}

/// What a process has read off the clock: straight between two readings.
#[derive(Debug)]
pub(crate) struct Readings {
    /// Until then nobody else was busy.
    first: Point,
    /// In time order, as a ring that ends before `next`; the last two may be of a line that goes on. None until the clock is read again, which
    /// is at the first launch under a share: most processes never have one.
    points: Box<[Point]>,
    next: usize,
}

/// When it showed what.
#[derive(Clone, Copy, Debug)]
struct Point {
    at_ns: u64,
    virtual_ns: u64,
}

impl Point {
    /// One nanosecond before, on a clock of one.
    fn before(self) -> Self {
        Self {
            at_ns: self.at_ns.saturating_sub(1),
            virtual_ns: self.virtual_ns.saturating_sub(1),
        }
    }
}

impl Readings {
    /// The first.
    pub(crate) fn new(now: MonotonicNs, virtual_ns: u64) -> Self {
        let at_ns = now.get();
        Self {
            first: Point { at_ns, virtual_ns },
            points: Box::default(),
            next: 0,
        }
    }

    /// The clock shows this now.
    pub(crate) fn add(&mut self, now: MonotonicNs, virtual_ns: u64) {
        let point = Point {
            at_ns: now.get(),
            virtual_ns,
        };
        let (Some(older), Some(last)) = (self.last(2), self.last(1)) else {
            return;
        };
        if point.at_ns <= last.at_ns {
            return;
        }
        if self.points.is_empty() {
            self.points = vec![self.first; POINTS].into_boxed_slice();
            self.push(older);
            self.push(last);
        }
        let line = Line(older, point);
        if line.at(last.at_ns).abs_diff(last.virtual_ns) <= STRAIGHT_NS {
            self.next = self.place(1);
        }
        self.push(point);
    }

    /// Virtual nanoseconds between two moments: the part that one of the busy processes had of them.
    pub(crate) fn between(&self, begin: MonotonicNs, end: MonotonicNs) -> u64 {
        self.at(end.get()).saturating_sub(self.at(begin.get()))
    }

    fn push(&mut self, point: Point) {
        if let Some(place) = self.points.get_mut(self.next) {
            *place = point;
        }
        self.next = self.next.saturating_add(1).checked_rem(POINTS).unwrap_or(0);
    }

    fn place(&self, back: usize) -> usize {
        let next = self.next.saturating_add(POINTS).saturating_sub(back);
        next.checked_rem(POINTS).unwrap_or(0)
    }

    fn last(&self, back: usize) -> Option<Point> {
        if self.points.is_empty() {
            return match back {
                1 => Some(self.first),
                2 => Some(self.first.before()),
                _ => None,
            };
        }
        self.points.get(self.place(back)).copied()
    }

    /// Before the oldest reading and after the last, the speed is that of its neighbours.
    fn at(&self, at_ns: u64) -> u64 {
        let pairs = (2..=POINTS).filter_map(|back| {
            let line = Line(self.last(back)?, self.last(back.saturating_sub(1))?);
            (line.0.at_ns < line.1.at_ns).then_some(line)
        });
        let mut found = None;
        for line in pairs {
            found = Some(line);
            if line.0.at_ns <= at_ns {
                break;
            }
        }
        found.map_or(0, |line| line.at(at_ns))
    }
}

/// Through two points, the earlier first.
#[derive(Clone, Copy)]
struct Line(Point, Point);

impl Line {
    fn at(&self, at_ns: u64) -> u64 {
        let Self(first, second) = self;
        let rise = |ns: u64| {
            let virtual_ns = u128::from(second.virtual_ns.saturating_sub(first.virtual_ns));
            let length_ns = u128::from(second.at_ns.saturating_sub(first.at_ns));
            let risen = u128::from(ns).saturating_mul(virtual_ns);
            u64::try_from(risen.checked_div(length_ns).unwrap_or(0)).unwrap_or(u64::MAX)
        };
        match at_ns.checked_sub(first.at_ns) {
            Some(since_ns) => first.virtual_ns.saturating_add(rise(since_ns)),
            None => first
                .virtual_ns
                .saturating_sub(rise(first.at_ns.saturating_sub(at_ns))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::DeviceUuid;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs::new(10_000 * MS + ms * MS)
    }

    fn boards<const N: usize>(dir: &tempfile::TempDir) -> [Board; N] {
        let gpu = DeviceUuid::from_bytes([7; 16]);
        [(); N].map(|()| Board::attach(dir.path(), gpu).unwrap())
    }

    #[test]
    fn the_clock_gives_each_of_the_busy_its_part_whenever_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two, three] = boards(&dir);
        let begin = three.virtual_ns(at(0));
        one.set_busy(at(0));
        two.set_busy(at(10));
        two.set_idle(at(30));
        one.set_idle(at(31));
        // 10 alone, 20 of two, 1 alone, and then of nobody.
        assert_eq!(three.virtual_ns(at(40)) - begin, 30 * MS);
        assert_eq!(
            one.virtual_ns(at(35)) - begin,
            30 * MS,
            "who comes late reads no less"
        );
    }

    #[test]
    fn a_clock_from_before_a_reboot_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = boards(&dir);
        one.set_busy(at(3_600_000));
        let before = one.virtual_ns(at(3_600_001));
        assert_eq!(two.virtual_ns(at(0)), before);
        assert_eq!(two.virtual_ns(at(5)), before + 5 * MS);
    }

    /// Readings at these times, each after the one before, of a clock with so many busy until then.
    fn readings(pieces: impl IntoIterator<Item = (u64, u64)>) -> Readings {
        let (mut now_ns, mut virtual_ns) = (at(0).get(), 7);
        let mut readings = Readings::new(at(0), virtual_ns);
        for (until, n_busy) in pieces {
            virtual_ns += (until - now_ns) / n_busy;
            now_ns = until;
            readings.add(MonotonicNs::new(now_ns), virtual_ns);
        }
        readings
    }

    #[test]
    fn what_was_ones_own_between_two_moments_is_read_off_the_readings() {
        let pieces = [(10, 1), (30, 2), (35, 2), (65, 3), (70, 1)];
        let readings = readings(pieces.map(|(until, n_busy)| (at(until).get(), n_busy)));
        for (begin, end, wanted_us) in [
            (0, 10, 10_000),
            (10, 35, 12_500),
            (5, 20, 10_000),
            (35, 65, 10_000),
            (0, 70, 37_500),
            (64, 67, 2_333),
        ] {
            let own_us = readings.between(at(begin), at(end)) / 1_000;
            assert_eq!(own_us, wanted_us, "{begin} to {end}");
        }
        assert_eq!(readings.between(at(20), at(20)), 0);
        let after = readings.between(at(70), at(80));
        assert_eq!(after, 10 * MS, "the future is as the present");
    }

    #[test]
    fn a_clock_that_was_read_once_is_of_one() {
        let readings = readings([]);
        assert_eq!(readings.between(at(2), at(12)), 10 * MS);
        assert!(readings.points.is_empty(), "most processes need no more");
    }

    #[test]
    fn a_clock_that_is_read_often_loses_nothing() {
        let step = |step: u64| {
            (
                at(0).get() + step * 1_000,
                if step <= 500_000 { 2 } else { 1 },
            )
        };
        let own_ns = readings((1..=1_000_000).map(step)).between(at(0), at(1_000));
        assert!(own_ns.abs_diff(750 * MS) <= STRAIGHT_NS, "{own_ns}");
    }

    #[test]
    fn what_is_too_long_ago_is_as_the_oldest_that_is_known() {
        let steps = (1..=10_000).map(|step| (at(step).get(), 2 + step % 2));
        let wanted = (1_000 * MS / 2 + 1_000 * MS / 3) / 2;
        let own_ns = readings(steps).between(at(9_000), at(10_000));
        assert!(own_ns.abs_diff(wanted) < 100 * MS, "{own_ns}");
    }
}
