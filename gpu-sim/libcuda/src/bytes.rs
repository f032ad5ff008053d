//! Moves bytes: the one place where the driver touches memory that a program named by address.
//!
//! Calls come from effects, in the order in which the device completed the commands (see [`gpu_sim::client`]), and from copies
//! that read pageable memory before they return.
#![expect(unsafe_code, reason = "copies and fills memory by address")]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use gpu_sim::client::Machine;

use crate::address::Place;

/// Pointer to `bytes` at `offset` from a place; `None` beyond the end of a device's memory.
fn pointer(machine: &Machine, place: Place, offset: u64, bytes: u64) -> Option<*mut u8> {
    match place {
        Place::Vram {
            device,
            offset: start,
        } => machine
            .vram(device, start.checked_add(offset)?, bytes)
            .map(|start| start.as_ptr()),
        Place::Host { address, .. } => {
            let address = usize::try_from(address.checked_add(offset)?).ok()?;
            Some(std::ptr::with_exposed_provenance_mut(address))
        }
    }
}

/// Copies `bytes`; the two stretches may overlap.
pub(crate) fn copy(machine: &Machine, to: (Place, u64), from: (Place, u64), bytes: u64) {
    let pointers = pointer(machine, to.0, to.1, bytes).zip(pointer(machine, from.0, from.1, bytes));
    let (Some((to, from)), Ok(bytes)) = (pointers, usize::try_from(bytes)) else {
        return;
    };
    // SAFETY: device memory: the address book found the block whole, and it is freed only after pending work (ours). Host
    // memory: the caller's contract with the driver, until the copy has completed.
    unsafe { std::ptr::copy(from, to, bytes) };
}

/// Writes `value` over and over, `count` times.
pub(crate) fn fill(machine: &Machine, to: (Place, u64), value: &[u8], count: u64) {
    let element = u64::try_from(value.len()).unwrap_or(u64::MAX);
    let Some(bytes) = element.checked_mul(count) else {
        return;
    };
    let (Some(to), Ok(length)) = (pointer(machine, to.0, to.1, bytes), usize::try_from(bytes))
    else {
        return;
    };
    // SAFETY: as in `copy`.
    let target = unsafe { std::slice::from_raw_parts_mut(to, length) };
    target
        .chunks_exact_mut(value.len().max(1))
        .for_each(|chunk| chunk.copy_from_slice(value));
}

/// How a word is changed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduce {
    Add,
    And,
    Or,
}

/// Changes a word of 4 or 8 bytes at once, whoever else changes it, by a value of so many bytes.
pub(crate) fn reduce(machine: &Machine, to: Place, how: Reduce, (value, bytes): (u64, u64)) {
    let Some(to) = pointer(machine, to, 0, bytes) else {
        return;
    };
    if bytes == 8 {
        // SAFETY: as in `copy`; who planned it has seen that the address is a multiple of the word.
        let word = unsafe { AtomicU64::from_ptr(to.cast()) };
        match how {
            Reduce::Add => word.fetch_add(value, SeqCst),
            Reduce::And => word.fetch_and(value, SeqCst),
            Reduce::Or => word.fetch_or(value, SeqCst),
        };
        return;
    }
    // SAFETY: as above.
    let word = unsafe { AtomicU32::from_ptr(to.cast()) };
    let [a, b, c, d, ..] = value.to_le_bytes();
    let value = u32::from_le_bytes([a, b, c, d]);
    match how {
        Reduce::Add => word.fetch_add(value, SeqCst),
        Reduce::And => word.fetch_and(value, SeqCst),
        Reduce::Or => word.fetch_or(value, SeqCst),
    };
}

/// Reads up to eight bytes as a number.
pub(crate) fn read(machine: &Machine, from: Place, bytes: u64) -> u64 {
    let mut value = [0u8; 8];
    let (Some(from), Ok(length)) = (
        pointer(machine, from, 0, bytes),
        usize::try_from(bytes.min(8)),
    ) else {
        return 0;
    };
    // SAFETY: as in `copy`; `length` is at most the size of `value`.
    unsafe { std::ptr::copy_nonoverlapping(from, value.as_mut_ptr(), length) };
    u64::from_le_bytes(value)
}
