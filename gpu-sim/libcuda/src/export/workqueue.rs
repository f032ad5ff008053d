//! Work queues as device resources.

use cuda_sys_stubs::abi::*;

use crate::door::Answer;
use crate::workqueue::{Config, Wanted, Workqueue};

fn resource(kind: CUdevResourceType, anonymous: anonymous_devResource) -> CUdevResource {
    CUdevResource {
        type_: kind,
        _internal_padding: [0; 92],
        anonymous,
        nextResource: std::ptr::null_mut(),
    }
}

/// How they are, to be changed in place.
pub(super) fn config(queue: Workqueue) -> Answer<CUdevResource> {
    let Config {
        device,
        concurrency_limit,
        scope,
    } = queue.config;
    let mut anonymous = anonymous_devResource { _oversize: [0; 40] };
    anonymous.wqConfig = CUdevWorkqueueConfigResource {
        device: CUdevice::try_from(device).map_err(|_| CUDA_ERROR_INVALID_DEVICE)?,
        wqConcurrencyLimit: concurrency_limit,
        sharingScope: scope,
    };
    Ok(resource(CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG, anonymous))
}

/// Their name, for another context to have the same. The device is counted from 1, so that a resource that nobody made is none.
pub(super) fn name(queue: Workqueue) -> CUdevResource {
    let mut reserved = [0; 40];
    let device = queue.config.device.saturating_add(1).to_le_bytes();
    let bytes = device.into_iter().chain(queue.id.to_le_bytes());
    for (to, from) in reserved.iter_mut().zip(bytes) {
        *to = from;
    }
    let wq = CUdevWorkqueueResource { reserved };
    resource(CU_DEV_RESOURCE_TYPE_WORKQUEUE, anonymous_devResource { wq })
}

/// What a resource of one of the two kinds asks for; `None`: it is another one.
pub(super) fn wanted(resource: &CUdevResource) -> Answer<Option<Wanted>> {
    match resource.type_ {
        CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG => {
            // SAFETY: the type says that it is this.
            let given = unsafe { resource.anonymous.wqConfig };
            let config = Config {
                device: u32::try_from(given.device).map_err(|_| CUDA_ERROR_INVALID_DEVICE)?,
                concurrency_limit: given.wqConcurrencyLimit,
                scope: given.sharingScope,
            };
            Ok(Some(Wanted::Fresh(config.check()?)))
        }
        CU_DEV_RESOURCE_TYPE_WORKQUEUE => {
            // SAFETY: the type says that it is this.
            let CUdevWorkqueueResource { reserved } = unsafe { resource.anonymous.wq };
            existing(&reserved).map(Some)
        }
        _ => Ok(None),
    }
}

fn existing(reserved: &[u8; 40]) -> Answer<Wanted> {
    let none = CUDA_ERROR_INVALID_VALUE;
    let (device, rest) = reserved.split_first_chunk::<4>().ok_or(none)?;
    let id = rest.first_chunk::<8>().ok_or(none)?;
    let device = u32::from_le_bytes(*device).checked_sub(1).ok_or(none)?;
    let id = u64::from_le_bytes(*id);
    Ok(Wanted::Existing { device, id })
}
