//! Who uses the GPUs, as NVML lists it: it is asked through the companion.

use cuda_hook_libraries::{Gpu, Question, Unusable};
use limiter::explain::GpuList;
use limiter::units::DeviceUuid;

use super::once_each;
use crate::failure::Failure;
use crate::libraries::Libraries;

/// Why NVML lists nothing here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Silent {
    /// It says so itself, or there is none.
    #[error("{0}")]
    Unusable(Unusable),
    /// Nobody could ask it.
    #[error("NVML was not asked: {0}")]
    Unasked(#[from] Failure),
}

/// What of NVML has been opened.
pub(crate) struct Nvml(Libraries);

impl Nvml {
    pub(crate) fn open() -> Result<Self, Silent> {
        Ok(Self(Libraries::start()?))
    }

    /// Who uses these GPUs, without those that NVML does not know.
    pub(crate) fn list(&mut self, devices: &[DeviceUuid]) -> Result<Vec<GpuList>, Silent> {
        let uuids = devices.iter().map(ToString::to_string).collect();
        let listed: Result<Vec<Gpu>, Unusable> = self.0.ask(&Question::Processes(uuids))?;
        let gpus = listed.map_err(Silent::Unusable)?;
        Ok(gpus.iter().filter_map(list).collect())
    }
}

fn list(gpu: &Gpu) -> Option<GpuList> {
    let processes = gpu.processes.iter();
    Some(GpuList {
        device: gpu.uuid.parse().ok()?,
        processes: once_each(processes.map(|process| (process.pid, process.memory_bytes))),
    })
}
