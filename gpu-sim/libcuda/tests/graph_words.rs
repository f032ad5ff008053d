//! Graph nodes that write words and wait for them.

mod support;

use cuda_sys_stubs::abi::*;
use support::{alloc, context, cu, free_stream, ok, read};

fn word(operation: CUstreamBatchMemOpType, address: CUdeviceptr, value64: u64) -> Word {
    let flags = 0; // of a wait: at least
    CUstreamBatchMemOpParams {
        waitValue: anonymous_memOpValue {
            operation,
            address,
            value64,
            flags,
            alias: 0,
        },
    }
}

type Word = CUstreamBatchMemOpParams;

fn params(words: &mut [Word]) -> CUDA_BATCH_MEM_OP_NODE_PARAMS {
    CUDA_BATCH_MEM_OP_NODE_PARAMS {
        ctx: std::ptr::null_mut(),
        count: words.len() as u32,
        paramArray: words.as_mut_ptr(),
        flags: 0,
    }
}

/// A graph of a batch that writes, waits and writes, and a fill behind it. Its places are four words.
fn graph(words: &mut [Word], memory: CUdeviceptr) -> (CUgraph, CUgraphNode) {
    let (mut graph, mut batch) = (std::ptr::null_mut(), std::ptr::null_mut());
    let (mut node, nothing) = (std::ptr::null_mut(), std::ptr::null());
    ok!(cuGraphCreate(&mut graph, 0));
    ok!(cuGraphAddBatchMemOpNode(
        &mut batch,
        graph,
        nothing,
        0,
        &params(words)
    ));
    let fill = CUDA_MEMSET_NODE_PARAMS {
        dst: memory + 12,
        pitch: 0,
        value: 9,
        elementSize: 4,
        width: 1,
        height: 1,
    };
    let context = std::ptr::null_mut();
    ok!(cuGraphAddMemsetNode(
        &mut node, graph, &batch, 1, &fill, context
    ));
    (graph, batch)
}

fn batch(memory: CUdeviceptr, wanted: u64) -> [Word; 4] {
    [
        word(CU_STREAM_MEM_OP_WRITE_VALUE_32, memory, 7),
        word(CU_STREAM_MEM_OP_BARRIER, 0, 0),
        word(CU_STREAM_MEM_OP_WAIT_VALUE_32, memory + 4, wanted),
        word(CU_STREAM_MEM_OP_WRITE_VALUE_32, memory + 8, 8),
    ]
}

fn bytes(words: [u8; 4]) -> Vec<u8> {
    words.iter().flat_map(|word| [*word, 0, 0, 0]).collect()
}

#[test]
fn a_batch_in_a_graph_writes_and_waits_in_its_order_at_each_launch() {
    context();
    let (memory, stream) = (alloc(16), free_stream());
    let (graph, node) = graph(&mut batch(memory, 1), memory);
    let mut exec = std::ptr::null_mut();
    ok!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    for wanted in [1, 1, 2] {
        if wanted == 2 {
            let mut later = batch(memory, 2);
            ok!(cuGraphExecBatchMemOpNodeSetParams(
                exec,
                node,
                &params(&mut later)
            ));
        }
        ok!(cuMemsetD8_v2(memory, 0, 16));
        ok!(cuGraphLaunch(exec, stream));
        while read(memory, 1) != [7] {
            std::thread::yield_now();
        }
        ok!(cuMemsetD32_v2(memory + 4, wanted - 1, 1));
        assert_eq!(cu!(cuStreamQuery(stream)), CUDA_ERROR_NOT_READY);
        assert_eq!(read(memory, 16), bytes([7, wanted as u8 - 1, 0, 0]));
        ok!(cuMemsetD32_v2(memory + 4, wanted, 1));
        ok!(cuStreamSynchronize(stream));
        assert_eq!(read(memory, 16), bytes([7, wanted as u8, 8, 9]));
    }
}

#[test]
fn a_batch_node_tells_what_it_was_given_and_takes_no_other_than_a_batch() {
    context();
    let memory = alloc(16);
    let (graph, node) = graph(&mut batch(memory, 1), memory);
    let mut asked = params(&mut []);
    ok!(cuGraphBatchMemOpNodeGetParams(node, &mut asked));
    // SAFETY: the node keeps as many operations as it says; the third is a wait.
    let wait = unsafe { asked.paramArray.add(2).read().waitValue };
    assert_eq!(
        (asked.count, wait.address, wait.value64),
        (4, memory + 4, 1)
    );
    let mut other = batch(memory, 5);
    ok!(cuGraphBatchMemOpNodeSetParams(node, &params(&mut other)));
    ok!(cuGraphBatchMemOpNodeGetParams(node, &mut asked));
    // SAFETY: as above.
    let wait = unsafe { asked.paramArray.add(2).read().waitValue };
    assert_eq!(wait.value64, 5);
    let (mut first, mut kind, mut count) = (std::ptr::null_mut(), 0, 1);
    ok!(cuGraphGetRootNodes(graph, &mut first, &mut count));
    ok!(cuGraphNodeGetType(first, &mut kind));
    assert_eq!(kind, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
    let mut flagged = params(&mut other);
    flagged.flags = 1;
    let mut too_many = vec![batch(memory, 1)[0]; 257];
    let askew = &mut [word(CU_STREAM_MEM_OP_WAIT_VALUE_32, memory + 2, 1)];
    for wrong in [flagged, params(&mut too_many), params(askew)] {
        assert_eq!(
            cu!(cuGraphBatchMemOpNodeSetParams(node, &wrong)),
            CUDA_ERROR_INVALID_VALUE
        );
    }
}

/// Nodes that a capturing stream got for what `record` asked of it, in their order.
fn captured(record: impl FnOnce(CUstream)) -> (CUgraph, Vec<CUgraphNode>) {
    let (stream, mut graph) = (free_stream(), std::ptr::null_mut());
    let mode = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    ok!(cuStreamBeginCapture_v2(stream, mode));
    record(stream);
    ok!(cuStreamEndCapture(stream, &mut graph));
    let (mut nodes, mut count) = ([std::ptr::null_mut(); 8], 8);
    ok!(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
    (graph, nodes[..count].to_vec())
}

#[test]
fn captured_writes_and_waits_are_batch_nodes_that_tell_what_was_asked() {
    context();
    let memory = alloc(32);
    let (_, nodes) = captured(|stream| {
        ok!(cuStreamWriteValue32(stream, memory, 3, 0));
        ok!(cuStreamWaitValue32_ptsz(stream, memory, 4, 0));
        ok!(cuStreamWriteValue64_v2(stream, memory + 8, 5, 0));
        let flags = CU_STREAM_WAIT_VALUE_EQ;
        ok!(cuStreamWaitValue64_v2_ptsz(stream, memory + 8, 6, flags));
        let mut two = batch(memory, 1);
        ok!(cuStreamBatchMemOp_v2(stream, 2, two.as_mut_ptr(), 0));
        let askew = cu!(cuStreamWaitValue32_v2(stream, memory + 2, 1, 0));
        assert_eq!(askew, CUDA_ERROR_INVALID_VALUE);
    });
    let expected = [
        (CU_STREAM_MEM_OP_WRITE_VALUE_32, memory, 3, 1),
        (CU_STREAM_MEM_OP_WAIT_VALUE_32, memory, 4, 1),
        (CU_STREAM_MEM_OP_WRITE_VALUE_64, memory + 8, 5, 1),
        (CU_STREAM_MEM_OP_WAIT_VALUE_64, memory + 8, 6, 1),
        (CU_STREAM_MEM_OP_WRITE_VALUE_32, memory, 7, 2),
    ];
    let told = nodes.iter().map(|&node| {
        let (mut kind, mut asked) = (0, params(&mut []));
        ok!(cuGraphNodeGetType(node, &mut kind));
        assert_eq!(kind, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
        ok!(cuGraphBatchMemOpNodeGetParams(node, &mut asked));
        // SAFETY: the node keeps as many operations as it says, and has one at least.
        let first = unsafe { asked.paramArray.read().waitValue };
        (first.operation, first.address, first.value64, asked.count)
    });
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

#[test]
fn a_captured_reduction_is_made_at_each_launch() {
    context();
    let (memory, stream, mut exec) = (alloc(16), free_stream(), std::ptr::null_mut());
    ok!(cuMemsetD8_v2(memory, 0, 16));
    let (graph, nodes) = captured(|stream| {
        let mut reduction = CUstreamBatchMemOpParams {
            atomicReduction: anonymous_memOpReduction {
                operation: CU_STREAM_MEM_OP_ATOMIC_REDUCTION,
                flags: 0,
                reductionOp: CU_STREAM_ATOMIC_REDUCTION_OP_ADD,
                dataType: CU_STREAM_ATOMIC_REDUCTION_UNSIGNED_32,
                address: memory + 4,
                value: 3,
                alias: 0,
            },
        };
        ok!(cuStreamBatchMemOp_v2(stream, 1, &mut reduction, 0));
    });
    assert_eq!(nodes.len(), 1);
    ok!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    for launches in 1..=3 {
        ok!(cuGraphLaunch(exec, stream));
        ok!(cuStreamSynchronize(stream));
        assert_eq!(read(memory, 16), bytes([0, 3 * launches, 0, 0]));
    }
}

#[test]
fn a_captured_wait_holds_each_launch_until_the_word_is_there() {
    context();
    let (memory, stream, mut exec) = (alloc(16), free_stream(), std::ptr::null_mut());
    let (graph, _) = captured(|stream| {
        ok!(cuStreamWriteValue32_v2(stream, memory, 7, 0));
        ok!(cuStreamWaitValue32_v2(stream, memory + 4, 1, 0));
        ok!(cuStreamWriteValue32_v2(stream, memory + 8, 8, 0));
    });
    ok!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    for _ in 0..2 {
        ok!(cuMemsetD8_v2(memory, 0, 16));
        ok!(cuGraphLaunch(exec, stream));
        while read(memory, 1) != [7] {
            std::thread::yield_now();
        }
        assert_eq!(cu!(cuStreamQuery(stream)), CUDA_ERROR_NOT_READY);
        assert_eq!(read(memory, 16), bytes([7, 0, 0, 0]));
        ok!(cuMemsetD32_v2(memory + 4, 1, 1));
        ok!(cuStreamSynchronize(stream));
        assert_eq!(read(memory, 16), bytes([7, 1, 8, 0]));
    }
}
