//! Conditional nodes: bodies that run or do not, by a value that kernels set on hardware.
//!
//! Kernels compute nothing here, so nothing sets the value: it stays what it was given as the default, or 0 without one. Which
//! body runs is therefore known when the graph is instantiated. A loop whose value is not 0 would never end; its body is taken
//! to end it, and runs once.

use std::sync::Arc;

use cuda_sys_stubs::abi::*;

use super::{Graph, get};
use crate::door::Answer;
use crate::process::State;
use crate::table::Key;

/// What a condition is about: the value behind a `CUgraphConditionalHandle`.
pub(crate) struct Condition {
    graph: Key<Graph>,
    value: u32,
}

impl Condition {
    pub(super) fn is_of(&self, graph: Key<Graph>) -> bool {
        self.graph == graph
    }
}

/// What a conditional node has.
#[derive(Clone, Debug)]
pub(crate) struct Conditional {
    value: u32,
    kind: CUgraphConditionalNodeType,
    pub(super) bodies: Vec<Key<Graph>>,
    /// The bodies' handles, where the program can read them as long as the node exists.
    handles: Arc<[usize]>,
}

impl Conditional {
    fn new(value: u32, kind: CUgraphConditionalNodeType, bodies: Vec<Key<Graph>>) -> Self {
        let handles = bodies.iter().map(|body| body.handle::<CUgraph_st>().addr());
        Self {
            value,
            kind,
            handles: handles.collect(),
            bodies,
        }
    }

    /// The same with other bodies.
    pub(super) fn with_bodies(&self, bodies: Vec<Key<Graph>>) -> Self {
        Self::new(self.value, self.kind, bodies)
    }

    /// Address of the list of the bodies' handles.
    pub(crate) fn handles(&self) -> usize {
        self.handles.as_ptr().expose_provenance()
    }

    /// The body that runs, if one does.
    pub(crate) fn chosen(&self) -> Option<Key<Graph>> {
        let index = match self.kind {
            CU_GRAPH_COND_TYPE_IF => usize::from(self.value == 0),
            CU_GRAPH_COND_TYPE_WHILE => (self.value != 0).then_some(0)?,
            _ => usize::try_from(self.value).ok()?,
        };
        self.bodies.get(index).copied()
    }
}

/// `cuGraphConditionalHandleCreate`.
pub(crate) fn create_handle(
    state: &mut State,
    graph: Key<Graph>,
    default_value: u32,
    flags: u32,
) -> Answer<Key<Condition>> {
    get(state, graph)?;
    let value = match flags {
        0 => 0,
        CU_GRAPH_COND_ASSIGN_DEFAULT => default_value,
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    };
    Ok(state.conditions.insert(Condition { graph, value }))
}

/// Makes a conditional's bodies, as graphs of their own that the program fills. `CUDA_ERROR_INVALID_VALUE`: a kind that does not
/// exist, a number of bodies that it cannot have, or a handle of another graph.
pub(crate) fn create(
    state: &mut State,
    graph: Key<Graph>,
    condition: Key<Condition>,
    kind: CUgraphConditionalNodeType,
    count: u32,
) -> Answer<Conditional> {
    let known = state.conditions.get(condition);
    let known = known.filter(|known| known.graph == graph);
    let value = known.ok_or(CUDA_ERROR_INVALID_VALUE)?.value;
    let fits = match kind {
        CU_GRAPH_COND_TYPE_IF => (1..=2).contains(&count),
        CU_GRAPH_COND_TYPE_WHILE => count == 1,
        CU_GRAPH_COND_TYPE_SWITCH => count >= 1,
        _ => false,
    };
    if !fits {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let bodies = (0..count).map(|_| {
        state.graphs.insert(Graph {
            parent: Some(graph),
            ..Graph::default()
        })
    });
    Ok(Conditional::new(value, kind, bodies.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(kind: CUgraphConditionalNodeType, value: u32, count: u32) -> Option<usize> {
        let mut state = State::default();
        let graph = state.graphs.insert(Graph::default());
        let flags = CU_GRAPH_COND_ASSIGN_DEFAULT;
        let handle = create_handle(&mut state, graph, value, flags).unwrap();
        let made = create(&mut state, graph, handle, kind, count).unwrap();
        let chosen = made.chosen()?;
        made.bodies.iter().position(|body| *body == chosen)
    }

    #[test]
    fn the_default_value_chooses_the_body() {
        assert_eq!(chosen(CU_GRAPH_COND_TYPE_IF, 5, 1), Some(0));
        assert_eq!(chosen(CU_GRAPH_COND_TYPE_IF, 0, 1), None);
        assert_eq!(chosen(CU_GRAPH_COND_TYPE_IF, 0, 2), Some(1));
        assert_eq!(chosen(CU_GRAPH_COND_TYPE_WHILE, 0, 1), None);
        assert_eq!(chosen(CU_GRAPH_COND_TYPE_WHILE, 1, 1), Some(0));
        assert_eq!(chosen(CU_GRAPH_COND_TYPE_SWITCH, 2, 3), Some(2));
        assert_eq!(chosen(CU_GRAPH_COND_TYPE_SWITCH, 3, 3), None);
    }
}
