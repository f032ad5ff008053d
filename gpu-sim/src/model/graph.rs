//! Executable graphs and their launches.

use super::{Model, ProcessId};
use crate::command::{Command, GraphId, GraphNode, StreamId};
use crate::wire::Refusal;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A graph as uploaded.
#[derive(Clone, Debug, Default)]
pub(super) struct Executable {
    pub(super) nodes: Vec<GraphNode>,
    /// Of each node, those that depend on it.
    successors: Vec<Vec<u32>>,
}

impl Executable {
    /// Appends nodes; `false` and nothing changed when one depends on a later one or is a graph itself.
    pub(super) fn append(&mut self, nodes: Vec<GraphNode>) -> bool {
        let first = self.nodes.len();
        let in_order = |(index, node): (usize, &GraphNode)| {
            !matches!(node.command, Command::Graph { .. })
                && node
                    .dependencies
                    .iter()
                    .all(|&earlier| (earlier as usize) < first + index)
        };
        if !nodes.iter().enumerate().all(in_order) {
            return false;
        }
        self.successors.resize(first + nodes.len(), Vec::new());
        for (index, node) in nodes.iter().enumerate() {
            for &earlier in &node.dependencies {
                self.successors[earlier as usize].push((first + index) as u32);
            }
        }
        self.nodes.extend(nodes);
        true
    }

    /// Changes a node; `false` when there is none or it would become a graph.
    pub(super) fn update(&mut self, index: u32, command: Command, enabled: bool) -> bool {
        match self.nodes.get_mut(index as usize) {
            Some(node) if !matches!(command, Command::Graph { .. }) => {
                node.command = command;
                node.enabled = enabled;
                true
            }
            _ => false,
        }
    }
}

/// One launch of a graph.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) stream: StreamId,
    pub(super) graph: Arc<Executable>,
    /// Token of each node that is logged.
    tokens: BTreeMap<u32, u64>,
    /// Of each node, dependencies that have not completed.
    blocked: Vec<u32>,
    left: usize,
}

impl Run {
    pub(super) fn new(
        stream: StreamId,
        graph: Arc<Executable>,
        tokens: BTreeMap<u32, u64>,
    ) -> Self {
        let blocked = graph
            .nodes
            .iter()
            .map(|node| node.dependencies.len() as u32)
            .collect();
        let left = graph.nodes.len();
        Self {
            stream,
            graph,
            tokens,
            blocked,
            left,
        }
    }

    /// Nodes that depend on nothing.
    pub(super) fn roots(&self) -> Vec<u32> {
        let nodes = self.blocked.iter().zip(0..);
        nodes
            .filter(|(blocked, _)| **blocked == 0)
            .map(|(_, node)| node)
            .collect()
    }

    /// What a node does; `None` when it is disabled.
    pub(super) fn command(&self, node: u32) -> Option<Command> {
        let node = &self.graph.nodes[node as usize];
        node.enabled.then_some(node.command)
    }

    pub(super) fn token(&self, node: u32) -> u64 {
        self.tokens.get(&node).copied().unwrap_or(0)
    }

    /// Counts a node as completed and gives those that it was the last to block.
    pub(super) fn complete(&mut self, node: u32) -> Vec<u32> {
        self.left -= 1;
        let mut ready = Vec::new();
        for &successor in &self.graph.successors[node as usize] {
            let blocked = &mut self.blocked[successor as usize];
            *blocked -= 1;
            if *blocked == 0 {
                ready.push(successor);
            }
        }
        ready
    }

    pub(super) fn is_complete(&self) -> bool {
        self.left == 0
    }
}

impl Model {
    /// Appends nodes to a graph, which is made if there is none.
    pub fn append_to_graph(
        &mut self,
        process: ProcessId,
        graph: GraphId,
        nodes: Vec<GraphNode>,
    ) -> Result<(), Refusal> {
        let graph = self.graphs.entry((process, graph)).or_default();
        Arc::make_mut(graph)
            .append(nodes)
            .then_some(())
            .ok_or(Refusal::Unknown)
    }

    /// Changes a node of a graph for launches submitted later.
    pub fn update_graph(
        &mut self,
        process: ProcessId,
        graph: GraphId,
        index: u32,
        command: Command,
        enabled: bool,
    ) -> Result<(), Refusal> {
        let graph = self
            .graphs
            .get_mut(&(process, graph))
            .ok_or(Refusal::Unknown)?;
        Arc::make_mut(graph)
            .update(index, command, enabled)
            .then_some(())
            .ok_or(Refusal::Unknown)
    }

    /// Lets a graph go; launches already submitted run.
    pub fn destroy_graph(&mut self, process: ProcessId, graph: GraphId) -> Result<(), Refusal> {
        self.graphs
            .remove(&(process, graph))
            .map(drop)
            .ok_or(Refusal::Unknown)
    }
}
