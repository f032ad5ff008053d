//! Kernels that fault: their context does nothing any more, and nobody waits for what it was to do.

use super::{Model, Queued, StreamId};
use crate::command::{Command, ContextId};

impl Model {
    /// Whether a kernel has made a context unusable.
    pub(super) fn is_faulted(&self, context: ContextId) -> bool {
        self.contexts
            .get(&context)
            .is_some_and(|context| context.is_faulted)
    }

    /// Makes a context unusable. Its memory stays until it is freed, and the context until it is destroyed.
    pub(super) fn fault(&mut self, id: ContextId) {
        let Some(context) = self.contexts.get_mut(&id) else {
            return;
        };
        context.is_faulted = true;
        let device = &mut self.devices[context.device as usize];
        device.compute.remove(id);
        for engine in &mut device.copies {
            engine.remove(id);
        }
        let of_context = self.streams.iter();
        let of_context = of_context.filter(|(_, stream)| stream.place.context == id);
        let of_context: Vec<StreamId> = of_context.map(|(&stream, _)| stream).collect();
        self.runs.retain(|_, run| !of_context.contains(&run.stream));
        of_context
            .into_iter()
            .for_each(|stream| self.forsake(stream));
    }

    /// Drops what is pending in a stream: whoever waits for it, or for a semaphore that it was to raise, goes on.
    pub(super) fn forsake(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.busy = false;
        let process = stream.place.process;
        let (progress, payload) = (stream.progress, stream.base + stream.last);
        for dropped in std::mem::take(&mut stream.queue) {
            for command in dropped.commands() {
                if let Command::Signal { semaphore, payload } = command {
                    self.raise(process, semaphore, payload);
                }
            }
        }
        self.raise(process, progress, payload);
        if self.streams.get(&id).is_some_and(|stream| stream.closing) {
            self.streams.remove(&id);
        }
    }
}

impl Queued {
    /// What it is to do: of a graph, what its nodes are.
    fn commands(&self) -> Vec<Command> {
        match &self.graph {
            None => vec![self.command],
            Some((graph, _)) => graph.nodes.iter().map(|node| node.command).collect(),
        }
    }
}
