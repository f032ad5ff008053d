//! A process: its streams, what its thread is about to call, and what its helper waits for.

use super::controller::{Controller, Ended, EventTiming, Launch, LaunchId, Watch};
use super::host::Processor;
use super::report::ProcessReport;
use super::scenario::ProcessPlan;
use gpu_sim::command::{Command, SemaphoreId, StreamId};
use gpu_sim::model::ProcessId;
use gpu_sim::model::random::Random;
use limiter::overlap::{Span, Spans};
use std::collections::VecDeque;

/// What the thread does next.
#[derive(Clone, Debug)]
pub(super) enum Call {
    /// Sleeps until this time.
    Idle(u64),
    /// Takes so much processor time.
    Compute(u64),
    /// Asks the controller for this operation.
    Admit {
        operation: usize,
        launch: Launch,
        wanted_ns: u64,
    },
    /// Records the first event of a timed launch.
    Start(Launch),
    /// Submits an operation; `called_ns` once it was tried.
    Submit {
        operation: usize,
        launch: Launch,
        wanted_ns: u64,
        called_ns: Option<u64>,
    },
    /// Records the event behind a launch.
    End(Launch, Watch),
    /// Waits until a stream has completed so many commands.
    Wait { stream: usize, sequence: u64 },
    /// The program's own wait is over.
    Synchronized,
    /// An iteration that began, or whose request came, at this time was submitted.
    Submitted { since_ns: u64 },
    /// Up to so many iterations, the last of which began or was asked for at this time, were seen to have completed.
    Finished { since_ns: u64, iterations: u64 },
    /// The process ends.
    Exit,
}

/// What the thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Its own time: it is planned.
    Nothing,
    /// The controller's leave; planned too, for the latest.
    Gate,
    /// A stream's completion, for the program or for room in the queue.
    Progress { stream: usize, sequence: u64 },
    /// An event behind a launch.
    Mark { stream: usize, payload: u64 },
}

/// A launch whose end the helper looks for.
#[derive(Clone, Copy, Debug)]
struct Watched {
    launch: LaunchId,
    start: Option<Start>,
    end_payload: u64,
}

/// The first event of a timed launch.
#[derive(Clone, Copy, Debug)]
struct Start {
    payload: u64,
    stood_behind: bool,
    lead_ns: u64,
}

impl Start {
    /// What is known of when a launch ran whose events were reached at these times.
    fn span(self, started_ns: u64, ended_ns: u64) -> Span {
        let lead_ns = if self.stood_behind { 0 } else { self.lead_ns };
        Span {
            begin_ns: (started_ns + lead_ns) as i64,
            end_ns: ended_ns as i64,
        }
    }
}

/// A stream, as its process knows it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) submitted: u64,
    pub(super) completed: u64,
    /// When each command completed, if launches are traced.
    ends_ns: Vec<u64>,
    /// Events recorded; the n-th has payload n.
    marks: u64,
    /// When each was reached, but the first, of which nothing more is asked.
    mark_times_ns: VecDeque<u64>,
    marks_forgotten: u64,
    watched: VecDeque<Watched>,
    /// Of the launch that is being made.
    started: Option<(u64, u64)>,
}

impl Stream {
    pub(super) fn new(id: StreamId) -> Self {
        Self {
            id,
            submitted: 0,
            completed: 0,
            ends_ns: Vec::new(),
            marks: 0,
            mark_times_ns: VecDeque::new(),
            marks_forgotten: 0,
            watched: VecDeque::new(),
            started: None,
        }
    }

    /// Where a stream's completed commands are counted.
    pub(super) fn progress(index: usize) -> SemaphoreId {
        SemaphoreId(2 * index as u32)
    }

    /// Where a stream's events are stamped.
    fn events(index: usize) -> SemaphoreId {
        SemaphoreId(2 * index as u32 + 1)
    }

    /// Which stream a semaphore belongs to, and whether it is that of its events.
    pub(super) fn of(semaphore: SemaphoreId) -> (usize, bool) {
        ((semaphore.0 / 2) as usize, semaphore.0 % 2 == 1)
    }

    /// The command that records one more event.
    pub(super) fn next_mark(&mut self, index: usize) -> Command {
        self.marks += 1;
        Command::Signal {
            semaphore: Self::events(index),
            payload: self.marks,
        }
    }

    /// The last event recorded is the first of a timed launch, this far ahead of it.
    pub(super) fn start(&mut self, lead_ns: u64) {
        self.started = Some((self.marks, lead_ns));
    }

    /// The last event recorded is the one behind a launch.
    pub(super) fn watch(&mut self, launch: LaunchId) {
        let before = self.watched.back();
        let stood_behind = before.is_some_and(|before| !self.is_reached(before.end_payload));
        let start = self.started.take().map(|(payload, lead_ns)| Start {
            payload,
            stood_behind,
            lead_ns,
        });
        self.watched.push_back(Watched {
            launch,
            start,
            end_payload: self.marks,
        });
    }

    pub(super) fn is_reached(&self, payload: u64) -> bool {
        payload <= self.marks_forgotten + self.mark_times_ns.len() as u64
    }

    /// The event behind a launch, if it is watched.
    fn end_payload(&self, launch: LaunchId) -> Option<u64> {
        let found = self.watched.iter().find(|watched| watched.launch == launch);
        found.map(|watched| watched.end_payload)
    }

    /// When an event was reached that nothing has forgotten.
    fn reached_ns(&self, payload: u64) -> u64 {
        self.mark_times_ns[(payload - self.marks_forgotten - 1) as usize]
    }

    /// When the first watched launch ran, if it is timed, has begun and has not ended.
    fn running(&self) -> Option<Span> {
        let start = self.watched.front()?.start?;
        let has_begun = self.is_reached(start.payload);
        has_begun.then(|| start.span(self.reached_ns(start.payload), i64::MAX as u64))
    }

    /// Takes off the first watched launch if it has ended; and when it ran, if it was timed.
    fn take_ended(&mut self) -> Option<(Ended, Option<Span>)> {
        let first = self.watched.front()?;
        if !self.is_reached(first.end_payload) {
            return None;
        }
        let Watched {
            launch,
            start,
            end_payload,
        } = self.watched.pop_front()?;
        let ended_ns = self.reached_ns(end_payload);
        let timing = start.map(|start| EventTiming {
            ended_ns,
            part_ns: 0,
            elapsed_ns: ended_ns - self.reached_ns(start.payload),
            stood_behind: start.stood_behind,
            lead_ns: start.lead_ns,
        });
        let span = start.map(|start| start.span(self.reached_ns(start.payload), ended_ns));
        // What comes behind this launch was recorded later.
        let forgotten = (end_payload - self.marks_forgotten) as usize;
        self.mark_times_ns.drain(..forgotten);
        self.marks_forgotten = end_payload;
        Some((Ended { launch, timing }, span))
    }
}

/// A process that has joined.
pub(super) struct Process {
    pub(super) plan: ProcessPlan,
    /// What each operation of its program submits.
    pub(super) commands: Vec<Command>,
    pub(super) id: ProcessId,
    pub(super) streams: Vec<Stream>,
    /// When its timed launches ran.
    spans: Spans,
    pub(super) controller: Option<Box<dyn Controller>>,
    pub(super) processor: Processor,
    /// Draws what its program does: the same whatever a controller does to it, so that runs compare.
    pub(super) random: Random,
    pub(super) calls: VecDeque<Call>,
    pub(super) waiting: Waiting,
    /// Only the last of the thread's, of the looks' and of the ticks' plans counts.
    pub(super) tickets: [u64; 3],
    pub(super) launches: u64,
    /// Iterations begun.
    pub(super) iterations: u64,
    /// Streams and sequences that iterations in flight end with, and their beginnings.
    pub(super) in_flight: VecDeque<(usize, u64, u64)>,
    pub(super) next_request_ns: u64,
    pub(super) is_looking: bool,
    /// The helper waits to be woken.
    pub(super) helper_waits: bool,
    /// What the streams have to have completed for the helper to go on.
    pub(super) draining: Option<Vec<u64>>,
    pub(super) report: ProcessReport,
    /// Of each traced launch: its stream and sequence.
    traced: Vec<(usize, u64)>,
}

impl Process {
    pub(super) fn new(
        plan: ProcessPlan,
        id: ProcessId,
        streams: Vec<Stream>,
        commands: Vec<Command>,
        processor: Processor,
        random: Random,
    ) -> Self {
        Self {
            plan,
            commands,
            id,
            streams,
            spans: Spans::default(),
            controller: None,
            processor,
            random,
            calls: VecDeque::new(),
            waiting: Waiting::Nothing,
            tickets: [0; 3],
            launches: 0,
            iterations: 0,
            in_flight: VecDeque::new(),
            next_request_ns: 0,
            is_looking: false,
            helper_waits: false,
            draining: None,
            report: ProcessReport::default(),
            traced: Vec::new(),
        }
    }

    /// Whether it has a controller, and so still runs.
    pub(super) fn is_alive(&self) -> bool {
        self.controller.is_some()
    }

    /// Lines up a wait for everything that is in flight.
    pub(super) fn wait_for_everything(&mut self) {
        let streams = self.streams.iter().enumerate();
        let waits = streams.map(|(stream, state)| Call::Wait {
            stream,
            sequence: state.submitted,
        });
        self.calls.extend(waits);
        self.calls.push_back(Call::Synchronized);
    }

    /// Where the event behind a launch is, if it is watched.
    pub(super) fn mark_behind(&self, launch: LaunchId) -> Option<(usize, u64)> {
        let mut streams = self.streams.iter().enumerate();
        streams.find_map(|(stream, state)| Some((stream, state.end_payload(launch)?)))
    }

    /// Watched launches that were not seen to have ended.
    pub(super) fn outstanding(&self) -> usize {
        self.streams.iter().map(|stream| stream.watched.len()).sum()
    }

    /// Takes off every watched launch that has ended; and how many events had to be asked.
    pub(super) fn take_ended(&mut self) -> (Vec<Ended>, u64) {
        let mut ended = Vec::new();
        let mut queries = 0;
        for stream in &mut self.streams {
            let before = ended.len();
            ended.extend(std::iter::from_fn(|| stream.take_ended()));
            queries += (ended.len() - before) as u64 + u64::from(!stream.watched.is_empty());
        }
        let running: Vec<Span> = self.streams.iter().filter_map(Stream::running).collect();
        queries += running.len() as u64;
        let spans = ended.iter().filter_map(|(_, span)| *span);
        spans.for_each(|span| self.spans.push(span));
        for (ended, span) in &mut ended {
            if let (Some(timing), Some(span)) = (&mut ended.timing, span) {
                timing.part_ns = self.spans.part_ns(*span, &running);
            }
        }
        (ended.into_iter().map(|(ended, _)| ended).collect(), queries)
    }

    /// A semaphore was raised: what it says of a stream.
    pub(super) fn note(&mut self, semaphore: SemaphoreId, payload: u64, at_ns: u64) {
        let (index, is_event) = Stream::of(semaphore);
        let stream = &mut self.streams[index];
        if is_event {
            stream.mark_times_ns.push_back(at_ns);
        } else {
            stream.completed = payload;
            if self.plan.trace {
                stream.ends_ns.push(at_ns);
            }
        }
    }

    /// Whether what the thread waits for has come.
    pub(super) fn may_go_on(&self) -> bool {
        match self.waiting {
            Waiting::Nothing | Waiting::Gate => false,
            Waiting::Progress { stream, sequence } => self.streams[stream].completed >= sequence,
            Waiting::Mark { stream, payload } => self.streams[stream].is_reached(payload),
        }
    }

    /// Whether what the helper waits for has completed.
    pub(super) fn is_drained(&self) -> bool {
        let Some(targets) = &self.draining else {
            return false;
        };
        let mut streams = self.streams.iter().zip(targets);
        streams.all(|(stream, &target)| stream.completed >= target)
    }

    /// Keeps a traced launch's place.
    pub(super) fn trace(&mut self, stream: usize, wanted_ns: u64, called_ns: u64, taken_ns: u64) {
        if self.plan.trace {
            self.traced.push((stream, self.streams[stream].submitted));
            self.report
                .launch_records
                .push(super::report::LaunchRecord {
                    wanted_ns,
                    called_ns,
                    taken_ns,
                    ended_ns: None,
                    timed_ns: None,
                });
        }
    }

    /// Keeps what a traced launch's events said.
    pub(super) fn trace_timing(&mut self, ended: &Ended) {
        let record = self
            .report
            .launch_records
            .get_mut(ended.launch.0 as usize - 1);
        if let (Some(record), Some(timing)) = (record, ended.timing) {
            record.timed_ns = Some(timing.elapsed_ns);
        }
    }

    /// The report, with the ends of traced launches.
    pub(super) fn into_report(mut self) -> ProcessReport {
        for (record, &(stream, sequence)) in self.report.launch_records.iter_mut().zip(&self.traced)
        {
            record.ended_ns = self.streams[stream]
                .ends_ns
                .get(sequence as usize - 1)
                .copied();
        }
        self.report
    }
}
