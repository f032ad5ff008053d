//! Pictures of graphs, in the language of Graphviz (`cuGraphDebugDotPrint`).

use std::fmt::{self, Write};

use cuda_sys_stubs::abi::*;

use super::{Graph, Node, Operation, get, node};
use crate::door::Answer;
use crate::process::State;
use crate::table::Key;

const FLAGS_ALL: u32 = CU_GRAPH_DEBUG_DOT_FLAGS_FABRIC_CPY_BATCH_NODE_PARAMS * 2 - 1;

/// The graph with its inner graphs, each in a box of its own. Flags add what the nodes do, and handles.
pub(crate) fn draw(state: &State, graph: Key<Graph>, flags: u32) -> Answer<String> {
    if flags & !FLAGS_ALL != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let mut picture = Picture {
        state,
        flags,
        text: "digraph dot {\n".to_owned(),
    };
    picture.add(graph)?;
    picture.text.push_str("}\n");
    Ok(picture.text)
}

struct Picture<'a> {
    state: &'a State,
    flags: u32,
    text: String,
}

impl Picture<'_> {
    fn add(&mut self, graph: Key<Graph>) -> Answer {
        let number = graph.number();
        self.line(format_args!(
            "subgraph cluster_{number} {{\nlabel=\"graph_{number}\" style=\"dashed\";"
        ))?;
        for key in &get(self.state, graph)?.nodes {
            let Node {
                operation,
                dependencies,
                ..
            } = node(self.state, *key)?;
            let label = self.label(*key, operation);
            self.line(format_args!(
                "\"node_{}\" [label=\"{label}\"];",
                key.number()
            ))?;
            for (from, _) in dependencies {
                let (from, to) = (from.number(), key.number());
                self.line(format_args!("\"node_{from}\" -> \"node_{to}\";"))?;
            }
            for inner in operation.inner() {
                self.add(*inner)?;
            }
        }
        self.line(format_args!("}}"))
    }

    fn line(&mut self, line: fmt::Arguments) -> Answer {
        writeln!(self.text, "{line}").map_err(|_| CUDA_ERROR_UNKNOWN)
    }

    fn wants(&self, what: u32) -> bool {
        self.flags & (CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE | what) != 0
    }

    /// What stands in a node. Names of kernels are the program's: quotes and backslashes in them are masked.
    fn label(&self, key: Key<Node>, operation: &Operation) -> String {
        let mut lines = vec![name(operation).to_owned()];
        lines.extend(self.details(operation));
        if self.wants(CU_GRAPH_DEBUG_DOT_FLAGS_HANDLES) {
            lines.push(format!("{key:?}"));
        }
        let masked = |line: &String| line.replace('\\', "\\\\").replace('"', "\\\"");
        let lines: Vec<_> = lines.iter().map(masked).collect();
        lines.join("\\n")
    }

    fn details(&self, operation: &Operation) -> Vec<String> {
        match operation {
            Operation::Kernel(launch) => {
                let function = self.state.functions.get(launch.function);
                let name = function.map(|function| function.kernel.name.clone());
                let (shape, wants) = (&launch.shape, CU_GRAPH_DEBUG_DOT_FLAGS_KERNEL_NODE_PARAMS);
                let params = self.wants(wants).then(|| {
                    let (grid, block) = (shape.grid, shape.block);
                    let bytes = shape.dynamic_shared_bytes;
                    format!("grid {grid:?} block {block:?} shared {bytes}")
                });
                name.into_iter().chain(params).collect()
            }
            Operation::Copy(copy) if self.wants(CU_GRAPH_DEBUG_DOT_FLAGS_MEMCPY_NODE_PARAMS) => {
                let params = &copy.params;
                let (width, height, depth) = (params.width, params.height, params.depth);
                let (src, dst) = (params.src.address, params.dst.address);
                vec![format!(
                    "{src:#x} to {dst:#x}, {width} x {height} x {depth}"
                )]
            }
            Operation::Fill(fill) if self.wants(CU_GRAPH_DEBUG_DOT_FLAGS_MEMSET_NODE_PARAMS) => {
                let params = &fill.params;
                let (width, height) = (params.width, params.height);
                let (address, value) = (params.address, params.value);
                vec![format!("{address:#x} = {value:#x}, {width} x {height}")]
            }
            _ => Vec::new(),
        }
    }
}

/// The kind of a node, as `CUgraphNodeType` names it.
fn name(operation: &Operation) -> &'static str {
    match operation {
        Operation::Kernel(_) => "KERNEL",
        Operation::Copy(_) => "MEMCPY",
        Operation::Fill(_) => "MEMSET",
        Operation::Host(_) => "HOST",
        Operation::Child(_) => "GRAPH",
        Operation::Empty => "EMPTY",
        Operation::WaitEvent(_) => "WAIT_EVENT",
        Operation::RecordEvent(_) | Operation::Moved => "EVENT_RECORD",
        Operation::Alloc(_) => "MEM_ALLOC",
        Operation::Free(_) => "MEM_FREE",
        Operation::Conditional(_) => "CONDITIONAL",
        Operation::BeginWords(_) | Operation::Words(_) => "BATCH_MEM_OP",
    }
}
