//! What a program sees of the driver: statuses of right and wrong calls, and where functions are handed out from.

use std::path::Path;

use cuda_sys_stubs::abi::CU_DEVICE_ATTRIBUTE_WARP_SIZE;
use serde_json::{Value, json};

use crate::gpu::{Gpu, file_of};

/// Bare and behind the preload without limits these must be the same.
pub(crate) fn statuses() -> Result<Value, String> {
    let gpu = Gpu::open()?;
    let stream = gpu.stream()?;
    let block = gpu.allocate(1 << 20)?;
    let freed = gpu.free(block);
    let kernel = gpu.spinning(1_000)?;
    let event = gpu.event(false)?;
    let too_much = gpu.memory_bytes()?.saturating_mul(2);
    let calls: Vec<(&str, Result<(), String>)> = vec![
        (
            "an attribute",
            gpu.attribute(CU_DEVICE_ATTRIBUTE_WARP_SIZE).map(drop),
        ),
        (
            "an attribute that there is not",
            gpu.attribute(99_999).map(drop),
        ),
        ("memory", gpu.allocate(4_096).map(drop)),
        ("no memory", gpu.allocate(0).map(drop)),
        (
            "more memory than there is",
            gpu.allocate(too_much).map(drop),
        ),
        ("a free", freed),
        ("a free of what was freed", gpu.free(block)),
        ("text that is no PTX", gpu.load("nonsense").map(drop)),
        ("a launch", gpu.launch(kernel, 1, stream)),
        ("a launch of no blocks", gpu.launch(kernel, 0, stream)),
        (
            "an event that nothing recorded, elapsed",
            gpu.elapsed_us(event, event).map(drop),
        ),
        ("the end of it all", gpu.synchronize()),
    ];
    let calls = calls.into_iter().map(|(what, done)| {
        let status = done.err().unwrap_or_else(|| "success".to_owned());
        json!({ "call": what, "status": status })
    });
    let (free, total) = gpu.memory_info()?;
    Ok(json!({
        "calls": calls.collect::<Vec<_>>(),
        "total_bytes": total,
        "free_is_of_total": free <= total,
    }))
}

/// Names as programs ask `cuGetProcAddress` for them, and as which symbols the loader has them.
const NAMES: [(&str, &str); 14] = [
    ("cuMemAlloc", "cuMemAlloc_v2"),
    ("cuMemFree", "cuMemFree_v2"),
    ("cuMemGetInfo", "cuMemGetInfo_v2"),
    ("cuMemAllocAsync", "cuMemAllocAsync"),
    ("cuMemFreeAsync", "cuMemFreeAsync"),
    ("cuMemAllocManaged", "cuMemAllocManaged"),
    ("cuMemAllocPitch", "cuMemAllocPitch_v2"),
    ("cuMemCreate", "cuMemCreate"),
    ("cuArrayCreate", "cuArrayCreate_v2"),
    ("cuLaunchKernel", "cuLaunchKernel"),
    ("cuLaunchKernelEx", "cuLaunchKernelEx"),
    ("cuLaunchCooperativeKernel", "cuLaunchCooperativeKernel"),
    ("cuGraphLaunch", "cuGraphLaunch"),
    ("cuCtxGetDevice", "cuCtxGetDevice"),
];

/// The files that each name leads to, by the driver's door and by the loader's, and whether both lead to the same place.
pub(crate) fn files() -> Result<Value, String> {
    let gpu = Gpu::initialised()?;
    let version = gpu.driver_version()?;
    let mut names = Vec::new();
    for (name, symbol) in NAMES {
        let handed = gpu.proc_address(name, version)?;
        let loaded = gpu.loader_address(symbol);
        names.push(json!({
            "name": name,
            "by_driver": handed.and_then(file_name),
            "by_loader": loaded.and_then(file_name),
            "same": handed == loaded,
        }));
    }
    Ok(json!({ "driver_api_version": version, "names": names }))
}

fn file_name(address: usize) -> Option<String> {
    let path = file_of(address)?;
    let name = Path::new(&path).file_name()?;
    Some(name.to_string_lossy().into_owned())
}
