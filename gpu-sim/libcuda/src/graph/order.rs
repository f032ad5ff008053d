//! The order between the nodes of a graph.

use std::collections::BTreeMap;

use cuda_sys_stubs::abi::CUDA_ERROR_INVALID_VALUE;

use super::{Connection, Graph, Node, get, node};
use crate::door::Answer;
use crate::process::State;
use crate::table::Key;

/// Whether `node` is `ancestor` or comes after it.
pub(crate) fn depends_on(state: &State, node: Key<Node>, ancestor: Key<Node>) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    let mut open = vec![node];
    while let Some(key) = open.pop() {
        if key == ancestor {
            return true;
        }
        if seen.insert(key) {
            open.extend(
                state
                    .nodes
                    .get(key)
                    .into_iter()
                    .flat_map(|node| node.dependencies.iter().map(|(dependency, _)| *dependency)),
            );
        }
    }
    false
}

/// Every edge: from, to.
pub(crate) fn edges(state: &State, graph: Key<Graph>) -> Answer<Vec<Connection>> {
    let nodes = get(state, graph)?
        .nodes
        .iter()
        .filter_map(|key| Some((*key, state.nodes.get(*key)?)));
    Ok(nodes
        .flat_map(|(to, node)| {
            node.dependencies
                .iter()
                .map(move |(from, edge)| (*from, to, *edge))
        })
        .collect())
}

/// Nodes in an order in which each comes after those that it depends on; otherwise as they were added.
pub(crate) fn sorted(state: &State, graph: Key<Graph>) -> Answer<Vec<Key<Node>>> {
    let mut waiting: BTreeMap<Key<Node>, usize> = BTreeMap::new();
    let mut after: BTreeMap<Key<Node>, Vec<Key<Node>>> = BTreeMap::new();
    for key in &get(state, graph)?.nodes {
        let dependencies = &node(state, *key)?.dependencies;
        waiting.insert(*key, dependencies.len());
        for (dependency, _) in dependencies {
            after.entry(*dependency).or_default().push(*key);
        }
    }
    let mut ready: std::collections::BTreeSet<Key<Node>> = waiting
        .iter()
        .filter(|(_, count)| **count == 0)
        .map(|(key, _)| *key)
        .collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(key) = ready.pop_first() {
        order.push(key);
        for next in after.get(&key).into_iter().flatten() {
            if let Some(count) = waiting.get_mut(next) {
                *count -= 1;
                if *count == 0 {
                    ready.insert(*next);
                }
            }
        }
    }
    if order.len() == waiting.len() {
        Ok(order)
    } else {
        Err(CUDA_ERROR_INVALID_VALUE)
    }
}
