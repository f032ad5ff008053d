//! The driver's linker, as far as it goes without machine code: what is linked is kept, and read when it is loaded.
//!
//! PTX texts become one text. A cubin, a fat binary, or the fat binaries in a host's object or archive, are taken as they are; of several
//! images the result is a container of our own ([`bundle`]), which stands for the cubin that the real linker writes. References
//! between images are not followed: no kernel runs an instruction. `CUDA_ERROR_NOT_SUPPORTED` for `CU_JIT_INPUT_NVVM`: intermediate code
//! for optimization at link time, of which the driver takes what toolkits before CUDA 12.0 wrote (cuda.h 13.5,
//! `CUjitInputType`), and which says of kernels nothing that could be read here.

use cuda_sys_stubs::abi::*;

use crate::context;
use crate::door::Answer;
use crate::image::{self, Unreadable, bundle, host};
use crate::process::{Process, State};
use crate::table::Key;

/// A link that has begun.
pub(crate) struct Link {
    /// Compute capability × 10 of the device that it is for.
    capability: u32,
    ptx: Vec<u8>,
    binaries: Vec<Vec<u8>>,
    /// What `cuLinkComplete` gave; it lives as long as the link.
    linked: Vec<u8>,
}

/// The link behind a handle.
pub(crate) fn find(state: &mut State, handle: CUlinkState) -> Answer<&mut Link> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    state.links.get_mut(key).ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// Begins a link for the current context's device.
pub(crate) fn create(process: &Process) -> Answer<Key<Link>> {
    let mut state = process.lock();
    let context = context::current(&state)?;
    let device = context::get(&state, context)?.device;
    let device = process
        .devices
        .get(device)
        .ok_or(CUDA_ERROR_INVALID_DEVICE)?;
    let (major, minor) = device.profile.compute_capability;
    Ok(state.links.insert(Link {
        capability: major * 10 + minor,
        ptx: Vec::new(),
        binaries: Vec::new(),
        linked: Vec::new(),
    }))
}

impl Link {
    /// Adds one image, or those that are in it.
    pub(crate) fn add(&mut self, kind: CUjitInputType, data: &[u8]) -> Answer {
        match kind {
            CU_JIT_INPUT_PTX => {
                let text = data.split(|byte| *byte == 0).next().unwrap_or(&[]);
                self.ptx.extend_from_slice(text);
                self.ptx.push(b'\n');
                Ok(())
            }
            CU_JIT_INPUT_CUBIN | CU_JIT_INPUT_FATBINARY => self.add_binaries(Ok(vec![data])),
            CU_JIT_INPUT_OBJECT => self.add_binaries(host::object(data)),
            CU_JIT_INPUT_LIBRARY => self.add_binaries(host::archive(data)),
            CU_JIT_INPUT_NVVM => Err(CUDA_ERROR_NOT_SUPPORTED),
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }

    /// Adds all, if all can run on the device.
    fn add_binaries(&mut self, found: Result<Vec<&[u8]>, Unreadable>) -> Answer {
        let found = found.map_err(Unreadable::status)?;
        for binary in &found {
            image::read(binary, self.capability).map_err(Unreadable::status)?;
        }
        self.binaries.extend(found.into_iter().map(<[u8]>::to_vec));
        Ok(())
    }

    /// The linked image.
    pub(crate) fn complete(&mut self) -> Answer<&[u8]> {
        let mut images = std::mem::take(&mut self.binaries);
        if !self.ptx.is_empty() {
            self.ptx.push(0);
            images.insert(0, std::mem::take(&mut self.ptx));
        }
        self.linked = match images.as_mut_slice() {
            [] => return Err(CUDA_ERROR_INVALID_VALUE),
            [alone] => std::mem::take(alone),
            several => {
                let several: Vec<&[u8]> = several.iter().map(Vec::as_slice).collect();
                bundle::write(&several)
            }
        };
        Ok(&self.linked)
    }
}
