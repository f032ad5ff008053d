//! Executable graphs: uploaded once, changed node by node.

use super::{Inner, Machine, RequestError};
use crate::command::{Command, GraphId, GraphNode};
use crate::wire::{self, Request};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// An executable graph that the device holds. Dropping it lets it go; launches already submitted run.
pub struct Graph {
    pub(super) id: GraphId,
    nodes: u32,
    machine: Arc<Inner>,
}

impl Graph {
    /// How many nodes it has.
    pub fn nodes(&self) -> u32 {
        self.nodes
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // With the device gone there is no graph either.
        let _ = self
            .machine
            .connection
            .send(&Request::DestroyGraph { graph: self.id });
    }
}

impl Machine {
    /// Uploads a graph. Its nodes stand in an order in which each comes after those it depends on.
    pub fn create_graph(&self, nodes: &[GraphNode]) -> Result<Graph, RequestError> {
        let in_order = |(index, node): (usize, &GraphNode)| {
            !matches!(node.command, Command::Graph { .. })
                && node
                    .dependencies
                    .iter()
                    .all(|&earlier| (earlier as usize) < index)
        };
        if !nodes.iter().enumerate().all(in_order) {
            return Err(RequestError::NotAGraph);
        }
        let id = GraphId(self.inner.graphs.fetch_add(1, Relaxed));
        let graph = Graph {
            id,
            nodes: nodes.len() as u32,
            machine: Arc::clone(&self.inner),
        };
        self.inner.connection.send(&Request::GraphNodes {
            graph: id,
            nodes: Vec::new(),
        })?;
        for chunk in nodes.chunks(wire::GRAPH_NODES_PER_MESSAGE) {
            self.inner.connection.send(&Request::GraphNodes {
                graph: id,
                nodes: chunk.to_vec(),
            })?;
        }
        Ok(graph)
    }

    /// Changes what a node does, and whether, in launches submitted from now on.
    pub fn update_graph(
        &self,
        graph: &Graph,
        index: u32,
        command: Command,
        enabled: bool,
    ) -> Result<(), RequestError> {
        if index >= graph.nodes || matches!(command, Command::Graph { .. }) {
            return Err(RequestError::NotAGraph);
        }
        let update = Request::GraphUpdate {
            graph: graph.id,
            index,
            command,
            enabled,
        };
        Ok(self.inner.connection.send(&update)?)
    }
}
