//! What the device is, and what drives it.

use benches::driver;
use cuda_sys_stubs::abi::*;
use serde_json::{Value, json};

use crate::gpu::Gpu;
use crate::nvml::Nvml;

/// Attributes that say how kernels are to be read; where the driver does not know one, the reason stands in its place.
const ATTRIBUTES: [(&str, CUdevice_attribute); 10] = [
    (
        "compute_capability_major",
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
    ),
    (
        "compute_capability_minor",
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    ),
    ("sm_count", CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
    (
        "threads_per_sm_max",
        CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
    ),
    ("sm_clock_khz", CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
    ("memory_clock_khz", CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
    (
        "memory_bus_bits",
        CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH,
    ),
    ("copy_engines", CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT),
    ("compute_mode", CU_DEVICE_ATTRIBUTE_COMPUTE_MODE),
    (
        "compute_preemption",
        CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED,
    ),
];

/// Of the first visible device.
pub(crate) fn ask() -> Result<Value, String> {
    let gpu = Gpu::initialised()?;
    let uuid = gpu.uuid()?;
    let attributes = ATTRIBUTES.map(|(name, attribute)| {
        let value = gpu
            .attribute(attribute)
            .map_or_else(Value::from, Value::from);
        (name.to_owned(), value)
    });
    let nvml = Nvml::open(&uuid).and_then(|nvml| nvml.driver_version());
    Ok(json!({
        "device": gpu.name()?,
        "simulated": driver::is_simulation(),
        "uuid": uuid,
        "devices_visible": gpu.device_count()?,
        "driver_api_version": gpu.driver_version()?,
        "driver_version": nvml.unwrap_or_else(|failure| failure),
        "memory_bytes_total": gpu.memory_bytes()?,
        "attributes": Value::Object(attributes.into_iter().collect()),
    }))
}
