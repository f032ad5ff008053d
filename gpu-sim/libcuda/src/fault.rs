//! Kernels that fault, and the errors that stick to whom they ruin.
//!
//! What a fault ruins is what cuda.h says of its error: after a failed assertion "the context cannot be used anymore, and must be
//! destroyed"; any other exception "leaves the process in an inconsistent state and any further CUDA work will return the same
//! error". As every error of a kernel it is found when the device comes to it, by whichever call is next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cuda_sys_stubs::abi::*;
use gpu_sim::client::Effect;

use crate::door::Answer;
use crate::image;
use crate::process;

/// The error that sticks to a context, and to the green contexts that are parts of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sticky(Arc<AtomicU32>);

impl Sticky {
    /// What a call answers that concerns the context.
    pub(crate) fn check(&self) -> Answer {
        process::sticky()?;
        match self.0.load(Ordering::Relaxed) {
            CUDA_SUCCESS => Ok(()),
            error => Err(error),
        }
    }
}

/// How the launches of a kernel end.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    kind: image::Fault,
    /// Of the kernel's context.
    sticky: Sticky,
}

impl Fault {
    pub(crate) fn new(kind: image::Fault, sticky: &Sticky) -> Self {
        let sticky = sticky.clone();
        Self { kind, sticky }
    }

    /// What happens in this process when such a launch ends.
    pub(crate) fn effect(&self) -> Effect {
        let Self { kind, sticky } = self.clone();
        Effect::Fault(Box::new(move || match kind {
            image::Fault::Assert => sticky.0.store(CUDA_ERROR_ASSERT, Ordering::Relaxed),
            image::Fault::Trap => process::stick(CUDA_ERROR_LAUNCH_FAILED),
        }))
    }
}
