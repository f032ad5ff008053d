//! Atomic reductions of words, which streams make in the order of a batch (`CU_STREAM_MEM_OP_ATOMIC_REDUCTION`).

use cuda_sys_stubs::abi::*;
use gpu_sim::client::{Effect, Machine};
use gpu_sim::command::Command;

use crate::address::Place;
use crate::bytes::{self, Reduce};
use crate::door::Answer;
use crate::process::State;

/// One word, and what is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reduction {
    pub(crate) place: Place,
    reduce: Reduce,
    value: u64,
    /// 4 or 8.
    bytes: u64,
}

impl Reduction {
    /// Resolves the memory. `CUDA_ERROR_INVALID_VALUE`: an operation or a type that is none, an address that is not a multiple of the
    /// word, or memory that is not there.
    pub(crate) fn plan(state: &State, described: &anonymous_memOpReduction) -> Answer<Self> {
        let reduce = match described.reductionOp {
            CU_STREAM_ATOMIC_REDUCTION_OP_ADD => Reduce::Add,
            CU_STREAM_ATOMIC_REDUCTION_OP_AND => Reduce::And,
            CU_STREAM_ATOMIC_REDUCTION_OP_OR => Reduce::Or,
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        };
        let bytes = match described.dataType {
            CU_STREAM_ATOMIC_REDUCTION_UNSIGNED_32 => 4,
            CU_STREAM_ATOMIC_REDUCTION_UNSIGNED_64 => 8,
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        };
        if described.flags != 0 || !described.address.is_multiple_of(bytes) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        Ok(Self {
            place: state.book.known_place(described.address, bytes)?,
            reduce,
            value: described.value,
            bytes,
        })
    }

    /// The command that takes its time: that of a word that is written.
    pub(crate) fn command(&self) -> Command {
        Command::Memset { bytes: self.bytes }
    }

    /// What changes the word when the command completes.
    pub(crate) fn effect(self, machine: &'static Machine) -> Effect {
        self.place.written_by(Box::new(move || self.run(machine)))
    }

    /// Changes the word.
    pub(crate) fn run(&self, machine: &Machine) {
        bytes::reduce(machine, self.place, self.reduce, (self.value, self.bytes));
    }
}
