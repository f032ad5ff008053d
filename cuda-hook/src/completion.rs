//! The ends of launches: an event behind each that is not on credit, two around those that are timed, and one thread that looks at them.
//!
//! The thread starts with the first limited launch of the process, looks while anything is outstanding, as often and for as
//! long after as the share says, so that a launch that follows soon need not wake it; then it sleeps. It never synchronises and never makes a context: it borrows the launch's own. Events are
//! recorded by the launching thread only, which has seen that the stream does not record into a graph. A launch that waits looks, too, and more
//! often: it is its own turn that it may see.
//!
//! While a stream records into a graph, the driver forbids all threads to ask after events, unless they say that they leave recordings alone:
//! who looks says so.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use cuda_sys_stubs::abi::*;
use limiter::clock;
use limiter::overlap::Span;
use limiter::share::{Reservation, Share};
use limiter::timing::{Stood, Timing};
use limiter::units::{GpuNs, MonotonicNs};
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::thread::{futex, nanosleep};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::config_file;
use crate::driver::{Driver, EventKind};
use crate::entry::Cx;
use crate::pace::Pace;
use crate::runtime::{self, Attachment};
use crate::timeline::Timeline;

/// Streams without outstanding launches that are kept on record, so that a steady launch allocates nothing.
const IDLE_STREAMS_MAX: usize = 64;

/// The watching thread looks at nothing until it is woken.
const ASLEEP: u32 = 1;
const AWAKE: u32 = 0;

/// A driver's handle, as a number that may go from thread to thread.
type Handle = usize;

/// An event of ours, with the kind that it was made as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    handle: Handle,
    kind: EventKind,
}

/// What an event can tell.
impl Event {
    /// The driver's handle.
    pub(crate) fn raw(self) -> CUevent {
        ptr::with_exposed_provenance_mut(self.handle)
    }
}

/// The beginning of a timed launch.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    /// The event before the launch.
    pub(crate) event: Event,
    pub(crate) stood: Stood,
}

/// A launch that has not been seen to have ended.
struct Outstanding {
    start: Option<Start>,
    end: Event,
    reservation: Reservation,
}

/// One that has, just now.
struct Ended {
    launch: Outstanding,
    at: MonotonicNs,
    /// Whether its events are of use still: the driver knows them.
    is_known: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct StreamKey {
    context: Handle,
    stream: Handle,
}

#[derive(Default)]
struct State {
    /// In order of launch, which is the order in which they end.
    streams: FxHashMap<StreamKey, VecDeque<Outstanding>>,
    outstanding_count: usize,
    /// Events that are not in use, by their context.
    spare: FxHashMap<Handle, Vec<Event>>,
}

impl State {
    fn take_spare(&mut self, context: Handle, kind: EventKind) -> Option<Event> {
        let spare = self.spare.get_mut(&context)?;
        let position = spare.iter().rposition(|event| event.kind == kind)?;
        Some(spare.swap_remove(position))
    }

    /// Keeps the events for other launches, unless their context is gone.
    fn put_spare(&mut self, context: Handle, events: impl IntoIterator<Item = Event>) {
        if let Some(spare) = self.spare.get_mut(&context) {
            spare.extend(events);
        }
    }

    fn push(&mut self, key: StreamKey, launch: Outstanding) {
        self.streams.entry(key).or_default().push_back(launch);
        self.outstanding_count = self.outstanding_count.saturating_add(1);
    }

    fn pop(&mut self, key: StreamKey) -> Option<Outstanding> {
        let launch = self.streams.get_mut(&key)?.pop_front()?;
        self.outstanding_count = self.outstanding_count.saturating_sub(1);
        Some(launch)
    }

    fn first(&self, key: StreamKey) -> Option<&Outstanding> {
        self.streams.get(&key)?.front()
    }

    fn first_end(&self, key: StreamKey) -> Option<Event> {
        Some(self.first(key)?.end)
    }

    /// The beginning of a stream's first launch, if it matters when that comes.
    fn first_awaited(&self, share: &Share, key: StreamKey) -> Option<Event> {
        let first = self.first(key)?;
        let is_awaited = share.is_awaited(&first.reservation);
        Some(first.start.filter(|_| is_awaited)?.event)
    }

    fn last_end(&self, key: StreamKey) -> Option<Event> {
        Some(self.streams.get(&key)?.back()?.end)
    }

    fn busy_streams(&self) -> impl Iterator<Item = StreamKey> {
        self.streams
            .iter()
            .filter(|(_, launches)| !launches.is_empty())
            .map(|(&key, _)| key)
    }

    fn forget_idle_streams(&mut self) {
        if self.outstanding_count == 0 && self.streams.len() > IDLE_STREAMS_MAX {
            self.streams.clear();
        }
    }

    /// Takes out everything of a context.
    fn remove_context(&mut self, context: Handle) -> Vec<Outstanding> {
        self.spare.remove(&context);
        let removed: Vec<_> = self
            .streams
            .extract_if(|key, _| key.context == context)
            .flat_map(|(_, launches)| launches)
            .collect();
        self.outstanding_count = self.outstanding_count.saturating_sub(removed.len());
        removed
    }
}

/// When the timed launches of each context ran.
type Timelines = FxHashMap<Handle, Timeline>;

/// The outstanding launches of this process.
#[derive(Default)]
pub(crate) struct Completion {
    state: Mutex<State>,
    /// Held during a look, that is, across queries of events, none of which waits: so that nobody destroys a context meanwhile.
    looking: Mutex<Timelines>,
    /// [`ASLEEP`] or not: the futex on which the watching thread sleeps.
    sleep: AtomicU32,
    /// Whether a launch that waited has looked since the watching thread last did.
    waiter_looked: AtomicBool,
    watch: OnceCell<()>,
}

impl Completion {
    /// Whether somebody watches for ends: the thread starts here. `false` if it cannot.
    pub(crate) fn is_watching(&self, cx: Cx) -> bool {
        let start = || {
            runtime::spawn("cuda-hook", move || watch(cx))
                .inspect_err(|reason| tracing::error!("no thread: {reason}"))
        };
        self.watch.get_or_try_init(start).is_ok()
    }

    /// Adds a launch to those that are watched.
    fn push(&self, stream: StreamKey, launch: Outstanding) {
        self.state.lock().push(stream, launch);
        // What the watching thread wrote before it last saw that nothing was outstanding is seen here: it saw that under the same lock.
        if self.sleep.load(Ordering::Relaxed) == ASLEEP
            && self.sleep.swap(AWAKE, Ordering::Relaxed) == ASLEEP
        {
            // Nobody to wake: it has not gone to sleep yet, and will not.
            let _ = futex::wake(&self.sleep, futex::Flags::PRIVATE, 1);
        }
    }

    /// Sleeps until something is outstanding.
    fn sleep(&self) {
        self.sleep.store(ASLEEP, Ordering::Relaxed);
        if self.state.lock().outstanding_count == 0 {
            // Any way in which the wait ends is a reason to look.
            let _ = futex::wait(&self.sleep, futex::Flags::PRIVATE, ASLEEP, None);
        }
        self.sleep.store(AWAKE, Ordering::Relaxed);
    }

    /// Lets go of a context that is about to end: its events end with it.
    pub(crate) fn forget_context(&self, share: &Share, context: CUcontext) {
        self.forget(share, context.expose_provenance());
        // A look that had begun before may still ask for those events.
        self.looking.lock().remove(&context.expose_provenance());
    }

    fn forget(&self, share: &Share, context: Handle) {
        let removed = self.state.lock().remove_context(context);
        let now = clock::monotonic();
        for launch in removed {
            share.completed(launch.reservation, None, now);
        }
    }

    fn event(&self, driver: &Driver, context: Handle, kind: EventKind) -> Option<Event> {
        if let Some(spare) = self.state.lock().take_spare(context, kind) {
            return Some(spare);
        }
        let create = || driver.create_event(kind);
        let current = driver.current_context().ok()?.expose_provenance();
        let created = if current == context {
            create()
        } else {
            driver
                .with_context(ptr::with_exposed_provenance_mut(context), create)
                .flatten()
        };
        self.state.lock().spare.entry(context).or_default();
        Some(Event {
            handle: created.ok()?.expose_provenance(),
            kind,
        })
    }

    /// What the launch met that was just made on `stream`, `lead_ns` behind its first event.
    fn stood(&self, driver: &Driver, stream: StreamKey, lead_ns: u64) -> Stood {
        let earlier = self.state.lock().last_end(stream);
        let is_reached =
            |end: Event| driver.with_captures_left_alone(|| driver.event_reached(end.raw()));
        match earlier.map(is_reached) {
            Some(Ok(Ok(false))) => Stood::Behind,
            Some(Ok(Ok(true) | Err(_)) | Err(_)) | None => Stood::Alone { lead_ns },
        }
    }

    /// For a launch that waits: looks if it is time, unless somebody is at it; when it is time again. `looks_at`: what it said last.
    pub(crate) fn look_while_waiting(
        &self,
        cx: Cx,
        looks_at: &Cell<Option<MonotonicNs>>,
        now: MonotonicNs,
    ) -> MonotonicNs {
        let (driver, share) = (cx.driver, &cx.attachment.share);
        if looks_at.get().is_some_and(|at| now < at) {
            return looks_at.get().unwrap_or(now);
        }
        if looks_at.get().is_some()
            && let Some(mut timelines) = self.looking.try_lock()
        {
            // Where the driver does not know of recordings, there is none to disturb.
            let look = || self.look_at_all(driver, share, &mut timelines);
            if driver.with_captures_left_alone(look).is_ok() {
                self.waiter_looked.store(true, Ordering::Relaxed);
                share.heartbeat(now);
            }
        }
        let next = share
            .waiter_looks_every_ns(now)
            .map(|ns| now.saturating_add_ns(ns));
        looks_at.set(next);
        next.unwrap_or(MonotonicNs::new(u64::MAX))
    }

    /// Looks once at the oldest launch of every stream, and at its next if that has ended; how many are left.
    fn look(&self, driver: &Driver, share: &Share) -> usize {
        self.look_at_all(driver, share, &mut self.looking.lock())
    }

    fn look_at_all(&self, driver: &Driver, share: &Share, timelines: &mut Timelines) -> usize {
        let mut streams: Vec<StreamKey> = self.state.lock().busy_streams().collect();
        streams.sort_unstable_by_key(|key| key.context);
        for same_context in streams.chunk_by(|a, b| a.context == b.context) {
            let Some(first) = same_context.first() else {
                continue;
            };
            let context = ptr::with_exposed_provenance_mut(first.context);
            let timeline = timelines.entry(first.context).or_default();
            let looked = driver.with_context(context, || {
                let mut ended = Vec::new();
                for &key in same_context {
                    self.look_at(driver, share, key, &mut ended);
                }
                self.settle(driver, share, same_context, timeline, ended);
            });
            if looked.is_err() {
                timelines.remove(&first.context);
                self.forget(share, first.context); // gone in a way that we did not see
            }
        }
        let mut state = self.state.lock();
        state.forget_idle_streams();
        state.outstanding_count
    }

    /// Takes off what has ended on one stream, whose context is current.
    fn look_at(&self, driver: &Driver, share: &Share, key: StreamKey, ended: &mut Vec<Ended>) {
        loop {
            let Some(end) = self.state.lock().first_end(key) else {
                return;
            };
            let reached = driver.event_reached(end.raw());
            if reached == Ok(false) {
                return self.look_whether_it_runs(driver, share, key);
            }
            let Some(launch) = self.state.lock().pop(key) else {
                return;
            };
            ended.push(Ended {
                launch,
                at: clock::monotonic(),
                is_known: reached.is_ok(),
            });
        }
    }

    /// Tells the share of what has ended on these streams of one context, which is current.
    fn settle(
        &self,
        driver: &Driver,
        share: &Share,
        streams: &[StreamKey],
        timeline: &mut Timeline,
        ended: Vec<Ended>,
    ) {
        let running = self.note_spans(driver, streams, timeline, &ended);
        for Ended {
            launch,
            at,
            is_known,
        } in ended
        {
            let start = launch.start.filter(|_| is_known);
            let timing = start.and_then(|start| {
                let span = timeline.ended(driver, start, launch.end);
                let part = span.map(|span| GpuNs::new(timeline.part_ns(span, &running)));
                let ended_at = span.map_or(at, |span| timeline.end_of(span, at));
                timing(driver, start, launch.end, ended_at, part)
            });
            share.completed(launch.reservation, timing, at);
            if let (true, Some(first)) = (is_known, streams.first()) {
                let start = start.map(|start| start.event);
                let spare = start.filter(|start| !timeline.is_origin(*start));
                let spare = spare.into_iter().chain([launch.end]);
                self.state.lock().put_spare(first.context, spare);
            }
        }
    }

    /// Keeps when the timed ones among these launches ran; those that run still.
    fn note_spans(
        &self,
        driver: &Driver,
        streams: &[StreamKey],
        timeline: &mut Timeline,
        ended: &[Ended],
    ) -> Vec<Span> {
        let mut is_any_timed = false;
        for Ended { launch, at, .. } in ended.iter().filter(|ended| ended.is_known) {
            let (Some(start), Some(first)) = (launch.start, streams.first()) else {
                continue;
            };
            is_any_timed = true;
            let spare = timeline.renew(start.event, *at);
            self.state.lock().put_spare(first.context, spare);
            if let Some(span) = timeline.ended(driver, start, launch.end) {
                timeline.push(span);
            }
        }
        if !is_any_timed {
            return Vec::new();
        }
        let first_start = |key: &StreamKey| self.state.lock().first(*key)?.start;
        let starts: Vec<Start> = streams.iter().filter_map(first_start).collect();
        let runs = |start: &Start| driver.event_reached(start.event.raw()) == Ok(true);
        let running = starts.into_iter().filter(runs);
        running
            .filter_map(|start| timeline.running(driver, start))
            .collect()
    }

    /// Tells of the oldest launch of a stream whether it runs, if that matters.
    fn look_whether_it_runs(&self, driver: &Driver, share: &Share, key: StreamKey) {
        let state = self.state.lock();
        let Some(start) = state.first_awaited(share, key) else {
            return;
        };
        drop(state);
        if driver.event_reached(start.raw()) == Ok(true) {
            let state = self.state.lock();
            if let Some(launch) = state.first(key) {
                share.began(&launch.reservation, clock::monotonic());
            }
        }
    }
}

/// What the two events of a timed launch say, both reached.
fn timing(
    driver: &Driver,
    start: Start,
    end: Event,
    ended_at: MonotonicNs,
    part: Option<GpuNs>,
) -> Option<Timing> {
    let between_ms = driver.elapsed_ms(start.event.raw(), end.raw()).ok()?;
    let between = Duration::try_from_secs_f64(f64::from(between_ms) / 1e3).ok()?;
    let between_ns = u64::try_from(between.as_nanos()).ok()?;
    tracing::trace!(between_ns, stood = ?start.stood, "timed a launch");
    Some(Timing {
        between: GpuNs::new(between_ns),
        stood: start.stood,
        ended_at,
        part,
    })
}

/// The watching thread.
fn watch(cx: Cx) {
    let Cx { driver, attachment } = cx;
    let Attachment {
        completion, share, ..
    } = attachment;
    if let Err(status) = driver.leave_captures_alone() {
        tracing::debug!("recordings are not left alone: {status}");
    }
    let mut pace = Pace::default();
    loop {
        let outstanding = completion.look(driver, share);
        if outstanding > 0 {
            config_file::look(attachment);
        }
        let now = clock::monotonic();
        pace.looked(now, processor_ns);
        let waiter_looks = completion.waiter_looked.swap(false, Ordering::Relaxed);
        if share.heartbeat(now) || outstanding > 0 {
            let wanted_ns = share.look_every_ns(waiter_looks && outstanding > 1, now);
            // A signal that ends it early does no harm.
            let _ = nanosleep(&pause(pace.pause_ns(now, wanted_ns)));
        } else {
            completion.sleep();
        }
    }
}

/// What this thread has had of processors, in ns.
fn processor_ns() -> u64 {
    let had = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
    u64::try_from(had.as_nanos()).unwrap_or(u64::MAX)
}

fn pause(ns: u64) -> Timespec {
    let length = Duration::from_nanos(ns);
    Timespec {
        tv_sec: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(length.subsec_nanos()),
    }
}

/// A launch on its way to the driver.
pub(crate) struct Launch {
    stream: StreamKey,
    /// The first event, and how far ahead of the launch it was on its way to the device, in ns.
    start: Option<(Event, u64)>,
    end: Option<Event>,
}

impl Launch {
    /// Gets ready to see the end of what is about to be launched on `stream`, and to time it if so asked.
    pub(crate) fn begin(cx: Cx, stream: CUstream, timed: bool) -> Self {
        let completion = &cx.attachment.completion;
        let context = cx
            .driver
            .context_of(stream)
            .map_or(0, |context| context.expose_provenance());
        let event = |kind| completion.event(cx.driver, context, kind);
        let end = event(if timed {
            EventKind::Timed
        } else {
            EventKind::Untimed
        });
        let start = if timed { event(EventKind::Timed) } else { None };
        let asked_at = clock::monotonic();
        let recorded = start.filter(|start| cx.driver.record_event(start.raw(), stream).is_ok());
        let lead_ns = clock::monotonic().saturating_ns_since(asked_at);
        Self {
            stream: StreamKey {
                context,
                stream: stream.expose_provenance(),
            },
            start: recorded.map(|start| (start, lead_ns)),
            end,
        }
    }

    /// The driver has taken the launch.
    pub(crate) fn finish(self, cx: Cx, reservation: Reservation) {
        let Attachment {
            completion, share, ..
        } = cx.attachment;
        let start = self.start.map(|(event, lead_ns)| Start {
            event,
            stood: completion.stood(cx.driver, self.stream, lead_ns),
        });
        let stream = ptr::with_exposed_provenance_mut(self.stream.stream);
        let recorded = self
            .end
            .filter(|end| cx.driver.record_event(end.raw(), stream).is_ok());
        let Some(end) = recorded else {
            // Its end will not be seen: what was reserved is what it is charged.
            share.completed(reservation, None, clock::monotonic());
            return;
        };
        let launch = Outstanding {
            start,
            end,
            reservation,
        };
        completion.push(self.stream, launch);
    }

    /// The driver has refused the launch.
    pub(crate) fn abandon(self, cx: Cx) {
        let events = self
            .start
            .map(|(event, _)| event)
            .into_iter()
            .chain(self.end);
        cx.attachment
            .completion
            .state
            .lock()
            .put_spare(self.stream.context, events);
    }
}
