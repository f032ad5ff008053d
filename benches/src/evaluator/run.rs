//! The run: one agenda for the host's threads beside the model's own, advanced in order of time.

use super::controller::{Controller, Policy, Seat, Tick, View};
use super::controllers::Native;
use super::host::{Host, Processor};
use super::process::{Process, Stream, Waiting};
use super::program::Operation;
use super::report::{Report, Window};
use super::scenario::{ProcessPlan, Scenario};
use gpu_sim::command::{Command, GraphId, GraphNode, SemaphoreId};
use gpu_sim::model::random::Random;
use gpu_sim::model::{Model, Output, ProcessId, ProcessInfo};
use gpu_sim::wire::Submission;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Who acts at a planned time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Actor {
    /// The evaluator reads busy times.
    Window,
    /// A process joins.
    Join,
    /// A process is killed.
    Kill,
    /// What a container is promised changes: the number of the change instead of a process.
    Change,
    /// A host function returns; its token is the ticket.
    HostCall,
    /// A process's thread, helper's look or helper's tick goes on: the index of its ticket.
    Go(usize),
}

pub(super) const THREAD: usize = 0;
pub(super) const LOOK: usize = 1;
pub(super) const TICK: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Plan {
    at_ns: u64,
    order: u64,
    process: usize,
    actor: Actor,
    ticket: u64,
}

/// What is planned, by time and then in the order of planning. Where the next is known at once, it stays out of the heap.
#[derive(Debug, Default)]
struct Agenda {
    /// Comes before all others.
    next: Option<Plan>,
    others: BinaryHeap<Reverse<Plan>>,
}

impl Agenda {
    fn peek(&self) -> Option<&Plan> {
        let other = self.others.peek().map(|Reverse(plan)| plan);
        self.next.as_ref().or(other)
    }

    fn push(&mut self, plan: Plan) {
        let is_next = self.peek().is_none_or(|next| plan < *next);
        let later = if is_next {
            self.next.replace(plan)
        } else {
            Some(plan)
        };
        if let Some(later) = later {
            self.others.push(Reverse(later));
        }
    }

    fn pop(&mut self) -> Option<Plan> {
        let other = || self.others.pop().map(|Reverse(plan)| plan);
        self.next.take().or_else(other)
    }
}

pub(super) struct Run<'s> {
    pub(super) scenario: &'s Scenario,
    pub(super) policy: &'s mut dyn Policy,
    pub(super) model: Model,
    pub(super) host: Host,
    pub(super) processes: Vec<Option<Process>>,
    ids: Vec<Option<ProcessId>>,
    indices: BTreeMap<ProcessId, usize>,
    agenda: Agenda,
    planned: u64,
    windows: Vec<Window>,
    /// Of each container, up to the last window, in ns.
    busy_ns: Vec<u64>,
    events: u64,
}

/// Runs a scenario under a policy.
///
/// # Panics
/// When the scenario contradicts itself: no device, a process of a container that there is not, timing out of its range.
pub fn run(scenario: &Scenario, policy: &mut dyn Policy) -> Report {
    let mut run = Run::new(scenario, policy);
    run.plan(scenario.window_ns, 0, Actor::Window);
    for (process, plan) in scenario.processes.iter().enumerate() {
        run.plan(plan.joins_ns, process, Actor::Join);
        if let Some(killed_ns) = plan.killed_ns {
            run.plan(killed_ns, process, Actor::Kill);
        }
    }
    for (number, change) in scenario.changes.iter().enumerate() {
        run.plan(change.at_ns, number, Actor::Change);
    }
    while let Some(at_ns) = run.next_ns().filter(|&at_ns| at_ns <= scenario.duration_ns) {
        run.step(at_ns);
    }
    run.report()
}

impl<'s> Run<'s> {
    fn new(scenario: &'s Scenario, policy: &'s mut dyn Policy) -> Self {
        let checked = scenario.machine.timing.check().and(scenario.host.check());
        assert_eq!(checked, Ok(()));
        let mut machine = scenario.machine.clone();
        machine.timing.seed = scenario.seed;
        let count = scenario.processes.len();
        Self {
            scenario,
            policy,
            model: Model::new(machine, 0),
            // Not the model's seed: two streams of the same numbers would go together.
            host: Host::new(scenario.host.clone(), !scenario.seed),
            processes: (0..count).map(|_| None).collect(),
            ids: vec![None; count],
            indices: BTreeMap::new(),
            agenda: Agenda::default(),
            planned: 0,
            windows: Vec::new(),
            busy_ns: vec![0; scenario.containers.len()],
            events: 0,
        }
    }

    fn next_ns(&self) -> Option<u64> {
        let planned = self.agenda.peek().map(|plan| plan.at_ns);
        planned.into_iter().chain(self.model.next_event_ns()).min()
    }

    /// Lets the device do what is due, tells the host, then lets the host act.
    fn step(&mut self, at_ns: u64) {
        self.model.advance_to(at_ns);
        self.tell();
        while self.agenda.peek().is_some_and(|plan| plan.at_ns <= at_ns)
            && let Some(plan) = self.agenda.pop()
        {
            self.act(plan);
            self.tell();
        }
    }

    fn act(&mut self, plan: Plan) {
        self.events += 1;
        match plan.actor {
            Actor::Window => self.read_window(),
            Actor::Join => self.join(plan.process),
            Actor::Kill => self.kill(plan.process),
            Actor::Change => self.change(plan.process),
            Actor::HostCall => self.host_call_done(plan.process, plan.ticket),
            Actor::Go(part) => self.go(plan, part),
        }
    }

    fn go(&mut self, plan: Plan, part: usize) {
        let now_ns = self.now_ns();
        let Some(process) = self.alive(plan.process) else {
            return;
        };
        if process.tickets[part] != plan.ticket {
            return; // something else came first
        }
        if let Some(stopped_ns) = &process.plan.stopped_ns
            && stopped_ns.contains(&now_ns)
        {
            let resumed_ns = stopped_ns.end;
            let at_ns = self.host.woken_ns(resumed_ns);
            return self.plan_part(at_ns, plan.process, part);
        }
        match part {
            THREAD => self.run_thread(plan.process),
            LOOK => self.look(plan.process),
            _ => self.tick(plan.process),
        }
    }

    fn plan(&mut self, at_ns: u64, process: usize, actor: Actor) {
        self.plan_ticket(at_ns, process, actor, 0);
    }

    fn plan_ticket(&mut self, at_ns: u64, process: usize, actor: Actor, ticket: u64) {
        self.planned += 1;
        self.agenda.push(Plan {
            at_ns,
            order: self.planned,
            process,
            actor,
            ticket,
        });
    }

    /// Lets a part of a process go on at this time, and not when it was planned to before.
    pub(super) fn plan_part(&mut self, at_ns: u64, process: usize, part: usize) {
        self.planned += 1;
        let ticket = self.planned;
        if let Some(process) = self.alive(process) {
            process.tickets[part] = ticket;
        }
        self.plan_ticket(at_ns, process, Actor::Go(part), ticket);
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.model.now_ns()
    }

    pub(super) fn alive(&mut self, process: usize) -> Option<&mut Process> {
        self.processes[process]
            .as_mut()
            .filter(|process| process.is_alive())
    }

    fn join(&mut self, index: usize) {
        let plan = &self.scenario.processes[index];
        let limits = &self.scenario.containers[plan.container];
        let id = self.model.join(ProcessInfo {
            pid: index as u32 + 1,
            start_time_ticks: 0,
            container: limits.name.clone(),
        });
        self.ids[index] = Some(id);
        self.indices.insert(id, index);
        let now_ns = self.now_ns();
        let seed = self.scenario.seed.wrapping_add((index as u64 + 1) << 32);
        let mut process = self.start(plan, id, seed);
        let device = &self.scenario.machine.devices[0];
        let seat = Seat {
            process: index,
            container: plan.container,
            limits,
            sm_count: device.sm_count,
            threads_per_sm: device.threads_per_sm_max,
        };
        process.controller = Some(match limits.is_managed {
            true => self.policy.attach(&seat, now_ns),
            false => Native.attach(&seat, now_ns),
        });
        process.next_request_ns = now_ns;
        self.processes[index] = Some(process);
        self.plan_part(now_ns, index, TICK);
        let at_ns = self.host.woken_ns(now_ns);
        self.plan_part(at_ns, index, THREAD);
    }

    /// Makes a process's context, streams and graphs; the seed decides what its program draws.
    fn start(&mut self, plan: &ProcessPlan, id: ProcessId, seed: u64) -> Process {
        let context = accepted(self.model.create_context(id, 0));
        let program = &plan.program;
        let streams = (0..program.streams as usize).map(|index| {
            let progress = Stream::progress(index);
            let stream = self
                .model
                .create_stream(id, context, program.priority, progress, 0);
            Stream::new(accepted(stream))
        });
        let streams = streams.collect();
        let operations = (0..).zip(program.work.operations());
        let commands = operations.map(|(index, operation)| self.command(id, index, operation));
        let commands = commands.collect();
        let processor = Processor::new(plan.cpus, self.scenario.host.cpu_period_ns);
        let random = Random::new(seed);
        Process::new(plan.clone(), id, streams, commands, processor, random)
    }

    /// What an operation submits; a graph is uploaded first.
    fn command(&mut self, id: ProcessId, index: u64, operation: &Operation) -> Command {
        let machine = &self.scenario.machine;
        let kernels = match operation {
            Operation::Kernel(kernel) => return Command::Kernel(kernel.cost(machine)),
            &Operation::Copy { direction, bytes } => return Command::Copy { direction, bytes },
            Operation::HostCall => return Command::HostCall,
            Operation::Graph(kernels) => kernels,
        };
        let nodes = kernels.iter().zip(0_u32..).map(|(kernel, node)| GraphNode {
            command: Command::Kernel(kernel.cost(machine)),
            dependencies: node.checked_sub(1).into_iter().collect(),
            enabled: true,
        });
        let graph = GraphId(index);
        accepted(self.model.append_to_graph(id, graph, nodes.collect()));
        Command::Graph { graph }
    }

    /// Ends a process at once.
    fn kill(&mut self, index: usize) {
        let controller = self
            .alive(index)
            .and_then(|process| process.controller.take());
        if let Some(controller) = controller {
            controller.killed();
            self.remove(index);
        }
    }

    /// Changes what a container is promised, and wakes its processes.
    fn change(&mut self, number: usize) {
        let scenario = self.scenario;
        let (now_ns, change) = (self.now_ns(), &scenario.changes[number]);
        self.policy
            .change(&scenario.containers[change.container], change, now_ns);
        for (index, plan) in scenario.processes.iter().enumerate() {
            if plan.container == change.container {
                self.wake(index);
            }
        }
    }

    /// Ends a process that wants to.
    pub(super) fn end(&mut self, index: usize) {
        let Some(process) = self.alive(index) else {
            return;
        };
        process.controller = None;
        self.remove(index);
    }

    /// What a process that has ended has in flight goes as the device lets it go.
    fn remove(&mut self, index: usize) {
        if let Some(id) = self.ids[index] {
            self.model.kill(id);
        }
    }

    /// Appends a command to a stream; `false`: the queue is full.
    pub(super) fn submit(&mut self, index: usize, stream: usize, command: Command) -> bool {
        let now_ns = self.now_ns();
        let queue_depth = self.scenario.machine.timing.queue_depth;
        let Some(process) = self.processes[index].as_mut() else {
            return true;
        };
        let id = process.id;
        let stream = &mut process.streams[stream];
        if stream.submitted - stream.completed >= queue_depth {
            return false;
        }
        stream.submitted += 1;
        self.planned += 1;
        let token = self.planned;
        let submission = Submission {
            stream: stream.id,
            sequence: stream.submitted,
            submitted_ns: now_ns,
            token: if command == Command::HostCall {
                token
            } else {
                0
            },
            logged_nodes: Vec::new(),
            command,
        };
        accepted(self.model.submit(id, submission));
        true
    }

    /// Calls a controller; what it gives, and the time when it was done.
    pub(super) fn controller<R>(
        &mut self,
        index: usize,
        call: impl FnOnce(&mut dyn Controller, &mut View) -> R,
    ) -> Option<(R, u64)> {
        let now_ns = self.now_ns();
        let process = self.processes[index].as_mut()?;
        let controller = process.controller.as_mut()?;
        let mut wakes = Vec::new();
        let model = &self.model;
        let mut view = View {
            now_ns,
            host: &mut self.host,
            aggregation: self.scenario.aggregation,
            samples: &|| model.samples(0).unwrap_or_default(),
            processes: &self.ids,
            wakes: &mut wakes,
        };
        let given = call(controller.as_mut(), &mut view);
        let done_ns = view.now_ns;
        wakes.into_iter().for_each(|woken| self.wake(woken));
        Some((given, done_ns))
    }

    fn wake(&mut self, index: usize) {
        let at_ns = self.host.woken_ns(self.now_ns());
        let Some(process) = self.processes.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let helper = std::mem::take(&mut process.helper_waits);
        let thread = process.waiting == Waiting::Gate;
        if thread {
            process.waiting = Waiting::Nothing;
            self.plan_part(at_ns, index, THREAD);
        }
        if helper {
            self.plan_part(at_ns, index, TICK);
        }
    }

    /// Tells the host what the device has done.
    fn tell(&mut self) {
        while let Some(output) = self.model.take_output() {
            self.events += 1;
            match output {
                Output::Raise {
                    process,
                    semaphore,
                    payload,
                    at_ns,
                } => self.raised(self.indices[&process], (semaphore, payload), at_ns),
                Output::Log { process, token } => {
                    let at_ns = self.host.woken_ns(self.now_ns());
                    self.plan_ticket(at_ns, self.indices[&process], Actor::HostCall, token);
                }
            }
        }
    }

    fn raised(&mut self, index: usize, (semaphore, payload): (SemaphoreId, u64), at_ns: u64) {
        if let Some(process) = self.processes[index].as_mut() {
            process.note(semaphore, payload, at_ns);
            self.go_on(index);
        }
    }

    /// A host function has returned; one of a process that has died meanwhile tells nobody.
    fn host_call_done(&mut self, index: usize, token: u64) {
        if let Some(id) = self.alive(index).map(|process| process.id) {
            accepted(self.model.host_call_done(id, token));
        }
    }

    /// Lets those go on for whom the device has done what they wait for.
    fn go_on(&mut self, index: usize) {
        let now_ns = self.now_ns();
        let Some(process) = self.alive(index) else {
            return;
        };
        let sync_wait = process.plan.sync_wait;
        let thread = process.may_go_on();
        let helper = process.is_drained();
        if thread {
            process.waiting = Waiting::Nothing;
        }
        if helper {
            process.draining = None;
        }
        if thread {
            let at_ns = self.host.synchronized_ns(now_ns, sync_wait);
            self.plan_part(at_ns, index, THREAD);
        }
        if helper {
            let at_ns = self.host.synchronized_ns(now_ns, super::SyncWait::Blocking);
            self.plan_part(at_ns, index, TICK);
        }
    }

    /// The helper's look at watched launches.
    fn look(&mut self, index: usize) {
        self.settle_ended(index);
        let look_ns = self.scenario.host.look_ns;
        let outstanding = self.alive(index).map_or(0, |process| {
            process.report.helper_cpu_ns += look_ns;
            process.outstanding()
        });
        let looked = self.controller(index, |controller, view| controller.looked(view));
        let looks_again = outstanding > 0 || looked.is_some_and(|(again, _)| again);
        let every = self.controller(index, |controller, _| controller.look_every_ns());
        match every.and_then(|(every_ns, _)| every_ns) {
            Some(every_ns) if looks_again => {
                let at_ns = self.host.slept_ns(self.now_ns() + every_ns);
                self.plan_part(at_ns, index, LOOK);
            }
            _ => {
                if let Some(process) = self.alive(index) {
                    process.is_looking = false;
                }
            }
        }
    }

    /// Tells the controller of watched launches that have ended.
    pub(super) fn settle_ended(&mut self, index: usize) {
        let query_ns = self.scenario.host.event_query_ns;
        let Some(process) = self.alive(index) else {
            return;
        };
        let (ended, queries) = process.take_ended();
        process.report.helper_cpu_ns += queries * query_ns;
        for ended in ended {
            if let Some(process) = self.alive(index) {
                process.trace_timing(&ended);
            }
            self.controller(index, |controller, view| controller.ended(&ended, view));
        }
    }

    fn tick(&mut self, index: usize) {
        let Some((tick, done_ns)) =
            self.controller(index, |controller, view| controller.tick(view))
        else {
            return;
        };
        match tick {
            Tick::At(at_ns) => {
                let at_ns = self.host.slept_ns(at_ns.max(done_ns));
                self.plan_part(at_ns, index, TICK);
            }
            Tick::Woken => {
                if let Some(process) = self.alive(index) {
                    process.helper_waits = true;
                }
            }
            Tick::Drained => {
                if let Some(process) = self.alive(index) {
                    let targets = process.streams.iter().map(|stream| stream.submitted);
                    process.draining = Some(targets.collect());
                }
                self.go_on(index);
            }
        }
    }

    fn read_window(&mut self) {
        let mut busy_ns = vec![0; self.busy_ns.len()];
        for row in self.model.usage() {
            let container = self.scenario.processes[row.pid as usize - 1].container;
            busy_ns[container] += row.gpu_busy_ns_total;
        }
        let before_ns = std::mem::replace(&mut self.busy_ns, busy_ns);
        let grown =
            std::iter::zip(&self.busy_ns, before_ns).map(|(now_ns, before_ns)| now_ns - before_ns);
        self.windows.push(Window {
            end_ns: self.now_ns(),
            busy_ns: grown.collect(),
        });
        self.plan(self.now_ns() + self.scenario.window_ns, 0, Actor::Window);
    }

    fn report(mut self) -> Report {
        self.model.advance_to(self.scenario.duration_ns);
        self.tell();
        let kernels: BTreeMap<u32, u64> = self
            .model
            .usage()
            .into_iter()
            .map(|row| (row.pid, row.kernels_total))
            .collect();
        let report = |(process, pid): (Option<Process>, u32)| {
            let mut report = process.map(Process::into_report).unwrap_or_default();
            report.kernels = kernels.get(&pid).copied().unwrap_or(0);
            report
        };
        Report {
            window_ns: self.scenario.window_ns,
            engine: self.model.engine_usage(0).unwrap_or_default(),
            processes: self.processes.into_iter().zip(1..).map(report).collect(),
            windows: self.windows,
            events: self.events,
        }
    }
}

/// What the model cannot refuse, as the evaluator keeps its rules.
fn accepted<T>(result: Result<T, gpu_sim::wire::Refusal>) -> T {
    match result {
        Ok(accepted) => accepted,
        Err(refusal) => unreachable!("the evaluator broke the model's rules: {refusal:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_come_by_time_and_then_in_their_order_however_they_were_made() {
        let mut random = Random::new(5);
        let (mut agenda, mut seen) = (Agenda::default(), Vec::new());
        for order in 0..1_000 {
            agenda.push(Plan {
                at_ns: (random.unit() * 50.0) as u64 + 1 + order / 10,
                order,
                process: 0,
                actor: Actor::Window,
                ticket: 0,
            });
            // What is planned from here on is later than what has happened.
            while agenda.peek().is_some_and(|plan| plan.at_ns <= order / 10) {
                seen.extend(agenda.pop());
            }
        }
        seen.extend(std::iter::from_fn(|| agenda.pop()));
        assert_eq!(seen.len(), 1_000);
        assert!(seen.is_sorted());
    }
}
