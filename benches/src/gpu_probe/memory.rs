//! What is told of memory and what is granted, and what contexts and modules take of it.

use std::collections::BTreeSet;

use benches::ptx;
use serde_json::{Value, json};

use crate::gpu::Gpu;
use crate::nvml::Nvml;

/// Allocates until it is refused, gives all back, and asks once more.
pub(crate) fn quota(chunk_mib: usize, most_mib: usize) -> Result<Value, String> {
    let gpu = Gpu::open()?;
    let chunk = chunk_mib << 20;
    let before = gpu.memory_info()?;
    let mut blocks = Vec::new();
    let refusal = loop {
        if blocks.len() * chunk_mib >= most_mib {
            break None;
        }
        match gpu.allocate(chunk) {
            Ok(block) => blocks.push(block),
            Err(refusal) => break Some(refusal),
        }
    };
    let full = gpu.memory_info()?;
    let granted = blocks.len() * chunk;
    for block in blocks {
        gpu.free(block)?;
    }
    let after = gpu.memory_info()?;
    let again = gpu.allocate(chunk).is_ok();
    Ok(json!({
        "device_memory_bytes": gpu.memory_bytes()?,
        "total_bytes": before.1,
        "free_bytes_before": before.0,
        "free_bytes_full": full.0,
        "free_bytes_after": after.0,
        "granted_bytes": granted,
        "chunk_bytes": chunk,
        "refusal": refusal,
        "granted_again_after_free": again,
    }))
}

/// The board's memory, by NVML, after each step: what of it a process takes before it allocates anything. Others must leave theirs alone.
pub(crate) fn overhead() -> Result<Value, String> {
    let gpu = Gpu::initialised()?;
    let nvml = Nvml::open(&gpu.uuid()?)?;
    let mut last = nvml.memory_bytes_used()?;
    let first = last;
    let mut steps = Vec::new();
    let mut step = |what: &str, done: Result<(), String>| -> Result<(), String> {
        done?;
        let used = nvml.memory_bytes_used()?;
        let taken = i128::from(used) - i128::from(last);
        steps.push(json!({ "step": what, "bytes": i64::try_from(taken).unwrap_or_default() }));
        last = used;
        Ok(())
    };
    step("primary context", gpu.retain_primary_context())?;
    step("a stream", gpu.stream().map(drop))?;
    step(
        "64 streams",
        (0..64).try_for_each(|_| gpu.stream().map(drop)),
    )?;
    step("4 bytes", gpu.allocate(4).map(drop))?;
    step("2 MiB + 4 bytes", gpu.allocate((2 << 20) + 4).map(drop))?;
    let lengths: BTreeSet<u64> = (0..64)
        .map(|length| length * ptx::TRIP_INSTRUCTIONS)
        .collect();
    let mut module = None;
    let loaded = gpu
        .load(&ptx::module(&lengths))
        .map(|loaded| module = Some(loaded));
    step("a module of 64 kernels", loaded)?;
    let stream = gpu.stream()?;
    let kernel = gpu.spinning(0)?;
    step(
        "a first launch",
        gpu.launch(kernel, 1, stream)
            .and_then(|()| gpu.synchronize()),
    )?;
    if let Some(module) = module {
        step("the module unloaded", gpu.unload(module))?;
    }
    step("a second context", gpu.create_context())?;
    step(
        "the primary context released",
        gpu.release_primary_context(),
    )?;
    Ok(json!({ "board_bytes_before": first, "steps": steps }))
}
