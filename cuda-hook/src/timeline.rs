//! When timed launches ran, by the device's clock: what ran beside each of them is what it shares the GPU with.
//!
//! An event says how long after another it was reached. All are compared with one, the *origin*: the beginning of a timed launch that has
//! ended, replaced before the driver's `float` of milliseconds is too coarse.

use std::time::Duration;

use limiter::overlap::{Span, Spans};
use limiter::timing::{DeviceClock, Stood};
use limiter::units::MonotonicNs;

use crate::completion::{Event, Start};
use crate::driver::Driver;

/// After so long another origin is taken: a `float` of one second in milliseconds has steps of 61 ns.
const ORIGIN_NS_MAX: u64 = 1_000_000_000;

/// The launches of one context.
#[derive(Default)]
pub(crate) struct Timeline {
    origin: Option<(Event, MonotonicNs)>,
    clock: DeviceClock,
    spans: Spans,
}

impl Timeline {
    /// Counts from this event, the first of a launch that has ended, `now`, if another origin is needed; what it counted from before.
    pub(crate) fn renew(&mut self, start: Event, now: MonotonicNs) -> Option<Event> {
        if let Some((_, since)) = self.origin
            && now.saturating_ns_since(since) < ORIGIN_NS_MAX
        {
            return None;
        }
        self.spans = Spans::default();
        self.clock = DeviceClock::default();
        self.origin.replace((start, now)).map(|(event, _)| event)
    }

    /// Whether it counts from this event, which is not to be recorded again until then.
    pub(crate) fn is_origin(&self, event: Event) -> bool {
        self.origin.is_some_and(|(origin, _)| origin == event)
    }

    /// When a launch ran that has ended; `None`: the driver does not say.
    pub(crate) fn ended(&self, driver: &Driver, start: Start, end: Event) -> Option<Span> {
        let begin_ns = self.begin_ns(driver, start)?;
        let end_ns = self.since_origin_ns(driver, end)?;
        Some(Span { begin_ns, end_ns })
    }

    /// Since when a launch runs whose first event was reached.
    pub(crate) fn running(&self, driver: &Driver, start: Start) -> Option<Span> {
        let begin_ns = self.begin_ns(driver, start)?;
        Some(Span {
            begin_ns,
            end_ns: i64::MAX,
        })
    }

    fn begin_ns(&self, driver: &Driver, start: Start) -> Option<i64> {
        let reached_ns = self.since_origin_ns(driver, start.event)?;
        let lead_ns = match start.stood {
            Stood::Behind => 0,
            Stood::Alone { lead_ns } => lead_ns,
        };
        reached_ns.checked_add_unsigned(lead_ns)
    }

    fn since_origin_ns(&self, driver: &Driver, event: Event) -> Option<i64> {
        let (origin, _) = self.origin?;
        let since_ms = driver.elapsed_ms(origin.raw(), event.raw()).ok()?;
        let apart = Duration::try_from_secs_f64(f64::from(since_ms.abs()) / 1e3).ok()?;
        let apart_ns = i64::try_from(apart.as_nanos()).ok()?;
        Some(if since_ms < 0.0 {
            apart_ns.saturating_neg()
        } else {
            apart_ns
        })
    }

    /// When a span ended that was seen to have ended at `seen_at`.
    pub(crate) fn end_of(&mut self, span: Span, seen_at: MonotonicNs) -> MonotonicNs {
        self.clock.host_time(span.end_ns, seen_at)
    }

    /// Keeps when a launch ran.
    pub(crate) fn push(&mut self, span: Span) {
        self.spans.push(span);
    }

    /// What of its span is a launch's own, in ns, beside those that ended and those that run.
    pub(crate) fn part_ns(&self, span: Span, running: &[Span]) -> u64 {
        self.spans.part_ns(span, running)
    }
}
