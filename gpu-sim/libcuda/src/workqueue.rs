//! Work queues: what the streams of a context hand their work to the device through.
//!
//! On hardware two streams that share one may wait for each other's work. Here each stream has a queue of its own, so work queues are
//! kept and told, and have no effect: streams interfere as little as the best configuration can promise.
//!
//! Source: cuda.h 13.5, "Green Contexts", "Workqueues". How many there are, and how that is set: CUDA C++ Programming Guide,
//! `CUDA_DEVICE_MAX_CONNECTIONS`: 1 to 32, by default 8.

use cuda_sys_stubs::abi::*;

use crate::context::{self, Context};
use crate::door::Answer;
use crate::process::{Process, State};
use crate::table::Key;

/// Stream-ordered work that a device takes at once, unless the environment says otherwise.
const CONNECTIONS: u32 = 8;
const CONNECTIONS_MAX: u32 = 32;

/// How work queues are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Ordinal of the device.
    pub(crate) device: u32,
    /// Stream-ordered work that is expected at once; may be more than the device takes.
    pub(crate) concurrency_limit: u32,
    pub(crate) scope: CUdevWorkqueueConfigScope,
}

impl Config {
    /// What no device can have: `CUDA_ERROR_INVALID_VALUE`.
    pub(crate) fn check(self) -> Answer<Self> {
        let is_known = matches!(
            self.scope,
            CU_WORKQUEUE_SCOPE_DEVICE_CTX | CU_WORKQUEUE_SCOPE_GREEN_CTX_BALANCED
        );
        let is_possible = is_known && self.concurrency_limit > 0;
        is_possible.then_some(self).ok_or(CUDA_ERROR_INVALID_VALUE)
    }
}

/// The work queues of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Workqueue {
    /// Contexts with the same one share them. [`SHARED`]: those of the device.
    pub(crate) id: u64,
    pub(crate) config: Config,
}

/// What all contexts of a device share that have none of their own.
const SHARED: u64 = 0;

/// What a green context is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// As any context.
    Shared,
    Fresh(Config),
    /// Those of a context with this id, on this device.
    Existing {
        device: u32,
        id: u64,
    },
}

impl Wanted {
    /// The device that they are of, if that is said.
    pub(crate) fn device(self) -> Option<u32> {
        match self {
            Self::Shared => None,
            Self::Fresh(Config { device, .. }) | Self::Existing { device, .. } => Some(device),
        }
    }
}

/// The number of connections that the environment asks for; what is no such number asks for nothing.
pub(crate) fn connections(asked: Option<&str>) -> u32 {
    let number = asked.and_then(|text| text.trim().parse().ok());
    number
        .filter(|number| (1..=CONNECTIONS_MAX).contains(number))
        .unwrap_or(CONNECTIONS)
}

/// Those of a device.
pub(crate) fn of_device(process: &Process, device: u32) -> Workqueue {
    let config = Config {
        device,
        concurrency_limit: process.connections,
        scope: CU_WORKQUEUE_SCOPE_DEVICE_CTX,
    };
    Workqueue { id: SHARED, config }
}

/// Those of a context: a green one's own, else the device's.
pub(crate) fn of_context(process: &Process, state: &State, key: Key<Context>) -> Answer<Workqueue> {
    let device = context::get(state, key)?.device;
    let mut greens = state.greens.iter();
    let own = greens.find(|(_, green)| green.context == key);
    let shared = |_| CUDA_ERROR_INVALID_DEVICE;
    match own {
        Some((_, green)) => Ok(green.workqueue),
        None => Ok(of_device(process, u32::try_from(device).map_err(shared)?)),
    }
}

/// Those that a new green context gets. `CUDA_ERROR_INVALID_VALUE`: the context that had them is gone.
pub(crate) fn provide(
    process: &Process,
    state: &mut State,
    device: u32,
    wanted: Wanted,
) -> Answer<Workqueue> {
    match wanted {
        Wanted::Shared | Wanted::Existing { id: SHARED, .. } => Ok(of_device(process, device)),
        Wanted::Existing { id, .. } => {
            let mut known = state.greens.iter().map(|(_, green)| green.workqueue);
            known
                .find(|known| known.id == id)
                .ok_or(CUDA_ERROR_INVALID_VALUE)
        }
        Wanted::Fresh(config) if config.scope == CU_WORKQUEUE_SCOPE_DEVICE_CTX => {
            Ok(Workqueue { id: SHARED, config })
        }
        Wanted::Fresh(config) => {
            state.workqueues += 1;
            let id = state.workqueues;
            Ok(Workqueue { id, config })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_connections_that_no_device_has_asks_for_nothing() {
        let asked = ["1", "32", "0", "33", "many", ""].map(|text| connections(Some(text)));
        assert_eq!(asked, [1, 32, 8, 8, 8, 8]);
        assert_eq!(connections(None), 8);
    }
}
