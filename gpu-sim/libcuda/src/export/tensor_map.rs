//! Tensor maps.

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

use super::{address, get, list};
use crate::door::{Answer, exports};
use crate::process::process;
use crate::tensor_map::{Piece, Tensor, WORDS, check_device, encode, rank, replace_address};

/// Where a map lies, if that is a place for one.
fn place(map: *mut CUtensorMap) -> Answer<*mut [u64; WORDS]> {
    const ALIGNMENT: usize = 64;
    if map.is_null() || !map.addr().is_multiple_of(ALIGNMENT) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    Ok(map.cast())
}

exports! {
    fn cuTensorMapEncodeTiled(tensorMap: *mut CUtensorMap, tensorDataType: CUtensorMapDataType, tensorRank: u32, globalAddress: *mut c_void, globalDim: *const u64, globalStrides: *const u64, boxDim: *const u32, elementStrides: *const u32, interleave: CUtensorMapInterleave, swizzle: CUtensorMapSwizzle, l2Promotion: CUtensorMapL2promotion, oobFill: CUtensorMapFloatOOBfill) {
        check_device(process()?)?;
        let (map, rank) = (place(tensorMap)?, rank(tensorRank)?);
        let tensor = Tensor {
            data_type: tensorDataType,
            address: address(globalAddress),
            dims: list(globalDim, rank)?,
            strides_bytes: list(globalStrides, rank - 1)?,
            element_strides: list(elementStrides, rank)?,
            interleave,
            swizzle,
            l2_promotion: l2Promotion,
            fill: oobFill,
        };
        map.write(encode(&tensor, &Piece::Tile(list(boxDim, rank)?))?);
        Ok(())
    }
    fn cuTensorMapEncodeIm2col(tensorMap: *mut CUtensorMap, tensorDataType: CUtensorMapDataType, tensorRank: u32, globalAddress: *mut c_void, globalDim: *const u64, globalStrides: *const u64, pixelBoxLowerCorner: *const i32, pixelBoxUpperCorner: *const i32, channelsPerPixel: u32, pixelsPerColumn: u32, elementStrides: *const u32, interleave: CUtensorMapInterleave, swizzle: CUtensorMapSwizzle, l2Promotion: CUtensorMapL2promotion, oobFill: CUtensorMapFloatOOBfill) {
        check_device(process()?)?;
        let (map, rank) = (place(tensorMap)?, rank(tensorRank)?);
        let corners = rank.checked_sub(2).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let tensor = Tensor {
            data_type: tensorDataType,
            address: address(globalAddress),
            dims: list(globalDim, rank)?,
            strides_bytes: list(globalStrides, rank - 1)?,
            element_strides: list(elementStrides, rank)?,
            interleave,
            swizzle,
            l2_promotion: l2Promotion,
            fill: oobFill,
        };
        let piece = Piece::Columns {
            lower: list(pixelBoxLowerCorner, corners)?,
            upper: list(pixelBoxUpperCorner, corners)?,
            channels: channelsPerPixel,
            pixels: pixelsPerColumn,
        };
        map.write(encode(&tensor, &piece)?);
        Ok(())
    }
    fn cuTensorMapReplaceAddress(tensorMap: *mut CUtensorMap, globalAddress: *mut c_void) {
        check_device(process()?)?;
        let map = place(tensorMap)?;
        map.write(replace_address(get(map.cast_const())?, address(globalAddress))?);
        Ok(())
    }
}
