//! The driver's linker, as far as it goes without machine code.
//!
//! Images of one kind are taken: any number of PTX texts, whose linked image is PTX text again, or a single cubin or fatbin, which
//! stays what it is. Everything that loads an image takes the result. Anything else is `CUDA_ERROR_NOT_SUPPORTED`.

use cuda_sys_stubs::abi::*;

use crate::door::Answer;
use crate::process::State;
use crate::table::Key;

/// A link that has begun.
#[derive(Default)]
pub(crate) struct Link {
    ptx: Vec<u8>,
    binary: Option<Vec<u8>>,
    /// What `cuLinkComplete` gave; it lives as long as the link.
    linked: Vec<u8>,
}

/// The link behind a handle.
pub(crate) fn find(state: &mut State, handle: CUlinkState) -> Answer<&mut Link> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    state.links.get_mut(key).ok_or(CUDA_ERROR_INVALID_HANDLE)
}

impl Link {
    /// Adds one image.
    pub(crate) fn add(&mut self, kind: CUjitInputType, data: &[u8]) -> Answer {
        match kind {
            CU_JIT_INPUT_PTX if self.binary.is_none() => {
                let text = data.split(|byte| *byte == 0).next().unwrap_or(&[]);
                self.ptx.extend_from_slice(text);
                self.ptx.push(b'\n');
                Ok(())
            }
            CU_JIT_INPUT_CUBIN | CU_JIT_INPUT_FATBINARY
                if self.ptx.is_empty() && self.binary.is_none() =>
            {
                self.binary = Some(data.to_vec());
                Ok(())
            }
            _ if kind >= CU_JIT_NUM_INPUT_TYPES => Err(CUDA_ERROR_INVALID_VALUE),
            _ => Err(CUDA_ERROR_NOT_SUPPORTED),
        }
    }

    /// The linked image.
    pub(crate) fn complete(&mut self) -> Answer<&[u8]> {
        self.linked = match self.binary.take() {
            Some(binary) => binary,
            None if self.ptx.is_empty() => return Err(CUDA_ERROR_INVALID_VALUE),
            None => {
                self.ptx.push(0);
                std::mem::take(&mut self.ptx)
            }
        };
        Ok(&self.linked)
    }
}
