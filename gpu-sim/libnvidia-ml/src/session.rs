//! `nvmlInit` and `nvmlShutdown`, and the machine between them.

use std::ffi::c_uint;
use std::process;
use std::sync::Arc;

use cuda_sys_stubs::nvml_abi::{
    NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_GPU_IS_LOST, NVML_ERROR_INVALID_ARGUMENT,
    NVML_ERROR_UNINITIALIZED, nvmlDevice_t,
};
use gpu_sim::client::{Machine, RequestError};
use gpu_sim::profile::Profile;
use parking_lot::Mutex;

use crate::door::{Answer, exports};
use crate::log;

/// A machine that is in use.
struct Session {
    machine: Arc<Machine>,
    /// Calls of `nvmlInit` that no `nvmlShutdown` has answered.
    users: u32,
    /// Whose connection it is: a forked child makes its own.
    pid: u32,
}

static SESSION: Mutex<Option<Session>> = Mutex::new(None);

exports! {
    fn nvmlInit / nvmlInit_v2() { open() }
    fn nvmlInitWithFlags(_flags: c_uint) { open() }
    fn nvmlShutdown() { close() }
}

fn open() -> Answer {
    let mut session = SESSION.lock();
    match session
        .as_mut()
        .filter(|session| session.pid == process::id())
    {
        Some(session) => session.users = session.users.saturating_add(1),
        None => {
            let machine = Machine::connect().map_err(|error| {
                log::error(format_args!("{error}"));
                NVML_ERROR_DRIVER_NOT_LOADED
            })?;
            *session = Some(Session {
                machine: Arc::new(machine),
                users: 1,
                pid: process::id(),
            });
        }
    }
    Ok(())
}

fn close() -> Answer {
    let mut session = SESSION.lock();
    let current = session.as_mut().ok_or(NVML_ERROR_UNINITIALIZED)?;
    current.users = current.users.saturating_sub(1);
    if current.users == 0 {
        *session = None;
    }
    Ok(())
}

/// The machine, between `nvmlInit` and `nvmlShutdown`.
pub(crate) fn machine() -> Answer<Arc<Machine>> {
    SESSION
        .lock()
        .as_ref()
        .map(|session| Arc::clone(&session.machine))
        .ok_or(NVML_ERROR_UNINITIALIZED)
}

/// Every request that a device refuses is about a device that is gone.
pub(crate) fn lost(error: RequestError) -> u32 {
    log::error(format_args!("{error}"));
    NVML_ERROR_GPU_IS_LOST
}

/// A device of the machine, by its handle: the index plus one, in pointer's clothing.
pub(crate) struct Device {
    pub(crate) machine: Arc<Machine>,
    pub(crate) index: u32,
}

impl Device {
    pub(crate) fn of(handle: nvmlDevice_t) -> Answer<Self> {
        let machine = machine()?;
        let index = u32::try_from(handle.addr())
            .ok()
            .and_then(|number| number.checked_sub(1));
        match index {
            Some(index) if (index as usize) < machine.devices().len() => {
                Ok(Self { machine, index })
            }
            _ => Err(NVML_ERROR_INVALID_ARGUMENT),
        }
    }

    /// The handle of a device's index.
    pub(crate) fn handle(index: usize) -> nvmlDevice_t {
        std::ptr::without_provenance_mut(index.saturating_add(1))
    }

    pub(crate) fn profile(&self) -> Answer<&Profile> {
        self.machine
            .devices()
            .get(self.index as usize)
            .ok_or(NVML_ERROR_INVALID_ARGUMENT)
    }
}
