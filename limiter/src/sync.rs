//! Atomics, under one name so that a model checker can take their place.

#[cfg(loom)]
mod modelled;

#[cfg(loom)]
pub(crate) use self::modelled::{AtomicBool, AtomicU32, AtomicU64, Ordering, yield_now};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;
