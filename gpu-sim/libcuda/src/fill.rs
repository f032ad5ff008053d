//! Memset: fills memory, in stream order. Of device memory even the calls without a stream return before it is done, as on hardware.

use cuda_sys_stubs::abi::*;
use gpu_sim::client::{Effect, Machine};
use gpu_sim::command::Command;

use crate::address::Place;
use crate::door::{Answer, NullStream};
use crate::graph::{self, Operation};
use crate::process::{Process, State};
use crate::{bytes, capture, stream};

/// A fill as the program describes it: `width` in elements, `pitch` in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FillParams {
    pub(crate) address: CUdeviceptr,
    pub(crate) pitch: u64,
    pub(crate) value: u64,
    /// 1, 2, 4 or 8.
    pub(crate) element_bytes: u32,
    pub(crate) width: u64,
    pub(crate) height: u64,
}

/// A fill that can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) params: FillParams,
    pub(crate) place: Place,
}

impl Fill {
    /// Resolves the memory. `CUDA_ERROR_INVALID_VALUE`: an element size that is none, an address that is not a multiple of it,
    /// rows that do not fit the pitch, or memory that is not there.
    pub(crate) fn plan(state: &State, params: FillParams) -> Answer<Self> {
        let element = u64::from(params.element_bytes);
        let row = params
            .width
            .checked_mul(element)
            .ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let aligned = matches!(element, 1 | 2 | 4 | 8) && params.address.is_multiple_of(element);
        let fits =
            params.height <= 1 || (params.pitch >= row && params.pitch.is_multiple_of(element));
        if !aligned || !fits {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let before_last = params
            .height
            .saturating_sub(1)
            .checked_mul(params.pitch)
            .ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let bytes = before_last
            .checked_add(row)
            .ok_or(CUDA_ERROR_INVALID_VALUE)?;
        Ok(Self {
            params,
            place: state.book.known_place(params.address, bytes)?,
        })
    }

    pub(crate) fn command(&self) -> Command {
        let bytes = self
            .params
            .width
            .saturating_mul(self.params.height)
            .saturating_mul(self.params.element_bytes.into());
        Command::Memset { bytes }
    }

    /// What writes the bytes when the command completes.
    pub(crate) fn effect(self, machine: &'static Machine) -> Effect {
        self.place.written_by(Box::new(move || self.run(machine)))
    }

    /// Writes the bytes.
    pub(crate) fn run(&self, machine: &Machine) {
        let value = self.params.value.to_le_bytes();
        let element = usize::try_from(self.params.element_bytes)
            .ok()
            .and_then(|bytes| value.get(..bytes))
            .unwrap_or(&value);
        for row in 0..self.params.height {
            bytes::fill(
                machine,
                (self.place, row.saturating_mul(self.params.pitch)),
                element,
                self.params.width,
            );
        }
    }
}

/// Fills on a stream, or records the fill if the stream is capturing.
pub(crate) fn fill(
    process: &'static Process,
    params: FillParams,
    handle: CUstream,
    null: NullStream,
) -> Answer {
    let mut state = process.lock();
    let key = stream::resolve(process, &mut state, handle, null)?;
    if params.width == 0 || params.height == 0 {
        return Ok(());
    }
    let plan = Fill::plan(&state, params)?;
    graph::perform(process, &mut state, key, Operation::Fill(plan))
}

/// As [`fill`], for the calls without a stream, which a capture forbids. Of memory that the host sees they return when it is
/// done, of a device's at once (CUDA Driver API, "API synchronization behavior", Memset).
pub(crate) fn fill_now(process: &'static Process, params: FillParams, null: NullStream) -> Answer {
    capture::forbid(&mut process.lock())?;
    let stream = std::ptr::null_mut();
    fill(process, params, stream, null)?;
    let plan = Fill::plan(&process.lock(), params);
    if plan.is_ok_and(|plan| plan.place.is_seen_by_host()) {
        stream::synchronize(process, stream, null)?;
    }
    Ok(())
}
