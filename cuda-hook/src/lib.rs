//! The preload that stands between a CUDA program and the driver.
//!
//! One call, for example `cuMemAlloc_v2`: the row in [`table`] → the door in [`entry`] → the hook in [`hooks`] → the quota in
//! `limiter` → the real driver in [`driver`] → back, with the driver's own status. How a caller gets to the row: [`lookup`].
//! What the process is and has: [`runtime`]. Nothing runs when this library is loaded.
//!
//! The same source is built twice: as the preload, and (`cfg(second_door)`, package `cuda-hook-second-door`) as the
//! `libcuda.so.1` that is mounted in the driver's place.
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

mod charge;
mod completion;
mod config_file;
mod driver;
mod elf;
mod ends;
mod entry;
mod fault;
mod hooks;
mod in_hand;
mod jump;
mod late;
mod live;
mod log;
mod lookup;
mod newer;
#[cfg(test)]
mod not_yet;
mod pace;
mod quiet;
mod refusal;
mod reservation;
mod runtime;
#[cfg(second_door)]
mod second_door;
mod table;
mod thread;
mod throttle;
mod timeline;
