//! Managed memory: advice, prefetching, and what is known of both. Batches do what each of their members does.

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

use super::{list, put, wanted, wide};
use crate::door::{Answer, NullStream, exports};
use crate::managed::{self, Location};
use crate::process::{State, process};
use crate::stream;

fn location(location: &CUmemLocation) -> Answer<Location> {
    match location.type_ {
        CU_MEM_LOCATION_TYPE_DEVICE => device(location.id),
        CU_MEM_LOCATION_TYPE_HOST..=CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT => Ok(CU_DEVICE_CPU),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

fn device(device: CUdevice) -> Answer<Location> {
    managed::location(process()?.devices.len(), device)
}

/// Does something in stream order that takes no time.
fn on_stream(
    (handle, null): (CUstream, NullStream),
    act: impl FnOnce(&mut State) -> Answer,
) -> Answer {
    let process = process()?;
    let mut state = process.lock();
    stream::resolve(process, &mut state, handle, null)?;
    act(&mut state)
}

fn prefetch(
    start: CUdeviceptr,
    bytes: usize,
    to: Answer<Location>,
    stream: (CUstream, NullStream),
) -> Answer {
    let to = to?;
    on_stream(stream, |state| {
        managed::prefetch(state, (start, wide(bytes)), to)
    })
}

fn advise(start: CUdeviceptr, bytes: usize, advice: CUmem_advise, at: Answer<Location>) -> Answer {
    // What is said of no place does not mind which one it names.
    let at = match advice {
        CU_MEM_ADVISE_SET_READ_MOSTLY
        | CU_MEM_ADVISE_UNSET_READ_MOSTLY
        | CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION => at.unwrap_or(CU_DEVICE_CPU),
        _ => at?,
    };
    let process = process()?;
    managed::advise(
        process,
        &mut process.lock(),
        (start, wide(bytes)),
        advice,
        at,
    )
}

/// Writes words as far as there is room for; the rest of the room says that there is nothing.
///
/// # Safety
/// `to` is null or has room for `bytes`.
unsafe fn put_words(to: *mut c_void, bytes: usize, words: &[i32]) -> Answer {
    wanted(to)?;
    if bytes == 0 || !bytes.is_multiple_of(size_of::<i32>()) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    for index in 0..bytes / size_of::<i32>() {
        let word = words.get(index).copied().unwrap_or(CU_DEVICE_INVALID);
        // SAFETY: within the room that there is (caller).
        unsafe { to.cast::<i32>().wrapping_add(index).write_unaligned(word) };
    }
    Ok(())
}

/// Prefetches each stretch to the place that holds from its index on.
///
/// # Safety
/// Lists are as long as they are said to be.
unsafe fn prefetch_batch(
    (starts, sizes, count): (*mut CUdeviceptr, *mut usize, usize),
    (places, from, place_count): (*mut CUmemLocation, *mut usize, usize),
    flags: u64,
    stream: (CUstream, NullStream),
) -> Answer {
    // SAFETY: the caller's promise, for each list.
    unsafe {
        let (starts, sizes) = (list(starts, count)?, list(sizes, count)?);
        let (places, from) = (list(places, place_count)?, list(from, place_count)?);
        if flags != 0 || count == 0 || from.first() != Some(&0) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        for (index, (start, bytes)) in starts.iter().zip(sizes).enumerate() {
            let at = from.partition_point(|from| *from <= index).checked_sub(1);
            let place = at.and_then(|at| places.get(at));
            let to = location(place.ok_or(CUDA_ERROR_INVALID_VALUE)?);
            prefetch(*start, *bytes, to, stream)?;
        }
        Ok(())
    }
}

exports! {
    fn cuMemPrefetchAsync / cuMemPrefetchAsync_ptsz |null| (devPtr: CUdeviceptr, count: usize, dstDevice: CUdevice, hStream: CUstream) {
        prefetch(devPtr, count, device(dstDevice), (hStream, null))
    }
    fn cuMemPrefetchAsync_v2 / cuMemPrefetchAsync_v2_ptsz |null| (devPtr: CUdeviceptr, count: usize, location: CUmemLocation, flags: u32, hStream: CUstream) {
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        prefetch(devPtr, count, self::location(&location), (hStream, null))
    }
    fn cuMemPrefetchBatchAsync / cuMemPrefetchBatchAsync_ptsz |null| (dptrs: *mut CUdeviceptr, sizes: *mut usize, count: usize, prefetchLocs: *mut CUmemLocation, prefetchLocIdxs: *mut usize, numPrefetchLocs: usize, flags: u64, hStream: CUstream) {
        process()?;
        prefetch_batch((dptrs, sizes, count), (prefetchLocs, prefetchLocIdxs, numPrefetchLocs), flags, (hStream, null))
    }
    fn cuMemDiscardBatchAsync / cuMemDiscardBatchAsync_ptsz |null| (dptrs: *mut CUdeviceptr, sizes: *mut usize, count: usize, flags: u64, hStream: CUstream) {
        process()?;
        let (starts, sizes) = (list(dptrs, count)?, list(sizes, count)?);
        if flags != 0 || count == 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        // What is discarded may still be read; it is whatever it was.
        on_stream((hStream, null), |state| {
            let mut stretches = starts.iter().zip(sizes);
            stretches.try_for_each(|(start, bytes)| managed::check(state, *start, wide(*bytes)).map(drop))
        })
    }
    fn cuMemDiscardAndPrefetchBatchAsync / cuMemDiscardAndPrefetchBatchAsync_ptsz |null| (dptrs: *mut CUdeviceptr, sizes: *mut usize, count: usize, prefetchLocs: *mut CUmemLocation, prefetchLocIdxs: *mut usize, numPrefetchLocs: usize, flags: u64, hStream: CUstream) {
        process()?;
        prefetch_batch((dptrs, sizes, count), (prefetchLocs, prefetchLocIdxs, numPrefetchLocs), flags, (hStream, null))
    }
    fn cuMemAdvise(devPtr: CUdeviceptr, count: usize, advice: CUmem_advise, device: CUdevice) {
        advise(devPtr, count, advice, self::device(device))
    }
    fn cuMemAdvise_v2(devPtr: CUdeviceptr, count: usize, advice: CUmem_advise, location: CUmemLocation) {
        advise(devPtr, count, advice, self::location(&location))
    }
    fn cuMemRangeGetAttribute(data: *mut c_void, dataSize: usize, attribute: CUmem_range_attribute, devPtr: CUdeviceptr, count: usize) {
        let words = managed::attribute(&process()?.lock(), (devPtr, wide(count)), attribute)?;
        put_words(data, dataSize, &words)
    }
    fn cuMemRangeGetAttributes(data: *mut *mut c_void, dataSizes: *mut usize, attributes: *mut CUmem_range_attribute, numAttributes: usize, devPtr: CUdeviceptr, count: usize) {
        let process = process()?;
        let (data, sizes) = (list(data, numAttributes)?, list(dataSizes, numAttributes)?);
        let attributes = list(attributes, numAttributes)?;
        if numAttributes == 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        for ((to, bytes), attribute) in data.iter().zip(sizes).zip(attributes) {
            let words = managed::attribute(&process.lock(), (devPtr, wide(count)), *attribute)?;
            put_words(*to, *bytes, &words)?;
        }
        Ok(())
    }
    fn cuMemGetLocationInfo(ptr: CUdeviceptr, size: usize, summaryGranularity: usize, samplingGranularity: usize, location_out: *mut CUmemLocation) {
        let process = process()?;
        wanted(location_out)?;
        if !(1..=size).contains(&summaryGranularity) || samplingGranularity > summaryGranularity {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let location = managed::residency(process, ptr, wide(size))?.described()?;
        for at in 0..size.div_ceil(summaryGranularity) {
            put(location_out.add(at), location)?;
        }
        Ok(())
    }
    fn cuStreamAttachMemAsync / cuStreamAttachMemAsync_ptsz |null| (hStream: CUstream, dptr: CUdeviceptr, length: usize, _flags: u32) {
        on_stream((hStream, null), |state| managed::check(state, dptr, wide(length.max(1))).map(drop))
    }
}
