//! Symbols with an effect on a quota that no row hooks yet: what is missed by that, and their names.
//!
//! Kept complete by a test: a symbol that `cuda-sys-stubs` gives an effect stands in the table or here.

use std::collections::BTreeSet;

use cuda_sys_stubs::Effect;
use cuda_sys_stubs::symbols::{DRIVER, NVML};

use crate::table::{DRIVER_HOOKS, NVML_HOOKS};

/// What is missed, and by which symbols.
pub(crate) const NOT_YET: &[(&str, &[&str])] = &[
    (
        "Passed through untouched on purpose: undocumented tables by number, which the runtime checks against tampering.",
        &["cuGetExportTable", "nvmlInternalGetExportTable"],
    ),
    (
        "In no public header: what they do is not known.",
        &[
            "cuEGLApiInit",
            "cuMemGetAttribute",
            "cuMemGetAttribute_v2",
            "cuSubgridCreate",
            "cuSubgridWorkerGridCreate",
            "cuSubgridWorksetCreate",
            "nvmlRetry_NvRmControl",
        ],
    ),
    (
        "The shape that a legacy `cuLaunch` runs with is not part of its price's key: one price for all shapes.",
        &["cuFuncSetBlockShape"],
    ),
    (
        "The nodes of a graph that allocate are asked of the driver when it is instantiated.",
        &["cuGraphAddMemAllocNode", "cuGraphAddMemFreeNode"],
    ),
    (
        "A graph is priced as a whole by measuring its launches: how it was made or changed is seen in the next samples.",
        &[
            "cuGraphAddChildGraphNode",
            "cuGraphClone",
            "cuGraphConditionalHandleCreate",
            "cuGraphExecChildGraphNodeSetParams",
            "cuGraphNodeSetEnabled",
        ],
    ),
    (
        "Whether a stream records into a graph is asked of the driver at each launch and allocation.",
        &[
            "cuStreamBeginCapture",
            "cuStreamBeginCaptureToCig",
            "cuStreamBeginCaptureToCig_ptsz",
            "cuStreamBeginCaptureToGraph",
            "cuStreamBeginCaptureToGraph_ptsz",
            "cuStreamBeginCapture_ptsz",
            "cuStreamBeginCapture_v2",
            "cuStreamBeginCapture_v2_ptsz",
            "cuStreamEndCapture",
            "cuStreamEndCaptureToCig",
            "cuStreamEndCaptureToCig_ptsz",
            "cuStreamEndCapture_ptsz",
            "cuStreamUpdateCaptureDependencies",
            "cuStreamUpdateCaptureDependencies_ptsz",
            "cuStreamUpdateCaptureDependencies_v2",
            "cuStreamUpdateCaptureDependencies_v2_ptsz",
            "cuThreadExchangeStreamCaptureMode",
        ],
    ),
    (
        "Copies and memsets run beside kernels, on copy engines, or are short; those that occupy SMs are not charged.",
        &[
            "cuMemBatchDecompressAsync",
            "cuMemBatchDecompressAsync_ptsz",
            "cuMemcpy",
            "cuMemcpy2D",
            "cuMemcpy2DAsync",
            "cuMemcpy2DAsync_v2",
            "cuMemcpy2DAsync_v2_ptsz",
            "cuMemcpy2DUnaligned",
            "cuMemcpy2DUnaligned_v2",
            "cuMemcpy2DUnaligned_v2_ptds",
            "cuMemcpy2D_v2",
            "cuMemcpy2D_v2_ptds",
            "cuMemcpy3D",
            "cuMemcpy3DAsync",
            "cuMemcpy3DAsync_v2",
            "cuMemcpy3DAsync_v2_ptsz",
            "cuMemcpy3DBatchAsync",
            "cuMemcpy3DBatchAsync_ptsz",
            "cuMemcpy3DBatchAsync_v2",
            "cuMemcpy3DBatchAsync_v2_ptsz",
            "cuMemcpy3DPeer",
            "cuMemcpy3DPeerAsync",
            "cuMemcpy3DPeerAsync_ptsz",
            "cuMemcpy3DPeer_ptds",
            "cuMemcpy3DWithAttributesAsync",
            "cuMemcpy3DWithAttributesAsync_ptsz",
            "cuMemcpy3D_v2",
            "cuMemcpy3D_v2_ptds",
            "cuMemcpyAsync",
            "cuMemcpyAsync_ptsz",
            "cuMemcpyAtoA",
            "cuMemcpyAtoA_v2",
            "cuMemcpyAtoA_v2_ptds",
            "cuMemcpyAtoD",
            "cuMemcpyAtoD_v2",
            "cuMemcpyAtoD_v2_ptds",
            "cuMemcpyBatchAsync",
            "cuMemcpyBatchAsync_ptsz",
            "cuMemcpyBatchAsync_v2",
            "cuMemcpyBatchAsync_v2_ptsz",
            "cuMemcpyDtoA",
            "cuMemcpyDtoA_v2",
            "cuMemcpyDtoA_v2_ptds",
            "cuMemcpyDtoD",
            "cuMemcpyDtoDAsync",
            "cuMemcpyDtoDAsync_v2",
            "cuMemcpyDtoDAsync_v2_ptsz",
            "cuMemcpyDtoD_v2",
            "cuMemcpyDtoD_v2_ptds",
            "cuMemcpyWithAttributesAsync",
            "cuMemcpyWithAttributesAsync_ptsz",
            "cuMemcpy_ptds",
            "cuMemsetD16",
            "cuMemsetD16Async",
            "cuMemsetD16Async_ptsz",
            "cuMemsetD16_v2",
            "cuMemsetD16_v2_ptds",
            "cuMemsetD2D16",
            "cuMemsetD2D16Async",
            "cuMemsetD2D16Async_ptsz",
            "cuMemsetD2D16_v2",
            "cuMemsetD2D16_v2_ptds",
            "cuMemsetD2D32",
            "cuMemsetD2D32Async",
            "cuMemsetD2D32Async_ptsz",
            "cuMemsetD2D32_v2",
            "cuMemsetD2D32_v2_ptds",
            "cuMemsetD2D8",
            "cuMemsetD2D8Async",
            "cuMemsetD2D8Async_ptsz",
            "cuMemsetD2D8_v2",
            "cuMemsetD2D8_v2_ptds",
            "cuMemsetD32",
            "cuMemsetD32Async",
            "cuMemsetD32Async_ptsz",
            "cuMemsetD32_v2",
            "cuMemsetD32_v2_ptds",
            "cuMemsetD8",
            "cuMemsetD8Async",
            "cuMemsetD8Async_ptsz",
            "cuMemsetD8_v2",
            "cuMemsetD8_v2_ptds",
        ],
    ),
    (
        "Memory that another process or another API has allocated is that owner's to be charged for.",
        &[
            "cuIpcCloseMemHandle",
            "cuIpcGetMemHandle",
            "cuIpcOpenMemHandle",
            "cuIpcOpenMemHandle_v2",
            "cuLogicalEndpointImport",
            "cuMemPoolImportFromShareableHandle",
            "cuMemPoolImportPointer",
        ],
    ),
    (
        "The pool that is current is asked of the driver at each allocation.",
        &["cuDeviceSetMemPool", "cuMemSetMemPool"],
    ),
    (
        "Checkpointing moves a process's memory to the host and back, unseen here.",
        &[
            "cuCheckpointProcessCheckpoint",
            "cuCheckpointProcessLock",
            "cuCheckpointProcessRestore",
            "cuCheckpointProcessUnlock",
        ],
    ),
    (
        "By number: clocks, power, temperature, errors and links of the board. No number of nvml.h 13.5 is memory in use or work of a process.",
        &["nvmlDeviceGetFieldValues"],
    ),
];

/// Every symbol of both libraries, with its effect.
fn symbols() -> impl Iterator<Item = (&'static str, Effect)> {
    let driver = DRIVER.iter().map(|symbol| (symbol.name, symbol.effect));
    driver.chain(NVML.iter().map(|symbol| (symbol.name, symbol.effect)))
}

fn hooks() -> impl Iterator<Item = (&'static str, Effect)> {
    DRIVER_HOOKS.symbols().chain(NVML_HOOKS.symbols())
}

fn not_yet() -> impl Iterator<Item = &'static str> {
    NOT_YET.iter().flat_map(|(_, names)| names.iter().copied())
}

#[test]
fn every_symbol_with_an_effect_is_hooked_or_listed() {
    let wanted: BTreeSet<_> = symbols()
        .filter(|(_, effect)| *effect != Effect::Neutral)
        .map(|(name, _)| name)
        .collect();
    let known: BTreeSet<_> = hooks().map(|(name, _)| name).chain(not_yet()).collect();
    assert_eq!(
        wanted.difference(&known).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "neither hooked nor listed"
    );
    assert_eq!(
        known.difference(&wanted).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "without an effect"
    );
}

#[test]
fn no_symbol_is_both_hooked_and_listed_or_listed_twice() {
    let mut seen: BTreeSet<_> = hooks().map(|(name, _)| name).collect();
    for name in not_yet() {
        assert!(seen.insert(name), "{name}");
    }
}

#[test]
fn a_row_and_the_symbol_table_agree_on_the_effect() {
    let symbols: BTreeSet<_> = symbols().collect();
    for hook in hooks() {
        assert!(symbols.contains(&hook), "{hook:?}");
    }
}
