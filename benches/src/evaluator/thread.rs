//! A process's thread: what it calls, one call after the other.

use super::controller::{Admission, Launch, LaunchId, Watch};
use super::process::{Call, Waiting};
use super::program::{Operation, Pace};
use super::run::{LOOK, Run, THREAD};
use gpu_sim::command::Command;
use std::collections::VecDeque;

/// How a call left the thread.
enum Step {
    /// It returned at once.
    Next,
    /// It returns at this time.
    At(u64),
    /// It waits for something; `at_ns`: at the latest until then.
    Wait {
        waiting: Waiting,
        at_ns: Option<u64>,
    },
    /// There is nothing more to do.
    End,
}

impl Run<'_> {
    /// Goes on with a process's thread until something takes time.
    pub(super) fn run_thread(&mut self, index: usize) {
        while let Some(process) = self.alive(index) {
            process.waiting = Waiting::Nothing;
            let Some(call) = process.calls.pop_front() else {
                self.begin_iteration(index);
                continue;
            };
            match self.call(index, call) {
                Step::Next => {}
                Step::At(at_ns) => return self.plan_part(at_ns, index, THREAD),
                Step::End => return self.end(index),
                Step::Wait { waiting, at_ns } => {
                    if let Some(process) = self.alive(index) {
                        process.waiting = waiting;
                    }
                    return at_ns.map_or((), |at_ns| self.plan_part(at_ns, index, THREAD));
                }
            }
        }
    }

    /// Lines up the calls of the next iteration, or what has to come before it.
    fn begin_iteration(&mut self, index: usize) {
        let now_ns = self.now_ns();
        let Some(process) = self.processes[index].as_mut() else {
            return;
        };
        let program = &process.plan.program;
        let leaves = process
            .plan
            .leaves_ns
            .is_some_and(|leaves_ns| now_ns >= leaves_ns);
        if leaves || process.iterations >= program.iterations_max {
            process.wait_for_everything();
            process.calls.push_back(Call::Exit);
            return;
        }
        if let Some(phases) = program.phases {
            let period_ns = phases.on_ns + phases.off_ns;
            let phase_ns = (now_ns - process.plan.joins_ns) % period_ns;
            if phase_ns >= phases.on_ns {
                process.wait_for_everything();
                process
                    .calls
                    .push_back(Call::Idle(now_ns + period_ns - phase_ns));
                return;
            }
        }
        let mut since_ns = now_ns;
        if let Pace::Poisson { mean_pause_ns } = program.pace {
            let unit = process.random.unit();
            since_ns = process.next_request_ns + (-unit.ln() * mean_pause_ns as f64) as u64;
            process.next_request_ns = since_ns;
            process.calls.push_back(Call::Idle(since_ns));
        }
        if program.host_ns > 0 {
            process.calls.push_back(Call::Compute(program.host_ns));
        }
        let stream = (process.iterations % u64::from(program.streams)) as usize;
        process.iterations += 1;
        for operation in program.work.draw(&mut process.random) {
            process.launches += 1;
            let launch = launch(
                &program.work.operations()[operation],
                operation,
                process.launches,
                stream,
            );
            process.calls.push_back(Call::Admit {
                operation,
                launch,
                wanted_ns: 0,
            });
        }
        process.calls.push_back(Call::Submitted { since_ns });
    }

    fn call(&mut self, index: usize, call: Call) -> Step {
        let now_ns = self.now_ns();
        let host = &self.scenario.host;
        match call {
            Call::Idle(until_ns) if until_ns <= now_ns => Step::Next,
            Call::Idle(until_ns) => Step::At(self.host.slept_ns(until_ns)),
            Call::Compute(cost_ns) => self.busy(index, cost_ns),
            Call::Admit { .. } => self.admit(index, call),
            Call::Start(launch) => self.record(index, launch, host.event_record_timed_ns, call),
            Call::Submit { .. } => self.submit_operation(index, call),
            Call::End(launch, Watch::Timed) => {
                self.record(index, launch, host.event_record_timed_ns, call)
            }
            Call::End(launch, _) => self.record(index, launch, host.event_record_untimed_ns, call),
            Call::Wait { stream, sequence } => {
                if self.completed(index, stream) >= sequence {
                    return Step::Next;
                }
                self.again(index, call);
                wait_for(stream, sequence)
            }
            Call::Synchronized => {
                self.controller(index, |controller, view| controller.synchronized(view));
                Step::Next
            }
            Call::Submitted { since_ns } => self.submitted(index, since_ns),
            Call::Finished {
                since_ns,
                iterations,
            } => {
                if let Some(process) = self.alive(index) {
                    process.report.iterations += iterations;
                    process.report.latencies_ns.push(now_ns - since_ns);
                }
                Step::Next
            }
            Call::Exit => Step::End,
        }
    }

    /// Takes processor time.
    fn busy(&mut self, index: usize, cost_ns: u64) -> Step {
        let now_ns = self.now_ns();
        self.alive(index).map_or(Step::End, |process| {
            Step::At(process.processor.run(now_ns, cost_ns))
        })
    }

    fn completed(&mut self, index: usize, stream: usize) -> u64 {
        self.alive(index)
            .map_or(0, |process| process.streams[stream].completed)
    }

    /// Puts a call back that could not be made yet.
    fn again(&mut self, index: usize, call: Call) {
        if let Some(process) = self.alive(index) {
            process.calls.push_front(call);
        }
    }

    /// Waits for room in a stream's queue, to make the call then.
    fn again_with_room(&mut self, index: usize, stream: usize, call: Call) -> Step {
        let next = self.completed(index, stream) + 1;
        self.again(index, call);
        wait_for(stream, next)
    }

    fn admit(&mut self, index: usize, call: Call) -> Step {
        let Call::Admit {
            operation,
            launch,
            wanted_ns,
        } = call
        else {
            return Step::Next;
        };
        let now_ns = self.now_ns();
        if wanted_ns != 0 {
            self.settle_ended(index);
            self.controller(index, |controller, view| {
                controller.looked_while_waiting(view)
            });
        }
        let wanted_ns = if wanted_ns == 0 { now_ns } else { wanted_ns };
        let passes = self.alive(index).is_some_and(|process| {
            matches!(
                process.commands[operation],
                Command::Copy { .. } | Command::HostCall
            )
        });
        let admission = if passes {
            Admission::Granted(Watch::No)
        } else {
            match self.controller(index, |controller, view| controller.admit(&launch, view)) {
                Some((admission, _)) => admission,
                None => return Step::End,
            }
        };
        let again = Call::Admit {
            operation,
            launch,
            wanted_ns,
        };
        match admission {
            Admission::Granted(watch) => {
                let Some(process) = self.alive(index) else {
                    return Step::End;
                };
                let held_ns = now_ns - wanted_ns;
                process.report.held_ns += held_ns;
                process.report.held_ns_max = process.report.held_ns_max.max(held_ns);
                let submit = Call::Submit {
                    operation,
                    launch,
                    wanted_ns,
                    called_ns: None,
                };
                if watch == Watch::No {
                    return self.submit_operation(index, submit);
                }
                line_up(&mut process.calls, launch, submit, watch);
                Step::Next
            }
            Admission::NotBefore(at_ns) => {
                self.again(index, again);
                let at_ns = self.host.slept_ns(at_ns.max(now_ns));
                Step::Wait {
                    waiting: Waiting::Gate,
                    at_ns: Some(at_ns),
                }
            }
            Admission::After(earlier) => {
                self.again(index, again);
                self.after(index, earlier)
            }
        }
    }

    /// Waits for the event behind an earlier launch.
    fn after(&mut self, index: usize, earlier: LaunchId) -> Step {
        let mark = self.alive(index).and_then(|process| {
            let (stream, payload) = process.mark_behind(earlier)?;
            let is_reached = process.streams[stream].is_reached(payload);
            (!is_reached).then_some(Waiting::Mark { stream, payload })
        });
        match mark {
            Some(waiting) => Step::Wait {
                waiting,
                at_ns: None,
            },
            None => {
                self.settle_ended(index);
                self.busy(index, self.scenario.host.event_query_ns)
            }
        }
    }

    /// Records an event of the launch in `call`.
    fn record(&mut self, index: usize, launch: Launch, cost_ns: u64, call: Call) -> Step {
        let queue_depth = self.scenario.machine.timing.queue_depth;
        let Some(process) = self.alive(index) else {
            return Step::End;
        };
        let stream = &mut process.streams[launch.stream];
        if stream.submitted - stream.completed >= queue_depth {
            return self.again_with_room(index, launch.stream, call);
        }
        let command = stream.next_mark(launch.stream);
        match call {
            Call::End(..) => stream.watch(launch.id),
            _ => stream.start(cost_ns),
        }
        let is_first = process.outstanding() > 0 && !process.is_looking;
        self.submit(index, launch.stream, command);
        if is_first {
            self.start_looking(index);
        }
        self.busy(index, cost_ns)
    }

    /// Wakes the helper for the first watched launch, if it looks at all.
    fn start_looking(&mut self, index: usize) {
        let every = self.controller(index, |controller, _| controller.look_every_ns());
        if every.is_some_and(|(every_ns, _)| every_ns.is_some()) {
            if let Some(process) = self.alive(index) {
                process.is_looking = true;
            }
            let at_ns = self.host.woken_ns(self.now_ns());
            self.plan_part(at_ns, index, LOOK);
        }
    }

    fn submit_operation(&mut self, index: usize, call: Call) -> Step {
        let Call::Submit {
            operation,
            launch,
            wanted_ns,
            called_ns,
        } = call
        else {
            return Step::Next;
        };
        let now_ns = self.now_ns();
        let called_ns = called_ns.unwrap_or(now_ns);
        let Some(process) = self.alive(index) else {
            return Step::End;
        };
        let command = process.commands[operation];
        if !self.submit(index, launch.stream, command) {
            let again = Call::Submit {
                operation,
                launch,
                wanted_ns,
                called_ns: Some(called_ns),
            };
            return self.again_with_room(index, launch.stream, again);
        }
        let host = &self.scenario.host;
        let cost_ns = match command {
            Command::HostCall => host.host_call_ns,
            _ => host.launch_ns,
        };
        let step = self.busy(index, cost_ns);
        if let (Step::At(taken_ns), Some(process)) = (&step, self.alive(index)) {
            process.report.launches += 1;
            process.trace(launch.stream, wanted_ns, called_ns, *taken_ns);
        }
        self.controller(index, |controller, view| controller.launched(&launch, view));
        step
    }

    /// An iteration was submitted: waits as the program's pace wants it.
    fn submitted(&mut self, index: usize, since_ns: u64) -> Step {
        let Some(process) = self.alive(index) else {
            return Step::End;
        };
        let stream = (process.iterations - 1) % u64::from(process.plan.program.streams);
        let sequence = process.streams[stream as usize].submitted;
        match process.plan.program.pace {
            Pace::Async => {}
            Pace::SyncEvery(iterations) if process.iterations.is_multiple_of(iterations) => {
                process.wait_for_everything();
                process.calls.push_back(Call::Finished {
                    since_ns,
                    iterations,
                });
            }
            Pace::SyncEvery(_) => {}
            Pace::Poisson { .. } => {
                process.wait_for_everything();
                process.calls.push_back(Call::Finished {
                    since_ns,
                    iterations: 1,
                });
            }
            Pace::Window(count) => {
                process
                    .in_flight
                    .push_back((stream as usize, sequence, since_ns));
                if process.in_flight.len() as u64 >= count
                    && let Some((stream, sequence, since_ns)) = process.in_flight.pop_front()
                {
                    process.calls.push_back(Call::Wait { stream, sequence });
                    process.calls.push_back(Call::Synchronized);
                    process.calls.push_back(Call::Finished {
                        since_ns,
                        iterations: 1,
                    });
                }
            }
        }
        Step::Next
    }
}

fn wait_for(stream: usize, sequence: u64) -> Step {
    Step::Wait {
        waiting: Waiting::Progress { stream, sequence },
        at_ns: None,
    }
}

/// What an interposer sees of an operation.
fn launch(operation: &Operation, index: usize, number: u64, stream: usize) -> Launch {
    let (blocks, is_graph) = match operation {
        Operation::Kernel(kernel) => (u64::from(kernel.blocks), false),
        Operation::Graph(_) => (0, true),
        Operation::Copy { .. } | Operation::HostCall => (0, false),
    };
    Launch {
        id: LaunchId(number),
        key: index as u64 + 1,
        blocks,
        is_graph,
        stream,
    }
}

/// Lines up the calls of a watched launch that may go, before everything else.
fn line_up(calls: &mut VecDeque<Call>, launch: Launch, submit: Call, watch: Watch) {
    calls.push_front(Call::End(launch, watch));
    calls.push_front(submit);
    if watch == Watch::Timed {
        calls.push_front(Call::Start(launch));
    }
}
