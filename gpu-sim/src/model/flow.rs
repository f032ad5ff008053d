//! What happens in the machine by itself: commands are dispatched, complete, and others follow.

use super::compute::Work;
use super::copy::CopyEngine;
use super::duration::{self, Load};
use super::graph::{Executable, Run};
use super::memory::Pages;
use super::{Counts, Due, Model, NEVER, Origin, Output, Place, ProcessId, Queued, Released};
use crate::command::{Command, ContextId, CopyDirection, KernelCost, SemaphoreId, StreamId};
use crate::parameters::Timing;
use crate::wire::{Refusal, Submission};
use std::cmp::Reverse;
use std::sync::Arc;

/// When the SM clocks change next after `now_ns`.
pub(super) fn first_clock_step_ns(timing: &Timing, now_ns: u64) -> Option<u64> {
    (timing.clock_step_pause_ns > 0).then(|| now_ns + timing.clock_step_pause_ns)
}

impl Model {
    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Appends a command to a stream. It can start a launch latency after its submission.
    pub fn submit(&mut self, process: ProcessId, submission: Submission) -> Result<(), Refusal> {
        let Submission {
            stream: id,
            sequence,
            submitted_ns,
            token,
            logged_nodes,
            command,
        } = submission;
        let graph = match command {
            Command::Graph { graph } => {
                let graph = self.graphs.get(&(process, graph)).ok_or(Refusal::Unknown)?;
                Some((Arc::clone(graph), logged_nodes))
            }
            _ => None,
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(()); // its context was destroyed while the submission was under way
        };
        let in_order = sequence == stream.last + 1
            && (stream.queue.len() as u64) < self.profile.timing.queue_depth;
        if stream.place.process != process || stream.closing || !in_order {
            return Err(Refusal::Unknown);
        }
        stream.last = sequence;
        let visible_ns = self.now_ns.max(submitted_ns) + self.profile.timing.launch_latency_ns;
        stream.queue.push_back(Queued {
            command,
            sequence,
            visible_ns,
            token,
            graph,
        });
        let (context, is_first) = (stream.place.context, stream.queue.len() == 1);
        if self.is_faulted(context) {
            self.forsake(id);
        } else if is_first {
            self.ready.push_back(id);
            self.settle();
        }
        Ok(())
    }

    pub(super) fn plan(&mut self, at_ns: u64, due: Due) {
        let order = self.id();
        self.agenda.push(Reverse((at_ns, order, due)));
    }

    /// Brings the engines' books up to now. Nothing of an engine may be changed or told before.
    pub(super) fn account(&mut self) {
        for device in &mut self.devices {
            device.account(self.now_ns);
        }
    }

    /// Lets happen what is due now. Apart from [`Model::advance_to`], which is called far more often.
    #[inline(never)]
    pub(super) fn step(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.account();
        if now_ns >= self.next_sample_ns {
            self.sample();
        }
        if self.next_clock_step_ns.is_some_and(|at_ns| now_ns >= at_ns) {
            self.step_clocks();
        }
        while let Some(&Reverse((at_ns, _, due))) = self.agenda.peek()
            && at_ns <= now_ns
        {
            self.agenda.pop();
            self.happen(due);
        }
        for device in &mut self.devices {
            device.compute.take_done(&mut self.done);
            for engine in &mut device.copies {
                if let Some(copied) = engine.take_done() {
                    self.done.push_back(copied);
                }
            }
        }
        self.settle();
    }

    fn sample(&mut self) {
        let timing = &self.profile.timing;
        for device in &mut self.devices {
            let gpu_busy_ns = device.compute.usage().gpu_busy_ns_total;
            let copy_busy_ns = device.copies.each_ref().map(CopyEngine::busy_ns_total);
            let process = device.compute.running();
            device.ring.push(
                self.next_sample_ns,
                gpu_busy_ns,
                copy_busy_ns,
                process,
                timing,
            );
        }
        self.sample_period_end_ns += timing.sample_period_ns;
        let late_ns = self.noise.unit() * timing.sample_jitter_ns as f64;
        self.next_sample_ns = self.sample_period_end_ns + late_ns as u64;
    }

    /// Gives every SM clock another speed; kernels that run already keep theirs.
    fn step_clocks(&mut self) {
        let timing = &self.profile.timing;
        for device in &mut self.devices {
            device.clock_factor = self.noise.around_one(timing.clock_step_part);
        }
        self.next_clock_step_ns = first_clock_step_ns(timing, self.now_ns);
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Visible(stream) => self.ready.push_back(stream),
            Due::RunStart(run) => {
                let roots = self.runs.get(&run).map(Run::roots).unwrap_or_default();
                if roots.is_empty() {
                    return self.end_run(run);
                }
                roots
                    .into_iter()
                    .for_each(|node| self.start_node(run, node));
            }
            Due::NodeReady { run, node } => {
                if let Some(place) = self.place(Origin::Node { run, node }) {
                    self.devices[place.device as usize]
                        .compute
                        .release(place.context);
                    self.start_node(run, node);
                }
            }
            Due::HostCall(process, token) => {
                let origin = self.host_calls.get(&(process, token));
                let place = origin.and_then(|&origin| self.place(origin));
                if place.is_some_and(|place| !self.is_faulted(place.context)) {
                    self.outputs.push_back(Output::Log { process, token });
                } else {
                    self.host_calls.remove(&(process, token));
                }
            }
            Due::Teardown(process) => self.teardown(process),
        }
    }

    /// Carries completions on until nothing more follows from them, then lets the engines choose.
    pub(super) fn settle(&mut self) {
        self.account();
        loop {
            if let Some(origin) = self.done.pop_front() {
                self.complete(origin);
            } else if let Some(stream) = self.ready.pop_front() {
                self.pump(stream);
            } else {
                break;
            }
        }
        self.engines_next_ns = NEVER;
        for device in &mut self.devices {
            device.compute.schedule(self.now_ns, &self.profile.timing);
            self.engines_next_ns = self.engines_next_ns.min(device.next_ns());
        }
    }

    /// Dispatches the head of a stream, if it is its turn.
    fn pump(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.busy) else {
            return;
        };
        let Some(head) = stream.queue.front() else {
            return;
        };
        if head.visible_ns > self.now_ns {
            let visible_ns = head.visible_ns;
            return self.plan(visible_ns, Due::Visible(id));
        }
        let (command, token, graph) = (head.command, head.token, head.graph.clone());
        let place = stream.place;
        stream.busy = true;
        match graph {
            Some((graph, logged_nodes)) => self.launch(id, graph, token, logged_nodes),
            None => self.dispatch(Origin::Stream(id), place, command, token),
        }
    }

    fn launch(
        &mut self,
        stream: StreamId,
        graph: Arc<Executable>,
        token: u64,
        logged_nodes: Vec<u32>,
    ) {
        let timing = &self.profile.timing;
        let nodes = graph.nodes.len() as u64;
        let start_ns =
            self.now_ns + timing.graph_launch_ns + timing.graph_launch_per_node_ns * nodes;
        let tokens = logged_nodes
            .into_iter()
            .zip(token..)
            .filter(|_| token != 0)
            .collect();
        let run = self.id();
        self.runs.insert(run, Run::new(stream, graph, tokens));
        self.plan(start_ns, Due::RunStart(run));
    }

    fn start_node(&mut self, run: u64, node: u32) {
        let origin = Origin::Node { run, node };
        let Some(place) = self.place(origin) else {
            return;
        };
        let Some(launch) = self.runs.get(&run) else {
            return;
        };
        match launch.command(node) {
            Some(command) => self.dispatch(origin, place, command, launch.token(node)),
            None => self.done.push_back(origin),
        }
    }

    pub(super) fn place(&self, origin: Origin) -> Option<Place> {
        let stream = match origin {
            Origin::Stream(stream) => stream,
            Origin::Node { run, .. } => self.runs.get(&run)?.stream,
        };
        self.streams.get(&stream).map(|stream| stream.place)
    }

    fn dispatch(&mut self, origin: Origin, place: Place, command: Command, token: u64) {
        let timing = &self.profile.timing;
        let profile = &self.profile.devices[place.device as usize];
        match command {
            Command::Kernel(cost) | Command::FaultingKernel(cost) => {
                let load = self.kernel_load(place, &cost);
                self.compute(origin, place, load);
            }
            Command::Memset { bytes } => {
                let load = duration::in_memory(profile, timing, bytes, false);
                self.compute(origin, place, load);
            }
            Command::Copy { direction, bytes } => self.copy(origin, place, direction, bytes),
            Command::Wait { semaphore, payload } => {
                let slot = (semaphore.home(place.process), semaphore);
                let reached = self.semaphores.get(&slot).copied().unwrap_or(0);
                if reached >= payload {
                    return self.done.push_back(origin);
                }
                self.waiters
                    .entry(slot)
                    .or_default()
                    .push((payload, origin));
            }
            Command::Signal { semaphore, payload } => {
                let at_ns = self.now_ns - self.now_ns % timing.event_resolution_ns;
                self.raise_at(place.process, semaphore, payload, at_ns);
                self.done.push_back(origin);
            }
            Command::HostCall if token != 0 => {
                self.host_calls.insert((place.process, token), origin);
                let call_ns = self.now_ns + timing.host_call_latency_ns;
                self.plan(call_ns, Due::HostCall(place.process, token));
            }
            // A graph in a graph is refused on upload; a host call that nobody listens to is none.
            Command::HostCall | Command::Graph { .. } | Command::Marker => {
                self.done.push_back(origin)
            }
        }
    }

    fn kernel_load(&mut self, place: Place, cost: &KernelCost) -> Load {
        let timing = &self.profile.timing;
        let profile = &self.profile.devices[place.device as usize];
        let sm_clock_mhz =
            f64::from(profile.sm_clock_mhz) * self.devices[place.device as usize].clock_factor;
        let sms = place.sm_count_max.min(profile.sm_count);
        let kernels = &mut self.devices[place.device as usize].kernels;
        let load = kernels.load(profile, timing, (sms, sm_clock_mhz), cost);
        let factor = self.random.lognormal(timing.kernel_sigma);
        Load {
            duration_ns: (load.duration_ns as f64 * factor) as u64,
            ..load
        }
    }

    fn compute(&mut self, origin: Origin, place: Place, load: Load) {
        let work = Work {
            origin,
            load,
            priority: place.priority,
        };
        self.devices[place.device as usize]
            .compute
            .push(place.context, place.process, work);
    }

    fn copy(&mut self, origin: Origin, place: Place, direction: CopyDirection, bytes: u64) {
        let timing = &self.profile.timing;
        let profile = &self.profile.devices[place.device as usize];
        let engine = match direction {
            CopyDirection::DeviceToDevice => {
                let load = duration::in_memory(profile, timing, bytes, true);
                return self.compute(origin, place, load);
            }
            CopyDirection::HostToDevice | CopyDirection::PageableToDevice => 0,
            CopyDirection::DeviceToHost | CopyDirection::DeviceToPageable => 1,
        };
        let duration_ns = duration::over_bus(profile, timing, direction, bytes);
        let engine = &mut self.devices[place.device as usize].copies[engine];
        engine.push(place.context, place.process, origin, duration_ns);
    }

    pub(super) fn raise(&mut self, process: ProcessId, semaphore: SemaphoreId, payload: u64) {
        self.raise_at(process, semaphore, payload, self.now_ns);
    }

    /// Raises a semaphore now, with this time beside it.
    fn raise_at(&mut self, process: ProcessId, semaphore: SemaphoreId, payload: u64, at_ns: u64) {
        let process = semaphore.home(process);
        let reached = self.semaphores.entry((process, semaphore)).or_default();
        if payload <= *reached {
            return;
        }
        *reached = payload;
        self.outputs.push_back(Output::Raise {
            process,
            semaphore,
            payload,
            at_ns,
        });
        if let Some(waiting) = self.waiters.get_mut(&(process, semaphore)) {
            let woken = waiting.extract_if(.., |(wanted, _)| *wanted <= payload);
            self.done.extend(woken.map(|(_, origin)| origin));
        }
    }

    /// Tells a stream or a launch that something of it has completed.
    fn complete(&mut self, origin: Origin) {
        match origin {
            Origin::Stream(stream) => self.complete_head(stream),
            Origin::Node { run, node } => self.complete_node(run, node),
        }
    }

    fn complete_head(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(head) = stream.queue.pop_front() else {
            return;
        };
        stream.busy = false;
        let (place, progress, payload) =
            (stream.place, stream.progress, stream.base + head.sequence);
        if stream.closing && stream.queue.is_empty() {
            self.streams.remove(&id);
        } else {
            self.ready.push_back(id);
        }
        if head.graph.is_none() {
            self.count(place, head.command, head.token);
        }
        self.raise(place.process, progress, payload);
        if matches!(head.command, Command::FaultingKernel(_)) {
            self.fault(place.context);
        }
    }

    fn complete_node(&mut self, run: u64, node: u32) {
        let Some(place) = self.place(Origin::Node { run, node }) else {
            return;
        };
        let Some(launch) = self.runs.get_mut(&run) else {
            return;
        };
        let ready = launch.complete(node);
        let (command, token) = (launch.command(node), launch.token(node));
        let complete = launch.is_complete();
        if let Some(command) = command {
            self.count(place, command, token);
        }
        if matches!(command, Some(Command::FaultingKernel(_))) {
            return self.fault(place.context);
        }
        // What is not executed has waited for the nodes before it already.
        let gap_ns = command.map_or(0, |_| self.profile.timing.graph_node_gap_ns);
        let ready_ns = self.now_ns + gap_ns;
        for node in ready {
            self.devices[place.device as usize]
                .compute
                .hold(place.context, place.process);
            self.plan(ready_ns, Due::NodeReady { run, node });
        }
        if complete {
            self.end_run(run);
        }
    }

    fn end_run(&mut self, run: u64) {
        let stream = self.runs.remove(&run).map(|run| run.stream);
        self.done.extend(stream.map(Origin::Stream));
    }

    /// Counts a completed command and logs it where the process asked for that.
    fn count(&mut self, place: Place, command: Command, token: u64) {
        if let Some(counts) = self.counts(place.process, place.device) {
            match command {
                Command::Kernel(_) | Command::FaultingKernel(_) => counts.kernels_total += 1,
                Command::Copy { direction, bytes } => counts.copied.count(direction, bytes),
                _ => {}
            }
        }
        if let Command::Copy { direction, bytes } = command {
            self.devices[place.device as usize]
                .copied
                .count(direction, bytes);
        }
        if token != 0 && command != Command::HostCall {
            self.outputs.push_back(Output::Log {
                process: place.process,
                token,
            });
        }
    }

    pub(super) fn counts(&mut self, process: ProcessId, device: u32) -> Option<&mut Counts> {
        self.processes
            .get_mut(&process)?
            .counts
            .get_mut(device as usize)
    }

    pub(super) fn see(&mut self, process: ProcessId, device: u32) {
        if let Some(counts) = self.counts(process, device) {
            counts.seen = true;
        }
    }

    pub(super) fn release(&mut self, device: u32, pages: Option<Pages>) {
        let released = pages.map(|(offset, bytes)| Released {
            device,
            offset,
            bytes,
        });
        self.released.extend(released);
    }

    fn teardown(&mut self, process: ProcessId) {
        let contexts = self
            .contexts
            .iter()
            .filter(|(_, context)| context.process == process);
        let contexts: Vec<ContextId> = contexts.map(|(&id, _)| id).collect();
        let promised = self.promised(process);
        for context in contexts {
            // It is there and the process's own: nothing to refuse.
            let _ = self.destroy_context(process, context);
        }
        for device in 0..self.devices.len() {
            for released in self.devices[device].memory.free_all(process) {
                self.release(device as u32, Some(released));
            }
        }
        self.leave_multicasts(process);
        self.graphs.retain(|(owner, _), _| *owner != process);
        self.waiters.retain(|(owner, _), _| *owner != process);
        self.semaphores.retain(|(owner, _), _| *owner != process);
        self.leave_shared(process, promised);
        self.host_calls.retain(|(owner, _), _| *owner != process);
        self.forget_oldest_dead();
    }
}
