//! Launches in parts, from before CUDA 4.0: block, shared memory and parameters are set on the function, then it is launched.

use cuda_sys_stubs::abi::*;

use crate::door::Answer;
use crate::image::Param;
use crate::launch::{Arguments, Shape};

/// Parameters that a kernel can have in all (CUDA C++ Programming Guide, "Function Parameters", as before CUDA 12.1).
const PARAMETER_BYTES_MAX: usize = 4096;

/// What was set on a function for its next launches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StagedLaunch {
    block: Option<[u32; 3]>,
    pub(crate) shared_bytes: u32,
    /// Up to the last byte that was written.
    parameters: Vec<u8>,
    parameter_bytes: usize,
}

impl StagedLaunch {
    /// `cuFuncSetBlockShape`. Whether the device can have such a block is asked by the launch.
    pub(crate) fn set_block(&mut self, block: [i32; 3]) -> Answer {
        self.block = Some(positive(block)?);
        Ok(())
    }

    /// `cuParamSetSize`: how many bytes of what was written are the kernel's.
    pub(crate) fn set_parameter_bytes(&mut self, bytes: u32) -> Answer {
        let bytes = usize::try_from(bytes).ok();
        let bytes = bytes.filter(|bytes| *bytes <= PARAMETER_BYTES_MAX);
        self.parameter_bytes = bytes.ok_or(CUDA_ERROR_INVALID_VALUE)?;
        Ok(())
    }

    /// `cuParamSetv`, and what it is for one word.
    pub(crate) fn set_parameter(&mut self, offset: i32, value: &[u8]) -> Answer {
        let start = usize::try_from(offset).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
        let end = start.saturating_add(value.len());
        if end > PARAMETER_BYTES_MAX {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        if end > self.parameters.len() {
            self.parameters.resize(end, 0);
        }
        let place = self.parameters.get_mut(start..end);
        place
            .ok_or(CUDA_ERROR_INVALID_VALUE)?
            .copy_from_slice(value);
        Ok(())
    }

    /// Shape of a launch of so many blocks. A function whose block was never set cannot be launched.
    pub(crate) fn shape(&self, [width, height]: [i32; 2]) -> Answer<Shape> {
        let block = self.block.ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let grid = positive([width, height, 1])?;
        Ok(Shape::new(grid, block, self.shared_bytes))
    }

    /// Values of the parameters; what was not set, or lies behind the size, is zero.
    pub(crate) fn arguments(&self, params: &[Param]) -> Arguments {
        let value = |param: &Param| {
            let byte = |at: usize| {
                self.parameters
                    .get(at)
                    .filter(|_| at < self.parameter_bytes)
            };
            let bytes = param.offset..param.offset.saturating_add(param.size);
            bytes.map(|at| byte(at).copied().unwrap_or(0)).collect()
        };
        Arguments::new(params.iter().map(value).collect())
    }
}

fn positive(dims: [i32; 3]) -> Answer<[u32; 3]> {
    if dims.iter().any(|dim| *dim <= 0) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    Ok(dims.map(i32::unsigned_abs))
}
