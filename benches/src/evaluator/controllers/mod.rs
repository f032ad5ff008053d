//! Controllers to compare with: baselines, written from descriptions of what others do, not from their source.

mod native;

pub use native::Native;
